"""Checks TorchScript files that offshoot wrote with PyTorch.

    python scripts/check_torchscript.py FILE=LOGITS.json ...

Each FILE must load with torch.jit.load. LOGITS.json is {"shape", "logits"}: what the FILE must compute for
x[i] = ((7919 i) mod 1000) / 500 - 1, within 1e-5 of the largest logit. One JSON line a file; exit code 1 when something does
not hold.
"""

import warnings

import torch
from logits import check_all, difference, golden

warnings.filterwarnings("ignore", category=DeprecationWarning)


def compare(path, logits):
    x, wanted = golden(logits)
    return difference(torch.jit.load(path)(x.float()), wanted)


check_all("file", compare)
