"""Writes text classifiers as ONNX files, and what PyTorch and ONNX Runtime answer: in float, and in dynamic int8 as offshoot makes it.

    python scripts/golden/text.py target/release/offshoot

- lstm: an embedding, two LSTM layers, the last state; lstm_both: bidirectional, the last step, of any number of steps.
- encoder: embeddings of tokens and positions, two layers of attention, the mean over the steps; sinusoids: positions that are
  stored as a tensor, GELU and ReLU, the norm first; masked: a token 0 is padding, in the attention and in the mean; two_inputs:
  an attention mask as a second input; bert: the same as Hugging Face's models have it.
- NAME.script.onnx is by PyTorch's older exporter, NAME.onnx by its newer one; a number of steps that the file leaves open is
  called `steps`.
- answers.json: of each file the inputs and the answers of PyTorch, ONNX Runtime and, for the file in int8, ONNX Runtime.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile
import warnings

import onnx
import onnxruntime
import torch
from torch import nn

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-formats/tests/golden/text"
WORDS, STEPS, WIDTH, HEADS, CLASSES = 60, 9, 16, 4, 3


class Recurrent(nn.Module):
    def __init__(self, both):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(WIDTH * (2 if both else 1), CLASSES)
        self.both = both

    def forward(self, ids):
        steps, (last, _) = self.lstm(self.embedding(ids))
        return self.head(steps[:, -1] if self.both else last[-1])


class Encoder(nn.Module):
    def __init__(self, sinusoids=False, masked=False):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.masked = masked
        if sinusoids:
            place, period = torch.arange(STEPS)[:, None], torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(1e4) / WIDTH))
            waves = torch.stack([torch.sin(place * period), torch.cos(place * period)], 2).reshape(1, STEPS, WIDTH)
            self.register_buffer("waves", waves)
            self.positions = None
        else:
            self.positions = nn.Embedding(STEPS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, activation="relu" if sinusoids else "gelu", batch_first=True,
                                           norm_first=sinusoids)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            for parameter in self.encoder.layers[1].parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))

    def forward(self, ids, mask=None):
        steps = ids.shape[1]
        x = self.embedding(ids) + (self.waves[:, :steps] if self.positions is None else self.positions(torch.arange(steps)))
        if not self.masked:
            return self.head(self.encoder(x).mean(1))
        padding = ids == 0 if mask is None else mask == 0
        x = self.encoder(x, src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1).to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))


class Bert(nn.Module):
    """As models of Hugging Face are written: stored positions, types of tokens, a sum for the mask, a pooler."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.types = nn.Embedding(WORDS, WIDTH), nn.Embedding(STEPS, WIDTH), nn.Embedding(2, WIDTH)
        self.register_buffer("position_ids", torch.arange(STEPS).expand(1, -1))
        self.register_buffer("token_type_ids", torch.zeros(1, STEPS, dtype=torch.long))
        self.norm, self.pooler, self.head = nn.LayerNorm(WIDTH, eps=1e-12), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        linear = lambda: nn.Linear(WIDTH, WIDTH)
        self.query, self.key, self.value, self.out, self.after = linear(), linear(), linear(), linear(), nn.LayerNorm(WIDTH)

    def forward(self, ids, mask):
        rows, steps = ids.shape
        types = self.types(self.token_type_ids[:, :steps].expand(rows, steps))
        x = self.norm(self.words(ids) + types + self.places(self.position_ids[:, :steps]))
        heads = lambda x: x.view(rows, steps, HEADS, -1).permute(0, 2, 1, 3)
        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        hidden = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + hidden
        mixed = (torch.softmax(scores, -1) @ value).permute(0, 2, 1, 3).contiguous().view(rows, steps, -1)
        return self.head(torch.tanh(self.pooler(self.after(x + self.out(mixed))[:, 0])))


def export(path, model, inputs, names, newer):
    axes = {0: "batch_size", 1: "steps"}
    if newer:
        shapes = {"dynamic_shapes": tuple({i: torch.export.Dim(name, **({"max": STEPS} if i else {})) for i, name in axes.items()}
                                          for _ in inputs), "external_data": False}
    else:
        shapes = {"dynamic_axes": {**{name: axes for name in names}, "logits": {0: "batch_size"}}, "opset_version": 17}
    torch.onnx.export(model, inputs, path, input_names=names, output_names=["logits"], dynamo=newer, verbose=False, **shapes)
    # Where in PyTorch a node comes from takes more room than the network.
    file = onnx.load(path)
    for entry in [*file.graph.node, *file.graph.value_info, *file.graph.input, *file.graph.output, *file.graph.initializer]:
        del entry.metadata_props[:]
    onnx.save(file, path)


def answer(path, inputs):
    # With several threads it splits the batch of an LSTM, and each part of h has a scale of its own.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0].ravel().tolist()


def main(offshoot):
    OUT.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    models = {"lstm": Recurrent(False), "lstm_both": Recurrent(True), "encoder": Encoder(), "sinusoids": Encoder(sinusoids=True),
              "masked": Encoder(masked=True), "two_inputs": Encoder(masked=True), "bert": Bert()}
    answers = {}
    for name, model in models.items():
        model.eval()
        ids = torch.randint(1, WORDS, (3, STEPS))
        for row, length in enumerate([STEPS, 5, 2]):
            if name in ["masked", "two_inputs", "bert"]:
                ids[row, length:] = 0
        inputs = (ids, (ids != 0).long()) if name in ["two_inputs", "bert"] else (ids,)
        names = ["ids", "mask"][: len(inputs)]
        for newer in {"masked": [False], "sinusoids": [True], "two_inputs": [True]}.get(name, [False, True]):
            # PyTorch's own attention has the number of steps as it was exported, by the older exporter.
            free = newer or name in ["lstm", "lstm_both", "bert"]
            file = f"{name}.onnx" if newer else f"{name}.script.onnx"
            export(OUT / file, model, inputs, names, newer)
            given = {key: x.numpy() for key, x in zip(names, inputs)}
            with tempfile.TemporaryDirectory() as folder:
                command = [offshoot, "quantize", OUT / file, "--mode", "dynamic", "--out", folder]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                [int8] = pathlib.Path(folder).iterdir()
                with torch.no_grad():
                    answers[file] = {"free": free, "inputs": {key: x.tolist() for key, x in given.items()},
                                     "pytorch": model(*inputs).ravel().tolist(), "float": answer(OUT / file, given),
                                     "int8": answer(int8, given), "bytes": [path.stat().st_size for path in [OUT / file, int8]]}
    (OUT / "answers.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
