//! Every architecture as a program of `torch.export`, in PyTorch.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_formats::pt2;
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::{Executor, Graph, Metadata, Model, Preprocessing, Tensor};
use offshoot_models::{Architecture, BuildOptions, architectures, find};

/// The graph of an architecture for pictures as small as it takes, and their size.
fn graph(architecture: &Architecture) -> (usize, Graph) {
    let build =
        |size| Some((size, architecture.build(&BuildOptions { classes: 10, size, head: None }).ok()?));
    [64, 56, 224].into_iter().find_map(build).unwrap()
}

/// A model of random weights.
fn model(architecture: &Architecture, size: usize, graph: Graph) -> Model {
    let names: Vec<String> = graph.parameters().iter().map(|&id| graph.value(id).name.clone()).collect();
    let weights = architecture.init_parameters(&graph, names.iter().map(String::as_str), 3).unwrap();
    let metadata = Metadata {
        architecture: Some(architecture.name.to_string()),
        head: None,
        classes: (0..10).map(|i| i.to_string()).collect(),
        preprocessing: Preprocessing { size, ..Preprocessing::default() },
        ..Metadata::default()
    };
    Model { graph, weights, metadata }
}

fn logits(model: &Model, shape: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let x = (0..count).map(|i| ((7919 * i) % 1000) as f32 / 500.0 - 1.0).collect();
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.prepare(&model.graph, &model.weights).unwrap();
    session.run(&[(INPUT, &Tensor::f32(shape, x))]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

/// Runs `scripts/check_pt2.py` with the Python peers; what it says is the failure where it fails.
fn check(arguments: &[String]) {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let peers =
        std::env::var_os("OFFSHOOT_PEERS").map_or_else(|| home.join(".cache/offshoot/peers"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check_pt2.py");
    let output = Command::new(peers.join("bin/python")).arg(script).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn pytorch_computes_every_architecture_alike() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = Vec::new();
    for name in offshoot_testing::chosen(architectures().map(|a| a.name)) {
        let architecture = find(name).unwrap();
        let (size, graph) = graph(architecture);
        let (trained, frozen) = graph.count_parameters();
        if trained + frozen > 12_000_000 && name != "swin_t" {
            continue; // of the kind of a smaller one
        }
        let model = model(architecture, size, graph);
        let [path, beside] =
            ["pt2", "json"].map(|end| folder.path().join(format!("{}.{end}", architecture.name)));
        pt2::write(&path, &model).unwrap();
        let shape = [2, 3, size, size];
        let logits = logits(&model, &shape);
        // Random weights multiply rounding errors.
        let golden = format!("{{\"shape\": {shape:?}, \"logits\": {logits:?}, \"most\": 1e-4}}");
        std::fs::write(&beside, golden).unwrap();
        arguments.push(format!("{}={}", path.display(), beside.display()));
    }
    check(&arguments);
}

/// The biases of pairs of pixels are rows of a table, which a program looks up at places that are stored.
#[test]
fn a_swin_transformer_is_read_again() {
    let architecture = find("swin_t").unwrap();
    let (size, graph) = graph(architecture);
    let model = model(architecture, size, graph);
    let shape = [2, 3, size, size];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swin.pt2");
    pt2::write(&path, &model).unwrap();
    let again = pt2::read(&path, None).unwrap().model;
    assert_eq!(again.weights, model.weights);
    assert!(offshoot_testing::difference(&logits(&again, &shape), &logits(&model, &shape)) < 1e-6);
}
