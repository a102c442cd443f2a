"""What torchvision and timm hold and compute, for the tests of crates/offshoot-models.

    models.py              writes tests/golden/state_dicts.txt, and timm_keys.txt in the same form: our name, timm's keys
    models.py predictions  writes tests/golden/imagenet20.txt: the top-1 of the published weights, picture by picture
    models.py logits DIR   writes DIR/NAME.safetensors for every model: a state dict with random weights and statistics,
                           with `golden.input`, `golden.logits` and, computed in f64, `golden.exact`; for some also `golden.labels` and `golden.grad.KEY`,
                           gradients of the cross entropy in training mode without dropout and stochastic depth
    models.py timm DIR     writes DIR/NAME.safetensors with timm's keys and logits for our NAME
    models.py positions DIR  writes DIR/positions.safetensors: what timm makes of a transformer's positions for other sizes

`logits` and `timm` print the path of each file and then wait for a line on standard input, so that a reader can delete
the file before the next one is made: together they are several gigabytes. They write one of a kind, the first of those whose names
differ in numbers only, without those of LIKE_OTHERS; or, where the variable OFFSHOOT_GOLDEN is set, those that it names, or `all`.

state_dicts.txt has a block a model. First a line `model NAME PARAMETERS`, with `+HEAD` behind the name when the head is
replaced by ten classes. Then a line a module: `PATH NAME,NAME SHAPE`, its tensors that share a shape, in the state
dict's order. The path of the model's own tensors is `.`. `num_batches_tracked` is left out.
"""

import copy
import itertools
import os
import pathlib
import re
import sys
import unittest.mock

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
NAMES += ["resnext50_32x4d", "wide_resnet50_2", "mnasnet1_0", "shufflenet_v2_x1_0", "efficientnet_v2_s", "googlenet"]
NAMES += ["inception_v3", "deit_tiny_patch16_224", "mobilenetv4_conv_small", "swin_t", "swin_v2_t", "maxvit_t"]
# timm's with the padding and the epsilon of TensorFlow; the names of the parameters are torchvision's.
TENSORFLOW = {f"tf_efficientnet_b{n}": f"efficientnet_b{n}" for n in range(5)} | {"tf_efficientnetv2_s": "efficientnet_v2_s"}
TENSORFLOW |= {f"tf_mobilenetv3_{size}_100": f"mobilenet_v3_{size}" for size in ("small", "large")}
NAMES += TENSORFLOW
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
SIZES |= {"resnext50_32x4d": 65, "wide_resnet50_2": 64, "mnasnet1_0": 97, "shufflenet_v2_x1_0": 97, "efficientnet_v2_s": 97}
SIZES |= {"googlenet": 97, "inception_v3": 139, "deit_tiny_patch16_224": 96, "mobilenetv4_conv_small": 97}
# Windows that are padded, and pictures of odd size whose pixels are merged.
SIZES |= {"swin_t": 100, "swin_v2_t": 132, "maxvit_t": 224}
SIZES |= dict(zip(TENSORFLOW, (224, 97, 98, 95, 96, 97, 97, 224), strict=True))
# One of each family with operators that ResNets have not.
GRADIENTS = ["mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_small_patch14_dinov2", "densenet121"]
GRADIENTS += ["regnet_y_400mf", "squeezenet1_1", "resnext50_32x4d", "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_v2_s"]
GRADIENTS += ["googlenet", "swin_t", "swin_v2_t"]
# Height and width of the pictures of gradients. Small, so that few inputs of ReLUs are close to zero and few values in a window of max
# pooling close to each other; a transformer has its positions' size.
GRADIENT_SIZES = {"vit_small_patch14_dinov2": 98, "googlenet": 32}
# How much rounding may change gradients, relative to the largest, and how much larger than the next one the largest value in a window
# of max pooling must be, relative to it. GoogLeNet has thirteen poolings, and batch norms that multiply rounding errors.
ROUNDING = {"googlenet": (5e-4, 2e-5)}
USUAL_ROUNDING = (1e-4, 5e-6)
# The seeds of batches whose gradients rounding does not change more, where the search for one takes long.
BATCHES = {"googlenet": 1, "densenet121": 21, "squeezenet1_1": 2, "resnext50_32x4d": 1, "shufflenet_v2_x1_0": 3}

# Large, or with the operators of others.
LIKE_OTHERS = {"vgg16", "convnext_small", "wide_resnet50_2", "tf_efficientnetv2_s", "tf_mobilenetv3_large_100"}
LIKE_OTHERS |= {"mobilenet_v3_large"}

# timm's models that compute what ours do, under other names. Its sizes are our defaults.
TIMM = {"mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_small": "mobilenetv3_small_100"}
TIMM |= {"mobilenet_v3_large": "mobilenetv3_large_100", "convnext_tiny": "convnext_tiny", "convnext_small": "convnext_small"}
TIMM |= {f"efficientnet_b{n}": f"efficientnet_b{n}" for n in range(5)}
TIMM |= {"vgg16": "vgg16", "vgg16_bn": "vgg16_bn", "vit_b_16": "vit_base_patch16_224", "regnet_y_400mf": "regnety_004"}
TIMM |= {"resnet50": "resnet50", "densenet121": "densenet121", "mnasnet1_0": "mnasnet_100"}
TIMM |= {"efficientnet_v2_s": "efficientnetv2_s", "inception_v3": "inception_v3", "resnext50_32x4d": "resnext50_32x4d"}
TIMM |= {"swin_t": "swin_tiny_patch4_window7_224"}
TIMM |= {name: name for name in TENSORFLOW}


