"""Checks TorchScript files that offshoot wrote with PyTorch.

    python scripts/check_torchscript.py FILE=LOGITS.json ...

Each FILE must load with torch.jit.load. LOGITS.json is {"shape", "logits"}: what the FILE must compute for
x[i] = ((7919 i) mod 1000) / 500 - 1, within 1e-5 of the largest logit. One JSON line a file; exit code 1 when something does
not hold.
"""

import json
import sys
import warnings

import torch

warnings.filterwarnings("ignore", category=DeprecationWarning)


def compare(path, logits):
    golden = json.load(open(logits))
    count = int(torch.tensor(golden["shape"]).prod())
    x = ((7919 * torch.arange(count)) % 1000) / 500 - 1
    y = torch.jit.load(path)(x.reshape(golden["shape"])).flatten()
    wanted = torch.tensor(golden["logits"])
    difference = float((y - wanted).abs().max() / wanted.abs().max())
    assert difference <= 1e-5, f"differs by {difference} of the largest logit"
    return difference


failed = False
for argument in sys.argv[1:]:
    path, _, logits = argument.partition("=")
    try:
        print(json.dumps({"file": path, "difference": compare(path, logits)}))
    except Exception as error:
        failed = True
        print(json.dumps({"file": path, "error": str(error)}))
sys.exit(failed)
