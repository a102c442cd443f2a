//! The main job on real weights and pictures, and what came of it in the hands of ONNX Runtime, safetensors and PyTorch
//! (`scripts/interop.py`).

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use support::{CLASSES, World, cached, data};

/// Runs a check of scripts/interop.py, which must pass.
fn interop(world: &World, arguments: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/interop.py");
    let python = cached("OFFSHOOT_PEERS", "peers").join("bin/python");
    let output = Command::new(python).arg(script).args(arguments).current_dir(&world.root).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn predict(world: &World, model: &str, pictures: &str, into: &str) -> usize {
    let said = world.run(&format!("predict {model} {pictures} --logits --json"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    world.write(into, &said.out);
    said.out.lines().count()
}

/// The head of the demo: MobileNetV2 on the photographs.
fn photos6(name: &str) -> (World, usize) {
    let world = World::new(name);
    let assets = cached("OFFSHOOT_ASSETS", "assets");
    let (photos, weights) = (assets.join("photos6"), assets.join("weights/mobilenet_v2.pth"));
    let result = world.json(&format!(
        "train {} --model mobilenet_v2 --weights {} --freeze backbone --fit pad --out run",
        photos.display(),
        weights.display()
    ));
    assert!(result["best"]["val_accuracy"].as_f64().unwrap() > 0.85, "{result}");
    let pictures = predict(&world, "run", &photos.display().to_string(), "predictions.jsonl");
    assert_eq!(pictures, 208);
    (world, pictures)
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn onnx_runtime_answers_like_us_on_every_photograph() {
    let (world, pictures) = photos6("photos6-onnx");
    world.json("export run --format onnx");
    let report = interop(&world, &["onnx", "run/exports/mobilenet_v2.onnx", "predictions.jsonl"]);
    for batch in [1, 2, 7, 32] {
        assert_eq!(report[format!("batch {batch}")]["top1_equal"], json!(pictures), "{report}");
    }
    assert_eq!(report["classes"], json!(["birds", "flowers", "fruit_veg", "insects", "mammals", "vehicles"]));
    let report = interop(&world, &["weights", "run/best.safetensors"]);
    assert_eq!((&report["tensors"], &report["architecture"]), (&json!(262), &json!("mobilenet_v2")));
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn a_head_loads_in_pytorch_and_answers_alike() {
    let (world, pictures) = photos6("photos6-pytorch");
    let report = interop(&world, &["pytorch", "run/best.safetensors", "predictions.jsonl"]);
    assert_eq!(report["top1_equal"], json!(pictures));
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn a_whole_resnet_with_an_mlp_loads_in_pytorch_and_answers_alike() {
    let world = World::new("resnet-pytorch");
    data(&world.path("d"), &CLASSES, 8);
    let flags = "--model resnet18 --head mlp:256,dropout=0.4 --size 64 --batch-size 8 --epochs 2";
    world.json(&format!("train d {flags} --out run"));
    let pictures = predict(&world, "run", "d", "predictions.jsonl");
    let report = interop(&world, &["pytorch", "run/best.safetensors", "predictions.jsonl"]);
    assert_eq!(report["pictures"], json!(pictures));
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn pytorch_runs_our_torchscript_on_every_photograph() {
    let (world, pictures) = photos6("photos6-torchscript-pytorch");
    world.json("export run --format torchscript");
    let report = interop(&world, &["torchscript", "run/exports/mobilenet_v2.pt", "predictions.jsonl"]);
    for form in ["loaded", "frozen", "optimised", "original"] {
        assert_eq!(report[format!("{form}, batch 7")]["top1_equal"], json!(28), "{report}");
    }
    let verified = world.json("verify run/exports/mobilenet_v2.pt --against run");
    assert_eq!((&verified["ok"], &verified["top1_agreement"]), (&json!(true), &json!(1.0)));

    world.json("export run --format torchscript --script --out scripted");
    let report = interop(&world, &["scripted", "scripted/mobilenet_v2.pt", "predictions.jsonl"]);
    let every_fourth = pictures.div_ceil(4) as u64;
    assert_eq!(report["pictures"], json!(every_fourth));
    assert!(report["top1_equal"].as_u64().unwrap() + 1 >= every_fourth, "{report}");
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn archives_of_pytorch_are_read_and_written_alike() {
    let world = World::new("archives-pytorch");
    for (model, size) in
        [("resnet18", 96), ("resnet50", 96), ("mobilenet_v2", 96), ("tf_efficientnet_lite0", 97)]
    {
        let size = size.to_string();
        interop(&world, &["make", ".", model, &size]);
        for form in ["trace", "script"] {
            let file = format!("{model}_{form}.pt");
            world.json(&format!("export {file} --format torchscript --size {size} --out again"));
            let report = interop(&world, &["same", &format!("again/{file}"), &file, &size]);
            for batch in [1, 2, 7] {
                for ours in ["loaded", "frozen", "optimised"] {
                    assert_eq!(
                        report[format!("{ours}, batch {batch}")]["top1_equal"],
                        json!(batch),
                        "{file}"
                    );
                }
            }
        }
    }
}
