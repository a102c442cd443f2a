"""Writes the small ONNX files of crates/offshoot-formats/tests/golden/onnx_forms: each opset from 7 to 23 with the
form that it gives each operator, and classifiers as the converters of TensorFlow and Keras write them (channels last, a
Transpose around each convolution, padding by rule or as a Pad of its own, ReLU6 as Min or Clip, a mean over axes).

    python scripts/golden/onnx_forms.py        onnx, onnxruntime, numpy

features.onnx takes numbers and no pictures, features.npz holds some; features_changed.onnx is another network.

logits.json holds, for each file of pictures, the input's shape and the logits that ONNX Runtime computes before a last Softmax, for
the input x[i] = ((7919 i) mod 1000) / 500 - 1 (i counts the elements of [n, 3, 32, 32] in row-major order; a file with
channels last gets the same pictures).
"""

import json
import pathlib
import shutil

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/onnx_forms"
OPSETS = range(7, 24)
NCHW, NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


class Builder:
    """Nodes and tensors of a graph, in order."""

    def __init__(self, opset, seed):
        self.opset, self.random = opset, np.random.default_rng(seed)
        self.nodes, self.tensors, self.count = [], [], 0

    def node(self, op, inputs, **attributes):
        self.count += 1
        name = f"{op}_{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def tensor(self, array, name=None):
        name = name or f"const_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape, scale=0.3, name=None):
        return self.tensor(self.random.normal(0, scale, shape).astype(np.float32), name)

    def ints(self, *values):
        return self.tensor(np.array(values, np.int64))

    def number(self, value):
        return self.tensor(np.array(value, np.float32))

    def norm(self, x, channels, **attributes):
        gamma = self.tensor((1 + self.random.normal(0, 0.2, channels)).astype(np.float32))
        beta, mean = self.weight(channels), self.weight(channels)
        var = self.tensor((0.5 + self.random.random(channels)).astype(np.float32))
        return self.node("BatchNormalization", [x, gamma, beta, mean, var], epsilon=1e-3, **attributes)

    def transpose(self, x, perm):
        return self.node("Transpose", [x], perm=perm)

    def save(self, name, y, shape, classes=4, ir_version=None):
        end = self.node("Softmax", [y], axis=1)
        info = lambda n, s: helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        graph = helper.make_graph(
            self.nodes, name, [info("x", shape)], [info(end, [shape[0], classes])], self.tensors
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", 2)],
            ir_version=ir_version or (4 if self.opset < 10 else 8),
            producer_name="tf2onnx" if name[0] in "tk" else "",
        )
        onnx.checker.check_model(model, full_check=True)
        (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def pad(b, x, pads):
    if b.opset < 11:
        return b.node("Pad", [x], pads=pads, mode="constant")
    if b.opset < 18:
        return b.node("Pad", [x, b.ints(*pads)])
    return b.node("Pad", [x, b.ints(*pads[2:4], *pads[6:8]), b.number(0), b.ints(2, 3)])


def clip(b, x, low, high):
    if b.opset < 11:
        return b.node("Clip", [x], min=low, max=high)
    return b.node("Clip", [x, b.number(low), b.number(high)])


def dropout(b, x):
    if b.opset < 12:
        return b.node("Dropout", [x], ratio=0.3)
    return b.node("Dropout", [x, b.number(0.3), b.tensor(np.array(False))])


def axes(b, op, x, *values, **attributes):
    """Squeeze and Unsqueeze take their axes as an input from 13, ReduceMean from 18."""
    if b.opset < (18 if op == "ReduceMean" else 13):
        return b.node(op, [x], axes=list(values), **attributes)
    return b.node(op, [x, b.ints(*values)], **attributes)


def every_operator(opset):
    b = Builder(opset, 100 + opset)
    x = pad(b, "x", [0, 0, 0, 1, 0, 0, 1, 0])
    x = b.node("Conv", [x, b.weight(6, 3, 3, 3)], strides=[2, 2], auto_pad="VALID")
    x = b.norm(x, 6, **({"training_mode": 0} if opset >= 14 else {"spatial": 1} if opset < 9 else {}))
    x = dropout(b, clip(b, x, 0.0, 6.0))
    x = b.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2], **({"ceil_mode": 0} if opset >= 10 else {}))
    y = b.node("Sigmoid", [b.node("Conv", [x, b.weight(6, 6, 1, 1), b.weight(6)])])
    x = b.node("Add", [b.node("Mul", [x, y]), x])
    x = b.node("Sub", [x, b.number(0.25)])
    x = b.node("AveragePool", [x], kernel_shape=[2, 2], count_include_pad=1, pads=[1, 1, 0, 0], strides=[2, 2])
    if opset % 3 == 0:
        x = axes(b, "ReduceMean", x, 2, 3, keepdims=0)
    elif opset % 3 == 1:
        x = axes(b, "Squeeze", b.node("GlobalAveragePool", [x]), 2, 3)
    else:
        # As exporters that trace write x.view(x.size(0), -1).
        x = b.node("GlobalAveragePool", [x])
        size = b.node("Gather", [b.node("Shape", [x]), b.tensor(np.array(0, np.int64))], axis=0)
        if opset >= 15:
            size = axes(b, "Squeeze", b.node("Shape", [x], start=0, end=1), 0)
        both = [axes(b, "Unsqueeze", size, 0), axes(b, "Unsqueeze", b.tensor(np.array(-1, np.int64)), 0)]
        x = b.node("Reshape", [x, b.node("Concat", both, axis=0)])
    x = b.node("Gemm", [b.node("Flatten", [x]), b.weight(4, 6), b.weight(4)], transB=1)
    # Before opset 13 a Softmax is one over all axes from `axis` on, here the same.
    b.save(f"opset{opset}", x, ["N", 3, 32, 32])


