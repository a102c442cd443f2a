"""Checks files in dynamic int8 that offshoot wrote, in ONNX Runtime.

    python scripts/check_dynamic.py INPUTS.json TOLERANCE FLOAT.onnx INT8.onnx [LOGITS.json]

Both files run on the inputs, {name: {"shape", "type", "values"}}, and must agree within TOLERANCE of the largest output.
The int8 one must have a node with integers and pass onnx.checker (which knows ONNX's own operators only). LOGITS.json is a
list: what the int8 file must compute within 1e-5. One JSON line; exit code 1 when something does not hold.
"""

import collections
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime


def run(path, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def main(inputs, tolerance, before, after, logits=None):
    given = json.loads(pathlib.Path(inputs).read_text())
    inputs = {name: np.array(x["values"], x["type"]).reshape(x["shape"]) for name, x in given.items()}
    model = onnx.load(after)
    onnx.checker.check_model(model)
    operators = collections.Counter(node.op_type for node in model.graph.node)
    assert operators["MatMulInteger"] + operators["DynamicQuantizeLSTM"] > 0, operators
    a, b = run(before, inputs), run(after, inputs)
    largest = np.abs(a).max()
    difference = float(np.abs(a - b).max() / largest)
    assert difference <= float(tolerance), (difference, a, b)
    result = {"file": after, "difference": difference}
    if logits:
        wanted = np.array(json.loads(pathlib.Path(logits).read_text())).reshape(b.shape)
        result["from_wanted"] = float(np.abs(b - wanted).max() / largest)
        assert result["from_wanted"] <= 1e-5, (b, wanted)
    sizes = [pathlib.Path(path).stat().st_size for path in (before, after)]
    print(json.dumps({**result, "bytes_before": sizes[0], "bytes": sizes[1]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
