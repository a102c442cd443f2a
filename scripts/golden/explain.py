"""Explanations by grad-cam and captum, for the tests of crates/offshoot.

    explain.py            writes crates/offshoot/tests/golden/explain: small networks of torchvision's blocks as ONNX, and maps
    explain.py full DIR   writes DIR/NAME.safetensors for full-size networks: a state dict with random weights, and maps

It needs the peers with grad-cam and captum. A NAME.safetensors holds `golden.input` [1, 3, size, size], `golden.class` and the maps, for the
layer that offshoot chooses by itself: `golden.gradcam` and `golden.layercam` of grad-cam, at the layer's own size and scaled to 0..1,
`golden.captum` (captum's LayerGradCam), `golden.occlusion` (captum's Occlusion, for each pixel) and of transformers
`golden.attention`: the rules of Chefer et al., 2021, as in the authors' `generate_relevance`, which no package has.
"""

import pathlib
import sys
from unittest import mock

import numpy as np
import onnx
import timm
import torch
import torchvision
from captum.attr import LayerGradCam, Occlusion
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import VisionTransformer

GOLDEN = pathlib.Path(__file__).parents[2] / "crates/offshoot/tests/golden/explain"
# As in crates/offshoot/src/explain/occlusion.rs.
CELLS = 14


def small_resnet():
    shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = [BasicBlock(8, 8), BasicBlock(8, 16, 2, shortcut)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)), 40, lambda net: net[5]


def small_mobilenet():
    setting = [[1, 8, 1, 1], [6, 8, 2, 2], [6, 16, 1, 2]]
    net = MobileNetV2(num_classes=5, width_mult=0.25, inverted_residual_setting=setting)
    return net, 56, lambda net: net.features[-1]


def small_vit():
    net = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    return net, 32, lambda net: net.encoder.layers[-1].ln_1


FULL = {
    "resnet18": (lambda: torchvision.models.resnet18(), 224, lambda net: net.layer4[-1]),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(), 224, lambda net: net.features[-1]),
    "vit_b_16": (lambda: torchvision.models.vit_b_16(), 224, lambda net: net.encoder.layers[-1].ln_1),
    "deit_tiny_patch16_224": (lambda: timm.create_model("deit_tiny_patch16_224"), 224, lambda net: net.blocks[-1].norm1),
    "vit_small_patch14_dinov2": (
        lambda: timm.create_model("vit_small_patch14_dinov2", img_size=98, num_classes=10),
        98,
        lambda net: net.blocks[-1].norm1,
    ),
}


def randomize(net):
    """Random statistics, and weights whose differences show."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 1.5 * module.in_features**-0.5)
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):  # timm's scales of DINOv2's branches, which begin at almost nothing
            nn.init.uniform_(parameter, 0.5, 1.5)


def tokens_to_grid(tensor):
    """[1, 1 + rows * columns, C] as [1, C, rows, columns]."""
    patches = tensor[:, 1:, :]
    side = int(patches.shape[1] ** 0.5)
    return patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)


def cam_of(method, net, layer, x, target):
    """grad-cam's map at the size of the layer."""
    reshape = tokens_to_grid if isinstance(layer, nn.LayerNorm) else None
    sizes = []
    handle = layer.register_forward_hook(lambda _, __, out: sizes.append((reshape or (lambda t: t))(out).shape[2:]))
    with torch.no_grad():
        net(x)
    handle.remove()
    cam = method(net, [layer], reshape_transform=reshape)
    cam.get_target_width_height = lambda _: (sizes[0][1], sizes[0][0])
    return torch.from_numpy(np.ascontiguousarray(cam(x, [ClassifierOutputTarget(target)])[0]))


def relevance(net, x, target):
    """`generate_relevance` of Chefer et al. for the class token: the attention and its gradient, layer by layer."""
    kept = []

    def attend(query, key, value, *_, **__):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        attention = scores.softmax(-1)
        attention.retain_grad()
        kept.append(attention)
        return attention @ value

    with mock.patch.object(functional, "scaled_dot_product_attention", attend):
        net.zero_grad()
        net(x)[0, target].backward()
    result = torch.eye(kept[0].shape[-1])
    for attention in kept:
        products = (attention.grad * attention).detach().reshape(-1, *attention.shape[-2:])
        result = result + products.clamp(min=0).mean(0) @ result
    patches = result[0, 1:]
    side = int(len(patches) ** 0.5)
    return patches.reshape(side, side)


def maps(net, size, layer_of, occlude=True):
    layer = layer_of(net)
    constant = True
    while constant:  # Grad-CAM's map of some pictures is 0 everywhere: all sums are below it.
        x = torch.randn(1, 3, size, size)
        x = functional.interpolate(torch.randn(1, 3, 9, 9), size=(size, size), mode="bicubic") + 0.2 * x
        with torch.no_grad():
            target = int(net(x).argmax())
        found = {"input": x, "class": torch.tensor([target])}
        found["gradcam"] = cam_of(GradCAM, net, layer, x, target)
        found["layercam"] = cam_of(LayerCAM, net, layer, x, target)
        constant = any(bool((found[name] == found[name].max()).all()) for name in ("gradcam", "layercam"))
    if isinstance(layer, nn.LayerNorm):
        found["attention"] = relevance(net, x, target)
    else:
        attribution = LayerGradCam(net, layer).attribute(x, target, relu_attributions=True)
        found["captum"] = attribution.detach()[0, 0]
    if occlude:
        cell = -(-size // CELLS)
        window = (3, min(2 * cell, size), min(2 * cell, size))
        with torch.no_grad():
            attribution = Occlusion(net).attribute(x, window, (3, cell, cell), baselines=0, target=target)
        found["occlusion"] = attribution[0, 0]
    return {f"golden.{name}": tensor.contiguous().clone() for name, tensor in found.items()}


def write_small():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, make in {"resnet": small_resnet, "mobilenet": small_mobilenet, "vit": small_vit}.items():
        torch.manual_seed(7)
        net, size, layer_of = make()
        randomize(net)
        net.eval()
        save_file(maps(net, size, layer_of), GOLDEN / f"{name}.safetensors")
        batch = torch.export.Dim("batch_size")
        torch.onnx.export(
            net, (torch.zeros(2, 3, size, size),), GOLDEN / f"{name}.onnx", input_names=["input"], output_names=["output"],
            dynamic_shapes=({0: batch},), dynamo=True, external_data=False, optimize=True,
        )  # fmt: skip
        without_traces(GOLDEN / f"{name}.onnx")


def without_traces(path):
    """The file without what the exporter notes of where its nodes come from."""
    model = onnx.load(path)
    for part in [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.graph.ClearField("value_info")
    path.write_bytes(model.SerializeToString())


def write_full(folder):
    for name, (make, size, layer_of) in FULL.items():
        torch.manual_seed(3)
        net = make()
        randomize(net)
        net.eval()
        golden = maps(net, size, layer_of, occlude=name == "mobilenet_v2")
        save_file({**net.state_dict(), **golden}, pathlib.Path(folder) / f"{name}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[1:2] == ["full"]:
        write_full(sys.argv[2])
    else:
        write_small()
