//! Models that give no numbers, flags that mean nothing, and places that are no place to write to: an error each, and nothing
//! is left behind.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use offshoot::ModelSource;
use offshoot_formats::onnx;
use serde_json::{Value, json};

use crate::support::{CLASSES, Said, World, bmp, data};

/// A folder with a classifier of five classes in `m.onnx`, and one in `broken.onnx` whose parameter `name` holds `number`.
fn world(test: &str, name: &str, number: f32) -> World {
    let world = World::new(test);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/endings/logits.onnx");
    let mut model = ModelSource::Path(golden).load(&Default::default()).unwrap().model;
    model.metadata.classes = ["blue", "green", "red", "sand", "teal"].map(str::to_owned).to_vec();
    onnx::write(&world.path("m.onnx"), &model, Default::default()).unwrap();
    model.weights.get_mut(name).unwrap().as_f32_mut().unwrap()[0] = number;
    onnx::write(&world.path("broken.onnx"), &model, Default::default()).unwrap();
    data(&world.path("d"), &CLASSES, 4);
    world.write("p.bmp", bmp([40, 200, 40], 1));
    world
}

fn refused(world: &World, command: &str, parts: &[&str]) -> Said {
    let before = world.names("");
    let said = world.run(command);
    assert_eq!(said.code, Some(2), "{command}: {said:?}");
    for part in parts {
        assert!(said.err.contains(part), "{command}: no `{part}` in {}", said.err);
    }
    assert_eq!(world.names(""), before, "{command} left something");
    said
}

#[test]
fn a_model_that_gives_nan_is_said_to_and_no_file_is_made_of_it() {
    // In all logits, in one of them, and an infinity in one.
    for (index, (name, number, what)) in [
        ("conv.weight", f32::NAN, "NaN"),
        ("fc.bias", f32::NAN, "NaN"),
        ("fc.bias", f32::INFINITY, "infinities"),
    ]
    .into_iter()
    .enumerate()
    {
        let world = world(&format!("nan{index}"), name, number);
        let mut commands = vec![
            "predict broken.onnx p.bmp --json".to_owned(),
            "predict broken.onnx p.bmp --tta".to_owned(),
            "eval broken.onnx d".to_owned(),
            "eval broken.onnx d --tta".to_owned(),
            "quantize broken.onnx --mode dynamic".to_owned(),
            "quantize broken.onnx --mode dynamic --out q".to_owned(),
            "bench formats broken.onnx --batch 1 --runs 1".to_owned(),
        ];
        for format in ["onnx", "torchscript", "pt2", "coreml", "litert", "tensorrt", "triton"] {
            commands.push(format!("export broken.onnx --format {format} --out e/deep"));
        }
        for command in commands {
            let said = refused(&world, &command, &[&format!("gives {what}"), "offshoot check"]);
            assert!(!said.err.contains("Please report"), "{command}: {said:?}");
            let answers = said.out.starts_with("{\"error\"") && command.ends_with("--json");
            assert!(said.out.is_empty() || answers, "{command}: {said:?}");
        }
        let said = refused(&world, "quantize broken.onnx --mode static --calibration d", &["offshoot check"]);
        assert!(!said.err.contains("Please report"), "{said:?}");
        let said = world.run("verify broken.onnx --against broken.onnx --json");
        assert_eq!(said.code, Some(1), "{said:?}");
        let report: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((&report["ok"], &report["top1_agreement"]), (&json!(false), &json!(0.0)));
        assert!(said.err.contains("NaN or infinities") && said.err.contains("offshoot check"), "{said:?}");
    }
}

#[test]
fn an_infinite_weight_that_no_answer_shows_is_no_error() {
    let world = World::new("hidden-infinity");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/endings/hard_sigmoid.onnx");
    let mut model = ModelSource::Path(golden).load(&Default::default()).unwrap().model;
    model.weights.get_mut("fc.bias").unwrap().as_f32_mut().unwrap()[2] = f32::INFINITY;
    onnx::write(&world.path("m.onnx"), &model, Default::default()).unwrap();
    world.write("p.bmp", bmp([40, 200, 40], 1));
    let said = world.run("predict m.onnx p.bmp --json");
    let found: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&found["top"][0]["index"], &found["top"][0]["probability"]), (&json!(2), &json!(1.0)));
}

