#!/usr/bin/env python3
"""Writes crates/offshoot-models/src/published/torchvision.rs and imagenet.txt from torchvision's own source.

The first is a row for each file of ImageNet-1k weights that torchvision publishes for an architecture of ours, its default
first, with what evaluation it was measured with. The second is the names of ImageNet-1k's classes, a line each. Where a name
stands twice, the index follows it.
"""

import collections
import pathlib

import torchvision
from torchvision import models

OUT = pathlib.Path(__file__).parents[2] / "crates/offshoot-models/src/published"
NAMES = [f"resnet{n}" for n in (18, 34, 50, 101, 152)] + ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]
NAMES += [*(f"efficientnet_b{n}" for n in range(5)), "convnext_tiny", "convnext_small", "vit_b_16"]
NAMES += ["vgg16", "vgg16_bn", "densenet121", "regnet_y_400mf", "squeezenet1_1"]
NAMES += ["resnext50_32x4d", "wide_resnet50_2", "mnasnet1_0", "shufflenet_v2_x1_0", "efficientnet_v2_s", "googlenet"]
NAMES += ["inception_v3", "swin_t", "swin_v2_t", "maxvit_t"]


def row(name, weights):
    transforms, meta = weights.transforms(), weights.meta
    (size,), (resize,) = transforms.crop_size, transforms.resize_size
    assert (transforms.mean, transforms.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    filter = transforms.interpolation.value.capitalize()
    file = weights.url.removeprefix("https://download.pytorch.org/models/").removesuffix(".pth")
    file, hash = file.rsplit("-", 1)
    license = "NON_COMMERCIAL" if "SWAG" in meta.get("license", "") else "TORCHVISION"
    fields = [f'"{weights.name}"', f'"{file}"', f'"{hash}"', meta["_metrics"]["ImageNet-1K"]["acc@1"], meta["_file_size"]]
    return f'    ("{name}", file!({", ".join(map(str, fields))}, {size}, {resize}, {filter}, {license})),'


def rows():
    for name in NAMES:
        every = models.get_model_weights(name)
        known = [w for w in every if w.meta["categories"] and len(w.meta["categories"]) == 1000]
        for weights in sorted(known, key=lambda w: w != every.DEFAULT):
            yield row(name, weights)


def main():
    head = [
        f"// Written by scripts/golden/published.py from torchvision {torchvision.__version__.split('+')[0]}.",
        "",
        "use super::{NON_COMMERCIAL, Published, TORCHVISION, file};",
        "use offshoot_graph::Interpolation::{Bicubic, Bilinear};",
        "",
        "/// Architecture and file, the best first.",
        "#[rustfmt::skip]",
        "pub(super) const FILES: &[(&str, Published)] = &[",
    ]
    (OUT / "torchvision.rs").write_text("\n".join([*head, *rows(), "];"]) + "\n")
    classes = models._meta._IMAGENET_CATEGORIES
    count = collections.Counter(classes)
    names = [f"{name} ({index})" if count[name] > 1 else name for index, name in enumerate(classes)]
    assert len(set(names)) == 1000
    (OUT / "imagenet.txt").write_text("\n".join(names) + "\n")


if __name__ == "__main__":
    main()
