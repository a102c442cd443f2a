"""Runs the program of a Core ML package in PyTorch, operator by operator. Core ML itself runs on Apple's systems only.

    python scripts/coreml.py PACKAGE.mlpackage PREDICTIONS TOLERANCE [EVERY]     coremltools, torch, pillow

coremltools loads the specification, its reader of weight files the weights, and its own MIL frontend checks each operator's
types. PREDICTIONS is what `offshoot predict MODEL PICTURES.. --logits --json` printed. Every EVERYth of the pictures is cut
here as the package's metadata says and given to the program as the bytes that Core ML would give it. The logits must be the
printed ones within TOLERANCE of the largest. Prints one JSON line; an assertion that fails is the message.
"""

import json
import os
import sys

import coremltools
import numpy as np
import torch
from coremltools.converters.mil.frontend.milproto.load import load
from interop import fit, opened, predictions
from torch.nn import functional as F

TYPES = {"fp16": torch.float16, "fp32": torch.float32}


def pad_of(op):
    """MIL's padding (top, bottom, left, right) as PyTorch's `pad` takes it."""
    assert op.pad_type.val == "custom"
    top, bottom, left, right = op.pad.val
    return int(left), int(right), int(top), int(bottom)


def ints(var):
    return [int(n) for n in var.val]


def conv(op, x, weight, bias):
    x = F.pad(x, pad_of(op))
    return F.conv2d(x, weight, bias, ints(op.strides), 0, ints(op.dilations), int(op.groups.val))


def max_pool(op, x):
    x = F.pad(x, pad_of(op), value=float("-inf"))
    return F.max_pool2d(x, ints(op.kernel_sizes), ints(op.strides))


def avg_pool(op, x):
    windows = ints(op.kernel_sizes), ints(op.strides)
    mean = F.avg_pool2d(F.pad(x, pad_of(op)), *windows)
    if not op.exclude_padding_from_average.val:
        return mean
    return mean / F.avg_pool2d(F.pad(torch.ones_like(x), pad_of(op)), *windows)


def batch_norm(op, x, value):
    mean, variance, gamma, beta = (value(v) for v in (op.mean, op.variance, op.gamma, op.beta))
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, float(op.epsilon.val))


def lstm(op, x, value):
    """The documentation of coremltools' `lstm` (iOS 15), step by step: gates in the order i, f, o, z."""
    assert (op.recurrent_activation.val, op.cell_activation.val, op.activation.val) == ("sigmoid", "tanh", "tanh")
    assert op.output_sequence.val and op.peephole is None and op.clip is None and x.dtype == torch.float32
    both = op.direction.val == "bidirectional"
    ways = [(op.weight_ih, op.weight_hh, op.bias, op.direction.val == "reverse")]
    ways += [(op.weight_ih_back, op.weight_hh_back, op.bias_back, True)] if both else []
    starts = [value(v).chunk(len(ways), 1) for v in (op.initial_h, op.initial_c)]
    every, last = [], []
    for (w, r, b, reverse), h, c in zip(ways, *starts, strict=True):
        w, r, b = value(w), value(r), value(b)
        rows = []
        for step_x in x.flip(0) if reverse else x:
            i, f, o, z = (step_x @ w.T + h @ r.T + b).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * z.tanh()
            h = o.sigmoid() * c.tanh()
            rows.append(h)
        every.append(torch.stack(rows[::-1] if reverse else rows))
        last.append((h, c))
    return torch.cat(every, 2), *(torch.cat(states, 1) for states in zip(*last))


def constant(array):
    return torch.from_numpy(np.array(array))