#[test]
fn a_flag_that_a_format_does_not_take_is_an_error() {
    let world = world("flags", "fc.bias", 1.0);
    for (formats, flag, named) in [
        ("onnx", "--precision f16", "onnx"),
        ("onnx", "--precision int8", "onnx"),
        ("torchscript", "--precision f16", "torchscript"),
        ("pt2", "--precision f16", "pt2"),
        ("pt2", "--script", "pt2"),
        ("triton", "--precision f16", "triton"),
        ("coreml,onnx", "--precision f16", "onnx"),
        ("onnx,torchscript", "--script", "onnx"),
        ("coreml", "--script", "coreml"),
        ("litert", "--opset 18", "litert"),
        ("litert,onnx", "--precision f16", "onnx"),
        ("torchscript", "--opset 18", "torchscript"),
        ("triton", "--opset 18", "triton"),
        ("tensorrt", "--opset 18", "tensorrt"),
        ("coreml", "--opset 18", "coreml"),
        ("triton", "--with-preprocess", "triton"),
        ("onnx", "--batch-max 4", "onnx"),
        ("triton", "--batch-min 1", "triton"),
        ("coreml", "--batch-opt 4", "coreml"),
        ("triton", "--trtexec x", "triton"),
    ] {
        let name = flag.split(' ').next().unwrap();
        let parts = [name, &format!("--format {named}")];
        refused(&world, &format!("export m.onnx --format {formats} {flag} --out e"), &parts);
    }
    for flag in ["--calibration d", "--calibration-pictures 3", "--method mse"] {
        let name = flag.split(' ').next().unwrap();
        for format in ["onnx", "coreml --precision int8", "tensorrt", "tensorrt --precision f32"] {
            refused(&world, &format!("export m.onnx --format {format} {flag} --out e"), &[name, "int8"]);
        }
        refused(&world, &format!("quantize m.onnx --mode dynamic {flag} --out e"), &[name, "--mode static"]);
    }
    for (command, parts) in [
        ("quantize m.onnx --mode dynamic --weight-bits 8", ["--weight-bits", "--mode static"]),
        ("quantize m.onnx --mode dynamic --opset 18", ["--opset", "m.onnx"]),
        ("quantize m.onnx --mode dynamic --mean 0,0,0", ["--mean", "--data"]),
        ("quantize m.onnx --mode static --calibration d --format safetensors", ["--format", "dynamic"]),
        ("predict m.onnx p.bmp --top 0", ["--top", "at least 1"]),
        ("predict m.onnx p.bmp --logits", ["--json", "--logits"]),
        ("verify m.onnx --against m.onnx --model resnet18 --weights x.pth", ["--against", "--model"]),
    ] {
        refused(&world, command, &parts);
    }
    // What a format writes in any case may be asked for.
    world.json("export m.onnx --format onnx,torchscript --precision f32 --out f32");
}

