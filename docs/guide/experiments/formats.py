"""How fast, how large and how exact each target is: `offshoot bench formats` on a MobileNetV2 whose head learned photos6, and on
a ResNet-50. Needs the assets, the Python peers with PyTorch, offshoot, and a machine with nothing else to do.

    python docs/guide/experiments/formats.py OFFSHOOT            prints
    python docs/guide/experiments/formats.py OFFSHOOT --write    puts the tables into the guide's pages

There are no published weights of a ResNet-50 among the assets: its backbone is random, so its accuracy means nothing and is left
out.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from blocks import fill, tables

ASSETS = pathlib.Path(os.environ.get("OFFSHOOT_ASSETS", pathlib.Path.home() / ".cache/offshoot/assets"))
MODELS = {
    "mobilenet_v2": ["--weights", str(ASSETS / "weights/mobilenet_v2.pth"), "--epochs", "30"],
    "resnet50": ["--epochs", "1"],
}
# Of the rows that are the same file in the same runtime, one is enough.
LEFT_OUT = ["offshoot-torchscript"]


def offshoot(*arguments):
    run = subprocess.run([OFFSHOOT, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def measure(root, name, flags):
    run = str(pathlib.Path(root) / name)
    offshoot("train", str(ASSETS / "photos6"), "--model", name, "--freeze", "backbone", "--fit", "pad", "--out", run, *flags)
    return offshoot("bench", "formats", run)


def rows(report, accuracy):
    """A line for each target that was run, with a column of pictures a second for each batch."""
    batches = sorted({row["batch"] for row in report["rows"] if row["batch"]})
    speeds = [(f"images/s, batch {n}", f"图片/秒，批大小 {n}") for n in batches]
    head = [("target", "目标"), "MB", *speeds, ("difference", "差值"), ("top-1 the same", "top-1 相同")]
    yield head + ([("accuracy", "准确率")] if accuracy else [])
    for target in dict.fromkeys(row["target"] for row in report["rows"] if row["status"] == "ran"):
        if target in LEFT_OUT:
            continue
        mine = {row["batch"]: row for row in report["rows"] if row["target"] == target}
        row = mine[batches[0]]
        speeds = [f"{mine[n]['images_per_second']:.0f} ({mine[n]['speedup']:.2f})" for n in batches]
        cells = [target, f"{row['bytes'] / 1e6:.1f}", *speeds, f"{row['max_rel_diff']:.0e}", f"{row['top1_agreement']:.3f}"]
        yield cells + ([f"{row['accuracy']:.3f}"] if accuracy else [])


def main():
    blocks = {}
    with tempfile.TemporaryDirectory() as root:
        for name, flags in MODELS.items():
            report = measure(root, name, flags)
            blocks[name] = tables(list(rows(report, name != "resnet50")))
            print(blocks[name][0], file=sys.stderr)
    keys = ["cpu", "cpu_features", "threads", "warm_up", "runs", "pictures", "versions"]
    print(json.dumps({key: report[key] for key in keys}))
    return blocks


if __name__ == "__main__":
    OFFSHOOT = os.path.abspath(sys.argv[1])
    for name, text in main().items():
        if "--write" in sys.argv:
            fill("which-target", f"formats {name}", text)
