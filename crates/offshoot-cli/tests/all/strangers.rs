//! Untrusted files: names in them that are paths, commands, formulas and terminal sequences, files that are none, manifests
//! that say what is not so.

#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use offshoot::{Model, ModelSource};
use offshoot_formats::onnx;
use serde_json::{Value, json};

use crate::support::{CLASSES, Said, World, bmp, data};

/// A classifier of five classes.
fn model() -> Model {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/endings/logits.onnx");
    let mut model = ModelSource::Path(golden).load(&Default::default()).unwrap().model;
    model.metadata.classes = ["blue", "green", "red", "sand", "teal"].map(str::to_owned).to_vec();
    model
}

/// A world with that classifier, changed, in `m.onnx`.
fn world(test: &str, change: impl FnOnce(&mut Model)) -> World {
    let (world, mut model) = (World::new(test), model());
    change(&mut model);
    onnx::write(&world.path("m.onnx"), &model, Default::default()).unwrap();
    world.write("p.bmp", bmp([40, 200, 40], 1));
    world
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

fn refused(world: &World, command: &str, parts: &[&str]) -> Said {
    // What hangs ends with another code.
    let output = Command::new("timeout")
        .arg("60")
        .arg(env!("CARGO_BIN_EXE_offshoot"))
        .args(command.split(' '))
        .current_dir(&world.root)
        .output()
        .unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let said = Said { code: output.status.code(), out, err };
    assert_eq!(said.code, Some(2), "{command}: {said:?}");
    for part in parts {
        assert!(said.err.contains(part), "{command}: no `{part}` in {}", said.err);
    }
    assert_eq!(said.err.matches("error: ").count(), 1, "{command}: {said:?}");
    said
}

#[test]
fn a_name_in_a_file_is_no_path_and_no_command() {
    let long = "x".repeat(300);
    let names = [
        "../../climbed",
        "ROOT/absolute",
        "x';touch touched;'\n$(id)",
        "..",
        "",
        "-rf",
        "NUL",
        "a\\b",
        &long,
    ];
    for (index, name) in names.into_iter().enumerate() {
        let test = format!("names{index}");
        let root = World::new(&test).root.display().to_string();
        let world = world(&test, |model| model.metadata.architecture = Some(name.replace("ROOT", &root)));
        let formats = "--format onnx,torchscript,coreml,tensorrt,triton --precision f32 --out deep/out";
        let formats = formats.replace(" --precision f32", "");
        let listed = world.json(&format!("export m.onnx {formats}"));
        assert_eq!(listed["files"].as_array().unwrap().len(), 5);
        world.json("quantize m.onnx --mode dynamic --out deep/out");
        assert_eq!(world.names(""), ["deep", "m.onnx", "p.bmp"], "{name:?}");
        assert_eq!(world.names("deep"), ["out"], "{name:?}");
        for file in files(&world.path("deep")) {
            let name = file.strip_prefix(&world.root).unwrap().to_str().unwrap();
            assert!(name.split('/').all(|part| part.len() < 200), "{name}");
            assert!(!name.contains(['\n', '\'', '$', '\\', ';']) && !name.contains("/-"), "{name:?}");
        }
        let scripts = files(&world.path("deep"));
        let script = scripts.iter().find(|path| path.ends_with("build-engine.sh")).unwrap();
        let ran =
            Command::new("sh").arg(script).env("TRTEXEC", "true").current_dir(&world.root).status().unwrap();
        assert!(ran.success());
        assert!(!files(&world.root).iter().any(|path| path.ends_with("touched")), "{name:?}");
    }
}

#[test]
fn the_names_of_classes_stay_on_their_lines() {
    let hostile = ["a\0b", "\r\nSet: x", "\u{1b}[2J\u{9b}1m", "\u{202e}=1+1\u{2028}", "</script>\t<b>\"'"];
    let world = world("classes", |model| model.metadata.classes = hostile.map(str::to_owned).to_vec());
    let commands = |world: &World| {
        ["inspect m.onnx", "inspect m.onnx --json", "predict m.onnx p.bmp", "predict m.onnx p.bmp --json"]
            .map(|command| world.run(command))
    };
    for said in commands(&world) {
        assert_eq!(said.code, Some(0), "{said:?}");
        let strange = |c: &char| (c.is_control() && *c != '\n') || ('\u{2028}'..='\u{202e}').contains(c);
        for text in [&said.out, &said.err] {
            assert_eq!(text.chars().find(strange), None, "{text:?}");
        }
    }
    let classes = &world.json("inspect m.onnx")["classes"];
    assert_eq!(*classes, json!(hostile), "JSON has them as they are");
    let lines = |world: &World| world.run("inspect m.onnx").out.lines().count();
    assert_eq!(lines(&world), lines(&self::world("plain", |_| {})));
    world.json("export m.onnx --format triton,torchscript,coreml --out out");
    let labels = files(&world.path("out")).into_iter().find(|path| path.ends_with("labels.txt")).unwrap();
    let labels = fs::read_to_string(labels).unwrap();
    assert_eq!(labels.lines().nth(1), Some("\\r\\nSet: x"));
    assert_eq!(labels.chars().filter(|c| c.is_control()).collect::<String>(), "\n".repeat(5));
    for file in ["out/m.pt", "out/m.mlpackage"] {
        assert_eq!(world.json(&format!("inspect {file}"))["classes"], json!(hostile), "{file}");
    }
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let world = world("pipes", |_| {});
    data(&world.path("d"), &CLASSES, 2);
    fs::copy(world.path("m.onnx"), world.path("n.onnx")).unwrap();
    for pipe in ["pipe.onnx", "pipe.pth", "pipe.toml", "pipe.npz", "pipe.png", "n.onnx.manifest.json"] {
        assert!(Command::new("mkfifo").arg(world.path(pipe)).status().unwrap().success());
    }
    fs::create_dir(world.path("piped_run")).unwrap();
    for pipe in ["best.safetensors", "results.csv", "recipe.toml", "pictures.csv"] {
        assert!(Command::new("mkfifo").arg(world.path("piped_run").join(pipe)).status().unwrap().success());
    }
    fs::create_dir(world.path("pictures")).unwrap();
    assert!(Command::new("mkfifo").arg(world.path("pictures/a.png")).status().unwrap().success());
    for command in [
        "inspect pipe.onnx",
        "inspect pipe.pth",
        "inspect /dev/zero",
        "inspect /dev/null",
        "predict pipe.onnx p.bmp",
        "predict m.onnx pipe.png",
        "predict m.onnx /dev/zero",
        "predict m.onnx pictures",
        "predict --model mobilenet_v2 --weights pipe.pth p.bmp",
        "train d --model mobilenet_v2 --weights pipe.pth --out run",
        "train d --model m.onnx --recipe pipe.toml --out run",
        "train d --model m.onnx --recipe /dev/zero --out run",
        "lr-find d --model m.onnx --recipe pipe.toml",
        "data show d --recipe pipe.toml",
        "verify m.onnx --against m.onnx --inputs pipe.npz",
        "verify n.onnx --against m.onnx",
        "quantize m.onnx --mode static --calibration pictures",
        "quantize pipe.onnx --mode dynamic",
        "export pipe.onnx --format onnx",
        "predict piped_run p.bmp",
        "eval piped_run d",
        "report piped_run",
        "export piped_run --format onnx",
    ] {
        let named = command
            .split(' ')
            .find(|word| ["pipe", "/dev", "pictures", "n.onnx"].iter().any(|name| word.contains(name)));
        refused(&world, command, &[named.unwrap()]);
        assert!(!world.path("run").exists(), "{command}");
    }
    // Files that claim more than any of their kind has.
    fs::File::create(world.path("huge.toml")).unwrap().set_len(3 << 30).unwrap();
    refused(
        &world,
        "train d --model m.onnx --recipe huge.toml --out run",
        &["huge.toml", "a recipe has at most"],
    );
    world.write("huge.onnx", world.read("m.onnx"));
    fs::File::options().write(true).open(world.path("huge.onnx")).unwrap().set_len(1 << 40).unwrap();
    refused(&world, "inspect huge.onnx", &["huge.onnx", "sparse"]);
}

#[test]
fn a_manifest_is_checked_field_by_field() {
    let world = world("manifest", |_| {});
    world.json("export m.onnx --format onnx,coreml --out out");
    let verify = |file: &str| world.run(&format!("verify {file} --against m.onnx"));
    for file in ["out/m.onnx", "out/m.mlpackage"] {
        assert_eq!(verify(file).code, Some(0), "{:?}", verify(file));
    }
    // Two files of the same checkpoint.
    let both = world.run("verify out/m.onnx --against out/m.mlpackage --tolerance 0.1");
    assert_eq!(both.code, Some(0), "{both:?}");
    let text = world.text("out/m.onnx.manifest.json");
    let whole: Value = serde_json::from_str(&text).unwrap();
    let file = whole["files"][0].clone();
    let other = |name: &str| json!({"name": name, "bytes": file["bytes"], "sha256": file["sha256"]});
    let zeros = "0".repeat(64);
    let cases: [(&str, Value, &str); 33] = [
        ("/offshoot", json!("one"), "version"),
        ("/offshoot", json!(1), "no manifest"),
        ("/format", json!("coreml"), "format"),
        ("/format", json!("../x"), "format"),
        ("/files", json!([]), "not in the manifest"),
        ("/files", json!({}), "no manifest"),
        ("/files", json!([file, file]), "twice"),
        ("/files", json!([file, other("../../etc/passwd")]), "not below its folder"),
        ("/files", json!([file, other("/etc/passwd")]), "not below its folder"),
        ("/files", json!([file, other("")]), "not below its folder"),
        ("/files", json!([file, other("none")]), "missing"),
        ("/files/0/bytes", json!(1), "bytes, not 1"),
        ("/files/0/bytes", json!(-1), "no manifest"),
        ("/files/0/sha256", json!(zeros), "SHA-256 differs"),
        ("/files/0/sha256", json!(""), "SHA-256 differs"),
        ("/files/0/more", json!(1), "no manifest"),
        ("/source_sha256", json!(zeros), "another checkpoint"),
        ("/source_sha256", json!("x"), "another checkpoint"),
        ("/proof/kind", json!("structure"), "`kind`"),
        ("/proof/tolerance", json!(1e9), "`tolerance`"),
        ("/proof/tolerance", json!(0.5), "`tolerance`"),
        ("/proof/tolerance", json!(-1e-4), "`tolerance`"),
        ("/proof/tolerance", json!(null), "`tolerance`"),
        ("/proof/tolerance", json!("1e-4"), "no manifest"),
        ("/proof/max_abs_diff", json!(-1), "`max_abs_diff`"),
        ("/proof/max_rel_diff", json!(0.1), "`max_rel_diff`"),
        ("/proof/max_rel_diff", json!(null), "`max_rel_diff`"),
        ("/proof/cosine", json!(7), "`cosine`"),
        ("/proof/top1_agreement", json!(1.5), "`top1_agreement`"),
        ("/proof/batches", json!([]), "`batches`"),
        ("/proof/pictures", json!(0), "`pictures`"),
        (
            "/proof/preparation",
            json!({"kind": "x", "pictures": 1, "max_levels": 0, "mean_levels": 0, "max_rel_diff": null}),
            "`preparation`",
        ),
        ("/more", json!(1), "no manifest"),
    ];
    for (pointer, value, part) in cases {
        let mut changed = whole.clone();
        match changed.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                changed.pointer_mut(parent).unwrap()[key] = value.clone();
            }
        }
        world.write("out/m.onnx.manifest.json", changed.to_string());
        let said = verify("out/m.onnx");
        assert!(matches!(said.code, Some(1 | 2)) && said.err.contains(part), "{pointer} {value}: {said:?}");
    }
    for text in ["NaN", "{", "[]", ""] {
        world.write("out/m.onnx.manifest.json", text);
        assert_eq!(verify("out/m.onnx").code, Some(2), "{text}");
    }
    world.write("out/m.onnx.manifest.json", &text);
    world.write("out/m.mlpackage/Data/extra", "x");
    assert!(verify("out/m.mlpackage").err.contains("`m.mlpackage/Data/extra` is not in the manifest"));
    // A file made of a file that was made of the model.
    world.json("quantize out/m.onnx --mode dynamic --out out");
    let said = verify("out/m-dynamic-int8.onnx");
    assert!(!said.err.contains("another checkpoint"), "{said:?}");
}