#[test]
fn a_path_with_the_ending_of_a_model_is_the_file() {
    let world = world("out", "fc.bias", 1.0);
    for (format, name) in
        [("onnx", "new/x.onnx"), ("torchscript", "x.PT"), ("coreml", "x.mlpackage"), ("litert", "x.tflite")]
    {
        let report = world.json(&format!("export m.onnx --format {format} --out {name}"));
        assert_eq!(report["files"][0]["path"], json!(name));
        assert_eq!(world.path(name).is_dir(), format == "coreml");
        assert!(world.path(&format!("{name}.manifest.json")).is_file(), "{name}");
    }
    let report = world.json("quantize m.onnx --mode dynamic --out q/y.onnx");
    assert_eq!(report["path"], json!("q/y.onnx"));
    assert_eq!(world.names("q"), ["y.onnx", "y.onnx.manifest.json"]);
    assert_eq!(world.json("verify q/y.onnx --against m.onnx")["ok"], json!(true));

    std::fs::create_dir(world.path("folder.onnx")).unwrap();
    for (command, parts) in [
        ("export m.onnx --format onnx --out x.pt", ["x.pt", ".onnx"]),
        ("export m.onnx --format torchscript --out y.onnx", ["y.onnx", ".pt"]),
        ("export m.onnx --format tensorrt --out y.engine", ["y.engine", "folder"]),
        ("export m.onnx --format triton --out y.onnx", ["y.onnx", "folder"]),
        ("export m.onnx --format onnx,coreml --out y.onnx", ["y.onnx", "one file"]),
        ("export m.onnx --format onnx --out folder.onnx", ["folder.onnx", "in the way"]),
        ("quantize m.onnx --mode dynamic --out y.safetensors", ["y.safetensors", ".onnx"]),
        ("quantize m.onnx --mode dynamic --out folder.onnx", ["folder.onnx", "in the way"]),
        ("export m.onnx --format onnx", ["m.onnx", "--out"]),
        ("export m.onnx --format onnx --out m.onnx", ["m.onnx", "--out"]),
    ] {
        refused(&world, command, &parts);
    }
}

#[test]
fn verify_takes_the_bound_that_the_file_was_proven_to() {
    let world = world("bound", "fc.bias", 1.0);
    world.json("export m.onnx --format coreml --out f16.mlpackage");
    world.json("export m.onnx --format coreml --precision int8 --out int8.mlpackage");
    world.json("quantize m.onnx --mode static --calibration d --out static.onnx");
    for (file, bound) in [("f16.mlpackage", 5e-2), ("int8.mlpackage", 0.5), ("static.onnx", 0.5)] {
        let manifest: Value = serde_json::from_str(&world.text(&format!("{file}.manifest.json"))).unwrap();
        assert_eq!(manifest["proof"]["tolerance"], json!(bound));
        let verified = world.json(&format!("verify {file} --against m.onnx"));
        assert_eq!(verified["ok"], json!(true), "{file}");
        // The manifest says what a comparison finds: there is one definition of agreement.
        for key in ["max_abs_diff", "max_rel_diff", "top1_agreement"] {
            assert_eq!(manifest["proof"][key], verified[key], "{file}: {key}");
        }
        let said = world.run(&format!("verify {file} --against m.onnx --tolerance 1e-7"));
        assert_eq!(said.code, Some(1), "{file}: {said:?}");
    }
}

#[test]
fn one_picture_comes_by_standard_input() {
    let world = world("stdin", "fc.bias", 1.0);
    let predict = |input: &[u8], arguments: &str| {
        let mut command = world.command(&format!("predict m.onnx {arguments}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that refuses its arguments closes its end.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    let output = predict(&world.read("p.bmp"), "- --json");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = world.json("predict m.onnx p.bmp");
    assert_eq!((&found["path"], &found["top"]), (&json!("-"), &file["top"]));
    for (input, arguments, part) in
        [(&b""[..], "-", "empty"), (b"no picture", "-", "-: "), (b"x", "- -", "once")]
    {
        let output = predict(input, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(part), "{arguments}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn a_name_does_not_command_the_terminal() {
    use std::os::unix::ffi::OsStrExt as _;
    let world = world("names", "fc.bias", 1.0);
    let name = std::ffi::OsStr::from_bytes(b"a\x1b[31m\nb\xff.bmp");
    std::fs::write(world.root.join(name), bmp([200, 40, 40], 2)).unwrap();
    let run = |json: &[&str]| {
        let output = world.command("predict m.onnx").arg(name).args(json).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&[]);
    assert!(text.starts_with("a\\x1b[31m\\nb\\xff.bmp: ") && text.lines().count() == 1, "{text:?}");
    let found: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(found["path"], json!("a\u{1b}[31m\nb\\xff.bmp"));
}
