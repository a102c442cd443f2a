"""Which model: the arguments that several functions share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

Path = str | os.PathLike[str]
# A path, or the model that one was loaded from.
Given = Path | dict[str, Any]


def path(given: Path | None) -> str | None:
    """A path as text."""
    if given is None:
        return None
    text = os.fspath(given)
    if not isinstance(text, str):
        raise TypeError(f"give a path as a str or a pathlib.Path, not {type(given).__name__}")
    return text


def source(
    given: Path | None,
    *,
    model: str | None = None,
    weights: Path | None = None,
    last: bool = False,
    size: int | None = None,
    fit: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> dict[str, Any]:
    """A model as native code takes it."""
    if fit is not None and fit not in ("crop", "pad", "stretch"):
        raise ValueError(f"fit: {fit!r} is none of crop, pad, stretch")
    return {
        "path": path(given),
        "model": model,
        "weights": path(weights),
        "last": bool(last),
        "size": size,
        "fit": fit,
        "mean": None if mean is None else [float(x) for x in mean],
        "std": None if std is None else [float(x) for x in std],
    }
