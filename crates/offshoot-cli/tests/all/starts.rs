//! How runs start, stop, go on, and what is said of those that are not finished.

#![cfg(unix)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::support::{CLASSES, SMALL, Said, World, data};
use offshoot_formats::safetensors;
use offshoot_graph::Weights;

fn fine(world: &World, command: &str) -> Said {
    let said = world.run(command);
    assert_eq!(said.code, Some(0), "{command}: {said:?}");
    said
}

/// The error of a command.
fn refused(world: &World, command: &str) -> String {
    let said = world.run(command);
    assert_eq!(said.code, Some(2), "{command}: {said:?}");
    said.err
}

fn weights(world: &World, file: &str) -> Weights {
    safetensors::read(&world.path(file)).unwrap().weights
}

#[test]
fn a_picture_left_over_joins_the_batch_before_it() {
    let world = World::new("leftover");
    // Nine to train with, whose last feature map has one value a channel.
    data(&world.path("d"), &CLASSES, 4);
    let said = fine(&world, &format!("train d {SMALL} --epochs 2 --out run"));
    assert!(said.err.contains("9 training pictures in batches of 8 leave one picture over"), "{}", said.err);
    assert_eq!(said.err.matches("leave one picture over").count(), 1);
    // Where no batch norm trains, or none has one value a channel, a batch of one is fine.
    for flags in [
        "--size 32 --freeze backbone --out head",
        "--size 32 --freeze-norms on --out norms",
        "--size 64 --out large",
    ] {
        let said = fine(&world, &format!("train d --model mobilenet_v2 --batch-size 8 --epochs 1 {flags}"));
        assert!(!said.err.contains("leave one picture over"), "{}", said.err);
    }
    fine(&world, "lr-find d --model mobilenet_v2 --size 32 --batch-size 8 --steps 20");
    let single = "train d --model mobilenet_v2 --size 32 --batch-size 1 --epochs 1";
    let error = refused(&world, &format!("{single} --out no"));
    assert!(error.contains("--freeze-norms on") && error.contains("a larger --batch-size"), "{error}");
    assert!(!world.path("no").exists());
    fine(&world, &format!("{single} --freeze-norms on --out one"));
}

#[test]
fn a_run_without_a_checkpoint_is_overwritten_and_nothing_else_is() {
    let world = World::new("abandoned");
    data(&world.path("d"), &CLASSES, 4);
    let train = format!("train d {SMALL} --freeze backbone --epochs 1");
    fine(&world, &format!("{train} --out whole"));
    // As a run that is killed before its first checkpoint leaves it.
    let abandon = |run: &str| {
        for name in ["recipe.toml", "pictures.csv", "groups.csv", "last.safetensors"] {
            world.write(&format!("{run}/{name}"), world.read(&format!("whole/{name}")));
        }
    };
    abandon("again");
    fine(&world, &format!("{train} --seed 3 --out again"));
    assert!(world.text("again/recipe.toml").contains("seed = 3"));
    abandon("resumed");
    fine(&world, &format!("{train} --seed 3 --resume --out resumed"));
    assert!(world.text("resumed/recipe.toml").contains("seed = 3"));
    // Without settings, those of the run.
    abandon("same");
    fine(&world, "train --resume --out same");
    assert_eq!(world.read("same/best.safetensors"), world.read("whole/best.safetensors"));

    abandon("foreign");
    world.write("foreign/note.txt", "mine");
    let error = refused(&world, &format!("{train} --out foreign"));
    assert!(error.contains("foreign: it is not empty") && !error.contains("--resume"), "{error}");
    refused(&world, &format!("{train} --resume --out foreign"));
    assert_eq!((world.text("foreign/note.txt").as_str(), world.names("foreign").len()), ("mine", 5));
    // A model that was finished, whose checkpoint is gone.
    fs::remove_file(world.path("whole/last.state.safetensors")).unwrap();
    let _ = fs::remove_file(world.path("whole/previous.state.safetensors"));
    let best = world.read("whole/best.safetensors");
    refused(&world, &format!("{train} --out whole"));
    refused(&world, &format!("{train} --resume --out whole"));
    assert!(world.read("whole/best.safetensors") == best);
    assert!(refused(&world, &format!("{train} --out again")).contains("give --resume"));
    for run in ["absent", "d"] {
        let error = refused(&world, &format!("train --resume --out {run}"));
        assert!(error.contains(&format!("{run}: there is no run to resume")), "{error}");
    }
}

