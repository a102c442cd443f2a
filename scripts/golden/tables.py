"""Writes networks that look words up in a table, and what ONNX Runtime answers: in float, in its own dynamic int8, and in ours.

    python scripts/golden/tables.py target/debug/offshoot

- mean: the mean of the words, two linear layers; uneven: the same, and the rows of the table differ in size a thousand times;
  tied: the table is the matrix of the last product too; gru: a GRU and no linear layer; lstm: an LSTM, before which
  ONNX Runtime's tools move the bytes themselves.
- NAME.onnx by PyTorch's older exporter; NAME.u8.onnx and NAME.i8.onnx by onnxruntime.quantization.quantize_dynamic.
- answers.json: the words and, of each network, the answers of `float`, `u8`, `i8` and `ours`.
"""

import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-formats/tests/golden/tables"
WORDS, WIDTH, STEPS, CLASSES = 300, 16, 7, 3


class Mean(nn.Module):
    def __init__(self, uneven=False, tied=False):
        super().__init__()
        self.table, self.first = nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, WORDS if tied else CLASSES, bias=not tied)
        if uneven:
            with torch.no_grad():
                self.table.weight.mul_(10 ** torch.linspace(-3, 0, WORDS)[torch.randperm(WORDS)][:, None])
        if tied:
            self.last.weight = self.table.weight

    def forward(self, words):
        return self.last(torch.relu(self.first(self.table(words).mean(1))))


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.gru = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, CLASSES, batch_first=True)

    def forward(self, words):
        return self.gru(self.table(words))[0][:, -1]


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.lstm = nn.Embedding(WORDS, WIDTH), nn.LSTM(WIDTH, CLASSES, batch_first=True)

    def forward(self, words):
        return self.lstm(self.table(words))[0][:, -1]


def answer(path, words):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"words": words})[0].ravel().tolist()


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    words = torch.randint(0, WORDS, (5, STEPS))
    words[0, 0], words[0, 1] = 0, -1
    answers = {"words": words.tolist()}
    for name, model in {"mean": Mean(), "uneven": Mean(uneven=True), "tied": Mean(tied=True), "gru": Gru(), "lstm": Lstm()}.items():
        path = OUT / f"{name}.onnx"
        torch.onnx.export(model.eval(), (words.clamp(min=0),), path, input_names=["words"], output_names=["output"],
                          dynamic_axes={"words": {0: "batch_size"}, "output": {0: "batch_size"}}, dynamo=False, opset_version=17)
        files = {"float": path}
        for kind, of in [("u8", QuantType.QUInt8), ("i8", QuantType.QInt8)]:
            files[kind] = OUT / f"{name}.{kind}.onnx"
            quantize_dynamic(path, files[kind], weight_type=of)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.argv[1], "quantize", path, "--mode", "dynamic", "--out", folder]
            subprocess.run(command, check=True, capture_output=True)
            files["ours"] = pathlib.Path(folder) / f"{name}-dynamic-int8.onnx"
            onnx.checker.check_model(str(files["ours"]), full_check=True)
            answers[name] = {kind: answer(file, words.numpy().astype(np.int64)) for kind, file in files.items()}
    (OUT / "answers.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
