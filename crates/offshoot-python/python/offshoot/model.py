"""Models that classify pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from . import functions
from ._offshoot import Network
from ._pictures import Picture, is_several, native
from ._source import Path, path as _path, source as _source
from ._told import tell
from .results import (
    Comparison,
    Evaluation,
    Exported,
    Guess,
    LabelEvaluation,
    Prediction,
    Predictions,
    Quantized,
    StateDict,
    TargetEvaluation,
)

if TYPE_CHECKING:
    import numpy


def load(
    path: Path | None = None,
    *,
    model: str | None = None,
    weights: Path | None = None,
    last: bool = False,
    size: int | None = None,
    fit: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Reads a model.

    ``path`` is a run directory (``last`` takes its last checkpoint in place of its best model), a ``.safetensors`` of offshoot, an
    ``.onnx``, a TorchScript ``.pt``, a ``.pt2``, or an ``.mlpackage`` or ``.tflite`` of offshoot. Without it, ``model`` is the name of an
    architecture and ``weights`` its file, as torchvision or timm writes it. ``size``, ``fit`` ("crop", "pad" or "stretch"), ``mean`` and
    ``std`` change the preprocessing that comes with the model.

    >>> offshoot.load("run").classes
    ['circle', 'square']
    >>> offshoot.load("nowhere")
    Traceback (most recent call last):
    ...
    offshoot.errors.FileError: nowhere: cannot open: No such file or directory (os error 2)
    """
    source = _source(path, model=model, weights=weights, last=last, size=size, fit=fit, mean=mean, std=std)
    return Model(Network.open(source, tell), source)


