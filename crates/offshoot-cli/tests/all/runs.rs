//! Runs on data that changes, files that are damaged, folders that are somebody's, and numbers that nobody means.

use std::fs;
use std::path::Path;

use crate::support::{CLASSES, SMALL, Said, World, bmp, data};

const TRAIN: &str = "--freeze backbone --augment off";

/// All files of a folder with their content.
fn content(world: &World, folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in world.names(folder) {
        let below = format!("{folder}/{name}");
        match world.path(&below).is_dir() {
            true => all.extend(content(world, &below)),
            false => all.push((below.clone(), world.read(&below))),
        }
    }
    all
}

#[track_caller]
fn refused(said: &Said, parts: &[&str]) {
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(parts.iter().all(|part| said.err.contains(part)), "{parts:?}: {}", said.err);
    assert_eq!(said.err.matches("error:").count(), 1, "{}", said.err);
}

#[test]
fn a_run_is_resumed_with_the_pictures_that_it_was_started_with() {
    let world = World::new("changed");
    data(&world.path("d"), &CLASSES, 6);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let before = content(&world, "run");
    let resume = || world.run("train --resume --epochs 2 --out run");
    let whole = world.read("d/red/03.bmp");

    // The same size: only the bytes tell.
    let mut edited = whole.clone();
    *edited.last_mut().unwrap() ^= 1;
    world.write("d/red/03.bmp", &edited);
    refused(&resume(), &["pictures.csv", "1 differ", "d/red/03.bmp", "other content of the same size"]);
    // Another size.
    world.write("d/red/03.bmp", [&whole[..], b"more"].concat());
    refused(&resume(), &["d/red/03.bmp", "had 1494 bytes and has 1498 now"]);
    world.write("d/red/03.bmp", &whole);

    // A class under another name, two that change places, a picture more and one less, one in another class.
    let rename = |from: &str, to: &str| fs::rename(world.path(from), world.path(to)).unwrap();
    rename("d/red", "d/rose");
    refused(&resume(), &["12 differ", "d/red/", "is not there any more", "and 7 more"]);
    rename("d/rose", "d/red");
    rename("d/red", "x");
    rename("d/blue", "d/red");
    rename("x", "d/blue");
    refused(&resume(), &["12 differ", "d/blue/00.bmp", "other content"]);
    rename("d/red", "x");
    rename("d/blue", "d/red");
    rename("x", "d/blue");
    world.write("d/red/99.bmp", bmp([200, 40, 40], 99));
    refused(&resume(), &["d/red/99.bmp", "is new"]);
    rename("d/red/99.bmp", "gone");
    rename("d/red/03.bmp", "d/green/93.bmp");
    refused(&resume(), &["differ", "d/green/93.bmp", "d/red/03.bmp"]);
    rename("d/green/93.bmp", "d/red/03.bmp");
    assert!(content(&world, "run") == before, "a refused run is as it was");

    // Touched, or written again with the same bytes: it goes on, and says nothing of it.
    world.write("d/red/03.bmp", &whole);
    let said = resume();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.err.contains("other pictures") && !said.err.contains("only their"), "{}", said.err);

    // A run from before the contents were kept.
    let short = |line: &str| line.split(',').take(3).collect::<Vec<_>>().join(",");
    let old: Vec<String> = world.text("run/pictures.csv").lines().map(short).collect();
    world.write("run/pictures.csv", old.join("\n") + "\n");
    world.write("d/red/03.bmp", &edited);
    let said = world.run("train --resume --epochs 3 --out run");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("note:") && said.err.contains("only their names"), "{}", said.err);
    world.write("d/red/03.bmp", &whole);
    refused(&world.run("train --resume --epochs 4 --out run"), &["d/red/03.bmp"]);

    world.write("d/red/03.bmp", &edited);

    // What the run was validated with.
    let list = world.text("run/pictures.csv");
    let val = list.lines().find_map(|line| line.strip_prefix("val,")?.split(',').nth(1)).unwrap();
    fs::write(val, bmp([1, 2, 3], 7)).unwrap();
    let said = world.run("eval run");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("1 of the 3 validation pictures are not what they were"), "{}", said.err);
}