#[test]
fn a_finished_run_can_train_longer() {
    let world = World::new("longer");
    data(&world.path("d"), &CLASSES, 5);
    let train = format!("train d {SMALL} --schedule constant --warmup 0 --optimizer sgd --lr 0.01");
    fine(&world, &format!("{train} --epochs 4 --out four"));
    fine(&world, &format!("{train} --epochs 2 --out two"));
    let said = fine(&world, "train --resume --epochs 4 --out two");
    assert!(said.err.contains("2 epochs are finished, and the run goes on to 4"), "{}", said.err);
    assert!(weights(&world, "two/last.safetensors") == weights(&world, "four/last.safetensors"));
    assert_eq!(world.text("two/results.csv").lines().count(), 5);
    // What it is now is what counts from now on.
    let again = fine(&world, "train --resume --epochs 4 --out two --json");
    assert_eq!(again.json()["epochs"], 4);
    let error = refused(&world, "train --resume --epochs 3 --out two");
    assert!(error.contains("`epochs` is 4 there and 3 here"), "{error}");
    let error = refused(&world, "train --resume --epochs 6 --lr 0.5 --out two");
    assert!(error.contains("`lr` is"), "{error}");

    // With stages, whose epochs stay; the best epoch stays the best while none is better.
    let staged = "--unfreeze features.18@50% --progressive 32@0% --progressive 64@50% --average-last 2";
    fine(
        &world,
        &format!("train d --model mobilenet_v2 --size 64 --batch-size 8 {staged} --epochs 2 --out staged"),
    );
    let before = world.text("staged/results.csv");
    fine(&world, "train --resume --epochs 5 --out staged");
    assert!(world.text("staged/results.csv").starts_with(&before));
    assert!(
        world.text("staged/recipe.toml").contains("features.18@20%"),
        "{}",
        world.text("staged/recipe.toml")
    );

    // Early stopping has ended it: the result again, or more epochs.
    let patient = format!("train d {SMALL} --freeze backbone --lr 1e-9 --patience 1 --epochs 6 --out early");
    let ended = fine(&world, &format!("{patient} --json")).json()["epochs"].as_u64().unwrap();
    assert!(ended < 6);
    assert_eq!(fine(&world, &format!("{patient} --resume --json")).json()["epochs"], ended);
    let longer =
        fine(&world, "train --resume --epochs 7 --out early --json").json()["epochs"].as_u64().unwrap();
    assert!(longer > ended, "{longer}");
}

#[test]
fn weights_of_a_run_keep_their_head_for_the_same_classes() {
    let world = World::new("head");
    data(&world.path("d"), &CLASSES, 4);
    data(&world.path("two"), &CLASSES[..2], 4);
    fine(&world, &format!("train d {SMALL} --head mlp:8 --fit pad --freeze backbone --epochs 1 --out run"));
    // At a rate that changes nothing.
    let still =
        "--model mobilenet_v2 --freeze backbone --epochs 1 --lr 1e-30 --weight-decay 0 --batch-size 8";
    let [first, best] = ["run", "run/best.safetensors"].map(|from| {
        let out = from.replace(['/', '.'], "-");
        let said = fine(&world, &format!("train d {still} --weights {from} --out {out}-kept"));
        assert!(said.err.contains("the head of these weights is kept"), "{}", said.err);
        let recipe = world.text(&format!("{out}-kept/recipe.toml"));
        assert!(
            recipe.contains("mlp:8") && recipe.contains("size = 32") && recipe.contains("fit = \"pad\""),
            "{recipe}"
        );
        weights(&world, &format!("{out}-kept/best.safetensors"))
    });
    assert!(first == best && best == weights(&world, "run/best.safetensors"));
    // Other classes, or another head.
    for (name, flags) in [("classes", "two"), ("linear", "d --head linear")] {
        let said =
            fine(&world, &format!("train {flags} {still} --weights run/best.safetensors --out {name}"));
        assert!(said.err.contains("the head is a new one"), "{}", said.err);
    }
    assert_eq!(weights(&world, "classes/best.safetensors")["classifier.1.3.weight"].shape(), [2, 8]);
}

/// Starts a run, sends it a signal once `wanted` is in a line of what it says, and gives the exit code and all that it said.
fn signalled(world: &World, command: &str, wanted: &str, signal: &str) -> (Option<i32>, String) {
    let mut child = world.command(command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut lines, mut err) = (BufReader::new(child.stderr.take().unwrap()), String::new());
    while !err.contains(wanted) {
        assert!(lines.read_line(&mut err).unwrap() > 0, "{err}");
    }
    send(signal, child.id());
    lines.read_to_string(&mut err).unwrap();
    (child.wait().unwrap().code(), err)
}

fn send(signal: &str, process: u32) {
    let kill = std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {process}")]).status();
    assert!(kill.unwrap().success());
}

