"""Exports classifiers of torchvision with torch.export, for the test of the reader of .pt2 files.

    python scripts/export_pt2.py FOLDER [NAME ...]

For each NAME there are FOLDER/NAME.dynamic.pt2 (any number of pictures), NAME.static.pt2 (one picture) and NAME.decomposed.pt2
(after run_decompositions()), with random weights. FOLDER/logits.json holds, for each file, the input's shape and the logits
that PyTorch computes for the input x[i] = ((7919 i) mod 1000) / 500 - 1 (i counts the elements in row-major order).
"""

import json
import pathlib
import sys
import warnings

import torch
import torchvision
from logits import pattern

# (Small ones. Others are given by name: alexnet, convnext_tiny, vgg11, vit_b_16, ...)
NAMES = """densenet121 efficientnet_b0 googlenet mnasnet0_5 mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5
    squeezenet1_1""".split()
# (Whose pools to 7 x 7 pixels have as many to begin with.)
SIZES = {"inception_v3": 128, "alexnet": 224, "vgg11": 224, "vgg11_bn": 224}
warnings.filterwarnings("ignore")


def model_of(name, size):
    """A model with random weights whose logits are neither equal nor large."""
    torch.manual_seed(7)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit"):
        options = {"image_size": size}
    model = torchvision.models.get_model(name, weights=None, num_classes=10, **options).eval()
    generator = torch.Generator().manual_seed(7)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.dim() < 2:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif tensor.is_floating_point() and not tensor.any():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return model


def main(folder, names):
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    table = {}
    for name in names or NAMES:
        size = SIZES.get(name, 64)
        model = model_of(name, size)
        x = pattern((2, 3, size, size)).float()
        batch = torch.export.Dim("batch", min=1, max=1024)
        dynamic = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
        programs = {
            "dynamic": dynamic,
            "static": torch.export.export(model, (x[:1],), strict=False),
            "decomposed": dynamic.run_decompositions(),
        }
        for kind, program in programs.items():
            file = f"{name}.{kind}.pt2"
            torch.export.save(program, folder / file)
            given = x[:1] if kind == "static" else x
            with torch.no_grad():
                logits = model(given)
            table[file] = {"shape": list(given.shape), "logits": logits.flatten().tolist()}
        (folder / "logits.json").write_text(json.dumps(table))
        print(name, float(logits.abs().max()), flush=True)


main(sys.argv[1], sys.argv[2:])
