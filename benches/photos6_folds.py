#!/usr/bin/env python3
"""Cross-validated accuracy of recipes on pretrained MobileNetV2: the default one against a new head alone.

    benches/photos6_folds.py --data photos6 --weights mobilenet_v2.pth [--seeds 1] [--recipe "default:" ..]

DATA has a folder of pictures for each class. Picture i of a class (in the order of the names' bytes) is validated with in fold
i mod 5 and trained with in the others, so that each picture is validated with once. Each run is `offshoot train --model
mobilenet_v2` with the flags of a recipe, given as NAME:FLAGS. Prints, for each, the accuracy over all pictures after the last
epoch and that of `best.safetensors`, whose epoch the validation pictures chose, and the seconds of training. Nothing but
Python's standard library is needed.
"""
import argparse, csv, pathlib, shlex, statistics, subprocess, tempfile

from amp_accuracy import FOLDS, split

RECIPES = [
    "head only, crop: --freeze backbone",
    "default, crop:",
    "head only, pad: --freeze backbone --fit pad",
    "default, pad: --fit pad",
]


def train(args, data, run, flags, seed):
    """Right answers after the last and after the best epoch, pictures, and seconds."""
    command = [args.offshoot, "train", data, "--model", "mobilenet_v2", "--weights", args.weights, "--out", run]
    command += ["--seed", seed, *shlex.split(flags)]
    result = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {result.stderr}")
    with open(run / "results.csv") as file:
        rows = list(csv.DictReader(file))
    pictures = sum(1 for _ in (data / "val").glob("*/*"))
    accuracies = [float(row["val_accuracy"]) for row in rows]
    return [round(a * pictures) for a in (accuracies[-1], max(accuracies))] + [pictures, float(rows[-1]["seconds"])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offshoot", default="target/release/offshoot")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipe", action="append", help="NAME:FLAGS; may be given several times")
    args = parser.parse_args()

    recipes = [recipe.split(":", 1) for recipe in args.recipe or RECIPES]
    found = {name: [] for name, _ in recipes}
    for fold in range(FOLDS):
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                split(args.data, fold, folder / "data")
                for number, (name, flags) in enumerate(recipes):
                    found[name].append(train(args, folder / "data", folder / str(number), flags, seed))
            said = ", ".join(f"{name} {found[name][-1][0] / found[name][-1][2]:.3f}" for name, _ in recipes)
            print(f"fold {fold} seed {seed}: {said}", flush=True)
    for name, _ in recipes:
        last, best, pictures, seconds = (list(column) for column in zip(*found[name]))
        accuracy = [sum(right) / sum(pictures) for right in (last, best)]
        print(f"{name:20} last {accuracy[0]:.4f}   best {accuracy[1]:.4f}   {statistics.mean(seconds):.1f} s a run")


if __name__ == "__main__":
    main()
