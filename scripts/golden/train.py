#!/usr/bin/env python3
"""What torch.optim, its schedulers and a small network in training compute: tests/golden/*.json of offshoot-train.

Run from the root of the repository with PyTorch installed: python scripts/golden/train.py
"""

import json
import pathlib

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-train/tests/golden"
STEPS = 200
KEPT = [1, 2, 10, STEPS]

OPTIMIZERS = [
    ("sgd", {"lr": 0.1}),
    ("sgd", {"lr": 0.1, "momentum": 0.9}),
    ("sgd", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    ("sgd", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    ("adam", {"lr": 1e-2}),
    ("adam", {"lr": 1e-2, "weight_decay": 0.1}),
    ("adamw", {"lr": 1e-3, "weight_decay": 0.01}),
    ("adamw", {"lr": 3e-2, "weight_decay": 0.5}),
    ("sgd", {"lr": 0.1, "momentum": 0.9, "clip_norm": 2.0}),
    ("sgd", {"lr": 0.1, "momentum": 0.9, "clip_value": 0.5}),
    ("adamw", {"lr": 1e-2, "weight_decay": 0.01, "clip_norm": 0.5}),
]
CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def optimizer_cases():
    torch.manual_seed(1)
    start = torch.randn(12)
    gradients = torch.randn(STEPS, 12) * torch.logspace(-4, 1, 12)
    gradients[3] = 0.0
    # From the 100th step on at a lower rate, as a schedule would have it.
    factors = [1.0] * 100 + [0.25] * (STEPS - 100)
    cases = []
    for kind, options in OPTIMIZERS:
        weight = nn.Parameter(start.clone())
        rates = {k: v for k, v in options.items() if "clip" not in k}
        optimizer = CLASSES[kind]([weight], **rates)
        kept = {}
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = options["lr"] * factors[step]
            weight.grad = gradients[step].clone()
            if "clip_norm" in options:
                torch.nn.utils.clip_grad_norm_([weight], options["clip_norm"])
            if "clip_value" in options:
                torch.nn.utils.clip_grad_value_([weight], options["clip_value"])
            optimizer.step()
            if step + 1 in KEPT:
                kept[step + 1] = weight.tolist()
        state = optimizer.state[weight]
        state = {k: v.tolist() for k, v in state.items() if torch.is_tensor(v) and v.ndim}
        cases.append({"kind": kind, **options, "weights": kept, "state": state})
    return {"start": start.tolist(), "gradients": gradients.tolist(), "factors": factors, "cases": cases}


def schedulers():
    """As a recipe writes it, warm-up steps, epochs, steps in an epoch, what makes the scheduler, its steps in an epoch."""
    lr = torch.optim.lr_scheduler
    for warmup, steps in [(0, 20), (3, 4), (0, 200), (17, 200)]:
        yield "cosine", warmup, steps, 1, lambda o, n=steps - warmup: lr.CosineAnnealingLR(o, T_max=n)
    yield "constant", 10, 200, 1, lambda o: lr.ConstantLR(o, factor=1.0)
    cycle = dict(max_lr=1.0, total_steps=200, cycle_momentum=False)
    yield "onecycle", 0, 20, 10, lambda o: lr.OneCycleLR(o, **cycle)
    yield "onecycle:linear", 0, 20, 10, lambda o: lr.OneCycleLR(o, **cycle, anneal_strategy="linear")
    yield "onecycle:three,rise=0.4", 0, 1, 200, lambda o: lr.OneCycleLR(o, **cycle, three_phase=True, pct_start=0.4)
    yield "onecycle:rise=0.15,start=0.1,end=0.01", 0, 200, 1, lambda o: lr.OneCycleLR(
        o, **cycle, pct_start=0.15, div_factor=10, final_div_factor=100
    )
    # A warm-up leads to the rate that the cycle starts from.
    yield "onecycle", 20, 20, 10, lambda o: lr.OneCycleLR(o, **{**cycle, "total_steps": 180})
    yield "step:30", 0, 200, 1, lambda o: lr.StepLR(o, step_size=30)
    yield "step:7,gamma=0.5", 20, 50, 4, lambda o: lr.StepLR(o, step_size=28, gamma=0.5)


def schedule_cases():
    cases = []
    for schedule, warmup, epochs, per_epoch, make in schedulers():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        if warmup:
            first = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
            scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, make(optimizer)], [warmup])
        else:
            scheduler = make(optimizer)
        factors = []
        for _ in range(epochs * per_epoch):
            factors.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        cases.append(
            {"schedule": schedule, "warmup": warmup, "epochs": epochs, "per_epoch": per_epoch, "factors": factors}
        )
    return cases


