#!/usr/bin/env python3
"""What static int8 costs: top-1 agreement with f32 and with ONNX Runtime, and the size of the file.

    benches/int8_accuracy.py --assets ~/.cache/offshoot/assets [--offshoot target/release/offshoot] [--methods mse] [--bits 7]
                             [--only imagenet20|photos6|size]

imagenet20: the published weights of MobileNetV2 and EfficientNet-Lite0, calibrated on photos6, which holds other pictures.
photos6: a new head on MobileNetV2 in each of five folds (picture i of a class, in the order of the names' bytes, is validated
with in fold i mod 5), calibrated on the fold's training pictures, compared on those that it was not trained with.
size: the files against those of the folded f32 network, nothing kept in float; ResNet-50 with random weights.

Each quantized file is also given to ONNX Runtime with its optimisations, on pictures that Pillow prepares. Needs onnxruntime,
numpy and pillow; `offshoot` does the rest. Prints a line of JSON for each measurement.
"""
import argparse, json, pathlib, subprocess, sys, tempfile

import numpy as np
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benches")]
from amp_accuracy import FOLDS, split  # noqa: E402
from interop import prepare  # noqa: E402


def offshoot(args, *command):
    result = subprocess.run([str(x) for x in (args.offshoot, *command, "--json")], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {result.stderr}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def best(args, model, pictures):
    """The best class of each picture."""
    rows = offshoot(args, "predict", *model, *pictures, "--top", 1)
    return [row["top"][0]["index"] for row in rows]


def onnx_runtime(file, pictures):
    import onnx

    steps = json.loads(onnx.load(file).metadata_props[0].value)["preprocessing"]
    x = np.stack([prepare(path, steps) for path in pictures])
    session = onnxruntime.InferenceSession(file)
    return np.concatenate([session.run(None, {"input": x[i : i + 8]})[0] for i in range(0, len(x), 8)]).argmax(1)


def same(a, b):
    return int(sum(int(x) == int(y) for x, y in zip(a, b)))


def compare(args, what, float_model, flags, pictures, folder, method, bits):
    (made,) = offshoot(args, "quantize", *float_model, "--mode", "static", "--method", method, "--weight-bits", bits, "--out", folder, *flags)
    wanted, found = best(args, float_model, pictures), best(args, [made["path"]], pictures)
    return {
        "what": what, "method": method, "weight_bits": int(bits), "pictures": len(pictures),
        "agree_with_f32": same(wanted, found), "onnxruntime_agrees": same(found, onnx_runtime(made["path"], pictures)),
        "size": round(made["bytes"] / made["bytes_before"], 4), "kept_float": len(made["kept_float"]),
        "accuracy": made["accuracy"], "accuracy_before": made["accuracy_before"],
    }


def imagenet(args, method, bits):
    pictures = sorted((args.assets / "imagenet20").iterdir())
    for name in ["mobilenet_v2", "efficientnet_lite0"]:
        model = ["--model", name, "--weights", args.assets / f"weights/{name}.pth"]
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(compare(args, f"imagenet20 {name}", model, ["--calibration", args.assets / "photos6"], pictures, folder, method, bits)), flush=True)


def photos(args, settings):
    found = {setting: [] for setting in settings}
    for fold in range(FOLDS):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            split(args.assets / "photos6", fold, folder / "data")
            run = folder / "run"
            offshoot(args, "train", folder / "data", "--model", "mobilenet_v2", "--weights", args.assets / "weights/mobilenet_v2.pth",
                     "--freeze", "backbone", "--out", run)
            pictures = sorted((folder / "data/val").glob("*/*"))
            for setting in settings:
                found[setting].append(compare(args, f"photos6 fold {fold}", [run], [], pictures, folder / "out", *setting))
    for (method, bits), rows in found.items():
        total = {key: sum(row[key] for row in rows) for key in ["pictures", "agree_with_f32", "onnxruntime_agrees"]}
        mean = {key: round(sum(row[key] * row["pictures"] for row in rows) / total["pictures"], 4) for key in ["accuracy", "accuracy_before"]}
        print(json.dumps({"what": "photos6 five-fold", "method": method, "weight_bits": int(bits), **total, **mean,
                          "agreement": round(total["agree_with_f32"] / total["pictures"], 4), "size": rows[0]["size"]}), flush=True)


def size(args, bits):
    """ResNet-50 under the names of the published weights, with random ones."""
    import torchvision  # random weights under the published names
    import torch

    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/resnet50.pth"
        torch.save(torchvision.models.resnet50().state_dict(), weights)
        flags = ["--calibration", args.assets / "imagenet20", "--calibration-pictures", 8, "--method", "minmax"]
        (made,) = offshoot(args, "quantize", "--model", "resnet50", "--weights", weights, "--mode", "static", "--weight-bits", bits, "--out", folder, *flags)
        print(json.dumps({"what": "size resnet50", "weight_bits": int(bits), "bytes": made["bytes"], "bytes_before": made["bytes_before"],
                          "size": round(made["bytes"] / made["bytes_before"], 4), "kept_float": len(made["kept_float"])}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offshoot", default="target/release/offshoot")
    parser.add_argument("--assets", type=pathlib.Path, required=True)
    parser.add_argument("--methods", default="mse")
    parser.add_argument("--bits", default="7")
    parser.add_argument("--only", choices=["imagenet20", "photos6", "size"])
    args = parser.parse_args()
    settings = [(method, bits) for method in args.methods.split(",") for bits in args.bits.split(",")]
    if args.only in (None, "imagenet20"):
        for setting in settings:
            imagenet(args, *setting)
    if args.only in (None, "photos6"):
        photos(args, settings)
    if args.only in (None, "size"):
        size(args, args.bits.split(",")[0])


if __name__ == "__main__":
    main()
