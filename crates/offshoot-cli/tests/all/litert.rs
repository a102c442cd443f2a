//! Every architecture in LiteRT's own interpreter (`scripts/check_litert.py`).

use std::path::Path;
use std::process::Command;

use offshoot::{CpuOptions, Device, LiteRtOptions, LiteRtWeights, Model, shipped};
use offshoot_formats::litert;
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Executor, Graph, Metadata, Preprocessing, Tensor, Weights};
use offshoot_models::{BuildOptions, architectures};
use serde_json::json;

use crate::support::cached;

const SIZE: usize = 64;
const CLASSES: usize = 10;

/// Weights that keep the size of what goes through them.
fn weights(graph: &Graph) -> Weights {
    let mut random = Random::new(1, 0, 0, Purpose::Init);
    let mut tensor = |id: &offshoot_graph::ValueId| {
        let value = graph.value(*id);
        let shape = value.shape.as_fixed().unwrap();
        let fan_in: usize = shape.iter().skip(1).product();
        let norm = shape.len() == 1 && !value.name.ends_with("bias") && !value.name.ends_with("mean");
        let (middle, width) = match shape.len() {
            1 if norm => (1.0, 0.2),
            1 => (0.0, 0.2),
            _ => (0.0, (6.0 / fan_in as f32).sqrt()),
        };
        let count = shape.iter().product();
        let numbers = (0..count).map(|_| middle + width * (2.0 * random.uniform() - 1.0)).collect();
        (value.name.clone(), Tensor::f32(shape, numbers))
    };
    graph.parameters().iter().map(&mut tensor).collect()
}

/// The graph of an architecture for pictures as small as it takes, and their size.
fn graph(name: &str) -> (usize, Graph) {
    let options = |size| BuildOptions { classes: CLASSES, size, head: None };
    let build = |size| Some((size, offshoot_models::build(name, &options(size)).ok()?));
    [SIZE, 56, 224].into_iter().find_map(build).unwrap()
}

fn model(name: &str, (size, graph): (usize, Graph)) -> Model {
    let metadata = Metadata {
        architecture: Some(name.to_owned()),
        head: None,
        classes: (0..CLASSES).map(|i| i.to_string()).collect(),
        preprocessing: Preprocessing { size, resize: size, ..Preprocessing::default() },
        ..Metadata::default()
    };
    shipped(&Model { weights: weights(&graph), graph, metadata }).unwrap()
}

fn logits(model: &Model, shape: &[usize]) -> Vec<f32> {
    let executor = Device::cpu(CpuOptions::default()).unwrap();
    let count: usize = shape.iter().product();
    let x = (0..count).map(|i| ((7919 * i) % 1000) as f32 / 500.0 - 1.0).collect();
    let mut session = executor.prepare(&model.graph, &model.weights).unwrap();
    session.run(&[(INPUT, &Tensor::f32(shape, x))]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

#[test]
#[ignore = "needs the light Python peers with ai-edge-litert (OFFSHOOT_PEERS)"]
fn the_interpreter_runs_every_architecture() {
    let chosen = offshoot_testing::chosen(architectures().map(|a| a.name));
    for (weights, tolerance, most) in
        [(LiteRtWeights::F32, "1e-4", 12_000_000), (LiteRtWeights::F16, "3e-2", 4_000_000)]
    {
        for &name in &chosen {
            let (size, graph) = graph(name);
            let (trained, frozen) = graph.count_parameters();
            if trained + frozen > most && name != "swin_t" {
                continue; // of the kind of a smaller one
            }
            // Such weights multiply rounding in its forty gated blocks. (With torchvision's initial ones the interpreter is within 2e-6 of
            // PyTorch.)
            if name.ends_with("efficientnet_v2_s") || name.ends_with("efficientnetv2_s") {
                continue;
            }
            let model = model(name, (size, graph));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("{name}.tflite"));
            litert::write(&path, &model, LiteRtOptions { weights }).unwrap();
            let shape = [2, 3, size, size];
            let golden = json!({"shape": shape, "logits": logits(&model, &shape)});
            std::fs::write(path.with_extension("json"), golden.to_string()).unwrap();
            check(tolerance, &path);
        }
    }
}

fn check(tolerance: &str, path: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check_litert.py");
    let python = cached("OFFSHOOT_PEERS", "peers").join("bin/python");
    let file = format!("{}={}", path.display(), path.with_extension("json").display());
    let output = Command::new(python).arg(script).args(["--tolerance", tolerance, &file]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
