"""What can go wrong. The text of each exception is the message of the command ``offshoot``."""

from __future__ import annotations

import os
from pathlib import Path


class OffshootError(Exception):
    """An error of any part of offshoot.

    ``file`` is the file or folder that cannot be used, where the error is about one. ``remedies`` are the names of the settings that the
    message tells to change.
    """

    file: Path | None
    remedies: list[str]

    def __init__(self, message: str, file: str | os.PathLike[str] | None = None, remedies: list[str] | None = None) -> None:
        super().__init__(message)
        self.file = None if file is None else Path(file)
        self.remedies = remedies or []


class FileError(OffshootError):
    """A model file cannot be read or written."""


class DataError(OffshootError):
    """A folder of pictures cannot be used."""


class PictureError(OffshootError):
    """A picture cannot be used."""


class ModelError(OffshootError):
    """Weights, graph and architecture do not fit each other, or there is no such architecture."""


class InputError(OffshootError, ValueError):
    """A setting cannot be used, or something that is needed is missing."""


class TrainingError(OffshootError):
    """A run directory cannot be used, or training failed."""


class QuantizationError(OffshootError):
    """A model cannot be quantized."""


class NetworkError(OffshootError):
    """A network cannot run, or gives NaN or infinities."""


class OffshootWarning(UserWarning):
    """Something that is no error and may spoil a result."""
