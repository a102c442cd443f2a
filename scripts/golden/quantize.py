#!/usr/bin/env python3
"""Golden cases of QuantizeLinear and DequantizeLinear, and files that ONNX Runtime's quantizer wrote.

    python scripts/golden/quantize.py        onnx, onnxruntime, numpy, safetensors, torch

writes crates/offshoot-conformance/golden/quantize.{json,safetensors}: what ONNX Runtime computes, ties and saturation
included, and the straight-through gradients of PyTorch's fake_quantize; and
crates/offshoot-formats/tests/golden/onnx_qdq/*.onnx with logits.json: small classifiers as `quantize_static` leaves them,
and the logits that ONNX Runtime computes without graph optimisations, which is what the nodes say.
"""

import json
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2] / "crates"
OPS = ROOT / "offshoot-conformance/golden"
FILES = ROOT / "offshoot-formats/tests/golden/onnx_qdq"
TYPES = {"u8": (np.uint8, TensorProto.UINT8, 0, 255), "i8": (np.int8, TensorProto.INT8, -128, 127), "i32": (np.int32, TensorProto.INT32, 0, 0)}
random = np.random.default_rng(8)
cases, tensors = [], {}


def session(path_or_bytes, optimise=False):
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path_or_bytes, options, providers=["CPUExecutionProvider"])


def node(op, x, scale, zero, axis):
    """What ONNX Runtime computes."""
    proto = {np.dtype(np.float32): TensorProto.FLOAT, **{np.dtype(t): p for t, p, *_ in TYPES.values()}}
    value = lambda name, a: helper.make_tensor_value_info(name, proto[a.dtype], a.shape)
    made = proto[zero.dtype] if op == "QuantizeLinear" else TensorProto.FLOAT
    attributes = {} if axis is None else {"axis": axis}
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "scale", "zero"], ["y"], **attributes)], "g",
        [value("x", x), value("scale", scale), value("zero", zero)],
        [helper.make_tensor_value_info("y", made, x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return session(model.SerializeToString()).run(None, {"x": x, "scale": scale, "zero": zero})[0]


def store(name, **arrays):
    for key, array in arrays.items():
        tensors[f"{name}/{key}"] = np.array(array, order="C")


def operators():
    shapes = {"tensor": ((3, 5, 4, 6), None), "axis_0": ((6, 5, 3, 3), 0), "channels": ((2, 7, 4, 3), 1),
              "height": ((2, 3, 5, 4), 2), "width": ((2, 3, 4, 5), 3), "flat": ((5, 19), 1), "vector": ((17,), 0)}
    for kind, (dtype, _, low, high) in TYPES.items():
        for name, (shape, axis) in shapes.items():
            places = () if axis is None else (shape[axis],)
            # Half of the scales are powers of two, under which multiples of an eighth meet ties.
            scale = np.asarray(random.choice([0.25, 0.125, 0.0371, 0.0112], places), np.float32)
            zero = np.asarray(random.integers(low, high + 1, places) if kind != "i32" else np.zeros(places), dtype)
            if kind != "i32":
                x = (random.integers(-400, 401, shape) / 8).astype(np.float32)
                case = f"quantize_{kind}_{name}"
                full = torch.tensor(x, requires_grad=True)
                s, z = torch.tensor(scale), torch.tensor(zero.astype(np.int32))
                y = (torch.fake_quantize_per_tensor_affine(full, s, z, low, high) if axis is None
                     else torch.fake_quantize_per_channel_affine(full, s, z, axis, low, high))
                dy = torch.tensor(random.integers(-64, 65, shape) / 64, dtype=torch.float32)
                y.backward(dy)
                store(case, x=x, scale=scale, zero=zero, y=node("QuantizeLinear", x, scale, zero, axis), dy=dy.numpy(), dx=full.grad.numpy())
                cases.append({"name": case, "op": "QuantizeLinear", "axis": axis})
            span = (-100000, 100001) if kind == "i32" else (low, high + 1)
            q = random.integers(*span, shape).astype(dtype)
            case = f"dequantize_{kind}_{name}"
            store(case, x=q, scale=scale, zero=zero, y=node("DequantizeLinear", q, scale, zero, axis))
            cases.append({"name": case, "op": "DequantizeLinear", "axis": axis})


class Pictures(CalibrationDataReader):
    def __init__(self):
        self.left = iter([{"input": random.normal(0, 1, (2, 3, 16, 16)).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.left, None)


def classifier(opset):
    """A stem, a depthwise convolution, a residual, a pool, a concatenation, a linear head."""
    nodes, initializers = [], []

    def weight(name, *shape):
        array = random.normal(0, 1.2 / np.sqrt(np.prod(shape[1:]) or 1), shape).astype(np.float32)
        initializers.append(numpy_helper.from_array(array, name))
        return name

    def add(op, inputs, **attributes):
        nodes.append(helper.make_node(op, inputs, [f"v{len(nodes)}"], name=f"{op}_{len(nodes)}", **attributes))
        return f"v{len(nodes) - 1}"

    def conv(name, x, k, c, size, **attributes):
        return add("Conv", [x, weight(f"{name}.weight", k, c, size, size), weight(f"{name}.bias", k)], kernel_shape=[size] * 2, **attributes)

    x = add("Relu", [conv("stem", "input", 8, 3, 3, pads=[1] * 4, strides=[2, 2])])
    x = add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    y = add("Relu", [conv("depthwise", x, 8, 1, 3, pads=[1] * 4, group=8)])
    y = conv("project", y, 8, 8, 1)
    x = add("Add", [x, y])
    x = add("Concat", [x, add("Relu", [conv("side", x, 4, 8, 1)])], axis=1)
    x = add("Flatten", [add("GlobalAveragePool", [x])], axis=1)
    x = add("Gemm", [x, weight("fc.weight", 5, 12), weight("fc.bias", 5)], transB=1)
    graph = helper.make_graph(nodes, "classifier", [helper.make_tensor_value_info("input", 1, ["n", 3, 16, 16])],
                              [helper.make_tensor_value_info(x, 1, ["n", 5])], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def files():
    FILES.mkdir(parents=True, exist_ok=True)
    shape = [2, 3, 16, 16]
    count = int(np.prod(shape))
    x = (((7919 * np.arange(count)) % 1000) / 500 - 1).astype(np.float32).reshape(shape)
    logits = {}
    forms = {
        "u8_per_channel": (17, dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True)),
        "i8_symmetric": (13, dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True,
                                  extra_options={"ActivationSymmetric": True, "WeightSymmetric": True})),
        "seven_bits": (21, dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)),
        "per_tensor_opset11": (11, dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8)),
        "float_weights": (17, dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                                   extra_options={"AddQDQPairToWeight": True})),
    }
    for name, (opset, options) in forms.items():
        with tempfile.TemporaryDirectory() as folder:
            before = f"{folder}/float.onnx"
            onnx.save(classifier(opset), before)
            quantize_static(before, FILES / f"{name}.onnx", Pictures(), quant_format=QuantFormat.QDQ, **options)
        output = session(str(FILES / f"{name}.onnx")).run(None, {"input": x})[0]
        logits[name] = {"shape": shape, "logits": [float(v) for v in output.ravel()]}
    (FILES / "logits.json").write_text(json.dumps(logits, indent=1) + "\n")


operators()
OPS.mkdir(parents=True, exist_ok=True)
save_file(tensors, OPS / "quantize.safetensors")
(OPS / "quantize.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
files()
