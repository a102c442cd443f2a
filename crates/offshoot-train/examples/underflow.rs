//! What loss scaling is for: how much of the gradient is lost when activation gradients are stored in f16.
//!
//! ```text
//! cargo run --release -p offshoot-train --example underflow -- [MODEL] [BATCH] [SIZE]
//! ```
//!
//! A network (ResNet-18, 16 random pictures of 64 pixels unless said otherwise) learns its pictures in f32 until the loss
//! is below 0.01. Then one step in f16, with the loss as it is and with the loss times what `GradScaler` starts with.
//! For each convolution: the part of its output's gradient that f32 has and that became 0 in f16, and the error of its
//! weight's gradient (the 2-norm of the difference from f32, relative to that in f32).

#![allow(clippy::print_stdout, reason = "an example")]

use std::error::Error;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::model::INPUT;
use offshoot_graph::op::GradOp;
use offshoot_graph::passes::{LABELS, LOSS_SCALE, LossOptions, autocast, training_graph};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Executor, Graph, Metadata, Model, Op, Preprocessing, Session, Tensor, Weights};
use offshoot_models::{BuildOptions, expected_parameters, find};
use offshoot_train::{GradScaler, OptimizerKind, OptimizerOptions, StepOptions, TrainStep};

const CLASSES: usize = 10;

/// The loss of a network that has learned its pictures, and the most steps that it may take.
const SMALL: f32 = 0.01;
const MAX_STEPS: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "resnet18".into());
    let batch: usize = arguments.next().map_or(Ok(16), |text| text.parse())?;
    let size: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;

    let architecture = find(&name)?;
    let head = Some("linear,dropout=0".parse()?);
    let network = architecture.build(&BuildOptions { classes: CLASSES, size, head })?;
    let names: Vec<String> = expected_parameters(&network).into_iter().map(|(name, _)| name).collect();
    let weights = architecture.init_parameters(&network, names.iter().map(String::as_str), 0)?;
    let preprocessing = Preprocessing { size, ..architecture.preprocessing() };
    let classes = (0..CLASSES).map(|i| i.to_string()).collect();
    let metadata = Metadata {
        architecture: Some(name.clone()),
        head: None,
        classes,
        preprocessing,
        ..Metadata::default()
    };
    let mut model = Model { graph: network, weights, metadata };
    let mut random = Random::new(0, 0, 0, Purpose::Augment);
    let pixels = (0..batch * 3 * size * size).map(|_| random.normal()).collect();
    let x = Tensor::f32([batch, 3, size, size], pixels);
    let labels = Tensor::i64([batch], (0..batch).map(|i| (i % CLASSES) as i64).collect());

    let loss = learn(&mut model, &x, &labels)?;
    let Model { graph: network, weights, .. } = model;
    let scale = GradScaler::default().scale();
    let exact = Gradients::of(&network, &weights, &x, &labels, 1.0)?;
    let half = autocast(&network, DType::F16)?;
    let plain = Gradients::of(&half, &weights, &x, &labels, 1.0)?;
    let scaled = Gradients::of(&half, &weights, &x, &labels, scale)?;

    println!("{name}, {batch} pictures of {size} pixels, loss {loss:.1e}");
    println!("{:32}{:>26}{:>30}", "", "gradient lost in f16", "error of the weight gradient");
    println!(
        "{:32}{:>13}{:>13}{:>15}{:>15}",
        "convolution",
        "scale 1",
        format!("scale {scale}"),
        "scale 1",
        format!("scale {scale}")
    );
    for (i, (convolution, wanted)) in exact.0.iter().enumerate() {
        let row = [&plain.0[i].1, &scaled.0[i].1].map(|found| (lost(found, wanted), error(found, wanted)));
        let [(lost, off), (lost_scaled, off_scaled)] = row;
        println!(
            "{convolution:32}{:>12.1}%{:>12.1}%{:>14.2}%{:>14.2}%",
            100.0 * lost,
            100.0 * lost_scaled,
            100.0 * off,
            100.0 * off_scaled
        );
    }
    Ok(())
}

/// Trains until the loss is small, and says how small.
fn learn(model: &mut Model, x: &Tensor, labels: &Tensor) -> Result<f32, Box<dyn Error>> {
    let options = StepOptions::new(OptimizerOptions::new(OptimizerKind::AdamW), 1e-3);
    let mut step = TrainStep::new(model.clone(), &options, &CpuExecutor::new(CpuOptions::default())?)?;
    let keys = Tensor::i64(labels.shape(), vec![0; labels.len()]);
    let mut loss = f32::INFINITY;
    for _ in 0..MAX_STEPS {
        if loss < SMALL {
            break;
        }
        loss = step.learn(x, labels, &keys, 1.0)?.loss;
    }
    *model = step.model();
    Ok(loss)
}

/// The gradients of a convolution's output and weight.
struct Pair {
    output: Vec<f32>,
    weight: Vec<f32>,
}

/// By convolution, last first.
struct Gradients(Vec<(String, Pair)>);

impl Gradients {
    /// One step, with the loss times `scale`.
    fn of(
        network: &Graph,
        weights: &Weights,
        x: &Tensor,
        labels: &Tensor,
        scale: f32,
    ) -> Result<Gradients, Box<dyn Error>> {
        let options = LossOptions { scaled: true, ..LossOptions::default() };
        let mut graph = training_graph(network, options)?.graph;
        let is_weight = |op: &Op| matches!(op, Op::Grad(GradOp::ConvWeight { .. }));
        let convolutions: Vec<_> = graph.nodes().iter().filter(|n| is_weight(&n.op)).cloned().collect();
        for node in &convolutions {
            graph.add_output(&format!("output:{}", node.name), node.inputs[0]);
            graph.add_output(&format!("weight:{}", node.name), node.outputs[0]);
        }
        let mut session = CpuExecutor::new(CpuOptions::default())?.prepare(&graph, weights)?;
        let scale_input = Tensor::full([], scale);
        session.run(&[(INPUT, x), (LABELS, labels), (LOSS_SCALE, &scale_input)])?;
        let read = |what: &str, node: &str| unscaled(&*session, &format!("{what}:{node}"), scale);
        let pair = |node: &str| Some(Pair { output: read("output", node)?, weight: read("weight", node)? });
        let named = |node: &str| {
            let name = node.trim_start_matches("grad.").trim_end_matches(".1").to_string();
            Some((name, pair(node)?))
        };
        Ok(Gradients(convolutions.iter().filter_map(|n| named(&n.name)).collect()))
    }
}

fn unscaled(session: &dyn Session, output: &str, scale: f32) -> Option<Vec<f32>> {
    Some(session.read(output)?.as_f32()?.iter().map(|x| x / scale).collect())
}

/// The fraction of the output's gradient that is 0 and should not be.
fn lost(found: &Pair, wanted: &Pair) -> f64 {
    let pairs = || found.output.iter().zip(&wanted.output).filter(|(_, w)| **w != 0.0);
    pairs().filter(|(f, _)| **f == 0.0).count() as f64 / pairs().count().max(1) as f64
}

/// The error of the weight's gradient.
fn error(found: &Pair, wanted: &Pair) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = found.weight.iter().zip(&wanted.weight).map(|(f, w)| square(f - w)).sum();
    let all: f64 = wanted.weight.iter().map(|&w| square(w)).sum();
    (off / all.max(f64::MIN_POSITIVE)).sqrt()
}
