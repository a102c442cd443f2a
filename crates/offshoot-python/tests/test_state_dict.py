"""Parameters in and out."""

import numpy
import pytest

import offshoot


def test_a_model_goes_through_its_state_dict_and_through_a_file(here, model):
    picture = numpy.random.default_rng(1).integers(0, 256, (40, 52, 3), dtype=numpy.uint8)
    state = model.state_dict()
    assert all(isinstance(value, numpy.ndarray) and value.dtype == numpy.float32 for value in state.values())
    again = offshoot.from_state_dict("resnet18", state, model.classes, size=32)
    assert again.classes == model.classes
    changed = {name: model.preprocessing[name] for name in ("fit", "mean", "std")}
    assert {name: again.preprocessing[name] for name in changed} == changed
    model.save("copy.safetensors")
    copy = offshoot.load("copy.safetensors")
    numpy.testing.assert_array_equal(copy.logits(picture), model.logits(picture))
    # The run has a size of resizing of its own, which its file holds.
    square = numpy.random.default_rng(1).integers(0, 256, (36, 36, 3), dtype=numpy.uint8)
    assert again.logits(square).shape == (2,)
    for name, value in copy.state_dict().items():
        numpy.testing.assert_array_equal(value, state[name])
    with pytest.raises(ValueError, match="save"):
        again.export("onnx")


def test_state_dicts_that_do_not_fit_say_so(model):
    state = model.state_dict()
    with pytest.raises(offshoot.ModelError, match="the state dict"):
        offshoot.from_state_dict("squeezenet1_1", state)
    with pytest.raises(offshoot.ModelError, match="squeezenet"):
        offshoot.from_state_dict("squeezenet9", state)
    with pytest.raises(offshoot.InputError, match="3 names"):
        offshoot.from_state_dict("resnet18", state, ["a", "b", "c"])
    with pytest.raises(TypeError, match="fc.bias"):
        offshoot.from_state_dict("resnet18", state | {"fc.bias": numpy.array(["a"])})


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_pytorch_gives_equal_logits_both_ways(name, tmp_path):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=7)
    with torch.no_grad():
        for buffer in theirs.buffers():
            if buffer.dtype == torch.float32:
                buffer.uniform_(0.5, 1.5)
    theirs.eval()
    ours = offshoot.from_state_dict(name, theirs.state_dict(), [f"class {i}" for i in range(7)], size=64)
    picture = numpy.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
    changes = ours.preprocessing
    # Pictures of the size that is cut out are not resized.
    resized = numpy.asarray(picture)
    ours = offshoot.from_state_dict(name, theirs.state_dict(), [f"class {i}" for i in range(7)], size=64, fit="stretch")
    mean, std = (numpy.float32(changes[key]) for key in ("mean", "std"))
    tensor = torch.from_numpy(((resized.astype(numpy.float32) / 255 - mean) / std).transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        expected = theirs(tensor)[0].numpy()
    assert numpy.isfinite(expected).all()
    scale = max(numpy.abs(expected).max(), 1e-3)
    numpy.testing.assert_allclose(ours.logits(picture) / scale, expected / scale, atol=1e-4)
    # And back: into a network of other random weights, as arrays and as a file.
    for state in (
        {key: torch.from_numpy(value) for key, value in ours.state_dict().items()},
        _saved(ours, tmp_path / "m.safetensors"),
    ):
        back = getattr(torchvision.models, name)(num_classes=7).eval()
        back.load_state_dict(state, strict=True)
        with torch.no_grad():
            numpy.testing.assert_array_equal(back(tensor)[0].numpy(), expected)


def _saved(model, path):
    model.save(path)
    return pytest.importorskip("safetensors.torch").load_file(path)
