"""Checks ONNX files that offshoot wrote with tools that nobody here wrote.

    python scripts/check_onnx.py FILE[=REFERENCE|=LOGITS.json] ...

Each FILE must pass onnx.checker (full check) and strict shape inference, have the input, output, batch dim and
metadata that offshoot promises and no leftover of training, and run in ONNX Runtime at batches 1, 2, 7 and 32, a
picture's logits being the same in each. With a REFERENCE, both must agree within 1e-4 of the largest logit. LOGITS.json is
{"shape", "logits"}: what the FILE must compute for x[i] = ((7919 i) mod 1000) / 500 - 1, and no other batch is run then.
One JSON line a file; exit code 1 when something does not hold.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime

BATCHES = [1, 2, 7, 32]
FORBIDDEN = {"Dropout", "Identity"}


def pictures(batch, entry):
    size = next((d for d in entry.shape[2:] if isinstance(d, int)), 64)
    x = np.random.default_rng(0).normal(size=(max(BATCHES), 3, size, size))
    return x[:batch].astype(np.float16 if "16" in entry.type else np.float32)


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def check_structure(path):
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(path, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    (entry,), (result,) = model.graph.input, model.graph.output
    assert (entry.name, result.name) == ("input", "output"), (entry.name, result.name)
    dims = [value.type.tensor_type.shape.dim[0].dim_param for value in (entry, result)]
    assert dims == ["batch_size", "batch_size"], dims
    leftovers = FORBIDDEN & {node.op_type for node in model.graph.node}
    assert not leftovers, f"training left {leftovers}"
    (prop,) = model.metadata_props
    assert prop.key == "offshoot"
    metadata = json.loads(prop.value)
    classes = result.type.tensor_type.shape.dim[1].dim_value
    assert len(metadata["classes"]) == classes and "preprocessing" in metadata
    return {"opset": model.opset_import[0].version, "ir_version": model.ir_version, "classes": classes}


def run_batches(path):
    model = session(path)
    entry = model.get_inputs()[0]
    logits = {batch: model.run(None, {entry.name: pictures(batch, entry)})[0] for batch in BATCHES}
    scale = np.abs(logits[max(BATCHES)]).max()
    for batch, y in logits.items():
        assert y.shape[0] == batch and np.isfinite(y).all()
        assert np.abs(y - logits[max(BATCHES)][:batch]).max() <= 1e-5 * scale


def compare(path, reference):
    ours, theirs = session(path), session(reference)
    entry = theirs.get_inputs()[0]
    half = "16" in entry.type
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 7
    x = pictures(batch, entry)
    (y,) = ours.run(None, {"input": x.astype(np.float32)})
    (wanted,) = theirs.run(None, {entry.name: x})
    graph = onnx.load(reference, load_external_data=False).graph
    if any(n.op_type == "Softmax" and n.output[0] == graph.output[0].name for n in graph.node):
        y = np.exp(y - y.max(1, keepdims=True))
        y /= y.sum(1, keepdims=True)
    difference = float(np.abs(y - wanted).max() / np.abs(wanted).max())
    assert difference <= (1e-2 if half else 1e-4), f"differs from {reference} by {difference} of the largest logit"
    return difference


def compare_logits(path, reference):
    golden = json.load(open(reference))
    count = int(np.prod(golden["shape"]))
    x = ((7919 * np.arange(count)) % 1000 / 500 - 1).astype(np.float32).reshape(golden["shape"])
    (y,) = session(path).run(None, {"input": x})
    wanted = np.array(golden["logits"], np.float32).reshape(y.shape)
    difference = float(np.abs(y - wanted).max() / np.abs(wanted).max())
    assert difference <= 1e-4, f"differs by {difference} of the largest logit"
    return difference


def main():
    failed = False
    for argument in sys.argv[1:]:
        path, _, reference = argument.partition("=")
        row = {"file": path}
        try:
            row |= check_structure(path)
            if reference.endswith(".json"):
                row["difference"] = compare_logits(path, reference)
                continue
            run_batches(path)
            if reference:
                row["difference"] = compare(path, reference)
        except Exception as error:
            failed, row["error"] = True, f"{type(error).__name__}: {error}"
        finally:
            print(json.dumps(row))
    sys.exit(failed or len(sys.argv) < 2)


if __name__ == "__main__":
    main()