#[test]
fn pictures_to_train_and_to_validate_with_are_told_apart() {
    let world = World::new("leak");
    data(&world.path("d/train"), &CLASSES, 4);
    for (class, colour) in CLASSES {
        world.write(&format!("d/val/{class}/a.bmp"), bmp(colour, 50));
    }
    fs::copy(world.path("d/train/red/02.bmp"), world.path("d/val/red/copy.bmp")).unwrap();
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = "1 of the 4 validation pictures are also among those to train with";
    assert!(said.err.contains(text) && said.err.contains("copy.bmp"), "{}", said.err);
    assert!(world.text("run/log.csv").contains(text));
    fs::remove_file(world.path("d/val/red/copy.bmp")).unwrap();
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out other"));
    assert!(!said.err.contains("also among"), "{}", said.err);
}

/// Cuts a picture so that its header is whole: it is found to be broken when it is decoded.
fn cut(world: &World, name: &str) {
    let bytes = world.read(name);
    world.write(name, &bytes[..bytes.len() / 2]);
}

#[test]
fn no_epoch_without_validation_is_the_best() {
    let world = World::new("lost");
    data(&world.path("d/train"), &CLASSES, 6);
    data(&world.path("d/val"), &CLASSES, 4);
    let train = |out: &str| world.run(&format!("train d {SMALL} {TRAIN} --epochs 2 --out {out}"));
    // All pictures of a class.
    let cut_all = |set: &str, class: &str| {
        let folder = format!("d/{set}/{class}");
        world.names(&folder).iter().for_each(|name| cut(&world, &format!("{folder}/{name}")));
    };
    let whole: Vec<(String, Vec<u8>)> = content(&world, "d");
    let restore = || whole.iter().for_each(|(name, bytes)| world.write(name, bytes));
    for (set, what) in [("val", "no validation picture of `red`"), ("train", "no training picture of `red`")]
    {
        cut_all(set, "red");
        let out = format!("class-{set}");
        refused(&train(&out), &[what, &format!("d/{set}/red/00.bmp")]);
        assert!(!world.path(&format!("{out}/best.safetensors")).exists());
        restore();
    }
    // All of validation.
    for (class, _) in CLASSES {
        cut_all("val", class);
    }
    refused(&train("all"), &["none of the validation pictures", "the first of 12", "d/val/blue/00.bmp"]);
    restore();
    // Many of them: one warning.
    for name in ["d/val/red/00.bmp", "d/val/red/01.bmp", "d/val/blue/00.bmp"] {
        cut(&world, name);
    }
    let said = train("many");
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = "3 of the 12 validation pictures could not be used and were left out: blue 1 of 4, red 2 of 4";
    assert_eq!(said.err.matches(text).count(), 1, "{}", said.err);
    restore();
    // While the run goes on: what was reached stays.
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --cache-budget 0 --out going"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let best = world.read("going/best.safetensors");
    fs::rename(world.path("d/val"), world.path("away")).unwrap();
    assert_eq!(world.run("train --resume --epochs 2 --cache-budget 0 --out going").code, Some(2));
    fs::rename(world.path("away"), world.path("d/val")).unwrap();
    assert!(world.read("going/best.safetensors") == best);
    assert_eq!(world.run("train --resume --epochs 2 --cache-budget 0 --out going").code, Some(0));
}

/// Flips a bit in the middle of the tensors, and one in the metadata.
fn flip(world: &World, name: &str, at: usize) {
    let mut bytes = world.read(name);
    bytes[at] ^= 1;
    world.write(name, bytes);
}

