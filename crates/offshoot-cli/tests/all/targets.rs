//! What is written for servers and phones: TensorRT, Triton, Core ML, LiteRT, from the command line.

use std::fs;

use serde_json::json;

use crate::support::{World, assert_shape, pictures};

/// A folder of its own with the trained model of all tests in it.
fn world(name: &str) -> World {
    let world = World::new(name);
    world.write("m.safetensors", World::trained().read("run/best.safetensors"));
    world
}

#[cfg(unix)]
fn stand_in(world: &World, body: &str) {
    use std::os::unix::fs::PermissionsExt;
    world.write("bin/trtexec", format!("#!/bin/sh\n{body}\n"));
    fs::set_permissions(world.path("bin/trtexec"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn without_tensorrt_the_export_says_so_and_leaves_the_command() {
    let world = world("no-trtexec");
    let mut command = world.command("export m.safetensors --format tensorrt --out out --batch-max 16 --json");
    let output = command.env("PATH", "").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("no TensorRT here"), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = &report["files"][0];
    assert_eq!(file["engine"], json!(null));
    let command = "trtexec --onnx=model.onnx --saveEngine=model.engine --minShapes=input:1x3x32x32 \
                   --optShapes=input:8x3x32x32 --maxShapes=input:16x3x32x32 --fp16";
    assert_eq!(file["command"], json!(command));
    assert_eq!(
        world.names("out/mobilenet_v2-tensorrt"),
        ["build-engine.sh", "model.onnx", "model.onnx.manifest.json"]
    );
    assert!(file["max_abs_diff"].as_f64().unwrap() < 1e-3);
}

/// A stand-in for `trtexec`, which writes down what it was asked.
#[cfg(unix)]
#[test]
fn trtexec_builds_the_engine_from_the_file_that_was_proven() {
    let world = world("trtexec");
    stand_in(
        &world,
        "for a; do echo \"$a\"; done > asked.txt; test -s model.onnx && echo engine > model.engine",
    );
    let flags = "--format tensorrt --out out --precision f32 --batch-min 2 --batch-opt 4 --batch-max 8";
    let report = world.json(&format!("export m.safetensors {flags} --trtexec bin/trtexec"));
    assert_eq!(report["files"][0]["engine"], json!("out/mobilenet_v2-tensorrt/model.engine"));
    assert_eq!(
        world.text("out/mobilenet_v2-tensorrt/asked.txt").lines().collect::<Vec<_>>(),
        [
            "--onnx=model.onnx",
            "--saveEngine=model.engine",
            "--minShapes=input:2x3x32x32",
            "--optShapes=input:4x3x32x32",
            "--maxShapes=input:8x3x32x32",
        ]
    );
    // The script that is left asks the same.
    fs::remove_file(world.path("out/mobilenet_v2-tensorrt/model.engine")).unwrap();
    let script = world.path("out/mobilenet_v2-tensorrt/build-engine.sh");
    let asked = world.text("out/mobilenet_v2-tensorrt/asked.txt");
    let status =
        std::process::Command::new(script).env("TRTEXEC", world.path("bin/trtexec")).status().unwrap();
    assert!(status.success() && world.path("out/mobilenet_v2-tensorrt/model.engine").is_file());
    assert_eq!(world.text("out/mobilenet_v2-tensorrt/asked.txt"), asked);
}

#[cfg(unix)]
#[test]
fn what_trtexec_says_when_it_fails_is_shown() {
    let world = world("trtexec-fails");
    stand_in(&world, "echo '[E] no CUDA device' >&2; exit 3");
    let said = world.run("export m.safetensors --format tensorrt --out out --trtexec bin/trtexec");
    assert_eq!(said.code, Some(2));
    for word in ["bin/trtexec failed", "no CUDA device", "build-engine.sh"] {
        assert!(said.err.contains(word), "{said:?}");
    }
    stand_in(&world, "exit 0");
    let said = world.run("export m.safetensors --format tensorrt --out out --trtexec bin/trtexec");
    assert!(said.code == Some(2) && said.err.contains("left no engine"), "{said:?}");
}

#[test]
fn a_profile_out_of_order_and_int8_without_pictures_are_refused() {
    let world = world("refused");
    let said = world.run("export m.safetensors --format tensorrt --batch-min 9 --batch-opt 4");
    assert!(said.code == Some(2) && said.err.contains("not in order"), "{said:?}");
    let said = world.run("export m.safetensors --format tensorrt --precision int8");
    assert!(said.code == Some(2) && said.err.contains("--calibration DIR"), "{said:?}");
    assert_eq!(world.names("."), ["m.safetensors"]);
}

#[test]
fn triton_gets_a_repository() {
    let world = world("triton");
    let report = world.json("export m.safetensors --format triton --out out --batch-max 4");
    assert_eq!(report["files"][0]["path"], json!("out/mobilenet_v2-triton/mobilenet_v2/1/model.onnx"));
    let folder = "out/mobilenet_v2-triton/mobilenet_v2";
    assert_eq!(world.names(folder), ["1", "config.pbtxt", "labels.txt"]);
    assert_eq!(world.text(&format!("{folder}/labels.txt")), "blue\ngreen\nred\n");
    let config = world.text(&format!("{folder}/config.pbtxt"));
    for line in ["name: \"mobilenet_v2\"", "max_batch_size: 4", "dims: [ 3, 32, 32 ]", "dims: [ 3 ]"] {
        assert!(config.contains(line), "{config}");
    }
}

#[test]
fn a_litert_file_is_a_model_too() {
    let world = world("litert");
    world.json("export m.safetensors --format litert --out out");
    assert_eq!(world.names("out"), ["mobilenet_v2.tflite", "mobilenet_v2.tflite.manifest.json"]);
    assert_eq!(world.json("verify out/mobilenet_v2.tflite --against m.safetensors")["ok"], json!(true));
    assert_eq!(world.json("inspect out/mobilenet_v2.tflite")["classes"], json!(["blue", "green", "red"]));
    let size = |name: &str| std::fs::metadata(world.path(name)).unwrap().len();
    let f32 = size("out/mobilenet_v2.tflite");
    world.json("export m.safetensors --format litert --precision f16 --out half");
    assert!(size("half/mobilenet_v2.tflite") * 10 < f32 * 6);
    assert_eq!(world.json("verify half/mobilenet_v2.tflite --against m.safetensors")["ok"], json!(true));
    pictures(&world.path("d"), [200, 90, 40], 6);
    let command = "export m.safetensors --format litert --precision int8 --calibration d --out int8";
    let report = world.json(command);
    assert_eq!(report["files"][0]["format"], json!("litert"));
    assert!(size("int8/mobilenet_v2.tflite") * 10 < f32 * 4);
    assert_eq!(world.json("verify int8/mobilenet_v2.tflite --against m.safetensors")["ok"], json!(true));
}

#[test]
fn a_core_ml_package_is_a_model_too() {
    let world = world("coreml");
    for precision in ["f32", "f16", "int8"] {
        let report =
            world.json(&format!("export m.safetensors --format coreml --precision {precision} --out out"));
        let keys = [
            ("format", "string"),
            ("path", "string"),
            ("bytes", "number"),
            ("max_abs_diff", "number"),
            ("top1_agreement", "number"),
        ];
        assert_shape(&report["files"][0], &keys);
        // Each takes the place of the one before.
        assert_eq!(world.names("out"), ["mobilenet_v2.mlpackage", "mobilenet_v2.mlpackage.manifest.json"]);
    }
    world.json("export m.safetensors --format coreml --precision f32 --out out");
    assert_eq!(world.json("verify out/mobilenet_v2.mlpackage --against m.safetensors")["ok"], json!(true));
    let again = world.json("export out/mobilenet_v2.mlpackage --format onnx");
    assert_eq!(again["files"][0]["path"], json!("out/mobilenet_v2.onnx"));
    world.write("out2/mobilenet_v2.mlpackage/notes.txt", "mine");
    let said = world.run("export m.safetensors --format coreml --out out2");
    assert!(said.code == Some(2) && said.err.contains("not an unchanged export"), "{said:?}");
    assert_eq!(world.text("out2/mobilenet_v2.mlpackage/notes.txt"), "mine");
}