#[test]
fn a_run_that_a_signal_stops_is_not_done() {
    let world = World::new("signals");
    data(&world.path("d"), &CLASSES, 40);
    let train = "train d --model mobilenet_v2 --size 32 --batch-size 2 --epochs 50 --threads 1";
    // Whoever runs the tests may have told them to ignore a terminal that closes, and with them what they start.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let hang_up = ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 0);
    let signals = [("INT", 130), ("TERM", 143)].into_iter().chain(hang_up.then_some(("HUP", 129)));
    for (signal, code) in signals {
        let (found, err) = signalled(&world, &format!("{train} --out {signal}"), "pictures", signal);
        assert_eq!(found, Some(code), "{err}");
        assert!(err.contains(&format!("go on with: offshoot train --resume --out {signal}")), "{err}");
    }
    // No epoch is finished: that is no model.
    for command in [
        "eval INT d",
        "predict INT d",
        "export INT --format onnx",
        "quantize INT --mode dynamic",
        "inspect INT",
        "verify INT --against INT",
    ] {
        let error = refused(&world, command);
        assert!(error.contains("no epoch of this run is finished") && error.contains("--last"), "{error}");
    }
    fine(&world, "predict INT d --last");
    fine(&world, "inspect INT --last");
    let error = refused(&world, "predict INT/last.safetensors d --last");
    assert!(error.contains("--last is for a run"), "{error}");

    // After an epoch it is the best so far.
    let (code, err) = signalled(&world, &format!("{train} --out some"), "epoch   1 ", "TERM");
    assert_eq!(code, Some(143), "{err}");
    let said = fine(&world, "predict some d");
    assert!(said.err.contains("some: this run is not finished (1 of 50 epochs)"), "{}", said.err);
    let whole = World::trained();
    assert!(!fine(whole, "predict run d").err.contains("not finished"));
}

#[test]
fn a_command_that_a_signal_ends_leaves_nothing_half_written() {
    let world = World::new("ended");
    data(&world.path("d"), &CLASSES, 4);
    fine(&world, "train d --model resnet18 --size 32 --freeze backbone --epochs 1 --out run");
    let mut met = false;
    for attempt in 0..5 {
        let out = format!("out{attempt}");
        fs::create_dir(world.path(&out)).unwrap();
        let command = format!("export run --format onnx,torchscript,coreml --out {out}");
        let mut child = world.command(&command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Something stands there under a temporary name.
        let temporary = || world.names(&out).iter().any(|name| name.ends_with(".tmp"));
        let mut code = None;
        while code.is_none() && !temporary() {
            code = child.try_wait().unwrap();
        }
        if code.is_none() {
            send("TERM", child.id());
        }
        let code = child.wait().unwrap().code();
        assert!(!temporary(), "{:?}", world.names(&out));
        // Files that have their names are whole.
        for name in world.names(&out).iter().filter(|name| name.ends_with(".onnx") || name.ends_with(".pt")) {
            fine(&world, &format!("inspect {out}/{name}"));
        }
        met |= code == Some(143);
    }
    assert!(met, "no signal came in time");
}

#[test]
fn a_run_is_measured_on_its_validation_pictures() {
    let world = World::new("eval");
    data(&world.path("d"), &CLASSES, 8);
    let train = format!("train d {SMALL} --freeze backbone --lr 0.01 --epochs 3 --out run --json");
    let trained = fine(&world, &train).json();
    let own = world.json("eval run");
    assert_eq!(own["accuracy"], trained["best"]["val_accuracy"]);
    assert_eq!(own["images"], 6);
    assert_eq!(world.json("eval run/best.safetensors"), own);
    let said = fine(&world, "eval run d");
    assert!(said.err.contains("d: the model was trained with 18 of these 24 pictures"), "{}", said.err);
    // Copies under other names are the same pictures.
    for (index, (class, _)) in CLASSES.iter().enumerate() {
        fs::create_dir_all(world.path(&format!("copies/{class}"))).unwrap();
        for (number, picture) in world.names(&format!("d/{class}")).iter().enumerate() {
            let to = world.path(&format!("copies/{class}/x{index}{number}.bmp"));
            fs::copy(world.path(&format!("d/{class}/{picture}")), to).unwrap();
        }
    }
    let said = fine(&world, "eval run copies");
    assert!(said.err.contains("trained with 18 of these 24 pictures"), "{}", said.err);
    // Others are others.
    for (class, colour) in CLASSES {
        let folder = world.path(&format!("new/{class}"));
        fs::create_dir_all(&folder).unwrap();
        (100..103).for_each(|n| {
            fs::write(folder.join(format!("{n}.bmp")), crate::support::bmp(colour, n)).unwrap()
        });
    }
    assert!(!fine(&world, "eval run new").err.contains("trained with"));
    assert!(refused(&world, "eval m.onnx").contains("give DATA"));
    fs::rename(world.path("d"), world.path("moved")).unwrap();
    let error = refused(&world, "eval run");
    assert!(error.contains("6 of the 6 validation pictures") && error.contains("give DATA"), "{error}");
    let said = fine(&world, "eval run moved");
    assert!(said.err.contains("trained with 18 of these 24 pictures"), "{}", said.err);
}
