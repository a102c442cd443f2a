//! A model and pictures looked at before training: forward, loss and backward once, and what is wrong with them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use offshoot_data::{Batch, Loader, LoaderOptions, PictureError, Sample, Transform, TransformError};
use offshoot_graph::model::INPUT;
use offshoot_graph::op::{Norm, Unary};
use offshoot_graph::passes::{
    CLASS_WEIGHTS, LABELS, LOSS, LossOptions, TrainingGraph, freeze, gradient_output,
    remove_training_leftovers, training_graph,
};
use offshoot_graph::remedy::MEAN;
use offshoot_graph::{
    Executor, Graph, Model, Op, Preprocessing, Regression, RegressionLoss, Task, Tensor, ValueId, Weights,
};
use serde::Serialize;

use super::probe::{NonFinite, Probe, Range};
use super::watch::guessing;
use crate::inference::NetworkError;
use crate::optimizer::sum_of_squares;
use crate::targets::{loss_of_means, targets};

/// Pictures that the network is run on, spread evenly over the folder.
const PROBED: usize = 32;

/// Pictures decoded at once.
const BATCH: usize = 16;

/// How far the loss may be above that of random guessing. At 1 the right class gets less than 1 / e of the probability that random guessing gives it.
const ABOVE_A_GUESS: f64 = 1.0;

/// A model that could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The network cannot run.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The preprocessing cannot be carried out.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// A picture cannot be used, and that is an error by request.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// There is nothing to run the network on.
    #[error("no picture could be decoded; the first of {count}: {first}")]
    NoPicture {
        /// How many were tried.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
}

/// The pictures to look at.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    /// Those that may be used; labels are places in the model's list of classes.
    pub samples: Vec<Sample>,
    /// Those that are known to be of no use.
    pub skipped: Vec<PictureError>,
    /// The model's classes without a picture.
    pub absent: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// Whether `problems` is empty.
    pub healthy: bool,
    /// What is wrong, and for each what to do.
    pub problems: Vec<String>,
    /// What need not be wrong.
    pub notes: Vec<String>,
    /// The weights by top-level block, with their gradients.
    pub blocks: Vec<Block>,
    /// Activations that are zero everywhere, or in part.
    pub idle: Vec<Idle>,
    /// Where the first number that is not finite comes from.
    pub nonfinite: Option<NonFinite>,
    /// What the network reads: the pictures after preprocessing.
    pub input: Range,
    /// The mean cross-entropy over the pictures that were probed, in evaluation mode.
    pub loss: f32,
    /// That of random guessing: ln(classes), or ln(2) of several labels; of numbers, that of predicting the means.
    pub guess: f64,
    #[serde(skip)]
    task: Task,
    /// The 2-norm of all gradients together.
    pub gradient_norm: f64,
    /// Pictures that the network was run on.
    pub probed: usize,
    /// Usable pictures.
    pub images: usize,
    /// Pictures that are of no use.
    pub unreadable: usize,
}

/// A part of a network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Block {
    /// The beginning of its parameters' names.
    pub name: String,
    /// Elements of its weights; running statistics are not counted.
    pub parameters: usize,
    /// What its weights and running statistics are like.
    pub weights: Range,
    /// The 2-norm of its weights.
    pub weight_norm: f64,
    /// The 2-norm of their gradients. Batch norms are in evaluation mode and their weights and biases left out.
    pub gradient_norm: f64,
}

/// An activation with channels that are zero for all pictures and everywhere in them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub op: &'static str,
    /// How many of its channels are zero.
    pub zero: usize,
    /// How many it has.
    pub channels: usize,
}

