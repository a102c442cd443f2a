#!/usr/bin/env python3
"""Whether mixed precision costs accuracy: folds and seeds of a fine-tuning in f32, bf16 and f16.

    benches/amp_accuracy.py --data photos6 --weights mobilenet_v2.pth [--folds 5] [--seeds 5] [--flags "--freeze none"]

DATA has a folder of pictures for each class. Picture i of a class (in the order of the names' bytes) is validated with in fold
i mod 5 and trained with in the others. Each run is `offshoot train --model mobilenet_v2` with the flags given; by
default the first seven blocks are frozen and the other twelve and the head train for four epochs at 160 x 160.
Prints the mean validation accuracy of the last epoch for each mode, and the difference from f32 in points with its
standard error over the runs. Nothing but Python's standard library is needed.
"""
import argparse, csv, json, pathlib, shlex, statistics, subprocess, tempfile

FOLDS = 5
MODES = ["off", "bf16", "fp16"]
# The first blocks, which take most of the time and know least of these pictures, run once.
FROZEN = ",".join(f"features.{i}" for i in range(7))
FLAGS = f"--freeze {FROZEN} --epochs 4 --lr 3e-4 --augment off --size 160 --fit pad"


def split(data, fold, to):
    """Links to the pictures of `fold` as TO/val, and to the others as TO/train."""
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        for i, picture in enumerate(sorted(folder.iterdir())):
            link = to / ("val" if i % FOLDS == fold else "train") / folder.name / picture.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(picture.resolve())


def accuracy(args, data, run, mode, seed):
    command = [args.offshoot, "train", data, "--model", args.model, "--weights", args.weights, "--out", run, "--json"]
    command += ["--amp", mode, "--seed", seed, *shlex.split(args.flags)]
    result = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {result.stderr}")
    with open(run / "results.csv") as file:
        last = list(csv.DictReader(file))[-1]
    return float(last["val_accuracy"]), json.loads(result.stdout)["peak_mib"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offshoot", default="target/release/offshoot")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--flags", default=FLAGS)
    args = parser.parse_args()

    found, peaks = {mode: [] for mode in MODES}, {}
    for fold in range(args.folds):
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                split(args.data, fold, folder / "data")
                for mode in MODES:
                    reached, peaks[mode] = accuracy(args, folder / "data", folder / mode, mode, seed)
                    found[mode].append(reached)
            print(f"fold {fold} seed {seed}: " + ", ".join(f"{m} {found[m][-1]:.3f}" for m in MODES), flush=True)
    for mode in MODES:
        differences = [100 * (a - b) for a, b in zip(found[mode], found["off"])]
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
        mean = statistics.mean(found[mode])
        print(f"{mode:5} {mean:.4f}   {statistics.mean(differences):+.2f} +- {error:.2f} points   {peaks[mode]:.0f} MiB")


if __name__ == "__main__":
    main()
