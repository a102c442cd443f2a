#!/usr/bin/env python3
"""Files of ONNX Runtime's quantizers in all their forms: operators on quantized tensors, every placement of QDQ, integers that are
found at each run, 16-bit activations, weights of 4 bits in blocks.

    python scripts/golden/quantized_files.py        onnx, onnxruntime, numpy

writes crates/offshoot-formats/tests/golden/onnx_quantized/*.onnx and logits.json: the logits that ONNX Runtime computes without
graph optimizations, which is what the nodes say, and those of the network before it was quantized.
"""

import json
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

FILES = pathlib.Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/onnx_quantized"
U8, I8, U16, I16 = QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16, QuantType.QInt16
SHAPE = [2, 3, 12, 12]


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Pictures(CalibrationDataReader):
    def __init__(self):
        random = np.random.default_rng(4)
        self.left = iter([{"input": random.uniform(-1, 1, SHAPE).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.left, None)


def classifier(opset):
    """x * sigmoid(x), squeeze and excitation, a batch norm before its ReLU, a residual, a concatenation, a product of pixels."""
    random = np.random.default_rng(11)
    nodes, initializers = [], []

    def stored(name, array):
        initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(name, *shape):
        return stored(name, random.normal(0, 1.3 / np.sqrt(np.prod(shape[1:]) or 1), shape).astype(np.float32))

    def add(op, inputs, **attributes):
        nodes.append(helper.make_node(op, inputs, [f"v{len(nodes)}"], name=f"{op}_{len(nodes)}", **attributes))
        return f"v{len(nodes) - 1}"

    def conv(name, x, k, c, size, **attributes):
        return add("Conv", [x, weight(f"{name}.weight", k, c, size, size), weight(f"{name}.bias", k)], kernel_shape=[size] * 2, **attributes)

    def silu(x):
        return add("Mul", [x, add("Sigmoid", [x])])

    x = silu(conv("stem", "input", 8, 3, 3, pads=[1] * 4, strides=[2, 2]))
    y = silu(conv("depthwise", x, 8, 1, 3, pads=[1] * 4, group=8))
    gate = add("Relu", [conv("reduce", add("GlobalAveragePool", [y]), 4, 8, 1)])
    y = add("Mul", [y, add("Sigmoid", [conv("expand", gate, 8, 4, 1)])])
    x = add("Add", [x, conv("project", y, 8, 8, 1)])
    norm = [stored("norm.weight", random.uniform(0.5, 1.5, 8).astype(np.float32)), weight("norm.bias", 8), weight("norm.mean", 8),
            stored("norm.var", random.uniform(0.5, 1.5, 8).astype(np.float32))]
    y = conv("dense", add("Relu", [add("BatchNormalization", [x, *norm])]), 4, 8, 3, pads=[1] * 4)
    x = add("Concat", [x, add("LeakyRelu", [y], alpha=0.1)], axis=1)
    x = add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    y = add("Transpose", [x], perm=[0, 2, 3, 1])
    y = add("Add", [add("MatMul", [y, weight("mix.weight", 12, 12)]), weight("mix.bias", 12)])
    x = add("Add", [x, add("Transpose", [y], perm=[0, 3, 1, 2])])
    x = add("AveragePool", [x], kernel_shape=[3, 3])
    x = add("Reshape", [x, stored("shape", np.array([-1, 12], np.int64))])
    x = add("Gemm", [x, weight("fc.weight", 5, 12), weight("fc.bias", 5)], transB=1)
    graph = helper.make_graph(nodes, "classifier", [helper.make_tensor_value_info("input", 1, ["n", *SHAPE[1:]])],
                              [helper.make_tensor_value_info(x, 1, ["n", 5])], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)


def static(quant_format, **options):
    return lambda before, path: quantize_static(before, path, Pictures(), quant_format=quant_format, **options)


def blocks(quant_format, symmetric):
    def make(before, path):
        quantizer = MatMulNBitsQuantizer(onnx.load(before), block_size=16, is_symmetric=symmetric, quant_format=quant_format)
        quantizer.process()
        quantizer.model.save_model_to_file(str(path), False)
    return make


def functions(before, path):
    """A softmax of bytes, which reads a mean in larger steps than it was stored in."""
    steps = {"x": (1 / 127, 128), "mean": (0.0005, 120), "row": (0.06, 120), "y": (1 / 256, 0)}
    initializers = [numpy_helper.from_array(np.array(value, dtype), f"{name}_{part}") for name, pair in steps.items()
                    for value, dtype, part in zip(pair, [np.float32, np.uint8], ["scale", "zero"])]
    initializers.append(numpy_helper.from_array(np.array(0.06 / 0.0005, np.float32), "factor"))

    def of(name):
        return [f"{name}_scale", f"{name}_zero"]

    def save(nodes, to):
        graph = helper.make_graph(nodes, "functions", [helper.make_tensor_value_info("input", 1, ["n", *SHAPE[1:]])],
                                  [helper.make_tensor_value_info("output", 1, ["n", 3])], initializers)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), to)

    node, contributed = helper.make_node, {"domain": "com.microsoft"}
    save([
        node("QuantizeLinear", ["input", *of("x")], ["x"]),
        node("QLinearGlobalAveragePool", ["x", *of("x"), *of("mean")], ["mean"], **contributed),
        node("Flatten", ["mean"], ["row"]),
        node("QLinearSoftmax", ["row", *of("row"), *of("y")], ["y"], axis=-1, opset=13, **contributed),
        node("DequantizeLinear", ["y", *of("y")], ["output"]),
    ], path)
    save([
        node("GlobalAveragePool", ["input"], ["mean"]),
        node("Mul", ["mean", "factor"], ["large"]),
        node("Flatten", ["large"], ["row"]),
        node("Softmax", ["row"], ["output"]),
    ], before)


