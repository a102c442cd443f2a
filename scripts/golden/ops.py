#!/usr/bin/env python3
"""Golden cases of every operator and of two small networks, computed by PyTorch in double precision. What PyTorch has no operator
for (a GRU that resets before its product, rounding to the nearest pixel) is computed of others, and compared with ONNX Runtime.

    python scripts/golden/ops.py            # writes {ops,networks,modern,functions,composites}.{json,safetensors} in crates/offshoot-conformance/golden

An operator's case holds its inputs (exact in half precision), its outputs, the coefficients of a random linear
functional of the first output, and the gradients of that functional. A network's case holds its state dict, a batch,
and what five steps of SGD with momentum give: the losses, the first step's gradients, the running statistics after it.
"""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parents[2] / "crates/offshoot-conformance/golden"
INF = float("inf")
torch.manual_seed(20)
torch.set_default_dtype(torch.float64)

cases, tensors = [], {}


def grid(*shape, step=1 / 64, limit=127):
    """Random multiples of `step`: exact in half precision, with a chance of ties."""
    return torch.randint(-limit, limit + 1, shape) * step


def positive(*shape):
    return torch.randint(32, 128, shape) / 64


def store(name, tensor, exact=False):
    if tensor.dtype == torch.int64:
        kept = tensor
    elif exact:
        kept = tensor.half()
        assert torch.equal(kept.double(), tensor), name
    else:
        kept = tensor.float()
    tensors[name] = kept.detach().contiguous().clone()


def case(name, op, attributes, inputs, function, constant=()):
    """Runs `function(*inputs)`. Inputs in `constant` and integers have no gradient."""
    leaves = {k: v.clone() for k, v in inputs.items()}
    wanted = [k for k, v in leaves.items() if v.is_floating_point() and k not in constant]
    for k in wanted:
        leaves[k].requires_grad_()
    outputs = function(*leaves.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    functional = grid(*outputs[0].shape)
    gradients = torch.autograd.grad((outputs[0] * functional).sum(), [leaves[k] for k in wanted]) if wanted else []
    for k, v in inputs.items():
        store(f"{name}/in/{k}", v, exact=True)
    for i, y in enumerate(outputs):
        store(f"{name}/out/{i}", y)
    store(f"{name}/functional", functional, exact=True)
    for k, g in zip(wanted, gradients):
        store(f"{name}/grad/{k}", g)
    cases.append({"name": name, "op": op, "attributes": attributes, "inputs": list(inputs), "gradients": wanted})


def pad(x, pads, value=0.0):
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value)


def conv(name, x, k, kernel, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1, bias=False):
    inputs = {"x": grid(*x), "weight": grid(k, x[1] // group, *kernel)}
    if bias:
        inputs["bias"] = grid(k)
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    case(name, "Conv", attributes, inputs, lambda x, w, b=None: F.conv2d(pad(x, pads), w, b, strides, 0, dilations, group))


def convolutions():
    same = (1, 1, 1, 1)
    conv("conv_3x3", (2, 5, 6, 5), 7, (3, 3), pads=same, bias=True)
    conv("conv_3x3_s2", (2, 2, 7, 6), 17, (3, 3), strides=(2, 2), pads=same)
    conv("conv_1x1", (2, 13, 3, 3), 17, (1, 1), bias=True)
    conv("conv_1x1_s2", (2, 6, 5, 5), 9, (1, 1), strides=(2, 2))
    conv("conv_1x1_batch_1", (1, 20, 1, 1), 11, (1, 1), bias=True)
    conv("conv_7x7_s2", (1, 2, 13, 11), 5, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3))
    conv("conv_same_asymmetric", (2, 3, 6, 7), 9, (3, 3), strides=(2, 2), pads=(0, 1, 1, 1))
    conv("conv_5x3_no_padding", (1, 4, 9, 8), 6, (5, 3), strides=(1, 2), bias=True)
    conv("conv_dilated", (1, 3, 8, 9), 5, (3, 3), pads=(2, 3, 2, 3), dilations=(2, 3))
    conv("conv_dilated_s2", (1, 3, 11, 10), 5, (3, 2), strides=(2, 3), pads=(1, 0, 2, 1), dilations=(3, 2), bias=True)
    conv("conv_grouped", (2, 6, 4, 3), 9, (3, 3), pads=same, group=3, bias=True)
    conv("conv_grouped_wide", (1, 18, 3, 3), 10, (3, 3), strides=(2, 1), pads=same, group=2)
    conv("conv_depthwise_3x3", (2, 17, 4, 3), 17, (3, 3), pads=same, group=17)
    conv("conv_depthwise_3x3_s2", (1, 9, 7, 6), 9, (3, 3), strides=(2, 2), pads=(0, 0, 1, 1), group=9, bias=True)
    conv("conv_depthwise_5x5", (1, 5, 8, 7), 5, (5, 5), strides=(2, 2), pads=(1, 2, 2, 2), group=5)
    conv("conv_depthwise_dilated", (1, 5, 6, 7), 5, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2), group=5)
    conv("conv_depthwise_doubled", (2, 5, 4, 3), 10, (3, 3), pads=same, group=5)
    conv("conv_window_is_input", (2, 6, 3, 4), 5, (3, 4))
    conv("conv_stride_skips", (1, 4, 8, 8), 6, (2, 2), strides=(3, 4))


