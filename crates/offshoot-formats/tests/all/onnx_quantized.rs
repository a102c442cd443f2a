//! Files of ONNX Runtime's quantizers in all their forms (`scripts/golden/quantized_files.py`): operators on quantized tensors, QDQ in
//! every placement, integers found at each run, activations of 16 bits, weights of 4 bits in blocks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use offshoot_cpu::optimize::optimize;
use offshoot_formats::onnx::{self, Options};
use offshoot_graph::passes::shipped;
use offshoot_graph::{DType, Model, Op, Operator};

use crate::onnx_support::{float_logits, logits};

/// What ONNX Runtime computes of a file, and of the network before it was quantized.
#[derive(serde::Deserialize)]
struct Golden {
    shape: Vec<usize>,
    logits: Vec<f32>,
    float: Vec<f32>,
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx_quantized").join(name)
}

fn table() -> BTreeMap<String, Golden> {
    serde_json::from_str(&std::fs::read_to_string(file("logits.json")).unwrap()).unwrap()
}

fn read(name: &str) -> Model {
    let path = file(&format!("{name}.onnx"));
    onnx::read(&path).unwrap_or_else(|e| panic!("{name}: {e}")).model
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest, (a, b)| {
        assert!(a.is_finite() && b.is_finite(), "{a} and {b}");
        f32::max(largest, (a - b).abs())
    })
}

#[test]
fn logits_are_those_of_onnx_runtime() {
    let table = table();
    assert_eq!(table.len(), 16);
    for (name, golden) in table {
        let model = read(&name);
        let (graph, weights) = shipped(&model.graph, &model.weights).unwrap();
        let shipped = Model { graph, weights, metadata: model.metadata.clone() };
        let found = [float_logits(&model, &golden.shape), logits(&shipped, &golden.shape)];
        for (ours, what) in found.iter().zip(["in float", "in integers"]) {
            let (near, error) = (largest(ours, &golden.logits), largest(&golden.float, &golden.logits));
            // Far less than what quantization changes.
            assert!(near <= 1e-3 && near < error / 5.0, "{name} {what}: {near}, quantized {error}");
        }
    }
}

/// Convolutions and products of bytes are computed on bytes, wherever a file has its scales.
#[test]
fn products_of_bytes_stay_products_of_bytes() {
    for name in ["qdq_u8", "qdq_i8", "qdq_i8_symmetric", "operators_u8", "operators_i8"] {
        let model = read(name);
        let (graph, _) = shipped(&model.graph, &model.weights).unwrap();
        let optimized = optimize(&graph).unwrap();
        let names: Vec<&str> = optimized.nodes().iter().map(|node| node.op.name()).collect();
        let count = |what: &str| names.iter().filter(|&&name| name == what).count();
        assert_eq!(count("Quantized.Conv") + count("Fused.Conv") + count("Conv"), 6, "{name}: {names:?}");
        assert_eq!(count("Quantized.Conv"), 6, "{name}: {names:?}");
        // (The product of pixels reads floats: a Transpose stands between it and its bytes.)
        assert!(count("Quantized.Gemm") >= 1, "{name}: {names:?}");
        assert!(count("Quantized.Function") >= 3 && count("Quantized.Binary") >= 1, "{name}: {names:?}");
        assert_eq!(count("Sigmoid") + count("Silu"), 0, "{name}: {names:?}");
    }
}

#[test]
fn what_is_computed_in_float_is_said() {
    let said = |name: &str| onnx::read(&file(&format!("{name}.onnx"))).unwrap().warnings.join("\n");
    assert!(said("qdq_u16").contains("other than 8 bits"), "{}", said("qdq_u16"));
    assert!(said("blocks").contains("in blocks"), "{}", said("blocks"));
    assert!(said("dynamic_u8").contains("quantized at each run"), "{}", said("dynamic_u8"));
    assert!(!said("qdq_u8").contains("float32"), "{}", said("qdq_u8"));
    assert!(!said("operators_u8").contains("float32"), "{}", said("operators_u8"));
}

#[test]
fn what_was_read_is_written_and_read_again() {
    for (name, golden) in table() {
        let model = read(&name);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("again.onnx");
        onnx::write(&path, &model, Options::default()).unwrap();
        let again = onnx::read(&path).unwrap().model;
        assert_eq!(logits(&again, &golden.shape), logits(&model, &golden.shape), "{name}");
    }
}

#[test]
fn weights_of_bytes_stay_bytes() {
    let model = read("operators_u8");
    let bytes = model.weights.values().filter(|tensor| tensor.dtype() == DType::I8).count();
    assert_eq!(bytes, 8);
    let dequantized = model.graph.nodes().iter().filter(|n| matches!(n.op, Op::DequantizeLinear { .. }));
    assert!(dequantized.count() >= 16);
}

/// Damage anywhere in a file is an error or a model, and never a panic.
#[test]
fn damaged_files_do_not_panic() {
    for name in ["operators_u8", "dynamic_i8", "blocks", "blocks_qdq", "qdq_u16"] {
        let bytes = std::fs::read(file(&format!("{name}.onnx"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.onnx");
        for at in (0..bytes.len()).step_by(97) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, &damaged).unwrap();
            drop(onnx::read(&path));
        }
    }
}
