"""Writes the small programs of crates/offshoot-formats/tests/golden/pt2: classifiers exported by torch.export, and what each
computes.

    python scripts/golden/pt2.py

logits.json holds, for each file, the input's shape and the logits that PyTorch computes for the input
x[i] = ((7919 i) mod 1000) / 500 - 1 (i counts the elements in row-major order). Traces of the code are left out, since they hold
paths of the machine, and so are the examples of inputs, which are a pickle. JSON is compressed to keep the files small; one file
has its entries as PyTorch writes them.
"""

import io
import json
import pathlib
import warnings
import zipfile

import torch
from torch import nn
from torch.nn import functional as F

from torchscript import pattern, prepared

HERE = pathlib.Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/pt2"
warnings.filterwarnings("ignore")


class Residual(nn.Module):
    """ResNet's basic block, with activations in place."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, groups=2)
        self.bn2 = nn.BatchNorm2d(channels, eps=0.001, momentum=0.01)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x):
        return self.head(self.blocks(self.pool(self.stem(x))))


class Attention(nn.Module):
    """A class token, positions, attention, and a softmax at the end."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 17, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        n = x.shape[0]
        x = self.patches(x).reshape(n, 8, 16).permute(0, 2, 1)
        x = torch.cat([self.token.expand(n, -1, -1), x], dim=1) + self.positions
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(x)
        return F.softmax(self.head(x[:, 0]), dim=-1)


class Mixed(nn.Module):
    """Constants, a buffer that is not persistent, weights that share memory, and operators that become several of ours."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding="same")
        self.again = nn.Conv2d(6, 6, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.register_buffer("shift", torch.linspace(-1, 1, 6).reshape(1, 6, 1, 1), persistent=False)
        self.fc = nn.Linear(6, 3)
        both = nn.Parameter(torch.zeros(2, 6, 6))
        self.both = both
        self.scale = nn.Parameter(torch.full((6, 1, 1), 0.5))

    def forward(self, x):
        x = F.pad(x, (1, 2, 0, 1))
        x = F.silu(self.conv(x)) + self.shift
        x = self.norm(self.again(x)) * self.scale
        a, b = x.chunk(2, dim=1)
        x = torch.cat([F.hardswish(b), torch.where(a > 0, a, a * torch.tensor(0.1))], dim=1)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = x.clamp(min=-1.0).mean([2, 3])
        return self.fc(x @ self.both[0] + x) - torch.tensor([0.5, 0.25, 0.0])


def save(name, program):
    """Writes the program without traces of code and examples."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    stem = name.removesuffix(".pt2")
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(HERE / name, "w") as target:
        for entry in source.namelist():
            inside = entry.split("/", 1)[1]
            content = source.read(entry)
            if inside.endswith("serialization_id"):
                continue
            if inside.startswith("data/sample_inputs"):
                content = b""
            if inside == "models/model.json":
                content = without_traces(content)
            info = zipfile.ZipInfo(f"{stem}/{inside}", (1980, 1, 1, 0, 0, 0))
            stored = "weight_" in inside or name == "tiny_dynamic.pt2"
            target.writestr(info, content, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def without_traces(content):
    model = json.loads(content)
    for node in model["graph_module"]["graph"]["nodes"]:
        stack = node["metadata"].get("nn_module_stack")
        node["metadata"] = {"nn_module_stack": stack} if stack else {}
    return json.dumps(model).encode()


def main():
    HERE.mkdir(exist_ok=True)
    table = {}

    def add(name, model, program, x):
        save(name, program)
        logits = model(x).float()
        table[name] = {"shape": list(x.shape), "logits": logits.flatten().tolist()}

    batch = torch.export.Dim("batch", min=1, max=1024)
    with torch.no_grad():
        for name, model, size in [("tiny", Tiny(), 33), ("attention", Attention(), 16), ("mixed", Mixed(), 7)]:
            model = prepared(model, 3)
            x = pattern((2, 3, size, size))
            program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
            add(f"{name}_dynamic.pt2", model, program, x)
            add(f"{name}_decomposed.pt2", model, program.run_decompositions(), x)
            add(f"{name}_static.pt2", model, torch.export.export(model, (x[:1],), strict=False), x[:1])
        half = prepared(Tiny(), 3).to(torch.bfloat16)
        x = pattern((2, 3, 33, 33))
        program = torch.export.export(half, (x.bfloat16(),), strict=False)
        save("half.pt2", program)
        training = prepared(Tiny(), 3).train()
        save("training.pt2", torch.export.export(training, (x,), strict=False))
    (HERE / "logits.json").write_text(json.dumps(table, indent=1) + "\n")


main()
