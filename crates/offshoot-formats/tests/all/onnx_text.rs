//! Classifiers of text, in float and in our dynamic int8, answer as in PyTorch and ONNX Runtime (`scripts/golden/text.py`).

use std::path::PathBuf;

use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_formats::onnx::{self, Options, ReadOptions};
use offshoot_graph::model::OUTPUT;
use offshoot_graph::op::Recurrent;
use offshoot_graph::passes::freeze;
use offshoot_graph::{DType, ExecuteError, Executor, Model, Op, Tensor};
use offshoot_testing::difference;
use serde_json::{Map, Value, json};

use crate::onnx_support::check_dynamic as check;

const ANY: ReadOptions = ReadOptions { size: None, any_input: true };

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text").join(name)
}

fn answers() -> Map<String, Value> {
    let text = std::fs::read_to_string(golden("answers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// A matrix of tokens.
fn tokens(rows: &Value) -> Tensor {
    let rows: Vec<Vec<i64>> = serde_json::from_value(rows.clone()).unwrap();
    let shape = [rows.len(), rows[0].len()];
    Tensor::i64(shape, rows.concat())
}

/// The tensors of one answer in the order of the graph's inputs: `ids`, and `mask` where there is one.
fn inputs(answer: &Value) -> Vec<Tensor> {
    let given = answer["inputs"].as_object().unwrap();
    ["ids", "mask"].iter().filter_map(|name| given.get(*name)).map(tokens).collect()
}

fn run(isa: Isa, model: &Model, inputs: &[Tensor]) -> Result<Vec<f32>, ExecuteError> {
    let mut graph = model.graph.clone();
    freeze(&mut graph, |_| true);
    let executor = CpuExecutor::new(CpuOptions { isa: Some(isa), ..CpuOptions::default() }).unwrap();
    let mut session = executor.prepare(&graph, &model.weights)?;
    let names = graph.inputs().iter().map(|&id| graph.value(id).name.as_str());
    let named: Vec<(&str, &Tensor)> = names.zip(inputs).collect();
    session.run(&named)?;
    Ok(session.read(OUTPUT).unwrap().into_f32().unwrap())
}

#[test]
fn answers_are_those_of_pytorch_and_onnx_runtime() {
    for (file, answer) in answers() {
        let model = onnx::read_with(&golden(&file), ANY).unwrap().model;
        assert!(model.graph.inputs().iter().all(|&id| model.graph.value(id).dtype == DType::I64), "{file}");
        for isa in Isa::available() {
            let logits = run(isa, &model, &inputs(&answer)).unwrap();
            for peer in ["pytorch", "float"] {
                let off = difference(&logits, &floats(&answer[peer]));
                assert!(off < 1e-5, "{file}, {isa}, {peer}: {off}");
            }
        }
    }
}

#[test]
fn dynamic_int8_answers_as_in_onnx_runtime() {
    for (file, answer) in answers() {
        let int8 = onnx::quantize_dynamic(&golden(&file)).unwrap();
        let model = onnx::read_bytes_with(int8.bytes, ANY).unwrap().model;
        let is_bytes = |op: &Op| {
            matches!(op, Op::DynamicQuantizeMatMul { .. } | Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)))
        };
        assert!(model.graph.nodes().iter().filter(|n| is_bytes(&n.op)).count() > 2, "{file}");
        for isa in Isa::available() {
            let logits = run(isa, &model, &inputs(&answer)).unwrap();
            let off = difference(&logits, &floats(&answer["int8"]));
            assert!(off < 1e-4, "{file}, {isa}: {off}");
        }
    }
}

/// Fewer steps than the file was exported with: an answer, or an error that says how many it takes.
#[test]
fn a_number_of_steps_that_is_free_is_taken() {
    for (file, answer) in answers() {
        let model = onnx::read_with(&golden(&file), ANY).unwrap().model;
        let mut shorter = vec![Tensor::i64([1, 4], vec![5, 7, 1, 2])];
        if inputs(&answer).len() == 2 {
            shorter.push(Tensor::i64([1, 4], vec![1, 1, 1, 0]));
        }
        match run(Isa::best(), &model, &shorter) {
            Ok(logits) => {
                assert!(answer["free"] == true && logits.iter().all(|x| x.is_finite()), "{file}");
            }
            Err(error) => {
                assert!(answer["free"] == false, "{file}: {error}");
                assert!(error.to_string().contains("must be i64[batch_size, 9]"), "{file}: {error}");
            }
        }
    }
}

#[test]
fn a_token_outside_of_the_table_is_an_error_and_a_negative_one_counts_from_the_end() {
    let model = onnx::read_with(&golden("encoder.onnx"), ANY).unwrap().model;
    let answer = |token: i64| run(Isa::best(), &model, &[Tensor::i64([1, 3], vec![1, token, 2])]);
    assert_eq!(answer(-1).unwrap(), answer(59).unwrap());
    for token in [60, -61, i64::MAX, i64::MIN] {
        let error = answer(token).unwrap_err();
        assert!(matches!(error, ExecuteError::Index { index, rows: 60, .. } if index == token), "{error}");
    }
    // More steps than there are positions.
    let long = run(Isa::best(), &model, &[Tensor::i64([1, 10], vec![1; 10])]).unwrap_err();
    assert!(matches!(long, ExecuteError::Index { index: 9, rows: 9, .. }), "{long}");
    let floats = run(Isa::best(), &model, &[Tensor::f32([1, 3], vec![1.0; 3])]).unwrap_err();
    assert!(floats.to_string().contains("must be i64"), "{floats}");
}

/// Graphs without an LSTM are written again, and answer the same.
#[test]
fn what_is_read_is_written() {
    for (file, answer) in answers().into_iter().filter(|(file, _)| !file.starts_with("lstm")) {
        let model = onnx::read_with(&golden(&file), ANY).unwrap().model;
        let bytes = onnx::write_bytes(&model, Options::default()).unwrap();
        let again = onnx::read_bytes_with(bytes, ANY).unwrap().model;
        let logits = run(Isa::best(), &again, &inputs(&answer)).unwrap();
        assert!(difference(&logits, &floats(&answer["float"])) < 1e-5, "{file}");
    }
}

#[test]
fn a_classifier_of_pictures_is_asked_for_and_not_given() {
    let error = onnx::read(&golden("encoder.onnx")).unwrap_err().to_string();
    assert!(error.contains("it takes tokens, not pictures") && error.contains("verify `inputs`"), "{error}");
}

/// What we write is what ONNX Runtime reads, and our int8 files answer there as here.
#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn onnx_runtime_computes_what_we_do() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    for (file, answer) in answers() {
        let float = golden(&file);
        // Of one row: ONNX Runtime's threads split the batch of an LSTM, and each part of h has a scale of its own.
        let (mut given, mut row) = (Map::new(), Vec::new());
        for name in ["ids", "mask"].iter().filter(|name| answer["inputs"].get(**name).is_some()) {
            let x = tokens(&answer["inputs"][*name]);
            let width = x.shape()[1];
            let x = Tensor::i64([1, width], x.as_i64().unwrap()[..width].to_vec());
            let values = json!({"shape": x.shape(), "type": "int64", "values": x.as_i64().unwrap()});
            given.insert((*name).to_owned(), values);
            row.push(x);
        }
        let int8 = onnx::quantize_dynamic(&float).unwrap();
        onnx::write_quantized(&place("int8.onnx"), &int8.bytes).unwrap();
        let model = onnx::read_with(&place("int8.onnx"), ANY).unwrap().model;
        let logits = run(Isa::best(), &model, &row).unwrap();
        std::fs::write(place("inputs.json"), Value::Object(given).to_string()).unwrap();
        std::fs::write(place("logits.json"), json!(logits).to_string()).unwrap();
        let names = ["inputs.json", "", "int8.onnx", "logits.json"].map(place);
        check(&[&names[0], &float, &names[2], &names[3]], "0.05");
    }
}
