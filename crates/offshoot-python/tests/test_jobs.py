"""Evaluation, export, quantization, comparison, and their errors."""

import json
import subprocess
import sys

import numpy
import pytest

import offshoot

pytestmark = pytest.mark.filterwarnings("ignore::offshoot.OffshootWarning")


def command(*arguments, code=0):
    done = subprocess.run([sys.executable, "-m", "offshoot", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def test_an_evaluation_is_that_of_the_command(here, model):
    found = offshoot.evaluate("run", "data/val")
    expected = json.loads(command("eval", "run", "data/val", "--json").stdout)
    assert (found.accuracy, found.top5, found.loss, found.images) == tuple(
        expected[name] for name in ("accuracy", "top5", "loss", "images")
    )
    assert {result.class_name: result.accuracy for result in found.per_class} == {
        name: figures["accuracy"] for name, figures in expected["per_class"].items()
    }
    assert found == model.evaluate("data/val") == offshoot.evaluate("run")
    assert list(found.to_pandas()["class_name"]) == ["circle", "square"]
    assert offshoot.evaluate("run", tta="flip").images == 8
    with pytest.raises(ValueError, match="off or flip or ten"):
        offshoot.evaluate("run", tta="some")


def test_exports_give_the_outputs_of_the_model(here, model):
    files = model.export(["onnx", "torchscript", "onnx"], out="files")
    assert [file.format for file in files] == ["onnx", "torchscript"]
    picture = here / "data" / "val" / "circle" / "2.png"
    for file in files:
        assert file.path.exists() and file.bytes > 0 and file.max_abs_diff < 1e-2
        verified = model.verify(file.path)
        assert verified and verified.inputs == 8 and verified.max_rel_diff <= verified.tolerance
        numpy.testing.assert_allclose(offshoot.load(file.path).logits(picture), model.logits(picture), rtol=1e-4, atol=1e-3)
    one = offshoot.export("run", "onnx", out="one.onnx", opset=13)
    assert one.path.name == "one.onnx" and list(one.to_pandas()["format"]) == ["onnx"]


def test_onnx_runtime_gives_the_logits(here, model):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = model.export("onnx", out="m.onnx", with_preprocess=True).path
    picture = numpy.random.default_rng(2).integers(0, 256, (40, 52, 3), dtype=numpy.uint8)
    session = onnxruntime.InferenceSession(path)
    theirs = session.run(None, {session.get_inputs()[0].name: picture[None]})[0][0]
    numpy.testing.assert_allclose(theirs, model.logits(picture), rtol=1e-3, atol=1e-3)


def test_another_model_does_not_match(here, model):
    offshoot.train("data", "squeezenet1_1", out="other", epochs=1, size=32, seed=9)
    other = offshoot.export("other", out="other.onnx")
    compared = model.verify(other.path)
    assert not compared and not compared.ok and compared.max_rel_diff > compared.tolerance


def test_int8_is_smaller(here, model):
    quantized = model.quantize("static", out="q.onnx", calibration_pictures=8)
    assert quantized.path.exists() and quantized.bytes < quantized.bytes_before
    assert quantized.accuracy_before == model.evaluate().accuracy
    assert list(quantized.to_pandas()["bytes"]) == [quantized.bytes]
    with pytest.raises(offshoot.InputError, match="--weight-bits is for --mode static") as raised:
        model.quantize("dynamic", weight_bits=8)
    assert raised.value.remedies == ["weight_bits"]


@pytest.mark.parametrize(
    ("call", "arguments", "kind"),
    [
        (lambda: offshoot.load("nowhere"), ["predict", "nowhere", "x.png"], offshoot.FileError),
        (lambda: offshoot.load("data"), ["inspect", "data"], offshoot.InputError),
        (lambda: offshoot.evaluate("run", "nowhere"), ["eval", "run", "nowhere"], offshoot.DataError),
        (lambda: offshoot.export("run", "tensorflow"), ["export", "run", "--format", "tensorflow"], offshoot.InputError),
        (
            lambda: offshoot.export("run", "torchscript", opset=17),
            ["export", "run", "--format", "torchscript", "--opset", "17"],
            offshoot.InputError,
        ),
        (lambda: offshoot.export("run", "onnx", out="a.pt"), ["export", "run", "--format", "onnx", "--out", "a.pt"], offshoot.InputError),
        (
            lambda: offshoot.train("data", "resnet", out="new"),
            ["train", "data", "--model", "resnet", "--out", "new"],
            offshoot.ModelError,
        ),
        (
            lambda: offshoot.train("data", "resnet18", out="run"),
            ["train", "data", "--model", "resnet18", "--out", "run"],
            offshoot.TrainingError,
        ),
        (lambda: offshoot.train("data", out="new"), ["train", "data", "--out", "new"], offshoot.InputError),
        (
            lambda: offshoot.train("nowhere", "resnet18", out="new"),
            ["train", "nowhere", "--model", "resnet18", "--out", "new"],
            offshoot.DataError,
        ),
        (lambda: offshoot.load("run/recipe.toml"), ["inspect", "run/recipe.toml"], offshoot.InputError),
        (lambda: offshoot.load("run", last=True, size=16384), ["inspect", "run", "--last", "--size", "16384"], offshoot.OffshootError),
    ],
)
def test_errors_have_the_messages_of_the_command(here, call, arguments, kind):
    with pytest.raises(kind) as raised:
        call()
    if "16384" in arguments:
        return  # what `inspect` only describes
    said = json.loads(command(*arguments, "--json", code=2).stdout)["error"]
    # The command gives a train run's data as an absolute path, as the function does.
    assert str(raised.value) == said["message"]
    assert isinstance(raised.value, offshoot.OffshootError)
    if raised.value.file is not None:
        assert str(raised.value.file) == said["file"]
    assert not (here / "new").exists()


def test_the_command_is_installed_and_gives_exit_codes(here):
    assert command("--version").stdout.strip() == f"offshoot {offshoot.__version__}"
    assert "serve" in command("--help").stdout
    offshoot.export("run", out="a.onnx")
    command("verify", "a.onnx", "--against", "run")
    offshoot.train("data", "squeezenet1_1", out="other", epochs=1, size=32, seed=9)
    command("verify", "a.onnx", "--against", "other", code=1)


def test_what_computes_can_be_chosen(here):
    script = (
        "import offshoot, sys; m = offshoot.load('run').logits('data/val/circle/0.png').tobytes();"
        "print(offshoot.configure(threads=1, isa='portable'));"
        "isa, threads = offshoot.configure(threads=1); assert threads == 1;"
        "assert offshoot.load('run').logits('data/val/circle/0.png').tobytes() == m"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "('portable', 1)\n", done.stderr
    with pytest.raises(ValueError, match="this machine has"):
        offshoot.configure(isa="mmx")
