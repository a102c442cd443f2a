"""What native code says, to those who hear it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from .errors import OffshootWarning

log = logging.getLogger("offshoot")

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def tell(kind: str, value: Any) -> None:
    """Warns, or writes a note to the logger ``offshoot``."""
    if kind == "warning":
        warnings.warn(value, OffshootWarning, stacklevel=_outside())
    elif kind == "note":
        log.info("%s", value)


def _outside() -> int:
    """How many frames up the caller of the package is."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.dirname(os.path.abspath(frame.f_code.co_filename)) == _PACKAGE:
        frame = frame.f_back
        level += 1
    return level