/// Looks at `model` with `pictures`: at its weights, at its preprocessing, at each picture, and at one run forward and backward
/// with every weight but the batch norms' trainable. Nothing is changed. `done` is told how many pictures have been decoded.
///
/// # Errors
/// When the network or the preprocessing cannot run, and when there is no picture to run it on.
pub fn check(
    model: &Model,
    pictures: Pictures,
    executor: &dyn Executor,
    done: impl FnMut(u64),
) -> Result<CheckReport, CheckError> {
    let preprocessing = &model.metadata.preprocessing;
    let Decoded { input, labels, images, skipped } = decode(pictures.samples, preprocessing, done)?;
    let unreadable: Vec<&PictureError> = pictures.skipped.iter().chain(&skipped).collect();
    if labels.is_empty() {
        let first = unreadable.first().map_or("the list is empty".into(), |e| e.to_string());
        return Err(CheckError::NoPicture { count: unreadable.len(), first });
    }
    let task = model.metadata.task;
    let regression = (task == Task::Regression).then(|| model.metadata.regression());
    let step = step(&model.graph, task, regression.as_ref()).map_err(NetworkError::from)?;
    let (probed, classes) = (labels.len(), model.metadata.classes.len());
    let guess = match (task, &regression) {
        (Task::Single, _) => (classes.max(1) as f64).ln(),
        (Task::Multi, _) | (Task::Regression, None) => std::f64::consts::LN_2,
        (Task::Regression, Some(regression)) => loss_of_means(regression, labels.iter()),
    };
    let labels = targets(task, classes, labels.iter());
    let factors = regression.map(|regression| Tensor::f32([classes], regression.inverse_deviations()));
    let mut inputs = vec![(INPUT, &input), (LABELS, &labels)];
    inputs.extend(factors.as_ref().map(|factors| (CLASS_WEIGHTS, factors)));
    let probe = Probe { graph: &step.graph, weights: &model.weights, inputs: &inputs, executor };
    let run = run(&step, &probe)?;
    let nonfinite = probe.first_nonfinite()?;
    let blocks = blocks(&model.graph, &model.weights, &run.squares);
    let idle = idle(&probe)?;
    let mut report = CheckReport {
        healthy: true,
        problems: Vec::new(),
        notes: Vec::new(),
        blocks,
        idle,
        nonfinite,
        input: Range::of(input.as_f32().unwrap_or_default()),
        loss: run.loss,
        guess,
        task,
        gradient_norm: run.squares.values().sum::<f64>().sqrt(),
        probed,
        images,
        unreadable: unreadable.len(),
    };
    report.judge(preprocessing, &unreadable, &pictures.absent);
    Ok(report)
}

/// Pictures for the network, and what became of the others.
struct Decoded {
    input: Tensor,
    labels: Vec<Sample>,
    /// How many could be decoded.
    images: usize,
    skipped: Vec<PictureError>,
}

/// Decodes every picture and keeps some of them, spread evenly.
fn decode(
    samples: Vec<Sample>,
    preprocessing: &Preprocessing,
    mut done: impl FnMut(u64),
) -> Result<Decoded, CheckError> {
    let transform = Transform::new(preprocessing)?;
    let options = LoaderOptions::evaluation(&transform, BATCH);
    let every = samples.len().div_ceil(PROBED).max(1) as u64;
    let loader = Loader::new(samples, transform, options);
    let (mut data, mut labels, mut images) = (Vec::new(), Vec::new(), 0);
    let side = preprocessing.size;
    let picture = 3 * side * side;
    for batch in loader.epoch(0) {
        let Batch { images: pixels, indices, .. } = batch?;
        images += indices.len();
        let rows = indices.iter().zip(pixels.chunks_exact(picture));
        for (&index, pixels) in rows.filter(|(index, _)| *index % every == 0) {
            data.extend_from_slice(pixels);
            labels.push(loader.samples()[index as usize].clone());
        }
        done(images as u64);
    }
    let input = Tensor::f32([labels.len(), 3, side, side], data);
    Ok(Decoded { input, labels, images, skipped: loader.skipped() })
}

/// Forward, loss and backward, with batch norms in evaluation mode and without dropout.
fn step(
    graph: &Graph,
    task: Task,
    regression: Option<&Regression>,
) -> Result<TrainingGraph, offshoot_graph::GraphError> {
    let mut graph = remove_training_leftovers(graph)?;
    let norms = graph.nodes().iter().filter(|node| matches!(node.op, Op::Norm(Norm::Batch(_))));
    let of_norms: Vec<String> =
        norms.flat_map(|node| &node.inputs[1..]).map(|&id| graph.value(id).name.clone()).collect();
    freeze(&mut graph, |name| of_norms.iter().any(|norm| norm == name));
    let options = LossOptions {
        task,
        regression: regression.map_or_else(RegressionLoss::default, |regression| regression.loss),
        class_weights: regression.is_some(),
        ..LossOptions::default()
    };
    training_graph(&graph, options)
}

