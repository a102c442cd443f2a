#!/usr/bin/env python3
"""When to freeze, when to unfreeze: the same pictures with more and more of the network trained.

    docs/guide/experiments/freezing.py [--folds 2] [--epochs 10] [--size 128] [--only few,far] [--write]

few   `photos6` (six classes of photographs, much like what ImageNet holds) with 5, 10 and all pictures of a class
far   a task that ImageNet's classes say nothing about: by how many quarter turns was the photograph rotated?

Pretrained MobileNetV2, and random weights. Each picture of a fold is validated with, and neither it nor a turned copy of it is
trained with. `--write` puts the tables into the guide's pages on freezing. Needs a release build (cargo build --release), the pictures and
weights of scripts/fetch, and Pillow.
"""
import argparse, csv, os, pathlib, shlex, statistics, subprocess, tempfile

from PIL import Image

from blocks import fill, tables

ROOT = pathlib.Path(__file__).resolve().parents[3]
OFFSHOOT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/offshoot"
ASSETS = pathlib.Path(os.environ.get("OFFSHOOT_ASSETS", pathlib.Path.home() / ".cache/offshoot/assets"))
PHOTOS, WEIGHTS = ASSETS / "photos6", ASSETS / "weights/mobilenet_v2.pth"

# What trains (in English and in Chinese), whether from pretrained weights, and flags.
RECIPES = [
    (("the head alone", "只训练分类头"), True, "--freeze backbone"),
    (("the head, then the last block too (the default)", "先训练分类头，再解冻最后一块（默认）"), True, ""),
    (("the head, then the last five blocks too", "先训练分类头，再解冻最后五块"), True,
     " ".join(f"--unfreeze features.{i}@33%:x0.3" for i in range(14, 19))),
    (("everything, at a rate of 1e-4", "全部参数，学习率 1e-4"), True, "--freeze none --lr 1e-4"),
    (("everything, at a rate of 1e-3", "全部参数，学习率 1e-3"), True, "--freeze none --lr 1e-3"),
    (("everything, from random weights", "全部参数，随机初始化"), False, "--freeze none --lr 1e-3"),
]


def fold_of(place):
    return place % 5


def pictures():
    """The pictures of each class in the order of their names."""
    return {folder.name: sorted(folder.iterdir()) for folder in sorted(PHOTOS.iterdir()) if folder.is_dir()}


def photographs(folder, fold, count):
    """Links to the pictures of a fold under `val`, and to the first `count` others of each class under `train`."""
    for name, files in pictures().items():
        train = [f for place, f in enumerate(files) if fold_of(place) != fold][:count]
        val = [f for place, f in enumerate(files) if fold_of(place) == fold]
        for part, chosen in (("train", train), ("val", val)):
            target = folder / part / name
            target.mkdir(parents=True)
            for file in chosen:
                (target / file.name).symlink_to(file)


def turned(folder, fold):
    """Each photograph four times, turned by none to three quarter turns: these are the classes."""
    for name, files in pictures().items():
        for place, file in enumerate(files):
            part = "val" if fold_of(place) == fold else "train"
            with Image.open(file) as picture:
                picture = picture.convert("RGBA")
                picture.thumbnail((256, 256))
                for turns in range(4):
                    target = folder / part / f"{90 * turns} degrees"
                    target.mkdir(parents=True, exist_ok=True)
                    picture.rotate(90 * turns, expand=True).save(target / f"{name} {file.stem}.png")


def train(args, data, run, pretrained, flags):
    """Validation accuracy after the last epoch, trained parameters, and seconds."""
    command = [OFFSHOOT, "train", data, "--model", "mobilenet_v2", "--out", run, "--fit", "pad", "--augment", "off",
               "--size", args.size, "--epochs", args.epochs, "--cache-dir", run.parent / "cache"]
    command += (["--weights", WEIGHTS] if pretrained else []) + shlex.split(flags)
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    with open(run / "results.csv") as file:
        last = list(csv.DictReader(file))[-1]
    return float(last["val_accuracy"]), float(last["seconds"])


def compare(args, folds, make):
    """Mean accuracy and seconds of each recipe over the folds."""
    found = [[] for _ in RECIPES]
    for fold in folds:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            make(folder / "data", fold)
            for number, (_, pretrained, flags) in enumerate(RECIPES):
                found[number].append(train(args, folder / "data", folder / str(number), pretrained, flags))
    return [[statistics.mean(column) for column in zip(*runs)] for runs in found]


def report(args, name, rows):
    texts = tables(rows)
    print(texts[0], flush=True)
    if args.write:
        fill("freezing", name, texts)


def few(args):
    counts = [5, 10, 1000]
    columns = [compare(args, range(args.folds), lambda data, fold: photographs(data, fold, count)) for count in counts]
    rows = [[("what trains", "训练哪些参数"), ("5 pictures a class", "每类 5 张"), ("10", "10 张"),
             ("all (about 28)", "全部（约 28 张）"), ("time of the last", "最后一列的用时")]]
    for i, (name, _, _) in enumerate(RECIPES):
        rows.append([name, *(f"{column[i][0]:.3f}" for column in columns), f"{columns[-1][i][1]:.1f} s"])
    report(args, "few", rows)


def far(args):
    rows = [[("what trains", "训练哪些参数"), ("accuracy", "准确率"), ("time", "用时")]]
    for (name, _, _), (accuracy, seconds) in zip(RECIPES, compare(args, [0], turned)):
        rows.append([name, f"{accuracy:.3f}", f"{seconds:.1f} s"])
    report(args, "far", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--only", default="few,far")
    parser.add_argument("--write", action="store_true", help="put the tables into the guide's pages")
    arguments = parser.parse_args()
    for experiment in arguments.only.split(","):
        {"few": few, "far": far}[experiment](arguments)
