//! Optimizers, schedules and a small network in training against PyTorch (`scripts/golden/train.py`).

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::collections::BTreeMap;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Pooling, ShapeOp, Unary};
use offshoot_graph::{DType, Dim, Graph, Metadata, Model, Op, Shape, Tensor, Weights};
use offshoot_train::optimizer::Clip;
use offshoot_train::schedule::Plateau;
use offshoot_train::{
    Freeze, GroupOptions, Inference, OptimizerKind, OptimizerOptions, Schedule, ScheduleKind, StepOptions,
    TrainStep, apply_freeze,
};
use serde::Deserialize;

use crate::rule::Rule;

fn golden<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The largest difference relative to the largest number.
fn difference(ours: &[f32], theirs: &[f64]) -> f64 {
    offshoot_testing::difference_above(ours, theirs, 1e-30)
}

#[derive(Deserialize)]
struct Rates {
    lr: f64,
    #[serde(default)]
    momentum: f64,
    #[serde(default)]
    nesterov: bool,
    #[serde(default)]
    weight_decay: f64,
}

impl Rates {
    fn options(&self, kind: OptimizerKind) -> OptimizerOptions {
        OptimizerOptions { momentum: self.momentum, nesterov: self.nesterov, ..OptimizerOptions::new(kind) }
    }
}

#[derive(Deserialize)]
struct Optimizers {
    start: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    factors: Vec<f64>,
    cases: Vec<OptimizerCase>,
}

#[derive(Deserialize)]
struct OptimizerCase {
    kind: OptimizerKind,
    #[serde(flatten)]
    rates: Rates,
    clip_norm: Option<f64>,
    clip_value: Option<f64>,
    weights: BTreeMap<usize, Vec<f64>>,
    state: BTreeMap<String, Option<Vec<f64>>>,
}

#[test]
fn optimizers_are_torchs() {
    let golden: Optimizers = golden("optimizers");
    for case in &golden.cases {
        let clip = case.clip_norm.map_or(Clip::Off, Clip::Norm);
        let clip = case.clip_value.map_or(clip, Clip::Value);
        let Rates { lr, weight_decay, .. } = case.rates;
        let mut rule = Rule::new(case.rates.options(case.kind), lr, weight_decay, clip, &golden.start);
        for (step, gradient) in golden.gradients.iter().enumerate() {
            rule.update(gradient, golden.factors[step], 1.0).unwrap();
            let weight = rule.weight();
            if let Some(theirs) = case.weights.get(&(step + 1)) {
                // Each element by itself, since their sizes are far apart, and against the largest that it has been. Each of
                // 200 steps rounds to 24 bits, here and there in another order.
                for (i, &x) in theirs.iter().enumerate() {
                    let size = case.weights.values().map(|w| w[i].abs()).fold(0.0, f64::max);
                    let ours = f64::from(weight[i]);
                    assert!((ours - x).abs() < 1e-5 * size, "{:?} step {step}: {ours} is not {x}", case.kind);
                }
            }
        }
        assert_eq!(case.weights.len(), 4);
        let state = rule.state();
        for (name, theirs) in case.state.iter().filter_map(|(n, s)| Some((n, s.as_ref()?))) {
            let ours = state[&format!("w.{name}")].as_f32().unwrap();
            assert!(difference(ours, theirs) < 3e-6, "{:?} {name}: {ours:?} {theirs:?}", case.kind);
        }
        assert_eq!(state["w.step"].as_f32(), Some(&[200.0][..]));
    }
}

#[derive(Deserialize)]
struct ScheduleCase {
    schedule: ScheduleKind,
    warmup: u64,
    epochs: u64,
    per_epoch: u64,
    factors: Vec<f64>,
}

#[test]
fn schedules_are_torchs() {
    for case in golden::<Vec<ScheduleCase>>("schedules") {
        // The part that is rounded down to the whole number of steps.
        let warmup = (case.warmup as f64 + 0.5) / case.factors.len() as f64;
        let warmup = if case.warmup == 0 { 0.0 } else { warmup };
        let schedule = Schedule::new(case.schedule, warmup, case.per_epoch, case.epochs);
        for (step, theirs) in case.factors.iter().enumerate() {
            let ours = schedule.factor(step as u64);
            assert!((ours - theirs).abs() < 1e-12, "{}, step {step}: {ours} is not {theirs}", case.schedule);
        }
    }
}

#[derive(Deserialize)]
struct Plateaus {
    losses: Vec<f64>,
    cases: Vec<PlateauCase>,
}

#[derive(Deserialize)]
struct PlateauCase {
    schedule: ScheduleKind,
    lr: f64,
    factors: Vec<f64>,
}

#[test]
fn a_plateau_is_torchs() {
    let golden: Plateaus = golden("plateau");
    for case in &golden.cases {
        let ScheduleKind::Plateau(options) = case.schedule else { panic!("{}", case.schedule) };
        let mut plateau = Plateau::default();
        for (epoch, (&loss, theirs)) in golden.losses.iter().zip(&case.factors).enumerate() {
            plateau.update(loss, &options, case.lr);
            let ours = plateau.factor();
            assert!(
                (ours - theirs).abs() < 1e-12,
                "{}, epoch {epoch}: {ours} is not {theirs}",
                case.schedule
            );
        }
        assert!(plateau.factor() < 0.3);
    }
}