struct Run {
    loss: f32,
    /// The sum of the squares of each parameter's gradient.
    squares: BTreeMap<String, f64>,
}

fn run(step: &TrainingGraph, probe: &Probe<'_>) -> Result<Run, NetworkError> {
    let mut session = probe.executor.prepare(probe.graph, probe.weights)?;
    session.run(probe.inputs)?;
    let output = |name: &str| session.read(name).and_then(Tensor::into_f32).unwrap_or_default();
    let squares = |name: &String| (name.clone(), sum_of_squares(&output(&gradient_output(name))));
    let loss = output(LOSS).first().copied().unwrap_or(f32::NAN);
    Ok(Run { loss, squares: step.trained.iter().map(squares).collect() })
}

/// The parameters by the beginning of their names: as many parts of it as tell at least three blocks apart.
fn blocks(graph: &Graph, weights: &Weights, squares: &BTreeMap<String, f64>) -> Vec<Block> {
    let names: Vec<&str> = graph.parameters().iter().map(|&id| graph.value(id).name.as_str()).collect();
    let count = |depth| {
        let mut heads: Vec<&str> = names.iter().map(|name| head(name, depth)).collect();
        heads.sort_unstable();
        heads.dedup();
        heads.len()
    };
    let depth = if count(1) >= 3 { 1 } else { 2 };
    let mut grouped: Vec<(&str, Vec<ValueId>)> = Vec::new();
    for &id in graph.parameters() {
        let name = head(&graph.value(id).name, depth);
        match grouped.iter_mut().find(|(block, _)| *block == name) {
            Some((_, ids)) => ids.push(id),
            None => grouped.push((name, vec![id])),
        }
    }
    grouped.iter().map(|(name, ids)| block(graph, weights, squares, name, ids)).collect()
}

/// The first `depth` parts of a name.
fn head(name: &str, depth: usize) -> &str {
    name.match_indices('.').nth(depth - 1).map_or(name, |(end, _)| &name[..end])
}

fn block(
    graph: &Graph,
    weights: &Weights,
    squares: &BTreeMap<String, f64>,
    name: &str,
    ids: &[ValueId],
) -> Block {
    let mut all: Vec<f32> = Vec::new();
    let (mut parameters, mut weight, mut gradient) = (0, 0.0, 0.0);
    for &id in ids {
        let key = &graph.value(id).name;
        let data = weights.get(key).and_then(Tensor::as_f32).unwrap_or_default();
        all.extend_from_slice(data);
        let counted = graph.parameter_info(id).is_some_and(|p| p.role == offshoot_graph::Role::Weight);
        if counted {
            parameters += data.len();
            weight += sum_of_squares(data);
        }
        gradient += squares.get(key).copied().unwrap_or(0.0);
    }
    Block {
        name: name.to_owned(),
        parameters,
        weights: Range::of(&all),
        weight_norm: weight.sqrt(),
        gradient_norm: gradient.sqrt(),
    }
}

/// The activations that have a channel of zeros.
fn idle(probe: &Probe<'_>) -> Result<Vec<Idle>, NetworkError> {
    let activations =
        probe.graph.nodes().iter().filter(|node| matches!(node.op, Op::Unary(Unary::Relu | Unary::Clip(_))));
    let values: Vec<ValueId> = activations.map(|node| node.outputs[0]).collect();
    let mut idle = Vec::new();
    probe.visit(&values, |id, data| {
        let value = probe.graph.value(id);
        let channels = value.shape.0.get(1).and_then(|dim| dim.fixed()).unwrap_or(1).max(1);
        let plane = plane(probe, data.len(), channels);
        let mut active = vec![false; channels];
        for (i, plane) in data.chunks(plane).enumerate() {
            active[i % channels] |= plane.iter().any(|&x| x != 0.0);
        }
        let zero = active.iter().filter(|&&active| !active).count();
        if zero > 0
            && let Some(node) = probe.graph.producer(id).map(|node| probe.graph.node(node))
        {
            idle.push(Idle { node: node.name.clone(), op: node.op.name(), zero, channels });
        }
        ControlFlow::Continue(())
    })?;
    Ok(idle)
}

