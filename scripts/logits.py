"""What the checks of written files against golden logits in PyTorch share.

The logits are a JSON file, {"shape", "logits"}: those for x[i] = ((7919 i) mod 1000) / 500 - 1 of that shape.
"""

import json
import sys

import torch


def pattern(shape):
    """The input of a shape, f64."""
    x = ((7919 * torch.arange(int(torch.tensor(shape).prod()))) % 1000).double() / 500 - 1
    return x.reshape(tuple(shape))


def golden(path):
    """The input, f64, and the logits that it must give."""
    held = json.load(open(path))
    return pattern(held["shape"]), torch.tensor(held["logits"])


def difference(found, wanted, most=1e-5):
    """The largest difference, as a part of the largest logit; it must be within `most`."""
    largest = float((found - wanted.reshape(found.shape)).abs().max() / wanted.abs().max())
    assert largest <= most, f"differs by {largest} of the largest logit"
    return largest


def check_all(kind, compare):
    """Calls `compare(FILE, LOGITS.json)` for each argument FILE=LOGITS.json, and prints one JSON line for each. Exits with 1 when
    something does not hold."""
    failed = False
    for argument in sys.argv[1:]:
        path, _, logits = argument.partition("=")
        try:
            print(json.dumps({kind: path, "difference": compare(path, logits)}))
        except Exception as error:
            failed = True
            print(json.dumps({kind: path, "error": f"{type(error).__name__}: {error}"}))
    sys.exit(failed)
