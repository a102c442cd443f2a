"""Small ONNX files that ask for much memory, or that no classifier is: crates/offshoot-cli/tests/golden/strangers.

    python scripts/golden/strangers.py

Needs onnx.
"""
from pathlib import Path

import onnx
from onnx import TensorProto, helper

OUT = Path(__file__).parents[2] / "crates/offshoot-cli/tests/golden/strangers"


def ints(name, values):
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def save(name, side, nodes, stored):
    """GlobalAveragePool -> Flatten -> MatMul(3, 2) of `pooled`, which the nodes make of `input`."""
    stored = [helper.make_tensor("w", TensorProto.FLOAT, [3, 2], [0.1] * 6), *stored]
    nodes = [
        *nodes,
        helper.make_node("GlobalAveragePool", ["pooled"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["output"], axis=0 if name == "softmax_batch" else 1),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 2])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.onnx").write_bytes(model.SerializeToString())


same = [helper.make_node("Identity", ["input"], ["pooled"])]
add = [helper.make_node("Add", ["input", "large"], ["pooled"])]
one = helper.make_tensor("one", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
shape = ints("shape", [1, 3, 8192, 8192])
save("input_8192", 8192, same, [])
save("softmax_batch", 32, same, [])
save("constant_of_shape", 8192, [helper.make_node("ConstantOfShape", ["shape"], ["large"]), *add], [shape])
save("expand", 8192, [helper.make_node("Expand", ["one", "shape"], ["large"]), *add], [one, shape])
save("tile", 8192, [helper.make_node("Tile", ["one", "shape"], ["large"]), *add], [one, shape])
scalars = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("from", 0.0), ("to", 3.0 * 8192 * 8192), ("step", 1.0))]
save("range", 8192, [
    helper.make_node("Range", ["from", "to", "step"], ["numbers"]),
    helper.make_node("Reshape", ["numbers", "shape"], ["large"]), *add,
], [*scalars, shape])