def build(name, size=None):
    if name == "vit_small_patch14_dinov2":
        return timm.create_model(name, num_classes=1000, **({"img_size": size} if size else {}))
    if name == "vit_b_16" and size:
        return torchvision.models.vit_b_16(weights=None, image_size=size)
    if name.endswith("_symmetric"):
        return timm.create_model(name.removesuffix("_symmetric"))
    if name.startswith("efficientnet_lite"):
        return timm.create_model("tf_" + name)
    if name == "deit_tiny_patch16_224":
        return timm.create_model(name, **({"img_size": size} if size else {}))
    if name == "mobilenetv4_conv_small":
        return timm.create_model(name)
    if name in ("googlenet", "inception_v3"):
        return getattr(torchvision.models, name)(weights=None, aux_logits=False, init_weights=False)
    if name in TENSORFLOW:
        return as_tensorflow(build(TENSORFLOW[name]))
    return getattr(torchvision.models, name)(weights=None)


def as_tensorflow(model):
    """timm's padding and epsilon of TensorFlow in a model of torchvision."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = timm.layers.Conv2dSame
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    return model


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
    left_out = ["num_batches_tracked"]
    tensors = [t for t in tensors if t[1] not in left_out]
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
    same += [*TENSORFLOW, "inception_v3", "resnext50_32x4d"]
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
        elif "token" in name or "pos_embed" in name or "bias_table" in name or "cpb_mlp" in name:
            nn.init.normal_(p, 0, 0.5)
        elif name.startswith("features.") and name.endswith(("qkv.weight", "qkv.bias")):
            nn.init.normal_(p, 0, 0.1)
        elif name.endswith("logit_scale"):
            # The larger the scale of cosines is, the more it multiplies rounding errors.
            nn.init.uniform_(p, 1.0, 2.5)
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
    for name in chosen(NAMES):
        torch.manual_seed(0)
        size = SIZES[name]
        model = build(name, size)
        x = torch.randn(2, 3, size, size)
        randomize(model, torch.randn(4, 3, size, size))
        exact = copy.deepcopy(model).double()(x.double()).float()
        assert exact.isfinite().all() and exact.any(), name
        tensors = dict(model.state_dict()) | {"golden.input": x, "golden.logits": model(x), "golden.exact": exact}
        if name in GRADIENTS:
            tensors |= gradients(name, model)
        hand_over(tensors, directory / f"{name}.safetensors")


@torch.no_grad()
def write_timm(directory):
    for name in chosen(TIMM):
        other = TIMM[name]
        torch.manual_seed(0)
        model = timm.create_model(other)
        x = torch.randn(2, 3, 224, 224)
        randomize(model, torch.randn(4, 3, 224, 224))
        exact = copy.deepcopy(model).double()(x.double()).float()
        tensors = dict(model.state_dict()) | {"golden.input": x, "golden.logits": model(x), "golden.exact": exact}
        hand_over(tensors, directory / f"{name}.safetensors")


def chosen(names):
    only = os.environ.get("OFFSHOOT_GOLDEN", "").split()
    if not only:
        kinds = {re.sub(r"\d+", "", name): name for name in reversed(list(names))}
        return [name for name in names if name in kinds.values() and name not in LIKE_OTHERS]
    return [name for name in names if only == ["all"] or name in only]


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
def gradients(name, model):
    """Of about ten parameters, spread over the model, for a batch that leaves most of them well defined.

    The biases of norms are others than in `model`, and are part of the result.
    """
    size, first = GRADIENT_SIZES.get(name, 64), BATCHES.get(name, 0)
    rounding, lead = ROUNDING.get(name, USUAL_ROUNDING)
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

    for seed in range(first, first + 500):
        torch.manual_seed(seed)
        x, labels = torch.randn(4, 3, size, size), torch.randint(0, 1000, (4,))
        if smallest_lead(double, x.double()) < lead:
            continue
        exact = of(double, x.double(), labels)
        grads = [of(model, x, labels), *(of(rounded, x.double(), labels) for _ in range(3))]
        # Where a ReLU's input is so close to zero that rounding decides its side, all gradients before it make a step. And what
        # a norm takes out again, as the bias of one before it, has no gradient: all digits of it are rounding.
        known = [all((g - e).abs().max() < rounding * e.abs().max() for g in others) for *others, e in zip(*grads, exact)]
        if sum(known) >= 6:
            break
    assert sum(known) >= 6, "no batch leaves the gradients well defined"
    if seed != first:
        print(f"BATCHES[{name!r}] = {seed} saves the search", file=sys.stderr)
    result = {f"golden.grad.{name}": g for name, g, known in zip(names, grads[0], known) if known}
    return result | moved | {"golden.batch": x, "golden.labels": labels, "golden.rounding": torch.tensor(rounding)}


@torch.no_grad()
def smallest_lead(model, x):
    """How much larger, relative to it, the largest value of a window of max pooling is than the next one, in the closest window.

    Where rounding decides which of two pixels it is, the gradient goes to the one or to the other. Equal values are left out: they
    are one pixel that an earlier pooling has put into several places. So are windows of zeros, behind which a ReLU stops the gradient.
    """
    leads = []
    pool = nn.functional.max_pool2d

    def measured(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        assert dilation == 1 and not return_indices
        step = stride or kernel_size
        behind = padding + (step - 1 if ceil_mode else 0)
        padded = nn.functional.pad(x, (padding, behind, padding, behind), value=-torch.inf)
        windows = nn.functional.unfold(padded, kernel_size, stride=step).unflatten(1, (x.shape[1], -1))
        first = windows.amax(2)
        second = windows.masked_fill(windows == first.unsqueeze(2), -torch.inf).amax(2)
        leads.append(((first - second) / first)[first > 0].min().item())
        return pool(x, kernel_size, stride, padding, dilation, ceil_mode)

    with unittest.mock.patch.object(nn.functional, "max_pool2d", measured):
        model(x)
    return min(leads, default=torch.inf)


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
