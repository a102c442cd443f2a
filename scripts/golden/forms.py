#!/usr/bin/env python3
"""Writes crates/offshoot-formats/tests/golden/forms: small classifiers with the operators that are read as several of ours
(comparisons, reductions over several axes, padding, norms of groups, parts, logarithms of a softmax, resizing, GRUs), as ONNX files
and as TorchScript,
and what ONNX Runtime and PyTorch compute.

    python scripts/golden/forms.py           # all of them
    python scripts/golden/forms.py NAME ..   # the files of these cases alone; the others stay as they are

logits.json holds for each file the input's shape and the output for x[i] = ((7919 i) mod 1000) / 500 - 1.
"""

import io
import json
import math
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/forms"
SHAPE = [2, 3, 6, 6]
CLASSES = 3
warnings.filterwarnings("ignore")
random = np.random.default_rng(0)
CHOSEN = sys.argv[1:]
PICTURES = (((7919 * np.arange(np.prod(SHAPE))) % 1000) / 500 - 1).astype(np.float32).reshape(SHAPE)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, ["" if name == "none" else name for name in inputs.split()], outputs.split(), **attributes)


def floats(name, value):
    return numpy_helper.from_array(np.array(value, np.float32), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def network(nodes, constants=(), opset=18):
    """`nodes` make `y` of `x` and `p`, both [n, 4, 6, 6], p between 0 and 1; a matrix makes logits of it."""
    weights = [
        floats("conv.weight", random.normal(0, 0.8, (4, 3, 1, 1))),
        floats("conv.bias", random.normal(0, 0.3, 4)),
    ]
    start = [node("Conv", "input conv.weight conv.bias", "x"), node("Sigmoid", "x", "p")]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *SHAPE[1:]])]

    def model(nodes, output, weights):
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(nodes, "forms", inputs, outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    weights += list(constants)
    made = run(model(start + nodes, "y", weights))
    rows = made.reshape(SHAPE[0], -1).shape[1]
    weights.append(floats("fc.weight", random.normal(0, 1 / rows**0.5, (rows, CLASSES))))
    end = [node("Flatten", "y", "rows"), node("MatMul", "rows fc.weight", "output")]
    return model(start + nodes + end, "output", weights)


def run(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": PICTURES})[0]


def sized(inputs, **attributes):
    """Resizes to the two sides `to`."""
    return [
        node("Shape", "x", "shape"),
        node("Slice", "shape from two", "unchanged"),
        node("Concat", "unchanged to", "sizes", axis=0),
        node("Resize", inputs, "y", **attributes),
    ]


BATCH_AND_CHANNELS = [ints("from", 0), ints("two", 2)]
ONE = floats("one", 1)
ONNX = {
    "greater": network([node("Greater", "x p", "g"), node("Where", "g x p", "y")]),
    "less_than_number": network([node("Less", "x tenth", "g"), node("Where", "g p x", "y")], [floats("tenth", 0.1)]),
    "at_least_and_at_most": network(
        [
            node("Relu", "x", "r"),
            node("GreaterOrEqual", "r zero", "a"),
            node("LessOrEqual", "r zero", "b"),
            node("Where", "a x p", "u"),
            node("Where", "b u p", "y"),
        ],
        [floats("zero", 0)],
    ),
    "equal": network(
        [node("Relu", "x", "r"), node("Equal", "r zero", "e"), node("Where", "e p x", "y")], [floats("zero", 0)]
    ),
    "logic": network(
        [
            node("Less", "x zero", "a"),
            node("Not", "a", "b"),
            node("Greater", "p half", "c"),
            node("Less", "p third", "d"),
            node("Or", "c d", "e"),
            node("And", "b e", "f"),
            node("Xor", "f c", "g"),
            node("Where", "g x p", "u"),
            node("Cast", "f", "h", to=TensorProto.FLOAT),
            node("Add", "u h", "y"),
        ],
        [floats("zero", 0), floats("half", 0.5), floats("third", 0.3)],
    ),
    "infinities": network(
        [
            node("Relu", "x", "r"),
            node("Log", "r", "l"),
            node("Greater", "l l", "a"),
            node("Equal", "l l", "b"),
            node("Less", "l low", "c"),
            node("Where", "a one p", "u"),
            node("Where", "b u x", "v"),
            node("Where", "c v x", "y"),
        ],
        [ONE, floats("low", -1)],
    ),
    "softplus": network(
        [
            node("Mul", "x one", "b"),
            node("Exp", "b", "e"),
            node("Add", "e one", "a"),
            node("Log", "a", "l"),
            node("Div", "l one", "d"),
            node("Greater", "b most", "g"),
            node("Where", "g x d", "y"),
        ],
        [ONE, floats("most", 20)],
    ),
    "sum_over_axes": network([node("ReduceSum", "x axes", "y", keepdims=0)], [ints("axes", 1, 3)]),
    "max_over_axes": network([node("ReduceMax", "x axes", "y", keepdims=1)], [ints("axes", -1, 1)]),
    "mean_over_axes": network([node("ReduceMean", "x axes", "y", keepdims=0)], [ints("axes", 1, 2)]),
    "log_sum_exp": network([node("ReduceLogSumExp", "x axes", "y", keepdims=0)], [ints("axes", 1, 2)]),
    "sum_of_squares": network([node("ReduceSumSquare", "x axes", "y", keepdims=1)], [ints("axes", 2)]),
    "l1": network([node("ReduceL1", "x axes", "y", keepdims=0)], [ints("axes", 1)]),
    "l2_over_axes": network(
        [node("ReduceL2", "x axes", "s", keepdims=1), node("Div", "x s", "y")], [ints("axes", 2)]
    ),
    "split": network(
        [node("Split", "x sizes", "a b", axis=1), node("Mul", "a third", "c"), node("Concat", "b c", "y", axis=1)],
        [ints("sizes", 1, 3), floats("third", 0.3)],
    ),
    "split_equal": network(
        [node("Split", "x", "a b c", axis=3, num_outputs=3), node("Sub", "c a", "d"), node("Mul", "d b", "y")]
    ),
    "pad_channels": network([node("Pad", "x pads half", "y")], [ints("pads", 0, 1, 0, 0, 0, 2, 0, 0), floats("half", 0.5)]),
    "pad_with_axes": network(
        [node("Pad", "x pads half axes", "y")], [ints("pads", 1, 0, 0, 2), floats("half", -1.5), ints("axes", 1, -1)]
    ),
    "pad_before_relu": network([node("Pad", "x pads", "z"), node("Relu", "z", "r"), node("Add", "r z", "y")], [ints("pads", 0, 0, 1, 0, 0, 0, 0, 2)]),
    "pad_before_max": network(
        [node("Pad", "x pads", "z"), node("MaxPool", "z", "y", kernel_shape=[3, 3], strides=[2, 2])], [ints("pads", 0, 0, 1, 1, 0, 0, 1, 1)]
    ),
    "pad_with_a_number_before_max": network(
        [node("Pad", "x pads low", "z"), node("MaxPool", "z", "y", kernel_shape=[3, 3], strides=[2, 2])],
        [ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), floats("low", -np.inf)],
    ),
    "pad_before_a_wide_max": network(
        [node("Relu", "x", "r"), node("Pad", "r pads", "z"), node("MaxPool", "z", "y", kernel_shape=[2, 2], strides=[2, 2])],
        [ints("pads", 0, 0, 2, 2, 0, 0, 2, 2)],
    ),
    "pad_before_mean": network(
        [
            node("Pad", "x pads", "z"),
            node("AveragePool", "z", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        ],
        [ints("pads", 0, 0, 1, 1, 0, 0, 1, 1)],
    ),
    "pad_with_one_before_conv": network(
        [node("Pad", "x pads one", "z"), node("Conv", "z k", "y")],
        [ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), ONE, floats("k", random.normal(0, 0.4, (2, 4, 3, 3)))],
    ),
    "pad_read_twice": network(
        [node("Pad", "x pads", "z"), node("Conv", "z k", "a"), node("Conv", "z k", "b", strides=[2, 2]), node("ReduceMean", "b ax", "m"), node("Add", "a m", "y")],
        [ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), ints("ax", 2, 3), floats("k", random.normal(0, 0.4, (2, 4, 3, 3)))],
    ),
    "log_softmax": network([node("LogSoftmax", "x", "y", axis=1)]),
    "log_softmax_then_exp": network([node("LogSoftmax", "x", "l", axis=-1), node("Exp", "l", "e"), node("Sub", "l e", "y")]),
    "log_of_softmax": network([node("Softmax", "x", "s", axis=1), node("Log", "s", "y")]),
    "instance_norm": network(
        [node("InstanceNormalization", "x scale bias", "y", epsilon=0.01)],
        [floats("scale", [0.5, 2, -1, 1]), floats("bias", [0.1, 0, 0.3, -1])],
    ),
    "group_norm": network(
        [node("GroupNormalization", "x scale bias", "y", num_groups=2, epsilon=0.01)],
        [floats("scale", [0.5, 2, -1, 1]), floats("bias", [0.1, 0, 0.3, -1])],
        opset=21,
    ),
    "group_norm_opset18": network(
        [node("GroupNormalization", "x scale bias", "y", num_groups=2, epsilon=0.01)],
        [floats("scale", [0.5, 2]), floats("bias", [0.1, -1])],
    ),
    "layer_norm_of_pixels": network(
        [node("LayerNormalization", "x scale bias", "y", axis=1, epsilon=0.01)],
        [floats("scale", random.normal(1, 0.2, (4, 6, 6))), floats("bias", random.normal(0, 0.2, (4, 6, 6)))],
    ),
    "layer_norm_without_bias": network(
        [node("LayerNormalization", "x scale", "y", axis=-1)], [floats("scale", random.normal(1, 0.2, 6))]
    ),
    "prelu": network([node("PRelu", "x slope", "y")], [floats("slope", [[[0.1]], [[-0.5]], [[2]], [[0]]])]),
    "sum_and_mean": network([node("Sum", "x p x", "s"), node("Mean", "x p s", "y")]),
    "global_max_pool": network([node("GlobalMaxPool", "x", "y")]),
    "pad_reflect": network([node("Pad", "x pads", "y", mode="reflect")], [ints("pads", 0, 0, 2, 1, 0, 0, 0, 5)]),
    "pad_edge": network([node("Pad", "x pads", "y", mode="edge")], [ints("pads", 0, 1, 2, 0, 0, 0, 0, 3)]),
    "resize_nearest": network(
        sized("x none none sizes", mode="nearest"), [*BATCH_AND_CHANNELS, ints("to", 12, 3)]
    ),
    "resize_by_scales": network(
        [node("Resize", "x none scales", "y", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        [floats("scales", [1, 1, 2, 0.5])],
        opset=13,
    ),
    "resize_linear": network(
        [node("Resize", "x none none sizes", "y", mode="linear", coordinate_transformation_mode="pytorch_half_pixel", axes=[2, 3])],
        [ints("sizes", 4, 9)],
        opset=19,
    ),
    "resize_to_a_pixel": network(
        sized("x roi roi sizes", mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
        [*BATCH_AND_CHANNELS, ints("to", 1, 1), floats("roi", [])],
        opset=11,
    ),
    "resize_asymmetric": network(
        [node("Resize", "x none scales", "y", mode="linear", coordinate_transformation_mode="asymmetric")],
        [floats("scales", [1, 1, 0.5, 3])],
    ),
    "resize_cubic": network(
        sized("x none none sizes", mode="cubic", coordinate_transformation_mode="align_corners"),
        [*BATCH_AND_CHANNELS, ints("to", 4, 11)],
        opset=17,
    ),
    "resize_opset10": network([node("Resize", "x scales", "y", mode="linear")], [floats("scales", [1, 1, 2, 0.5])], opset=10),
    "upsample_opset9": network([node("Upsample", "x scales", "y", mode="nearest")], [floats("scales", [1, 1, 2, 3])], opset=9),
    "upsample_opset7": network([node("Upsample", "x", "y", mode="linear", scales=[1.0, 1.0, 2.0, 1.5])], opset=7),
    **{
        f"gru_{direction}_{'after' if linear else 'before'}{opset}": network(
            [
                node("Reshape", "x table", "r"),
                node("Transpose", "r", "t", perm=[1, 0, 2]),
                node("GRU", "t w r_ b" if bias else "t w r_", "u h", hidden_size=5, direction=direction, linear_before_reset=linear),
                node("Transpose", "u", "v", perm=[2, 0, 1, 3]),
                node("Transpose", "h", "k", perm=[1, 0, 2]),
                node("Flatten", "v", "flat"),
                node("Flatten", "k", "last"),
                node("Concat", "flat last", "y", axis=1),
            ],
            [
                ints("table", 0, 4, 36),
                floats("w", random.normal(0, 0.3, (ways, 15, 36))),
                floats("r_", random.normal(0, 0.5, (ways, 15, 5))),
                *([floats("b", random.normal(0, 0.5, (ways, 30)))] if bias else []),
            ],
            opset=opset,
        )
        for direction, ways, linear, bias, opset in [
            ("forward", 1, 0, True, 17),
            ("reverse", 1, 1, True, 13),
            ("bidirectional", 2, 0, False, 17),
            ("bidirectional", 2, 1, True, 9),
        ]
    },
    "resize_nearest_ceil": network(
        sized("x none none sizes", mode="nearest", nearest_mode="round_prefer_ceil"), [*BATCH_AND_CHANNELS, ints("to", 12, 3)]
    ),
    "resize_nearest_ceil_fractions": network(
        sized("x none none sizes", mode="nearest", nearest_mode="round_prefer_ceil"), [*BATCH_AND_CHANNELS, ints("to", 4, 9)]
    ),
    "einsum": network(
        [
            node("Einsum", "x p", "a", equation="bchw,bcvw->bhcv"),
            node("Einsum", "x matrix", "b", equation="bchw, kc -> bkhw"),
            node("Einsum", "p vector", "c", equation="bchw,h->bwhc"),
            node("Einsum", "x", "d", equation="bchw->bwc"),
            *[node("Flatten", name, f"{name}_") for name in "abcd"],
            node("Concat", "a_ b_ c_ d_", "y", axis=1),
        ],
        [floats("matrix", random.normal(0, 0.5, (3, 4))), floats("vector", random.normal(0, 0.5, 6))],
    ),
    "gather_list": network(
        [node("Gather", "x channels", "a", axis=1), node("Gather", "a columns", "b", axis=-1), node("Gather", "b middle", "y", axis=2)],
        [ints("channels", 3, 0, 0), numpy_helper.from_array(np.array([[0, 2], [5, -1]]), "columns"), ints("middle", 1, 2, 3)],
    ),
    "gather_of_weight": network(
        [
            node("Gather", "table places", "a", axis=0),
            node("Transpose", "a", "t", perm=[2, 0, 1]),
            node("Unsqueeze", "t first", "u"),
            node("Add", "x u", "s"),
            node("Gather", "wide order", "w", axis=1),
            node("MatMul", "s w", "y"),
        ],
        [
            floats("table", random.normal(0, 0.5, (5, 4))),
            numpy_helper.from_array(np.arange(36).reshape(6, 6) * 7 % 5, "places"),
            ints("first", 0),
            floats("wide", random.normal(0, 0.5, (6, 4))),
            ints("order", 2, 0, 3),
        ],
    ),
    "slice_by_steps": network(
        [node("Slice", "x starts ends axes steps", "y")],
        [ints("starts", 1, -1, 0), ints("ends", 9, -9, 3), ints("axes", 2, -1, 1), ints("steps", 2, -1, 1)],
    ),
    "matmul_left": network(
        [
            node("MatMul", "left x", "a"),
            node("MatMul", "stack a", "b"),
            node("MatMul", "b row", "c"),
            node("Unsqueeze", "c last", "d"),
            node("MatMul", "one d", "y"),
        ],
        [
            floats("left", random.normal(0, 0.5, (5, 6))),
            floats("stack", random.normal(0, 0.5, (4, 3, 5))),
            floats("row", random.normal(0, 0.5, 6)),
            ints("last", -1),
            floats("one", random.normal(0, 0.5, 3)),
        ],
    ),
    "matmul_of_stacks": network(
        [
            node("Slice", "p zero one_ axis", "q"),
            node("Transpose", "q", "t", perm=[0, 1, 3, 2]),
            node("MatMul", "x t", "a"),
            node("MatMul", "a matrices", "y"),
        ],
        [ints("zero", 0), ints("one_", 1), ints("axis", 1), floats("matrices", random.normal(0, 0.5, (1, 4, 6, 3)))],
    ),
    "conv1d": network(
        [
            node("Reshape", "x sequence", "r"),
            node("Conv", "r k b", "c", pads=[2, 0], dilations=[2], group=2, strides=[1], kernel_shape=[3]),
            node("BatchNormalization", "c scale shift mean var", "n", epsilon=0.01),
            node("Relu", "n", "y"),
        ],
        [
            ints("sequence", 0, 4, 36),
            floats("k", random.normal(0, 0.5, (6, 2, 3))),
            floats("b", random.normal(0, 0.5, 6)),
            floats("scale", random.normal(1, 0.2, 6)),
            floats("shift", random.normal(0, 0.2, 6)),
            floats("mean", random.normal(0, 0.2, 6)),
            floats("var", random.uniform(0.5, 1, 6)),
        ],
    ),
    "batch_norm_of_volumes": network(
        [node("Reshape", "x volume", "r"), node("BatchNormalization", "r scale shift mean var", "y", epsilon=0.01)],
        [
            ints("volume", 0, 4, 2, 3, 6),
            floats("scale", random.normal(1, 0.2, 4)),
            floats("shift", random.normal(0, 0.2, 4)),
            floats("mean", random.normal(0, 0.2, 4)),
            floats("var", random.uniform(0.5, 1, 4)),
        ],
    ),
    "softsign": network([node("Softsign", "x", "y")]),
    "gelu_by_tanh": network([node("Gelu", "x", "y", approximate="tanh")], opset=20),
    "tile": network(
        [
            node("ReduceMean", "x channel", "m"),
            node("Tile", "m times", "t"),
            node("Tile", "x columns", "u"),
            node("Concat", "t u", "y", axis=3),
        ],
        [ints("channel", 1), ints("times", 1, 4, 1, 2), ints("columns", 1, 1, 1, 3)],
    ),
    "triangles": network(
        [node("Trilu", "x", "u"), node("Trilu", "p below", "l", upper=0), node("Add", "u l", "y")],
        [numpy_helper.from_array(np.array(-1), "below")],
    ),
    "blocks": network(
        [
            node("SpaceToDepth", "x", "s", blocksize=3),
            node("DepthToSpace", "s", "d", blocksize=3, mode="CRD"),
            node("DepthToSpace", "p", "e", blocksize=2),
            node("Flatten", "d", "d_"),
            node("Flatten", "e", "e_"),
            node("Concat", "d_ e_", "y", axis=1),
        ]
    ),
    "constants": network(
        [
            node("Range", "zero six one", "i"),
            node("Unsqueeze", "i one_axis", "column"),
            node("Sub", "column i", "far"),
            node("Abs", "far", "near"),
            node("Mod", "near two", "odd"),
            node("Equal", "odd zero", "even"),
            node("Cast", "near", "float", to=TensorProto.FLOAT),
            node("Sqrt", "float", "root"),
            node("Where", "even root minus", "mask"),
            node("ConstantOfShape", "square", "zeros"),
            node("ScatterND", "zeros corners numbers", "spots"),
            node("CumSum", "spots axis", "sums"),
            node("Add", "mask sums", "both"),
            node("Tile", "both four", "tiled"),
            node("Reshape", "tiled shape", "shaped"),
            node("Add", "x shaped", "y"),
        ],
        [
            numpy_helper.from_array(np.array(0), "zero"),
            numpy_helper.from_array(np.array(6), "six"),
            numpy_helper.from_array(np.array(1), "one"),
            numpy_helper.from_array(np.array(2), "two"),
            ints("one_axis", 1),
            floats("minus", -0.5),
            ints("square", 6, 6),
            numpy_helper.from_array(np.array([[0, 1], [5, 5], [2, 0]]), "corners"),
            floats("numbers", [0.5, -1, 0.25]),
            numpy_helper.from_array(np.array(1), "axis"),
            ints("four", 4, 1),
            ints("shape", 1, 4, 6, 6),
        ],
    ),
    "constants_of_the_batch": network(
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape places", "sizes", axis=0),
            node("ConstantOfShape", "sizes", "zeros"),
            node("Cast", "zeros", "no", to=TensorProto.BOOL),
            node("Not", "no", "yes"),
            node("Cast", "yes", "ones", to=TensorProto.FLOAT),
            node("CumSum", "ones axis", "sums"),
            node("Unsqueeze", "sums second", "u"),
            node("Mul", "x u", "y"),
        ],
        [ints("places", 0, 2, 3), numpy_helper.from_array(np.array(1), "axis"), ints("second", 1)],
    ),
    "overlap": network(
        [
            node("Reshape", "x windows", "w"),
            node("Col2Im", "w image block", "a", pads=[1, 0, 0, 1], strides=[2, 1], dilations=[1, 2]),
            node("Reshape", "p plain", "v"),
            node("Col2Im", "v seven two_", "b"),
            node("Flatten", "a", "a_"),
            node("Flatten", "b", "b_"),
            node("Concat", "a_ b_", "y", axis=1),
        ],
        [
            ints("windows", 0, 12, 12),
            ints("image", 5, 7),
            ints("block", 2, 3),
            ints("plain", 0, 4, 36),
            ints("seven", 7, 7),
            ints("two_", 2, 2),
        ],
    ),
    "attention_of_heads": network(
        [node("Attention", "x p x mask", "y")], [floats("mask", random.normal(0, 1, (6, 6)))], opset=23
    ),
    "attention_of_steps": network(
        [
            node("Reshape", "x steps", "s"),
            node("Attention", "s s s", "y", q_num_heads=2, kv_num_heads=2, scale=0.3),
        ],
        [ints("steps", 0, 24, 6)],
        opset=23,
    ),
}


class Net(nn.Module):
    """A picture to [n, 4, 6, 6], a function of the case, and a matrix."""

    def __init__(self, middle=None, end=None, extra=()):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.extra = nn.ModuleList(extra)
        for module in self.extra:
            for parameter in module.parameters():
                nn.init.normal_(parameter, 0.5, 0.3)
        self.middle = middle or (lambda x, net: x)
        self.end = end or (lambda z, net: z)
        with torch.no_grad():
            rows = self.middle(self.conv(torch.zeros(SHAPE)), self).flatten(1).shape[1]
        self.fc = nn.Linear(rows, CLASSES)

    def forward(self, x):
        return self.end(self.fc(self.middle(self.conv(x), self).flatten(1)), self)


def heads(x, net):
    q, k, v = net.extra[0](x.flatten(2).transpose(1, 2)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def middle(function, *extra):
    return lambda: Net(middle=lambda x, net: function(x, net), extra=extra)


def end(function):
    return lambda: Net(end=lambda z, net: function(z))


TORCH = {
    "end_float": end(lambda z: z.softmax(1).float()),
    "end_tuple": end(lambda z: (z,)),
    "end_log_sum_exp": end(lambda z: z - z.logsumexp(1, keepdim=True)),
    "end_exp_of_log": end(lambda z: z.log_softmax(-1).exp()),
    "end_neg": end(lambda z: -(-z)),
    "end_transposed": end(lambda z: z.t().t()),
    "end_log_softmax_squeezed": end(lambda z: F.log_softmax(z.unsqueeze(-1), 1).squeeze(-1)),
    "group_norm": middle(lambda x, n: n.extra[0](x), nn.GroupNorm(2, 4, eps=0.01)),
    "group_norm_plain": middle(lambda x, n: F.group_norm(x, 4)),
    "instance_norm": middle(lambda x, n: n.extra[0](x), nn.InstanceNorm2d(4, affine=True)),
    "layer_norm_of_pixels": middle(lambda x, n: n.extra[0](x), nn.LayerNorm([4, 6, 6])),
    "log_softmax": middle(lambda x, n: x.log_softmax(1)),
    "split_and_chunk": middle(lambda x, n: torch.cat([x.split([1, 3], 1)[1], x.chunk(3, 1)[0], x.split(3, 1)[1]], 1)),
    "pad": middle(lambda x, n: F.pad(F.pad(x, (1, 0, 2, 1), value=0.5), (0, 0, 0, 0, 1, 0))),
    "pad_before_relu": middle(lambda x, n: F.relu(F.pad(x, (1, 2, 0, 1)))),
    "where": middle(lambda x, n: torch.where((x > 0.1) & ~(x >= 0.6), x, x * x).masked_fill(x == x.amax(1, keepdim=True), 2.0)),
    "where_float": middle(lambda x, n: x * (x < 0.2).float() + (x.sigmoid() <= x).to(torch.float32)),
    "reductions": middle(lambda x, n: torch.cat([x.sum((1, 2)), x.amax((2, 3)), x.var((1, 2)), x.std(3, unbiased=False).mean(2), x.norm(1, 2).amin(2), x.logsumexp((1, 2))], 1)),
    "prelu": middle(lambda x, n: n.extra[0](x), nn.PReLU(4)),
    "stack_and_unbind": middle(lambda x, n: torch.stack(x.unbind(1)[1:3], 2) - x[:, :1].flatten(2)[..., :6].unsqueeze(2)),
    "attention": middle(heads, nn.Linear(4, 24)),
    "weights": middle(lambda x, n: x @ (n.extra[0].weight * n.extra[0].weight.abs()).t(), nn.Linear(6, 5)),
    "pad_modes": middle(lambda x, n: F.pad(F.pad(x, (1, 2, 0, 3), "reflect"), (2, 0, 1, 1), "replicate")),
    "resize": middle(lambda x, n: F.interpolate(F.interpolate(x, scale_factor=2), (7, 5), mode="bilinear")),
    "resize_with_corners": middle(lambda x, n: F.interpolate(x, (9, 4), mode="bilinear", align_corners=True)),
    "resize_by_a_scale": middle(lambda x, n: F.interpolate(x, scale_factor=1.5, mode="bilinear")),
    "resize_cubic": middle(lambda x, n: F.interpolate(x, (4, 10), mode="bicubic") + F.interpolate(x, (4, 10), mode="bicubic", align_corners=True)),
    "gru": middle(lambda x, n: n.extra[0](x.flatten(2).transpose(1, 2))[0][:, -1], nn.GRU(4, 5, batch_first=True)),
    "gru_of_layers": middle(lambda x, n: torch.cat([n.extra[0](x.flatten(2).permute(1, 0, 2))[1].transpose(0, 1).flatten(1), x.mean((2, 3))], 1), nn.GRU(36, 3, 2, bidirectional=True)),
    "gru_without_bias": middle(lambda x, n: n.extra[0](x.flatten(2).transpose(0, 1))[0].transpose(0, 1), nn.GRU(36, 3, bias=False)),
    "gru_reset": middle(lambda x, n: n.extra[0](x.flatten(2), torch.zeros(4, x.shape[0], 3))[0].tanh(), nn.GRU(36, 3, 2, bias=False, batch_first=True, bidirectional=True)),
    "lstm": middle(lambda x, n: n.extra[0](x.flatten(2).transpose(1, 2))[0][:, -1], nn.LSTM(4, 5, batch_first=True)),
    "lstm_of_layers": middle(lambda x, n: torch.cat([n.extra[0](x.flatten(2).permute(1, 0, 2))[1][0].transpose(0, 1).flatten(1), x.mean((2, 3))], 1), nn.LSTM(36, 3, 2, bidirectional=True)),
    "lstm_without_bias": middle(lambda x, n: n.extra[0](x.flatten(2), (torch.zeros(2, x.shape[0], 3), torch.zeros(2, x.shape[0], 3)))[0] + n.extra[0](x.flatten(2).tanh())[0], nn.LSTM(36, 3, bias=False, batch_first=True, bidirectional=True)),
    "resize_nearest_exact": middle(lambda x, n: torch.cat([F.interpolate(y, (7, 5), mode="nearest-exact") for y in [x, F.interpolate(x, scale_factor=2, mode="nearest-exact"), F.interpolate(x, (3, 12), mode="nearest-exact")]], 1)),
    "resize_nearest_exact_by_two": middle(lambda x, n: F.interpolate(F.interpolate(x, scale_factor=(2, 4), mode="nearest-exact"), (6, 6), mode="nearest-exact") + F.interpolate(x, (3, 12), mode="nearest-exact").reshape(x.shape)),
    "resize_antialiased": middle(lambda x, n: F.interpolate(x, (9, 7), mode="bilinear", antialias=True)),
    "windows": middle(
        lambda x, n: torch.cat([n.extra[0](x), n.extra[1](x).mean(3, keepdim=True).expand(-1, -1, -1, 6)
                                + F.adaptive_max_pool2d(x, 1), F.avg_pool2d(x, (3, 1), 1, (1, 0), count_include_pad=False)], 2),
        nn.Conv2d(4, 4, (4, 3), padding="same", dilation=(1, 2)), nn.Conv2d(4, 4, 3, padding="valid"),
    ),
    "pools_after_pads": middle(
        lambda x, n: torch.cat([y.flatten(2) for y in [
            F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2, ceil_mode=True),
            F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2, 1, count_include_pad=False),
            F.avg_pool2d(F.pad(x, (1, 0, 0, 1), value=1.0), 3, 2),
            F.max_pool2d(F.pad(F.relu(x), (1, 1, 1, 1)), 3, 2, ceil_mode=True),
            F.max_pool2d(F.pad(F.relu(x), (1, 1, 1, 1)), 3, 2),
            F.max_pool2d(F.pad(F.relu(x), (2, 2, 2, 2)), 3, 2, 1),
            F.max_pool2d(F.pad(x, (1, 0, 1, 0)), 3, 2),
        ]], 2),
    ),
    "moves": middle(
        lambda x, n: torch.stack([x.unflatten(1, (2, 2)).narrow(2, 1, 1).squeeze(2).squeeze(1).transpose(1, 3)[:, 1:4, :2, -1],
                                  x.permute(0, 3, 1, 2).flatten(2, 3)[:, :3, 5:7] - x.select(3, 2)[:, 1:, :2].swapaxes(1, 1)], -1),
    ),
    "square_and_constants": middle(lambda x, n: (x.square() + x**3 - torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1, 1)[1]) / torch.tensor([[2.0], [4.0]])[1]),
}


