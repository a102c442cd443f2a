"""Writes the small TorchScript archives of crates/offshoot-formats/tests/golden/torchscript: classifiers traced, scripted and
frozen by PyTorch, and what each computes.

    python scripts/golden/torchscript.py

logits.json holds, for each file, the input's shape and the logits that PyTorch computes for the input
x[i] = ((7919 i) mod 1000) / 500 - 1 (i counts the elements in row-major order). The code's debug records are left out: they
hold paths of the machine. Code and pickles are compressed to keep the files small; one file has them as PyTorch writes them.
"""

import io
import json
import pathlib
import struct
import warnings
import zipfile

import numpy as np
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/torchscript"
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
    def __init__(self, same=False):
        super().__init__()
        conv = Conv2dSame(3, 8, 3, 2, bias=False) if same else nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x):
        return self.head(self.blocks(self.pool(self.stem(x))))


class Controlled(nn.Module):
    """Branches and loops that the picture's size and constants decide, sizes computed, and a softmax at the end."""

    rounds: int

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding="same")
        self.block = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 4)
        self.rounds = 2
        self.scale = nn.Parameter(torch.full((6, 1, 1), 0.5))
        self.register_buffer("shift", torch.full((1, 6, 1, 1), 0.25))

    def forward(self, x):
        h, w = x.shape[-2:]
        if h < 8 or w < 8:
            raise ValueError("too small")
        pad_h = (-h) % 4
        pad_w = (-w) % 4
        if pad_h > 0 or pad_w > 0:
            x = F.pad(x, [pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2])
        x = F.silu(self.conv(x))
        for i in range(self.rounds):
            x = x + torch.sigmoid(self.block(x)) * 0.5
        n = 0
        while n < 2:
            x = F.avg_pool2d(x, 2)
            n += 1
        x = x * self.scale + self.shift
        x = x.clamp(min=-1.0).mean([2, 3])
        x = x.view(x.size(0), -1)
        return F.softmax(self.fc(x), dim=1)


class Conditional(nn.Module):
    """A branch that the batch decides."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        x = x.mean([2, 3])
        if x.size(0) > 1:
            x = x + 1.0
        return self.fc(x)


def prepared(model, seed):
    """The model for inference, with norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.eval()


def pattern(shape):
    return torch.from_numpy(((7919 * np.arange(np.prod(shape))) % 1000 / 500 - 1).astype(np.float32).reshape(shape))


def save(name, program):
    """Writes the program without its debug records, under the name that PyTorch would give it."""
    buffer = io.BytesIO()
    torch.jit.save(program, buffer)
    stem = name.removesuffix(".pt")
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(HERE / name, "w") as target:
        for entry in sorted(source.namelist(), key=lambda name: (not name.endswith("/data.pkl"), name)):
            if entry.endswith(".debug_pkl") or entry.endswith("serialization_id"):
                continue
            content = source.read(entry)
            if "traced_inputs/" in entry:
                content = bytes(len(content))
            inside = entry.split("/", 1)[1]
            info = zipfile.ZipInfo(f"{stem}/{inside}", (1980, 1, 1, 0, 0, 0))
            tensor = inside.startswith(("data/", "constants/"))
            compress = zipfile.ZIP_STORED if tensor or name == "name_of_21_characters.pt" else zipfile.ZIP_DEFLATED
            target.writestr(info, content, compress)


def add_zip64_records(path):
    """Puts the closing records of zip64 before the plain one, as PyTorch does in every archive."""
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    entries, size, start = struct.unpack("<10xHII", content[end : end + 20])
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 30, 45, 0, 0, entries, entries, size, start)
    locator = struct.pack("<IIQI", 0x07064B50, 0, end, 1)
    path.write_bytes(content[:end] + record + locator + content[end:])


def main():
    HERE.mkdir(exist_ok=True)
    expected = {}

    def case(name, program, shape):
        save(name, program)
        x = pattern(shape)
        y = torch.jit.load(str(HERE / name))(x)
        y = y.log() if name.startswith("controlled") else y
        expected[name] = {"shape": shape, "logits": y.detach().flatten().tolist()}

    with torch.no_grad():
        example = pattern([1, 3, 32, 32])
        tiny, same = prepared(Tiny(), 1), prepared(Tiny(same=True), 2)
        case("tiny_trace.pt", torch.jit.trace(tiny, example), [2, 3, 32, 32])
        case("tiny_script.pt", torch.jit.script(tiny), [2, 3, 224, 224])
        case("tiny_script_frozen.pt", torch.jit.freeze(torch.jit.script(tiny)), [1, 3, 224, 224])
        case("same_trace.pt", torch.jit.trace(same, pattern([1, 3, 33, 33])), [2, 3, 33, 33])
        case("same_script.pt", torch.jit.script(same), [1, 3, 224, 224])
        # With this name the directory's first header is as long as zip64's closing records, which misleads a reader that
        # looks for the directory by its size.
        plain = prepared(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), 5)
        case("name_of_21_characters.pt", torch.jit.trace(plain, example), [1, 3, 32, 32])
        add_zip64_records(HERE / "name_of_21_characters.pt")
        case("controlled.pt", torch.jit.script(prepared(Controlled(), 3)), [2, 3, 224, 224])
        save("conditional.pt", torch.jit.script(prepared(Conditional(), 4)))
        save("training.pt", torch.jit.script(Tiny().train()))
    (HERE / "logits.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
