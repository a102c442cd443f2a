#!/usr/bin/env python3
"""Temperatures fitted by PyTorch and expected calibration errors.

    calibration.py      writes crates/offshoot-train/tests/golden/calibration.json
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-train/tests/golden/calibration.json"


def fitted(logits, labels):
    log = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log], lr=0.5, max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log.exp().item()


def error(logits, labels, bins=15):
    """The definition of Guo and others, written as in their published code."""
    confidence, best = F.softmax(logits, 1).max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    total = 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = (confidence[inside].mean() - (best[inside] == labels[inside]).double().mean()).abs()
            total += (gap * inside.double().mean()).item()
    return total


def main():
    torch.manual_seed(3)
    cases = []
    for n, c, sharpness, scale in ((60, 3, 1.0, 4.0), (80, 6, 2.0, 0.5), (40, 2, 1.5, 1.0)):
        labels = torch.randint(c, (n,))
        logits = scale * (torch.randn(n, c) + sharpness * F.one_hot(labels, c))
        logits = (logits * 1000).round().double() / 1000
        temperature = fitted(logits, labels)
        cases.append({
            "classes": c, "logits": logits.flatten().tolist(), "labels": labels.tolist(), "temperature": temperature,
            "ece_before": error(logits, labels), "ece_after": error(logits / temperature, labels),
        })
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
