"""``python -m offshoot`` is the command ``offshoot``."""

from ._command import main

main()
