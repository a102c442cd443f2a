#!/usr/bin/env python3
"""Cross-validated accuracy of the head alone and of the default recipe over several seeds, beside the same recipes in PyTorch.

    benches/accuracy_seeds.py --data photos6 --weights mobilenet_v2.pth [--seeds 5] [--fit pad]     torch, torchvision, pillow

The folds are those of photos6_folds.py: each picture is validated with once. offshoot runs as a user would run it. PyTorch has
torchvision's MobileNetV2 and does what the recipes say: everything frozen and in evaluation mode but a new head (dropout 0.2,
linear); AdamW at 1e-3, weight decay 1e-2 on matrices, batch 16, 30 epochs, a cosine after 5 % of warm-up. The default recipe
adds the last block, `features.17` and `features.18`, after half of the epochs, at a tenth of the rate, its batch norms still in
evaluation mode, and starts the schedule again. Nothing happens to pictures at random, so that PyTorch too keeps what the
frozen part says about them. Accuracy is that of the last epoch over all pictures. Prints a Markdown table: the mean over the
seeds, their standard deviation, and the mean difference with its standard error. The seeds have nothing in common.
"""
import argparse, math, pathlib, statistics, sys, tempfile

import torch, torchvision

from amp_accuracy import FOLDS, split
from photos6_folds import train as offshoot
from photos6_pytorch import to_input

RECIPES = {"head only": "--freeze backbone", "default": ""}
EPOCHS, BATCH = 30, 16


def folds(data):
    """The paths, classes and folds of all pictures, as `split` gives them out."""
    folders = sorted(path for path in data.iterdir() if path.is_dir())
    return [(picture, label, i % FOLDS) for label, folder in enumerate(folders) for i, picture in enumerate(sorted(folder.iterdir()))]


def features(model, pictures, fit):
    """What the part that always stays frozen says about each picture."""
    model.eval()
    with torch.inference_mode():
        parts = [model.features[:17](torch.stack([to_input(path, fit) for path, _, _ in pictures[i : i + BATCH]]))
                 for i in range(0, len(pictures), BATCH)]
    return torch.cat(parts).clone()


def pytorch(state, inputs, labels, trains, recipe, seed):
    """Right answers among the pictures to validate with after the last epoch."""
    torch.manual_seed(seed)
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(state)
    model.classifier[1] = torch.nn.Linear(model.last_channel, int(labels.max()) + 1)
    model.eval().requires_grad_(False)
    block, head = model.features[17:], model.classifier

    def network(x):
        return head(block(x).mean((2, 3)))

    head.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters(head, 1e-3))
    stages = [EPOCHS] if recipe == "head only" else [EPOCHS // 2, EPOCHS - EPOCHS // 2]
    per_epoch = math.ceil(len(trains) / BATCH)
    for stage, epochs in enumerate(stages):
        if stage == 1:
            convolutions = [m for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
            for m in convolutions:
                m.requires_grad_(True)
            for m in convolutions:
                for group in parameters(m, 1e-4):
                    optimizer.add_param_group(group)
        steps = epochs * per_epoch
        warmup = round(0.05 * steps)
        for group in optimizer.param_groups:
            group.setdefault("rate", group["lr"])
        # Where nothing but the head trains, the rest is run once.
        with torch.no_grad():
            kept = block(inputs).mean((2, 3)) if stage == 0 else inputs
        answer = head if stage == 0 else network
        for epoch in range(epochs):
            head.train()
            order = trains[torch.randperm(len(trains))]
            for step, picked in enumerate(order.split(BATCH), start=epoch * per_epoch):
                factor = 0.01 + 0.99 * step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
                for group in optimizer.param_groups:
                    group["lr"] = group["rate"] * factor
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(answer(kept[picked]), labels[picked]).backward()
                optimizer.step()
    head.eval()
    validation = torch.tensor(sorted(set(range(len(labels))) - set(trains.tolist())))
    with torch.inference_mode():
        return int((network(inputs[validation]).argmax(1) == labels[validation]).sum())


def parameters(module, rate):
    """Groups for an optimizer: only matrices and filters decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "lr": rate, "rate": rate, "weight_decay": 1e-2},
              {"params": others, "lr": rate, "rate": rate, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offshoot", default="target/release/offshoot")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fit", default="pad", choices=["pad", "crop"])
    args = parser.parse_args()

    pictures = folds(args.data)
    labels = torch.tensor([label for _, label, _ in pictures])
    state = torch.load(args.weights, weights_only=True)
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(state)
    inputs = features(model, pictures, args.fit)
    right = {(recipe, who): [0] * args.seeds for recipe in RECIPES for who in ("offshoot", "PyTorch")}
    for fold in range(FOLDS):
        trains = torch.tensor([i for i, (_, _, f) in enumerate(pictures) if f != fold])
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            split(args.data, fold, folder / "data")
            for seed in range(args.seeds):
                for recipe, flags in RECIPES.items():
                    run = folder / f"{recipe}-{seed}"
                    right[recipe, "offshoot"][seed] += offshoot(args, folder / "data", run, f"{flags} --fit {args.fit}", seed)[0]
                    right[recipe, "PyTorch"][seed] += pytorch(state, inputs, labels, trains, recipe, seed)
        print(f"fold {fold}: {[sum(r) for r in right.values()]}", file=sys.stderr)
    print("| recipe | offshoot | PyTorch | difference |\n| --- | --- | --- | --- |")
    for recipe in RECIPES:
        ours, theirs = ([n / len(pictures) for n in right[recipe, who]] for who in ("offshoot", "PyTorch"))
        spread = [f"{statistics.mean(x):.4f} ± {statistics.stdev(x):.4f}" for x in (ours, theirs)]
        error = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / args.seeds)
        print(f"| {recipe} | {spread[0]} | {spread[1]} | {statistics.mean(ours) - statistics.mean(theirs):+.4f} ± {error:.4f} |")


if __name__ == "__main__":
    main()
