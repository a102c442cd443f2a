//! What `export` leaves and `verify` looks at: manifests, opsets, files of other converters, inputs that are no
//! pictures.

use std::fs;
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
    let forms = Path::new(env!("CARGO_MANIFEST_DIR")).join("../offshoot-formats/tests/golden/onnx_forms");
    fs::copy(forms.join(name), world.path(name)).unwrap();
}

#[test]
fn a_manifest_holds_hashes_and_the_proof_and_nothing_of_the_place() {
    let world = trained("manifest");
    world.json("export m.safetensors --format onnx --data d --out out");
    let text = world.text("out/mobilenet_v2.onnx.manifest.json");
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let file = &manifest["files"][0];
    assert_eq!(file["name"], json!("mobilenet_v2.onnx"));
    assert_eq!(file["bytes"], json!(world.read("out/mobilenet_v2.onnx").len()));
    let hash = |name: &str| json!(offshoot::sha256(&world.path(name)).unwrap());
    assert_eq!(file["sha256"], hash("out/mobilenet_v2.onnx"));
    assert_eq!(manifest["source_sha256"], hash("m.safetensors"));
    let proof = &manifest["proof"];
    assert_eq!((&proof["kind"], &proof["pictures"]), (&json!("read back"), &json!(9)));
    assert_eq!(proof["batches"], json!([1, 2, 7, 32]));
    assert!(proof["max_rel_diff"].as_f64().unwrap() < proof["tolerance"].as_f64().unwrap());
    assert!(!text.contains(&*world.root.to_string_lossy()));
    world.json("export m.safetensors --format onnx --data d --out again");
    assert_eq!(world.text("again/mobilenet_v2.onnx.manifest.json"), text);
}

#[test]
fn verify_finds_a_file_that_is_not_the_manifests() {
    let world = trained("swapped");
    world.json("export m.safetensors --format onnx --out a");
    world.json("export m.safetensors --format onnx --opset 13 --out b");
    let verify = || world.run("verify a/mobilenet_v2.onnx --against m.safetensors --json");
    assert_eq!(verify().code, Some(0));
    // The other file computes the same, and is another.
    fs::copy(world.path("b/mobilenet_v2.onnx"), world.path("a/mobilenet_v2.onnx")).unwrap();
    let said = verify();
    assert_eq!((said.code, &said.json()["ok"]), (Some(1), &json!(false)));
    assert!(said.err.contains("SHA-256"), "{said:?}");
    world.write("a/mobilenet_v2.onnx.manifest.json", "{");
    let said = verify();
    assert!(said.code == Some(2) && said.err.contains("no manifest of offshoot"), "{said:?}");
}

#[test]
fn each_operator_set_answers_alike() {
    let world = trained("opsets");
    for opset in [13, 15, 18, 21] {
        world.json(&format!("export m.safetensors --format onnx --opset {opset} --out {opset}"));
        let file = format!("{opset}/mobilenet_v2.onnx");
        assert_eq!(world.json(&format!("verify {file} --against m.safetensors"))["ok"], json!(true));
        assert_eq!(world.json(&format!("eval {file} d")), world.json("eval m.safetensors d"));
    }
}

#[cfg(unix)]
#[test]
fn an_export_does_not_write_through_a_link() {
    let world = trained("link");
    world.write("precious", "keep");
    fs::create_dir(world.path("out")).unwrap();
    std::os::unix::fs::symlink(world.path("precious"), world.path("out/mobilenet_v2.onnx")).unwrap();
    let said = world.run("export m.safetensors --format onnx --out out");
    assert!(said.code == Some(2) && said.err.contains("symbolic link"), "{said:?}");
    assert_eq!(world.text("precious"), "keep");
    assert_eq!(world.names("out"), ["mobilenet_v2.onnx"]);
}

