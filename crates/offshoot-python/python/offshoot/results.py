"""What functions of offshoot give: data classes, which ``to_pandas()`` turns into a frame of pandas."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import pandas

    from .model import Model


def _frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows)


@dataclass(frozen=True)
class Guess:
    """A class and its probability."""

    class_name: str
    """The class."""
    index: int
    """Its place among the outputs."""
    probability: float
    """The softmax of its logit, divided by the model's temperature where it has one; its sigmoid where a picture may have any number of
    classes; or what the model gives where that is a probability already."""


@dataclass(frozen=True)
class Prediction:
    """The best classes of a picture.

    >>> prediction = Prediction([Guess("cat", 3, 0.9), Guess("dog", 5, 0.1)], "cat.jpg")
    >>> prediction.best.class_name
    'cat'
    >>> print(prediction)
    cat.jpg: cat 90.0%, dog 10.0%
    """

    top: list[Guess]
    """The best classes, the best first."""
    path: str | None = None
    """The picture, where it was given as a path."""
    labels: list[str] | None = None
    """Of a model of several labels, the classes whose probability reaches their threshold."""
    rejected: bool | None = None
    """Whether the picture is of none of the classes, where a threshold was given and a picture has one class."""
    values: dict[str, float] | None = None
    """Of a model that predicts numbers, those by target, in their units; ``top`` is empty there."""

    @property
    def best(self) -> Guess:
        """The best class."""
        return self.top[0]

    def __str__(self) -> str:
        guesses = ", ".join(f"{guess.class_name} {100 * guess.probability:.1f}%" for guess in self.top)
        if self.values is not None:
            guesses = ", ".join(f"{target} {value:g}" for target, value in self.values.items())
        guesses = f"none of these; {guesses}" if self.rejected else guesses
        return guesses if self.path is None else f"{self.path}: {guesses}"

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each class, or for each target."""
        return _frame(_rows(self))


def _rows(prediction: Prediction) -> list[dict[str, Any]]:
    if prediction.values is not None:
        return [{"target": target, "value": value} for target, value in prediction.values.items()]
    return [asdict(guess) for guess in prediction.top]


class Predictions(list[Prediction]):
    """The predictions for several pictures, in their order."""

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each picture and class, or for each picture and target."""
        return _frame(
            [
                {"picture": number, "path": prediction.path, "rank": rank, **row}
                for number, prediction in enumerate(self)
                for rank, row in enumerate(_rows(prediction))
            ]
        )


@dataclass(frozen=True)
class Start:
    """A run starts, or goes on."""

    trainable_parameters: int
    frozen_parameters: int
    train_images: int
    val_images: int
    epochs: int
    """Epochs in all."""
    steps: int
    """Steps in an epoch."""
    resumed_epochs: int | None
    """Finished epochs of a run that goes on."""


@dataclass(frozen=True)
class Step:
    """A step was made."""

    epoch: int
    """The epoch it belongs to, from 1."""
    step: int
    """Which of the epoch's steps, from 1."""
    steps: int
    """Steps in an epoch."""
    loss: float
    """The loss before its update."""
    images_per_second: float
    remaining: float
    """How many seconds the rest of the run takes if it goes on like this."""


@dataclass(frozen=True)
class Epoch:
    """An epoch is finished: a row of ``results.csv``."""

    epoch: int
    """The epoch, from 1."""
    train_loss: float
    """Mean loss of the training steps."""
    train_accuracy: float
    """Fraction of the training pictures classified correctly, or whose labels are all right, during the steps."""
    val_loss: float | None
    """Mean loss on the validation pictures."""
    val_accuracy: float | None
    """Fraction of the validation pictures classified correctly; of several labels, the mean average precision."""
    learning_rate: float
    """The learning rate of the last step."""
    gradient_norm: float | None
    """Mean 2-norm of the gradient."""
    train_eval_accuracy: float | None
    """The same figure as ``val_accuracy`` of training pictures after the epoch, in evaluation mode."""
    skipped_steps: int
    """Steps that were left out because of a number that is not finite."""
    loss_scale: float | None
    """The loss scale after the epoch, where gradients are scaled."""
    images_per_second: float
    seconds: float
    """Seconds of training so far."""
    peak_mib: float | None
    """The peak memory so far."""


