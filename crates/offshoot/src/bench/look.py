"""Prints, as JSON, where this Python has the library of ONNX Runtime (null where it has none) and whether it has PyTorch."""
import sys

sys.path[:] = [folder for folder in sys.path if folder]  # nothing from the working folder

import importlib.util
import json
import os


def folder(package):
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = spec.submodule_search_locations if spec else None
    return list(places)[0] if places else None


def library(package):
    capi = os.path.join(package, "capi")
    names = sorted(os.listdir(capi)) if os.path.isdir(capi) else []
    for name in names:
        plain = name.startswith("libonnxruntime.") and (".so" in name or name.endswith(".dylib"))
        if plain or name == "onnxruntime.dll":
            return os.path.join(capi, name)
    return None


runtime = folder("onnxruntime")
print(json.dumps({"onnxruntime": runtime and library(runtime), "torch": folder("torch") is not None}))
