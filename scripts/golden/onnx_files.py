"""Writes the small ONNX files of crates/offshoot-formats/tests/golden/onnx: networks exported by PyTorch in the ways that
people export them, a few made by hand with forms that its exporters do not write, and what each computes.

    python scripts/golden/onnx_files.py

logits.json holds, for each file, the input's shape and the logits that ONNX Runtime computes for the input
x[i] = ((7919 i) mod 1000) / 500 - 1 (i counts the elements in row-major order).
"""

import json
import pathlib
import shutil
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from timm.layers import Conv2dSame
from torch import nn

HERE = pathlib.Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/onnx"
warnings.filterwarnings("ignore")


class Block(nn.Module):
    """An inverted residual as in MobileNetV2."""

    def __init__(self, channels, same):
        super().__init__()
        wide = 2 * channels
        conv = Conv2dSame if same else nn.Conv2d
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        padding = "same" if same else 1
        depthwise = conv(wide, wide, 3, 1, 1 if same else padding, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return x + self.project(self.depthwise(self.expand(x)))


class Mobile(nn.Module):
    def __init__(self, same=False):
        super().__init__()
        conv = Conv2dSame(3, 8, 3, 2, bias=False) if same else nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU6())
        self.block = Block(8, same)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x):
        x = self.block(self.stem(x))
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


