//! Logits and predictions against PyTorch, with weights that PyTorch saved and with the published ones.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_data::{Transform, read_picture};
use offshoot_formats::checkpoint::{load_weights, match_weights};
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::passes::{
    LABELS, LossOptions, TrainingGraph, fold_batch_norm, freeze, gradient_output, training_graph,
};
use offshoot_graph::{Executor, Graph, Model, Preprocessing, Tensor, Weights};
use offshoot_models::{
    Architecture, BuildOptions, Head, canonical_keys, expected_parameters, find, original_classes, pretrained,
};

/// The directory that `variable` names, else `name` in the user's cache of offshoot.
fn directory(variable: &str, name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    std::env::var_os(variable).map_or_else(|| home().join(".cache/offshoot").join(name), PathBuf::from)
}

fn assets(path: &str) -> PathBuf {
    directory("OFFSHOOT_ASSETS", "assets").join(path)
}

fn run(graph: &Graph, weights: &Weights, input: &Tensor) -> Vec<f32> {
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.prepare(graph, weights).unwrap();
    session.run(&[(INPUT, input)]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

/// The largest difference relative to the largest logit.
fn difference(found: &[f32], wanted: &[f32]) -> f32 {
    offshoot_testing::difference(found, wanted) as f32
}

/// The largest difference from logits in f64, where PyTorch's own f32 logits differ by `pytorch`. Random weights can make a network that
/// multiplies rounding errors, as PyTorch's then tell: a network that does so a thousandfold makes of any two orders of a sum
/// results that have nothing but their magnitude in common.
fn bound(pytorch: f32) -> f32 {
    let factor = if pytorch > 1e-4 { 32.0 } else { 4.0 };
    f32::max(1e-4, factor * pytorch)
}

/// The logits that PyTorch computed in f64 from the weights in the same file.
#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn logits_are_pytorchs() {
    let mut count = 0;
    each_golden_model("logits", |architecture, mut weights| {
        let [input, logits, exact] =
            ["golden.input", "golden.logits", "golden.exact"].map(|name| weights.remove(name).unwrap());
        gradients_are_pytorchs(architecture, &mut weights);
        let model = pretrained_at(architecture, weights, input.shape()[2]);
        let wanted = exact.as_f32().unwrap();
        let pytorch = difference(logits.as_f32().unwrap(), wanted);
        let bound = bound(pytorch);
        let plain = difference(&run(&model.graph, &model.weights, &input), wanted);
        let (graph, weights) = folded(&model);
        let fused = difference(&run(&graph, &weights, &input), wanted);
        println!("{}: {plain:.1e}, folded and fused {fused:.1e}, PyTorch {pytorch:.1e}", architecture.name);
        assert!(plain < bound && fused < bound, "{}: {plain} and {fused}", architecture.name);
        count += 1;
    });
    assert!(count >= 25, "{count}");
}

/// Weights of timm's models give timm's logits in the architectures that compute the same.
#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn logits_of_timms_weights_are_those_of_pytorch() {
    let mut count = 0;
    each_golden_model("timm", |architecture, mut weights| {
        let [input, logits, exact] =
            ["golden.input", "golden.logits", "golden.exact"].map(|name| weights.remove(name).unwrap());
        let model = pretrained_at(architecture, weights, input.shape()[2]);
        let wanted = exact.as_f32().unwrap();
        let pytorch = difference(logits.as_f32().unwrap(), wanted);
        let off = difference(&run(&model.graph, &model.weights, &input), wanted);
        println!("{}: {off:.1e}, PyTorch {pytorch:.1e}", architecture.name);
        assert!(off < bound(pytorch), "{}: {off}", architecture.name);
        count += 1;
    });
    assert!(count >= 15, "{count}");
}

/// The gradients, in training mode, of those parameters for which PyTorch saved them: off by at most three times what rounding
/// changes, relative to the largest element.
fn gradients_are_pytorchs(architecture: &Architecture, weights: &mut Weights) {
    let Some(labels) = weights.remove("golden.labels") else { return };
    let batch = weights.remove("golden.batch").unwrap();
    let bound = 3.0 * weights.remove("golden.rounding").unwrap().as_f32().unwrap()[0];
    let wanted = take(weights, "golden.grad.");
    let moved = take(weights, "golden.moved.");
    let mut weights = weights.clone();
    weights.extend(moved);
    let head = Some(Head::Linear { dropout: 0.0 });
    let graph = architecture.build(&BuildOptions { classes: 1000, size: batch.shape()[2], head }).unwrap();
    let TrainingGraph { graph, .. } = training_graph(&graph, LossOptions::default()).unwrap();
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.prepare(&graph, &weights).unwrap();
    session.run(&[(INPUT, &batch), (LABELS, &labels)]).unwrap();
    assert!(wanted.len() >= 5, "{}", architecture.name);
    let mut wrong = Vec::new();
    for (name, wanted) in wanted {
        let found = session.read(&gradient_output(&name)).unwrap().into_f32().unwrap();
        let off = difference(&found, wanted.as_f32().unwrap());
        println!("{}: the gradient of {name} is off by {off:.1e}", architecture.name);
        if !matches!(off.partial_cmp(&bound), Some(std::cmp::Ordering::Less)) {
            wrong.push(format!("the gradient of {name} is off by {off}"));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:?}", architecture.name);
}

/// The tensors whose names begin with `prefix`, without it.
fn take(weights: &mut Weights, prefix: &str) -> Weights {
    weights
        .extract_if(.., |name, _| name.starts_with(prefix))
        .map(|(name, tensor)| (name.trim_start_matches(prefix).to_string(), tensor))
        .collect()
}

/// Positions for other sizes of the picture.
#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn positions_of_other_sizes_are_those_of_pytorch() {
    let directory = tempfile::tempdir().unwrap();
    assert!(script("positions", directory.path()).status().expect("the peers are set up").success());
    let mut golden = load_weights(&directory.path().join("positions.safetensors")).unwrap().weights;
    let positions = golden.remove("pos_embed").unwrap();
    let architecture = find("vit_small_patch14_dinov2").unwrap();
    assert_eq!(golden.len(), 3);
    for (name, wanted) in golden {
        let side: usize = name.trim_start_matches("golden.").parse().unwrap();
        let mut weights = Weights::from([("pos_embed".to_string(), positions.clone())]);
        architecture.fit_to_size(14 * side, &mut weights);
        let off = difference(weights["pos_embed"].as_f32().unwrap(), wanted.as_f32().unwrap());
        println!("positions for {side} patches a side: {off:.1e}");
        assert!(off < 1e-5, "{side}: {off}");
    }
}

