#!/usr/bin/env python3
"""Regression: figures by scikit-learn, losses and their gradients by PyTorch.

    targets.py    writes crates/offshoot-infer/tests/golden/targets.json and crates/offshoot-conformance/golden/regression_loss.json

Needs scikit-learn.
"""

import json
from pathlib import Path

import numpy as np
import torch
from sklearn import metrics
from torch import nn

ROOT = Path(__file__).resolve().parents[2] / "crates"
KINDS = {
    "mse": nn.MSELoss(reduction="none"),
    "l1": nn.L1Loss(reduction="none"),
    "huber:delta=1": nn.HuberLoss(reduction="none"),
    "huber:delta=0.3": nn.HuberLoss(reduction="none", delta=0.3),
}


def figures(random, kind, rows, targets, constant=False):
    deviation = np.exp(3 * random.standard_normal(targets))
    mean = 50 * random.standard_normal(targets)
    wanted = mean + deviation * random.standard_normal((rows, targets))
    if constant:
        wanted[:, 0] = mean[0]
    predictions = (wanted + 0.5 * deviation * random.standard_normal((rows, targets))).astype(np.float32)
    given = predictions.astype(np.float64)
    scaled = [torch.tensor((x - mean) / deviation) for x in (given, wanted)]
    of = {"multioutput": "raw_values"}
    r2 = metrics.r2_score(wanted, given, **of) if rows > 1 else [None] * targets
    # Where a target is the same for all pictures, R^2 is not defined; scikit-learn says 0 or 1 there.
    r2 = [None if len(set(wanted[:, t])) == 1 else r2[t] for t in range(targets)]
    defined = [x for x in r2 if x is not None]
    return {
        "kind": kind, "rows": rows, "targets": targets, "mean": mean.tolist(), "deviation": deviation.tolist(),
        "predictions": given.flatten().tolist(), "wanted": wanted.flatten().tolist(),
        "loss": KINDS[kind](*scaled).mean().item(),
        "mae": metrics.mean_absolute_error(wanted, given),
        "rmse": metrics.root_mean_squared_error(wanted, given),
        "r2": float(np.mean(defined)) if defined else None,
        "mae_of": metrics.mean_absolute_error(wanted, given, **of).tolist(),
        "rmse_of": metrics.root_mean_squared_error(wanted, given, **of).tolist(),
        "r2_of": r2,
    }


def loss(random, kind, rows, targets, scaled, weighed):
    """A loss and the gradient of 1024 times it. Some differences are 0, and some exactly where Huber's loss becomes a line."""
    deviation = np.exp(random.standard_normal(targets)).astype(np.float32) if scaled else np.ones(targets, np.float32)
    factors = (1 / deviation).astype(np.float32)
    wanted = random.standard_normal((rows, targets)).astype(np.float32)
    outputs = (wanted + 1.5 * random.standard_normal((rows, targets)) * deviation).astype(np.float32)
    outputs.flat[0] = wanted.flat[0]
    if not scaled:
        wanted.flat[-1], outputs.flat[-1] = 2.0, 3.0
    weights = random.uniform(0, 2, rows).astype(np.float32) if weighed else np.ones(rows, np.float32)
    y = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
    s, t, w = (torch.tensor(x, dtype=torch.float64) for x in (factors, wanted, weights))
    value = (KINDS[kind](y * s, t * s) * w[:, None]).mean()
    (1024 * value).backward()
    return {
        "kind": kind, "rows": rows, "classes": targets, "logits": outputs.flatten().tolist(),
        "targets": wanted.flatten().tolist(), "factors": factors.tolist() if scaled else None,
        "row_weights": weights.tolist(), "loss": value.item(),
        "gradient_of_1024_losses": y.grad.flatten().tolist(),
    }


def write(path, cases):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(case, default=float) for case in cases) + "\n]\n")


def main():
    random = np.random.default_rng(23)
    shapes = [(30, 1, False), (20, 3, False), (12, 2, True), (1, 2, False)]
    cases = [figures(random, kind, rows, targets, constant) for kind in KINDS for rows, targets, constant in shapes]
    write(ROOT / "offshoot-infer/tests/golden/targets.json", cases)
    shapes = [(5, 1, False, False), (4, 3, True, False), (7, 2, True, True), (1, 1, False, True)]
    cases = [loss(random, kind, *shape) for kind in KINDS for shape in shapes]
    write(ROOT / "offshoot-conformance/golden/regression_loss.json", cases)


if __name__ == "__main__":
    main()
