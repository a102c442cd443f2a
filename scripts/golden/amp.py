#!/usr/bin/env python3
"""Mixed precision in PyTorch.

Run from the root of the repository with PyTorch installed:

    python scripts/golden/amp.py
        what torch.amp.GradScaler does: tests/golden/scaler.json of offshoot-train
    python scripts/golden/amp.py autocast NAME DIR
        one step of torchvision's NAME, in f32 and under torch.autocast("cpu", torch.bfloat16): reads DIR/in.safetensors
        (weights, `input`, `labels`) and writes `f32.*` and `bf16.*` (`loss`, `logits`, `grad.PARAMETER`, `state.BUFFER`, and
        `answer`, the logits of the network as it is when nothing is trained) to DIR/out.safetensors
"""

import json
import math
import pathlib
import sys

import torch
from torch import nn

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-train/tests/golden"

# Options, number of steps, and the steps (from 0) with a gradient that is not finite.
SCRIPTS = [
    ({}, 6100, [0, 1, 7, 2006, 4030, 4031, 4032]),
    ({"init_scale": 1024.0, "growth_interval": 3}, 40, [0, 5, 8, 9, 20]),
    ({"init_scale": 8.0, "growth_factor": 1.7, "backoff_factor": 0.3, "growth_interval": 4}, 40, [11, 13, 30]),
    # As large as f32 goes, and no further.
    ({"init_scale": 2.0**125, "growth_interval": 1}, 6, []),
    # As small as f32 goes.
    ({"init_scale": 2.0**-147, "growth_interval": 2}, 5, [0, 1]),
]
LR, MOMENTUM = 0.1, 0.9


def gradient(step, scale, bad):
    """What differentiating the scaled loss gives: formulas that both sides can follow in f32."""
    values = torch.tensor([math.sin(step), math.cos(step), 0.25], dtype=torch.float32) * scale
    if bad:
        values[step % 3] = [math.inf, -math.inf, math.nan][step % 3]
    return values


def scaler_cases():
    cases = []
    for options, steps, bad in SCRIPTS:
        scaler = torch.amp.GradScaler("cpu", **options)
        weight = nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.SGD([weight], lr=LR, momentum=MOMENTUM)
        rows = []
        for step in range(steps):
            scaler.scale(torch.zeros(()))  # makes the scale's tensor
            before = scaler.get_scale()
            weight.grad = gradient(step, scaler._scale, step in bad)
            scaler.step(optimizer)
            scaler.update()
            if steps <= 40 or scaler.get_scale() != before or step % 500 == 0 or step + 1 == steps:
                row = {"step": step, "scale": scaler.get_scale(), "tracker": scaler._get_growth_tracker()}
                if steps <= 40:
                    row["weights"] = [x if math.isfinite(x) else None for x in weight.tolist()]
                rows.append(row)
        state = scaler.state_dict()
        options = {k: state[k] for k in ("growth_factor", "backoff_factor", "growth_interval")} | {
            "init_scale": options.get("init_scale", 65536.0)
        }
        cases.append({**options, "steps": steps, "bad": bad, "rows": rows})
    return {"lr": LR, "momentum": MOMENTUM, "cases": cases}


def autocast_step(name, directory):
    import torchvision
    from safetensors.torch import load_file, save_file

    given = load_file(directory / "in.safetensors")
    x, labels = given.pop("input"), given.pop("labels")
    result = {}
    for kind in ("f32", "bf16"):
        model = getattr(torchvision.models, name)(num_classes=given[HEADS[name]].shape[0])
        model.load_state_dict(given, strict=False)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            result[f"{kind}.answer"] = model.eval()(x).float()
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        result[f"{kind}.loss"] = loss.detach().float().reshape(1)
        result[f"{kind}.logits"] = logits.detach().float()
        for key, parameter in model.named_parameters():
            result[f"{kind}.grad.{key}"] = parameter.grad.contiguous()
        for key, buffer in model.named_buffers():
            if not key.endswith("num_batches_tracked"):
                result[f"{kind}.state.{key}"] = buffer
    save_file(result, directory / "out.safetensors")


HEADS = {"resnet18": "fc.weight", "mobilenet_v2": "classifier.1.weight"}

if __name__ == "__main__":
    if sys.argv[1:2] == ["autocast"]:
        autocast_step(sys.argv[2], pathlib.Path(sys.argv[3]))
    else:
        (OUT / "scaler.json").write_text(json.dumps(scaler_cases(), indent=None, separators=(",", ":")) + "\n")
