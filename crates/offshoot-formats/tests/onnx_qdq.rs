//! Files that ONNX Runtime's quantizer wrote (`scripts/golden/quantize.py`) are read, computed and written again.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod onnx_support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use offshoot_cpu::optimize::optimize;
use offshoot_formats::onnx::{self, Options};
use offshoot_graph::passes::shipped;
use offshoot_graph::{DType, Model, Op};

use onnx_support::{Golden, float_logits, logits};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx_qdq").join(name)
}

fn table() -> BTreeMap<String, Golden> {
    serde_json::from_str(&std::fs::read_to_string(file("logits.json")).unwrap()).unwrap()
}

#[test]
fn logits_are_those_of_onnx_runtime() {
    let table = table();
    assert_eq!(table.len(), 5);
    for (name, golden) in table {
        let model = onnx::read(&file(&format!("{name}.onnx"))).unwrap().model;
        let ours = float_logits(&model, &golden.shape);
        let difference = offshoot_testing::difference(&ours, &golden.logits);
        assert!(difference <= 1e-5, "{name}: {ours:?}, {:?}", golden.logits);
    }
}

#[test]
fn operators_on_bytes_give_the_logits_of_onnx_runtime() {
    for (name, golden) in table() {
        let Model { graph, weights, metadata } = onnx::read(&file(&format!("{name}.onnx"))).unwrap().model;
        let (graph, weights) = shipped(&graph, &weights).unwrap();
        let model = Model { graph, weights, metadata };
        let optimized = optimize(&model.graph).unwrap();
        let plain = optimized.nodes().iter().filter_map(|node| node.op.plain());
        let count = |what: fn(&Op) -> bool| plain.clone().filter(|op| what(op)).count();
        // What is left is the input's Q and the output's DQ, but for weights of u8 or of floats.
        let convs = count(|op| matches!(op, Op::Conv(_) | Op::Gemm(_)));
        match name.as_str() {
            "per_tensor_opset11" | "float_weights" => assert_eq!(convs, 5, "{name}"),
            _ => {
                assert_eq!(convs, 0, "{name}");
                assert_eq!(count(|op| matches!(op, Op::QuantizeLinear { .. })), 1, "{name}");
                assert_eq!(count(|op| matches!(op, Op::DequantizeLinear { .. })), 1, "{name}");
            }
        }
        let ours = logits(&model, &golden.shape);
        let mut steps: Vec<f32> =
            golden.logits.iter().flat_map(|a| golden.logits.iter().map(move |b| (a - b).abs())).collect();
        steps.retain(|&step| step > 1e-4);
        let step = steps.into_iter().fold(f32::INFINITY, f32::min);
        for (a, b) in ours.iter().zip(&golden.logits) {
            assert!((a - b).abs() <= 1.01 * step, "{name}: {ours:?}, {:?}", golden.logits);
        }
    }
}

#[test]
fn integers_stay_integers() {
    for name in ["u8_per_channel", "i8_symmetric", "seven_bits", "per_tensor_opset11"] {
        let model = onnx::read(&file(&format!("{name}.onnx"))).unwrap().model;
        let graph = &model.graph;
        let weights: Vec<DType> = graph.parameters().iter().map(|&id| graph.value(id).dtype).collect();
        let wanted = if name == "per_tensor_opset11" { DType::U8 } else { DType::I8 };
        assert_eq!(weights.iter().filter(|&&d| d == wanted).count(), 5, "{name}: {weights:?}");
        assert!(weights.iter().filter(|&&d| d == DType::I32).count() >= 5, "{name}: {weights:?}");
        for &id in graph.parameters() {
            let value = graph.value(id);
            assert_eq!(model.weights[&value.name].dtype(), value.dtype, "{name}");
        }
        // Weights of a convolution go channel by channel along axis 0.
        let convs = graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv(_)));
        for conv in convs.filter(|_| name != "per_tensor_opset11") {
            let weight = graph.node(graph.producer(conv.inputs[1]).unwrap());
            assert_eq!(weight.op, Op::DequantizeLinear { axis: 0 }, "{name}");
        }
    }
}

#[test]
fn a_quantised_file_written_again_is_the_same_model() {
    for name in table().into_keys() {
        for opset in [13, 17, 21] {
            let model = onnx::read(&file(&format!("{name}.onnx"))).unwrap().model;
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("again.onnx");
            onnx::write(&path, &model, Options { opset, ..Options::default() }).unwrap();
            let again = onnx::read(&path).unwrap().model;
            assert_eq!(again.weights, model.weights, "{name}");
            let golden = &table()[&name];
            assert_eq!(logits(&again, &golden.shape), logits(&model, &golden.shape), "{name}");
        }
    }
}
