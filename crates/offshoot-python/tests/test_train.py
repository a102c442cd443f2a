"""Training: settings, progress, and how it ends."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
from conftest import RECIPE

import offshoot

pytestmark = pytest.mark.filterwarnings("ignore::offshoot.OffshootWarning")


def weights(run):
    return (run / "last.safetensors").read_bytes()


def train(here, **changes):
    return offshoot.train(here / "data", "squeezenet1_1", size=32, **(RECIPE | changes))


def test_a_callback_hears_of_the_start_each_step_and_each_epoch(here):
    heard = []
    result = train(here, out="a", epochs=2, callback=heard.append)
    start, *rest = heard
    assert isinstance(start, offshoot.Start) and (start.epochs, start.train_images, start.val_images) == (2, 24, 8)
    steps = [event for event in rest if isinstance(event, offshoot.Step)]
    epochs = [event for event in rest if isinstance(event, offshoot.Epoch)]
    assert [(step.epoch, step.step) for step in steps] == [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert result.epochs == 2 and not result.interrupted and result.run.name == "a"
    assert [row["val_accuracy"] for row in result.history] == pytest.approx([e.val_accuracy for e in epochs])
    assert list(result.to_pandas()["epoch"]) == [1, 2]
    assert result.load().classes == ["circle", "square"]


def test_a_run_is_that_of_the_command(here):
    train(here, out="a", epochs=2)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (RECIPE | {"epochs": 2}).items()]
    command = [sys.executable, "-m", "offshoot", "train", "data", "--model", "squeezenet1_1", "--size", "32", "--out", "b", *flags]
    subprocess.run(command, check=True, capture_output=True)
    assert weights(here / "a") == weights(here / "b")


def test_an_iterator_goes_over_epochs(here):
    training = offshoot.Training("data", "squeezenet1_1", out="a", size=32, **(RECIPE | {"epochs": 3}))
    assert len(training) == 3
    assert [epoch.epoch for epoch in training] == [1, 2, 3]
    assert training.result.epochs == 3 and len(training) == 3
    with pytest.raises(RuntimeError, match="resume"):
        training.run()
    with pytest.raises(offshoot.TrainingError, match="a"):
        list(offshoot.Training("data", "squeezenet1_1", out="a", size=32, **RECIPE))


def test_leaving_the_loop_stops_the_run_which_goes_on_to_the_same_weights(here):
    training = offshoot.Training("data", "squeezenet1_1", out="a", size=32, **(RECIPE | {"epochs": 4}))
    for epoch in training:
        break
    assert training.result is not None
    result = offshoot.train(out="a", resume=True)
    assert result.epochs == 4 and not result.interrupted
    train(here, out="b", epochs=4)
    assert weights(here / "a") == weights(here / "b")


def test_an_exception_in_the_callback_stops_the_run_and_is_raised(here):
    def fail(event):
        if isinstance(event, offshoot.Step) and event.step == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        train(here, out="a", callback=fail)
    assert offshoot.train(out="a", resume=True).epochs == RECIPE["epochs"]


def test_stop_ends_the_run_and_says_so(here):
    training = offshoot.Training("data", "squeezenet1_1", out="a", size=32, callback=lambda _: training.stop(), **RECIPE)
    assert training.run().interrupted
    assert training.result.epochs < RECIPE["epochs"]


@pytest.mark.skipif(os.name == "nt", reason="there are no signals")
@pytest.mark.parametrize("loop", [False, True])
def test_ctrl_c_stops_the_run_with_a_checkpoint(here, loop):
    call = "list(offshoot.Training(*args, **how))" if loop else "offshoot.train(*args, **how)"
    script = textwrap.dedent(f"""
        import os, signal, offshoot
        def step(event):
            if isinstance(event, offshoot.Epoch) and event.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)
        args, how = ("data", "squeezenet1_1"), dict(out="a", size=32, callback=step, **{RECIPE | {"epochs": 1000}!r})
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted")
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=here, timeout=300)
    assert done.stdout == "interrupted\n", done.stderr
    heard = []
    training = offshoot.Training(out="a", resume=True, callback=lambda event: (heard.append(event), training.stop()))
    assert training.run().interrupted
    assert isinstance(heard[0], offshoot.Start) and heard[0].resumed_epochs >= 2


def test_unknown_settings_name_the_nearest(here):
    with pytest.raises(TypeError, match="'epoch' is no setting.*'epochs'"):
        offshoot.train("data", "squeezenet1_1", epoch=1)
    with pytest.raises(TypeError, match="'label_smooting'.*'label_smoothing'"):
        offshoot.Training("data", "squeezenet1_1", label_smooting=0.1)
    assert not (here / "run2").exists()


@pytest.mark.parametrize(
    ("setting", "kind", "text"),
    [
        ({"epochs": "many"}, ValueError, "epochs"),
        ({"epochs": 0}, offshoot.InputError, "epochs"),
        ({"epochs": 1.5}, TypeError, "epochs"),
        ({"optimizer": "adagrad"}, ValueError, "sgd, adam or adamw"),
        ({"lr": -1.0}, offshoot.InputError, "lr"),
        ({"flip": 2.0}, offshoot.InputError, "flip"),
        ({"mean": [1, 2]}, TypeError, "preprocessing"),
        ({"cache_budget": "lots"}, ValueError, "cache_budget"),
    ],
)
def test_settings_that_cannot_be_used_are_named(here, setting, kind, text):
    with pytest.raises(kind, match=text):
        offshoot.train("data", "squeezenet1_1", out="bad", **setting)
    assert not (here / "bad").exists()


def test_every_setting_has_a_name_and_may_be_given(here):
    names = {setting["name"]: setting for setting in offshoot.settings()}
    assert {"lr", "freeze", "unfreeze", "class_weights", "mixup", "fit", "size", "preprocessing"} <= set(names)
    train(
        here,
        out="a",
        epochs=1,
        freeze="none",
        lr_groups={"classifier": 1e-3},
        class_weights={"circle": 2},
        augment=False,
        balanced_sampling=True,
        fit="pad",
        amp="bf16",
        patience=5,
    )
    recipe = (here / "a" / "recipe.toml").read_text()
    for line in ('fit = "pad"', 'amp = "bf16"', "patience = 5", "circle = 2.0", 'augment = "off"'):
        assert line in recipe, line
    for name in names:
        assert f"    {name}: " in offshoot.train.__doc__ or name in ("data", "model", "weights"), name


def test_python_goes_on_while_a_run_does(here):
    training = offshoot.Training("data", "squeezenet1_1", out="a", size=32, **RECIPE)
    thread = threading.Thread(target=training.run)
    thread.start()
    counted = 0
    while thread.is_alive():
        counted += 1
        thread.join(0.001)
    assert training.result.epochs == RECIPE["epochs"] and counted > 10


def test_warnings_are_warnings(here):
    with pytest.warns(offshoot.OffshootWarning, match="random weights") as caught:
        train(here, out="a", epochs=1)
    assert any(warning.filename == __file__ for warning in caught)
