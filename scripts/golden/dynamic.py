#!/usr/bin/env python3
"""Golden files of dynamic int8.

    python scripts/golden/dynamic.py        torch, onnx, onnxruntime, numpy

writes crates/offshoot-formats/tests/golden/dynamic/:

- text.onnx, lstm.onnx: a transformer and an LSTM as PyTorch's two exporters write them; branch.onnx: weights in a Constant, in an
  If's branches, shared, scaled, and read by something else too. Their inputs are in inputs.json.
- pictures_*.onnx: a small classifier in float, and as `quantize_dynamic` of ONNX Runtime leaves it (weights i8 or u8, one scale for
  each channel or for all); logits.json is what ONNX Runtime computes for each without graph optimisations.
- *.pth: state dicts that `torch.ao.quantization.quantize_dynamic` made; floats.json is what PyTorch dequantizes from them.
"""

import json
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

warnings.filterwarnings("ignore")
OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/dynamic"
INPUTS = {}


class Text(nn.Module):
    """Token numbers, of which 0 is padding, to logits."""

    def __init__(self, vocabulary=40, width=16, heads=2, classes=3):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, ids):
        padding = ids == 0
        x = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        x = x.masked_fill(padding[:, :, None], 0).sum(1) / (~padding).sum(1, keepdim=True)
        return self.head(x)


class Sound(nn.Module):
    """Frames to logits."""

    def __init__(self, bands=6, width=8, classes=3):
        super().__init__()
        self.first = nn.Linear(bands, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, frames):
        return self.head(self.lstm(torch.relu(self.first(frames)))[0].mean(0))


def listed(array):
    return {"shape": list(array.shape), "type": str(array.dtype), "values": array.flatten().tolist()}


def exporters():
    torch.manual_seed(0)
    ids = torch.randint(1, 40, (3, 7))
    ids[0, 4:] = 0
    torch.onnx.export(Text().eval(), ids, OUT / "text.onnx", input_names=["ids"], output_names=["output"],
                      dynamic_axes={"ids": {0: "batch", 1: "length"}}, opset_version=17, dynamo=False)
    frames = torch.randn(5, 2, 6)
    # This exporter leaves the LSTM's weights to be put together by Slice, Concat and Unsqueeze.
    torch.onnx.export(Sound().eval(), (frames,), OUT / "lstm.onnx", input_names=["frames"], output_names=["output"],
                      dynamo=True, external_data=False, verbose=False)
    INPUTS["text"] = {"ids": listed(ids.numpy())}
    INPUTS["lstm"] = {"frames": listed(frames.numpy())}


def branch():
    random = np.random.default_rng(0)
    floats = lambda *shape: (random.normal(size=shape) / 2).astype(np.float32)
    stored = lambda name, array: numpy_helper.from_array(array, name)
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    taken = helper.make_graph([helper.make_node("MatMul", ["h", "shared"], ["t"], name="taken")], "taken", [],
                              [value("t", None, 5)])
    own = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=stored("", floats(4, 5))),
         helper.make_node("Gemm", ["h", "k", "own_bias"], ["e"], name="other", alpha=0.5, beta=2.0)],
        "other", [], [value("e", None, 5)], [stored("own_bias", floats(5))])
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["f"], name="first_product", transB=1),
        helper.make_node("Tanh", ["f"], ["h"]),
        helper.make_node("ReduceMean", ["h"], ["mean"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value=stored("", np.float32(0.0))),
        helper.make_node("Greater", ["mean", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["g"], then_branch=taken, else_branch=own),
        helper.make_node("MatMul", ["h", "shared"], ["s"], name="again"),
        # `first` is read by something else, and stays beside its bytes; `left` is the first operand, and stays.
        helper.make_node("ReduceSum", ["first"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["left", "g"], ["l"], name="from_the_left"),
        helper.make_node("Add", ["g", "s"], ["gs"]), helper.make_node("Add", ["gs", "sum"], ["gss"]),
        helper.make_node("Add", ["gss", "l"], ["output"]),
    ]
    graph = helper.make_graph(nodes, "branch", [value("x", 2, 3)], [value("output", 2, 5)],
                              [stored("first", floats(4, 3)), stored("shared", floats(4, 5)), stored("left", floats(2, 2))])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, OUT / "branch.onnx")
    INPUTS["branch"] = {"x": listed(floats(2, 3))}


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def pictures():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 20), nn.ReLU(), nn.Linear(20, 7, bias=False)).eval()
    images = torch.randn(3, 3, 4, 4)
    plain = OUT / "pictures_float.onnx"
    torch.onnx.export(model, images, plain, input_names=["input"], output_names=["output"],
                      dynamic_axes={"input": {0: "batch"}}, opset_version=17, dynamo=False)
    made = {"float": None, "i8_channels": (QuantType.QInt8, True), "u8_tensor": (QuantType.QUInt8, False)}
    logits = {"images": listed(images.numpy())}
    for name, options in made.items():
        path = OUT / f"pictures_{name}.onnx"
        if options:
            quantize_dynamic(plain, path, weight_type=options[0], per_channel=options[1], reduce_range=True)
        logits[name] = listed(session(path).run(None, {"input": images.numpy()})[0])
    (OUT / "logits.json").write_text(json.dumps(logits))


