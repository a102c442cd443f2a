#!/usr/bin/env python3
"""What torchvision's transforms make of a picture: the expectations of offshoot-data's augmentation.

    augment.py      writes crates/offshoot-data/tests/golden/augment

Needs Pillow, numpy, torch and torchvision. The picture is one of those that data.py wrote.
"""

import numpy as np
import torch
from PIL import Image
from data import GOLDEN, to_rgb
from torchvision.transforms import RandAugment, TrivialAugmentWide
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

SIZE = 331  # RandAugment's translations are fractions of it
BOX = (20, 10, 63, 41)
NEAREST, BILINEAR = F.InterpolationMode.NEAREST, F.InterpolationMode.BILINEAR


def cases(picture):
    """(name and numbers, picture)"""
    for factor in (0.0, 0.3, 1.0, 1.9):
        yield f"Brightness {factor}", F.adjust_brightness(picture, factor)
        yield f"Contrast {factor}", F.adjust_contrast(picture, factor)
        yield f"Saturation {factor}", F.adjust_saturation(picture, factor)
        yield f"Sharpness {factor}", F.adjust_sharpness(picture, factor)
    for turn in (-0.5, -0.13, 0.01, 0.27):
        yield f"Hue {turn}", F.adjust_hue(picture, turn)
    for bits in (2, 4, 7):
        yield f"Posterize {bits}", F.posterize(picture, bits)
    for threshold in (0.0, 100.3, 255.0):
        yield f"Solarize {threshold}", F.solarize(picture, threshold)
    yield "AutoContrast", F.autocontrast(picture)
    yield "Equalize", F.equalize(picture)
    for magnitude in (-0.99, 0.3, 0.5):
        for name in ("ShearX", "ShearY"):
            yield f"{name} {magnitude}", _apply_op(picture, name, magnitude, NEAREST, None)
    for magnitude in (-7, 12):
        for name in ("TranslateX", "TranslateY"):
            yield f"{name} {magnitude}", _apply_op(picture, name, magnitude, NEAREST, None)
    for degrees in (-135.0, -30.0, 9.0, 90.0):
        yield f"Rotate {degrees} nearest", F.rotate(picture, degrees, NEAREST)
        yield f"Rotate {degrees} smooth", F.rotate(picture, degrees, BILINEAR)


def magnitudes():
    """policy, operation, bin, magnitude"""
    spaces = {
        "rand:2,9": RandAugment()._augmentation_space(31, (SIZE, SIZE)),
        "trivial": TrivialAugmentWide()._augmentation_space(31),
    }
    for policy, space in spaces.items():
        for name, (values, signed) in space.items():
            for bin in (0, 1, 9, 15, 30):
                value = float(values[bin]) if values.ndim > 0 else 0.0
                yield f"magnitude {policy} {name} {bin} {value!r} {int(signed)}"


def main():
    out = GOLDEN / "augment"
    out.mkdir(exist_ok=True)
    picture = to_rgb(Image.open(GOLDEN / "wide.png"), (255, 255, 255)).crop(BOX)
    lines = ["# Written by scripts/golden/augment.py; each `op` is one picture of expected.rgb."]
    expected = bytearray()
    for name, result in cases(picture):
        assert result.size == picture.size
        lines.append(f"op {name}")
        # Every second pixel of every second row: what is wrong anywhere shows there too.
        expected.extend(np.asarray(result)[::2, ::2].tobytes())
    lines += list(magnitudes())
    (out / "expected.rgb").write_bytes(expected)
    (out / "cases.txt").write_text("\n".join(lines) + "\n")
    print(len(expected), "bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