def gemms():
    for trans_a in (False, True):
        for trans_b in (False, True):
            for bias in (False, True):
                inputs = {"a": grid(*((9, 5) if trans_a else (5, 9))), "b": grid(*((10, 9) if trans_b else (9, 10)))}
                if bias:
                    inputs["c"] = grid(10)

                def function(a, b, c=None, ta=trans_a, tb=trans_b):
                    y = (a.T if ta else a) @ (b.T if tb else b)
                    return y if c is None else y + c

                name = f"gemm_{'t' if trans_a else 'n'}{'t' if trans_b else 'n'}{'_bias' if bias else ''}"
                case(name, "Gemm", {"trans_a": trans_a, "trans_b": trans_b}, inputs, function)
    inputs = {"a": grid(1, 37), "b": grid(17, 37), "c": grid(17)}
    case("gemm_batch_1", "Gemm", {"trans_a": False, "trans_b": True}, inputs, F.linear)


def norms():
    def inputs(*shape):
        c = shape[1]
        vectors = {"weight": grid(c), "bias": grid(c), "mean": grid(c), "var": positive(c)}
        return {"x": grid(*shape), **vectors}

    running = ("mean", "var")
    attributes = {"epsilon": 1e-3, "momentum": 0.25}

    def inference(x, w, b, m, v):
        return F.batch_norm(x, m, v, w, b, False, 0.25, 1e-3)

    def training(x, w, b, m, v):
        m, v = m.clone(), v.clone()
        y = F.batch_norm(x, m, v, w, b, True, 0.25, 1e-3)
        return y, m, v

    for name, shape in [("odd", (2, 9, 3, 3)), ("batch_1", (1, 9, 4, 3)), ("flat", (6, 9))]:
        case(f"batch_norm_frozen_{name}", "FrozenBatchNorm", attributes, inputs(*shape), inference, running)
        case(f"batch_norm_training_{name}", "TrainingBatchNorm", attributes, inputs(*shape), training, running)
        case(f"batch_norm_{name}", "BatchNormalization", attributes, inputs(*shape), inference, ("x", "weight", "bias", *running))


def elementwise():
    case("relu", "Relu", {}, {"x": grid(2, 5, 3, 4, step=1 / 4, limit=4)}, F.relu)
    case("relu_flat", "Relu", {}, {"x": grid(3, 21, step=1 / 4, limit=4)}, F.relu)
    for name, low, high in [("relu6", 0.0, 6.0), ("narrow", -0.5, 0.75), ("no_maximum", -1.0, INF), ("no_minimum", -INF, 0.5)]:
        attributes = {"min": None if low == -INF else low, "max": None if high == INF else high}
        step = 1.0 if high == 6.0 else 0.25
        case(f"clip_{name}", "Clip", attributes, {"x": grid(2, 5, 3, 3, step=step, limit=8)}, lambda x: F.hardtanh(x, low, high))
    case("sigmoid", "Sigmoid", {}, {"x": grid(2, 5, 3, 4, step=1 / 4, limit=127)}, torch.sigmoid)
    for op, function in [("Add", torch.add), ("Mul", torch.mul)]:
        for name, a, b in [
            ("same", (2, 5, 3, 3), (2, 5, 3, 3)),
            ("channel_gate", (2, 9, 2, 3), (2, 9, 1, 1)),
            ("per_channel", (9, 1, 1), (2, 9, 3, 2)),
            ("pixel_gate", (2, 5, 2, 3), (2, 1, 2, 3)),
            ("scalar", (2, 3, 2, 3), ()),
            ("both_broadcast", (2, 1, 4, 1), (1, 5, 1, 3)),
            ("row", (4, 7), (7,)),
        ]:
            case(f"{op.lower()}_{name}", op, {}, {"a": grid(*a), "b": grid(*b)}, function)