#[derive(Deserialize)]
struct Networks {
    start: BTreeMap<String, Array>,
    images: Vec<Vec<f32>>,
    labels: Vec<Vec<i64>>,
    cases: Vec<NetworkCase>,
}

#[derive(Deserialize)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

#[derive(Deserialize)]
struct NetworkCase {
    name: String,
    frozen: Vec<String>,
    kind: OptimizerKind,
    options: Rates,
    #[serde(default)]
    label_smoothing: f32,
    class_weights: Option<Vec<f32>>,
    ema: Option<f64>,
    average: Option<BTreeMap<String, Array>>,
    losses: Vec<f64>,
    norms: Vec<f64>,
    weights: BTreeMap<String, Array>,
    logits: Vec<f64>,
}

fn network() -> Graph {
    let mut graph = Graph::new("small");
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), 6.into(), 6.into()]);
    let x = graph.add_input(INPUT, DType::F32, shape);
    let x = graph.conv2d("conv1", x, &Conv2d::new(4, 3)).unwrap();
    let x = graph.batch_norm("bn1", x, BATCH_NORM).unwrap();
    let x = graph.add("relu1", Op::Unary(Unary::Relu), &[x]).unwrap();
    let x = graph.conv2d("conv2", x, &Conv2d::new(5, 3).stride(2)).unwrap();
    let x = graph.batch_norm("bn2", x, BATCH_NORM).unwrap();
    let x = graph.add("relu2", Op::Unary(Unary::Relu), &[x]).unwrap();
    let x = graph.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
    let x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    let x = graph.linear("fc", x, 3).unwrap();
    graph.add_output(OUTPUT, x);
    graph
}

fn model(start: &BTreeMap<String, Array>, frozen: &[String]) -> Model {
    let mut graph = network();
    let freeze = if frozen.is_empty() { "none".into() } else { frozen.join(",") };
    apply_freeze(&mut graph, &freeze.parse::<Freeze>().unwrap()).unwrap();
    let tensor =
        |array: &Array| Tensor::f32(array.shape.clone(), array.data.iter().map(|&x| x as f32).collect());
    let weights = start.iter().map(|(name, array)| (name.clone(), tensor(array))).collect();
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    let metadata = Metadata { architecture: None, head: None, classes, ..Metadata::default() };
    Model { graph, weights, metadata }
}

fn compare(ours: &Weights, theirs: &BTreeMap<String, Array>, case: &str) {
    for (name, theirs) in theirs {
        let ours = &ours[name];
        assert_eq!(ours.shape(), theirs.shape);
        let error = difference(ours.as_f32().unwrap(), &theirs.data);
        assert!(error < 1e-5, "{case}: {name} differs by {error}");
    }
}

#[test]
fn a_network_trains_as_in_torch() {
    let golden: Networks = golden("networks");
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    for case in &golden.cases {
        let options = StepOptions {
            rates: GroupOptions {
                weight_decay: case.options.weight_decay,
                decay_norms_and_biases: true,
                ..GroupOptions::new(case.options.lr)
            },
            label_smoothing: case.label_smoothing,
            class_weights: case.class_weights.clone(),
            ema: case.ema,
            ..StepOptions::new(case.options.options(case.kind), case.options.lr)
        };
        let mut step = TrainStep::new(model(&golden.start, &case.frozen), &options, &executor).unwrap();
        assert_eq!(step.has_prefix(), case.frozen.contains(&"conv1".to_string()), "{}", case.name);
        let images = |i: usize| Tensor::f32([4, 3, 6, 6], golden.images[i].clone());
        for (i, labels) in golden.labels.iter().enumerate() {
            let labels = Tensor::i64([4], labels.clone());
            let report = step.run(images(i), &labels, &Tensor::i64([4], vec![0; 4]), 1.0).unwrap();
            let close = |ours: f64, theirs: f64| (ours - theirs).abs() < 1e-5 * theirs.abs().max(0.1);
            let (loss, norm) = (f64::from(report.loss), report.gradient_norm);
            assert!(close(loss, case.losses[i]), "{}, step {i}: loss {loss}, {}", case.name, case.losses[i]);
            assert!(close(norm, case.norms[i]), "{}, step {i}: norm {norm}, {}", case.name, case.norms[i]);
        }
        let model = step.model();
        compare(&model.weights, &case.weights, &case.name);
        let average = step.averaged().map(|average| average.weights).unwrap_or_default();
        case.average.iter().for_each(|theirs| compare(&average, theirs, &case.name));
        let mut network = Inference::new(&model, &executor).unwrap();
        let logits = network.run(&images(0)).unwrap();
        assert_eq!(logits.shape(), [4, 3]);
        let logits = logits.as_f32().unwrap();
        assert!(difference(logits, &case.logits) < 1e-5, "{}: {logits:?}", case.name);
    }
}
