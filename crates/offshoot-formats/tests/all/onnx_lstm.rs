//! LSTMs, in float and in ONNX Runtime's dynamic int8, answer as in ONNX Runtime (`scripts/golden/lstm.py`).

use std::path::PathBuf;

use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_formats::onnx::{self, ReadOptions};
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::Recurrent;
use offshoot_graph::passes::freeze;
use offshoot_graph::{Executor, Graph, Op, Tensor, Weights};
use offshoot_testing::difference;
use serde_json::{Value, json};

use crate::onnx_support::check_dynamic as check;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lstm").join(name)
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn answers() -> (Value, Tensor) {
    let answers: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("answers.json")).unwrap()).unwrap();
    let shape = answers["input"]["shape"].as_array().unwrap().iter();
    let shape: Vec<usize> = shape.map(|n| n.as_u64().unwrap() as usize).collect();
    let input = Tensor::f32(shape, floats(&answers["input"]["values"]));
    (answers, input)
}

fn run(isa: Isa, graph: &Graph, weights: &Weights, input: &Tensor) -> Vec<f32> {
    let executor = CpuExecutor::new(CpuOptions { isa: Some(isa), ..CpuOptions::default() }).unwrap();
    let mut session = executor.prepare(graph, weights).unwrap();
    session.run(&[(INPUT, input)]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

#[test]
fn answers_are_onnx_runtimes() {
    let (answers, input) = answers();
    let options = ReadOptions { size: None, any_input: true };
    for name in ["last", "mean", "hidden", "reverse"] {
        for (file, bytes) in [(format!("{name}.onnx"), false), (format!("{name}.int8.onnx"), true)] {
            let model = onnx::read_with(&golden(&file), options).unwrap().model;
            let recurrent = |op: &Op| match op {
                Op::Recurrent(Recurrent::Lstm(_)) => !bytes,
                Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)) => bytes,
                _ => false,
            };
            assert!(model.graph.nodes().iter().any(|n| recurrent(&n.op)), "{file}");
            let mut graph = model.graph.clone();
            freeze(&mut graph, |_| true);
            for isa in Isa::available() {
                let off = difference(&run(isa, &graph, &model.weights, &input), &floats(&answers[&file]));
                assert!(off < if bytes { 1e-4 } else { 1e-5 }, "{file}, {isa}: {off}");
            }
        }
    }
}

/// The file in our own dynamic int8: a scale for each gate unit.
#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn onnx_runtime_computes_what_we_do() {
    let folder = tempfile::tempdir().unwrap();
    let (given, after, wanted) = (
        folder.path().join("inputs.json"),
        folder.path().join("int8.onnx"),
        folder.path().join("logits.json"),
    );
    // Of one row: ONNX Runtime's threads split a batch, and each part of h has a scale of its own.
    let (_, input) = answers();
    let row: Vec<usize> = [1].into_iter().chain(input.shape()[1..].iter().copied()).collect();
    let row = Tensor::f32(row.clone(), input.as_f32().unwrap()[..row.iter().product()].to_vec());
    let values = json!({"shape": row.shape(), "type": "float32", "values": row.as_f32().unwrap()});
    std::fs::write(&given, json!({"input": values}).to_string()).unwrap();
    for name in ["last", "mean", "hidden", "reverse"] {
        let float = golden(&format!("{name}.onnx"));
        let int8 = onnx::quantize_dynamic(&float).unwrap();
        onnx::write_quantized(&after, &int8.bytes).unwrap();
        let options = ReadOptions { size: None, any_input: true };
        let model = onnx::read_with(&after, options).unwrap().model;
        let mut graph = model.graph.clone();
        freeze(&mut graph, |_| true);
        let answer = run(Isa::best(), &graph, &model.weights, &row);
        std::fs::write(&wanted, json!(answer).to_string()).unwrap();
        check(&[&given, &float, &after, &wanted], "0.05");
    }
}
