#!/usr/bin/env python3
"""Which score tells pictures of unknown classes from others: each class of `photos6` is left out of training once.

    docs/guide/experiments/rejecting.py OFFSHOOT [--folds 3] [--flags "--freeze backbone"] [--keep FOLDER] [--write]

For each left-out class and each fold, a pretrained MobileNetV2 is trained with the other classes, with those flags; the pictures of the fold are
not trained with. The scores are those of the fold's pictures (known) and of all pictures of the left-out class (unknown). AUROC is how often a known picture has a higher
score than an unknown one, equal ones counted half, by scikit-learn; the tables have the mean of the folds. The embedding is what the last
linear layer reads. The temperature is fitted on the known pictures by PyTorch, as `train` does. `--write` puts the table into the guide's pages.
Needs the pictures and weights of scripts/fetch, onnx, NumPy, PyTorch, torchmetrics and scikit-learn.
"""
import argparse, collections, csv, json, os, pathlib, shlex, statistics, subprocess, sys, tempfile

import numpy as np
import onnx
import torch
from sklearn.metrics import roc_auc_score

from blocks import fill, tables

sys.path.append(str(pathlib.Path(__file__).resolve().parents[3] / "scripts/golden"))
from calibration import fitted

ASSETS = pathlib.Path(os.environ.get("OFFSHOOT_ASSETS", pathlib.Path.home() / ".cache/offshoot/assets"))
PHOTOS, WEIGHTS = ASSETS / "photos6", ASSETS / "weights/mobilenet_v2.pth"
KEY = "offshoot"

SCORES = {
    "probability": ("highest probability, calibrated", "校准后的最高概率"),
    "raw": ("highest probability, not calibrated", "未校准的最高概率"),
    "energy": ("energy", "能量"),
    "euclidean": ("distance to the nearest training embedding", "到最近的训练嵌入的距离"),
    "cosine": ("the same, of embeddings of length 1", "同上，嵌入归一化为长度 1"),
}


def offshoot(*arguments):
    run = subprocess.run([OFFSHOOT, *map(str, arguments), "--json"], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def pictures(out):
    """The pictures of each class that is not left out, in the order of their names."""
    return {folder.name: sorted(folder.iterdir()) for folder in sorted(PHOTOS.iterdir()) if folder.name != out}


def train(folder, out, fold, folds, flags):
    """A run, its training pictures and those held out."""
    sides = {"train": [], "val": []}
    table = folder / "pictures.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for label, paths in pictures(out).items():
            for place, path in enumerate(paths):
                split = "val" if place % folds == fold else "train"
                sides[split].append(path)
                rows.writerow([path, label, split])
    run = folder / "run"
    offshoot("train", table, "--model", "mobilenet_v2", "--weights", WEIGHTS, "--fit", "pad", "--out", run, *flags)
    return run, sides["train"], sides["val"]


def rows(model, paths):
    """What the last layer of `model` gives for each picture."""
    found = {row["path"]: row["logits"] for row in offshoot("predict", model, "--logits", "--top", 1, "--strict", *paths)}
    return np.array([found[str(path)] for path in paths], dtype=np.float64)


def headless(run, folder):
    """The network of a run without its last linear layer, as an ONNX file with as many classes as the embedding has numbers."""
    path = pathlib.Path(offshoot("export", run, "--format", "onnx", "--out", folder / "onnx")[0]["files"][0]["path"])
    model = onnx.load(path)
    last = next(node for node in reversed(model.graph.node) if node.op_type in ("Gemm", "MatMul"))
    weight = next(w for w in model.graph.initializer if w.name == last.input[1])
    width = next(n for n in weight.dims if n != model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    output = onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, ["batch_size", width])
    del model.graph.output[:]
    model.graph.output.append(output)
    model.graph.node.remove(last)
    for entry in model.metadata_props:
        if entry.key.startswith(KEY):
            own = json.loads(entry.value)
            entry.value = json.dumps({"classes": [str(i) for i in range(width)], "preprocessing": own["preprocessing"]})
    out = folder / "headless.onnx"
    onnx.save(model, out)
    return out


def nearest(of, among):
    """The distance of each row of `of` to the nearest row of `among`."""
    return np.sqrt(((of[:, None, :] - among[None]) ** 2).sum(2)).min(1)


def normalized(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scores(folder, out, fold, folds, flags):
    """Of each score, the values of known and of unknown pictures; and the run's accuracy on the known ones."""
    run, trained, known = train(folder, out, fold, folds, flags)
    unknown = sorted((PHOTOS / out).iterdir())
    logits = [rows(run, paths) for paths in (known, unknown)]
    network = headless(run, folder)
    base, *embeddings = [rows(network, paths) for paths in (trained, known, unknown)]

    def probability(z, t):
        return (np.exp(z / t - (z / t).max(1, keepdims=True))).sum(1) ** -1

    def energy(z):
        return np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)

    labels = [sorted(pictures(out)).index(path.parent.name) for path in known]
    temperature = fitted(torch.tensor(logits[0]), torch.tensor(labels))
    return {
        "probability": [probability(z, temperature) for z in logits],
        "raw": [probability(z, 1.0) for z in logits],
        "energy": [energy(z) for z in logits],
        "euclidean": [-nearest(x, base) for x in embeddings],
        "cosine": [-nearest(normalized(x), normalized(base)) for x in embeddings],
    }, float((logits[0].argmax(1) == labels).mean()), temperature


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("offshoot")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--flags", type=shlex.split, default=["--freeze", "backbone"])
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    global OFFSHOOT
    OFFSHOOT = os.path.abspath(given.offshoot)
    areas, accuracies = collections.defaultdict(dict), {}
    with tempfile.TemporaryDirectory() as root:
        for out in pictures(None):
            found, right = collections.defaultdict(list), []
            for fold in range(given.folds):
                folder = (given.keep or pathlib.Path(root)) / f"{out}-{fold}"
                folder.mkdir(parents=True)
                values, accuracy, temperature = scores(folder, out, fold, given.folds, given.flags)
                right.append(accuracy)
                for score, (known, unknown) in values.items():
                    truth = [1] * len(known) + [0] * len(unknown)
                    found[score].append(roc_auc_score(truth, np.concatenate([known, unknown])))
                line = {score: round(each[-1], 4) for score, each in found.items()}
                print(out, fold, f"{accuracy:.3f}", f"{temperature:.3f}", line, file=sys.stderr, flush=True)
            accuracies[out] = statistics.mean(right)
            for score, each in found.items():
                areas[score][out] = statistics.mean(each)
    head = [("score", "分数"), *(f"`{out}`" for out in accuracies), ("mean", "平均")]
    lines = [head, [("accuracy on known classes", "已知类别的准确率")] + list(accuracies.values())]
    lines += [[SCORES[score], *of.values()] for score, of in areas.items()]
    for line in lines[1:]:
        line.append(statistics.mean(line[1:]))
        line[1:] = [f"{x:.3f}" for x in line[1:]]
    text = tables(lines)
    print(text[0])
    if given.write:
        fill("rejecting", "scores", text)


if __name__ == "__main__":
    main()
