"""A data set of two classes, and a run that was trained on it."""

import os
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import offshoot


def _draw(name: str, number: int) -> Image.Image:
    """A circle or a square somewhere, in colors that say which."""
    random.seed(f"{name} {number}")
    picture = Image.new("RGB", (60, 48), tuple(random.randrange(60) for _ in range(3)))
    left, top, size = random.randrange(20), random.randrange(12), random.randrange(20, 32)
    box = (left, top, left + size, top + size)
    draw = ImageDraw.Draw(picture)
    if name == "circle":
        draw.ellipse(box, fill=(230, random.randrange(60), random.randrange(60)))
    else:
        draw.rectangle(box, fill=(random.randrange(60), random.randrange(60), 230))
    return picture


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and with a run in `run`."""
    folder = tmp_path_factory.mktemp("offshoot")
    for part, count in (("train", 12), ("val", 4)):
        for name in ("circle", "square"):
            (folder / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                _draw(name, number + 100 * (part == "val")).save(folder / "data" / part / name / f"{number}.png")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    with pytest.warns(offshoot.OffshootWarning, match="random weights"):
        offshoot.train(folder / "data", "resnet18", out=folder / "run", size=32, **(RECIPE | {"epochs": 3}))
    return folder


RECIPE = {"epochs": 8, "batch_size": 8, "lr": 1e-3, "schedule": "constant", "seed": 3}


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, which is the current one, where `data` and `run` are those of `folder`."""
    for name in ("data", "run"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder: Path) -> offshoot.Model:
    return offshoot.load(folder / "run")