/// Calls `check` with each model that `scripts/golden/models.py COMMAND` writes. One file lies on the disk at a time.
fn each_golden_model(command: &str, mut check: impl FnMut(&'static Architecture, Weights)) {
    let directory = tempfile::tempdir().unwrap();
    let mut script = script(command, directory.path());
    let mut child =
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the peers are set up");
    let mut next = child.stdin.take().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let path = PathBuf::from(line.unwrap());
        let weights = load_weights(&path).unwrap().weights;
        std::fs::remove_file(&path).unwrap();
        check(find(path.file_stem().unwrap().to_str().unwrap()).unwrap(), weights);
        writeln!(next).unwrap();
    }
    assert!(child.wait().unwrap().success());
}

fn script(command: &str, directory_of_goldens: &Path) -> Command {
    let mut python = Command::new(directory("OFFSHOOT_PEERS", "peers").join("bin/python"));
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/golden/models.py"));
    python.arg(command).arg(directory_of_goldens);
    python
}

/// The model in `weights` for inputs of `size` pixels, after the checks that loading makes.
fn pretrained_at(architecture: &Architecture, weights: Weights, size: usize) -> Model {
    let weights = canonical_keys(architecture, weights).weights;
    let classes = original_classes(architecture, &weights).unwrap();
    let graph = architecture.build(&BuildOptions { classes, size, head: None }).unwrap();
    let weights = match_weights(&expected_parameters(&graph), weights).unwrap();
    let preprocessing = Preprocessing { size, ..architecture.preprocessing() };
    pretrained(architecture, weights, preprocessing).unwrap()
}

/// The same function with batch norms folded into the convolutions.
fn folded(model: &Model) -> (Graph, Weights) {
    let mut graph = model.graph.clone();
    freeze(&mut graph, |_| true);
    fold_batch_norm(&graph, &model.weights).unwrap()
}

/// What PyTorch predicts, picture by picture (`scripts/golden/models.py predictions`).
fn golden_predictions(architecture: &str) -> Vec<(String, usize)> {
    let mut lines = include_str!("golden/imagenet20.txt").lines();
    let header: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let column = header.iter().position(|&name| name == architecture).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(' ').collect();
        (cells[0].to_string(), cells[column].parse().unwrap())
    };
    lines.map(row).collect()
}

fn predict(model: &Model, picture: &Path) -> usize {
    let transform = Transform::new(&model.metadata.preprocessing).unwrap();
    let picture = read_picture(picture, &transform.decode_options()).unwrap();
    let size = model.metadata.preprocessing.size;
    let mut input = vec![0.0; transform.input_len()];
    transform.normalize(&transform.evaluate(&picture), &mut input);
    let logits = run(&model.graph, &model.weights, &Tensor::f32([1, 3, size, size], input));
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

/// `imagenet_07_609.jpg` shows the class 609.
fn label(picture: &str) -> usize {
    let stem = picture.strip_suffix(".jpg").unwrap();
    stem.rsplit('_').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs the published weights and imagenet20 (OFFSHOOT_ASSETS)"]
fn predictions_on_imagenet20_are_the_golden_ones() {
    for name in ["mobilenet_v2", "efficientnet_lite0"] {
        let architecture = find(name).unwrap();
        let loaded = load_weights(&assets(&format!("weights/{name}.pth"))).unwrap();
        let model = pretrained_at(architecture, loaded.weights, architecture.size);
        assert_eq!(model.metadata.preprocessing, architecture.preprocessing());
        let golden = golden_predictions(name);
        assert_eq!(golden.len(), 20);
        let mut correct = 0;
        for (picture, wanted) in golden {
            let found = predict(&model, &assets("imagenet20").join(&picture));
            assert_eq!(found, wanted, "{name} on {picture}");
            correct += usize::from(found == label(&picture));
        }
        assert_eq!(correct, 18, "{name}");
    }
}
