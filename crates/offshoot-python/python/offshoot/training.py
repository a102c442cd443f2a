"""Training."""

from __future__ import annotations

import difflib
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path as _Path
from typing import Any

from . import _offshoot
from ._source import Path, path
from ._told import tell
from .results import Epoch, Start, Step, TrainResult

_EVENTS = {"start": Start, "step": Step, "epoch": Epoch}

# Settings that are arguments of their own.
_ARGUMENTS = ("data", "model", "weights")

_SIZES = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}


def settings() -> list[dict[str, Any]]:
    """Every setting of training: its name, what it is, its default in words, its range, and the table that it is in, where it is in one.

    >>> [s["default"] for s in offshoot.settings() if s["name"] == "epochs"]
    ['30']
    """
    return _offshoot.settings()


def _tables() -> dict[str, str | None]:
    """The table of each setting."""
    return {setting["name"]: setting["table"] for setting in settings()}


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    """Settings as a recipe has them: those of a table in their table."""
    tables = _tables()
    given: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in tables:
            near = difflib.get_close_matches(name, tables, 1, 0)
            raise TypeError(f"{name!r} is no setting of training; the nearest is {near[0]!r}, and offshoot.settings() has all of them")
        if value is None:
            continue
        table = tables[name]
        if table is None and name in ("augmentation", "preprocessing"):
            given.setdefault(name, {}).update(value)
        elif table is None:
            given[name] = value
        else:
            given.setdefault(table, {})[name] = value
    if isinstance(given.get("augment"), bool):
        given["augment"] = "on" if given["augment"] else "off"
    if given.get("class_weights") == "balanced":
        del given["class_weights"]
        given["balance_classes"] = True
    return given


def _bytes(size: int | str) -> int:
    """A number of bytes, or a text such as 500MiB."""
    if isinstance(size, int):
        return size
    digits, unit = size.rstrip("KMGTiB"), size[len(size.rstrip("KMGTiB")) :]
    if not digits.isdecimal() or (unit and unit not in _SIZES):
        raise ValueError(f"cache_budget: {size!r} is no number of bytes; give a whole number, or one with KiB, MiB, GiB or TiB")
    return int(digits) << _SIZES.get(unit, 0)


class Training:
    """A training run as an iterator over its epochs, which bars such as tqdm's take::

        training = offshoot.Training("photos", "mobilenet_v2", weights="mobilenet_v2.pth", epochs=10)
        for epoch in tqdm(training):
            print(epoch.val_accuracy)
        training.result.load().predict("cat.jpg")

    The arguments are those of :func:`offshoot.train`. The run starts when iteration does, in a thread of its own, and does not wait for
    who iterates. Leaving the loop, or Ctrl-C, stops it after the current step, with a checkpoint.
    """

    def __init__(
        self,
        data: Path | None = None,
        model: Path | None = None,
        *,
        weights: Path | None = None,
        out: Path = "run",
        recipe: Path | None = None,
        resume: bool = False,
        checkpoint_every: int = 600,
        cache_dir: Path | None = None,
        cache_budget: int | str = "4GiB",
        callback: Callable[[Start | Step | Epoch], object] | None = None,
        **settings: Any,
    ) -> None:
        given = {"data": path(data), "model": path(model), "weights": path(weights)}
        self._settings = {name: value for name, value in given.items() if value is not None} | _given(settings)
        self._options = {
            "out": path(out),
            "recipe": path(recipe),
            "resume": bool(resume),
            "checkpoint_every": checkpoint_every,
            "cache_dir": path(cache_dir),
            "cache_budget": _bytes(cache_budget),
            "steps": callback is not None,
        }
        self._callback = callback
        self._stop = _offshoot.Stop()
        self._started = False
        self._epochs: int | None = None
        self.result: TrainResult | None = None
        """What the run has reached, once it has ended."""

    def run(self) -> TrainResult:
        """Trains to the end in this thread, and gives :attr:`result`."""
        return self._train(self._hear)

    def stop(self) -> None:
        """Stops the run after the current step, with a checkpoint. Any thread may call it."""
        self._stop.set()

    def __len__(self) -> int:
        """The epochs of the run, where they are known before it starts, else of the default."""
        if self._epochs is not None:
            return self._epochs
        epochs = self._settings.get("epochs")
        if epochs is None:
            epochs = next(setting["default"] for setting in settings() if setting["name"] == "epochs")
        return int(epochs)

    def __iter__(self) -> Iterator[Epoch]:
        events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

        def work() -> None:
            try:
                self._train(lambda kind, value: events.put((kind, value)))
            except BaseException as error:  # it is raised where somebody iterates
                events.put(("error", error))
            else:
                events.put(("end", None))

        thread = threading.Thread(target=work, name="offshoot-training", daemon=True)
        thread.start()
        try:
            while True:
                try:
                    # A time limit, because Ctrl-C does not end a wait without one everywhere.
                    kind, value = events.get(timeout=0.2)
                except queue.Empty:
                    continue
                if kind == "end":
                    return
                if kind == "error":
                    raise value
                self._hear(kind, value)
                if kind == "epoch":
                    yield Epoch(**value)
        finally:
            self.stop()
            thread.join()

    def _train(self, hear: Callable[[str, Any], None]) -> TrainResult:
        if self._started:
            raise RuntimeError("this run has been started; make another Training, with resume=True to go on with it")
        self._started = True
        result, interrupted = _offshoot.train(self._settings, self._options, hear, self._stop)
        best = result.pop("best") or {}
        self.result = TrainResult(
            run=_Path(result.pop("run")),
            best_epoch=best.get("epoch"),
            best_val_accuracy=best.get("val_accuracy"),
            best_val_map=best.get("val_map"),
            best_val_mae=best.get("val_mae"),
            interrupted=interrupted,
            **result,
        )
        return self.result

    def _hear(self, kind: str, value: Any) -> None:
        if kind not in _EVENTS:
            tell(kind, value)
            return
        event = _EVENTS[kind](**value)
        if isinstance(event, Start):
            self._epochs = event.epochs
        if self._callback is not None:
            self._callback(event)