#[test]
fn a_flipped_bit_of_a_model_is_an_error_wherever_it_is_read() {
    let world = World::new("flipped");
    data(&world.path("d"), &CLASSES, 4);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 2 --average-last 2 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let best = world.read("run/best.safetensors");
    let class = best.windows(5).position(|bytes| bytes == b"green").unwrap();
    for at in [best.len() / 2, best.len() - 3, class] {
        world.write("run/best.safetensors", &best);
        flip(&world, "run/best.safetensors", at);
        for command in [
            "eval run d",
            "predict run d",
            "export run --format onnx --out out",
            "quantize run --mode static --out out",
            "verify run --against run",
            "inspect run",
            "check run d",
            "bench formats run",
            &format!("train d {SMALL} --weights run --out other"),
            &format!("train d {SMALL} --weights run/best.safetensors --out other"),
        ] {
            let said = world.run(command);
            refused(&said, &["run/best.safetensors", "damaged", "copy"]);
        }
    }
    world.write("run/best.safetensors", &best);
    for (name, command) in [
        ("last.safetensors", "predict run --last d"),
        ("last.safetensors", "train --resume --epochs 3 --out run"),
        ("last.state.safetensors", "train --resume --epochs 3 --out run"),
        ("average.safetensors", "predict run/average.safetensors d"),
    ] {
        let path = format!("run/{name}");
        let whole = world.read(&path);
        flip(&world, &path, whole.len() / 2);
        let before = content(&world, "run");
        refused(&world.run(command), &[&path, "damaged"]);
        assert!(content(&world, "run") == before, "{command}");
        world.write(&path, whole);
    }
    assert!(!world.path("other").exists() && !world.path("out").exists());
    // A file from before there was a hash loads.
    world.write("run/best.safetensors", crate::support::with_metadata(&best, |_| ()));
    assert_eq!(world.run("eval run d").code, Some(0));
}

#[test]
fn the_classifier_that_a_run_keeps_is_checked() {
    let world = World::new("flipped-base");
    data(&world.path("d"), &CLASSES, 4);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out first"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(world.run("export first --format onnx --out first.onnx").code, Some(0));
    let said = world.run("train d --model first.onnx --freeze backbone --augment off --epochs 1 --out run");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(world.run("eval run d").code, Some(0));
    let whole = world.read("run/base.onnx");
    flip(&world, "run/base.onnx", whole.len() / 2);
    for command in ["eval run d", "predict run d", "train --resume --epochs 2 --out run"] {
        refused(&world.run(command), &["run/base.onnx", "damaged", "base.onnx.sha256"]);
    }
    world.write("run/base.onnx", whole);
    fs::remove_file(world.path("run/base.onnx.sha256")).unwrap();
    assert_eq!(world.run("eval run d").code, Some(0), "a run from before there was a hash");
}

#[test]
fn what_is_somebody_elses_is_not_replaced() {
    let world = World::new("foreign");
    data(&world.path("d"), &CLASSES, 4);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let kept = |command: &str, file: &str| {
        let before = content(&world, file.split('/').next().unwrap());
        refused(&world.run(command), &[file]);
        assert!(content(&world, file.split('/').next().unwrap()) == before, "{command}");
    };
    // Files and folders of others, where an export would go.
    world.write("e/mobilenet_v2.onnx", "mine");
    kept("export run --format onnx --out e", "e/mobilenet_v2.onnx");
    world.write("p/m.mlpackage/notes.txt", "mine");
    kept("export run --format coreml --out p/m.mlpackage", "p/m.mlpackage");
    world.write("t/mobilenet_v2-triton/mobilenet_v2/config.pbtxt", "mine");
    kept("export run --format triton --out t", "t/mobilenet_v2-triton/mobilenet_v2/config.pbtxt");
    world.write("n/mobilenet_v2-tensorrt/build-engine.sh", "mine");
    kept("export run --format tensorrt --out n", "n/mobilenet_v2-tensorrt/build-engine.sh");
    world.write("q/int8.safetensors", "mine");
    kept("quantize run --mode dynamic --format safetensors --out q/int8.safetensors", "q/int8.safetensors");
    // What an export has left is replaced, as long as it is what was left.
    for format in ["onnx", "coreml", "triton", "tensorrt"] {
        for _ in 0..2 {
            let said = world.run(&format!("export run --format {format} --out again"));
            assert_eq!(said.code, Some(0), "{said:?}");
        }
    }
    world.write("again/mobilenet_v2.mlpackage/mine.txt", "mine");
    kept("export run --format coreml --out again", "again/mobilenet_v2.mlpackage");
    world.write("again/mobilenet_v2.onnx", "edited");
    kept("export run --format onnx --out again", "again/mobilenet_v2.onnx");
    // A report, and a folder with a table of the same name.
    world.write("run/report.html", "<html>mine</html>");
    refused(&world.run("report run"), &["run/report.html", "Move it away"]);
    assert_eq!(world.text("run/report.html"), "<html>mine</html>");
    world.write("tables/results.csv", "epoch,score\n1,2\n");
    refused(&world.run("report tables"), &["tables: no results.csv of a run"]);
    assert_eq!(world.names("tables"), ["results.csv"]);
    // A folder that is no run.
    world.write("folder/.notes.tmp", "mine");
    world.write("folder/a.txt", "mine");
    let before = content(&world, "folder");
    refused(&world.run("train --resume --out folder"), &["folder", "no run to resume"]);
    refused(&world.run(&format!("train d {SMALL} --resume --out folder")), &["folder", "--out"]);
    world.write("recipe/recipe.toml", "# mine\nlr = 0.1\n");
    refused(&world.run(&format!("train d {SMALL} --out recipe")), &["recipe", "--out"]);
    assert_eq!(world.text("recipe/recipe.toml"), "# mine\nlr = 0.1\n");
    assert!(content(&world, "folder") == before);
}

