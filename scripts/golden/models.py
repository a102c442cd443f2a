"""What torchvision and timm hold and compute, for the tests of crates/offshoot-models.

    models.py              writes tests/golden/state_dicts.txt, and timm_keys.txt in the same form: our name, timm's keys
    models.py predictions  writes tests/golden/imagenet20.txt: the top-1 of the published weights, picture by picture
    models.py logits DIR   writes DIR/NAME.safetensors for every model: a state dict with random weights and statistics,
                           with `golden.input`, `golden.logits` and, computed in f64, `golden.exact`; for some also `golden.labels` and `golden.grad.KEY`,
                           gradients of the cross entropy in training mode without dropout and stochastic depth
    models.py timm DIR     writes DIR/NAME.safetensors with timm's keys and logits for our NAME
    models.py positions DIR  writes DIR/positions.safetensors: what timm makes of a transformer's positions for other sizes

`logits` and `timm` print the path of each file and then wait for a line on standard input, so that a reader can delete
the file before the next one is made: together they are several gigabytes.

state_dicts.txt has a block a model. First a line `model NAME PARAMETERS`, with `+HEAD` behind the name when the head is
replaced by ten classes. Then a line a module: `PATH NAME,NAME SHAPE`, its tensors that share a shape, in the state
dict's order. The path of the model's own tensors is `.`. `num_batches_tracked` is left out.
"""

import copy
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
NAMES += [f"efficientnet_lite{n}{end}" for end in ("", "_symmetric") for n in range(5)]
NAMES += ["mobilenet_v3_small", "mobilenet_v3_large", *(f"efficientnet_b{n}" for n in range(5))]
NAMES += ["convnext_tiny", "convnext_small", "vit_b_16", "vit_small_patch14_dinov2"]
NAMES += ["vgg16", "vgg16_bn", "densenet121", "regnet_y_400mf", "squeezenet1_1"]
HEADS = ["linear", "mlp:256,dropout=0.4"]
# Height and width of the golden inputs: the published size once a family, an odd one to try the padding.
SIZES = {"resnet18": 97, "resnet34": 64, "resnet50": 224, "resnet101": 64, "resnet152": 65}
SIZES |= {"mobilenet_v2": 224, "efficientnet_lite0": 224}
SIZES |= {f"efficientnet_lite{n}": size for n, size in enumerate((97, 130, 95, 64), start=1)}

SIZES |= {f"efficientnet_lite{n}_symmetric": size for n, size in enumerate((224, 97, 64, 65, 66))}
SIZES |= {"mobilenet_v3_small": 97, "mobilenet_v3_large": 224, "efficientnet_b0": 224, "efficientnet_b1": 97}
SIZES |= {"efficientnet_b2": 97, "efficientnet_b3": 95, "efficientnet_b4": 96, "convnext_tiny": 97, "convnext_small": 64}
SIZES |= {"vit_b_16": 224, "vit_small_patch14_dinov2": 98, "vgg16": 224, "vgg16_bn": 224}
SIZES |= {"densenet121": 97, "regnet_y_400mf": 224, "squeezenet1_1": 97}
# One of each family with operators that ResNets have not.
GRADIENTS = ["mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_small_patch14_dinov2", "densenet121"]
GRADIENTS += ["regnet_y_400mf", "squeezenet1_1"]


# timm's models that compute what ours do, under other names. Its sizes are our defaults.
TIMM = {"mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_small": "mobilenetv3_small_100"}
TIMM |= {"mobilenet_v3_large": "mobilenetv3_large_100", "convnext_tiny": "convnext_tiny", "convnext_small": "convnext_small"}
TIMM |= {f"efficientnet_b{n}": f"efficientnet_b{n}" for n in range(5)}
TIMM |= {"vgg16": "vgg16", "vgg16_bn": "vgg16_bn", "vit_b_16": "vit_base_patch16_224", "regnet_y_400mf": "regnety_004"}
TIMM |= {"resnet50": "resnet50", "densenet121": "densenet121"}


def build(name, size=None):
    if name == "vit_small_patch14_dinov2":
        return timm.create_model(name, num_classes=1000, **({"img_size": size} if size else {}))
    if name == "vit_b_16" and size:
        return torchvision.models.vit_b_16(weights=None, image_size=size)
    if name.endswith("_symmetric"):
        return timm.create_model(name.removesuffix("_symmetric"))
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
    tensors = [(*(k if "." in k else ".." + k).rsplit(".", 1), "x".join(map(str, t.shape))) for k, t in model.state_dict().items()]
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


def write_timm_keys():
    # One a family: the others differ in the number of blocks.
    same = ["convnext_small", "vgg16_bn", "resnet50", "densenet121", *(f"efficientnet_b{n}" for n in range(1, 5))]
    names = [name for name in TIMM if name not in same]
    lines = [line for name in names for line in describe(name, timm.create_model(TIMM[name]))]
    (GOLDEN / "timm_keys.txt").write_text("\n".join(lines) + "\n")