class Scripted(nn.Module):
    """As `Net`, with modules alone, which are scripted."""

    def __init__(self, *middle):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.middle = nn.ModuleList(middle)
        with torch.no_grad():
            rows = self.rows(torch.zeros(SHAPE)).shape[1]
        self.fc = nn.Linear(rows, CLASSES)

    def rows(self, x):
        x = self.conv(x)
        for module in self.middle:
            x = module(x)
        return x.flatten(1)

    def forward(self, x):
        return self.fc(self.rows(x))


class Sequence(nn.Module):
    """A recurrent module over the pixels, from the states that it starts from itself or from zeros that are given."""

    def __init__(self, cell, given: bool):
        super().__init__()
        self.cell, self.given, self.ways = cell, given, cell.num_layers * (2 if cell.bidirectional else 1)

    def pixels(self, x):
        x = x.flatten(2)
        return x if self.cell.batch_first else x.transpose(0, 1)

    def start(self, x):
        return torch.zeros([self.ways, x.size(0 if self.cell.batch_first else 1), self.cell.hidden_size], dtype=x.dtype, device=x.device)


class ScriptedGru(Sequence):
    def forward(self, x):
        x = self.pixels(x)
        y = self.cell(x, self.start(x))[0] if self.given else self.cell(x)[0]
        return y if self.cell.batch_first else y.transpose(0, 1)