@dataclass(frozen=True)
class TrainResult:
    """What a training run has reached."""

    run: Path
    """The run directory."""
    epochs: int
    """Finished epochs."""
    best_epoch: int | None
    """The best of them; ``None`` when none is finished."""
    best_val_accuracy: float | None
    """The fraction of the validation pictures that it classifies correctly; ``None`` of several labels and of numbers."""
    best_val_map: float | None
    """Of several labels, the mean average precision on the validation pictures."""
    best_val_mae: float | None
    """Of numbers, the mean absolute error on the validation pictures, in their units."""
    trainable_parameters: int
    frozen_parameters: int
    seconds: float
    """Seconds of training, earlier sessions included."""
    peak_mib: float | None
    interrupted: bool
    """Whether it was stopped before the last epoch; ``resume=True`` goes on with it."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """The table of finished epochs, ``results.csv``, earlier sessions included."""
        with open(self.run / "results.csv", newline="", encoding="utf-8") as table:
            return [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(table)]

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each finished epoch."""
        return _frame(self.history)

    def load(self, **changes: Any) -> Model:
        """The model of the best epoch: see :func:`offshoot.load`."""
        from .model import load

        return load(self.run, **changes)


def _number(text: str) -> float | int | None:
    if text == "":
        return None
    number = float(text)
    return int(number) if number.is_integer() and "." not in text and "e" not in text.lower() else number


@dataclass(frozen=True)
class ClassResult:
    """How good a model is on the pictures of one class."""

    class_name: str
    images: int
    accuracy: float


@dataclass(frozen=True)
class Accepted:
    """What is accepted at a threshold of the score."""

    coverage: float
    """The fraction of the pictures whose score reaches the threshold."""
    accuracy: float | None
    """The fraction of these that is classified correctly; ``None`` where there are none."""
    threshold: float


@dataclass(frozen=True)
class Rejection(Accepted):
    """What is accepted at the reject threshold of a model."""

    score: str
    """What is compared with the threshold: probability or energy."""
    precision: float
    """The fraction of the accepted pictures that was to be right when the threshold was fitted."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on pictures whose classes are known."""

    accuracy: float
    """The fraction of the pictures classified correctly."""
    top5: float
    """The fraction of the pictures whose class is among the best five."""
    loss: float
    """The mean cross entropy of the logits as they are."""
    ece: float
    """The expected calibration error of the calibrated probabilities, in 15 ranges."""
    brier: float
    """The mean Brier score of the calibrated probabilities, 0 to 2."""
    coverage: list[Accepted]
    """The accuracy on the pictures with the highest scores, for some parts of them."""
    images: int
    """The pictures that were seen."""
    skipped: int
    """The pictures that could not be read."""
    per_class: list[ClassResult]
    """The classes that have pictures."""
    temperature: float | None = None
    """What the model divides logits by for calibrated probabilities; ``None`` where it has no temperature."""
    rejection: Rejection | None = None
    """What the model's own reject threshold accepts, where it has one."""

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each class."""
        return _frame([asdict(result) for result in self.per_class])


@dataclass(frozen=True)
class LabelResult:
    """How well a model of several labels tells one class."""

    class_name: str
    images: int
    """The pictures that have it."""
    ap: float | None
    """The average precision; ``None`` where no picture has it."""
    auroc: float | None
    """The area under the ROC curve; ``None`` where all pictures have it, or none."""
    precision: float
    recall: float
    f1: float
    threshold: float
    """The probability from which on a picture is said to have it."""


@dataclass(frozen=True)
class LabelEvaluation:
    """How good a model of several labels is on pictures whose labels are known."""

    map: float
    """The mean of the average precisions of the classes that pictures have."""
    f1_micro: float
    f1_macro: float
    auroc: float | None
    """The mean area under the ROC curves."""
    exact: float
    """The fraction of the pictures whose labels are all right."""
    loss: float
    """The mean binary cross entropy."""
    images: int
    """The pictures that were seen."""
    skipped: int
    """The pictures that could not be read."""
    per_class: list[LabelResult]
    """All classes."""

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each class."""
        return _frame([asdict(result) for result in self.per_class])