def randomize(model, x):
    """Random batch norms whose running statistics fit `x`, so that activations keep their size through the model.

    The last norm of a residual branch scales down, as in trained networks: without that a ResNet-101 amplifies rounding
    until PyTorch's f32 logits are 1e-4 of the largest away from its own f64 logits (7e-6 with it).
    """
    for name, p in model.named_parameters():
        if name.endswith(("layer_scale", ".gamma")):
            nn.init.uniform_(p, 0.1, 0.4)
        elif "token" in name or "pos_embed" in name:
            nn.init.normal_(p, 0, 0.5)
    for layer in model.modules():
        # torchvision's transformers start with a head of zeros.
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, 0, 0.05)
    for norm in model.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
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
    for name in NAMES:
        torch.manual_seed(0)
        size = SIZES[name]
        model = build(name, size)
        x = torch.randn(2, 3, size, size)
        randomize(model, torch.randn(4, 3, size, size))
        exact = copy.deepcopy(model).double()(x.double()).float()
        assert exact.isfinite().all() and exact.any(), name
        tensors = dict(model.state_dict()) | {"golden.input": x, "golden.logits": model(x), "golden.exact": exact}
        if name in GRADIENTS:
            # Small, so that few inputs of ReLUs are close to zero; a transformer has its positions' size.
            tensors |= gradients(model, size if "vit" in name else 64)
        hand_over(tensors, directory / f"{name}.safetensors")


@torch.no_grad()
def write_timm(directory):
    for name, other in TIMM.items():
        torch.manual_seed(0)
        model = timm.create_model(other)
        x = torch.randn(2, 3, 224, 224)
        randomize(model, torch.randn(4, 3, 224, 224))
        exact = copy.deepcopy(model).double()(x.double()).float()
        tensors = dict(model.state_dict()) | {"golden.input": x, "golden.logits": model(x), "golden.exact": exact}
        hand_over(tensors, directory / f"{name}.safetensors")


def hand_over(tensors, path):
    save_file({k: t.contiguous() for k, t in tensors.items()}, path)
    print(path, flush=True)
    sys.stdin.readline()


def write_positions(directory):
    width = 384
    old = torch.randn(1, 37 * 37 + 1, width)
    new = {f"golden.{n}": timm.layers.resample_abs_pos_embed(old, [n, n], num_prefix_tokens=1) for n in (7, 16, 40)}
    save_file({"pos_embed": old} | {k: t.contiguous() for k, t in new.items()}, directory / "positions.safetensors")


@torch.enable_grad()
def gradients(model, size):
    """Of about ten parameters, spread over the model, for a batch that leaves most of them well defined.

    The biases of norms are others than in `model`, and are part of the result.
    """
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    moved = dict(keep_away_from_zero(model))
    names = [name for name, _ in model.named_parameters()]
    names = dict.fromkeys(names[:: len(names) // 9] + names[-2:])
    double = copy.deepcopy(model).double()
    # The same again with rounding errors of another kind, in every layer.
    rounded = copy.deepcopy(double)
    for layer in rounded.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, __, y: y * (1 + 2e-7 * torch.randn_like(y)))

    def of(model, x, labels):
        chosen = dict(model.named_parameters())
        loss = nn.functional.cross_entropy(model(x), labels)
        return torch.autograd.grad(loss, [chosen[name] for name in names])

    for _ in range(50):
        x, labels = torch.randn(4, 3, size, size), torch.randint(0, 1000, (4,))
        exact = of(double, x.double(), labels)
        grads = [of(model, x, labels), *(of(rounded, x.double(), labels) for _ in range(3))]
        # Where a ReLU's input is so close to zero that rounding decides its side, all gradients before it make a step. And what
        # a norm takes out again, as the bias of one before it, has no gradient: all digits of it are rounding.
        known = [all((g - e).abs().max() < 1e-4 * e.abs().max() for g in others) for *others, e in zip(*grads, exact)]
        if sum(known) >= 6:
            break
    assert sum(known) >= 6, "no batch leaves the gradients well defined"
    result = {f"golden.grad.{name}": g for name, g, known in zip(names, grads[0], known) if known}
    return result | moved | {"golden.batch": x, "golden.labels": labels}


@torch.no_grad()
def keep_away_from_zero(model):
    """Move the biases of the norms before ReLUs, so that few of the million inputs of ReLUs are close to zero."""
    if not any(isinstance(module, nn.ReLU) for module in model.modules()):
        return
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            above = torch.rand_like(module.bias) < 0.8
            module.bias.copy_(torch.where(above, 4.0, -4.0) + module.bias)
            yield f"golden.moved.{path}.bias", module.bias.detach().clone()


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
    to_directory = {"logits": write_logits, "timm": write_timm, "positions": write_positions}
    if sys.argv[1:2] and sys.argv[1] in to_directory:
        directory = pathlib.Path(sys.argv[2])
        directory.mkdir(parents=True, exist_ok=True)
        to_directory[sys.argv[1]](directory)
    elif sys.argv[1:2] == ["predictions"]:
        write_predictions()
    else:
        write_state_dicts()
        write_timm_keys()
