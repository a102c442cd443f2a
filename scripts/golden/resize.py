"""Makes crates/offshoot-formats/tests/golden/onnx/resize.json: what ONNX Runtime's Resize makes of bytes.

    python scripts/golden/resize.py
"""

import itertools
import json
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

OUT = Path(__file__).parents[2] / "crates/offshoot-formats/tests/golden/onnx/resize.json"
# Height and width before and after: smaller, larger, one of each, a line, a pixel.
SIZES = [(11, 7, 4, 3), (5, 4, 9, 11), (9, 4, 5, 10), (1, 13, 6, 5), (13, 1, 5, 3), (1, 1, 4, 4)]


def noise(count):
    """The bytes of the test, too."""
    i = np.arange(count, dtype=np.uint64)
    return ((i * i * 2654435761 + i * 40503) >> 7).astype(np.uint8)


def resized(x, rows, columns, mode, antialias, exclude_outside):
    attributes = {"mode": mode, "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.5}
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], antialias=antialias, exclude_outside=exclude_outside, **attributes
    )
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1, "h", "w"]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 1, "r", "c"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x, "sizes": np.array([1, 1, rows, columns])})[0]


def main():
    cases = []
    for sizes, mode, exclude in itertools.product(SIZES, ["linear", "cubic"], [0, 1]):
        height, width, rows, columns = sizes
        x = noise(height * width).reshape(1, 1, height, width)
        y = resized(x, rows, columns, mode, 1, exclude)
        cases.append({"sizes": sizes, "mode": mode, "exclude_outside": exclude, "pixels": y.ravel().tolist()})
    OUT.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
