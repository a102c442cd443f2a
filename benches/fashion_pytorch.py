#!/usr/bin/env python3
"""The recipe of `benches/fashion` in PyTorch: torchvision's ResNet-18 from random weights, on folders of picture files.

    benches/fashion_pytorch.py DATA [--epochs N] [--seed N] [--workers N] [--layout nhwc|nchw] [--threads N]

DATA has `train` and `val`, each with a folder for each class. The settings are those of fashion.toml. Pictures are opened, cropped,
resized and flipped with Pillow and torchvision by the workers of a DataLoader, and normalized a batch at a time, which is faster than one by
one. Prints a line when training starts, and one JSON object for each epoch.
"""
import argparse, json, pathlib, tomllib

import torch, torchvision
from PIL import Image
from torchvision.transforms import v2

RECIPE = tomllib.loads(pathlib.Path(__file__).with_name("fashion.toml").read_text())
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def rgb(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def loaders(args):
    """Of the pictures to train with, and of those to validate with."""
    augmentation, size = RECIPE["augmentation"], RECIPE["preprocessing"]["size"]
    crop = v2.RandomResizedCrop(size, augmentation["crop_scale"], augmentation["crop_ratio"], antialias=True)
    resize = v2.Resize(RECIPE["preprocessing"]["resize"], antialias=True)
    steps = {"train": [crop, v2.RandomHorizontalFlip()], "val": [resize, v2.CenterCrop(size)]}
    for part, transforms in steps.items():
        pictures = torchvision.datasets.ImageFolder(f"{args.data}/{part}", v2.Compose([*transforms, v2.PILToTensor()]), loader=rgb)
        yield torch.utils.data.DataLoader(pictures, RECIPE["batch_size"], shuffle=part == "train", num_workers=args.workers,
                                          persistent_workers=args.workers > 0)


def groups(model):
    """Weight decay is for filters and matrices only."""
    parameters = list(model.parameters())
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": RECIPE["weight_decay"]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--layout", choices=["nchw", "nhwc"], default="nhwc")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    layout = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}[args.layout]
    train, val = loaders(args)
    model = torchvision.models.resnet18(num_classes=len(train.dataset.classes)).to(memory_format=layout)
    optimizer = torch.optim.SGD(groups(model), lr=RECIPE["lr"], momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE["lr"], total_steps=args.epochs * len(train), cycle_momentum=False)
    lossy = torch.nn.CrossEntropyLoss(label_smoothing=RECIPE["label_smoothing"])
    mean, std = (torch.tensor(x).mul(255).view(1, 3, 1, 1) for x in (MEAN, STD))

    def network(pixels):
        return model(pixels.float().sub_(mean).div_(std).to(memory_format=layout))

    print("start", flush=True)
    for epoch in range(1, args.epochs + 1):
        model.train()
        total = 0.0
        for pixels, labels in train:
            optimizer.zero_grad()
            loss = lossy(network(pixels), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(labels)
        model.eval()
        with torch.inference_mode():
            right = sum((network(pixels).argmax(1) == labels).sum().item() for pixels, labels in val)
        print(json.dumps({"epoch": epoch, "train_loss": total / len(train.dataset), "val_accuracy": right / len(val.dataset)}),
              flush=True)


if __name__ == "__main__":
    main()