#[test]
fn a_place_that_takes_no_file_is_found_before_the_work() {
    let world = world("places", |_| {});
    data(&world.path("d"), &CLASSES, 2);
    world.write("file", "x");
    fs::create_dir(world.path("s.png")).unwrap();
    let before = files(&world.root);
    for command in [
        "export m.onnx --format onnx --out file",
        "export m.onnx --format onnx --out file/x.onnx",
        "export m.onnx --format onnx --out /proc/x",
        "quantize m.onnx --mode static --calibration d --out file",
        "quantize m.onnx --mode static --calibration d --out /dev/null/x",
        "quantize m.onnx --mode dynamic --out file/x",
        "bench formats m.onnx --out file",
        "bench formats m.onnx --out x.onnx",
        "lr-find d --model m.onnx --out none/x.csv",
        "lr-find d --model m.onnx --out file/x.svg",
        "data show d --out none/x.png",
        "data show d --out s.png",
        "train d --model m.onnx --out file",
        "train d --model m.onnx --out file/run",
        "train d --model m.onnx --out run.onnx",
        "export m.onnx --format tensorrt --out new --trtexec none/trtexec",
    ] {
        let place = command.rsplit(' ').next().unwrap();
        let said = refused(&world, command, &[place]);
        for word in ["calibrating", "comparing", ".tmp", "writing", "note:"] {
            assert!(!said.err.contains(word), "{command}: {said:?}");
        }
        assert_eq!(files(&world.root), before, "{command} left something");
        assert_eq!(world.names(""), ["d", "file", "m.onnx", "p.bmp", "s.png"], "{command}");
    }
    assert_eq!(
        world.json("export m.onnx --format onnx,onnx --out twice")["files"].as_array().unwrap().len(),
        1
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_error_and_leaves_nothing() {
    let world = world("full", |_| {});
    for format in ["onnx", "torchscript", "coreml", "litert", "triton", "tensorrt"] {
        for blocks in [0, 1, 2] {
            // A limit on the size of files; without its signal, writing more is an error as on a full disk.
            let offshoot = env!("CARGO_BIN_EXE_offshoot");
            let script = format!(
                "trap '' XFSZ; ulimit -f {blocks}; {offshoot} export m.onnx --format {format} --out out 2>&1"
            );
            let output = Command::new("sh").args(["-c", &script]).current_dir(&world.root).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            if output.status.success() {
                assert!(blocks > 0, "{said}");
                fs::remove_dir_all(world.path("out")).unwrap();
                continue;
            }
            assert_eq!(output.status.code(), Some(2), "{format}: {said}");
            let errors: Vec<&str> = said.lines().filter(|line| !line.starts_with("comparing")).collect();
            assert!(matches!(errors[..], [error] if error.starts_with("error: out/")), "{format}: {said}");
            assert!(!said.contains(".tmp") && !said.contains("Zip"), "{format}: {said}");
            assert_eq!(world.names(""), ["m.onnx", "p.bmp"], "{format}");
        }
    }
}

#[test]
fn a_few_bytes_do_not_take_gigabytes() {
    let world = world("memory", |_| {});
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/strangers");
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, world.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    for name in ["input_8192", "constant_of_shape", "expand", "tile", "range"] {
        let file = format!("{name}.onnx");
        for command in
            ["predict FILE p.bmp", "export FILE --format onnx --out out", "verify FILE --against FILE"]
        {
            refused(&world, &command.replace("FILE", &file), &[&file]);
        }
        // Looking at a file takes what the file has.
        let said = world.run(&format!("inspect {file}"));
        assert!(matches!(said.code, Some(0 | 2)), "{said:?}");
    }
    refused(&world, "predict input_8192.onnx p.bmp", &["--memory-limit", "8192 x 8192"]);
    refused(&world, "predict input_8192.onnx none.bmp --memory-limit 8192", &["none.bmp"]);
    // A batch that is made smaller gives the same.
    let predict = |limit: &str| world.run(&format!("predict m.onnx p.bmp p.bmp {limit}")).out;
    assert_eq!(predict("--memory-limit 1"), predict(""));
}

#[test]
fn an_error_of_a_network_names_its_file() {
    let world = world("network", |_| {});
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/strangers/softmax_batch.onnx");
    fs::copy(golden, world.path("batch.onnx")).unwrap();
    for command in [
        "predict batch.onnx p.bmp",
        "export batch.onnx --format onnx --out out",
        "verify batch.onnx --against batch.onnx",
    ] {
        refused(&world, command, &["batch.onnx"]);
    }
}
