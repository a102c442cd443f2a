//! Each command: what it prints, what it writes, how it ends.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{CLASSES, SMALL, World, assert_shape, data};

#[test]
fn train_prints_its_result_and_fills_the_run_directory() {
    let world = World::new("train");
    data(&world.path("d"), &CLASSES, 5);
    let said = world.run(&format!("train d {SMALL} --epochs 2 --out run --json"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let result = said.json();
    let number = "number";
    assert_shape(
        &result,
        &[
            ("run", "string"),
            ("epochs", number),
            ("best", "object"),
            ("trainable_parameters", number),
            ("frozen_parameters", number),
            ("seconds", number),
            ("peak_mib", number),
        ],
    );
    assert_shape(&result["best"], &[("epoch", number), ("val_accuracy", number)]);
    assert_eq!((&result["run"], &result["epochs"]), (&json!("run"), &json!(2)));
    assert_eq!(result["trainable_parameters"], json!(2_223_872 + 1280 * 3 + 3));
    assert_eq!(result["frozen_parameters"], json!(0));
    assert!(said.err.contains("parameters  2,227,715 trainable, 0 frozen"), "{}", said.err);
    assert!(said.err.contains("12 to train with, 3 to validate with"), "{}", said.err);

    let files = [
        "best.safetensors",
        "groups.csv",
        "health.csv",
        "last.safetensors",
        "last.state.safetensors",
        "log.csv",
        "pictures.csv",
        "predictions.csv",
        "previous.state.safetensors",
        "recipe.toml",
        "report.html",
        "results.csv",
        "tensorboard",
    ];
    assert_eq!(world.names("run"), files);
    let results = world.text("run/results.csv");
    let lines: Vec<&str> = results.lines().collect();
    assert!(lines[0].starts_with("epoch,train_loss,train_accuracy,val_loss,val_accuracy,"));
    assert!(lines.len() == 3 && lines[1].starts_with("1,") && lines[2].starts_with("2,"), "{results}");
    let columns = lines[0].split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() == columns), "{results}");
    let recipe: toml_table::Table = toml_table::parse(&world.text("run/recipe.toml"));
    let data = format!("{:?}", world.path("d"));
    for (key, value) in [("model", "\"mobilenet_v2\""), ("data", &data), ("epochs", "2"), ("size", "32")] {
        assert_eq!(recipe.get(key).map(String::as_str), Some(value), "{key}");
    }
}

/// As much TOML as `recipe.toml` needs: `key = value` lines.
mod toml_table {
    pub(crate) type Table = std::collections::BTreeMap<String, String>;

    pub(crate) fn parse(text: &str) -> Table {
        let pairs = text.lines().filter_map(|line| line.split_once(" = "));
        pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }
}

#[test]
fn a_used_run_directory_is_refused_and_untouched() {
    let world = World::trained();
    let before = world.read("run/recipe.toml");
    let said = world.run(&format!("train d {SMALL} --epochs 9 --out run"));
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""));
    assert_eq!(
        said.err,
        "error: run: it is not empty; give --resume to resume the run in it, or another folder with --out\n"
    );
    assert_eq!(world.read("run/recipe.toml"), before);
}

#[test]
fn resume_of_a_finished_run_prints_the_result_again_and_of_nothing_starts() {
    let world = World::new("resume");
    data(&world.path("d"), &CLASSES, 4);
    let command = format!("train d {SMALL} --epochs 1 --freeze backbone --out run --resume");
    let first = world.json(&command);
    let best = world.read("run/best.safetensors");
    let again = world.json("train --resume --out run");
    for key in ["run", "epochs", "best", "trainable_parameters", "frozen_parameters"] {
        assert_eq!(first[key], again[key], "{key}");
    }
    assert_eq!(first["trainable_parameters"], json!(1280 * 3 + 3));
    assert_eq!(first["frozen_parameters"], json!(2_223_872));
    assert_eq!(world.read("run/best.safetensors"), best);

    let said = world.run("train d --epochs 2 --lr 0.01 --resume --out run");
    assert_eq!(said.code, Some(2));
    assert_eq!(
        said.err,
        "error: run: the run was started with other settings: `lr` is 0.001 there and \
         0.01 here. Leave them out to resume it, or start another run with --out\n"
    );
}

