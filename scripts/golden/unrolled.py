"""Writes recurrent networks that PyTorch's newer exporter unrolls: each step is a product with the same weights.

    python scripts/golden/unrolled.py

- rnn.onnx: an nn.RNN; gru.onnx: steps of an nn.GRUCell, as the exporter leaves a GRU that it has no operator for.
- scaled.onnx: steps of one Gemm with factors.
- answers.json: the input and, of each file, PyTorch's output; of scaled.onnx ONNX Runtime's.
"""

import json
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-formats/tests/golden/unrolled"
WIDTH, CLASSES = 4, 3


class Rnn(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn, self.head = nn.RNN(WIDTH, hidden, batch_first=True), nn.Linear(hidden, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Gru(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.cell, self.head, self.hidden = nn.GRUCell(WIDTH, hidden), nn.Linear(hidden, CLASSES), hidden

    def forward(self, x):
        h = torch.zeros(x.shape[0], self.hidden)
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        return self.head(h)


def scaled(steps=6, hidden=16):
    numbers = np.random.default_rng(0)
    weight, bias = numbers.standard_normal((hidden, hidden)).astype(np.float32), numbers.standard_normal(hidden).astype(np.float32)
    nodes, x = [], "input"
    for step in range(steps):
        y = "output" if step == steps - 1 else f"y{step}"
        nodes.append(helper.make_node("Gemm", [x, "weight", "bias"], [y], f"step{step}", transB=1, alpha=0.25, beta=2.0))
        x = y
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", hidden]) for name in ["input", "output"]]
    tensors = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "scaled", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), OUT / "scaled.onnx")
    x = numbers.standard_normal((3, hidden)).astype(np.float32)
    (y,) = onnxruntime.InferenceSession(OUT / "scaled.onnx").run(None, {"input": x})
    return {"steps": steps, "input": x.ravel().tolist(), "output": y.ravel().tolist()}


def main():
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    answers = {"scaled": scaled()}
    for name, model, steps in [("rnn", Rnn(128), 128), ("gru", Gru(24), 12)]:
        x = torch.randn(2, steps, WIDTH)
        path = OUT / f"{name}.onnx"
        torch.onnx.export(model.eval(), (x,), path, input_names=["input"], output_names=["output"], dynamo=True,
                          external_data=False, verbose=False)
        # Where in PyTorch a node comes from takes more room than the network.
        file = onnx.load(path)
        for entry in [*file.graph.node, *file.graph.value_info, *file.graph.input, *file.graph.output, *file.graph.initializer]:
            del entry.metadata_props[:]
        del file.graph.value_info[:]
        onnx.save(file, path)
        x = torch.round(x * 64) / 64
        answers[name] = {"steps": steps, "input": x.ravel().tolist(), "output": model(x).ravel().tolist()}
    (OUT / "answers.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
