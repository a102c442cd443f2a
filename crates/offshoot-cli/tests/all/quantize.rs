//! `offshoot quantize`, and TensorRT's int8, from the command line.

use std::fs;

use offshoot::{ModelSource, is_quantized};
use offshoot_formats::onnx;
use offshoot_graph::op::Binary;
use offshoot_graph::{DType, Data, Model, Op, Source};
use serde_json::json;

use crate::support::{CLASSES, World, assert_shape, data};

fn model(world: &World, path: &str) -> Model {
    ModelSource::Path(world.path(path)).load(&Default::default()).unwrap().model
}

#[test]
fn a_run_is_quantised_with_its_own_pictures() {
    let world = World::new("run");
    data(&world.path("d"), &CLASSES, 10);
    world.json("train d --model mobilenet_v2 --size 32 --batch-size 8 --epochs 1 --out run");
    let report = world.json("quantize run --mode static");
    assert_shape(
        &report,
        &[
            ("path", "string"),
            ("bytes", "number"),
            ("bytes_before", "number"),
            ("accuracy", "number"),
            ("accuracy_before", "number"),
            ("kept_float", "array"),
        ],
    );
    assert_eq!(report["path"], json!("run/exports/mobilenet_v2-int8.onnx"));
    assert_eq!(report["kept_float"], json!([]));
    let size = report["bytes"].as_f64().unwrap() / report["bytes_before"].as_f64().unwrap();
    assert!(size < 0.29, "{size}");
    let file = world.path("run/exports/mobilenet_v2-int8.onnx");
    assert_eq!(fs::metadata(&file).unwrap().len(), report["bytes"].as_u64().unwrap());
    assert!(world.text("run/exports/mobilenet_v2-int8.onnx.manifest.json").contains("source_sha256"));

    // The file is the run's model in integers, with all that belongs to it.
    let (float, integers) = (model(&world, "run"), model(&world, "run/exports/mobilenet_v2-int8.onnx"));
    assert_eq!(integers.metadata, float.metadata);
    assert!(is_quantized(&integers) && !is_quantized(&float));
    let graph = &integers.graph;
    for node in graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv(_) | Op::Gemm(_))) {
        let weight = graph.node(graph.producer(node.inputs[1]).unwrap());
        let name = &graph.value(weight.inputs[0]).name;
        assert_eq!(integers.weights[name].shape(), float.weights[name].shape(), "the key stays");
        let Data::I8(elements) = integers.weights[name].data() else { panic!("{name}") };
        assert!(elements.iter().all(|q| (-63..=63).contains(q)), "{name}");
    }
    // It is a model like others.
    let report = world.json("eval run/exports/mobilenet_v2-int8.onnx d");
    assert_eq!(report["images"], json!(30));
    let report = world.json("inspect run/exports/mobilenet_v2-int8.onnx");
    assert!(report.is_object());
    // The same command writes the same bytes.
    let first = world.read("run/exports/mobilenet_v2-int8.onnx");
    world.json("quantize run --mode static --threads 1 --out again");
    assert!(first == world.read("again/mobilenet_v2-int8.onnx"));
}

#[test]
fn a_budget_keeps_the_costliest_operators_in_float() {
    let world = World::new("budget");
    data(&world.path("d"), &CLASSES, 10);
    world.json("train d --model mobilenet_v2 --size 32 --batch-size 8 --epochs 1 --out run");
    // Ranges from one black picture cut everything off.
    world.write("black/0.bmp", crate::support::bmp([0, 0, 0], 0));
    let flags = "--mode static --method minmax --calibration-pictures 1 --calibration black --data d";
    let all = world.json(&format!("quantize run {flags} --out all"));
    assert_eq!(all["kept_float"], json!([]));
    let (before, dropped) = (all["accuracy_before"].as_f64().unwrap(), all["accuracy"].as_f64().unwrap());
    let report = world.json(&format!("quantize run {flags} --max-drop 0 --out kept"));
    assert!(report["accuracy"].as_f64().unwrap() >= before, "{report}");
    let kept = report["kept_float"].as_array().unwrap();
    assert_eq!(kept.is_empty(), dropped >= before, "{report}");
    let quantised = model(&world, "kept/mobilenet_v2-int8.onnx");
    for name in kept {
        let name = name.as_str().unwrap();
        let node = quantised.graph.nodes().iter().find(|n| n.name == name).unwrap();
        if let Some(&weight) = node.inputs.get(1).filter(|_| matches!(node.op, Op::Conv(_) | Op::Gemm(_))) {
            assert!(quantised.graph.parameter_info(weight).is_some(), "{name} has a float weight");
            assert_eq!(quantised.graph.value(weight).dtype, DType::F32);
        }
    }
}