def train(
    data: Path | None = None,
    model: Path | None = None,
    *,
    weights: Path | None = None,
    out: Path = "run",
    recipe: Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 600,
    cache_dir: Path | None = None,
    cache_budget: int | str = "4GiB",
    callback: Callable[[Start | Step | Epoch], object] | None = None,
    **settings: Any,
) -> TrainResult:
    """Fine-tunes a pretrained classifier on a folder of pictures, and keeps everything in the folder ``out``.

    ``data`` has a folder of pictures for each class, or ``train`` and ``val`` folders that hold those. ``model`` is the name of an
    architecture, or an ONNX file or a ``.pt2``. ``weights`` is a file of pretrained weights or another run; without it, training starts from
    random weights. ``recipe`` is a file of settings, over which arguments take precedence. With ``resume`` the run in ``out`` goes on from
    its last checkpoint. Features of frozen layers are cached in ``cache_dir``, which runs share.

    ``callback`` is called with a :class:`Start`, with a :class:`Step` after each step, and with an :class:`Epoch` after each epoch. An
    exception in it stops the run after the current step, with a checkpoint, and is raised; so does Ctrl-C.

    >>> result = offshoot.train("data", "squeezenet1_1", out="other", epochs=1, size=32, seed=1)
    >>> result.epochs, result.interrupted
    (1, False)
    >>> offshoot.train("data", "squeezenet1_1", epoch=1)
    Traceback (most recent call last):
    ...
    TypeError: 'epoch' is no setting of training; the nearest is 'epochs', and offshoot.settings() has all of them
    """
    training = Training(
        data,
        model,
        weights=weights,
        out=out,
        recipe=recipe,
        resume=resume,
        checkpoint_every=checkpoint_every,
        cache_dir=cache_dir,
        cache_budget=cache_budget,
        callback=callback,
        **settings,
    )
    return training.run()


def _table() -> str:
    """The settings for people, by their groups."""
    lines = []
    for setting in settings():
        if setting["table"] is None and setting["name"] not in _ARGUMENTS:
            default = f" Default: {setting['default']}." if setting["default"] and not setting["off"] else ""
            lines.append(f"    {setting['name']}: {setting['help']}{default}")
        elif setting["table"] is not None:
            lines.append(f"    {setting['name']}: of the table {setting['table']}.")
    return "\n".join(lines)


if train.__doc__ is not None:  # there is none under python -OO
    train.__doc__ += "\n    Settings, of which those that are not given are decided as by ``offshoot train``:\n\n" + _table() + "\n"
