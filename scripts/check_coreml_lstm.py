"""Checks how coreml.py computes Core ML's `lstm`: coremltools converts an nn.LSTM, and its program must compute what PyTorch does.

    python scripts/check_coreml_lstm.py          coremltools, torch
"""

import warnings

import coremltools
import numpy as np
import torch
from coreml import lstm
from torch import nn


class Network(nn.Module):
    """coremltools converts no bare nn.LSTM."""

    def __init__(self, bidirectional):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, bidirectional=bidirectional)

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        return y, h, c


def program(model, x):
    """What coremltools writes of `model`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return coremltools.convert(
            torch.jit.trace(model, (x,)),
            inputs=[coremltools.TensorType(shape=x.shape)],
            convert_to="milinternal",
            minimum_deployment_target=coremltools.target.iOS16,
        )


for bidirectional in (False, True):
    torch.manual_seed(0)
    model, x = Network(bidirectional).eval(), torch.randn(4, 3, 6)
    (op,) = [op for f in program(model, x).functions.values() for op in f.operations if op.op_type == "lstm"]
    found = lstm(op, x, lambda var: torch.from_numpy(np.array(var.val)))
    y, *states = model(x)
    wanted = y, *(state.transpose(0, 1).flatten(1) for state in states)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and float((a - b).abs().max()) <= 1e-6, (bidirectional, a, b)