#[test]
fn training_through_the_rounding_changes_the_weights() {
    let world = World::new("qat");
    data(&world.path("d"), &CLASSES, 8);
    world.json("train d --model mobilenet_v2 --size 32 --batch-size 8 --epochs 1 --out run");
    world.json("quantize run --mode static --out plain");
    let said = world.run("quantize run --mode static --qat 1 --out trained --json");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("epoch 1 of 1 of quantization-aware training: loss"), "{said:?}");
    let weight = |path: &str| model(&world, path).weights["classifier.1.weight"].clone();
    let changed = weight("trained/mobilenet_v2-int8.onnx") != weight("plain/mobilenet_v2-int8.onnx");
    assert_ne!(changed, said.err.contains("its result is not used"), "{said:?}");
    let said = world.run("quantize run --mode static --qat 1 --max-drop 1 --out within");
    assert!(said.code == Some(0) && said.err.contains("no quantization-aware training needed"), "{said:?}");
    assert_eq!(weight("within/mobilenet_v2-int8.onnx"), weight("plain/mobilenet_v2-int8.onnx"));
}

#[test]
fn tensorrt_gets_explicit_quantisation() {
    let world = World::new("tensorrt");
    data(&world.path("d"), &CLASSES, 8);
    world.json("train d --model mobilenet_v2 --size 32 --batch-size 8 --epochs 1 --out run");
    let mut command = world.command("export run --format tensorrt --precision int8 --out out --json");
    let output = command.env("PATH", "").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = &report["files"][0];
    let command = file["command"].as_str().unwrap();
    assert!(command.ends_with("--int8 --fp16"), "{command}");
    assert!(file["accuracy"].is_number() && file["accuracy_before"].is_number(), "{file}");

    let graph = onnx::read(&world.path("out/mobilenet_v2-tensorrt/model.onnx")).unwrap().model.graph;
    let made_by = |id| graph.producer(id).map(|n| graph.node(n));
    for node in graph.nodes() {
        match &node.op {
            Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => {
                let Source::Constant(zero) = &graph.value(node.inputs[2]).source else {
                    panic!("{}", node.name)
                };
                let Data::I8(zero) = zero.data() else { panic!("{}", node.name) };
                assert!(zero.iter().all(|&z| z == 0), "{}", node.name);
            }
            Op::Conv(_) | Op::Gemm(_) => {
                let weight = made_by(node.inputs[1]).unwrap();
                assert_eq!(weight.op, Op::DequantizeLinear { axis: 0 }, "{}", node.name);
                let channels = graph.value(node.inputs[1]).shape.0[0].clone();
                assert_eq!(graph.value(weight.inputs[1]).shape.0, [channels], "{}", node.name);
                let input = made_by(node.inputs[0]).unwrap();
                assert!(matches!(input.op, Op::DequantizeLinear { .. }), "{}", node.name);
                assert_eq!(graph.value(node.inputs[2]).dtype, DType::F32, "a float bias");
                assert!(made_by(node.inputs[2]).is_none());
            }
            Op::Binary(Binary::Add) => {
                let convs = node.inputs.iter().filter(|&&id| matches!(made_by(id).unwrap().op, Op::Conv(_)));
                let rounded = node
                    .inputs
                    .iter()
                    .filter(|&&id| matches!(made_by(id).unwrap().op, Op::DequantizeLinear { .. }));
                assert_eq!((convs.count(), rounded.count()), (1, 1), "{}", node.name);
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_missing_is_said() {
    let world = World::new("messages");
    world.write("m.safetensors", World::trained().read("run/best.safetensors"));
    data(&world.path("d"), &CLASSES, 2);
    let refused = |arguments: &str, part: &str| {
        let said = world.run(arguments);
        assert!(said.code == Some(2) && said.err.contains(part), "{arguments}: {said:?}");
    };
    refused("quantize m.safetensors --mode static", "--calibration DIR");
    refused("export m.safetensors --format tensorrt --precision int8", "--calibration DIR");
    refused("quantize m.safetensors --mode static --calibration d --max-drop 0.01", "--data DIR");
    refused(
        "quantize m.safetensors --mode static --calibration d --data d",
        "must not be one to calibrate on",
    );
    refused(
        "quantize m.safetensors --mode static --calibration d --weight-bits 6",
        "[possible values: 7, 8]",
    );
    refused(
        "quantize m.safetensors --mode static --calibration d --method best",
        "minmax, percentile, entropy or mse",
    );
    refused("quantize m.safetensors --mode static --calibration d --max-drop 2", "a fraction below 1");
    refused("quantize m.safetensors --mode static --calibration nowhere", "nowhere");
    world.json("quantize m.safetensors --mode static --calibration d");
    assert!(world.names(".").contains(&"mobilenet_v2-int8.onnx".to_string()));
    refused("quantize mobilenet_v2-int8.onnx --mode static --calibration d", "quantized already");
    world.write("flat/0.bmp", crate::support::bmp([1, 2, 3], 1));
    world.json("quantize m.safetensors --mode static --calibration flat --out flat");
    refused(
        "quantize m.safetensors --mode static --calibration flat --qat 1",
        "--qat needs pictures with classes",
    );
}