/// Elements of one channel of one picture.
fn plane(probe: &Probe<'_>, elements: usize, channels: usize) -> usize {
    let pictures = probe.inputs.first().and_then(|(_, input)| input.shape().first()).copied().unwrap_or(1);
    (elements / (pictures.max(1) * channels)).max(1)
}

impl CheckReport {
    /// Fills in what is wrong.
    fn judge(&mut self, preprocessing: &Preprocessing, unreadable: &[&PictureError], absent: &[String]) {
        self.judge_numbers();
        self.judge_network();
        self.judge_pictures(preprocessing, unreadable, absent);
        self.healthy = self.problems.is_empty();
    }

    fn judge_numbers(&mut self) {
        for Block { name, weights, .. } in self.blocks.iter().filter(|block| block.weights.nonfinite > 0) {
            self.problems.push(format!(
                "the weights of `{name}` have {} of {} numbers that are not finite; take them from a checkpoint \
                 before that, or download them again",
                weights.nonfinite, weights.elements
            ));
        }
        if let Some(found) = &self.nonfinite {
            self.problems.push(found.to_string());
        } else if !self.loss.is_finite() {
            self.problems.push(format!("the loss is {}, though every value before it is finite", self.loss));
        }
    }

    /// What can be said only of a network whose values are finite.
    fn judge_network(&mut self) {
        if self.nonfinite.is_some() || !self.loss.is_finite() {
            return;
        }
        let (loss, guess) = (f64::from(self.loss), self.guess);
        if loss > guess + ABOVE_A_GUESS {
            self.problems.push(format!(
                "the loss is {loss:.3}, more than {} gives ({guess:.3}); check that the {} have \
                 the model's order and that size, mean and std are those of its training",
                guessing(self.task),
                if self.task == Task::Regression { "targets" } else { "classes" }
            ));
        }
        for Block { name, .. } in self.blocks.iter().filter(|b| b.is_without_gradient(&self.blocks)) {
            self.problems.push(format!(
                "no gradient reaches the weights of `{name}`: it is exactly 0; a layer behind it gives zeros only"
            ));
        }
        for Idle { node, op, zero, channels } in &self.idle {
            match zero == channels {
                true => self.problems.push(format!(
                    "`{node}` ({op}) is 0 for all {} pictures: the layer is dead; start again from earlier weights, \
                     with a lower learning rate or a warm-up",
                    self.probed
                )),
                false => self.notes.push(format!(
                    "`{node}` ({op}): {zero} of {channels} channels are 0 for all {} pictures",
                    self.probed
                )),
            }
        }
    }

    fn judge_pictures(
        &mut self,
        preprocessing: &Preprocessing,
        unreadable: &[&PictureError],
        absent: &[String],
    ) {
        if preprocessing.mean.iter().any(|mean| !(0.0..=1.0).contains(mean)) {
            self.problems.push(format!(
                "the preprocessing subtracts {:?} from pixels of 0..1; give {MEAN} on that scale",
                preprocessing.mean
            ));
        }
        if self.input.min == self.input.max {
            self.problems.push(format!(
                "every pixel of the network input is {}; check the pictures, the mean and the std",
                self.input.min
            ));
        }
        for error in unreadable {
            self.problems.push(format!("{error}; repair it or remove it"));
        }
        if !absent.is_empty() {
            let shown = absent.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let more = if absent.len() > 5 { ", ..." } else { "" };
            self.notes.push(format!("no picture of {} of the model's classes: {shown}{more}", absent.len()));
        }
    }
}

impl Block {
    /// Whether it has weights with gradients in principle, and these are all 0. Blocks of batch norms alone have none,
    /// and a network that is perfect has none anywhere.
    fn is_without_gradient(&self, all: &[Block]) -> bool {
        self.gradient_norm == 0.0 && self.parameters > 0 && all.iter().any(|block| block.gradient_norm > 0.0)
    }
}