#[test]
fn files_of_tensorflows_converters_are_evaluated_and_exported() {
    let world = World::new("converters");
    let classes = [("0", [40, 40, 200]), ("1", [40, 200, 40]), ("2", [200, 40, 40]), ("3", [90; 3])];
    data(&world.path("d"), &classes, 2);
    for (name, flags) in [
        ("tf_each_transposed", ""),
        ("tf_any_size", "--size 32"),
        ("keras_efficient", ""),
        ("keras_resnet", ""),
        ("opset7", ""),
        ("opset23", ""),
    ] {
        foreign(&world, &format!("{name}.onnx"));
        let said = world.run(&format!("eval {name}.onnx d {flags} --json"));
        assert_eq!((said.code, &said.json()["images"]), (Some(0), &json!(8)), "{said:?}");
        assert!(said.err.contains("ImageNet") && said.err.contains("Softmax"), "{said:?}");
        // PyTorch has no pooling that pads one side only, which those of the opsets do.
        let (formats, endings) = if name.starts_with("opset") {
            ("onnx", &["onnx"][..])
        } else {
            ("onnx,torchscript", &["onnx", "pt"][..])
        };
        world.json(&format!("export {name}.onnx --format {formats} {flags} --out {name}"));
        for file in endings.iter().map(|ending| format!("{name}/{name}.{ending}")) {
            let report = world.json(&format!("verify {file} --against {name}.onnx --data d {flags}"));
            assert_eq!(report["ok"], json!(true), "{report}");
            // What was assumed is written down: the new file asks for nothing.
            let said = world.run(&format!("predict {file} d/0/00.bmp --logits --json"));
            assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
            let first = world.run(&format!("predict {name}.onnx d/0/00.bmp --logits --json {flags}"));
            let probability =
                |said: &crate::support::Said| said.json()["top"][0]["probability"].as_f64().unwrap();
            assert!((probability(&said) - probability(&first)).abs() < 1e-5, "{said:?} {first:?}");
        }
    }
    let said = world.run("eval tf_any_size.onnx d");
    assert!(said.code == Some(2) && said.err.contains("--size"), "{said:?}");
    let logits = |flags: &str| {
        world.json(&format!("predict opset23.onnx d/0/00.bmp --logits {flags}"))["logits"].clone()
    };
    assert_ne!(logits(""), logits("--mean 0,0,0 --std 1,1,1"));
    assert_ne!(logits(""), logits("--fit stretch"));
}

#[test]
fn a_model_on_numbers_is_verified_on_numbers() {
    let world = World::new("numbers");
    for name in ["features.onnx", "features_changed.onnx", "features.npz", "opset17.onnx"] {
        foreign(&world, name);
    }
    let report = world.json("verify features.onnx --against features.onnx --inputs features.npz");
    assert_eq!((&report["ok"], &report["batches"]), (&json!(true), &json!([1, 2, 7, 32])));
    let said = world.run("verify features_changed.onnx --against features.onnx --inputs features.npz --json");
    assert_eq!((said.code, &said.json()["ok"]), (Some(1), &json!(false)), "{said:?}");
    let loose =
        world.json("verify features.onnx --against features.onnx --inputs features.npz --tolerance 1");
    assert_eq!(loose["ok"], json!(true));
    let said = world.run("verify opset17.onnx --against opset17.onnx --inputs features.npz");
    assert!(said.code == Some(2) && said.err.contains("[9, 13]") && said.err.contains("takes"), "{said:?}");
    let said = world.run("verify features.onnx --against features.onnx");
    assert!(said.code == Some(2) && said.err.contains("not 4"), "{said:?}");
    world.write("junk.npz", "junk");
    let said = world.run("verify features.onnx --against features.onnx --inputs junk.npz");
    assert!(said.code == Some(2) && said.err.contains("no .npz archive"), "{said:?}");
}

#[test]
fn a_file_that_prepares_its_pictures_is_a_model_like_any_other() {
    let world = trained("prepares");
    world.json("export m.safetensors --format onnx --with-preprocess --out out");
    let file = "out/mobilenet_v2.onnx";
    assert_eq!(world.json(&format!("verify {file} --against m.safetensors"))["ok"], json!(true));
    assert_eq!(world.json(&format!("eval {file} d")), world.json("eval m.safetensors d"));
    for (flags, part) in [
        ("--format onnx --with-preprocess --opset 17", "opset 17"),
        ("--format torchscript --with-preprocess", "--format onnx"),
    ] {
        let said = world.run(&format!("export m.safetensors {flags} --out no"));
        assert!(said.code == Some(2) && said.err.contains(part), "{said:?}");
    }
}
