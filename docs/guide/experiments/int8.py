#!/usr/bin/env python3
"""What int8 costs and what it brings: one fine-tuned MobileNetV2 in f32, in dynamic and in static int8.

    docs/guide/experiments/int8.py OFFSHOOT [--write]

A new head is trained on `photos6`; then each file is made and run on all 208 pictures. `agrees` is how many of them have
the same class as in f32, `confident` the same among those that f32 gives a probability of at least 0.9. The time is ONNX Runtime's for one picture,
two threads, the median of 50 runs taken alternately. `--write` puts the tables into the guide's pages. Needs the assets and the light
peers (scripts/fetch, scripts/peers --light), onnxruntime.quantization among them.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from blocks import fill, tables

ASSETS = pathlib.Path(os.environ.get("OFFSHOOT_ASSETS", pathlib.Path.home() / ".cache/offshoot/assets"))
TURNS = 50


def offshoot(*arguments):
    command = [OFFSHOOT, *(str(a) for a in arguments), "--json"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}: {run.stderr}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def answers(model):
    rows = offshoot("predict", model, ASSETS / "photos6")
    return {row["path"]: row["top"][0] for row in rows}


def static(run, folder, name, *flags):
    (result,) = offshoot("quantize", run, "--mode", "static", "--out", folder / name, *flags)
    return pathlib.Path(result["path"])


def milliseconds(files):
    """The median time of each file on one picture, the files taking turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    sessions = [onnxruntime.InferenceSession(str(file), options) for file in files]
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    times = [[] for _ in files]
    for turn in range(TURNS + 3):
        for session, found in zip(sessions, times):
            start = time.perf_counter()
            session.run(None, {"input": x})
            if turn >= 3:
                found.append(time.perf_counter() - start)
    return [1000 * statistics.median(found) for found in times]


def main():
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        run, weights = root / "run", ASSETS / "weights/mobilenet_v2.pth"
        offshoot("train", ASSETS / "photos6", "--model", "mobilenet_v2", "--weights", weights, "--freeze", "backbone",
                 "--fit", "pad", "--out", run)
        (exported,) = offshoot("export", run, "--format", "onnx", "--out", root / "f32")
        f32 = pathlib.Path(exported["files"][0]["path"])
        (dynamic,) = offshoot("quantize", run, "--mode", "dynamic", "--out", root / "dynamic")
        names = [("f32", "f32"), ("dynamic", "动态")]
        files = [f32, pathlib.Path(dynamic["path"])]
        for method in ["minmax", "percentile", "entropy", "mse"]:
            names.append((f"static, {method}", f"静态，{method}"))
            files.append(static(run, root, method, "--method", method))
        names.append(("static, minmax, 8-bit weights", "静态，minmax，8 位权重"))
        files.append(static(run, root, "eight", "--method", "minmax", "--weight-bits", "8"))
        wanted = answers(run)
        sure = [path for path, top in wanted.items() if top["probability"] >= 0.9]
        rows = [[("file", "文件"), "MB", ("agrees", "一致"), ("confident", "高置信度中一致"), ("ms in ONNX Runtime", "ONNX Runtime 毫秒")]]
        for name, file, ms in zip(names, files, milliseconds(files)):
            found = answers(file)
            same = [path for path in wanted if found[path]["class"] == wanted[path]["class"]]
            rows.append([name, f"{file.stat().st_size / 1e6:.1f}", f"{len(same)} / {len(wanted)}",
                         f"{len(set(same) & set(sure))} / {len(sure)}", f"{ms:.1f}"])
        everything = root / "everything.onnx"
        quantize_dynamic(str(f32), str(everything), weight_type=QuantType.QUInt8, op_types_to_quantize=["Conv", "Gemm", "MatMul"])
        plain, slow = milliseconds([f32, everything])
    return tables(rows), tables([
        [("file", "文件"), ("ms in ONNX Runtime", "ONNX Runtime 毫秒")],
        ["f32", f"{plain:.1f}"],
        [("every convolution dynamic (onnxruntime.quantization)", "所有卷积都做动态量化（onnxruntime.quantization）"), f"{slow:.1f}"],
    ])


if __name__ == "__main__":
    OFFSHOOT = os.path.abspath(sys.argv[1])
    files, convolutions = main()
    print(files[0], convolutions[0], sep="\n\n")
    if "--write" in sys.argv:
        fill("int8", "files", files)
        fill("int8", "convolutions", convolutions)
