"""Checks LiteRT files that offshoot wrote with LiteRT's own interpreter.

    python scripts/check_litert.py [--tolerance X] FILE[=LOGITS.json] ...

Each FILE must have the input, output, signature and metadata that offshoot promises, and run at batches 1, 2 and 5, a picture's
logits being the same in each. LOGITS.json is {"shape", "logits"}: what the FILE must compute for pictures in the order of
channels first, x[i] = ((7919 i) mod 1000) / 500 - 1, within X of the largest logit (1e-4 where it is not given).
One JSON line a file; exit code 1 when something does not hold.
"""

import json
import sys
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter

BATCHES = [1, 2, 5]


def run(interpreter, x):
    """The logits of pictures in the order of channels first."""
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(entry["index"], [len(x), *x.shape[2:], 3], strict=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    return interpreter.get_tensor(result["index"]).copy()


def check_structure(path, interpreter):
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (entry["name"], entry["dtype"], result["dtype"]) == ("input", np.float32, np.float32), (entry, result)
    assert list(entry["shape"])[0] == 1 and list(entry["shape_signature"])[0] == -1, entry
    signature = interpreter.get_signature_list()["serving_default"]
    assert signature == {"inputs": ["input"], "outputs": ["output"]}, signature
    with zipfile.ZipFile(path) as archive:
        labels = archive.read("labels.txt").decode().splitlines()
    assert len(labels) == result["shape"][1], (len(labels), result["shape"])
    return {"classes": len(labels)}


def difference(a, b):
    assert a.shape == b.shape and np.isfinite(a).all(), (a.shape, b.shape)
    return float(np.abs(a - b).max() / np.abs(b).max())


def check_batches(interpreter, size):
    x = np.random.default_rng(0).normal(size=(max(BATCHES), 3, size, size)).astype(np.float32)
    logits = {batch: run(interpreter, x[:batch]) for batch in BATCHES}
    for batch, y in logits.items():
        found = difference(y, logits[max(BATCHES)][:batch])
        assert found <= 1e-4, f"at batch {batch} the logits differ by {found} of the largest"


def check(path, reference, tolerance):
    interpreter = Interpreter(model_path=path)
    row = check_structure(path, interpreter)
    check_batches(interpreter, interpreter.get_input_details()[0]["shape"][1])
    if reference:
        golden = json.load(open(reference))
        count = int(np.prod(golden["shape"]))
        x = ((7919 * np.arange(count)) % 1000 / 500 - 1).astype(np.float32).reshape(golden["shape"])
        wanted = np.array(golden["logits"], np.float32).reshape(len(x), -1)
        row["difference"] = difference(run(interpreter, x), wanted)
        assert row["difference"] <= tolerance, f"differs by {row['difference']} of the largest logit"
    return row


def main():
    arguments, tolerance, failed = sys.argv[1:], 1e-4, False
    if arguments[:1] == ["--tolerance"]:
        tolerance, arguments = float(arguments[1]), arguments[2:]
    for argument in arguments:
        path, _, reference = argument.partition("=")
        row = {"file": path}
        try:
            row |= check(path, reference, tolerance)
        except Exception as error:
            failed, row["error"] = True, f"{type(error).__name__}: {error}"
        print(json.dumps(row), flush=True)
    sys.exit(failed or not arguments)


if __name__ == "__main__":
    main()
