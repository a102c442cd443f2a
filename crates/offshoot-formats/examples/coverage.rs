//! What `scripts/coverage` asks of each ONNX file: whether it is read, computes what ONNX Runtime did, can be trained, and computes
//! the same when it is written and read again.
//!
//! ```text
//! cargo run -p offshoot-formats --example coverage -- [--read] FOLDER ...
//! ```
//!
//! Each FOLDER holds `model.onnx` and `logits.json`, a list of {"shape", "logits"} for x[i] = ((7919 i) mod 1000) / 500 - 1. Prints one
//! JSON object a line. With `--read` only the first two are checked.
#![allow(clippy::print_stdout)] // that is what it is for

use std::error::Error;
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_formats::{onnx, torchscript};
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::passes::{LABELS, LOSS, LossOptions, freeze, gradient_output, training_graph};
use offshoot_graph::{Executor, Graph, Model, Tensor};
use offshoot_testing::difference;
use serde_json::{Map, Value, json};

type Checked<T> = Result<T, Box<dyn Error>>;

/// What ONNX Runtime computed.
#[derive(serde::Deserialize)]
struct Golden {
    shape: Vec<usize>,
    logits: Vec<f32>,
}

fn main() {
    let (flags, folders): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let only_read = flags.iter().any(|flag| flag == "--read");
    for folder in folders {
        let start = Instant::now();
        let mut row = Map::from_iter([("folder".to_owned(), json!(folder))]);
        if let Err(error) = check(Path::new(&folder), only_read, &mut row) {
            row.insert("error".into(), json!(error.to_string()));
        }
        row.insert("seconds".into(), json!(start.elapsed().as_secs()));
        println!("{}", Value::Object(row));
    }
}

fn check(folder: &Path, only_read: bool, row: &mut Map<String, Value>) -> Checked<()> {
    let read = onnx::read(&folder.join("model.onnx"))?;
    row.insert("read".into(), json!(true));
    row.insert("warnings".into(), json!(read.warnings));
    let model = read.model;
    let golden: Vec<Golden> = serde_json::from_str(&std::fs::read_to_string(folder.join("logits.json"))?)?;
    let mut worst = 0.0f64;
    for golden in &golden {
        worst = worst.max(difference(&logits(&model, &golden.shape)?, &golden.logits));
    }
    row.insert("difference".into(), json!(worst));
    let Some(first) = golden.first().filter(|_| !only_read) else { return Ok(()) };
    let checks: [(&str, Checked<Value>); 3] = [
        ("trains", trained(&model, &golden[golden.len().min(2) - 1].shape)),
        ("onnx", again(&as_onnx(&model), &model, &first.shape)),
        ("torchscript", again(&as_script(&model), &model, &first.shape)),
    ];
    for (name, found) in checks {
        row.insert(name.into(), found.unwrap_or_else(|error| json!(error.to_string())));
    }
    Ok(())
}

fn pictures(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::f32(shape, (0..count).map(|i| ((7919 * i) % 1000) as f32 / 500.0 - 1.0).collect())
}

fn logits(model: &Model, shape: &[usize]) -> Checked<Vec<f32>> {
    let mut graph = model.graph.clone();
    freeze(&mut graph, |_| true); // as an LSTM wants
    let mut session = CpuExecutor::new(CpuOptions::default())?.prepare(&graph, &model.weights)?;
    session.run(&[(INPUT, &pictures(shape))])?;
    Ok(session.read(OUTPUT).and_then(|logits| logits.into_f32()).ok_or("no logits")?)
}

/// The number of trained parameters, where each has a finite gradient and some of it is not 0.
fn trained(model: &Model, shape: &[usize]) -> Checked<Value> {
    let training = training_graph(&model.graph, LossOptions::default())?;
    let graph: &Graph = &training.graph;
    let mut session = CpuExecutor::new(CpuOptions::default())?.prepare(graph, &model.weights)?;
    let labels = Tensor::i64([shape[0]], (0..shape[0] as i64).collect());
    let x = pictures(shape);
    session.run(&[(INPUT, &x), (LABELS, &labels)])?;
    let read = |name: &str| session.read(name).and_then(|t| t.into_f32()).ok_or(format!("no {name}"));
    if !read(LOSS)?.iter().all(|x| x.is_finite()) {
        return Err("the loss is not finite".into());
    }
    let mut moved = 0;
    for name in &training.trained {
        let gradient = read(&gradient_output(name))?;
        if !gradient.iter().all(|x| x.is_finite()) {
            return Err(format!("the gradient of `{name}` is not finite").into());
        }
        moved += usize::from(gradient.iter().any(|&x| x != 0.0));
    }
    Ok(json!(moved))
}

fn as_onnx(model: &Model) -> Checked<Model> {
    let bytes = onnx::write_bytes(model, onnx::Options::default())?;
    let again = onnx::read_bytes(bytes.as_slice())?.model;
    if onnx::write_bytes(&again, onnx::Options::default())? != bytes {
        return Err("written otherwise the second time".into());
    }
    Ok(again)
}

fn as_script(model: &Model) -> Checked<Model> {
    let mut bytes = Cursor::new(Vec::new());
    torchscript::write_to(&mut bytes, model, torchscript::Options::default())?;
    Ok(torchscript::read_bytes(&bytes.into_inner(), None)?.model)
}

/// How far what was written and read again is from the model.
fn again(written: &Checked<Model>, model: &Model, shape: &[usize]) -> Checked<Value> {
    let written = written.as_ref().map_err(|error| error.to_string())?;
    Ok(json!(difference(&logits(written, shape)?, &logits(model, shape)?)))
}
