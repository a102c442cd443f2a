"""Checks Core ML packages that offshoot wrote with coremltools and PyTorch (see coreml.py).

    python scripts/check_coreml.py PACKAGE=LOGITS.json ...

coremltools must load each PACKAGE and agree with its types. LOGITS.json is {"shape", "logits"}: what the PACKAGE must compute for the
picture that its preprocessing makes x[i] = ((7919 i) mod 1000) / 500 - 1 of, within 1e-5 of the largest logit. One JSON line a
package; exit code 1 when something does not hold.
"""

import json
import sys

import coremltools
import numpy as np
import torch
from coreml import check_description, run
from coremltools.converters.mil.frontend.milproto.load import load


def compare(package, logits):
    golden = json.load(open(logits))
    model = coremltools.models.MLModel(package, skip_model_load=True)
    spec = model.get_spec()
    steps = check_description(spec)["preprocessing"]
    function = load(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    x = ((7919 * np.arange(np.prod(golden["shape"]))) % 1000 / 500 - 1).reshape(golden["shape"])
    mean, std = (np.array(steps[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found, _, _ = run(function, torch.from_numpy(((x * std + mean) * 255).astype(np.float32)))
    wanted = torch.tensor(golden["logits"]).reshape(found.shape)
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    assert difference <= 1e-5, f"differs by {difference} of the largest logit"
    return difference


failed = False
for argument in sys.argv[1:]:
    path, _, logits = argument.partition("=")
    try:
        print(json.dumps({"package": path, "difference": compare(path, logits)}))
    except Exception as error:
        failed = True
        print(json.dumps({"package": path, "error": repr(error)}))
sys.exit(failed)
