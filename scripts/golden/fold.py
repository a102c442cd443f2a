#!/usr/bin/env python3
"""Writes crates/offshoot-formats/tests/golden/fold.json: small tensors of sizes, and what ONNX Runtime computes of them.

    python scripts/golden/fold.py
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OUT = Path(__file__).resolve().parents[2] / "crates/offshoot-formats/tests/golden/fold.json"


def i(*values):
    return np.array(values, np.int64)


def f(*values):
    return np.array(values, np.float32)


def b(*values):
    return np.array(values, np.bool_)


def scalar(value):
    return value.reshape(())


END = 2**62
TABLE = i(1, 2, 3, 4, 5, 6).reshape(3, 2)
# The operator, its inputs (None where one is left out), its attributes; the opset is 13 where nothing else is said.
CASES = [
    ("Add", [i(5, 7), i(3, -2)], {}),
    ("Add", [i(5, 7), scalar(i(3))], {}),
    ("Add", [scalar(i(3)), i(5, 7)], {}),
    ("Add", [i(3), i(5, 7)], {}),
    ("Sub", [i(5, 7), i(3)], {}),
    ("Sub", [f(0.5), f(2, 3)], {}),
    ("Mul", [i(5, 7), i(3, -2)], {}),
    ("Mul", [f(1.5, 7), f(0.5)], {}),
    ("Div", [i(7, -7, 7, 6), i(2, 2, -2, 3)], {}),
    ("Div", [f(7, 1), f(3)], {}),
    ("Mod", [i(7, -7, 7, -7, 6), i(3, 3, -3, -3, 3)], {}),
    ("Mod", [f(7.5, -7.5), f(2)], {"fmod": 1}),
    ("Max", [i(5, 7), i(6)], {}),
    ("Min", [i(5, 7), i(6)], {}),
    ("Equal", [i(5, -1), i(5)], {}),
    ("Equal", [f(0.5, 2), f(0.5, 3)], {}),
    ("Where", [b(True, False), i(5, 7), i(1, 2)], {}),
    ("Where", [b(False, True), i(5), f(1).astype(np.int64)], {}),
    ("Where", [b(True, False), f(0.5), f(1.5, 2.5)], {}),
    ("Ceil", [f(1.25, -1.25, 2)], {}),
    ("Floor", [f(1.25, -1.25, 2)], {}),
    ("Sqrt", [f(2, 9)], {}),
    ("Cast", [f(2.75, -2.75)], {"to": TensorProto.INT64}),
    ("Cast", [f(2.75, -2.75)], {"to": TensorProto.FLOAT}),
    ("Cast", [i(3, 0)], {"to": TensorProto.FLOAT}),
    ("Cast", [i(3, 0)], {"to": TensorProto.INT32}),
    ("Clip", [i(1, 5, 9), scalar(i(2)), scalar(i(6))], {}),
    ("Clip", [f(1, 5, 9), scalar(f(2))], {}),
    ("Clip", [f(1, 5, 9), None, scalar(f(6))], {}),
    ("Clip", [f(1, 5, 9)], {"min": 2.5, "max": 6.5}, 6),
    ("Clip", [f(1, 5, 9)], {"max": 6.5}, 6),
    ("Gather", [i(4, 5, 6), i(0, -1, 2, -3)], {}),
    ("Gather", [i(4, 5, 6), scalar(i(1))], {"axis": -1}),
    ("Gather", [f(4, 5, 6), i(1, 0).reshape(1, 2)], {"axis": 0}),
    ("Unsqueeze", [i(4, 5), i(0)], {}),
    ("Unsqueeze", [i(4, 5), i(-1, 0)], {}),
    ("Unsqueeze", [scalar(f(4)), i(0)], {}),
    ("Unsqueeze", [i(4, 5)], {"axes": [1, 2]}, 11),
    ("Squeeze", [i(4, 5).reshape(1, 2, 1)], {}),
    ("Squeeze", [i(4, 5).reshape(1, 2, 1), i(-1)], {}),
    ("Squeeze", [f(4).reshape(1, 1)], {"axes": [0]}, 11),
    ("Concat", [i(4, 5), i(6), i(7, 8)], {"axis": 0}),
    ("Concat", [f(4, 5), f(6)], {"axis": 0}),
    ("ConstantOfShape", [i(2)], {}),
    ("ConstantOfShape", [i(2, 3)], {"value": i(7)}),
    ("ConstantOfShape", [np.zeros(0, np.int64)], {"value": f(0.5)}),
    ("Slice", [i(4, 5, 6, 7), i(1), i(3)], {}),
    ("Slice", [i(4, 5, 6, 7), i(-3), i(END), i(0)], {}),
    ("Slice", [i(4, 5, 6, 7), i(0), i(-1), i(-1), i(2)], {}),
    ("Slice", [i(4, 5, 6, 7), i(-1), i(-END), i(0), i(-1)], {}),
    ("Slice", [i(4, 5, 6, 7), i(9), i(0), i(0), i(-2)], {}),
    ("Slice", [i(4, 5, 6, 7), i(3), i(1)], {}),
    ("Slice", [TABLE, i(1), i(3), i(-2)], {}),
    ("Slice", [TABLE, i(-1), i(-END), i(0), i(-1)], {}),
    ("Slice", [f(4, 5, 6)], {"starts": [1], "ends": [9], "axes": [0]}, 9),
    ("Slice", [f(4, 5, 6)], {"starts": [0], "ends": [2]}, 9),
    ("Transpose", [TABLE], {}),
    ("Transpose", [TABLE], {"perm": [1, 0]}),
    ("Transpose", [TABLE], {"perm": [0, 1]}),
    ("Transpose", [f(4, 5)], {"perm": [0]}),
    ("Reshape", [TABLE, i(6)], {}),
    ("Reshape", [TABLE, i(2, -1)], {}),
    ("Reshape", [f(4), np.zeros(0, np.int64)], {}),
    ("ReduceProd", [i(2, 3, 4)], {"keepdims": 0}),
    ("ReduceProd", [i(2, 3, 4)], {"axes": [0]}),
    ("ReduceProd", [f(2, 3, 0.5), i(-1)], {"keepdims": 1}, 18),
]


def tensor(value):
    kind = "f" if value.dtype == np.float32 else "b" if value.dtype == np.bool_ else "i"
    return {"shape": list(value.shape), "data": [float(x) for x in value.flatten()], "float": kind == "f"}


def case(op, inputs, attributes, opset=13):
    names = ["" if value is None else f"x{at}" for at, value in enumerate(inputs)]
    given = {name: value for name, value in zip(names, inputs) if name}
    fill = attributes.get("value")
    made = {k: numpy_helper.from_array(v) if k == "value" else v for k, v in attributes.items()}
    node = helper.make_node(op, names, ["y"], **made)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    output = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph([node], "fold", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, given)[0]
    return {
        "op": op,
        "inputs": [None if value is None else tensor(value) for value in inputs],
        "attributes": {k: v for k, v in attributes.items() if k != "value"},
        "fill": None if fill is None else tensor(fill),
        "output": tensor(np.asarray(found)),
    }


def main():
    rows = ",\n".join(json.dumps(case(*given)) for given in CASES)
    OUT.write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
