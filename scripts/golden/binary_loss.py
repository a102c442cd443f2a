#!/usr/bin/env python3
"""Losses and gradients of torch.nn.functional.binary_cross_entropy_with_logits.

    binary_loss.py    writes crates/offshoot-conformance/golden/binary_loss.json
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-conformance/golden/binary_loss.json"


def main():
    torch.manual_seed(6)
    cases = []
    settings = [(n, c, w, r) for n, c in ((1, 1), (1, 5), (4, 6), (3, 19)) for w in (False, True) for r in (False, True)]
    for n, c, weighted, of_rows in settings:
        # Large ones too, for which exp() overflows.
        logits = (3 * torch.randn(n, c) * torch.where(torch.rand(n, c) < 0.1, 50.0, 1.0))
        smoothing = 0.1 if n > 1 else 0.0
        targets = (torch.rand(n, c) < 0.4).float() * (1 - smoothing) + 0.5 * smoothing
        shares = torch.rand(n, 1) / 2
        targets = (1 - shares) * targets + shares * targets.roll(1, 0)  # mixup's
        positive = 0.25 + 3 * torch.rand(c) if weighted else None
        rows = 2 * torch.rand(n, 1) if of_rows else torch.ones(n, 1)
        # In f64: PyTorch's formula subtracts numbers that are much larger than a small loss.
        logits = logits.double().requires_grad_()
        targets, rows = targets.double(), rows.double()
        positive = None if positive is None else positive.double()
        loss = F.binary_cross_entropy_with_logits(logits, targets, weight=rows, pos_weight=positive)
        (1024 * loss).backward()
        flat = lambda t: None if t is None else t.detach().flatten().tolist()
        cases.append({
            "rows": n, "classes": c, "logits": flat(logits), "targets": flat(targets), "row_weights": flat(rows),
            "pos_weight": flat(positive), "loss": loss.item(), "gradient_of_1024_losses": flat(logits.grad),
        })
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
