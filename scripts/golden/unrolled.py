"""Writes recurrent networks that PyTorch's newer exporter unrolls: each step is a product with the same weights.

    python scripts/golden/unrolled.py

- rnn.onnx: an nn.RNN; gru.onnx: steps of an nn.GRUCell, as the exporter leaves a GRU that it has no operator for.
- answers.json: the input and, of each file, PyTorch's output.
"""

import json
import pathlib
import warnings

import onnx
import torch
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


def main():
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    answers = {}
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
