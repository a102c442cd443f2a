#!/usr/bin/env python3
"""The loss of pictures that have weights: the mean of weight times torch.nn.functional.cross_entropy, with label smoothing and mixup.

    row_weights.py    writes crates/offshoot-train/tests/golden/row_weights.json
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-train/tests/golden/row_weights.json"


def loss(logits, labels, weights, shares, smoothing):
    """Each picture takes a share of the one before it in its batch, with that one's weight."""

    def of(labels, weights):
        return weights * F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")

    before = of(labels.roll(1), weights.roll(1))
    return ((1 - shares) * of(labels, weights) + shares * before).mean()


def main():
    torch.manual_seed(11)
    n, c = 5, 4
    cases = []
    for smoothing in (0.0, 0.1):
        for mixed in (False, True):
            logits = 3 * torch.randn(n, c, dtype=torch.float64)
            labels, weights = torch.randint(c, (n,)), 3 * torch.rand(n)
            weights[1] = 0
            shares = torch.rand(n) / 2 if mixed else torch.zeros(n)
            value = loss(logits, labels, weights.double(), shares.double(), smoothing)
            cases.append({
                "classes": c, "label_smoothing": smoothing, "logits": logits.flatten().tolist(), "labels": labels.tolist(),
                "weights": weights.tolist(), "shares": shares.tolist() if mixed else [], "loss": value.item(),
            })
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