def pools():
    def attributes(kernel, strides, pads, ceil=False, **more):
        return {"kernel": kernel, "strides": strides, "pads": pads, "ceil_mode": ceil, **more}

    for name, shape, kernel, strides, p, ceil in [
        ("3x3_s2", (2, 3, 7, 6), 3, 2, 1, False),
        ("2x2", (1, 9, 5, 6), 2, 2, 0, False),
        ("ceil", (1, 3, 8, 7), 3, 2, 0, True),
        ("ceil_padded", (1, 2, 6, 9), 3, 3, 1, True),
        ("overlap", (1, 5, 5, 4), 3, 1, 1, False),
    ]:
        a = attributes([kernel] * 2, [strides] * 2, [p] * 4, ceil)
        x = grid(*shape, step=1 / 4, limit=6)
        case(f"max_pool_{name}", "MaxPool", a, {"x": x}, lambda x: F.max_pool2d(x, kernel, strides, p, 1, ceil))
        for include in (False, True):
            b = attributes([kernel] * 2, [strides] * 2, [p] * 4, ceil, count_include_pad=include)
            suffix = "_include_pad" if include else ""
            if name in ("2x2", "overlap") and include:
                continue
            case(f"average_pool_{name}{suffix}", "AveragePool", b, {"x": grid(*shape)},
                 lambda x: F.avg_pool2d(x, kernel, strides, p, ceil, include))
    pads = (0, 1, 1, 2)
    a = attributes([2, 3], [2, 1], pads)
    case("max_pool_asymmetric", "MaxPool", a, {"x": grid(1, 3, 5, 6, step=1 / 4, limit=6)},
         lambda x: F.max_pool2d(pad(x, pads, -INF), (2, 3), (2, 1)))

    def exclude(x):
        weight = F.avg_pool2d(pad(torch.ones_like(x), pads), (2, 3), (2, 1))
        return F.avg_pool2d(pad(x, pads), (2, 3), (2, 1)) / weight

    case("average_pool_asymmetric", "AveragePool", {**a, "count_include_pad": False}, {"x": grid(1, 3, 5, 6)}, exclude)
    case("average_pool_asymmetric_include_pad", "AveragePool", {**a, "count_include_pad": True}, {"x": grid(1, 3, 5, 6)},
         lambda x: F.avg_pool2d(pad(x, pads), (2, 3), (2, 1)))
    for name, shape in [("odd", (2, 9, 5, 3)), ("batch_1", (1, 9, 7, 7)), ("one_pixel", (3, 5, 1, 1))]:
        case(f"global_average_pool_{name}", "GlobalAveragePool", {}, {"x": grid(*shape)}, lambda x: F.adaptive_avg_pool2d(x, 1))
    for axis in range(5):
        case(f"flatten_{axis}", "Flatten", {"axis": axis}, {"x": grid(2, 3, 2, 3)}, lambda x: x.reshape(x.shape[:axis].numel(), -1))


def losses():
    for name, shape, axis in [("rows", (5, 11), 1), ("channels", (2, 5, 3, 4), 1), ("width", (2, 3, 2, 9), 3)]:
        case(f"softmax_{name}", "Softmax", {"axis": axis}, {"x": grid(*shape, step=1 / 8)}, lambda x: F.softmax(x, axis))
    case("softmax_large", "Softmax", {"axis": 1}, {"x": grid(3, 10, step=1.0)}, lambda x: F.softmax(x, 1))
    for smoothing in (0.0, 0.1):
        for weighted in (False, True):
            for n, c in ((6, 9), (1, 19)):
                inputs = {"logits": grid(n, c, step=1 / 16), "labels": torch.randint(0, c, (n,))}
                if weighted:
                    inputs["weights"] = positive(c)

                def function(x, labels, weights=None):
                    return F.cross_entropy(x, labels, weights, label_smoothing=smoothing)

                name = f"cross_entropy_{n}x{c}{'_smooth' if smoothing else ''}{'_weighted' if weighted else ''}"
                case(name, "SoftmaxCrossEntropyLoss", {"label_smoothing": smoothing}, inputs, function, ("weights",))


