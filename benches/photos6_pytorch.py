#!/usr/bin/env python3
"""The demo's head-only recipe in PyTorch, on the very splits of offshoot's runs, and how long it takes.

    benches/photos6_pytorch.py --weights mobilenet_v2.pth RUN [RUN ..]

Each RUN is a run directory of `offshoot train DATA --model mobilenet_v2 --weights FILE --freeze backbone` (any --fit):
its pictures.csv gives the split, its recipe.toml the fit. The recipe, as a user would write it: torchvision's
MobileNetV2, everything frozen and in evaluation mode but a new head (dropout 0.2, linear), AdamW 1e-3 with weight decay
1e-2, 30 epochs, batch 16, cosine after 5 % of warm-up, pictures decoded and resized with Pillow by a DataLoader with one
worker for each processor. No augmentation. `--cache` runs the frozen part once on each picture and trains on what it
gives: the same numbers up to dropout's, in a fraction of the time, to compare accuracies. Prints one JSON object a run: accuracy of the last and of the best epoch, and
seconds.
"""
import argparse, csv, json, math, os, pathlib, time, tomllib

import torch, torchvision
from PIL import Image
from torchvision.transforms import v2


def to_input(path, fit):
    image = Image.open(path)
    if image.mode != "RGB":
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    if fit == "pad":
        side = max(image.size)
        square = Image.new("RGB", (side, side), (255, 255, 255))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square.resize((224, 224), Image.BILINEAR)
    else:
        image = v2.functional.center_crop(v2.functional.resize(image, 256, antialias=True), 224)
    tensor = v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True)
    return v2.functional.normalize(tensor, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Pictures(torch.utils.data.Dataset):
    def __init__(self, rows, classes, fit):
        self.rows, self.classes, self.fit = rows, classes, fit

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return to_input(self.rows[i]["path"], self.fit), self.classes.index(self.rows[i]["class"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    for seed, run in enumerate(args.runs):
        print(json.dumps({"run": str(run), **train(run, args, seed)}), flush=True)


def cached(loader, model, shuffle):
    with torch.inference_mode():
        parts = [(model.features(x).mean((2, 3)), y) for x, y in loader]
    features = torch.utils.data.TensorDataset(*(torch.cat(column).clone() for column in zip(*parts)))
    return torch.utils.data.DataLoader(features, batch_size=16, shuffle=shuffle)


def train(run, args, seed):
    epochs = args.epochs
    start = time.perf_counter()
    torch.manual_seed(seed)
    rows = list(csv.DictReader(open(run / "pictures.csv")))
    fit = tomllib.load(open(run / "recipe.toml", "rb"))["preprocessing"]["fit"]
    classes = sorted({row["class"] for row in rows})
    loaders = {
        name: torch.utils.data.DataLoader(Pictures([r for r in rows if r["set"] == name], classes, fit), batch_size=16,
                                          shuffle=name == "train", num_workers=os.cpu_count(), persistent_workers=True)
        for name in ("train", "val")
    }
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(args.weights, weights_only=True))
    model.requires_grad_(False)
    model.classifier[1] = torch.nn.Linear(model.last_channel, len(classes))
    network = model
    if args.cache:
        model.eval()
        loaders = {name: cached(loader, model, name == "train") for name, loader in loaders.items()}
        network = model.classifier
    optimizer = torch.optim.AdamW(model.classifier[1].parameters(), lr=1e-3, weight_decay=1e-2)
    steps = epochs * len(loaders["train"])
    warmup = max(1, round(0.05 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) / warmup if t < warmup else
                                                 0.5 * (1 + math.cos(math.pi * (t - warmup) / max(1, steps - warmup))))
    accuracies = []
    for _ in range(epochs):
        model.eval()
        model.classifier.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            correct = sum(int((network(x).argmax(1) == y).sum()) for x, y in loaders["val"])
        accuracies.append(correct / len(loaders["val"].dataset))
    return {"last": accuracies[-1], "best": max(accuracies), "seconds": round(time.perf_counter() - start, 1)}


if __name__ == "__main__":
    main()
