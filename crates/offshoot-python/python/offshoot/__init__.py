"""offshoot takes a pretrained image classifier, fine-tunes it on your pictures, and ships it, with the proof that the shipped file
matches the trained model.

Train, look, ship::

    import offshoot

    result = offshoot.train("photos", "mobilenet_v2", weights="mobilenet_v2.pth", epochs=10)
    model = result.load()
    print(model.predict("cat.jpg", top=3))
    model.export("onnx")

A model is what :func:`load` takes: a run directory, a ``.safetensors`` of offshoot, an ``.onnx``, a TorchScript ``.pt``, a ``.pt2``, or an
architecture by name with its weights. Errors are of the classes in :mod:`offshoot.errors`, with the messages of the command
``offshoot``; what may spoil a result is a warning of the class :class:`OffshootWarning`.

The interpreter lock is released while something is computed, so that threads may share a model. Ctrl-C stops a training after its
current step, with a checkpoint from which ``resume=True`` goes on.
"""

from ._offshoot import __version__
from .errors import (
    DataError,
    FileError,
    InputError,
    ModelError,
    NetworkError,
    OffshootError,
    OffshootWarning,
    PictureError,
    QuantizationError,
    TrainingError,
)
from .functions import configure, evaluate, export, inspect, models, pull, quantize, verify
from .model import Model, from_state_dict, load
from .results import (
    Accepted,
    ClassResult,
    Comparison,
    Epoch,
    Evaluation,
    LabelEvaluation,
    LabelResult,
    Exported,
    Guess,
    Prediction,
    Predictions,
    Pulled,
    Quantized,
    Rejection,
    Start,
    Step,
    TargetEvaluation,
    TargetResult,
    TrainResult,
)
from .training import Training, settings, train

__all__ = [
    "Accepted",
    "ClassResult",
    "Comparison",
    "DataError",
    "Epoch",
    "Evaluation",
    "LabelEvaluation",
    "LabelResult",
    "Exported",
    "FileError",
    "Guess",
    "InputError",
    "Model",
    "ModelError",
    "NetworkError",
    "OffshootError",
    "OffshootWarning",
    "PictureError",
    "Prediction",
    "Predictions",
    "Pulled",
    "QuantizationError",
    "Quantized",
    "Start",
    "Step",
    "TargetEvaluation",
    "TargetResult",
    "TrainResult",
    "Training",
    "TrainingError",
    "__version__",
    "configure",
    "evaluate",
    "export",
    "from_state_dict",
    "inspect",
    "load",
    "models",
    "pull",
    "quantize",
    "settings",
    "train",
    "verify",
]
