//! Files of others where ours go or come from: they are not replaced, and not silently taken for ours.

use std::fs;

use crate::support::{CLASSES, SMALL, Said, World, bmp, data};

const TRAIN: &str = "--freeze backbone --augment off";

/// A folder of its own with the trained model of all tests in it.
fn world(name: &str) -> World {
    let world = World::new(name);
    world.write("m.safetensors", World::trained().read("run/best.safetensors"));
    world
}

/// A folder with pictures in `d` and a run of one epoch in `run`.
fn trained(name: &str) -> World {
    let world = World::new(name);
    data(&world.path("d"), &CLASSES, 6);
    done(&world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out run")), &[]);
    world
}

#[track_caller]
fn refused(said: &Said, parts: &[&str]) {
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(parts.iter().all(|part| said.err.contains(part)), "{parts:?}: {}", said.err);
    assert_eq!(said.err.matches("error:").count(), 1, "{}", said.err);
}

#[track_caller]
fn done(said: &Said, parts: &[&str]) {
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(parts.iter().all(|part| said.err.contains(part)), "{parts:?}: {}", said.err);
}

#[test]
fn what_goes_with_an_export_is_replaced_as_long_as_nobody_has_edited_it() {
    let world = world("side");
    for (format, manifest, files) in [
        (
            "triton",
            "o/mobilenet_v2-triton/mobilenet_v2/1/model.onnx.manifest.json",
            &[
                "o/mobilenet_v2-triton/mobilenet_v2/config.pbtxt",
                "o/mobilenet_v2-triton/mobilenet_v2/labels.txt",
            ][..],
        ),
        (
            "tensorrt",
            "o/mobilenet_v2-tensorrt/model.onnx.manifest.json",
            &["o/mobilenet_v2-tensorrt/build-engine.sh"],
        ),
    ] {
        let export = |most: u32| {
            world.run(&format!("export m.safetensors --format {format} --out o --batch-max {most}"))
        };
        done(&export(8), &[]);
        // Other texts under the same names: those before are as they were written.
        done(&export(16), &[]);
        let onnx = manifest.strip_suffix(".manifest.json").unwrap();
        done(&world.run(&format!("verify {onnx} --against m.safetensors")), &[]);
        for file in files {
            let written = world.text(file);
            let edited = format!("{written}# mine\n");
            world.write(file, &edited);
            let before = world.read(onnx);
            refused(&export(9), &[file, "move or remove it"]);
            assert!(world.text(file) == edited && world.read(onnx) == before);
            // An edited text is no reason not to use the model.
            done(&world.run(&format!("verify {onnx} --against m.safetensors")), &[]);
            world.write(file, &written);
        }
        done(&export(9), &[]);
        // A manifest from before it told of these files is one still, and tells nothing of them.
        let mut old: serde_json::Value = serde_json::from_str(&world.text(manifest)).unwrap();
        assert!(old.as_object_mut().unwrap().remove("side_files").is_some(), "{old}");
        world.write(manifest, old.to_string());
        done(&world.run(&format!("verify {onnx} --against m.safetensors")), &[]);
        done(&export(9), &[]);
        world.write(manifest, old.to_string());
        world.write(files[0], "mine");
        refused(&export(9), &[files[0]]);
    }
}

#[test]
fn measurements_of_others_are_not_replaced() {
    let world = world("formats");
    for theirs in ["{\"mine\": 1}", "[]", ""] {
        world.write("o/formats.json", theirs);
        refused(
            &world.run("bench formats m.safetensors --batch 1 --runs 1 --out o"),
            &["o/formats.json", "lost"],
        );
        assert_eq!((world.text("o/formats.json").as_str(), world.names("o").len()), (theirs, 1));
    }
    fs::remove_file(world.path("o/formats.json")).unwrap();
    for _ in 0..2 {
        done(&world.run("bench formats m.safetensors --batch 1 --runs 1 --out o"), &[]);
    }
}

#[test]
fn exports_of_two_models_in_one_folder_are_told() {
    let world = trained("two");
    done(&world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --seed 7 --out other")), &[]);
    for format in ["onnx", "triton", "torchscript"] {
        let first = world.run(&format!("export run --format {format} --out {format}"));
        done(&first, &[]);
        assert!(!first.err.contains("warning"), "{}", first.err);
        for again in ["coreml", "onnx"] {
            let said = world.run(&format!("export other --format {again} --out {format}"));
            done(&said, &["mobilenet_v2", "than other", "--out"]);
            assert_eq!(said.err.matches("warning:").count(), 1, "{}", said.err);
        }
    }
    let said = world.run("quantize other --mode dynamic --out onnx");
    done(&said, &[]);
    // What was made of an export of the same run is of the same run.
    done(&world.run("export run --format onnx --out same"), &[]);
    let said = world.run("export same/mobilenet_v2.onnx --format torchscript --out same");
    done(&said, &[]);
    assert!(!said.err.contains("than"), "{}", said.err);
}

#[test]
fn a_run_is_as_it_was_where_something_is_in_the_way_of_its_files() {
    let world = trained("in-the-way");
    for name in
        ["groups.csv", "previous.state.safetensors", "pictures.csv", "average.safetensors", "base.onnx"]
    {
        let place = format!("run/{name}");
        let kept = world.path(&place).is_file().then(|| world.read(&place));
        let _ = fs::remove_file(world.path(&place));
        world.write(&format!("{place}/mine.txt"), "mine");
        let recipe = world.text("run/recipe.toml");
        let said = world.run("train --resume --epochs 3 --out run");
        refused(&said, &[&place, "folder"]);
        assert!(!said.err.contains("last.state"), "{}", said.err);
        assert!(
            world.text("run/recipe.toml") == recipe && world.text(&format!("{place}/mine.txt")) == "mine"
        );
        fs::remove_dir_all(world.path(&place)).unwrap();
        kept.iter().for_each(|bytes| world.write(&place, bytes));
    }
    done(&world.run("train --resume --epochs 2 --out run"), &[]);
    // A folder with such a name is nothing that a run has left.
    world.write("new/recipe.toml", world.text("run/recipe.toml"));
    world.write("new/groups.csv/mine.txt", "mine");
    refused(&world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out new")), &["new", "--out"]);
    assert_eq!(world.text("new/groups.csv/mine.txt"), "mine");
}

#[test]
fn a_run_goes_on_where_its_pictures_have_been_moved_to() {
    let world = trained("moved");
    // What it comes to in its old place.
    fs::create_dir(world.path("plain")).unwrap();
    for name in world.names("run").iter().filter(|name| world.path("run").join(name).is_file()) {
        world.write(&format!("plain/{name}"), world.read(&format!("run/{name}")));
    }
    done(&world.run("train --resume --epochs 3 --out plain"), &[]);
    let before = world.text("run/recipe.toml");
    fs::rename(world.path("d"), world.path("elsewhere")).unwrap();
    refused(&world.run("train --resume --epochs 3 --out run"), &["/d: ", "DATA", "--resume --out run"]);
    refused(&world.run("train nowhere --resume --epochs 3 --out run"), &["/nowhere: no such folder"]);
    // Other settings are told, and not those that may be others.
    let said = world.run("train elsewhere --resume --epochs 3 --lr 0.5 --out run");
    refused(&said, &["`lr`"]);
    assert!(!said.err.contains("`epochs`") && !said.err.contains("`data`"), "{}", said.err);
    // Other pictures.
    let whole = world.read("elsewhere/red/03.bmp");
    world.write("elsewhere/red/03.bmp", bmp([1, 2, 3], 4));
    refused(
        &world.run("train elsewhere --resume --epochs 3 --out run"),
        &["1 differ", "elsewhere/red/03.bmp"],
    );
    world.write("elsewhere/red/03.bmp", whole);
    let list = world.read("run/pictures.csv");
    fs::remove_file(world.path("run/pictures.csv")).unwrap();
    refused(&world.run("train elsewhere --resume --epochs 3 --out run"), &["pictures.csv"]);
    world.write("run/pictures.csv", list);
    assert_eq!(world.text("run/recipe.toml"), before);
    done(&world.run("train elsewhere --resume --epochs 3 --out run"), &[]);
    done(&world.run("train --resume --out run"), &[]);
    assert!(world.read("run/best.safetensors") == world.read("plain/best.safetensors"));
    assert!(world.read("run/last.safetensors") == world.read("plain/last.safetensors"));
    // A folder that is there is the run's, and another one is another.
    data(&world.path("d"), &CLASSES, 6);
    refused(&world.run("train d --resume --epochs 4 --out run"), &["`data`"]);
}

#[test]
fn a_message_does_not_repeat_all_that_it_was_given() {
    let world = trained("long");
    let long = "x".repeat(10_000);
    let words = "word ".repeat(2_000);
    for (text, part) in [
        (format!("lr = \"{long}\""), "r.toml"),
        (format!("lr = \"{words}\""), "r.toml"),
        (format!("{long} = 1"), "unknown field"),
        (format!("freeze = \",{long}\""), "is not `backbone`"),
        (format!("schedule = \"{long}\""), "cosine"),
        (format!("schedule = \"plateau:{long}\""), "plateau has no"),
        (format!("head = \"{long}\""), "head"),
        (format!("head = \"mlp:{long}\""), "hidden features"),
        (format!("unfreeze = [\"{long}\"]"), "PATTERN@PERCENT%"),
        (format!("optimizer = \"{long}\""), "unknown variant"),
        (format!("[lr_groups]\n{long} = -1"), "above 0"),
        (format!("[class_weights]\n\"{words}\" = 2"), "no class"),
        (format!("[preprocessing]\n{long} = 2"), "unknown field"),
    ] {
        world.write("r.toml", &text);
        let said = world.run(&format!("train d {SMALL} --recipe r.toml --out new --json"));
        refused(&said, &[part]);
        assert!(
            said.err.len() < 2500 && said.out.len() < 3500,
            "{text:.20}: {} {}",
            said.err.len(),
            said.err
        );
        assert!(!world.path("new").exists());
    }
    // Tables and metadata.
    let list = world.text("run/pictures.csv");
    world.write("run/pictures.csv", list.replacen("blue", &long, 1));
    for command in ["quantize run --mode static", "train --resume --epochs 2 --out run"] {
        let said = world.run(command);
        refused(&said, &["pictures.csv"]);
        assert!(said.err.len() < 2500, "{}", said.err.len());
    }
    world.write("run/pictures.csv", list.replacen("train,", &format!("{long},"), 1));
    let said = world.run("quantize run --mode static");
    refused(&said, &["of the set `xxx"]);
    assert!(said.err.len() < 600, "{}", said.err.len());
}

#[test]
fn a_report_says_which_tables_it_is_made_without() {
    let world = trained("tables");
    let report = world.run("report run");
    assert_eq!((report.code, report.err.as_str()), (Some(0), ""), "{report:?}");
    let tables = ["health.csv", "pictures.csv", "predictions.csv", "log.csv", "groups.csv", "recipe.toml"];
    for name in tables {
        let path = format!("run/{name}");
        let whole = world.read(&path);
        for (damaged, why) in [("", ""), ("a,b\n1,2\n", "")] {
            world.write(&path, damaged);
            let said = world.run("report run");
            done(&said, &[&path, why, "without it"]);
            assert_eq!(said.err.matches("warning:").count(), 1, "{}", said.err);
        }
        fs::remove_file(world.path(&path)).unwrap();
        // An older run may not have one.
        assert_eq!(world.run("report run").err, "", "{name}");
        #[cfg(unix)]
        {
            assert!(std::process::Command::new("mkfifo").arg(world.path(&path)).status().unwrap().success());
            done(&world.run("report run"), &[&path, "a pipe", "without it"]);
            fs::remove_file(world.path(&path)).unwrap();
        }
        world.write(&path, whole);
    }
    world.write("run/formats.json", "{}");
    done(&world.run("report run"), &["run/formats.json", "without it"]);
    fs::remove_file(world.path("run/formats.json")).unwrap();
    let whole = world.text("run/results.csv");
    world.write("run/results.csv", format!("{whole}2,1.0"));
    done(&world.run("report run"), &["run/results.csv: row 2 has 2 fields"]);
    world.write("run/results.csv", whole.replacen("\n1,", "\n1x,", 1));
    done(&world.run("report run"), &["run/results.csv: row 1 has `1x` under epoch"]);
    world.write("run/results.csv", "epoch,score\n1,2\n");
    refused(&world.run("report run"), &["run: no results.csv of a run"]);
    fs::remove_file(world.path("run/results.csv")).unwrap();
    #[cfg(unix)]
    {
        let fifo = std::process::Command::new("mkfifo").arg(world.path("run/results.csv")).status();
        assert!(fifo.unwrap().success());
        refused(&world.run("report run"), &["run/results.csv", "a pipe"]);
    }
}

/// A safetensors file with another header.
fn with_header(bytes: &[u8], change: impl FnOnce(String) -> String) -> Vec<u8> {
    let (size, rest) = bytes.split_at(8);
    let size = u64::from_le_bytes(size.try_into().unwrap()) as usize;
    let mut header = change(String::from_utf8(rest[..size].to_vec()).unwrap()).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &rest[size..]].concat()
}

#[test]
fn a_model_without_its_hash_is_told_and_one_with_a_damaged_key_refused() {
    let world = trained("hash");
    let whole = world.read("run/best.safetensors");
    world.write("m.safetensors", &whole);
    assert_eq!(world.run("predict m.safetensors d/red/00.bmp").err, "");
    // From before there was one, or with it cut out.
    let without = with_header(&whole, |header| {
        let start = header.find(",\"offshoot_sha256\"").unwrap();
        format!("{}{}", &header[..start], &header[start + 85..])
    });
    world.write("m.safetensors", &without);
    done(&world.run("predict m.safetensors d/red/00.bmp"), &["warning: m.safetensors", "no SHA-256"]);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --weights m.safetensors --epochs 1 --out new"));
    done(&said, &["m.safetensors", "no SHA-256"]);
    for key in ["offshoot_sha257", "OFFSHOOT_SHA256", "x"] {
        world.write("m.safetensors", with_header(&whole, |header| header.replace("offshoot_sha256", key)));
        refused(&world.run("predict m.safetensors d/red/00.bmp"), &["m.safetensors", key, "damaged"]);
    }
    // Weights of others may hold what they like.
    let theirs = with_header(&whole, |header| header.replace("\"offshoot\"", "\"theirs\""));
    world.write("t.safetensors", with_header(&theirs, |header| header.replace("offshoot_sha256", "digest")));
    let said = world.run(&format!("train d {SMALL} {TRAIN} --weights t.safetensors --epochs 1 --out theirs"));
    done(&said, &[]);
}

#[test]
fn a_best_model_of_another_run_is_not_used() {
    let world = trained("best");
    let whole = world.read("run/best.safetensors");
    // As many classes of other names, another head, and other frozen weights.
    for (name, colour) in [("ash", [9, 9, 9]), ("oak", [200, 9, 9]), ("yew", [9, 200, 9])] {
        crate::support::pictures(&world.path(&format!("trees/{name}")), colour, 6);
    }
    done(&world.run(&format!("train trees {SMALL} {TRAIN} --epochs 1 --out classes")), &[]);
    done(&world.run(&format!("train d {SMALL} {TRAIN} --head mlp:8 --epochs 1 --out head")), &[]);
    done(&world.run(&format!("train d {SMALL} {TRAIN} --seed 3 --epochs 1 --out weights")), &[]);
    let used = ["predict run d/red/00.bmp", "eval run d", "export run --format onnx --out ex"];
    for (other, at_once) in [("classes", true), ("head", true), ("weights", false)] {
        world.write("run/best.safetensors", world.read(&format!("{other}/best.safetensors")));
        refused(&world.run("train --resume --epochs 2 --out run"), &["run/best.safetensors"]);
        for command in used.iter().filter(|_| at_once) {
            refused(&world.run(command), &["run/best.safetensors", "not of the run"]);
        }
    }
    world.write("run/best.safetensors", whole);
    used.iter().for_each(|command| done(&world.run(command), &[]));
    done(&world.run("train --resume --epochs 2 --out run"), &[]);
}

#[test]
fn copies_of_what_is_measured_on_are_not_calibrated_on() {
    let world = world("copies");
    data(&world.path("d"), &CLASSES, 2);
    data(&world.path("same"), &CLASSES, 2);
    data(&world.path("more"), &CLASSES, 4);
    let quantize = |flags: &str| world.run(&format!("quantize m.safetensors --mode static {flags}"));
    refused(&quantize("--calibration same --data d"), &["copies", "--calibration DIR"]);
    done(&quantize("--calibration more --data d"), &["6 of the pictures", "left out", "same content"]);
    refused(&quantize("--calibration d --data d"), &["must not be one to calibrate on"]);
    // Classes that the model does not know.
    crate::support::pictures(&world.path("trees/ash"), [1, 2, 3], 2);
    crate::support::pictures(&world.path("trees/oak"), [3, 2, 1], 2);
    refused(&quantize("--data trees"), &["does not know", "leave --data out", "--calibration"]);
    done(&quantize("--calibration trees"), &[]);
}

#[test]
fn numbers_of_flags_have_a_range() {
    let world = world("ranges");
    for (command, least) in [
        ("bench infer --model mobilenet_v2 --runs", "0"),
        ("bench train --model mobilenet_v2 --runs", "0"),
        ("bench infer --model mobilenet_v2 --batch", "0"),
        ("bench train --model mobilenet_v2 --size", "0"),
        ("bench formats m.safetensors --runs", "0"),
        ("bench formats m.safetensors --batch", "0"),
        ("export m.safetensors --format tensorrt --batch-min", "0"),
        ("export m.safetensors --format tensorrt --batch-opt", "0"),
        ("train d --model mobilenet_v2 --checkpoint-every", "-1"),
        ("data check d --seed", "-1"),
        ("data check d --top", "-1"),
    ] {
        for number in [least, "1.5", "9223372036854775808", "18446744073709551616"] {
            let said = world.run(&format!("{command}={number}"));
            refused(&said, &["give a whole number"]);
        }
    }
    for number in ["2147483648", "4294967296", "100001"] {
        refused(&world.run(&format!("bench infer --model mobilenet_v2 --runs {number}")), &["1 to 100000"]);
    }
}
