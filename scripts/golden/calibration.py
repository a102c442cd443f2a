#!/usr/bin/env python3
"""Temperatures fitted by PyTorch, calibration errors by torchmetrics, and what scikit-learn says of the most certain predictions.

    calibration.py      writes crates/offshoot-infer/tests/golden/calibration.json

Needs PyTorch, torchmetrics and scikit-learn.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, brier_score_loss, precision_score
from torchmetrics.functional.classification import multiclass_calibration_error

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-infer/tests/golden/calibration.json"
BINS, PRECISIONS, COVERAGES = 15, (0.6, 0.8, 0.9, 0.95, 1.0), (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


def fitted(logits, labels):
    """The temperature of the lowest cross entropy, where one picture more has any class."""
    log = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log], lr=0.5, max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-15)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log.exp(), labels, label_smoothing=1 / (len(labels) + 1))
        loss.backward()
        return loss

    optimizer.step(closure)
    return log.exp().item()


def published(logits, labels):
    """The definition of Guo and others, written as in their published code."""
    confidence, best = F.softmax(logits, 1).max(1)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    total = 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = (confidence[inside].mean() - (best[inside] == labels[inside]).double().mean()).abs()
            total += (gap * inside.double().mean()).item()
    return total


def ece(logits, labels):
    classes = logits.shape[1]
    found = multiclass_calibration_error(F.softmax(logits, 1), labels, classes, n_bins=BINS, norm="l1").item()
    assert abs(found - published(logits, labels)) < 1e-5, found
    return found


def brier(logits, labels):
    """The sum over the classes, 0 to 2, of pictures in the mean."""
    p, classes = F.softmax(logits, 1), list(range(logits.shape[1]))
    if len(classes) > 2:
        return brier_score_loss(labels.numpy(), p.numpy(), labels=classes, scale_by_half=False)
    return 2 * brier_score_loss(labels.numpy(), p.numpy()[:, 1])


def selection(score, labels, said):
    """The accuracy on the pictures with the highest scores, and the most pictures for each precision."""
    values = np.unique(score)[::-1]
    accuracy = lambda inside: accuracy_score(labels[inside], said[inside])
    coverage = []
    for part in COVERAGES:
        threshold = next(v for v in values if (score >= v).sum() >= math.ceil(part * len(score)))
        inside = score >= threshold
        coverage.append([float(inside.mean()), accuracy(inside)])
    most = {}
    right = labels == said
    for precision in PRECISIONS:
        # Accepting is a prediction that the class is right.
        good = [v for v in values if (score >= v).sum() >= 10 and precision_score(right, score >= v) >= precision]
        most[precision] = float((score >= good[-1]).mean()) if good else None
    return {"coverage": coverage, "most": list(most.items())}


def figures(logits, labels):
    p = F.softmax(logits, 1).numpy()
    # As precise as logits are: equal ones in another order have equal scores.
    scores = {"probability": np.float32(p.max(1)), "energy": np.float32(torch.logsumexp(logits, 1).numpy())}
    said = p.argmax(1)
    return {name: selection(score, labels.numpy(), said) for name, score in scores.items()}


def case(n, c, sharpness, scale, digits=3, separated=False):
    labels = torch.randint(c, (n,))
    logits = scale * (torch.randn(n, c) + sharpness * F.one_hot(labels, c))
    if separated:
        logits += 20 * F.one_hot(labels, c)
    step = 10**digits
    logits = (logits * step).round().double() / step
    temperature = fitted(logits, labels)
    return {
        "classes": c, "logits": logits.flatten().tolist(), "labels": labels.tolist(), "temperature": temperature,
        "ece_before": ece(logits, labels), "ece_after": ece(logits / temperature, labels),
        "brier_before": brier(logits, labels), "brier_after": brier(logits / temperature, labels),
        "energies": torch.logsumexp(logits, 1).tolist(), **figures(logits, labels),
    }


def main():
    torch.manual_seed(3)
    cases = [
        case(60, 3, 1.0, 4.0), case(80, 6, 2.0, 0.5), case(40, 2, 1.5, 1.0),
        # Many equal logits; pictures that are all right; many classes.
        case(50, 3, 2.0, 1.0, digits=0), case(30, 4, 1.0, 1.0, separated=True), case(45, 12, 1.5, 3.0),
    ]
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
