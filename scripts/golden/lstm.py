"""Writes recurrent networks as ONNX files, in float and in ONNX Runtime's dynamic int8, and what ONNX Runtime answers.

    python scripts/golden/lstm.py

- last.onnx: two layers, bidirectional, the last step (PyTorch's older exporter); mean.onnx: the mean over the steps (its newer
  one); hidden.onnx: the last state; reverse.onnx: from the last step to the first, without a bias.
- NAME.int8.onnx: the same through onnxruntime.quantization.quantize_dynamic.
- answers.json: the input and, of each file, the output.
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-formats/tests/golden/lstm"
STEPS, WIDTH, HIDDEN, CLASSES = 5, 6, 7, 3


class Network(nn.Module):
    def __init__(self, end, **options):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, HIDDEN, batch_first=True, **options)
        self.head = nn.Linear(HIDDEN * (2 if options.get("bidirectional") else 1), CLASSES)
        self.end = end

    def forward(self, x):
        return self.head(self.end(*self.lstm(x)))


def export(name, model, dynamo):
    x = torch.randn(2, STEPS, WIDTH)
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch_size")},)} if dynamo else \
        {"dynamic_axes": {"input": {0: "batch_size"}, "output": {0: "batch_size"}}, "opset_version": 17}
    torch.onnx.export(model.eval(), (x,), OUT / f"{name}.onnx", input_names=["input"], output_names=["output"], dynamo=dynamo,
                      verbose=False, **shapes, **({"external_data": False} if dynamo else {}))


def reverse():
    random = np.random.default_rng(3)
    weights = {"w": (1, 4 * HIDDEN, WIDTH), "r": (1, 4 * HIDDEN, HIDDEN), "head": (HIDDEN, CLASSES)}
    weights = [numpy_helper.from_array(random.normal(0, 0.4, shape).astype("f4"), name) for name, shape in weights.items()]
    zero = numpy_helper.from_array(np.array(0), "zero")
    nodes = [
        helper.make_node("Transpose", ["input"], ["steps"], "steps", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["", "h"], "lstm", direction="reverse", hidden_size=HIDDEN,
                         activations=["Sigmoid", "Tanh", "Tanh"]),
        helper.make_node("Gather", ["h", "zero"], ["state"], "state", axis=0),
        helper.make_node("MatMul", ["state", "head"], ["output"], "head"),
    ]
    value = lambda name, dims: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", *dims])
    graph = helper.make_graph(nodes, "reverse", [value("input", [STEPS, WIDTH])], [value("output", [CLASSES])], [*weights, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, OUT / "reverse.onnx")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    export("last", Network(lambda y, _: y[:, -1], num_layers=2, bidirectional=True), False)
    export("mean", Network(lambda y, _: y.mean(1)), True)
    export("hidden", Network(lambda _, states: states[0][-1]), False)
    reverse()
    x = np.random.default_rng(0).normal(size=(4, STEPS, WIDTH)).astype("f4")
    answers = {"input": {"shape": x.shape, "values": x.ravel().tolist()}}
    for name in ["last", "mean", "hidden", "reverse"]:
        quantize_dynamic(OUT / f"{name}.onnx", OUT / f"{name}.int8.onnx", weight_type=QuantType.QInt8)
        for file in [f"{name}.onnx", f"{name}.int8.onnx"]:
            # With several threads it splits the batch, and each part of h has a scale of its own.
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(OUT / file, options, providers=["CPUExecutionProvider"])
            answers[file] = session.run(None, {"input": x})[0].ravel().tolist()
    (OUT / "answers.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