def conv(b, x, inputs, outputs, kernel, stride=1, group=1, bias=False, **attributes):
    attributes = attributes or {"auto_pad": "SAME_UPPER"}
    w = b.weight(outputs, inputs // group, kernel, kernel)
    tensors = [x, w, b.weight(outputs)] if bias else [x, w]
    return b.node("Conv", tensors, strides=[stride, stride], group=group, kernel_shape=[kernel, kernel], **attributes)


def tf_each_transposed():
    """tf2onnx without its optimisers: TensorFlow's graph, with a Transpose before and after each operator on NCHW."""
    b = Builder(9, 1)

    def block(x, relu, *arguments, **attributes):
        x = conv(b, b.transpose(x, NCHW), *arguments, **attributes)
        x = b.transpose(x, NHWC)
        x = b.transpose(b.norm(b.transpose(x, NCHW), arguments[1]), NHWC)
        if relu:
            x = b.node("Min", [b.node("Relu", [x]), b.number(6)])
        return x

    x = block("x", True, 3, 8, 3, 2)
    y = block(x, True, 8, 16, 1)
    y = block(y, True, 16, 16, 3, group=16)
    x = b.node("Add", [x, block(y, False, 16, 8, 1)])
    x = b.node("ReduceMean", [x], axes=[1, 2], keepdims=0)
    x = b.node("Add", [b.node("MatMul", [x, b.weight(8, 4)]), b.weight(4)])
    b.save("tf_each_transposed", x, ["unk__1", 32, 32, 3])


def tf_optimised():
    """The same after its optimisers: one Transpose, the norms folded."""
    b = Builder(13, 2)
    x = b.transpose("x", NCHW)
    x = clip(b, conv(b, x, 3, 8, 3, 2, bias=True), 0.0, 6.0)
    y = clip(b, conv(b, x, 8, 16, 1, bias=True), 0.0, 6.0)
    y = clip(b, conv(b, y, 16, 16, 3, group=16, bias=True), 0.0, 6.0)
    x = b.node("Add", [x, conv(b, y, 16, 8, 1, bias=True)])
    x = axes(b, "Squeeze", b.node("GlobalAveragePool", [x]), 2, 3)
    x = b.node("Add", [b.node("MatMul", [x, b.weight(8, 4)]), b.weight(4)])
    b.save("tf_optimised", x, ["unk__7", 32, 32, 3])


def tf_any_size():
    """Height and width left open, under padding that depends on them."""
    b = Builder(15, 3)
    x = b.node("Relu", [conv(b, b.transpose("x", NCHW), 3, 8, 3, 2, bias=True)])
    x = b.node("Relu", [conv(b, x, 8, 8, 3, 3)])
    x = b.node("ReduceMean", [b.transpose(x, NHWC)], axes=[1, 2], keepdims=1)
    x = b.node("Reshape", [x, b.ints(-1, 8)])
    x = b.node("Add", [b.node("MatMul", [x, b.weight(8, 4)]), b.weight(4)])
    b.save("tf_any_size", x, ["batch", "h", "w", 3])


def keras_efficient():
    """Normalisation inside the network, ZeroPadding2D, kernels as TensorFlow keeps them, transposed in the graph."""
    b = Builder(18, 4)
    kernel = lambda w: b.node("Transpose", [w], perm=[3, 2, 0, 1])
    x = b.node("Mul", ["x", b.number(0.5)])
    x = b.node("Sub", [x, b.tensor(np.array([0.1, 0.2, 0.3], np.float32))])
    x = b.node("Div", [x, b.tensor(np.array([0.5, 0.6, 0.7], np.float32).reshape(1, 1, 1, 3))])
    x = b.node("Pad", [x, b.ints(0, 0, 0, 0, 0, 1, 1, 0)])
    x = b.node("Conv", [b.transpose(x, NCHW), kernel(b.weight(3, 3, 3, 6))], strides=[2, 2], auto_pad="VALID")
    x = b.transpose(b.norm(x, 6), NHWC)
    x = b.node("Min", [b.node("Max", [x, b.number(0)]), b.number(6)])
    # A depthwise kernel [3, 3, channels, 1].
    depthwise = b.node("Reshape", [b.weight(3, 3, 6, 1), b.ints(3, 3, 1, 6)])
    y = b.node("Conv", [b.transpose(x, NCHW), kernel(depthwise)], group=6, auto_pad="SAME_UPPER")
    y = b.node("Add", [b.transpose(y, NHWC), b.weight(6)])
    x = b.node("Add", [x, b.node("Identity", [y])])
    x = b.node("ReduceMean", [x, b.ints(1, 2)], keepdims=0)
    x = b.node("Add", [b.node("MatMul", [x, b.weight(6, 4)]), b.weight(4)])
    b.save("keras_efficient", x, ["N", 32, 32, 3])


def keras_resnet():
    """Zeros around the pictures and before the pooling, a GlobalAveragePool, and a shortcut with a stride."""
    b = Builder(17, 5)
    x = b.node("Pad", [b.transpose("x", NCHW), b.ints(0, 0, 3, 3, 0, 0, 3, 3), b.number(0)], mode="constant")
    x = b.node("Relu", [b.norm(conv(b, x, 3, 8, 7, 2, bias=True, auto_pad="VALID"), 8)])
    x = b.node("Pad", [x, b.ints(0, 0, 1, 1, 0, 0, 1, 1)])
    x = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], auto_pad="VALID")
    y = b.node("Relu", [b.norm(conv(b, x, 8, 8, 1, 2, bias=True, auto_pad="VALID"), 8)])
    y = b.norm(conv(b, y, 8, 8, 3, bias=True), 8)
    x = b.node("Relu", [b.node("Add", [b.norm(conv(b, x, 8, 8, 1, 2, bias=True, auto_pad="VALID"), 8), y])])
    x = b.node("Pad", [x, b.ints(0, 0, 1, 1, 0, 0, 1, 1)])
    x = b.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = axes(b, "Squeeze", b.node("GlobalAveragePool", [x]), 2, 3)
    x = b.node("Add", [b.node("MatMul", [x, b.weight(8, 4)]), b.weight(4)])
    b.save("keras_resnet", x, ["N", 32, 32, 3])