QDQ, QOP = QuantFormat.QDQ, QuantFormat.QOperator
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
FORMS = {
    "qdq_u8": (17, static(QDQ, per_channel=True, activation_type=U8, weight_type=I8)),
    "qdq_u8_u8": (13, static(QDQ, activation_type=U8, weight_type=U8)),
    "qdq_i8": (17, static(QDQ, per_channel=True, activation_type=I8, weight_type=I8)),
    "qdq_i8_symmetric": (17, static(QDQ, per_channel=True, activation_type=I8, weight_type=I8, extra_options=SYMMETRIC)),
    "qdq_float_weights": (17, static(QDQ, activation_type=U8, weight_type=I8, extra_options={"AddQDQPairToWeight": True})),
    "qdq_u16": (21, static(QDQ, per_channel=True, activation_type=U16, weight_type=I8)),
    "qdq_i16_contributed": (17, static(QDQ, activation_type=I16, weight_type=I8, extra_options={"UseQDQContribOps": True})),
    "operators_u8": (17, static(QOP, per_channel=True, activation_type=U8, weight_type=I8)),
    "operators_u8_u8": (17, static(QOP, activation_type=U8, weight_type=U8)),
    "operators_i8": (17, static(QOP, activation_type=I8, weight_type=I8)),
    "dynamic_u8": (17, lambda before, path: quantize_dynamic(before, path)),
    "dynamic_i8": (17, lambda before, path: quantize_dynamic(before, path, weight_type=I8, per_channel=True)),
    "blocks": (21, blocks(QOP, False)),
    "blocks_symmetric": (21, blocks(QOP, True)),
    "blocks_qdq": (21, blocks(QDQ, False)),
    "functions": (17, functions),
}


def main():
    FILES.mkdir(parents=True, exist_ok=True)
    count = int(np.prod(SHAPE))
    x = (((7919 * np.arange(count)) % 1000) / 500 - 1).astype(np.float32).reshape(SHAPE)
    logits = {}
    for name, (opset, make) in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            before = f"{folder}/float.onnx"
            onnx.save(classifier(opset), before)
            make(before, FILES / f"{name}.onnx")
            plain = session(before).run(None, {"input": x})[0]
        output = session(FILES / f"{name}.onnx").run(None, {"input": x})[0]
        logits[name] = {"shape": SHAPE, "logits": [float(v) for v in output.ravel()], "float": [float(v) for v in plain.ravel()]}
    (FILES / "logits.json").write_text(json.dumps(logits, indent=1) + "\n")


main()