#[cfg(unix)]
#[test]
fn links_in_place_of_files_are_not_followed() {
    use std::os::unix::fs::symlink;
    let world = World::new("links");
    data(&world.path("d"), &CLASSES, 4);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let link = |name: &str| {
        let path = world.path(&format!("run/{name}"));
        fs::rename(&path, world.path(&format!("away-{name}"))).unwrap();
        symlink(world.path(&format!("away-{name}")), &path).unwrap();
        (format!("away-{name}"), world.read(&format!("away-{name}")))
    };
    let names = [
        "best.safetensors",
        "last.safetensors",
        "last.state.safetensors",
        "results.csv",
        "pictures.csv",
        "report.html",
    ];
    let linked = names.map(link);
    symlink(world.path("d"), world.path("run/.best.safetensorsAbC123.tmp")).unwrap();
    let said = world.run("train --resume --epochs 3 --out run");
    assert_eq!(said.code, Some(0), "{said:?}");
    for (name, bytes) in &linked {
        assert!(world.read(name) == *bytes, "{name}");
    }
    assert_eq!(world.names("d").len(), 3);
    assert!(!world.path("run/last.safetensors").symlink_metadata().unwrap().is_symlink());
    world.write("theirs", "theirs");
    fs::create_dir(world.path("out")).unwrap();
    symlink(world.path("theirs"), world.path("out/mobilenet_v2.onnx")).unwrap();
    refused(&world.run("export run --format onnx --out out"), &["out/mobilenet_v2.onnx", "symbolic link"]);
    assert_eq!(world.text("theirs"), "theirs");
    let is_link = |path: &Path| path.symlink_metadata().unwrap().is_symlink();
    assert!(is_link(&world.path("out/mobilenet_v2.onnx")));
}

#[test]
fn weights_of_a_run_and_its_own_pictures_are_told_of_and_logged() {
    let world = World::new("weights");
    data(&world.path("d"), &CLASSES, 8);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out first"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(world.text("first/log.csv").contains("starts from random weights"));
    let start = |flags: &str, out: &str| {
        let said =
            world.run(&format!("train d {SMALL} {TRAIN} --weights first --epochs 1 {flags} --out {out}"));
        assert_eq!(said.code, Some(0), "{said:?}");
        said.err
    };
    assert!(!start("", "same").contains("trained with"));
    let text = "of the 6 validation pictures";
    assert!(start("--seed 5", "other").contains(text));
    let log = world.text("other/log.csv");
    assert!(log.contains(text) && log.contains("the head of these weights is kept"), "{log}");
    // A run that is not finished.
    let said = world.run("train --resume --epochs 3 --out first");
    assert_eq!(said.code, Some(0), "{said:?}");
    fs::rename(world.path("first/previous.state.safetensors"), world.path("first/last.state.safetensors"))
        .unwrap();
    assert!(start("", "unfinished").contains("this run is not finished (2 of 3 epochs)"));
}
