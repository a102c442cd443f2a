//! Tables of embeddings in dynamic int8: those of ONNX Runtime's tools are read, ours are as small and run there
//! (`scripts/golden/tables.py`); and networks whose steps share their weights (`scripts/golden/unrolled.py`).

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod onnx_support;

use std::path::PathBuf;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_formats::onnx::{self, ReadOptions};
use offshoot_graph::model::OUTPUT;
use offshoot_graph::passes::freeze;
use offshoot_graph::{DType, Executor, Model, Op, Tensor};
use serde_json::Value;

use offshoot_testing::difference;

const ANY: ReadOptions = ReadOptions { size: None, any_input: true };
const WORDS: usize = 300;
const WIDTH: usize = 16;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn answers(folder: &str) -> Value {
    let text = std::fs::read_to_string(golden(folder).join("answers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn words() -> Tensor {
    let rows: Vec<Vec<i64>> = serde_json::from_value(answers("tables")["words"].clone()).unwrap();
    Tensor::i64([rows.len(), rows[0].len()], rows.concat())
}

fn run(model: &Model, input: &Tensor) -> Vec<f32> {
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut graph = model.graph.clone();
    freeze(&mut graph, |_| true);
    let mut session = executor.prepare(&graph, &model.weights).unwrap();
    let name = &graph.value(graph.inputs()[0]).name;
    session.run(&[(name, input)]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

fn read(bytes: Vec<u8>) -> Model {
    onnx::read_bytes_with(bytes, ANY).unwrap().model
}

fn table(model: &Model) -> Vec<f32> {
    let is_table = |t: &&Tensor| t.as_f32().is_some() && t.shape() == [WORDS, WIDTH];
    model.weights.values().find(is_table).unwrap().as_f32().unwrap().to_vec()
}

#[test]
fn tables_of_bytes_that_onnx_runtimes_tools_wrote_give_its_answers() {
    let answers = answers("tables");
    for name in ["mean", "uneven", "tied", "lstm"] {
        for kind in ["u8", "i8"] {
            let model = onnx::read_with(&golden(&format!("tables/{name}.{kind}.onnx")), ANY).unwrap().model;
            let off = difference(&run(&model, &words()), &floats(&answers[name][kind]));
            // A mean of rows of bytes often lies between two levels of the next activation, where it may go either way.
            assert!(off < 5e-3, "{name}.{kind}: {off}");
        }
    }
}

#[test]
fn our_tables_of_bytes_answer_in_onnx_runtime_as_here_and_take_no_more_room_than_its_own() {
    let answers = answers("tables");
    for name in ["mean", "uneven", "tied"] {
        let path = golden(&format!("tables/{name}.onnx"));
        let file = onnx::quantize_dynamic(&path).unwrap();
        assert!(file.report.kept_float.is_empty(), "{:?}", file.report);
        let theirs = std::fs::metadata(golden(&format!("tables/{name}.u8.onnx"))).unwrap().len();
        // Rows that differ in size have a scale each.
        let scales = if name == "uneven" { 4 * WORDS } else { 0 };
        assert!(
            file.bytes.len() as u64 <= theirs + scales as u64,
            "{name}: {} of {theirs}",
            file.bytes.len()
        );
        let model = read(file.bytes);
        let found = run(&model, &words());
        let off = difference(&found, &floats(&answers[name]["ours"]));
        assert!(off < 1e-5, "{name}: {off}");
        let off = difference(&found, &floats(&answers[name]["float"]));
        assert!(off < 0.03, "{name}: {off}");
        // What is looked up is looked up as before.
        let float = onnx::read_with(&path, ANY).unwrap().model;
        let lookups = |model: &Model| model.graph.nodes().iter().filter(|n| n.op.name() == "Gather").count();
        assert_eq!((lookups(&model), lookups(&float)), (1, 1));
    }
}

#[test]
fn each_number_of_a_table_is_within_half_a_step() {
    for name in ["mean", "uneven", "tied"] {
        let path = golden(&format!("tables/{name}.onnx"));
        let before = table(&onnx::read_with(&path, ANY).unwrap().model);
        let after = table(&read(onnx::quantize_dynamic(&path).unwrap().bytes));
        let most = |row: &[f32]| row.iter().fold(0f32, |most, x| most.max(x.abs()));
        let range = before.iter().fold((0f32, 0f32), |(a, b), &x| (a.min(x), b.max(x)));
        for (before, after) in before.chunks(WIDTH).zip(after.chunks(WIDTH)) {
            let step = match name {
                "mean" => (range.1 - range.0) / 255.0,
                // A matrix of a product has weights of seven bits.
                "tied" => most(before) / 64.0,
                _ => most(before) / 127.0,
            };
            let differences = before.iter().zip(after).map(|(a, b)| (a - b).abs());
            assert!(
                differences.clone().all(|off| off <= 0.501 * step),
                "{name}: {before:?}, {after:?}, {step}"
            );
        }
    }
}

#[test]
fn a_table_that_is_a_products_matrix_too_is_stored_once() {
    let file = onnx::quantize_dynamic(&golden("tables/tied.onnx")).unwrap();
    assert_eq!(file.report.quantized.len(), 3);
    // ONNX Runtime's tools store it twice.
    let theirs = std::fs::metadata(golden("tables/tied.u8.onnx")).unwrap().len() as usize;
    assert!(file.bytes.len() + WORDS * WIDTH / 2 < theirs, "{}", file.bytes.len());
}

#[test]
fn a_network_with_nothing_but_a_table_to_quantise_is_quantised() {
    let path = golden("tables/gru.onnx");
    let file = onnx::quantize_dynamic(&path).unwrap();
    assert_eq!(file.report.quantized.len(), 1);
    assert!((file.bytes.len() as u64) < file.report.file_bytes / 2);
    let answers = answers("tables");
    let off = difference(&floats(&answers["gru"]["ours"]), &floats(&answers["gru"]["float"]));
    assert!(off < 0.03, "{off}");
}

/// The file in int8, of which the weights are stored once; the nodes of a product take less than 700 bytes.
fn stored_once(name: &str) -> Vec<u8> {
    let file = onnx::quantize_dynamic(&golden(&format!("unrolled/{name}.onnx"))).unwrap();
    let nodes = 700 * file.report.quantized.len() as u64;
    let bytes = file.bytes.len() as u64 + 3 * file.report.quantized_bytes / 4;
    assert!(bytes < file.report.file_bytes + nodes, "{name}: {bytes}");
    file.bytes
}

#[test]
fn files_whose_steps_share_their_weights_are_stored_once_and_answer_as_before() {
    for name in ["rnn", "gru"] {
        let answer = &answers("unrolled")[name];
        let steps = answer["steps"].as_u64().unwrap() as usize;
        let input = Tensor::f32([2, steps, 4], floats(&answer["input"]));
        let float = onnx::read_with(&golden(&format!("unrolled/{name}.onnx")), ANY).unwrap().model;
        let off = difference(&run(&float, &input), &floats(&answer["output"]));
        assert!(off < 1e-5, "{name}: {off}");
        let model = read(stored_once(name));
        let products =
            model.graph.nodes().iter().filter(|n| matches!(n.op, Op::DynamicQuantizeMatMul { .. }));
        assert!(products.count() >= steps, "{name}");
        assert_eq!(model.weights.values().filter(|t| t.dtype() == DType::I8).count(), 3, "{name}");
        let off = difference(&run(&model, &input), &floats(&answer["output"]));
        assert!(off < 0.05, "{name}: {off}");
    }
}

#[test]
fn a_shared_product_with_factors_answers_as_before() {
    let answer = &answers("unrolled")["scaled"];
    let input = Tensor::f32([3, 16], floats(&answer["input"]));
    let model = read(onnx::quantize_dynamic(&golden("unrolled/scaled.onnx")).unwrap().bytes);
    assert_eq!(model.weights.values().filter(|t| t.dtype() == DType::I8).count(), 1);
    let off = difference(&run(&model, &input), &floats(&answer["output"]));
    assert!(off < 0.05, "{off}");
}