def features():
    """A network on thirteen numbers, and another."""
    for name, seed in [("features", 6), ("features_changed", 7)]:
        b = Builder(17, seed)
        x = b.node("Relu", [b.node("Gemm", ["x", b.weight(13, 8), b.weight(8)])])
        b.save(name, b.node("Gemm", [x, b.weight(8, 4), b.weight(4)]), ["N", 13])
    rows = np.random.default_rng(8).normal(size=(9, 13)).astype(np.float32)
    np.savez(HERE / "features.npz", rows=rows)


def logits(path):
    """The input's shape and the logits by ONNX Runtime, before the last Softmax."""
    model = onnx.load(path)
    last = model.graph.node.pop()
    assert last.op_type == "Softmax"
    model.graph.output[0].name = last.input[0]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    entry = session.get_inputs()[0]
    shape = [2, 3, 32, 32]
    x = ((7919 * np.arange(np.prod(shape))) % 1000 / 500 - 1).reshape(shape).astype(np.float32)
    if entry.shape[-1] == 3:
        x = x.transpose(NHWC)
    (y,) = session.run(None, {entry.name: x})
    return {"shape": shape, "logits": [float(f"{v:.7g}") for v in y.flatten()]}


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    for opset in OPSETS:
        every_operator(opset)
    for make in [tf_each_transposed, tf_optimised, tf_any_size, keras_efficient, keras_resnet]:
        make()
    files = sorted(HERE.glob("*.onnx"))
    features()
    table = {path.stem: logits(path) for path in files}
    lines = ",\n".join(f'"{name}": {json.dumps(row)}' for name, row in table.items())
    (HERE / "logits.json").write_text("{\n" + lines + "\n}\n")
    print(f"{len(files)} files, {sum(p.stat().st_size for p in HERE.iterdir())} bytes")


if __name__ == "__main__":
    main()
