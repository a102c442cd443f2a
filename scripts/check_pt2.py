"""Checks programs of torch.export that offshoot wrote with PyTorch.

    python scripts/check_pt2.py [--compile] FILE=LOGITS.json ...

Each FILE must load with torch.export.load. LOGITS.json is {"shape", "logits"}: what the FILE must compute for
x[i] = ((7919 i) mod 1000) / 500 - 1, within 1e-5 (or the number "most" beside them) of the largest logit, whatever the number of pictures: those of the shape again
and again as 1, 2, 7 and 32. So must, with
--compile, what torch.compile makes of the first FILE, and, where there is a C++ compiler, AOTInductor.
One JSON line a file; exit code 1 when something does not hold.
"""

import json
import os
import shutil
import sys
import tempfile
import warnings

import torch
from logits import check_all, difference, golden

warnings.filterwarnings("ignore")
COMPILED = sys.argv[2].partition("=")[0] if sys.argv[1] == "--compile" else None
sys.argv = [argument for argument in sys.argv if argument != "--compile"]


def batches(x, wanted):
    """The pictures and their logits, in batches of several sizes."""
    wanted = wanted.reshape(len(x), -1)
    for count in [1, 2, 7, 32]:
        places = torch.arange(count) % len(x)
        yield x[places], wanted[places]


def compare(path, logits):
    x, wanted = golden(logits)
    with open(logits) as file:
        most = json.load(file).get("most", 1e-5)
    program = torch.export.load(path)
    forms = [program.module()]
    if path == COMPILED:
        forms.append(torch.compile(program.module()))
        if shutil.which("c++") or shutil.which(os.environ.get("CXX", "g++")):
            # The file holds no example, which would be a pickle.
            program.example_inputs = ((x.float(),), {})
            package = os.path.join(tempfile.mkdtemp(), "package.pt2")
            torch._inductor.aoti_compile_and_package(program, package_path=package)
            forms.append(torch._inductor.aoti_load_package(package))
    largest = 0.0
    with torch.no_grad():
        for form in forms:
            for pictures, rows in batches(x.float(), wanted):
                largest = max(largest, difference(form(pictures), rows, most))
    return largest


check_all("file", compare)