#[test]
fn eval_counts_pictures_and_classes() {
    let world = World::trained();
    let report = world.json("eval run d");
    let number = "number";
    assert_shape(
        &report,
        &[
            ("accuracy", number),
            ("top5", number),
            ("loss", number),
            ("ece", number),
            ("brier", number),
            ("coverage", "array"),
            ("images", number),
            ("skipped", number),
            ("per_class", "object"),
        ],
    );
    assert_eq!((&report["images"], &report["skipped"]), (&json!(30), &json!(0)));
    assert_eq!(report["top5"], json!(1.0));
    assert_shape(&report["per_class"], &[("blue", "object"), ("green", "object"), ("red", "object")]);
    let mut correct = 0.0;
    for class in ["blue", "green", "red"] {
        let figures = &report["per_class"][class];
        assert_shape(figures, &[("images", number), ("accuracy", number)]);
        correct += figures["accuracy"].as_f64().unwrap() * figures["images"].as_f64().unwrap();
    }
    assert!((report["accuracy"].as_f64().unwrap() - correct / 30.0).abs() < 1e-12);
    let text = world.run("eval run d").out;
    assert!(text.starts_with("accuracy  ") && text.contains("images    30 (0 skipped)"), "{text}");
    // The same model by its file, and on one thread.
    assert_eq!(world.json("eval run/best.safetensors d --threads 1"), report);
}

#[test]
fn preprocessing_can_be_changed_and_changes_the_answer() {
    let world = World::trained();
    let loss = |flags: &str| world.json(&format!("eval run d {flags}"))["loss"].as_f64().unwrap();
    let own = loss("");
    for flags in ["--size 64", "--fit pad", "--fit stretch", "--mean 0,0,0", "--std 0.5,0.5,0.5"] {
        assert_ne!(loss(flags), own, "{flags}");
    }
    assert_eq!(loss("--size 32 --fit crop --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"), own);
    let inspected = world.json("inspect run --size 64 --fit pad");
    let steps = &inspected["preprocessing"];
    assert_eq!((&steps["size"], &steps["resize"], &steps["fit"]), (&json!(64), &json!(74), &json!("pad")));
}

