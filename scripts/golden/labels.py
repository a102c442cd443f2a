#!/usr/bin/env python3
"""Figures of pictures with several labels, by scikit-learn, torchmetrics and PyTorch.

    labels.py    writes crates/offshoot-infer/tests/golden/labels.json

Needs scikit-learn and torchmetrics.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import metrics
from torchmetrics.functional.classification import multilabel_average_precision

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-infer/tests/golden/labels.json"


def best_f1(labels, p):
    thresholds = np.concatenate([np.unique(p), [2.0]])
    return max(metrics.f1_score(labels, p >= t, zero_division=0) for t in thresholds)


def case(random, rows, classes, rate, ties, fixed=None):
    labels = (random.random((rows, classes)) < rate).astype(int)
    if fixed is not None:
        labels[:, 0] = fixed
    logits = (2 * random.standard_normal((rows, classes)) + 1.5 * labels - 1).astype(np.float32)
    if ties:
        logits = np.round(logits)
    thresholds = np.round(0.2 + 0.6 * random.random(classes), 3)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    said = p >= thresholds
    has = labels.sum(0)
    ap = [metrics.average_precision_score(labels[:, c], logits[:, c]) if has[c] else None for c in range(classes)]
    auroc = [
        metrics.roc_auc_score(labels[:, c], logits[:, c]) if 0 < has[c] < rows else None for c in range(classes)
    ]
    # The mean is that of the classes that pictures have.
    there = [c for c in range(classes) if has[c]]
    ours = np.mean([ap[c] for c in there]) if there else 0.0
    if len(there) > 1:
        some = torch.tensor(p[:, there]), torch.tensor(labels[:, there])
        theirs = multilabel_average_precision(*some, len(there), average="macro", thresholds=None)
        assert abs(theirs - ours) < 1e-6, (theirs, ours)
    f1 = lambda average: metrics.f1_score(labels, said, average=average, zero_division=0)
    return {
        "rows": rows, "classes": classes, "logits": logits.flatten().tolist(), "labels": labels.flatten().tolist(),
        "thresholds": thresholds.tolist(),
        "loss": F.binary_cross_entropy_with_logits(torch.tensor(logits).double(), torch.tensor(labels).double()).item(),
        "map": float(ours), "auroc": float(np.mean([x for x in auroc if x is not None])) if any(x is not None for x in auroc) else None,
        "f1_micro": f1("micro"), "f1_macro": f1("macro"), "exact": metrics.accuracy_score(labels, said),
        "ap_of": ap, "auroc_of": auroc, "f1_of": f1(None).tolist(),
        "precision_of": metrics.precision_score(labels, said, average=None, zero_division=0).tolist(),
        "recall_of": metrics.recall_score(labels, said, average=None, zero_division=0).tolist(),
        "best_f1_of": [best_f1(labels[:, c], p[:, c]) for c in range(classes)],
    }


def main():
    warnings.simplefilter("ignore")
    random = np.random.default_rng(11)
    cases = [
        case(random, 40, 4, 0.3, False),
        case(random, 60, 3, 0.4, True),
        case(random, 25, 7, 0.1, True, fixed=0),
        case(random, 12, 2, 0.5, False, fixed=1),
        case(random, 2, 2, 0.5, False),
        case(random, 9, 3, 0.0, True),
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(case, default=float) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
