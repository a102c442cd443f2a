"""What the two forms of ONNX make of one trained model: bytes, and how far answers in ONNX Runtime lie from the model's.
Needs the assets, the light peers, and offshoot.

    python docs/guide/experiments/targets.py OFFSHOOT            prints
    python docs/guide/experiments/targets.py OFFSHOOT --write    puts the table into the guide's pages
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from blocks import GUIDE, fill, tables

sys.path.insert(0, str(GUIDE.parents[1] / "scripts"))
import interop  # noqa: E402

ASSETS = pathlib.Path(os.environ.get("OFFSHOOT_ASSETS", pathlib.Path.home() / ".cache/offshoot/assets"))
NAME = "mobilenet_v2"


def offshoot(*arguments):
    run = subprocess.run([OFFSHOOT, *arguments, "--json"], capture_output=True, text=True, check=True)
    return run.stdout


def export(folder, *flags):
    flags = ["--model", NAME, "--weights", str(ASSETS / f"weights/{NAME}.pth"), *flags, "--out", str(folder)]
    (file,) = json.loads(offshoot("export", *flags))["files"]
    return file


def main():
    rows = []
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        printed = root / "predictions.jsonl"
        model = ["--model", NAME, "--weights", str(ASSETS / f"weights/{NAME}.pth")]
        printed.write_text(offshoot("predict", *model, str(ASSETS / "photos6"), "--logits"))
        for form, flags, check in [
            ("ONNX", ["--format", "onnx"], interop.check_onnx),
            (("ONNX, `--with-preprocess`", "ONNX，`--with-preprocess`"), ["--format", "onnx", "--with-preprocess"], interop.check_whole),
        ]:
            file = export(root / str(len(rows)), *flags)
            report = check(file["path"], printed)
            result = report.get("batch 7") or report
            rows.append((form, file["bytes"], result))
    lines = [["", "MB", ("pictures", "图片数"), ("top-1 the same", "top-1 相同"),
              ("largest difference of a logit", "logit 的最大差"), ("of a pixel, mean", "像素的平均差")]]
    for form, size, result in rows:
        pixel = f"{result['mean_pixel']:.4f}" if "mean_pixel" in result else "0"
        lines.append([form, f"{size / 1e6:.1f}", result["pictures"], result["top1_equal"], f"{result['difference']:.1e}", pixel])
    return tables(lines)


if __name__ == "__main__":
    OFFSHOOT = os.path.abspath(sys.argv[1])
    table = main()
    print(table[0])
    if "--write" in sys.argv:
        fill("which-target", "targets", table)