@dataclass(frozen=True)
class TargetResult:
    """How near predictions come to one target."""

    target: str
    mae: float
    """The mean absolute error, in the unit of the target."""
    rmse: float
    """The root of the mean squared error, in the unit of the target."""
    r2: float | None
    """The coefficient of determination; ``None`` where all pictures have the same target."""


@dataclass(frozen=True)
class TargetEvaluation:
    """How good a model that predicts numbers is on pictures whose numbers are known."""

    mae: float
    """The mean of the targets' mean absolute errors."""
    rmse: float
    """The mean of the targets' roots of mean squared errors."""
    r2: float | None
    """The mean of the targets' coefficients of determination."""
    loss: float
    """The mean of the loss that was minimized, in standard deviations of the training pictures."""
    images: int
    """The pictures that were seen."""
    skipped: int
    """The pictures that could not be read."""
    per_target: list[TargetResult]
    """All targets."""

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each target."""
        return _frame([asdict(result) for result in self.per_target])


@dataclass(frozen=True)
class Exported:
    """A file, or a folder of them, that was written, and the proof."""

    format: str
    path: Path
    bytes: int
    max_abs_diff: float
    """The largest difference of a logit between the file, read again, and the model."""
    top1_agreement: float
    """The fraction of the pictures whose best class is the same."""
    accuracy: float | None = None
    """For int8 with calibration, the fraction of the pictures that it gets right, where it was measured."""
    accuracy_before: float | None = None
    """The same of the float model."""
    map: float | None = None
    """In the place of the accuracy, of several labels the mean average precision."""
    map_before: float | None = None
    """The same of the float model."""
    r2: float | None = None
    """In the place of the accuracy, of numbers the mean coefficient of determination."""
    r2_before: float | None = None
    """The same of the float model."""
    engine: Path | None = None
    """The engine of TensorRT, where there is a program to build it."""
    command: str | None = None
    """What builds the engine of TensorRT."""

    def to_pandas(self) -> pandas.DataFrame:
        """One row."""
        return _frame([asdict(self)])


@dataclass(frozen=True)
class Quantized:
    """A model in int8."""

    path: Path
    bytes: int
    bytes_before: int
    """The size of the same model in float."""
    accuracy: float | None
    """The fraction of the pictures that it gets right, where it was measured."""
    accuracy_before: float | None
    """The same of the float model."""
    kept_float: list[str]
    """The operators that stayed in float, the costliest first."""
    map: float | None = None
    """In the place of the accuracy, of several labels the mean average precision."""
    map_before: float | None = None
    """The same of the float model."""
    r2: float | None = None
    """In the place of the accuracy, of numbers the mean coefficient of determination."""
    r2_before: float | None = None
    """The same of the float model."""

    def to_pandas(self) -> pandas.DataFrame:
        """One row."""
        return _frame([asdict(self)])


@dataclass(frozen=True)
class Comparison:
    """How far the outputs of two models lie apart. As a condition it is whether they match."""

    ok: bool
    """Whether the largest difference is below the tolerance."""
    max_abs_diff: float
    """The largest difference of two logits."""
    max_rel_diff: float
    """The same relative to the largest logit."""
    cosine: float
    """The smallest cosine between the logits of a picture."""
    top1_agreement: float
    """The fraction of the pictures whose best class is the same."""
    batches: list[int]
    """The sizes of the batches that were run."""
    inputs: int
    """The pictures or inputs that were run; 0 where the two cannot be compared."""
    tolerance: float
    """The difference that was allowed, relative to the largest logit."""

    def __bool__(self) -> bool:
        return self.ok

    def to_pandas(self) -> pandas.DataFrame:
        """One row."""
        return _frame([asdict(self)])


@dataclass(frozen=True)
class Pulled:
    """Published weights."""

    path: Path
    bytes: int
    sha256: str
    pinned_digits: int
    """How many digits of the hash their authors publish."""
    downloaded: bool
    """Whether they were not there already."""


StateDict = dict[str, "numpy.ndarray[Any, Any]"]
"""Parameters by the keys of PyTorch."""
