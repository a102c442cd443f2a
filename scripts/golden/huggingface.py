#!/usr/bin/env python3
"""Hugging Face folders with random weights, for the tests of crates/offshoot.

    huggingface.py write DIR   writes DIR/NAME/ for each model of transformers and timm below, as `save_pretrained` and timm's
                               hub do, with `golden.safetensors`: `input` and the `logits` that the model computes from it
    huggingface.py check DIR   loads each folder in DIR with AutoModelForImageClassification and compares its logits with
                               `golden.safetensors` in it: `input` and `logits`. Prints a JSON object a line

Needs torch, timm, safetensors and transformers.
"""

import json
import pathlib
import sys

import timm
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

LABELS = {0: "ash", 1: "oak", 2: "yew", 3: "oak"}
VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 56}
VIT |= {"patch_size": 14}
NETWORK = {"kernel_sizes": [3, 5], "in_channels": [32, 16], "out_channels": [16, 24], "strides": [1, 2]}
NETWORK |= {"num_block_repeats": [1, 2], "expand_ratios": [1, 6], "image_size": 64, "depthwise_padding": [2]}
CROP = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}


def models():
    yield "resnet", hf.ResNetForImageClassification, {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2]}
    basic = {"embedding_size": 16, "hidden_sizes": [16, 24], "depths": [2, 1], "layer_type": "basic"}
    yield "resnet_basic", hf.ResNetForImageClassification, basic | {"downsample_in_first_stage": True}
    early = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "downsample_in_bottleneck": True}
    yield "resnet_early", hf.ResNetForImageClassification, early
    yield "resnet18", hf.ResNetForImageClassification, {"hidden_sizes": [64, 128, 256, 512], "depths": [2] * 4, "layer_type": "basic"}
    convnext = {"hidden_sizes": [16, 24], "depths": [1, 2], "num_stages": 2}
    yield "convnext", hf.ConvNextForImageClassification, convnext | {"layer_scale_init_value": 0.3}
    yield "convnext_plain", hf.ConvNextForImageClassification, convnext | {"layer_scale_init_value": 0.0}
    yield "mobilenet_v2", hf.MobileNetV2ForImageClassification, {"depth_multiplier": 0.35}
    yield "mobilenet_v2_symmetric", hf.MobileNetV2ForImageClassification, {"tf_padding": False, "layer_norm_eps": 1e-5}
    small = {"width_coefficient": 1.0, "depth_coefficient": 1.5, "hidden_dim": 1280}
    yield "efficientnet", hf.EfficientNetForImageClassification, small | NETWORK
    yield "vit", hf.ViTForImageClassification, VIT
    yield "vit_unbiased", hf.ViTForImageClassification, VIT | {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-3}
    yield "deit", hf.DeiTForImageClassification, VIT
    yield "deit_teacher", hf.DeiTForImageClassificationWithTeacher, VIT
    swin = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 64}
    yield "swin", hf.SwinForImageClassification, swin
    yield "dinov2", hf.Dinov2ForImageClassification, VIT | {"mlp_ratio": 2, "layerscale_value": 0.5}


TIMM = ["mobilenetv3_small_100", "tf_mobilenetv3_small_100", "mobilenetv2_100", "efficientnet_lite0", "resnet18"]


@torch.no_grad()
def randomize(model):
    for name, p in model.named_parameters():
        if "token" in name or "pos" in name or "bias_table" in name or "lambda" in name or "layer_scale" in name:
            nn.init.normal_(p, 0.3, 0.3)
        elif p.ndim > 1:
            nn.init.normal_(p, 0, (2 / (p[0].numel())) ** 0.5)
        elif "norm" in name.lower() or "bn" in name:
            nn.init.uniform_(p, 0.5, 1.5)
        else:
            nn.init.normal_(p, 0, 0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@torch.no_grad()
def write(directory):
    for name, kind, options in models():
        torch.manual_seed(0)
        config = kind.config_class(**options, id2label=LABELS, label2id={v: k for k, v in LABELS.items()})
        model = randomize(kind(config))
        folder = directory / name
        model.save_pretrained(folder)
        side = 56 if "patch_size" in options else 64
        stretch = {"size": {"height": side, "width": side}, "do_center_crop": False}
        settings = {"resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
        settings |= stretch if side == 56 or "efficient" in name else CROP
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        golden(model, side, folder)
    for name in TIMM:
        torch.manual_seed(0)
        model = randomize(timm.create_model(name, num_classes=4))
        folder = directory / f"timm_{name}"
        folder.mkdir()
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        cfg = {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.25] * 3}
        config = {"architecture": name, "num_classes": 4, "label_names": [*LABELS.values()], "pretrained_cfg": cfg}
        (folder / "config.json").write_text(json.dumps(config))
        golden(model, 64, folder)


def golden(model, side, folder):
    x = torch.randn(2, 3, side, side)
    logits = model(x)
    logits = logits if isinstance(logits, torch.Tensor) else logits.logits
    assert logits.isfinite().all() and logits.std() > 1e-3, folder
    save_file({"input": x, "logits": logits.contiguous()}, folder / "golden.safetensors")


def check(directory):
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        check_one(folder)


@torch.no_grad()
def check_one(folder):
    golden = load_file(folder / "golden.safetensors")
    model = hf.AutoModelForImageClassification.from_pretrained(folder).eval()
    logits, wanted = model(golden["input"]).logits, golden["logits"]
    off = ((logits - wanted).abs().max() / wanted.abs().max()).item()
    labels = [model.config.id2label[i] for i in range(len(model.config.id2label))]
    print(json.dumps({"folder": folder.name, "off": off, "labels": labels}))


if __name__ == "__main__":
    command, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    {"write": write, "check": check}[command](directory)
