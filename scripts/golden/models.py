"""What torchvision and timm hold and compute, for the tests of crates/offshoot-models.

    models.py              writes tests/golden/state_dicts.txt
    models.py predictions  writes tests/golden/imagenet20.txt: the top-1 of the published weights, picture by picture
    models.py logits DIR   writes DIR/NAME.safetensors for every model: a state dict with random weights and statistics,
                           with `golden.input` and `golden.logits`

state_dicts.txt has a block a model. First a line `model NAME PARAMETERS`, with `+HEAD` behind the name when the head is
replaced by ten classes. Then a line a module: `PATH NAME,NAME SHAPE`, its tensors that share a shape, in the state
dict's order. `num_batches_tracked` is left out.
"""
import itertools
import os
import pathlib
import sys

import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import BasicBlock, Bottleneck

GOLDEN = pathlib.Path(__file__).parents[2] / "crates/offshoot-models/tests/golden"
ASSETS = pathlib.Path(os.environ.get("OFFSHOOT_ASSETS", pathlib.Path.home() / ".cache/offshoot/assets"))
NAMES = [f"resnet{n}" for n in (18, 34, 50, 101, 152)] + ["mobilenet_v2"]
NAMES += [f"efficientnet_lite{n}" for n in range(5)]
HEADS = ["linear", "mlp:256,dropout=0.4"]
# Height and width of the golden inputs: the published size once a family, an odd one to try the padding.
SIZES = {"resnet18": 97, "resnet34": 64, "resnet50": 224, "resnet101": 64, "resnet152": 65}
SIZES |= {"mobilenet_v2": 224, "efficientnet_lite0": 224}
SIZES |= {f"efficientnet_lite{n}": size for n, size in enumerate((97, 130, 95, 64), start=1)}


def build(name):
    if name.startswith("efficientnet_lite"):
        return timm.create_model("tf_" + name)
    return getattr(torchvision.models, name)(weights=None)


def new_head(text, features):
    if text == "linear":
        return nn.Linear(features, 10)
    hidden, dropout = text.removeprefix("mlp:").split(",dropout=")
    hidden = int(hidden)
    return nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(float(dropout)), nn.Linear(hidden, 10)
    )


def replace_head(model, text):
    if hasattr(model, "fc"):
        model.fc = new_head(text, model.fc.in_features)
    elif isinstance(model.classifier, nn.Sequential):
        model.classifier[1] = new_head(text, model.classifier[1].in_features)
    else:
        model.classifier = new_head(text, model.classifier.in_features)


def describe(name, model):
    yield f"model {name} {sum(p.numel() for p in model.parameters())}"
    tensors = [(*k.rsplit(".", 1), "x".join(map(str, t.shape))) for k, t in model.state_dict().items()]
    tensors = [t for t in tensors if t[1] != "num_batches_tracked"]
    for (path, shape), group in itertools.groupby(tensors, key=lambda t: (t[0], t[2])):
        yield f"{path} {','.join(name for _, name, _ in group)} {shape}"


def write_state_dicts():
    lines = []
    for name in NAMES:
        lines += describe(name, build(name))
    for name, head in itertools.product(["resnet18", "mobilenet_v2", "efficientnet_lite0"], HEADS):
        model = build(name)
        replace_head(model, head)
        lines += describe(f"{name}+{head}", model)
    (GOLDEN / "state_dicts.txt").write_text("\n".join(lines) + "\n")


def randomize(model, x):
    """Random batch norms whose running statistics fit `x`, so that activations keep their size through the model.

    The last norm of a residual branch scales down, as in trained networks: without that a ResNet-101 amplifies rounding
    until PyTorch's f32 logits are 1e-4 of the largest away from its own f64 logits (7e-6 with it).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = 1.0
    for block in model.modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            getattr(block, "bn3", block.bn2).weight *= 0.3
    model.train()
    model(x)
    for norm in norms:
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
    model.eval()


@torch.no_grad()
def write_logits(directory):
    directory.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        torch.manual_seed(0)
        model = build(name)
        size = SIZES[name]
        x = torch.randn(2, 3, size, size)
        randomize(model, torch.randn(4, 3, size, size))
        tensors = dict(model.state_dict()) | {"golden.input": x, "golden.logits": model(x)}
        save_file({k: t.contiguous() for k, t in tensors.items()}, directory / f"{name}.safetensors")


def published(name):
    """A model with the published weights, and its evaluation transform."""
    model = build(name)
    weights = torch.load(ASSETS / f"weights/{name}.pth", map_location="cpu")
    if name == "mobilenet_v2":
        filter, mean, std = "bilinear", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    else:
        # The file has other names for the same tensors in the same order, and inputs (x - 127) / 128.
        weights = dict(zip(model.state_dict(), weights.values(), strict=True))
        filter, mean, std = "bicubic", [127 / 255] * 3, [128 / 255] * 3
    model.load_state_dict(weights)
    steps = [transforms.Resize(256, transforms.InterpolationMode(filter)), transforms.CenterCrop(224)]
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return model.eval(), transforms.Compose(steps)


@torch.no_grad()
def write_predictions():
    names = ["mobilenet_v2", "efficientnet_lite0"]
    models = [published(name) for name in names]
    lines = [" ".join(["picture", *names])]
    for path in sorted((ASSETS / "imagenet20").iterdir()):
        picture = Image.open(path).convert("RGB")
        top = [model(transform(picture)[None]).argmax().item() for model, transform in models]
        lines.append(" ".join(map(str, [path.name, *top])))
    (GOLDEN / "imagenet20.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["logits"]:
        write_logits(pathlib.Path(sys.argv[2]))
    elif sys.argv[1:2] == ["predictions"]:
        write_predictions()
    else:
        write_state_dicts()
