//! Dynamic int8: files that ONNX Runtime's quantizer wrote are read (`scripts/golden/dynamic.py`), and files of any kind are
//! quantized.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod onnx_support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_formats::Problem;
use offshoot_formats::onnx::{self, DynamicModel, Options};
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::passes::{LossOptions, dynamic_int8, training_graph};
use offshoot_graph::{DType, Executor, Model, Op, Tensor};
use offshoot_testing::difference;
use serde_json::{Value, json};

use onnx_support::{check_dynamic as check, everything};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dynamic").join(name)
}

fn table(name: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value["values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// What a model makes of the golden pictures.
fn logits(model: &Model) -> Vec<f32> {
    let images = Tensor::f32([3, 3, 4, 4], numbers(&table("logits.json")["images"]));
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.prepare(&model.graph, &model.weights).unwrap();
    session.run(&[(INPUT, &images)]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

fn read(name: &str) -> Model {
    onnx::read(&golden(name)).unwrap().model
}

fn products(model: &Model) -> usize {
    let nodes = model.graph.nodes().iter();
    nodes.filter(|n| matches!(n.op, Op::DynamicQuantizeMatMul { .. })).count()
}

fn in_int8(model: &Model) -> Model {
    let (graph, weights) = dynamic_int8(&model.graph, &model.weights).unwrap();
    Model { graph, weights, metadata: model.metadata.clone() }
}

#[test]
fn files_of_onnx_runtimes_quantiser_give_its_logits() {
    let logits_of = table("logits.json");
    for name in ["float", "i8_channels", "u8_tensor"] {
        let model = read(&format!("pictures_{name}.onnx"));
        assert_eq!(products(&model), if name == "float" { 0 } else { 2 }, "{name}");
        let off = difference(&logits(&model), &numbers(&logits_of[name]));
        assert!(off <= 1e-5, "{name}: {off}");
    }
}

#[test]
fn a_model_in_int8_is_close_and_written_again_the_same() {
    let float = read("pictures_float.onnx");
    let int8 = in_int8(&float);
    assert_eq!(products(&int8), 2);
    let bytes = int8.weights.values().filter(|t| t.dtype() == DType::I8).map(Tensor::len).sum::<usize>();
    assert_eq!(bytes, 48 * 20 + 20 * 7);
    assert!(difference(&logits(&int8), &logits(&float)) < 0.03);
    for opset in [13, 17, 21] {
        let written = onnx::write_bytes(&int8, Options { opset, ..Options::default() }).unwrap();
        let again = onnx::read_bytes(written).unwrap().model;
        assert_eq!((&again.weights, products(&again)), (&int8.weights, 2));
        assert_eq!(logits(&again), logits(&int8));
    }
}

#[test]
fn a_file_quantised_without_being_understood_is_the_same_model() {
    let file = onnx::quantize_dynamic(&golden("pictures_float.onnx")).unwrap();
    let again = onnx::read_bytes(file.bytes).unwrap().model;
    assert_eq!(logits(&again), logits(&in_int8(&read("pictures_float.onnx"))));
    assert_eq!((file.report.quantized.len(), file.report.kept_float.len()), (2, 0));
    assert_eq!(file.report.quantized_bytes, 4 * (48 * 20 + 20 * 7));
}

fn quantized(name: &str) -> DynamicModel {
    onnx::quantize_dynamic(&golden(&format!("{name}.onnx"))).unwrap()
}

/// Whether bytes hold a text.
fn holds(file: &DynamicModel, text: &str) -> bool {
    file.bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn a_transformer_and_lstms_are_quantised_and_the_rest_is_carried() {
    let text = quantized("text");
    // The products of queries, keys and values have no stored weights.
    assert_eq!(text.report.quantized.len(), 6, "{:?}", text.report);
    assert!(text.report.kept_float.is_empty() && holds(&text, "Gather") && holds(&text, "Where"));
    let sound = quantized("lstm");
    assert_eq!(sound.report.quantized.len(), 4, "{:?}", sound.report);
    assert!(holds(&sound, "DynamicQuantizeLSTM") && holds(&sound, "com.microsoft"));
    // Names and nodes take more than the weights of networks as small as these; the weights themselves are a quarter.
    for DynamicModel { bytes, report } in [text, sound] {
        assert!((bytes.len() as u64) < report.file_bytes, "{} of {report:?}", bytes.len());
    }
}

#[test]
fn weights_in_branches_shared_scaled_and_read_by_others_are_handled() {
    let file = quantized("branch");
    let mut names = file.report.quantized.clone();
    names.sort();
    assert_eq!(names, ["again", "first_product", "other", "taken"]);
    assert_eq!(file.report.kept_float[0].node, "from_the_left");
    assert!(file.report.kept_float[0].reason.contains("first operand"));
    // One set of bytes for the two products of `shared`; `first` is still read as it is.
    let tensors = onnx::quantize_dynamic_bytes(file.bytes.clone());
    assert!(matches!(tensors, Err(Problem::Unsupported { .. })), "there is nothing left to quantize");
    assert_eq!(file.report.quantized_bytes, 4 * (12 + 20 + 20));
}

#[test]
fn what_cannot_be_quantised_is_one_clear_error() {
    let bytes = onnx::write_bytes(&everything(), Options::default()).unwrap();
    // It has a linear layer beside its convolutions.
    let report = onnx::quantize_dynamic_bytes(bytes.clone()).unwrap().report;
    assert!(report.convolutions > 0 && report.quantized_bytes < report.stored_bytes);
    for old in [7, 10] {
        // The opset stands at the end of what we write: domain "", version 17.
        let mut bytes = bytes.clone();
        let at = bytes.windows(6).rposition(|w| w == [0x42, 4, 0x0a, 0, 0x10, 17]).unwrap();
        bytes[at + 5] = old;
        let said = onnx::quantize_dynamic_bytes(bytes).unwrap_err().to_string();
        assert!(said.contains(&format!("opset {old}")) && said.contains("opset_version=17"), "{said}");
    }
    assert!(onnx::quantize_dynamic_bytes(*b"").is_err());
}

#[test]
fn a_quantised_graph_is_not_trained() {
    let model = in_int8(&read("pictures_float.onnx"));
    let said = training_graph(&model.graph, LossOptions::default()).unwrap_err().to_string();
    assert!(said.contains("DynamicQuantizeMatMul") && said.contains("no gradient"), "{said}");
}

#[test]
fn damage_anywhere_is_an_error_or_another_file_and_never_a_panic() {
    for name in ["text", "lstm", "branch", "pictures_float", "pictures_i8_channels"] {
        let bytes = std::fs::read(golden(&format!("{name}.onnx"))).unwrap();
        let step = bytes.len() / 150 + 1;
        for at in (0..bytes.len()).step_by(step) {
            let _ = onnx::quantize_dynamic_bytes(&bytes[..at]);
            let mut other = bytes.clone();
            other[at] ^= 0x15;
            let _ = onnx::quantize_dynamic_bytes(other.clone());
            let _ = onnx::read_bytes(other);
        }
    }
}

#[test]
fn graphs_in_graphs_end_somewhere() {
    fn field(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag << 3 | 2];
        let mut n = content.len();
        while n > 0x7f {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        [bytes, content.to_vec()].concat()
    }
    let mut graph = Vec::new();
    for _ in 0..2000 {
        let attribute = [field(1, b"body"), field(6, &graph)].concat();
        graph = field(1, &[field(4, b"Loop"), field(5, &attribute)].concat());
    }
    let model = [field(7, &graph), field(8, &[0x10, 17])].concat();
    let said = onnx::quantize_dynamic_bytes(model).unwrap_err();
    assert!(matches!(said, Problem::TooLarge { .. }), "{said}");
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn onnx_runtime_runs_what_was_quantised() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = table("inputs.json");
    for name in ["text", "lstm", "branch"] {
        let (given, after) = (folder.path().join("inputs.json"), folder.path().join(format!("{name}.onnx")));
        std::fs::write(&given, inputs[name].to_string()).unwrap();
        onnx::write_quantized(&after, &quantized(name).bytes).unwrap();
        check(&[&given, &golden(&format!("{name}.onnx")), &after], "0.05");
    }
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn onnx_runtime_computes_what_we_do() {
    let folder = tempfile::tempdir().unwrap();
    let (given, after) = (folder.path().join("inputs.json"), folder.path().join("int8.onnx"));
    let (wanted, float) = (folder.path().join("logits.json"), golden("pictures_float.onnx"));
    std::fs::write(&given, json!({"input": table("logits.json")["images"]}).to_string()).unwrap();
    let int8 = in_int8(&read("pictures_float.onnx"));
    std::fs::write(&wanted, json!(logits(&int8)).to_string()).unwrap();
    onnx::write(&after, &int8, Options::default()).unwrap();
    check(&[&given, &float, &after, &wanted], "0.03");
    onnx::write_quantized(&after, &quantized("pictures_float").bytes).unwrap();
    check(&[&given, &float, &after, &wanted], "0.03");
}