def state_dicts():
    from torch.ao.nn.quantized import dynamic
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    torch.manual_seed(2)
    layers = lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)).eval()
    made = {
        "per_tensor": quantize_dynamic(layers(), {nn.Linear}, dtype=torch.qint8),
        "per_channel": quantize_dynamic(layers(), {nn.Linear: per_channel_dynamic_qconfig}),
        "halves": quantize_dynamic(layers(), {nn.Linear}, dtype=torch.float16),
        "lstm": quantize_dynamic(Sound().eval(), {nn.Linear, nn.LSTM}, dtype=torch.qint8),
        "gru": quantize_dynamic(nn.Sequential(nn.GRU(5, 3, num_layers=3)), {nn.GRU}, dtype=torch.qint8),
        "cells": quantize_dynamic(
            nn.Sequential(nn.LSTMCell(4, 3), nn.GRUCell(4, 3), nn.RNNCell(4, 3)),
            {nn.LSTMCell, nn.GRUCell, nn.RNNCell}, dtype=torch.qint8),
        "lstm_halves": quantize_dynamic(
            nn.Sequential(nn.LSTM(4, 3, bidirectional=True)), {nn.LSTM}, dtype=torch.float16),
    }
    floats = {}
    for name, model in made.items():
        torch.save(model.state_dict(), OUT / f"{name}.pth")
        floats[name] = {}
        for key, value in model.state_dict().items():
            if key.endswith("._packed_params._packed_params"):
                layer = key.removesuffix("._packed_params._packed_params")
                weight, bias = value
                integers = weight.int_repr() if weight.is_quantized else None
                weight = weight.dequantize() if weight.is_quantized else weight
                floats[name][f"{layer}.weight"] = listed(weight.numpy())
                if integers is not None:
                    floats[name][f"{layer}.weight"]["integers"] = integers.flatten().tolist()
                if bias is not None:
                    floats[name][f"{layer}.bias"] = listed(bias.detach().numpy())
        for layer, module in model.named_modules():
            if isinstance(module, (dynamic.LSTM, dynamic.GRU, dynamic.LSTMCell, dynamic.GRUCell, dynamic.RNNCell)):
                for key, value in {**module.get_weight(), **module.get_bias()}.items():
                    key = f"{layer}.{key}"
                    floats[name][key] = listed((value.dequantize() if value.is_quantized else value).detach().numpy())
                    if value.is_quantized:
                        floats[name][key]["integers"] = value.int_repr().flatten().tolist()
    (OUT / "floats.json").write_text(json.dumps(floats))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    exporters()
    branch()
    pictures()
    state_dicts()
    (OUT / "inputs.json").write_text(json.dumps(INPUTS))