def step(op, value):
    """What an operator computes. `value` gives the tensor of one of its inputs."""
    kind = op.op_type
    if kind == "constexpr_affine_dequantize":
        levels, scale = constant(op.quantized_data.val), value(op.scale)
        assert op.axis.val == 0 and not op.zero_point.val.any(), "not symmetric by output channel"
        return levels.to(scale.dtype) * scale.reshape(-1, *[1] * (levels.ndim - 1))
    if kind == "concat":
        assert not op.interleave.val
        return torch.cat([value(v) for v in op.inputs["values"]], int(op.axis.val))
    if kind == "select":
        return torch.where(value(op.cond), value(op.a), value(op.b))
    x = value(op.inputs["x"])
    if kind == "lstm":
        return lstm(op, x, value)
    if kind == "layer_norm":
        assert ints(op.axes) == [-1]
        return F.layer_norm(x, x.shape[-1:], value(op.gamma), value(op.beta), float(op.epsilon.val))
    if kind == "slice_by_index":
        return x[tuple(slice(int(b), int(e)) for b, e in zip(op.begin.val, op.end.val))]
    if kind == "gelu":
        assert op.mode.val == "EXACT"
        return F.gelu(x)
    if kind == "not_equal":
        return x != value(op.y)
    if kind in ("add", "sub", "mul", "maximum", "minimum", "matmul"):
        y = value(op.y)
        if kind == "matmul":
            x, y = (v.mT if t.val else v for v, t in ((x, op.transpose_x), (y, op.transpose_y)))
        return getattr(torch, kind)(x, y)
    if kind == "clip":
        return x.clamp(float(op.alpha.val), float(op.beta.val))
    if kind in ("conv", "linear"):
        weight, bias = value(op.weight), value(op.bias) if op.bias is not None else None
        return conv(op, x, weight, bias) if kind == "conv" else F.linear(x, weight, bias)
    if kind == "batch_norm":
        return batch_norm(op, x, value)
    simple = {
        "cast": lambda: x.to(TYPES[op.dtype.val]),
        "identity": lambda: x,
        "relu": lambda: x.relu(),
        "relu6": lambda: F.relu6(x),
        "sigmoid": lambda: x.sigmoid(),
        "tanh": lambda: x.tanh(),
        "sigmoid_hard": lambda: (x * float(op.alpha.val) + float(op.beta.val)).clamp(0, 1),
        "erf": lambda: x.erf(),
        "transpose": lambda: x.permute(ints(op.perm)),
        "tile": lambda: x.tile(ints(op.reps)),
        "softmax": lambda: x.softmax(int(op.axis.val)),
        "max_pool": lambda: max_pool(op, x),
        "avg_pool": lambda: avg_pool(op, x),
        "reduce_max": lambda: x.amax(ints(op.axes), keepdim=bool(op.keep_dims.val)),
        "reduce_mean": lambda: x.mean(ints(op.axes), keepdim=bool(op.keep_dims.val)),
        "reduce_min": lambda: x.amin(ints(op.axes), keepdim=bool(op.keep_dims.val)),
        "reduce_sum": lambda: x.sum(ints(op.axes), keepdim=bool(op.keep_dims.val)),
        "reshape": lambda: x.reshape(ints(op.shape)),
    }
    return simple[kind]()


def run(function, image):
    """The logits, the label and the probabilities for a picture [1, 3, height, width] of bytes."""
    computed = {"input": image}

    def value(var):
        if var.name not in computed:
            computed[var.name] = constant(var.val)
        return computed[var.name]

    for op in function.operations:
        if op.op_type == "const":
            continue
        if op.op_type == "classify":
            probabilities = value(op.probabilities)[0]
            label = op.classes.val[int(probabilities.argmax())]
            continue
        results = step(op, value)
        for var, result in zip(op.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            computed[var.name] = result
            assert tuple(result.shape) == tuple(var.shape), (op.name, result.shape, var.shape)
    return computed["logits"], label, probabilities


def check_description(spec):
    """What an app sees."""
    description = spec.description
    (entry,) = description.input
    image = entry.type.imageType
    assert entry.name == "input" and image.colorSpace == image.RGB
    assert [o.name for o in description.output] == ["classLabel", "classLabel_probs", "logits"]
    assert description.predictedFeatureName == "classLabel"
    assert description.predictedProbabilitiesName == "classLabel_probs"
    metadata = json.loads(description.metadata.userDefined["offshoot"])
    size = metadata["preprocessing"]["size"]
    assert (image.width, image.height) == (size, size)
    return metadata


def check(package, printed, tolerance, every="1"):
    model = coremltools.models.MLModel(package, skip_model_load=True)
    spec = model.get_spec()
    metadata = check_description(spec)
    program = load(spec, spec.specificationVersion, model.weights_dir)
    function = program.functions["main"]
    paths, wanted = predictions(printed)
    paths, wanted = paths[:: int(every)], wanted[:: int(every)]
    found = []
    with torch.no_grad():
        for path in paths:
            pixels = np.asarray(fit(opened(path, metadata["preprocessing"]), metadata["preprocessing"]), np.float32)
            logits, label, probabilities = run(function, constant(pixels.transpose(2, 0, 1))[None])
            assert label == metadata["classes"][int(logits.argmax())]
            # A network that ends in a sigmoid gives probabilities itself.
            given = any(op.op_type == "classify" and op.probabilities.name == "logits" for op in function.operations)
            assert torch.allclose(probabilities, logits[0] if given else (logits[0] / metadata.get("temperature", 1)).softmax(0), atol=1e-6)
            found.append(logits[0].float().numpy())
    found = np.stack(found)
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert difference < float(tolerance), f"differs by {difference} of the largest logit"
    kinds = [op.op_type for op in function.operations if op.op_type != "const"]
    return {
        "pictures": len(wanted),
        "top1_equal": int((found.argmax(1) == wanted.argmax(1)).sum()),
        "difference": difference,
        "operators": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "bytes": sum(os.path.getsize(os.path.join(f, n)) for f, _, names in os.walk(package) for n in names),
    }


if __name__ == "__main__":
    print(json.dumps(check(*sys.argv[1:])))