class ScriptedLstm(Sequence):
    def forward(self, x):
        x = self.pixels(x)
        y = self.cell(x, (self.start(x), self.start(x)))[0] if self.given else self.cell(x)[0]
        return y if self.cell.batch_first else y.transpose(0, 1)


class Resized(nn.Module):
    """Sizes that code computes: a comprehension, a warning, a rounding down, and a list that it adds to."""

    def forward(self, x):
        sides = [math.floor(s * 1.5) for s in x.shape[2:]]
        if len(sides) != 2:
            warnings.warn("pictures have two sides")
        sides.append(1)
        if x.is_floating_point() and 9 in sides:
            x = F.interpolate(x, sides[:2], mode="bilinear", align_corners=False)
        return x


SCRIPTED = {
    "script_upsample_by_two": lambda: Scripted(nn.Upsample(scale_factor=2)),
    "script_upsample_by_a_pair": lambda: Scripted(nn.Upsample(scale_factor=(2.0, 0.5)), nn.Upsample(size=(3, 6), mode="nearest-exact")),
    "script_upsample_nearest_exact": lambda: Scripted(nn.Upsample(scale_factor=0.5, mode="nearest-exact"), nn.Upsample(size=5, mode="nearest-exact")),
    "script_upsample_bilinear": lambda: Scripted(nn.Upsample(size=(7, 4), mode="bilinear"), nn.Upsample(scale_factor=2, mode="bilinear", recompute_scale_factor=True)),
    "script_upsample_with_corners": lambda: Scripted(nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True), nn.UpsamplingBilinear2d(size=(4, 5)), nn.UpsamplingNearest2d(scale_factor=2)),
    "script_upsample_bicubic": lambda: Scripted(nn.Upsample(size=(4, 9), mode="bicubic"), nn.Upsample(scale_factor=2, mode="bicubic", align_corners=True)),
    "script_resized": lambda: Scripted(Resized()),
    "script_gru": lambda: Scripted(ScriptedGru(nn.GRU(36, 3, 2, bidirectional=True), False)),
    "script_gru_from_zeros": lambda: Scripted(ScriptedGru(nn.GRU(36, 3, bias=False, batch_first=True), True)),
    "script_lstm": lambda: Scripted(ScriptedLstm(nn.LSTM(36, 3, batch_first=True), False)),
    "script_lstm_from_zeros": lambda: Scripted(ScriptedLstm(nn.LSTM(36, 3, 2, bias=False, bidirectional=True), True)),
}


