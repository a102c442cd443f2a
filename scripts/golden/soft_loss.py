#!/usr/bin/env python3
"""Losses and gradients of torch.nn.functional.cross_entropy with targets that are parts of classes.

    soft_loss.py    writes crates/offshoot-conformance/golden/soft_loss.json
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-conformance/golden/soft_loss.json"


def main():
    torch.manual_seed(5)
    cases = []
    # Rows that sum to 1, and to the weights of their pictures.
    for shapes, heavy in ((((1, 2), (4, 6), (3, 19)), False), (((5, 7),), True)):
        settings = [(n, c, s, w) for n, c in shapes for s in (0.0, 0.1) for w in (False, True)]
        for n, c, smoothing, weighted in settings:
            logits = (3 * torch.randn(n, c)).requires_grad_()
            targets = F.one_hot(torch.randint(c, (n,)), c).float()
            shares = torch.rand(n, 1) / 2
            targets = (1 - shares) * targets + shares * targets.roll(1, 0)  # mixup's
            if heavy:
                targets = targets * (4 * torch.rand(n, 1) * torch.tensor([0.0, 1, 1, 1, 1])[:, None])
            weights = 0.25 + torch.rand(c) if weighted else None
            loss = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
            (1024 * loss).backward()
            flat = lambda t: None if t is None else t.detach().flatten().tolist()
            cases.append({
                "rows": n, "classes": c, "label_smoothing": smoothing, "logits": flat(logits),
                "targets": flat(targets), "weights": flat(weights), "loss": loss.item(),
                "gradient_of_1024_losses": flat(logits.grad),
            })
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