class Basic(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.downsample = None
        if stride != 1 or c != k:
            self.downsample = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A stem, two basic blocks (with and without a projection), a linear head."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.layer1 = Basic(5, 5, 1)
        self.layer2 = Basic(5, 9, 2)
        self.fc = nn.Linear(9, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer2(self.layer1(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Inverted(nn.Module):
    def __init__(self, c, k, stride, expand):
        super().__init__()
        self.stride, self.skip = stride, stride == 1 and c == k
        self.expand = nn.Conv2d(c, c * expand, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(c * expand, 1e-3, 0.01)
        self.depthwise = nn.Conv2d(c * expand, c * expand, 3, stride, groups=c * expand, bias=False)
        self.bn1 = nn.BatchNorm2d(c * expand, 1e-3, 0.01)
        self.project = nn.Conv2d(c * expand, k, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k, 1e-3, 0.01)

    def forward(self, x):
        y = F.relu6(self.bn0(self.expand(x)))
        y = pad(y, (1, 1, 1, 1) if self.stride == 1 else (0, 0, 1, 1))
        y = self.bn2(self.project(F.relu6(self.bn1(self.depthwise(y)))))
        return x + y if self.skip else y


class MobileNet(nn.Module):
    """A stem, two inverted residuals (TensorFlow's padding), an average pool, an MLP head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, bias=True)
        self.bn = nn.BatchNorm2d(6, 1e-3, 0.01)
        self.block0 = Inverted(6, 9, 2, 3)
        self.block1 = Inverted(9, 9, 1, 2)
        self.classifier = nn.Sequential(nn.Linear(9, 13), nn.ReLU(), nn.Dropout(0.0), nn.Linear(13, 4))

    def forward(self, x):
        x = F.relu6(self.bn(self.stem(pad(x, (0, 1, 1, 1)))))
        x = F.avg_pool2d(self.block1(self.block0(x)), 2, 2, 0, True)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def batch_norm_frozen(name):
    return ".bn" in f".{name}" or "downsample.1" in name


def network(name, module, classes, frozen, smoothing=0.0, weighted=False, source=None, lr=0.05):
    """Five steps. Batch norms of which all is frozen stay in inference mode."""
    start = module.state_dict()
    x, labels = grid(3, 3, 29, 23), torch.randint(0, classes, (3,))
    weights = positive(classes) if weighted else None
    if source is None:
        source = name
        for k, v in start.items():
            if v.is_floating_point():
                fan = max(1, v[0].numel()) if v.dim() > 1 else 4
                spread = 127 / 64 * min(1.0, 1.6 / fan**0.5)
                value = grid(*v.shape, step=2.0**-9, limit=int(spread * 2**9)) if v.dim() > 1 else grid(*v.shape, limit=24)
                if k.endswith("running_var"):
                    value = positive(*v.shape)
                elif v.dim() == 1 and k.endswith("weight"):
                    value = value + 1
                v.copy_(value)
                store(f"{name}/in/{k}", v, exact=True)
        store(f"{name}/x", x, exact=True)
        store(f"{name}/labels", labels)
    else:
        for k, v in start.items():
            if v.is_floating_point():
                v.copy_(tensors[f"{source}/in/{k}"].double())
        x, labels = tensors[f"{source}/x"].double(), tensors[f"{source}/labels"]
    if weighted:
        store(f"{name}/weights", weights, exact=True)
    if source == name:
        with torch.no_grad():
            store(f"{name}/inference", module.eval()(x))
    module.train()
    for path, m in module.named_modules():
        if isinstance(m, nn.BatchNorm2d) and frozen(f"{path}.weight"):
            m.eval()
    for k, p in module.named_parameters():
        p.requires_grad_(not frozen(k))
    trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr, 0.9)
    steps = []
    for step in range(5):
        optimizer.zero_grad()
        logits = module(x)
        loss = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
        loss.backward()
        steps.append(loss.item())
        if step == 0:
            store(f"{name}/logits", logits)
            for k, p in trained.items():
                store(f"{name}/grad/{k}", p.grad)
            for k, b in module.named_buffers():
                if b.is_floating_point() and not frozen(k.rsplit(".", 1)[0] + ".weight"):
                    store(f"{name}/state/{k}", b)
        optimizer.step()
    cases.append({
        "name": name, "source": source, "smoothing": smoothing, "weighted": weighted, "lr": lr, "losses": steps,
        "trained": list(trained), "frozen": [k for k, _ in module.named_parameters() if k not in trained],
    })


def write(stem):
    HERE.mkdir(parents=True, exist_ok=True)
    save_file(tensors, HERE / f"{stem}.safetensors")
    (HERE / f"{stem}.safetensors").chmod(0o644)
    lines = ",\n".join(json.dumps(c) for c in cases)
    (HERE / f"{stem}.json").write_text(f"[\n{lines}\n]\n")
    cases.clear()
    tensors.clear()


def modern():
    """What came with MobileNetV3, DenseNet, ConvNeXt and transformers."""
    wide = {"x": grid(2, 5, 3, 4, step=1 / 8, limit=48)}
    case("hard_sigmoid", "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, wide, F.hardsigmoid)
    case("hard_sigmoid_onnx", "HardSigmoid", {"alpha": 0.2, "beta": 0.5}, {"x": grid(3, 21, step=1 / 32)},
         lambda x: (0.2 * x + 0.5).clamp(0, 1))
    case("hard_swish", "HardSwish", {}, {"x": grid(2, 5, 3, 4, step=1 / 8, limit=47)}, F.hardswish)
    case("erf", "Erf", {}, {"x": grid(3, 21, step=1 / 32)}, torch.erf)
    case("gelu", "Gelu", {}, {"x": grid(2, 5, 3, 4, step=1 / 16)}, F.gelu)
    case("silu", "Silu", {}, {"x": grid(2, 5, 3, 4, step=1 / 8)}, F.silu)
    for name, a, b in [("batched", (2, 3, 5, 7), (2, 3, 7, 4)), ("single", (6, 9), (9, 5)), ("stack", (3, 4, 17), (3, 17, 18))]:
        case(f"matmul_{name}", "MatMul", {}, {"a": grid(*a), "b": grid(*b)}, torch.matmul)
    case("scores", "Scores", {}, {"q": grid(2, 2, 5, 9), "k": grid(2, 2, 6, 9)}, lambda q, k: q @ k.transpose(2, 3))
    for name, shape in [("rows", (5, 19)), ("tokens", (2, 3, 16)), ("pixels", (1, 2, 3, 33))]:
        c = shape[-1]
        inputs = {"x": grid(*shape), "weight": grid(c), "bias": grid(c)}
        case(f"layer_norm_{name}", "LayerNormalization", {"epsilon": 1e-3}, inputs,
             lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b, 1e-3))
    for perm in [(0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3), (0, 1, 3, 2), (3, 1, 0, 2)]:
        name = "".join(map(str, perm))
        case(f"transpose_{name}", "Transpose", {"perm": perm}, {"x": grid(2, 3, 4, 5)}, lambda x: x.permute(perm))
    case("transpose_021", "Transpose", {"perm": (0, 2, 1)}, {"x": grid(2, 3, 4)}, lambda x: x.transpose(1, 2))
    case("reshape", "Reshape", {"shape": (4, 3, 5)}, {"x": grid(2, 3, 2, 5)}, lambda x: x.reshape(4, 3, 5))
    for name, axis, shapes in [
        ("channels", 1, [(2, 3, 2, 3), (2, 17, 2, 3), (2, 1, 2, 3)]),
        ("height", 2, [(2, 3, 2, 3), (2, 3, 1, 3)]),
        ("tokens", 1, [(2, 1, 5), (2, 4, 5)]),
    ]:
        inputs = {f"x{i}": grid(*shape) for i, shape in enumerate(shapes)}
        case(f"concat_{name}", "Concat", {"axis": axis}, inputs, lambda *x: torch.cat(x, axis))
    for name, shape, axis, start, end in [
        ("channels", (2, 7, 2, 3), 1, 2, 6),
        ("width", (2, 3, 2, 5), 3, 0, 2),
        ("tokens", (2, 5, 6), 1, 0, 1),
        ("last", (3, 9), 1, 4, 9),
    ]:
        case(f"slice_{name}", "Slice", {"axis": axis, "start": start, "end": end}, {"x": grid(*shape)},
             lambda x: x.narrow(axis, start, end - start))
    case("expand", "Expand", {"shape": (3, 2, 5)}, {"x": grid(1, 2, 5)}, lambda x: x.expand(3, 2, 5))
    case("add_positions", "Add", {}, {"a": grid(3, 4, 5), "b": grid(1, 4, 5)}, torch.add)
    case("mul_gate_first", "Mul", {}, {"a": grid(2, 9, 1, 1), "b": grid(2, 9, 2, 3)}, torch.mul)


def functions():
    """Every function of one element and of two."""
    def wide():
        return {"x": grid(2, 5, 3, 4, step=1 / 16)}

    for name, function in [
        ("Relu", F.relu), ("Sigmoid", torch.sigmoid), ("HardSwish", F.hardswish), ("Erf", torch.erf), ("Gelu", F.gelu),
        ("Silu", F.silu), ("Tanh", torch.tanh), ("Exp", torch.exp), ("Neg", torch.neg), ("Abs", torch.abs),
        ("Softplus", F.softplus), ("Mish", F.mish),
    ]:
        case(f"function_{name}", name, {}, wide(), function)
    case("function_Clip", "Clip", {"min": -1.5, "max": 2.0}, wide(), lambda x: F.hardtanh(x, -1.5, 2.0))
    case("function_HardSigmoid", "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, wide(), F.hardsigmoid)
    case("function_LeakyRelu", "LeakyRelu", {"alpha": 0.125}, wide(), lambda x: F.leaky_relu(x, 0.125))
    case("function_Elu", "Elu", {"alpha": 1.5}, wide(), lambda x: F.elu(x, 1.5))
    case("function_Log", "Log", {}, {"x": positive(2, 5, 3, 4)}, torch.log)
    case("function_Reciprocal", "Reciprocal", {}, {"x": positive(2, 5, 3, 4)}, torch.reciprocal)
    case("function_Sqrt", "Sqrt", {}, {"x": positive(2, 5, 3, 4)}, torch.sqrt)
    for name, function in [
        ("Add", torch.add), ("Sub", torch.sub), ("Mul", torch.mul), ("Div", torch.div), ("Max", torch.maximum),
        ("Min", torch.minimum), ("Pow", torch.pow),
    ]:
        for shape, a, b in [
            ("same", (2, 5, 3, 4), (2, 5, 3, 4)), ("channels", (2, 5, 3, 4), (5, 1, 1)), ("number", (3, 7), (1,)),
            ("left", (5, 1, 1), (2, 5, 3, 4)), ("outer", (4, 1), (1, 3)), ("rows", (3, 4, 8), (8,)),
        ]:
            divides, powers = name == "Div", name == "Pow"
            operands = {
                "a": positive(*a) if powers else grid(*a, step=1 / 8, limit=12),
                "b": positive(*b) if divides else grid(*b, step=1 / 8, limit=12),
            }
            case(f"{name}_{shape}", name, {}, operands, function)
    for name, function in [
        ("ReduceSum", torch.sum), ("ReduceMean", torch.mean), ("ReduceMax", torch.amax), ("ReduceMin", torch.amin),
        ("ReduceL2", lambda x, axis, keepdim: torch.linalg.vector_norm(x, 2, axis, keepdim)),
    ]:
        for shape, axis in [((2, 5, 3, 4), 1), ((2, 5, 3, 4), 3), ((2, 5, 3, 4), 2), ((3, 4, 8), 1), ((3, 7), 1), ((9,), 0)]:
            # Steps of 1/2 give several largest elements.
            case(f"{name}_{len(shape)}d_{axis}", name, {"axis": axis}, {"x": grid(*shape, step=1 / 2, limit=5)},
                 lambda x: function(x, axis, keepdim=True))
    indices = torch.tensor([[3, 0, 3], [1, 6, 0]])
    case("Gather", "Gather", {}, {"table": grid(7, 5), "indices": indices}, lambda table, indices: table[indices])
    truth = torch.randint(0, 2, (4, 5)).double()
    case("Where", "Where", {}, {"condition": truth, "a": grid(4, 5), "b": grid(5)},
         lambda truth, a, b: torch.where(truth != 0, a, b), constant=("condition",))
    for a, b in [(False, True), (True, False), (True, True)]:
        turned = lambda x, turn: x.transpose(-2, -1) if turn else x
        shapes = {"a": turned(torch.empty(2, 5, 7), a).shape, "b": turned(torch.empty(2, 7, 19), b).shape}
        case(f"matmul_{'ta' if a else ''}{'tb' if b else ''}", "MatMul", {"trans_a": a, "trans_b": b},
             {name: grid(*shape) for name, shape in shapes.items()}, lambda x, y: turned(x, a) @ turned(y, b))
    case("Pow_of_zero", "Pow", {}, {"a": torch.zeros(4), "b": torch.tensor([0.0, 1.0, 2.0, 0.5])}, torch.pow)


def gru(x, weight, recurrence, bias, reverse=(False,)):
    """torch's GRU with operands as ONNX has them: gates in the order z, r, h."""
    hidden = recurrence.shape[2]
    order = torch.cat([torch.arange(hidden, 2 * hidden), torch.arange(hidden), torch.arange(2 * hidden, 3 * hidden)])
    parameters = []
    for d in range(weight.shape[0]):
        parameters += [weight[d][order], recurrence[d][order], bias[d, : 3 * hidden][order], bias[d, 3 * hidden :][order]]
    both = weight.shape[0] == 2
    x = x.flip(0) if reverse == (True,) else x
    y, h = torch._VF.gru(x, torch.zeros(weight.shape[0], x.shape[1], hidden), parameters, True, 1, 0.0, False, both, False)
    y = y.view(*y.shape[:2], weight.shape[0], hidden).transpose(1, 2)
    return (y.flip(0) if reverse == (True,) else y), h


def runtime(op, inputs, outputs, **attributes):
    """What ONNX Runtime gives for an operator in f32. Inputs of None are left out."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    given = {n: x for n, x in zip(names, inputs) if n}
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    infos = [helper.make_tensor_value_info(n, types[x.dtype], x.shape) for n, x in given.items()]
    results = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph([helper.make_node(op, names, results, **attributes)], "g", infos,
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in results])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(y).double() for y in session.run(None, given)]


def agree(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() < 1e-5, (a, b)


def gru_reset_before(x, weight, recurrence, bias, direction):
    """ONNX's GRU with linear_before_reset = 0."""
    hidden = recurrence.shape[2]
    outputs, last = [], []
    for d in range(weight.shape[0]):
        steps = range(len(x))
        if direction == "reverse" or d == 1:
            steps = reversed(steps)
        h, rows = torch.zeros(x.shape[1], hidden), [None] * len(x)
        wb, rb = bias[d, : 3 * hidden], bias[d, 3 * hidden :]
        rz, rr, rn = recurrence[d].split(hidden)
        bz, br, bn = rb.split(hidden)
        for t in steps:
            z, r, n = (x[t] @ weight[d].T + wb).split(hidden, 1)
            z, r = torch.sigmoid(z + h @ rz.T + bz), torch.sigmoid(r + h @ rr.T + br)
            h = (1 - z) * torch.tanh(n + (r * h) @ rn.T + bn) + z * h
            rows[t] = h
        outputs.append(torch.stack(rows))
        last.append(h)
    y, h = torch.stack(outputs, 1), torch.stack(last)
    operands = [v.detach().numpy().astype(np.float32) for v in (x, weight, recurrence, bias)]
    agree([y.detach(), h.detach()], runtime("GRU", operands, 2, hidden_size=hidden, direction=direction, linear_before_reset=0))
    return y, h


def nearest(x, size, coordinates):
    """ONNX's Resize to the nearest pixel, of two as near the first."""
    def places(m, n):
        at = {"half_pixel": lambda i: (i + Fraction(1, 2)) * m / n - Fraction(1, 2), "asymmetric": lambda i: Fraction(i * m, n),
              "align_corners": lambda i: Fraction(i * (m - 1), max(n - 1, 1))}[coordinates]
        return torch.tensor([min(max(math.ceil(at(i) - Fraction(1, 2)), 0), m - 1) for i in range(n)])
    y = x[:, :, places(x.shape[2], size[0])][:, :, :, places(x.shape[3], size[1])]
    sizes = np.array([*x.shape[:2], *size], np.int64)
    theirs = runtime("Resize", [x.detach().numpy().astype(np.float32), None, None, sizes], 1, mode="nearest",
                     nearest_mode="round_prefer_floor", coordinate_transformation_mode=coordinates)
    agree([y.detach()], theirs)
    return y


def lstm(x, weight, recurrence, bias):
    """torch's LSTM with operands as ONNX has them: gates in the order i, o, f, c."""
    hidden = recurrence.shape[2]
    order = torch.cat([torch.arange(g * hidden, (g + 1) * hidden) for g in (0, 2, 3, 1)])
    parameters = []
    for d in range(weight.shape[0]):
        parameters += [weight[d][order], recurrence[d][order], bias[d, : 4 * hidden][order], bias[d, 4 * hidden :][order]]
    start = torch.zeros(weight.shape[0], x.shape[1], hidden)
    both = weight.shape[0] == 2
    y, h, _ = torch._VF.lstm(x, (start, start), parameters, True, 1, 0.0, False, both, False)
    return y.view(*y.shape[:2], weight.shape[0], hidden).transpose(1, 2), h


def composites():
    """Operators that others define."""
    for shape, axis in [((4, 7), 1), ((2, 5, 3, 4), 1), ((2, 3, 6), 0)]:
        case(f"LogSoftmax_{len(shape)}d_{axis}", "LogSoftmax", {"axis": axis}, {"x": grid(*shape, step=1 / 8)},
             lambda x: F.log_softmax(x, axis))
    for groups, shape in [(2, (2, 6, 3, 4)), (1, (2, 5, 7)), (3, (3, 6, 2, 2))]:
        c = shape[1]
        case(f"GroupNormalization_{groups}_{len(shape)}d", "GroupNormalization", {"groups": groups, "epsilon": 1e-3},
             {"x": grid(*shape), "weight": grid(c), "bias": grid(c)}, lambda x, w, b: F.group_norm(x, groups, w, b, 1e-3))
    case("InstanceNormalization", "InstanceNormalization", {"epsilon": 1e-3}, {"x": grid(2, 4, 5, 3), "weight": grid(4), "bias": grid(4)},
         lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=1e-3))
    for mode in ["constant", "reflect", "replicate"]:
        pads = [[0, 0], [0, 0], [1, 2], [3, 0]]
        case(f"Pad_{mode}", "Pad", {"pads": pads, "mode": mode, "number": 0.5}, {"x": grid(2, 3, 4, 5)},
             lambda x: F.pad(x, (3, 0, 1, 2), mode, **({"value": 0.5} if mode == "constant" else {})))
    case("Split", "Split", {"axis": 1, "sizes": [2, 1, 4]}, {"x": grid(3, 7, 2)}, lambda x: x.split([2, 1, 4], 1))
    for name, size, arguments in [
        ("nearest_floor", (5, 9), {"mode": "nearest"}), ("nearest_floor", (2, 3), {"mode": "nearest"}),
        ("linear", (7, 9), {"mode": "bilinear"}), ("linear", (2, 3), {"mode": "bilinear"}),
        ("linear", (7, 1), {"mode": "bilinear", "align_corners": True}),
        ("cubic", (6, 10), {"mode": "bicubic"}), ("cubic", (3, 3), {"mode": "bicubic", "align_corners": True}),
    ]:
        corners = arguments.get("align_corners", False)
        coordinates = "asymmetric" if name == "nearest_floor" else "align_corners" if corners else "half_pixel"
        case(f"Resize_{name}_{coordinates}_{size[0]}x{size[1]}", "Resize",
             {"size": size, "resampling": name, "coordinates": coordinates}, {"x": grid(2, 3, 4, 6)},
             lambda x: F.interpolate(x, size, **arguments))
    for name, directions, reverse in [("forward", 1, (False,)), ("reverse", 1, (True,)), ("bidirectional", 2, (False, True))]:
        operands = {"x": grid(5, 2, 3, step=1 / 32), "weight": grid(directions, 12, 3), "recurrence": grid(directions, 12, 4),
                    "bias": grid(directions, 24)}
        case(f"GRU_{name}", "GRU", {"direction": name}, operands, lambda x, w, r, b: gru(x, w, r, b, reverse))
    operands = {"x": grid(4, 2, 3, step=1 / 32), "weight": grid(2, 16, 3), "recurrence": grid(2, 16, 4), "bias": grid(2, 32)}
    case("LSTM_in_training", "LSTM", {"direction": "bidirectional"}, operands, lstm)

    for direction, directions in [("forward", 1), ("reverse", 1), ("bidirectional", 2)]:
        operands = {"x": grid(5, 2, 3, step=1 / 32), "weight": grid(directions, 12, 3), "recurrence": grid(directions, 12, 4),
                    "bias": grid(directions, 24)}
        case(f"GRU_{direction}_reset_before", "GRU", {"direction": direction, "linear_before_reset": False}, operands,
             lambda x, w, r, b: gru_reset_before(x, w, r, b, direction))
    for coordinates, size in [("half_pixel", (5, 9)), ("half_pixel", (2, 3)), ("asymmetric", (8, 3)), ("align_corners", (7, 11))]:
        case(f"Resize_nearest_{coordinates}_{size[0]}x{size[1]}", "Resize",
             {"size": size, "resampling": "nearest", "coordinates": coordinates}, {"x": grid(2, 3, 4, 6)},
             lambda x: nearest(x, size, coordinates))
    for size in [(5, 9), (2, 3), (8, 1)]:
        case(f"Resize_nearest_ceil_half_pixel_{size[0]}x{size[1]}", "Resize",
             {"size": size, "resampling": "nearest_ceil", "coordinates": "half_pixel"}, {"x": grid(2, 3, 4, 6)},
             lambda x: F.interpolate(x, size, mode="nearest-exact"))


convolutions()
gemms()
norms()
elementwise()
pools()
losses()
write("ops")
network("resnet", ResNet(), 5, lambda _: False, 0.1)
network("mobilenet", MobileNet(), 4, lambda _: False, weighted=True)
network("resnet_head_only", ResNet(), 5, lambda k: not k.startswith("fc"), source="resnet", lr=0.002)
network("resnet_frozen_stem", ResNet(), 5, lambda k: k.startswith(("conv1", "bn1", "layer1")), 0.1, source="resnet", lr=0.01)
network("mobilenet_frozen_norms", MobileNet(), 4, batch_norm_frozen, 0.1, True, source="mobilenet", lr=0.002)
write("networks")
modern()
write("modern")
functions()
write("functions")
composites()
write("composites")
