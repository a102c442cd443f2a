#!/usr/bin/env python3
"""What loss scaling prevents: gradients that f16 cannot hold, with the loss as it is and with it scaled.

    docs/guide/experiments/loss_scaling.py            prints
    docs/guide/experiments/loss_scaling.py --write    puts the table into the guide's pages on loss scaling

Runs the example `underflow` (see there), which builds offshoot and takes minutes.
"""
import pathlib, subprocess, sys

from blocks import fill, tables

ROOT = pathlib.Path(__file__).resolve().parents[3]
WANTED = ["layer4.1.conv1", "layer3.1.conv1", "layer2.1.conv1", "layer1.1.conv1", "conv1"]

command = ["cargo", "run", "--release", "--quiet", "-p", "offshoot-train", "--example", "underflow"]
printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
found = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[3:]}
rows = [[("convolution", "卷积层"), ("gradient lost, scale 1", "丢失的梯度，缩放系数 1"), ("scale 65536", "缩放系数 65536"),
         ("error of the weight's gradient, scale 1", "权重梯度的误差，缩放系数 1"), ("scale 65536", "缩放系数 65536")]]
rows += [[name.removesuffix(".weight"), *found[name]] for name in found if name.removesuffix(".weight") in WANTED]
print(tables(rows)[0])
if "--write" in sys.argv:
    fill("loss-scaling", "underflow", tables(rows))
