"""Classifiers that end in other things than logits, and the probabilities that ONNX Runtime and PyTorch find.

    python scripts/golden/endings.py

needs onnx, onnxruntime and torch, and writes crates/offshoot-cli/tests/golden/endings.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

OUT = Path(__file__).parents[2] / "crates/offshoot-cli/tests/golden/endings"
CLASSES, CHANNELS, SIZE = 5, 4, 6
random = np.random.default_rng(0)
WEIGHTS = {
    "conv.weight": random.normal(0, 0.6, (CHANNELS, 3, 3, 3)),
    "fc.weight": random.normal(0, 1.5, (CLASSES, CHANNELS)),
    "fc.bias": random.normal(0, 0.5, (CLASSES,)),
}
PICTURES = random.normal(0, 1, (3, 3, SIZE, SIZE)).astype(np.float32)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], **attributes)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def number(name, value):
    return numpy_helper.from_array(np.array(value, np.float32), name)


def network(ending, constants=(), shape=("n", CLASSES), classes=CLASSES, opset=17, spatial=False):
    """`ending`: nodes from `logits` ([n, 5], or [n, 5, 1, 1] where `spatial`) to `output`."""
    weights = [numpy_helper.from_array(w.astype(np.float32), k) for k, w in WEIGHTS.items() if not spatial or k != "fc.weight"]
    nodes = [
        node("Conv", "input conv.weight", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "conv", "relu"),
        node("GlobalAveragePool", "relu", "pool"),
    ]
    if spatial:
        kernel = WEIGHTS["fc.weight"].astype(np.float32).reshape(CLASSES, CHANNELS, 1, 1)
        weights.append(numpy_helper.from_array(kernel, "fc.weight"))
        nodes.append(node("Conv", "pool fc.weight fc.bias", "logits"))
    else:
        nodes += [node("Flatten", "pool", "flat"), node("Gemm", "flat fc.weight fc.bias", "logits", transB=1)]
    graph = helper.make_graph(
        nodes + ending,
        "endings",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(shape))],
        weights + list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


SOFTMAX = node("Softmax", "logits", "p", axis=-1)
ROWS, ONES = ints("rows", -1, CLASSES), ints("ones", 2, 3)
# By name: the model, and what makes probabilities of ONNX Runtime's output.
same = lambda y: y
softmax = lambda y: np.exp(y - y.max(1, keepdims=True)) / np.exp(y - y.max(1, keepdims=True)).sum(1, keepdims=True)
MODELS = {
    "logits": (network([node("Identity", "logits", "output")]), softmax),
    "logits_of_pixels": (network([node("Identity", "logits", "output")], shape=("n", CLASSES, 1, 1), spatial=True), softmax),
    "softmax": (network([node("Softmax", "logits", "output", axis=1)]), same),
    "softmax_reshape": (network([SOFTMAX, node("Reshape", "p rows", "output")], [ROWS]), same),
    "softmax_reshape_squeeze": (
        network(
            [SOFTMAX, node("Reshape", "p long", "q"), node("Squeeze", "q one", "output")],
            [ints("long", -1, 1, CLASSES), ints("one", 1)],
        ),
        same,
    ),
    "softmax_unsqueeze_squeeze": (
        network([SOFTMAX, node("Unsqueeze", "p one", "q"), node("Squeeze", "q one", "output")], [ints("one", 1)]),
        same,
    ),
    "pixels_softmax_flatten": (
        network([node("Softmax", "logits", "p", axis=1), node("Flatten", "p", "output")], spatial=True),
        same,
    ),
    "pixels_softmax_old": (
        network(
            [node("Softmax", "logits", "p", axis=1), node("Squeeze", "p", "output", axes=[2, 3])], spatial=True, opset=11
        ),
        same,
    ),
    "pixels_last_softmax": (
        network(
            [
                node("Transpose", "logits", "t", perm=[0, 2, 3, 1]),
                node("Softmax", "t", "p", axis=-1),
                node("Reshape", "p rows", "output"),
            ],
            [ROWS],
            spatial=True,
        ),
        same,
    ),
    "softmax_transpose": (
        network(
            [
                node("Softmax", "logits", "p", axis=1),
                node("Transpose", "p", "t", perm=[0, 3, 2, 1]),
                node("Flatten", "t", "output"),
            ],
            spatial=True,
        ),
        same,
    ),
    "softmax_clip": (network([SOFTMAX, node("Clip", "p zero one", "output")], [number("zero", 0), number("one", 1)]), same),
    "softmax_clip_eps": (
        network([SOFTMAX, node("Clip", "p low high", "output")], [number("low", 1e-7), number("high", 1 - 1e-7)]),
        same,
    ),
    "softmax_mul_one": (network([SOFTMAX, node("Mul", "p one", "output")], [number("one", 1)]), same),
    "softmax_add_zero": (network([SOFTMAX, node("Add", "zero p", "output")], [number("zero", [0])]), same),
    "softmax_div_one": (network([SOFTMAX, node("Div", "p one", "output")], [number("one", 1)]), same),
    "softmax_percent": (network([SOFTMAX, node("Mul", "p hundred", "output")], [number("hundred", 100)]), lambda y: y / 100),
    "softmax_dropout_cast": (
        network([SOFTMAX, node("Dropout", "p", "d"), node("Cast", "d", "output", to=TensorProto.FLOAT)]),
        same,
    ),
    "softmax_whole_slice": (
        network(
            [SOFTMAX, node("Slice", "p from to axis", "output")], [ints("from", 0), ints("to", CLASSES), ints("axis", 1)]
        ),
        same,
    ),
    "softmax_part": (
        network(
            [SOFTMAX, node("Slice", "p from to axis", "output")],
            [ints("from", 1), ints("to", CLASSES), ints("axis", 1)],
            shape=("n", CLASSES - 1),
        ),
        same,
    ),
    "softmax_twice": (network([SOFTMAX, node("Softmax", "p", "output", axis=1)]), same),
    "log_softmax": (network([node("LogSoftmax", "logits", "output", axis=1)]), np.exp),
    "log_softmax_reshape": (network([node("LogSoftmax", "logits", "p", axis=1), node("Reshape", "p rows", "output")], [ROWS]), np.exp),
    "log_of_softmax": (network([SOFTMAX, node("Log", "p", "output")]), np.exp),
    "spelled_softmax": (
        network(
            [node("Exp", "logits", "e"), node("ReduceSum", "e axis", "s", keepdims=1), node("Div", "e s", "output")],
            [ints("axis", 1)],
        ),
        same,
    ),
    "spelled_shifted_softmax": (
        network(
            [
                node("ReduceMax", "logits", "m", axes=[-1], keepdims=1),
                node("Sub", "logits m", "d"),
                node("Exp", "d", "e"),
                node("ReduceSum", "e axis", "s", keepdims=1),
                node("Div", "e s", "p"),
                node("Reshape", "p rows", "output"),
            ],
            [ints("axis", -1), ROWS],
        ),
        same,
    ),
    "sigmoid": (network([node("Sigmoid", "logits", "output")]), same),
    "sigmoid_reshape": (network([node("Sigmoid", "logits", "p"), node("Reshape", "p rows", "output")], [ROWS]), same),
    "sigmoid_flatten": (network([node("Sigmoid", "logits", "p"), node("Flatten", "p", "output")], spatial=True), same),
    "spelled_sigmoid": (
        network(
            [
                node("Neg", "logits", "m"),
                node("Exp", "m", "e"),
                node("Add", "e one", "a"),
                node("Div", "one a", "output"),
            ],
            [number("one", 1)],
        ),
        same,
    ),
    "tanh_sigmoid": (
        network(
            [
                node("Mul", "logits half", "h"),
                node("Tanh", "h", "t"),
                node("Mul", "t half", "u"),
                node("Add", "u half", "output"),
            ],
            [number("half", 0.5)],
        ),
        same,
    ),
    "hard_sigmoid": (network([node("HardSigmoid", "logits", "output", alpha=1 / 6, beta=0.5)]), same),
    "mean_of_two": (
        network(
            [
                SOFTMAX,
                node("Mul", "logits half", "h"),
                node("Softmax", "h", "q", axis=1),
                node("Add", "p q", "sum"),
                node("Mul", "sum half", "output"),
            ],
            [number("half", 0.5)],
        ),
        same,
    ),
    "sigmoid_softmax": (network([node("Sigmoid", "logits", "p"), node("Softmax", "p", "output", axis=1)]), same),
}


class Module(torch.nn.Module):
    def __init__(self, end):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), torch.nn.Linear(CHANNELS, CLASSES)
        self.load_state_dict({k: torch.tensor(w, dtype=torch.float32) for k, w in WEIGHTS.items()})
        self.end = end

    def forward(self, x):
        return self.end(self.fc(torch.nn.functional.adaptive_avg_pool2d(self.conv(x).relu(), 1).flatten(1)))


SCRIPTS = {
    "softmax_reshape": (lambda y: y.softmax(1).reshape(-1, CLASSES), same),
    "softmax_unsqueeze": (lambda y: y.softmax(1).unsqueeze(1).squeeze(1), same),
    "softmax_clamp": (lambda y: y.softmax(-1).clamp(0.0, 1.0), same),
    "softmax_percent": (lambda y: y.softmax(1) * 100, lambda y: y / 100),
    "log_softmax": (lambda y: y.log_softmax(1), np.exp),
    "sigmoid": (lambda y: y.sigmoid(), same),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, (model, probabilities) in MODELS.items():
        data = model.SerializeToString()
        (OUT / f"{name}.onnx").write_bytes(data)
        (found,) = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"input": PICTURES})
        found = probabilities(found.reshape(len(PICTURES), -1).astype(np.float64))
        expected[f"{name}.onnx"] = found.tolist()
    for name, (end, probabilities) in SCRIPTS.items():
        module = Module(end).eval()
        pictures = torch.tensor(PICTURES)
        torch.jit.trace(module, pictures, check_trace=False).save(OUT / f"{name}.pt")
        with torch.no_grad():
            expected[f"{name}.pt"] = probabilities(module(pictures).double().numpy()).tolist()
    golden = {"size": SIZE, "pictures": PICTURES.ravel().tolist(), "probabilities": expected}
    (OUT / "expected.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    main()
