"""What the documentation says works."""

import doctest
import importlib
import inspect
import runpy
import shutil
from pathlib import Path

import pytest

import offshoot

MODULES = ["offshoot", "offshoot.model", "offshoot.functions", "offshoot.results", "offshoot.training", "offshoot.errors"]


@pytest.mark.filterwarnings("ignore::offshoot.OffshootWarning")
@pytest.mark.parametrize("name", MODULES)
def test_doctests(name, here, folder):
    (here / "run").unlink()
    shutil.copytree(folder / "run", here / "run")
    result = doctest.testmod(importlib.import_module(name), extraglobs={"offshoot": offshoot})
    assert result.failed == 0


def test_doctests_are_found():
    finder = doctest.DocTestFinder()
    counts = {name: sum(len(t.examples) for t in finder.find(importlib.import_module(name))) for name in MODULES}
    assert sum(counts.values()) > 10, counts


def test_everything_public_is_documented():
    for name in offshoot.__all__:
        thing = getattr(offshoot, name)
        if not name.startswith("__"):
            assert inspect.getdoc(thing), name
    members = [m for _, m in inspect.getmembers(offshoot.Model) if inspect.isfunction(m) or isinstance(m, property)]
    assert all(inspect.getdoc(member) for member in members if not getattr(member, "__name__", "").startswith("_"))


def test_stubs_name_what_the_native_module_has():
    native = importlib.import_module("offshoot._offshoot")
    stubs = (Path(native.__file__).parent / "_offshoot.pyi").read_text()
    for name in dir(native):
        if not name.startswith("_"):
            assert f"def {name}(" in stubs or f"class {name}:" in stubs, name
    for name in dir(native.Network):
        if not name.startswith("_"):
            assert f"def {name}(" in stubs, name
    assert (Path(native.__file__).parent / "py.typed").exists()


def test_the_tour(here, capsys, monkeypatch):
    """The tour trains, looks, exports and compares; here with the small data set, and random weights."""
    pytest.importorskip("onnxruntime")
    tour = Path(__file__).parent.parent / "examples" / "tour.py"
    monkeypatch.setattr("sys.argv", [str(tour), "data", "squeezenet1_1"])
    shown = runpy.run_path(str(tour), run_name="__main__")
    assert shown["compared"].ok and shown["difference"] < 1e-3
