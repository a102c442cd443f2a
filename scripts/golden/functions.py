#!/usr/bin/env python3
"""Writes crates/offshoot-formats/tests/golden/functions: a small classifier that applies every function of one element and of
two, and every reduction, as both of PyTorch's ONNX exporters and torch.jit.trace write it, and what it computes.

    python scripts/golden/functions.py

logits.json holds the input's shape and the logits that PyTorch computes for x[i] = ((7919 i) mod 1000) / 500 - 1.
"""

import json
import warnings
import zipfile
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/functions"
SHAPE = [2, 3, 6, 6]
warnings.filterwarnings("ignore")


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4 * 28, 3)

    def forward(self, x):
        x = self.conv(x)
        p = torch.sigmoid(x)
        maps = [
            F.relu(x), x.clamp(-0.5, 0.25), F.hardsigmoid(x), F.hardswish(x), torch.erf(x), F.gelu(x), F.silu(x),
            torch.tanh(x), torch.exp(x), torch.log(p), torch.sqrt(p), torch.rsqrt(p), -x, torch.abs(x), F.softplus(x),
            F.mish(x), F.leaky_relu(x, 0.2), F.elu(x), 1 / p, x - p, x / p, torch.maximum(x, p), torch.minimum(x, p), p**x,
        ]
        rows = [p.sum(2), p.mean(3), p.amax(2), p.amin(3), torch.linalg.vector_norm(x, 2, 2)]
        pooled = [m.mean((2, 3)) for m in maps]
        return self.fc(torch.cat(pooled + [sum(r.mean(2) for r in rows)] + [x.amax((2, 3)), x.mean((2, 3)), p.sum((2, 3))], 1))


def without_paths(path):
    """Leaves the records out that hold paths of this machine."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            if not name.endswith(".debug_pkl"):
                stored = zipfile.ZIP_STORED if "/data/" in name or "/constants/" in name else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(name), data, stored)


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = Functions().eval()
    count = torch.tensor(SHAPE).prod()
    x = (((7919 * torch.arange(count)) % 1000) / 500 - 1).reshape(SHAPE)
    names = {"input_names": ["input"], "output_names": ["output"]}
    torch.onnx.export(model, (x,), HERE / "trace.onnx", dynamo=False, opset_version=17, **names,
                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})
    torch.onnx.export(model, (x,), HERE / "dynamo.onnx", dynamo=True, external_data=False, **names,
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    for path in HERE.glob("*.onnx"):
        file = onnx.load(path)
        del file.graph.value_info[:]
        del file.metadata_props[:]
        del file.graph.metadata_props[:]
        for node in file.graph.node:
            node.ClearField("doc_string")
            del node.metadata_props[:]
        path.write_bytes(file.SerializeToString(deterministic=True))
    torch.jit.save(torch.jit.trace(model, x), HERE / "trace.pt")
    without_paths(HERE / "trace.pt")
    with torch.no_grad():
        logits = [float(f"{v:.7g}") for v in model.double()(x.double()).flatten()]
    table = {file: {"shape": SHAPE, "logits": logits} for file in ["trace.onnx", "trace.pt", "dynamo.onnx"]}
    (HERE / "logits.json").write_text(json.dumps(table) + "\n")


if __name__ == "__main__":
    main()
