#!/usr/bin/env python3
"""Writes the files of weights that crates/offshoot-formats/tests/all/weights.rs reads.

Every file is written by PyTorch or safetensors, and `expected.json` says what PyTorch reads back from it.
Needs torch, numpy and safetensors. Storage keys of the legacy layout are addresses, so those files differ from run to
run. The malicious files are written here and never loaded.
"""

import argparse
import collections
import enum
import io
import json
import os
import pathlib
import pickle
import sys
import zipfile

import numpy
import torch
from safetensors.torch import load_file, save_file

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-formats/tests/golden/weights"
EXPECTED = {}


def describe(tensor):
    tensor = tensor.detach()
    wide = tensor.double() if tensor.is_floating_point() else tensor.to(torch.int64)
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "values": wide.flatten().tolist(),
    }


def expect(name, state):
    EXPECTED[name] = {key: describe(value) for key, value in state.items() if isinstance(value, torch.Tensor)}


def save(name, obj, legacy=False, **options):
    torch.save(obj, OUT / name, _use_new_zipfile_serialization=not legacy, **options)


def load(name):
    return torch.load(OUT / name, weights_only=False)


def dtypes():
    make = torch.Generator().manual_seed(0)
    floats = torch.randn(2, 3, generator=make)
    state = collections.OrderedDict()
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        state[f"float.{str(dtype).removeprefix('torch.')}"] = floats.to(dtype)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        low = 0 if dtype == torch.uint8 else torch.iinfo(dtype).min
        state[f"int.{str(dtype).removeprefix('torch.')}"] = torch.tensor([low, 1, 2, torch.iinfo(dtype).max], dtype=dtype)
    state["bool"] = torch.tensor([[True, False], [False, True]])
    state["scalar"] = torch.tensor(1.5)
    state["bn.num_batches_tracked"] = torch.tensor(7)
    state["empty"] = torch.zeros(0, 3)
    return state


def unsigned():
    """Types that PyTorch saves through `_rebuild_tensor_v3`, in the zip layout only."""
    return {
        "uint16": torch.tensor([0, 1, 65535], dtype=torch.uint16),
        "uint32": torch.tensor([[0, 1, 2**32 - 1]], dtype=torch.uint32),
    }


def views():
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "whole": base,
        "transposed": base[0].t(),
        "permuted": base.permute(2, 0, 1),
        "offset": base[1, 1:, ::2],
        "column": base[:, 1, 2],
        "last": base[1, 2, 3],
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 5),
        "channels_last": torch.arange(36.0).reshape(1, 3, 3, 4).contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.tensor([3.0, 4.0])),
        "none": torch.zeros(2, 0, 3).transpose(0, 2),
    }


# Made by a call, so that the legacy layout finds no source code to save with it.
Tiny = type("Tiny", (torch.nn.Module,), {"__module__": "__main__"})


class Colour(enum.Enum):
    RED = 1


class Settings:
    def __init__(self):
        self.depth = 3


def training_checkpoint():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 1, 5, 5)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "best_acc1": torch.tensor(0.5),
        "accuracy": numpy.float64(0.25),
        "history": numpy.arange(3.0),
        "arch": "tiny",
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/data")),
        "device": torch.device("cpu"),
        "settings": Settings(),
        "seen": {1, 2},
        "counts": collections.defaultdict(int, a=1),
        "big": 2**70,
        "state_dict": collections.OrderedDict((f"module.{k}", v) for k, v in model.state_dict().items()),
        "optimizer": optimizer.state_dict(),
    }


class Evil:
    """Asks whoever unpickles it to run a command."""

    def __reduce__(self):
        return os.system, ("touch offshoot-ran-a-pickle",)


def rewrite(source, target, change=lambda name, data: data, **options):
    """Copies a zip archive with each entry's content changed."""
    with zipfile.ZipFile(OUT / source) as old, zipfile.ZipFile(OUT / target, "w", **options) as new:
        for entry in old.namelist():
            info = zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0))
            new.writestr(info, change(entry, old.read(entry)), options.get("compression"))