def plateau_cases():
    torch.manual_seed(3)
    # Falls, stays, falls once more.
    losses = torch.cat([2.0 * 0.97 ** torch.arange(60), torch.full((80,), 0.35), 0.3 * 0.99 ** torch.arange(60)])
    losses = [round(x, 6) for x in (losses + 0.01 * torch.randn(200)).tolist()]
    cases = []
    for text, lr, options in [
        ("plateau", 1.0, {}),
        ("plateau:patience=3,factor=0.5", 1e-3, {"patience": 3, "factor": 0.5}),
        ("plateau:patience=2,factor=0.7,threshold=0.02,cooldown=4", 1.0,
         {"patience": 2, "factor": 0.7, "threshold": 0.02, "cooldown": 4}),
        ("plateau:patience=2,factor=0.5,min_lr=2e-4", 1e-3, {"patience": 2, "factor": 0.5, "min_lr": 2e-4}),
        ("plateau:patience=2,factor=0.5,eps=1e-4", 1e-3, {"patience": 2, "factor": 0.5, "eps": 1e-4}),
    ]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
        factors = []
        for loss in losses:
            scheduler.step(loss)
            factors.append(optimizer.param_groups[0]["lr"] / lr)
        cases.append({"schedule": text, "lr": lr, "factors": factors})
    return {"losses": losses, "cases": cases}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


NETWORKS = [
    {"name": "all with sgd", "frozen": [], "kind": "sgd", "options": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}},
    {"name": "all with adamw", "frozen": [], "kind": "adamw", "options": {"lr": 0.01, "weight_decay": 0.01}},
    {"name": "head", "frozen": ["conv1", "bn1", "conv2", "bn2"], "kind": "adamw", "options": {"lr": 0.01, "weight_decay": 0.01}},
    {"name": "first layer frozen", "frozen": ["conv1", "bn1"], "kind": "sgd", "options": {"lr": 0.1, "momentum": 0.9}},
    {"name": "a frozen norm in the middle", "frozen": ["bn2"], "kind": "sgd", "options": {"lr": 0.1, "momentum": 0.9}},
    {"name": "a frozen convolution under a norm in training", "frozen": ["conv2"], "kind": "sgd", "options": {"lr": 0.1}},
    {"name": "smoothed and weighted", "frozen": [], "kind": "sgd", "options": {"lr": 0.1, "momentum": 0.9},
     "label_smoothing": 0.1, "class_weights": [1.0, 2.0, 0.5]},
    {"name": "averaged", "frozen": ["conv1"], "kind": "sgd", "options": {"lr": 0.1, "momentum": 0.9}, "ema": 0.75},
]


def tensors(network):
    state = network.state_dict().items()
    return {k: {"shape": list(v.shape), "data": v.flatten().tolist()} for k, v in state if "num_batches" not in k}


def network_cases():
    torch.manual_seed(2)
    start = Network()
    for norm in (start.bn1, start.bn2):
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)
    images, labels = torch.randn(5, 4, 3, 6, 6), torch.randint(0, 3, (5, 4))
    cases = []
    for case in NETWORKS:
        network = Network()
        network.load_state_dict(start.state_dict())
        network.train()
        for name in case["frozen"]:
            module = getattr(network, name)
            module.requires_grad_(False)
            module.eval()
        weights = case.get("class_weights")
        loss_of = nn.CrossEntropyLoss(
            weight=torch.tensor(weights) if weights else None, label_smoothing=case.get("label_smoothing", 0.0)
        )
        trainable = [p for p in network.parameters() if p.requires_grad]
        optimizer = CLASSES[case["kind"]](trainable, **case["options"])
        decay = case.get("ema")
        average = decay and AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        losses, norms = [], []
        for x, y in zip(images, labels):
            optimizer.zero_grad()
            loss = loss_of(network(x), y)
            loss.backward()
            losses.append(loss.item())
            norms.append(torch.stack([p.grad.double().norm() for p in trainable]).norm().item())
            optimizer.step()
            if average:
                average.update_parameters(network)
        if average:
            case = {**case, "average": tensors(average.module)}
        network.eval()
        with torch.no_grad():
            logits = network(images[0]).flatten().tolist()
        cases.append({**case, "losses": losses, "norms": norms, "weights": tensors(network), "logits": logits})
    return {
        "start": tensors(start),
        "images": images.flatten(1).tolist(),
        "labels": labels.tolist(),
        "cases": cases,
    }


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, cases in [
        ("optimizers", optimizer_cases()),
        ("schedules", schedule_cases()),
        ("plateau", plateau_cases()),
        ("networks", network_cases()),
    ]:
        (OUT / f"{name}.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