def windows(x):
    """Windows of 3 by 3 pixels, shifted, with a mask between what was not together, as Swin's."""
    n, c, h, w = x.shape
    mask = x.new_zeros((h, w))
    for count, (rows, columns) in enumerate([((0, 3), (0, 5)), ((0, 3), (5, 6)), ((3, 6), (0, 5)), ((3, 6), (5, 6))]):
        mask[rows[0] : rows[1], columns[0] : columns[1]] = count
    mask = mask.view(h // 3, 3, w // 3, 3).permute(0, 2, 1, 3).reshape(-1, 9)
    mask = mask.unsqueeze(1) - mask.unsqueeze(2)
    mask = mask.masked_fill(mask != 0, -2.0).masked_fill(mask == 0, 0.0)
    y = torch.roll(x.permute(0, 2, 3, 1), (-1, -2), (1, 2))
    y = y.view(n, h // 3, 3, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(n * (h // 3) * (w // 3), 9, c)
    scores = y @ y.transpose(1, 2)
    scores = scores.view(y.size(0) // mask.size(0), mask.size(0), 9, 9) + mask.unsqueeze(0)
    y = scores.view(-1, 9, 9).softmax(-1) @ y
    y = y.view(n, h // 3, w // 3, 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
    return torch.roll(y, (1, 2), (1, 2)).permute(0, 3, 1, 2)


def assigned(x):
    """Parts of a tensor that others take the place of."""
    y = x * 2
    y[:, :, 1:4, 2:] = x[:, :, 1:4, 2:].sigmoid()
    y[:, 3] = x[:, 0]
    return y


# Those that both of PyTorch's ONNX exporters write, and that are not read from TorchScript.
ONLY_ONNX = {
    "shifted_windows": middle(lambda x, n: windows(x)),
    "assigned": middle(lambda x, n: assigned(x)),
    "roll_and_flip": middle(lambda x, n: torch.roll(x, (2, -1), (2, 3)).flip(3)[:, [2, 0, 0, 3]]),
    "conv1d_of_pixels": middle(lambda x, n: n.extra[0](x.mean((2, 3)).unsqueeze(1)).squeeze(1), nn.Conv1d(1, 1, 3, padding=1, bias=False)),
}

# Those that both of PyTorch's ONNX exporters write too.
EXPORTED = ["group_norm", "instance_norm", "layer_norm_of_pixels", "log_softmax", "split_and_chunk", "pad", "where", "where_float", "reductions", "prelu", "attention", "pad_modes", "resize", "resize_with_corners", "resize_by_a_scale", "resize_cubic", "gru", "gru_of_layers", "gru_without_bias", "lstm", "lstm_of_layers"]


def without_paths(data):
    """Leaves the records out that hold paths of this machine."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            if not name.endswith(".debug_pkl"):
                stored = zipfile.ZIP_STORED if "/data/" in name or "/constants/" in name else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(name), content, stored)
    return out.getvalue()


def exported(net, x, newer):
    """The ONNX file that one of PyTorch's exporters writes, without what names this machine."""
    out = io.BytesIO()
    names = {"input_names": ["input"], "output_names": ["output"]}
    if newer:
        torch.onnx.export(net, (x,), out, dynamo=True, external_data=False, **names, dynamic_shapes=({0: torch.export.Dim("batch")},))
    else:
        torch.onnx.export(net, (x,), out, dynamo=False, opset_version=17, **names, dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})
    file = onnx.load_from_string(out.getvalue())
    del file.graph.value_info[:]
    del file.metadata_props[:]
    del file.graph.metadata_props[:]
    for node in file.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    return file.SerializeToString(deterministic=True)


def chosen(cases):
    return [(name, case) for name, case in cases.items() if not CHOSEN or name in CHOSEN]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    table = {}
    if CHOSEN:
        table = json.loads((OUT / "logits.json").read_text())
    else:
        for old in OUT.iterdir():
            old.unlink()

    def note(name, data, logits):
        (OUT / name).write_bytes(data)
        table[name] = {"shape": SHAPE, "logits": [float(f"{v:.7g}") for v in np.asarray(logits).flatten()]}

    for name, model in chosen(ONNX):
        note(f"{name}.onnx", model.SerializeToString(deterministic=True), run(model))
    x = torch.from_numpy(PICTURES)
    for name, make in chosen(SCRIPTED):
        torch.manual_seed(len(name))
        net = make().eval()
        scripted = io.BytesIO()
        torch.jit.save(torch.jit.script(net), scripted)
        with torch.no_grad():
            note(f"{name}.pt", without_paths(scripted.getvalue()), net(x))
    for name, make in chosen(ONLY_ONNX):
        torch.manual_seed(len(name))
        net = make().eval()
        with torch.no_grad():
            logits = net(x)
        for newer in (True, False):
            note(f"{name}.{'newer' if newer else 'older'}.onnx", exported(net, x, newer), logits)
    for name, make in chosen(TORCH):
        torch.manual_seed(len(name))
        net = make().eval()
        with torch.no_grad():
            logits = net(x)
            logits = logits[0] if isinstance(logits, tuple) else logits
        traced = io.BytesIO()
        torch.jit.save(torch.jit.trace(net, x), traced)
        note(f"{name}.pt", without_paths(traced.getvalue()), logits)
        for newer in (True, False):
            # The older exporter makes a sequence of a chunk.
            if name in EXPORTED and (newer or name != "split_and_chunk"):
                note(f"{name}.{'newer' if newer else 'older'}.onnx", exported(net, x, newer), logits)
    (OUT / "logits.json").write_text(json.dumps(table, indent=0) + "\n")


if __name__ == "__main__":
    main()
