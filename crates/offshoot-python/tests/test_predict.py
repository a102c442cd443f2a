"""Models and pictures in all forms."""

import io
import subprocess
import sys
import threading
import time

import numpy
import pytest
from PIL import Image

import offshoot


def test_all_forms_of_a_picture_give_equal_outputs(model, folder):
    path = folder / "data" / "val" / "circle" / "1.png"
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    array = numpy.asarray(picture)
    forms = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), picture, array, array[::-1][::-1], numpy.asfortranarray(array)]
    expected = model.logits(path)
    assert expected.dtype == numpy.float32 and numpy.isfinite(expected).all()
    for form in forms:
        numpy.testing.assert_array_equal(model.logits(form), expected)
    numpy.testing.assert_array_equal(model.logits(forms), numpy.stack([expected] * len(forms)))


def test_predictions_are_the_softmax_of_the_logits_and_those_of_the_command(model, folder):
    paths = sorted((folder / "data" / "val").glob("*/*.png"))
    predictions = model.predict(paths, top=2)
    logits = model.logits(paths).astype(numpy.float64)
    softmax = numpy.exp(logits) / numpy.exp(logits).sum(axis=1, keepdims=True)
    for prediction, row in zip(predictions, softmax, strict=True):
        assert [guess.probability for guess in prediction.top] == pytest.approx(sorted(row, reverse=True), abs=1e-6)
        assert [model.classes[guess.index] for guess in prediction.top] == [guess.class_name for guess in prediction.top]
    command = [sys.executable, "-m", "offshoot", "predict", folder / "run", *paths, "--top", "1", "--json", "--logits"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for line, row, prediction in zip(lines, model.logits(paths), predictions, strict=True):
        import json

        found = json.loads(line)
        assert numpy.array_equal(numpy.float32(found["logits"]), row)
        assert found["top"][0]["class"] == prediction.best.class_name


def test_the_model_has_learned(model, folder):
    paths = sorted((folder / "data" / "val").glob("*/*.png"))
    right = [prediction.best.class_name == path.parent.name for prediction, path in zip(model.predict(paths), paths)]
    assert sum(right) >= 7


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_pillow_pictures_are_read_as_their_files(model, mode, tmp_path):
    generator = numpy.random.default_rng(5)
    rgba = Image.fromarray(generator.integers(0, 256, (40, 52, 4), dtype=numpy.uint8), "RGBA")
    if mode == "I;16":
        picture = Image.fromarray(generator.integers(0, 65536, (40, 52), dtype=numpy.uint16))
    else:
        picture = rgba.convert(mode)
    file = io.BytesIO()
    picture.save(file, "TIFF" if mode == "CMYK" else "PNG")
    numpy.testing.assert_array_equal(model.logits(picture), model.logits(file.getvalue()))


def test_exif_rotation_is_applied_to_pillow_pictures(model):
    picture = Image.fromarray(numpy.random.default_rng(6).integers(0, 256, (40, 70, 3), dtype=numpy.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    rotated = Image.open(io.BytesIO(file.getvalue()))
    numpy.testing.assert_array_equal(model.logits(rotated), model.logits(file.getvalue()))
    assert not numpy.array_equal(model.logits(rotated), model.logits(picture))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (numpy.zeros((4, 4, 3), numpy.float32), "uint8"),
        (numpy.zeros((4, 4), numpy.uint8), r"\[height, width, 3\]"),
        (numpy.zeros((4, 4, 4), numpy.uint8), r"\[height, width, 3\]"),
        (numpy.zeros((0, 4, 3), numpy.uint8), r"\[height, width, 3\]"),
        (17, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_picture_is_a_type_error(model, bad, text):
    with pytest.raises(TypeError, match=text):
        model.predict(bad)


def test_bad_pictures_name_themselves(model, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(offshoot.PictureError) as raised:
        model.predict([broken])
    assert raised.value.file == broken and str(broken) in str(raised.value)
    good = io.BytesIO()
    Image.new("RGB", (9, 9)).save(good, "PNG")
    with pytest.raises(offshoot.PictureError, match="picture 1"):
        model.predict([good.getvalue(), b"no picture"])
    with pytest.raises(ValueError, match="top"):
        model.predict(good.getvalue(), top=0)


def test_an_empty_list_gives_an_empty_list(model):
    assert model.predict([]) == [] and len(model.logits([])) == 0


def test_results_become_frames(model, folder):
    paths = sorted((folder / "data" / "val").glob("circle/*.png"))
    frame = model.predict(paths, top=2).to_pandas()
    assert list(frame.columns) == ["picture", "path", "rank", "class_name", "index", "probability"]
    assert len(frame) == 2 * len(paths)
    assert frame.groupby("picture").probability.sum().to_numpy() == pytest.approx(1)
    assert list(model.predict(paths[0]).to_pandas().index) == [0, 1]


def test_threads_share_a_model_and_python_goes_on_meanwhile(model):
    pictures = [numpy.random.default_rng(i).integers(0, 256, (1500, 1500, 3), dtype=numpy.uint8) for i in range(3)]
    expected = [model.logits(picture) for picture in pictures]
    found, counted, done = {}, 0, threading.Event()

    def work(i):
        found[i] = [model.logits(pictures[i]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counted += 1
        time.sleep(0)
    # Were the interpreter locked, this thread would have had a few turns, between the calls.
    assert counted > 100
    for i, all_of in found.items():
        for row in all_of:
            numpy.testing.assert_array_equal(row, expected[i])


def test_a_model_describes_itself(model):
    assert model.classes == ["circle", "square"] and model.architecture == "resnet18"
    assert model.preprocessing["size"] == 32 and "resnet18" in repr(model)
    assert offshoot.inspect.__doc__ and offshoot.models()


def test_preprocessing_can_be_changed(folder):
    changed = offshoot.load(folder / "run", fit="pad", mean=(0, 0, 0), std=(1, 1, 1))
    assert changed.preprocessing["fit"] == "pad" and list(changed.preprocessing["mean"]) == [0, 0, 0]
    with pytest.raises(ValueError, match="fit"):
        offshoot.load(folder / "run", fit="squash")
    with pytest.raises(ValueError, match="std"):
        offshoot.load(folder / "run", std=(0, 1, 1))
    with pytest.raises(TypeError):
        offshoot.load(folder / "run", size="large")
    with pytest.raises(TypeError, match="path"):
        offshoot.load()
