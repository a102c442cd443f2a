"""The command ``offshoot``, which the wheel installs."""

from __future__ import annotations

import signal
import sys

from . import _offshoot


def main() -> None:
    """Runs the command with the arguments of this process."""
    # The command watches signals by itself, as the program of Rust does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_offshoot.command(["offshoot", *sys.argv[1:]]))