def from_state_dict(
    architecture: str,
    state: Mapping[str, Any],
    classes: Iterable[str] = (),
    *,
    size: int | None = None,
    fit: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """A model of an architecture from parameters in memory: arrays of NumPy, or tensors of PyTorch.

    The keys are those of torchvision or timm, and the head is the one that the architecture is published with, for any number of
    classes::

        network = torchvision.models.resnet18(num_classes=2)
        model = offshoot.from_state_dict("resnet18", network.state_dict(), ["cat", "dog"])

    :meth:`Model.save` writes it to a file, which :func:`offshoot.train` takes as ``weights``.
    """
    arrays = {name: _floats(name, value) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    changes = _source(None, size=size, fit=fit, mean=mean, std=std)
    return Model(Network.of_state_dict(architecture, arrays, list(classes), changes), None)


def _floats(name: str, value: Any) -> Any:
    import numpy

    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    array = numpy.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: an array of {array.dtype} holds no numbers")
    return numpy.ascontiguousarray(array, dtype=numpy.float32)


class Model:
    """A classifier of pictures, with the preprocessing and the classes that it comes with. :func:`load` makes one.

    Threads may share it: the interpreter lock is released while pictures are decoded and the network runs.
    """

    def __init__(self, network: Network, source: dict[str, Any] | None) -> None:
        self._network = network
        self._source = source
        self._upright = bool(network.preprocessing.get("exif_rotation", True))

    @property
    def classes(self) -> list[str]:
        """The classes, in the order of the outputs."""
        return self._network.classes

    @property
    def architecture(self) -> str | None:
        """The name of the architecture; ``None`` for a graph that was read from a file."""
        return self._network.architecture

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How pictures become inputs: size, fit, interpolation, mean, std and so on."""
        return self._network.preprocessing

    def __repr__(self) -> str:
        size = self.preprocessing["size"]
        return f"<offshoot.Model {self.architecture or 'from a file'}: {len(self.classes)} classes, {size} x {size} pixels>"

    @overload
    def predict(
        self, picture: list[Any] | tuple[Any, ...], top: int = ..., threshold: float | str | None = ...
    ) -> Predictions: ...
    @overload
    def predict(self, picture: Picture, top: int = ..., threshold: float | str | None = ...) -> Prediction: ...

    def predict(self, picture: Any, top: int = 5, threshold: float | str | None = None) -> Any:
        """The best classes of a picture, at most ``top`` of them.

        A picture is a path, the bytes of a JPEG or other file, a picture of Pillow, or an array of NumPy, [height, width, 3] of uint8. It is
        prepared as the model wants it. Of a list of pictures it gives a list.

        With a ``threshold``, a picture whose highest probability is below it has ``rejected``: it is of none of the classes. "auto" takes
        the score and the threshold that were fitted when the model was trained. Of a model of several labels, ``threshold`` is the
        probability from which on a picture has a class, and "auto", the default there, the fitted ones. A model that predicts numbers
        has no ``threshold``, and its predictions have ``values`` in place of classes.

        >>> model = offshoot.load("run")
        >>> model.predict("data/val/circle/0.png", top=1).best.class_name
        'circle'
        >>> len(model.predict(["data/val/circle/0.png", "data/val/square/0.png"]))
        2
        """
        if top < 1:
            raise ValueError(f"top: {top} is no number from 1")
        pictures = picture if is_several(picture) else [picture]
        outputs, probabilities, rejected = self._run(pictures, None if threshold is None else str(threshold))
        found = Predictions(
            Prediction(
                self._best(row, chances, top), _name(given), self._labels(chances, threshold), of_none, self._values(row)
            )
            for given, row, chances, of_none in zip(pictures, outputs, probabilities, rejected)
        )
        return found if is_several(picture) else found[0]

    def _best(self, outputs: numpy.ndarray[Any, Any], probabilities: numpy.ndarray[Any, Any], top: int) -> list[Guess]:
        if self.task == "regression":
            return []
        # As the command orders them: of equal outputs the first class.
        order = (-outputs).argsort(kind="stable")[:top]
        classes = self.classes
        return [Guess(classes[i], int(i), float(probabilities[i])) for i in order]

    def _values(self, outputs: numpy.ndarray[Any, Any]) -> dict[str, float] | None:
        if self.task != "regression":
            return None
        return {target: float(value) for target, value in zip(self.classes, outputs)}

    def _labels(self, probabilities: numpy.ndarray[Any, Any], threshold: float | str | None) -> list[str] | None:
        thresholds = self.thresholds
        if thresholds is None:
            return None
        if threshold not in (None, "auto"):
            thresholds = [float(threshold)] * len(thresholds)
        return [name for name, p, least in zip(self.classes, probabilities, thresholds) if p >= least]

    @property
    def task(self) -> str:
        """What a picture has: "single", one class; "multi", any number of classes; "regression", numbers, whose names are ``classes``."""
        return self._network.task

    @property
    def thresholds(self) -> list[float] | None:
        """Of a model of several labels, the probability from which on a picture has each class."""
        return self._network.thresholds

    @property
    def temperature(self) -> float | None:
        """What logits are divided by before their softmax is taken; ``None`` where none was fitted."""
        return self._network.temperature

    @property
    def rejection(self) -> dict[str, Any] | None:
        """The ``score``, the ``threshold`` and the ``precision`` by which "auto" rejects pictures; ``None`` where nothing was fitted."""
        return self._network.rejection

    def logits(self, picture: Any) -> numpy.ndarray[Any, Any]:
        """What the network gives for a picture, or for a list of them: logits [classes] or [pictures, classes] of float32, unless its
        graph ends in probabilities.

        >>> offshoot.load("run").logits("data/val/circle/0.png").shape
        (2,)
        """
        outputs, _, _ = self._run(picture if is_several(picture) else [picture])
        return outputs if is_several(picture) else outputs[0]

    def probabilities(self, picture: Any) -> numpy.ndarray[Any, Any]:
        """The probability of each class, [classes] or [pictures, classes] of float64, calibrated where the model has a temperature."""
        _, probabilities, _ = self._run(picture if is_several(picture) else [picture])
        return probabilities if is_several(picture) else probabilities[0]

    def _run(self, pictures: Sequence[Any], threshold: str | None = None) -> tuple[Any, Any, list[bool | None]]:
        return self._network.run([native(picture, self._upright) for picture in pictures], threshold)

    def state_dict(self) -> StateDict:
        """The parameters by the keys of PyTorch, as arrays of NumPy.

        A network of torchvision takes them::

            network.load_state_dict({name: torch.from_numpy(a) for name, a in model.state_dict().items()})
        """
        return self._network.state_dict()

    def save(self, path: Path) -> None:
        """Writes the model to a ``.safetensors``: the parameters by the keys of PyTorch, with classes and preprocessing in the metadata.

        :func:`load` reads it, ``safetensors.torch.load_file`` gives its parameters to PyTorch, and :func:`offshoot.train` takes it as
        ``weights``. A model that was read from a graph has no architecture; :meth:`export` it.
        """
        if self.architecture is None:
            raise ValueError("a model without an architecture has a graph, which a .safetensors does not hold; export it")
        self._network.save(_path(path))

    def _named(self, what: str) -> dict[str, Any]:
        if self._source is None:
            raise ValueError(f"{what} works on files; save the model, and load it from there")
        return self._source

    def export(self, format: str | Sequence[str] = "onnx", **options: Any) -> Any:
        """Writes the model in another format, and compares what was written with it: see :func:`offshoot.export`."""
        return functions.export(self._named("export"), format, **options)

    def quantize(self, mode: str = "static", **options: Any) -> Quantized:
        """Quantizes the model to int8: see :func:`offshoot.quantize`."""
        return functions.quantize(self._named("quantize"), mode, **options)

    def evaluate(self, data: Path | None = None, **options: Any) -> Evaluation | LabelEvaluation | TargetEvaluation:
        """Measures the model on pictures whose classes are known: see :func:`offshoot.evaluate`."""
        return functions.evaluate(self._named("evaluate"), data, **options)

    def verify(self, file: Path, **options: Any) -> Comparison:
        """Compares a file with the model: see :func:`offshoot.verify`."""
        return functions.verify(file, self._named("verify"), **options)


def _name(given: Any) -> str | None:
    import os

    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