#[test]
fn predict_prints_one_object_a_picture() {
    let world = World::trained();
    let said = world.run("predict run d/red d/blue/03.bmp --top 2 --json");
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 11);
    assert_eq!((&lines[0]["path"], &lines[10]["path"]), (&json!("d/red/00.bmp"), &json!("d/blue/03.bmp")));
    for line in &lines {
        assert_shape(line, &[("path", "string"), ("top", "array")]);
        let top = line["top"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        for guess in top {
            assert_shape(guess, &[("class", "string"), ("index", "number"), ("probability", "number")]);
            assert_eq!(guess["class"], CLASSES[guess["index"].as_u64().unwrap() as usize].0);
        }
        assert!(top[0]["probability"].as_f64() >= top[1]["probability"].as_f64());
    }

    let line = world.json("predict run d/red/00.bmp --logits");
    assert_shape(&line, &[("path", "string"), ("top", "array"), ("logits", "array")]);
    let logits: Vec<f64> = line["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    assert_eq!(logits.len(), 3);
    for guess in line["top"].as_array().unwrap() {
        let softmax = logits[guess["index"].as_u64().unwrap() as usize].exp() / sum;
        assert!((guess["probability"].as_f64().unwrap() - softmax).abs() < 1e-9, "{line}");
    }
    assert_eq!(line["top"].as_array().unwrap()[..2], lines[0]["top"].as_array().unwrap()[..]);
    let text = world.run("predict run d/red/00.bmp --top 1").out;
    assert!(text.starts_with("d/red/00.bmp: ") && text.ends_with("%\n"), "{text}");
}

#[test]
fn pictures_that_cannot_be_used_are_named_and_counted_or_fatal() {
    let world = World::new("unreadable");
    let trained = World::trained().path("run/best.safetensors");
    fs::copy(trained, world.path("m.safetensors")).unwrap();
    data(&world.path("d"), &CLASSES, 3);
    let whole = world.read("d/red/00.bmp");
    world.write("d/red/junk.jpg", "no picture");
    world.write("d/red/empty.png", "");
    world.write("d/red/short.bmp", &whole[..whole.len() / 2]);
    world.write("d/red/notes.txt", "passed over");

    let said = world.run("predict m.safetensors d --json");
    assert_eq!((said.code, said.out.lines().count()), (Some(0), 9), "{said:?}");
    let warnings: Vec<&str> = said.err.lines().collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    for (warning, name) in warnings.iter().zip(["empty.png: ", "junk.jpg: ", "short.bmp: "]) {
        assert!(warning.starts_with("warning: skipped d/red/") && warning.contains(name), "{warning}");
    }
    assert_eq!(warnings[3], "warning: 3 pictures skipped");
    let report = world.json("eval m.safetensors d");
    assert_eq!((&report["images"], &report["skipped"]), (&json!(9), &json!(3)));
    // Half for validation: the broken picture is not the only one of its class there.
    let train = format!("train d {SMALL} --epochs 1 --freeze backbone --val-fraction 0.5");
    let said = world.run(&format!("{train} --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    for name in ["empty.png", "junk.jpg", "short.bmp"] {
        assert_eq!(said.err.matches(name).count(), 1, "{}", said.err);
    }

    for command in
        ["predict m.safetensors d", "eval m.safetensors d", "train d --model mobilenet_v2 --out strict"]
    {
        let said = world.run(&format!("{command} --strict"));
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(world.relative(&said.err).contains("error: d/red/empty.png: the file is empty"), "{said:?}");
    }
    assert!(!world.path("strict").exists());
    // A picture whose header is good is found out later.
    fs::create_dir(world.path("short")).unwrap();
    fs::rename(world.path("d/red/short.bmp"), world.path("short/short.bmp")).unwrap();
    let said = world.run("predict m.safetensors d/blue short --strict");
    assert!(said.code == Some(2) && said.err.contains("error: short/short.bmp: "), "{said:?}");
    let said = world.run("predict m.safetensors short");
    assert!(said.code == Some(2) && said.err.contains("no picture could be classified"), "{said:?}");
}

#[test]
fn weights_of_a_run_start_another_with_other_classes() {
    let world = World::new("transfer");
    fs::copy(World::trained().path("run/best.safetensors"), world.path("m.safetensors")).unwrap();
    data(&world.path("d"), &CLASSES[..2], 4);
    let flags = "--weights m.safetensors --freeze backbone --head mlp:8,dropout=0.4 --epochs 1 --out run";
    let result = world.json(&format!("train d {SMALL} {flags}"));
    assert_eq!(result["trainable_parameters"], json!(1280 * 8 + 8 + 8 * 2 + 2));
    let inspected = world.json("inspect run");
    assert_eq!(inspected["classes"], json!(["blue", "green"]));
    assert_eq!(inspected["head"], json!("mlp:8,dropout=0.4"));
    assert_eq!(inspected["outputs"][0]["shape"], json!(["batch_size", "2"]));
    let names: Vec<&str> =
        inspected["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"classifier.1.0.weight") && names.contains(&"classifier.1.3.bias"), "{names:?}");
    // As a pretrained model, by architecture and file: its classes are numbers.
    data(&world.path("i"), &[("0", [9; 3]), ("2", [200; 3])], 1);
    let report = world.json("eval --model mobilenet_v2 --weights m.safetensors --size 32 i");
    assert_eq!(report["images"], json!(2));
}

#[test]
fn inspect_says_what_a_file_is() {
    let world = World::trained();
    let model = world.json("inspect run/best.safetensors");
    assert_eq!(model["kind"], json!("model"));
    assert_eq!(model["architecture"], json!("mobilenet_v2"));
    assert_eq!(model["head"], json!("linear,dropout=0.2"));
    assert_eq!(model["classes"], json!(["blue", "green", "red"]));
    assert_eq!(model["parameters"], json!(2_227_715));
    assert_eq!(
        model["inputs"],
        json!([{"name": "input", "dtype": "f32", "shape": ["batch_size", "3", "32", "32"]}])
    );
    assert_eq!(model["outputs"], json!([{"name": "output", "dtype": "f32", "shape": ["batch_size", "3"]}]));
    assert_eq!(model["operators"]["Conv"], json!(52));
    let text = world.run("inspect run/best.safetensors");
    assert!(text.out.contains("classes        3: blue, green, red"), "{text:?}");
    let state = world.json("inspect run/last.state.safetensors");
    assert_eq!(state["kind"], json!("weights"));
}

#[test]
fn a_model_is_one_whatever_the_length_of_its_header() {
    let (world, copy) = (World::trained(), World::new("headers"));
    let best = world.read("run/best.safetensors");
    let (length, rest) = best.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, data) = rest.split_at(length);
    // The first bytes are those of a pickle, of an ONNX file, of a zip archive.
    for first in [0x80, 0x08, 0x4b50] {
        let step = if first > 0xff { 1 << 16 } else { 1 << 8 };
        let longer = (length + 8..).find(|n| n % step == first).unwrap();
        let mut file = (longer as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.resize(8 + longer, b' ');
        file.extend(data);
        copy.write("model.safetensors", &file);
        let inspected = copy.json("inspect model.safetensors");
        assert_eq!(inspected["architecture"], "mobilenet_v2", "{first:#x}");
    }
}

#[test]
fn bench_prints_a_row() {
    let world = World::trained();
    for what in ["infer", "train", "train --freeze backbone"] {
        let row = world
            .json(&format!("bench {what} --model mobilenet_v2 --size 32 --batch 16 --runs 1 --threads 2"));
        let number = "number";
        let mut keys = vec![
            ("images_per_second", number),
            ("milliseconds", number),
            ("peak_mib", number),
            ("cpu", "string"),
            ("threads", number),
        ];
        if what != "infer" {
            keys.extend([("gradient_bytes", number), ("sent_bytes", "object")]);
            let gradients = row["gradient_bytes"].as_u64().unwrap();
            assert_eq!(row["sent_bytes"]["2"], json!(gradients));
            let of_four = row["sent_bytes"]["4"].as_f64().unwrap() / gradients as f64;
            assert!((of_four - 1.5).abs() < 1e-3, "{row}");
        }
        assert_shape(&row, &keys);
        assert_eq!(row["threads"], json!(2));
        let product = row["images_per_second"].as_f64().unwrap() * row["milliseconds"].as_f64().unwrap();
        assert!((product - 16e3).abs() < 1.0, "{row}");
    }
}

#[test]
fn bench_says_where_the_time_goes() {
    let world = World::trained();
    for what in ["infer", "train", "train --freeze backbone"] {
        let bench = format!("bench {what} --model mobilenet_v2 --size 32 --batch 16 --runs 3 --profile");
        let row = world.json(&bench);
        for peak in ["peak_gflops", "peak_gbytes"] {
            assert!(row[peak].as_f64().is_some_and(|peak| peak > 0.0), "{peak} of {row}");
        }
        let operators = row["operators"].as_array().unwrap();
        for operator in operators {
            let (text, number) = ("string", "number");
            let rates = ["milliseconds", "gflops", "gbytes", "operations", "bytes"].map(|key| (key, number));
            let names = ["node", "operator", "kernel"].map(|key| (key, text));
            assert_shape(operator, &[&names[..], &rates].concat());
            assert!(names.iter().all(|(key, _)| operator[key] != ""), "{operator}");
            assert!(rates.iter().all(|(key, _)| operator[key].as_f64() >= Some(0.0)), "{operator}");
        }
        let kernel = |name: &str| operators.iter().any(|operator| operator["kernel"] == name);
        assert!(kernel("pointwise") && kernel("gemm"), "{row}");
        assert_eq!(kernel("update"), what.starts_with("train"), "{row}");
        // Of three runs, no median is above both of the two that are faster as a whole.
        let sum: f64 = operators.iter().map(|operator| operator["milliseconds"].as_f64().unwrap()).sum();
        assert!(sum > 0.0 && sum <= 2.0 * row["milliseconds"].as_f64().unwrap(), "{sum} of {row}");

        let said = world.run(&bench);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
        for part in ["share", "GFLOP/s", "slowest nodes", "depthwise", "this machine's peaks: "] {
            assert!(said.out.contains(part), "{part}: {}", said.out);
        }
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let world = World::trained();
    let mut child =
        world.command("predict run d --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf_8_is_no_reason_to_fail() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new("names");
    let folder = world.root.join(std::ffi::OsStr::from_bytes(b"f\xff"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("m.safetensors"), World::trained().read("run/best.safetensors")).unwrap();
    crate::support::pictures(&folder.join("d/red"), [200, 40, 40], 1);
    let run = |command: &str, paths: &[&str]| {
        let paths = paths.iter().map(|path| folder.join(path));
        let output = world.command(command).args(paths).output().unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(!err.contains("panicked"), "{err}");
        (output.status.code(), out, err)
    };
    for (command, paths) in [
        ("predict --json", ["m.safetensors", "d"].as_slice()),
        ("eval --json", &["m.safetensors", "d"]),
        ("inspect --json", &["m.safetensors"]),
        ("export --format onnx --json", &["m.safetensors"]),
    ] {
        let (code, out, err) = run(command, paths);
        assert_eq!(code, Some(0), "{err}");
        serde_json::from_str::<Value>(&out).unwrap();
    }
    let (code, _, err) = run("train --model mobilenet_v2", &["d"]);
    assert!(code == Some(2) && err.contains("the name is not UTF-8"), "{err}");
}

#[test]
fn pretrained_weights_start_with_a_linear_probe() {
    let world = World::new("probe");
    fs::write(world.path("m.safetensors"), World::trained().read("run/best.safetensors")).unwrap();
    data(&world.path("d"), &CLASSES, 5);
    let said =
        world.run(&format!("train d {SMALL} --weights m.safetensors --epochs 2 --ema 0.5 --out run --json"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("frozen    2,223,872       no"), "{}", said.err);
    assert!(said.err.contains("unfrozen    after 1 epochs"), "{}", said.err);
    assert!(said.err.contains("features.18"), "{}", said.err);
    let recipe = world.text("run/recipe.toml");
    assert!(recipe.contains(r#"unfreeze = ["features.17@50%:x0.1", "features.18@50%:x0.1"]"#), "{recipe}");
    assert!(recipe.contains("freeze = \"backbone\"\n") && recipe.contains("augment = \"off\"\n"), "{recipe}");
    let groups = world.text("run/groups.csv");
    assert!(
        groups.contains("\n2,1,features.17,") && groups.contains("\n1,0,frozen,2223872,false,"),
        "{groups}"
    );
    let trainable = said.json()["trainable_parameters"].as_u64().unwrap();
    assert!(trainable > 1280 * 3 + 3 && trainable < 1_000_000, "{trainable}");
}

#[test]
fn the_recipe_of_a_model_is_a_file_that_train_takes() {
    let world = World::trained();
    let said = world.run("recipe --model mobilenet_v2");
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.out.contains("# Number of epochs. (1 to 1000000)\nepochs = 30\n"), "{}", said.out);
    assert!(said.out.contains("unfreeze = [\"features.17@50%:x0.1\""), "{}", said.out);
    let world = World::new("recipe");
    world.write("r.toml", &said.out);
    data(&world.path("d"), &CLASSES, 5);
    let result = world.json(&format!("train d {SMALL} --epochs 2 --recipe r.toml --out run"));
    assert_eq!(result["epochs"], json!(2));
    assert_eq!(world.json("recipe --model resnet18")["unfreeze"], json!(["layer4@50%:x0.1"]));
}

#[test]
fn lr_find_draws_a_curve_and_changes_nothing() {
    let world = World::new("lr-find");
    data(&world.path("d"), &CLASSES, 6);
    let command = "lr-find d --model mobilenet_v2 --size 32 --freeze backbone --steps 40 --to 100";
    let before = world.names("");
    let curve = world.json(command);
    assert_eq!(world.names(""), before);
    let points = curve["points"].as_array().unwrap();
    assert!(points.len() > 10 && points.len() <= 40, "{}", points.len());
    assert_eq!(points[0]["lr"], json!(1e-7));
    assert_shape(
        &curve,
        &[("suggestion", if curve["suggestion"].is_null() { "null" } else { "number" }), ("points", "array")],
    );
    let said = world.run(&format!("{command} --out curve.csv --out curve.svg"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains('*') && said.out.contains("suggestion"), "{}", said.out);
    assert_eq!(world.text("curve.csv").lines().count(), points.len() + 1);
    assert!(world.text("curve.svg").starts_with("<svg"));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let world = World::trained();
    for arguments in ["--help", "--version", "train --help", "bench infer --help"] {
        let said = world.run(arguments);
        assert!(said.code == Some(0) && !said.out.is_empty() && said.err.is_empty(), "{said:?}");
    }
    assert_eq!(world.run("--version").out, format!("offshoot {}\n", env!("CARGO_PKG_VERSION")));
}
