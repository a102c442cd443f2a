//! `quantize --mode dynamic`: files in int8 and what is said of them.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{CLASSES, World, data};

/// A world with the small trained model in `m.safetensors` and pictures in `d`.
fn trained(name: &str) -> World {
    let world = World::new(name);
    world.write("m.safetensors", World::trained().read("run/best.safetensors"));
    data(&world.path("d"), &CLASSES, 3);
    world
}

/// Copies a file of another converter into the world.
fn foreign(world: &World, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../offshoot-formats/tests/golden/dynamic");
    fs::copy(folder.join(name), world.path(name)).unwrap();
}

/// The first logits of the pictures, by file.
fn logits(world: &World, model: &str) -> Vec<Value> {
    let said = world.run(&format!("predict {model} d --logits --json"));
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["logits"].clone()).collect()
}

#[test]
fn a_convolutional_network_is_told_so_beforehand_and_its_linear_layer_is_quantised() {
    let world = trained("dynamic");
    let said = world.run("quantize m.safetensors --mode dynamic --data d --json");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("gains little") && said.err.contains("--mode static"), "{said:?}");
    let file = said.json();
    let path = "mobilenet_v2-dynamic-int8.onnx";
    assert_eq!((&file["path"], &file["kept_float"]), (&json!(path), &json!([])));
    assert_eq!(file["bytes"], json!(world.read(path).len()));
    assert!(file["bytes"].as_u64() < file["bytes_before"].as_u64(), "{file}");
    assert!(file["accuracy"].is_number() && file["accuracy_before"].is_number(), "{file}");
    assert_eq!(world.json(&format!("eval {path} d"))["accuracy"], file["accuracy"]);
}

#[test]
fn both_formats_of_a_model_in_int8_answer_alike() {
    let world = trained("formats");
    let file = world.json("quantize m.safetensors --mode dynamic --format safetensors --out q");
    assert_eq!(file["accuracy"], Value::Null);
    world.json("quantize m.safetensors --mode dynamic --out q");
    let kept = logits(&world, "q/mobilenet_v2-dynamic-int8.safetensors");
    assert_eq!(kept, logits(&world, "q/mobilenet_v2-dynamic-int8.onnx"));
    assert_ne!(kept, logits(&world, "m.safetensors"));
    let tensors = world.json("inspect q/mobilenet_v2-dynamic-int8.safetensors");
    assert_eq!(tensors["operators"]["DynamicQuantizeMatMul"], json!(1));
    // Exported, it is the same file.
    world.json("export q/mobilenet_v2-dynamic-int8.safetensors --format onnx --out e");
    assert_eq!(world.read("e/mobilenet_v2.onnx"), world.read("q/mobilenet_v2-dynamic-int8.onnx"));
}

/// Writes an array of the type `descr` as an .npz.
fn npz(world: &World, name: &str, descr: &str, shape: [usize; 2], elements: &[u8]) {
    let [rows, steps] = shape;
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {steps}), }}\n");
    let length = (header.len() as u16).to_le_bytes();
    let mut archive = zip::ZipWriter::new(fs::File::create(world.path(name)).unwrap());
    archive.start_file("input.npy", zip::write::SimpleFileOptions::default()).unwrap();
    for part in [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), elements] {
        archive.write_all(part).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn a_text_model_runs_in_float_and_in_int8() {
    let world = World::new("tokens");
    foreign(&world, "text.onnx");
    world.json("quantize text.onnx --mode dynamic --out q");
    let rows = [[5i64, 39, 1, 17, 0, 0, 0], [8, 2, 30, 21, 7, -1, 3], [1, 1, 2, 0, 0, 0, 0]];
    let bytes = |rows: &[[i64; 7]]| rows.iter().flatten().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    npz(&world, "tokens.npz", "<i8", [3, 7], &bytes(&rows));
    let command = "verify q/text-dynamic-int8.onnx --against text.onnx --tolerance 0.05 --inputs";
    let report = world.json(&format!("{command} tokens.npz"));
    let off = report["max_rel_diff"].as_f64().unwrap();
    assert!(report["ok"] == true && off > 1e-6, "{report}");
    let inspected = world.json("inspect text.onnx");
    assert_eq!(inspected["inputs"][0]["dtype"], json!("i64"));
    let bench = "bench infer --runs 1 --model";
    let timing = world.json(&format!("{bench} q/text-dynamic-int8.onnx --inputs tokens.npz --batch 5"));
    assert!(timing["images_per_second"].as_f64().unwrap() > 0.0, "{timing}");

    npz(&world, "outside.npz", "<i8", [1, 7], &bytes(&[[1, 2, 40, 3, 4, 5, 6]]));
    npz(&world, "floats.npz", "<f4", [1, 7], &[0; 28]);
    npz(&world, "long.npz", "<i8", [1, 14], &bytes(&[[1; 7], [1; 7]]));
    for (arguments, words) in [
        (format!("{command} outside.npz"), "index 40 is outside of a table of 40 rows"),
        (format!("{command} floats.npz"), "give int64"),
        (format!("{command} long.npz"), "the model takes"),
        (format!("{bench} text.onnx --inputs outside.npz"), "index 40 is outside of a table of 40 rows"),
        (format!("{bench} text.onnx --inputs floats.npz"), "give int64"),
        (format!("{bench} text.onnx --inputs tokens.npz --batch 9999999999"), "1 to 65536"),
        (format!("{bench} text.onnx"), "tokens, not pictures"),
        (format!("{bench} mobilenet_v2 --inputs tokens.npz"), "is no model's file"),
        ("verify text.onnx --against text.onnx".into(), "tokens, not pictures"),
        ("export text.onnx --format onnx --out e".into(), "tokens, not pictures"),
        ("predict text.onnx q".into(), "tokens, not pictures"),
    ] {
        let said = world.run(&arguments);
        assert!(said.code == Some(2) && said.err.contains(words), "{arguments}: {said:?}");
    }
}

#[test]
fn a_text_model_is_quantised_without_being_run() {
    let world = World::new("text");
    foreign(&world, "text.onnx");
    let file = world.json("quantize text.onnx --mode dynamic --out q");
    assert_eq!((&file["path"], &file["accuracy"]), (&json!("q/text-dynamic-int8.onnx"), &Value::Null));
    assert_eq!(file["bytes"], json!(world.read("q/text-dynamic-int8.onnx").len()));
    for (arguments, words) in [
        ("quantize text.onnx --mode dynamic --data q", "text.onnx"),
        ("quantize text.onnx --mode dynamic --format safetensors", "--format"),
        ("quantize q/text-dynamic-int8.onnx --mode dynamic", "stored float weights"),
        ("quantize text.onnx", "--mode"),
        ("quantize text.onnx --mode dynamic --max-drop 0.01", "--max-drop is for"),
        ("quantize text.onnx --mode static --format safetensors", "--format is for"),
    ] {
        let said = world.run(arguments);
        assert!(said.code == Some(2) && said.err.contains(words), "{arguments}: {said:?}");
    }
}
