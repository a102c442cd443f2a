"""What the commands do, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as _Path
from typing import Any

from . import _offshoot
from ._source import Given, Path, path, source
from ._told import tell
from .results import (
    Accepted,
    ClassResult,
    Comparison,
    Evaluation,
    Exported,
    LabelEvaluation,
    LabelResult,
    Pulled,
    Quantized,
    Rejection,
    TargetEvaluation,
    TargetResult,
)


def _model(given: Given, changes: dict[str, Any]) -> dict[str, Any]:
    """The model of a path, or that of a loaded one."""
    if isinstance(given, dict):
        if changes:
            raise TypeError(f"{', '.join(changes)}: give it where the model is loaded")
        return given
    known = ("weights", "last", "size", "fit", "mean", "std")
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
    if changes.get("weights") is not None:
        return source(None, model=str(given), **changes)
    return source(given, **changes)


def evaluate(
    model: Given,
    data: Path | None = None,
    *,
    tta: str = "off",
    strict: bool = False,
    **changes: Any,
) -> Evaluation | LabelEvaluation | TargetEvaluation:
    """Measures a model on a folder of pictures, with a folder for each class; a model of several labels or of numbers on a table.

    Without ``data``, a run is measured on its own validation pictures. ``tta`` averages over views of each picture: "off", "flip" or
    "ten". With ``strict``, a picture that cannot be read is an error. ``changes`` are those of :func:`offshoot.load`.

    >>> offshoot.evaluate("run", "data/val").images
    8
    """
    given = {"source": _model(model, changes), "data": path(data), "tta": tta, "strict": bool(strict)}
    found = _offshoot.evaluate(given, tell)
    if "mae" in found:
        targets = found.pop("per_target").items()
        return TargetEvaluation(**found, per_target=[TargetResult(name, **figures) for name, figures in targets])
    classes = found.pop("per_class").items()
    if "map" in found:
        return LabelEvaluation(**found, per_class=[LabelResult(name, **figures) for name, figures in classes])
    found["coverage"] = [Accepted(**accepted) for accepted in found["coverage"]]
    if "rejection" in found:
        found["rejection"] = Rejection(**found["rejection"])
    return Evaluation(**found, per_class=[ClassResult(name, **figures) for name, figures in classes])


def _calibration(
    calibration: Path | None, calibration_pictures: int | None, method: str | None
) -> dict[str, Any]:
    return {"calibration": path(calibration), "calibration_pictures": calibration_pictures, "method": method}


def export(
    model: Given,
    format: str | Sequence[str] = "onnx",
    *,
    out: Path | None = None,
    data: Path | None = None,
    script: bool = False,
    opset: int | None = None,
    with_preprocess: bool = False,
    precision: str | None = None,
    calibration: Path | None = None,
    calibration_pictures: int | None = None,
    method: str | None = None,
    batch_min: int | None = None,
    batch_opt: int | None = None,
    batch_max: int | None = None,
    trtexec: Path | None = None,
    **changes: Any,
) -> Any:
    """Writes a model in another format. What was written is read back, run beside the model, and kept only if the outputs match.

    ``format`` is "onnx", "torchscript", "pt2", "coreml", "litert", "tensorrt" or "triton", or a list of them, of which it gives a list.
    ``out`` is a folder, or the file of the one format; without it, files go into the run's ``exports``, or beside the model.
    ``data`` is a folder of pictures to compare on. The other options are those of ``offshoot export``, and those of :func:`offshoot.load`.

    >>> exported = offshoot.export("run", "onnx")
    >>> exported.path.name, exported.top1_agreement
    ('resnet18.onnx', 1.0)
    """
    formats = [format] if isinstance(format, str) else list(dict.fromkeys(format))
    given = {
        "source": _model(model, changes),
        "formats": formats,
        "out": path(out),
        "data": path(data),
        "script": bool(script),
        "opset": opset,
        "with_preprocess": bool(with_preprocess),
        "precision": precision,
        "calibration": _calibration(calibration, calibration_pictures, method),
        "batch_min": batch_min,
        "batch_opt": batch_opt,
        "batch_max": batch_max,
        "trtexec": path(trtexec),
    }
    files = [_exported(file) for file in _offshoot.export(given, tell)]
    return files[0] if isinstance(format, str) else files


def _exported(file: dict[str, Any]) -> Exported:
    engine = file.pop("engine", None)
    return Exported(path=_Path(file.pop("path")), engine=None if engine is None else _Path(engine), **file)


def quantize(
    model: Given,
    mode: str = "static",
    *,
    format: str = "onnx",
    out: Path | None = None,
    data: Path | None = None,
    opset: int | None = None,
    calibration: Path | None = None,
    calibration_pictures: int | None = None,
    method: str | None = None,
    weight_bits: int | None = None,
    max_drop: float | None = None,
    qat: int = 0,
    **changes: Any,
) -> Quantized:
    """Quantizes a model to int8.

    ``mode`` is "static" (weights and activations, with ranges from calibration pictures) or "dynamic" (weights of linear layers). The
    other options are those of ``offshoot quantize``, and those of :func:`offshoot.load`.
    """
    given = {
        "source": _model(model, changes),
        "mode": mode,
        "format": format,
        "out": path(out),
        "data": path(data),
        "opset": opset,
        "calibration": _calibration(calibration, calibration_pictures, method),
        "weight_bits": weight_bits,
        "max_drop": max_drop,
        "qat": qat,
    }
    found = _offshoot.quantize(given, tell)
    return Quantized(path=_Path(found.pop("path")), **found)


def verify(
    file: Path,
    against: Given,
    *,
    data: Path | None = None,
    inputs: Path | None = None,
    tolerance: float | None = None,
    **changes: Any,
) -> Comparison:
    """Compares the outputs of a file with those of a model. As a condition, the result is whether they match.

    They are compared on the pictures in ``data``, else on the run's validation pictures, else on built-in ones; or on the arrays of
    ``inputs``, a file of ``numpy.savez``. ``tolerance`` is the largest difference allowed, relative to the largest logit.
    """
    given = {
        "file": path(file),
        "against": _model(against, changes),
        "data": path(data),
        "inputs": path(inputs),
        "tolerance": tolerance,
    }
    found, count, allowed = _offshoot.verify(given, tell)
    return Comparison(**found, inputs=count, tolerance=allowed)


def models() -> list[dict[str, Any]]:
    """The architectures: name, size, parameters, and where published weights are.

    >>> [model["size"] for model in offshoot.models() if model["name"] == "resnet18"]
    [224]
    """
    return _offshoot.models()


def pull(name: str, out: Path | None = None, *, base_url: str | None = None) -> Pulled:
    """Downloads the published weights of an architecture and checks their hash.

    ``name`` is that of an architecture, or with the version of its weights, such as "resnet50.V1". ``base_url`` takes the place of the
    authors' servers.
    """
    found = _offshoot.pull(name, path(out), base_url)
    return Pulled(path=_Path(found.pop("path")), **found)


def inspect(file: Path) -> dict[str, Any]:
    """Describes a model file: inputs, outputs, classes, preprocessing, operators."""
    return _offshoot.inspect(path(file))


def configure(
    *,
    threads: int | None = None,
    isa: str | None = None,
    memory_limit: int | None = None,
    max_megapixels: int | None = None,
) -> tuple[str, int]:
    """Chooses how this process computes from now on, and gives the name of the instruction set and the number of threads.

    ``threads`` are all of the machine's by default; results do not depend on them. ``isa`` is "portable", "avx2", "avx512", "avx512bf16" or
    "neon". ``memory_limit`` is the most memory in MiB for the pictures and activations of a batch, and ``max_megapixels`` the most pixels of
    a picture, in millions. Models that are loaded already go on as before.
    """
    return _offshoot.configure(threads, isa, memory_limit, max_megapixels)
