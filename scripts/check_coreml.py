"""Checks Core ML packages that offshoot wrote with coremltools and PyTorch (see coreml.py).

    python scripts/check_coreml.py PACKAGE=LOGITS.json ...

coremltools must load each PACKAGE and agree with its types. LOGITS.json is {"shape", "logits"}: what the PACKAGE must compute for the
picture that its preprocessing makes x[i] = ((7919 i) mod 1000) / 500 - 1 of, within 1e-5 of the largest logit, or 5e-3 where it
computes in f16. One JSON line a package; exit code 1 when something does not hold.
"""

import coremltools
import torch
from coreml import check_description, run
from coremltools.converters.mil.frontend.milproto.load import load
from logits import check_all, difference, golden


def compare(package, logits):
    x, wanted = golden(logits)
    model = coremltools.models.MLModel(package, skip_model_load=True)
    spec = model.get_spec()
    steps = check_description(spec)["preprocessing"]
    function = load(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    mean, std = (torch.tensor(steps[key], dtype=torch.float64).reshape(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found, _, _ = run(function, ((x * std + mean) * 255).float())
    halves = any(op.op_type == "cast" and op.dtype.val == "fp16" for op in function.operations)
    return difference(found, wanted, 5e-3 if halves else 1e-5)


check_all("package", compare)
