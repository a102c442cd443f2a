//! The main job on real weights and pictures, and what came of it in the hands of ONNX Runtime, safetensors and PyTorch
//! (`scripts/interop.py`).

use std::path::Path;
use std::process::Command;

use offshoot::{Fit, ModelSource, Overrides, PREPARED_LEVELS, PREPARED_MEAN_LEVELS};
use offshoot_formats::safetensors;
use offshoot_graph::Interpolation;
use serde_json::{Value, json};

use crate::several_labels;
use crate::support::{CLASSES, World, cached, data};

/// Runs a check of scripts/interop.py, which must pass.
fn interop(world: &World, arguments: &[&str]) -> Value {
    python(world, "interop.py", arguments)
}

/// Runs a script of `scripts/`, which must succeed.
fn python(world: &World, script: &str, arguments: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(script);
    let python = cached("OFFSHOOT_PEERS", "peers").join("bin/python");
    let output = Command::new(python).arg(script).args(arguments).current_dir(&world.root).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn pytorch_gives_the_labels_of_a_script() {
    let world = several_labels::world("script");
    world.json(
        "train d.csv --task multi --model resnet18 --size 32 --batch-size 8 --epochs 2 --lr 0.001 --out run",
    );
    let pictures = predict(&world, "run", "d", "predictions.jsonl");
    let labels = |line: &str| serde_json::from_str::<Value>(line).unwrap()["labels"].clone();
    let said: Vec<Value> = world.text("predictions.jsonl").lines().map(labels).collect();
    assert!(said.iter().any(|labels| *labels != said[0]), "the pictures have the same labels");
    world.json("export run --format torchscript --script --out out");
    let report = interop(&world, &["labels", "out/resnet18.pt", "predictions.jsonl"]);
    assert_eq!(report["labels_equal"], json!(pictures), "{report}");
    assert!(report["difference"].as_f64() < Some(0.01), "{report}");
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
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn onnx_runtime_prepares_every_photograph_as_we_do() {
    let (world, pictures) = photos6("photos6-whole");
    let mut reports = Vec::new();
    let mut check = |model: &str, flags: &str, pictures: usize| {
        world.json(&format!("export {model} --format onnx --with-preprocess {flags} --out whole"));
        let file = world.names("whole").into_iter().find(|name| name.ends_with(".onnx")).unwrap();
        let report = interop(&world, &["whole", &format!("whole/{file}"), "predictions.jsonl"]);
        std::fs::remove_dir_all(world.path("whole")).unwrap();
        assert_eq!(report["top1_equal"], json!(pictures), "{report}");
        reports.push(report);
    };
    // Padded, bilinear.
    check("run", "", pictures);
    check("run", "--opset 21", pictures);
    let assets = cached("OFFSHOOT_ASSETS", "assets");
    let photos = assets.join("photos6");
    // Cropped, bilinear and bicubic; stretched.
    for (name, flags) in [("mobilenet_v2", ""), ("efficientnet_lite0", ""), ("mobilenet_v2", "--fit stretch")]
    {
        let weights = assets.join(format!("weights/{name}.pth"));
        let model = format!("--model {name} --weights {}", weights.display());
        let pictures =
            predict(&world, &format!("{model} {flags}"), &photos.display().to_string(), "predictions.jsonl");
        check(&model, flags, pictures);
    }
    for report in reports {
        assert!(report["mean_pixel"].as_f64().unwrap() < 0.02, "{report}");
        assert!(report["difference"].as_f64().unwrap() < 0.02, "{report}");
    }
}

/// Exports a model with each fit and filter, and has its preparation of pictures of unusual sizes compared with Pillow's.
fn prepares_awkward_pictures(name: &str, flags: &str, ending: &str, check: &str) {
    let world = World::new(name);
    std::fs::create_dir(world.path("noise")).unwrap();
    interop(&world, &["awkward", "noise"]);
    let source = ModelSource::Path(World::trained().path("run/best.safetensors"));
    let mut model = source.load(&Overrides::default()).unwrap().model;
    for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
        for filter in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Nearest] {
            (model.metadata.preprocessing.fit, model.metadata.preprocessing.interpolation) = (fit, filter);
            let metadata = serde_json::to_string(&model.metadata).unwrap();
            safetensors::write(&world.path("m.safetensors"), &model.weights, &metadata).unwrap();
            world.json(&format!("export m.safetensors {flags} --out out"));
            predict(&world, "m.safetensors", "noise", "predictions.jsonl");
            let file = format!("out/mobilenet_v2.{ending}");
            let report = interop(&world, &[check, &file, "predictions.jsonl"]);
            let most = |key: &str| report[key].as_f64().unwrap();
            let furthest = if filter == Interpolation::Nearest { 0.01 } else { PREPARED_LEVELS + 0.01 };
            assert!(most("furthest_pixel") < furthest, "{fit:?}, {filter:?}: {report}");
            assert!(most("worst_mean_pixel") < PREPARED_MEAN_LEVELS, "{fit:?}, {filter:?}: {report}");
            assert!(most("difference") < 0.01, "{fit:?}, {filter:?}: {report}");
        }
    }
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn onnx_runtime_prepares_pictures_of_awkward_sizes_as_we_do() {
    prepares_awkward_pictures("awkward-onnx", "--format onnx --with-preprocess", "onnx", "whole");
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn pytorch_prepares_pictures_of_awkward_sizes_as_we_do() {
    prepares_awkward_pictures("awkward-pytorch", "--format torchscript --script", "pt", "whole_script");
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn each_operator_set_runs_in_onnx_runtime_on_every_photograph() {
    let (world, pictures) = photos6("photos6-opsets");
    // The sets in which operators of this network changed; OFFSHOOT_GOLDEN=all takes each.
    let all = std::env::var("OFFSHOOT_GOLDEN").is_ok_and(|names| names == "all");
    let sets: &[u32] = if all { &[13, 14, 15, 16, 18, 19, 20, 21] } else { &[13, 18, 21] };
    for opset in sets {
        world.json(&format!("export run --format onnx --opset {opset} --out {opset}"));
        let file = format!("{opset}/mobilenet_v2.onnx");
        let report = interop(&world, &["onnx", &file, "predictions.jsonl"]);
        assert_eq!(report["batch 7"]["top1_equal"], json!(pictures), "{report}");
    }
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn files_of_other_converters_answer_in_onnx_runtime_as_here() {
    let world = World::new("converters");
    let forms = Path::new(env!("CARGO_MANIFEST_DIR")).join("../offshoot-formats/tests/golden/onnx_forms");
    let photos = cached("OFFSHOOT_ASSETS", "assets").join("photos6/birds");
    let files = std::fs::read_dir(&forms).unwrap().map(|e| e.unwrap().path());
    let files = files.filter(|p| p.extension().is_some_and(|e| e == "onnx") && !p.ends_with("features.onnx"));
    let mut count = 0;
    for path in files.filter(|p| !p.ends_with("features_changed.onnx")) {
        let file = path.display().to_string();
        predict(&world, &file, &format!("{} --size 32", photos.display()), "predictions.jsonl");
        interop(&world, &["foreign", &file, "predictions.jsonl", "32"]);
        count += 1;
    }
    assert_eq!(count, 22);
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn onnx_of_pytorchs_exporters_is_read_evaluated_and_exported() {
    let world = World::new("exporters-pytorch");
    let photos = cached("OFFSHOOT_ASSETS", "assets").join("photos6/birds");
    let report = interop(&world, &["export", ".", "96"]);
    for file in report["files"].as_array().unwrap() {
        let file = file.as_str().unwrap();
        let size = if file.contains("any") { "--size 96" } else { "" };
        predict(&world, file, &format!("{} {size}", photos.display()), "predictions.jsonl");
        interop(&world, &["foreign", file, "predictions.jsonl", "96"]);
        world.json(&format!("export {file} --format onnx {size} --out again"));
        let ours = world.json(&format!("verify again/{file} --against {file} {size}"));
        assert_eq!(ours["ok"], json!(true), "{file}: {ours}");
    }
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn a_head_loads_in_pytorch_and_answers_alike() {
    let (world, pictures) = photos6("photos6-pytorch");
    let report = interop(&world, &["pytorch", "run/best.safetensors", "predictions.jsonl"]);
    assert_eq!(report["top1_equal"], json!(pictures));
}

#[test]
#[ignore = "needs the Python peers with PyTorch and coremltools (OFFSHOOT_PEERS)"]
fn every_kind_of_backbone_ships_in_every_format_pytorch() {
    for name in [
        "mobilenet_v3_small",
        "efficientnet_b0",
        "convnext_tiny",
        "vit_b_16",
        "densenet121",
        "regnet_y_400mf",
        "squeezenet1_1",
    ] {
        let world = World::new(&format!("ships-{name}"));
        data(&world.path("d"), &CLASSES, 6);
        world.json(&format!(
            "train d --model {name} --size 64 --batch-size 8 --epochs 1 --freeze backbone --out run"
        ));
        let pictures = predict(&world, "run", "d", "predictions.jsonl");
        world.json("export run --format onnx,torchscript,coreml --precision f32 --out out");
        let [onnx, torchscript, coreml] =
            ["onnx", "pt", "mlpackage"].map(|extension| format!("out/{name}.{extension}"));
        let report = interop(&world, &["ships", &onnx, &torchscript, "predictions.jsonl"]);
        assert_eq!(report["onnx"]["batch 7"]["top1_equal"], json!(pictures), "{name}: {report}");
        // Some of them: NumPy interprets the program.
        let every = 6;
        let report = python(&world, "coreml.py", &[&coreml, "predictions.jsonl", "1e-3", &every.to_string()]);
        assert_eq!(report["top1_equal"], json!(pictures.div_ceil(every)), "{name}: {report}");
    }
}

#[test]
#[ignore = "needs the assets (OFFSHOOT_ASSETS)"]
fn an_onnx_file_is_fine_tuned_as_well_as_the_weights_it_came_from() {
    let world = World::new("photos6-from-onnx");
    let assets = cached("OFFSHOOT_ASSETS", "assets");
    let (photos, weights) = (assets.join("photos6"), assets.join("weights/mobilenet_v2.pth"));
    let (photos, weights) = (photos.display(), weights.display());
    world.json(&format!("export --model mobilenet_v2 --weights {weights} --format onnx --out ."));
    let common = "--freeze backbone --fit pad --epochs 30";
    let accuracy = |flags: &str, run: &str| {
        let result = world.json(&format!("train {photos} {flags} {common} --out {run}"));
        result["best"]["val_accuracy"].as_f64().unwrap()
    };
    let native = accuracy(&format!("--model mobilenet_v2 --weights {weights}"), "native");
    let grafted = accuracy("--model mobilenet_v2.onnx", "grafted");
    assert!(grafted > native - 0.05 && grafted > 0.85, "{grafted} from ONNX, {native} from the weights");
    world.json("export grafted --format onnx");
    predict(&world, "grafted", &photos.to_string(), "predictions.jsonl");
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
    for (model, size) in [("resnet18", 96), ("tf_efficientnet_lite0", 97)] {
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

#[test]
#[ignore = "needs the Python peers with PyTorch and coremltools (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn pytorch_runs_our_core_ml_program_on_photographs() {
    let (world, pictures) = photos6("photos6-coreml-pytorch");
    let every = 10;
    let looked_at = pictures.div_ceil(every) as u64;
    let bounds = [("f32", "1e-3", 0, 1.0), ("f16", "3e-2", 1, 0.51), ("int8", "0.2", 2, 0.28)];
    let mut bytes_f32 = 0.0;
    for (precision, tolerance, others, part) in bounds {
        world.json(&format!("export run --format coreml --precision {precision} --out {precision}"));
        let package = format!("{precision}/mobilenet_v2.mlpackage");
        if precision == "f32" {
            // Before coremltools opens it, which writes its Manifest.json again: the package's hashes hold no more then.
            assert_eq!(world.json(&format!("verify {package} --against run"))["ok"], json!(true));
        }
        let report =
            python(&world, "coreml.py", &[&package, "predictions.jsonl", tolerance, &every.to_string()]);
        assert_eq!(report["pictures"], json!(looked_at));
        assert!(report["top1_equal"].as_u64().unwrap() + others >= looked_at, "{precision}: {report}");
        let bytes = report["bytes"].as_f64().unwrap();
        bytes_f32 = if precision == "f32" { bytes } else { bytes_f32 };
        assert!(bytes <= part * bytes_f32, "{precision}: {bytes} of {bytes_f32}");
    }
}

/// The best classes of predictions.
fn classes(world: &World, file: &str) -> Vec<u64> {
    let rows = world.text(file);
    let best = |line: &str| serde_json::from_str::<Value>(line).unwrap()["top"][0]["index"].as_u64().unwrap();
    rows.lines().map(best).collect()
}

fn agreeing(a: &[u64], b: &[u64]) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn onnx_runtime_answers_like_our_integers() {
    let (world, pictures) = photos6("photos6-int8");
    let made = world.json("quantize run --mode static");
    assert_eq!(made["kept_float"], json!([]));
    let file = made["path"].as_str().unwrap();
    let photos = cached("OFFSHOOT_ASSETS", "assets").join("photos6").display().to_string();
    predict(&world, file, &photos, "int8.jsonl");
    let same = agreeing(&classes(&world, "int8.jsonl"), &classes(&world, "predictions.jsonl"));
    assert!(same * 100 >= 97 * pictures, "top-1 is the float network's on {same} of {pictures}");
    // Which checks that 99 % of the pictures get the same class.
    let report = interop(&world, &["int8", file, "int8.jsonl"]);
    assert_eq!(report["types"], json!(["FLOAT", "INT32", "INT8", "UINT8"]), "{report}");

    // What TensorRT takes: no u8, no integer biases.
    world.json("export run --format tensorrt --precision int8 --out trt");
    let file = "trt/mobilenet_v2-tensorrt/model.onnx";
    predict(&world, file, &photos, "trt.jsonl");
    let same = agreeing(&classes(&world, "trt.jsonl"), &classes(&world, "predictions.jsonl"));
    assert!(same * 100 >= 97 * pictures, "top-1 is the float network's on {same} of {pictures}");
    let report = interop(&world, &["int8", file, "trt.jsonl"]);
    assert_eq!(report["types"], json!(["FLOAT", "INT8"]), "{report}");
}

/// Calibrated on pictures that the networks were not trained with.
#[test]
#[ignore = "needs the assets (OFFSHOOT_ASSETS)"]
fn published_networks_keep_their_answers_in_integers() {
    let world = World::new("int8");
    let assets = cached("OFFSHOOT_ASSETS", "assets");
    let (pictures, photos) = (assets.join("imagenet20"), assets.join("photos6"));
    for name in ["mobilenet_v2", "efficientnet_lite0"] {
        let model =
            format!("--model {name} --weights {}", assets.join(format!("weights/{name}.pth")).display());
        let flags = format!("--mode static --calibration {} --out {name}", photos.display());
        let made = world.json(&format!("quantize {model} {flags}"));
        let size = made["bytes"].as_f64().unwrap() / made["bytes_before"].as_f64().unwrap();
        assert!(size < 0.29, "{name}: {size}");
        let pictures = pictures.display().to_string();
        assert_eq!(predict(&world, made["path"].as_str().unwrap(), &pictures, "int8.jsonl"), 20);
        predict(&world, &model, &pictures, "f32.jsonl");
        let same = agreeing(&classes(&world, "int8.jsonl"), &classes(&world, "f32.jsonl"));
        assert!(same >= 18, "{name}: top-1 is the float network's on {same} of 20");
    }
}
