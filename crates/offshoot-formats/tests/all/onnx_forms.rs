//! ONNX files of each opset and of TensorFlow's converters mean what ONNX Runtime computes.

use std::collections::BTreeMap;

use offshoot_formats::onnx::{self, OnnxModel, Options, ReadOptions};

use crate::onnx_support::{Golden, form, logits};

fn read(name: &str) -> OnnxModel {
    let options = ReadOptions { size: Some(32), ..ReadOptions::default() };
    onnx::read_with(&form(&format!("{name}.onnx")), options).unwrap()
}

fn ops(read: &OnnxModel) -> String {
    let names: Vec<&str> = read.model.graph.nodes().iter().map(|n| n.op.name()).collect();
    names.join(" ")
}

fn table() -> BTreeMap<String, Golden> {
    serde_json::from_str(&std::fs::read_to_string(form("logits.json")).unwrap()).unwrap()
}

#[test]
fn logits_are_those_of_onnx_runtime() {
    let table = table();
    assert!((7..=23).all(|opset| table.contains_key(&format!("opset{opset}"))));
    for (name, golden) in table {
        let ours = logits(&read(&name).model, &golden.shape);
        let difference = offshoot_testing::difference(&ours, &golden.logits);
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
}

#[test]
fn a_final_softmax_is_left_out_and_said() {
    for name in table().into_keys() {
        let read = read(&name);
        assert!(!ops(&read).contains("Softmax"), "{name}");
        assert!(read.warnings[0].contains("Softmax"), "{name}: {:?}", read.warnings);
        assert!(read.assumed_preprocessing, "{name}");
    }
}

#[test]
fn transposes_and_pads_leave_no_trace() {
    let mobile = "Conv BatchNormalization Relu Clip Conv BatchNormalization Relu Clip Conv BatchNormalization Relu \
                  Clip Conv BatchNormalization Add GlobalAveragePool Flatten Gemm";
    assert_eq!(ops(&read("tf_each_transposed")), mobile);
    assert_eq!(
        ops(&read("tf_optimised")),
        "Conv Clip Conv Clip Conv Clip Conv Add GlobalAveragePool Flatten Gemm"
    );
    let keras = read("keras_efficient");
    assert_eq!(
        ops(&keras),
        "Mul Add Mul Conv BatchNormalization Clip Clip Conv Add Add GlobalAveragePool Flatten Gemm"
    );
    let graph = &keras.model.graph;
    assert_eq!(graph.value(graph.inputs()[0]).shape.to_string(), "[batch_size, 3, 32, 32]");
}

#[test]
fn an_open_size_under_padding_by_rule_wants_to_be_said() {
    let message = onnx::read(&form("tf_any_size.onnx")).unwrap_err().to_string();
    assert!(message.contains("auto_pad") && message.contains("`size`"), "{message}");
    let preprocessing = read("tf_any_size").model.metadata.preprocessing;
    assert_eq!((preprocessing.size, preprocessing.resize), (32, 37));
}

#[test]
fn what_was_read_is_written_in_our_layout_and_read_again() {
    for name in table().into_keys() {
        let first = onnx::write_bytes(&read(&name).model, Options::default()).unwrap();
        let second = onnx::read_bytes(first.as_slice()).unwrap();
        assert!(!second.assumed_preprocessing);
        assert_eq!(onnx::write_bytes(&second.model, Options::default()).unwrap(), first, "{name}");
    }
}