def swapped(name, data):
    if name.endswith("byteorder"):
        return b"big"
    return numpy.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name in ("zip", "legacy"):
        legacy = name == "legacy"
        for what, make in (("dtypes", dtypes), ("views", views)):
            save(f"{what}-{name}.pth", make(), legacy)
            expect(f"{what}-{name}.pth", load(f"{what}-{name}.pth"))
        save(f"wrapped-{name}.pth", training_checkpoint(), legacy)
        state = load(f"wrapped-{name}.pth")["state_dict"]
        expect(f"wrapped-{name}.pth", {k.removeprefix("module."): v for k, v in state.items()})
        save(f"evil-{name}.pth", {"state_dict": {"w": torch.ones(2)}, "note": Evil()}, legacy)
        save(f"module-{name}.pth", {"model": Tiny()}, legacy)
        for protocol in (3, 4, 5):
            file = f"protocol{protocol}-{name}.pth"
            save(file, {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}, legacy, pickle_protocol=protocol)
            expect(file, load(file))

    save("unsigned-zip.pth", unsigned())
    expect("unsigned-zip.pth", load("unsigned-zip.pth"))
    save("enum-zip.pth", {"state_dict": {"w": torch.ones(2)}, "colour": Colour.RED})
    save("complex-zip.pth", {"w": torch.ones(2), "c": torch.ones(2, dtype=torch.complex64)})
    save("sparse-zip.pth", {"w": torch.eye(2).to_sparse()})
    save("no-tensors-zip.pth", {"epoch": 1, "name": "x"})
    save("compiled-zip.pth", {f"_orig_mod.module.{k}": v for k, v in (("w", torch.ones(1)), ("b", torch.zeros(1)))})
    expect("compiled-zip.pth", {"w": torch.ones(1), "b": torch.zeros(1)})
    save("extras-zip.pth", {"w": torch.ones(1), "_extra_state": {"a": 1}, "scale": 0.5, "where": pathlib.PurePosixPath("x")})
    expect("extras-zip.pth", {"w": torch.ones(1)})
    nested = {"w": torch.ones(1), "buffers": [torch.zeros(2)], "packed": ("a", {"b": torch.ones(1)}), "lr": [0.1]}
    save("nested-zip.pth", nested)
    save("ema-zip.pth", {"ema": {"w": torch.zeros(1)}, "model": {"w": torch.ones(1)}})
    expect("ema-zip.pth", {"w": torch.ones(1)})

    save("plain-zip.pth", {"w": torch.arange(6.0).reshape(2, 3), "t": torch.arange(6.0).reshape(2, 3).t()})
    rewrite("plain-zip.pth", "big-endian-zip.pth", swapped)
    rewrite("plain-zip.pth", "deflated-zip.pth", compression=zipfile.ZIP_DEFLATED)
    torch.serialization.set_crc32_options(False)
    save("no-checksums-zip.pth", load("plain-zip.pth"))
    torch.serialization.set_crc32_options(True)
    for file in ("plain-zip.pth", "big-endian-zip.pth", "deflated-zip.pth", "no-checksums-zip.pth"):
        expect(file, load(file))

    script = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), script)
    (OUT / "torchscript.pt").write_bytes(script.getvalue())
    (OUT / "numpy.pkl").write_bytes(pickle.dumps({"w": numpy.ones(2)}, protocol=2))

    tensors = {key: value.contiguous() for key, value in {**dtypes(), **unsigned()}.items()}
    save_file(tensors, OUT / "dtypes.safetensors", {"format": "pt", "note": "ü"})
    expect("dtypes.safetensors", load_file(OUT / "dtypes.safetensors"))
    save_file({"w": torch.ones(2).to(torch.float8_e4m3fn)}, OUT / "float8.safetensors")

    with open(OUT / "expected.json", "w") as file:
        json.dump(EXPECTED, file, indent=0, sort_keys=True)
        file.write("\n")
    total = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{len(list(OUT.iterdir()))} files, {total} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