class Res(nn.Module):
    """The parts of a ResNet, with the mean, the product and the softmax written out."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1)
        self.avgpool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.weight = nn.Parameter(torch.randn(8, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = torch.relu(x + self.conv2(x))
        x = self.avgpool(x).mean((2, 3))
        return torch.softmax(x @ self.weight + self.bias, 1)


class View(nn.Module):
    """Flattens with the numbers of its own shape."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 4)
        self.fc = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x):
        x = torch.sigmoid(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


def settle(model):
    """Batch norms that do something, in inference mode."""
    model.train()
    for _ in range(3):
        model(torch.randn(4, 3, 32, 32))
    return model.eval()


def export(name, model, batch=2, **options):
    x = torch.randn(batch, 3, 32, 32)
    if next(model.parameters()).dtype == torch.float16:
        x = x.half()
    torch.onnx.export(model, (x,), str(HERE / f"{name}.onnx"), input_names=["input"], output_names=["output"], **options)


def by_torch():
    dynamic = {"input": {0: "batch"}, "output": {0: "batch"}}
    batch = ({0: torch.export.Dim("batch")},)
    mobile = settle(Mobile())
    export("mobile_trace", mobile, dynamo=False, dynamic_axes=dynamic)
    export(
        "mobile_trace_unfolded_opset11",
        mobile,
        dynamo=False,
        opset_version=11,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    export("mobile_dynamo", mobile, dynamo=True, dynamic_shapes=batch, external_data=False)
    export("mobile_dynamo_external", mobile, batch=1, dynamo=True, external_data=True)
    sides = {"input": {0: "batch", 2: "height", 3: "width"}}
    export("mobile_trace_any_size", mobile, dynamo=False, dynamic_axes=sides, opset_version=13)
    export("mobile_trace_half", settle(Mobile()).half(), dynamo=False, dynamic_axes=dynamic)
    export("same_trace", settle(Mobile(same=True)), dynamo=False, dynamic_axes=dynamic)
    export("same_dynamo", settle(Mobile(same=True)), dynamo=True, dynamic_shapes=batch, external_data=False)
    res = settle(Res())
    export("res_trace_opset9", res, dynamo=False, opset_version=9, dynamic_axes=dynamic)
    export("res_dynamo", res, dynamo=True, dynamic_shapes=batch, external_data=False)
    view = View().eval()
    export("view_trace", view, dynamo=False, dynamic_axes=dynamic)
    export("view_trace_batch1", view, batch=1, dynamo=False)
    export("view_dynamo", view, dynamo=True, dynamic_shapes=batch, external_data=False)


def save(name, nodes, initializers, opset, batch="N", ir_version=8):
    info = lambda n, shape: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, name, [info("x", [batch, 3, 32, 32])], [info("y", [batch, 4])], initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, HERE / f"{name}.onnx")


def typed(name, array, data_type=TensorProto.FLOAT):
    return helper.make_tensor(name, data_type, array.shape, array.flatten().tolist())


def by_hand():
    """Forms of other exporters: padding by rule, a Pad before a Conv, typed fields, doubles, MatMul and Add, factors."""
    random = np.random.default_rng(7)
    weight = lambda *shape: random.normal(0, 0.3, shape).astype(np.float32)
    node = helper.make_node
    save(
        "auto_pad",
        [
            node("Sub", ["x", "mean"], ["centred"]),
            node("Div", ["centred", "std"], ["scaled"]),
            node("Conv", ["scaled", "w1", "b1"], ["c1"], auto_pad="SAME_UPPER", strides=[2, 2]),
            node("Clip", ["c1", "zero", "six"], ["r1"]),
            node("Conv", ["r1", "w2"], ["c2"], auto_pad="SAME_LOWER", strides=[3, 3]),
            node("BatchNormalization", ["c2", "gamma", "beta", "mu", "var"], ["n2"], epsilon=1e-3),
            node("AveragePool", ["n2"], ["p2"], auto_pad="VALID", kernel_shape=[2, 2]),
            node("ReduceMean", ["p2"], ["m"], axes=[-1, -2], keepdims=0),
            node("MatMul", ["m", "fc_w"], ["product"]),
            node("Add", ["fc_b", "product"], ["y"]),
        ],
        [
            numpy_helper.from_array(np.array([[[0.1]], [[0.2]], [[0.3]]], np.float32)[None], "mean"),
            numpy_helper.from_array(np.array([0.5], np.float32), "std"),
            typed("w1", weight(6, 3, 3, 3)),
            typed("b1", weight(6)),
            typed("w2", weight(6, 6, 3, 3)),
            # One tensor in two roles, as files whose equal initializers were merged have it.
            typed("beta", weight(6)),
            typed("gamma", 1 + weight(6)),
            typed("mu", weight(6)),
            typed("var", np.abs(weight(6)) + 0.5),
            typed("fc_w", weight(6, 4)),
            typed("fc_b", weight(4)),
            typed("zero", np.zeros((), np.float32)),
            typed("six", np.full((), 6, np.float32)),
        ],
        opset=13,
    )
    save(
        "padded",
        [
            node("Constant", [], ["pads"], value=typed("", np.array([0, 0, 0, 1, 0, 0, 1, 2]), TensorProto.INT64)),
            node("Pad", ["x", "pads"], ["around"], mode="constant"),
            node("Cast", ["w_half"], ["w"], to=TensorProto.FLOAT),
            node("Conv", ["around", "w", "b"], ["c"], pads=[1, 1, 0, 0], strides=[2, 1], dilations=[1, 2]),
            node("Clip", ["c", "", "top"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
            node("GlobalAveragePool", ["p"], ["g"]),
            node("Squeeze", ["g", "axes"], ["s"]),
            node("Transpose", ["fc_w"], ["fc_t"], perm=[1, 0]),
            node("Gemm", ["s", "fc_t", "fc_b"], ["y"], alpha=0.5, beta=2.0),
        ],
        [
            typed("w_half", weight(6, 3, 3, 3), TensorProto.FLOAT16),
            typed("b", weight(6)),
            typed("top", np.array(1.5, np.float32)),
            typed("axes", np.array([2, 3]), TensorProto.INT64),
            typed("fc_w", weight(4, 6)),
            typed("fc_b", weight(1, 4)),
        ],
        opset=14,
        batch=7,
    )
    save(
        "legacy",
        [
            node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "b", "b", "b", "var"], ["n"], epsilon=1e-3, momentum=0.99),
            node("Clip", ["n"], ["r"], min=0.0, max=6.0),
            node("Dropout", ["r"], ["d"], ratio=0.3),
            node("GlobalAveragePool", ["d"], ["g"]),
            node("Reshape", ["g", "shape"], ["flat"]),
            node("Gemm", ["flat", "fc_w", "fc_b"], ["logits"], transB=1),
            node("Softmax", ["logits"], ["y"]),
        ],
        [
            typed("w", weight(6, 3, 3, 3)),
            typed("b", weight(6)),
            typed("var", np.abs(weight(6)) + 0.5),
            typed("shape", np.array([0, -1]), TensorProto.INT64),
            typed("fc_w", weight(4, 6)),
            typed("fc_b", weight(4)),
        ],
        opset=7,
    )


def logits(path):
    """The input's shape and the logits by ONNX Runtime, before a last Softmax."""
    model = onnx.load(path)
    last = next(n for n in model.graph.node if n.output[0] == model.graph.output[0].name)
    if last.op_type == "Softmax":
        model.graph.output[0].name = last.input[0]
        model.graph.node.remove(last)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    entry = session.get_inputs()[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 2
    shape = [batch, 3, 32, 32]
    x = ((7919 * np.arange(np.prod(shape))) % 1000 / 500 - 1).reshape(shape)
    dtype = np.float16 if "16" in entry.type else np.float32
    (y,) = session.run(None, {entry.name: x.astype(dtype)})
    return {"shape": shape, "logits": [float(f"{v:.7g}") for v in y.astype(np.float64).flatten()]}


def strip(path):
    """Drops what no reader needs: doc strings, stack traces, inferred shapes."""
    model = onnx.load(path, load_external_data=False)
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for info in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        info.ClearField("doc_string")
        del info.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def main():
    torch.manual_seed(0)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    by_torch()
    by_hand()
    files = sorted(HERE.glob("*.onnx"))
    for path in files:
        strip(path)
    table = {path.stem: logits(path) for path in files}
    lines = ",\n".join(f'"{name}": {json.dumps(row)}' for name, row in table.items())
    (HERE / "logits.json").write_text("{\n" + lines + "\n}\n")
    print(f"{len(files)} files, {sum(p.stat().st_size for p in HERE.iterdir())} bytes")


if __name__ == "__main__":
    main()
