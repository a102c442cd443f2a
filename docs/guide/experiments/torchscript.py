"""What tracing and scripting keep of a PyTorch model, and why a scripted function cannot close over one. Needs torch.

    python docs/guide/experiments/torchscript.py            prints
    python docs/guide/experiments/torchscript.py --write    puts what it prints into the guide's pages
"""

import contextlib
import io
import sys
import warnings

import numpy
import torch
from blocks import fill
from torch import nn

warnings.filterwarnings("ignore")  # tracing says of each of these that it may be wrong


class Doubles(nn.Module):
    """Doubles its input when the mean is above zero: a branch that the data decides."""

    def forward(self, x):
        if float(x.mean()) > 0.0:
            return x * 2
        return x


class Flattens(nn.Module):
    """Writes the batch size into the reshape, as much old code does."""

    def forward(self, x):
        return x.reshape(int(x.shape[0]), -1)


def trace_against_script():
    above, below = torch.ones(1, 3), -torch.ones(1, 3)
    traced, scripted = torch.jit.trace(Doubles(), above), torch.jit.script(Doubles())
    print("a branch on data, traced with the other side:", traced(below).tolist())
    print("the same, scripted:                          ", scripted(below).tolist())
    assert traced(below).tolist() == (2 * below).tolist(), "a trace keeps the side that it saw"
    assert scripted(below).tolist() == below.tolist(), "a script keeps the branch"

    traced, scripted = torch.jit.trace(Flattens(), torch.ones(1, 2, 2)), torch.jit.script(Flattens())
    try:
        shape = list(traced(torch.ones(3, 2, 2)).shape)
    except RuntimeError as error:
        shape = str(error).splitlines()[-1]
    print("three pictures through a trace of one:", shape)
    print("three pictures through the script:    ", list(scripted(torch.ones(3, 2, 2)).shape))
    assert shape != [3, 4], "the trace has the batch of its example"


class Tries(nn.Module):
    """An exception that is caught."""

    def forward(self, x):
        try:
            return x * 2
        except RuntimeError:
            return x


class AsksNumPy(nn.Module):
    """Another library in the middle."""

    def forward(self, x):
        return x * torch.from_numpy(numpy.float32([2.0]))


class TakesAnything(nn.Module):
    """Keyword arguments of any name."""

    def forward(self, x, **options):
        return x * 2


def what_scripting_refuses():
    for module in [Tries(), AsksNumPy(), TakesAnything()]:
        traced = outcome(lambda: torch.jit.trace(module, torch.ones(1, 3)))
        scripted = outcome(lambda: torch.jit.script(module))
        print(f"{type(module).__name__}: traced: {traced or 'yes'}; scripted: {scripted or 'yes'}")
        assert traced is None and scripted is not None


def outcome(step):
    """What a step says when it fails, else None."""
    try:
        step()
    except Exception as error:  # PyTorch raises several kinds
        return next(line for line in str(error).splitlines() if line.strip()).strip()
    return None


def closing_over_a_model():
    model = nn.Linear(3, 2).eval()
    program = torch.jit.script(model)

    def over_program(x: torch.Tensor) -> torch.Tensor:
        return program(x).softmax(1)

    def over_model(x: torch.Tensor) -> torch.Tensor:
        return model(x).softmax(1)

    # A compiled model is refused: a function has nowhere to keep its parameters.
    refused = outcome(lambda: torch.jit.script(over_program))
    print("a function that closes over a compiled model:", refused)
    assert refused, "it compiled"

    # A plain one is worse where it compiles: the call goes back to Python, and saving fails.
    refused = outcome(lambda: torch.jit.script(over_model))
    refused = refused or outcome(lambda: torch.jit.save(torch.jit.script(over_model), io.BytesIO()))
    print("a function that closes over a plain model:   ", refused)
    assert refused, "it was saved"

    # What to write instead: a module that holds the model. Its parameters are then saved with it.
    class Classifier(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).softmax(1)

    classifier = torch.jit.script(Classifier(model))
    x = torch.ones(2, 3)
    assert torch.equal(classifier(x), over_model(x))
    assert list(classifier.state_dict()) == ["model.weight", "model.bias"]
    print("a module that holds it compiles, and saves", list(classifier.state_dict()))


def main():
    with torch.no_grad():
        print("PyTorch", torch.__version__.partition("+")[0])
        trace_against_script()
        what_scripting_refuses()
        closing_over_a_model()


if __name__ == "__main__":
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main()
    print(said.getvalue(), end="")
    if "--write" in sys.argv:
        fill("trace-or-script", "torchscript", "```text\n" + said.getvalue() + "```")
