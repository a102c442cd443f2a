//! From the graph of a training step, which gives gradients, to graphs that change the parameters.

use super::rewrite::prune;
use super::train::{LOSS, TrainingGraph, gradient_output, state_output};
use crate::graph::{Graph, GraphError, Role, ValueId};
use crate::model::OUTPUT;
use crate::op::{GradientClip, Op, RATES, UpdateOp};
use crate::shape::Shape;
use crate::tensor::DType;

/// The input that holds the rates of the parameters: f32 [p, 8], a row for each of [`trained_in_order`].
pub const UPDATE_RATES: &str = "update.rates";
/// The input that gradients are multiplied by before all else: an f32 scalar.
pub const UNSCALE: &str = "update.unscale";
/// The output that holds the sum of the squares of each gradient: f64 \[p\], in the order of [`trained_in_order`].
pub const SQUARES: &str = "gradient_squares";
/// An update rule, in PyTorch's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateRule {
    /// SGD with momentum.
    Sgd {
        /// Whether the momentum is Nesterov's.
        nesterov: bool,
    },
    /// Adam and AdamW.
    Adam,
}

impl UpdateRule {
    /// The names of the moments of a parameter, as PyTorch's optimizer has them.
    pub fn moments(self) -> &'static [&'static str] {
        match self {
            UpdateRule::Sgd { .. } => &["momentum_buffer"],
            UpdateRule::Adam => &["exp_avg", "exp_avg_sq"],
        }
    }

    fn op(self, row: usize) -> UpdateOp {
        match self {
            UpdateRule::Sgd { nesterov } => UpdateOp::Sgd { nesterov, row },
            UpdateRule::Adam => UpdateOp::Adam { row },
        }
    }
}

/// The parameter of a graph that holds a moment (one of [`UpdateRule::moments`], flat) of the parameter called `name`.
pub fn moment_parameter(name: &str, moment: &str) -> String {
    format!("optimizer:{name}.{moment}")
}

/// The input that says how far averages move towards the weights: an f32 scalar, 1 to copy them. Only there when asked for.
pub const AVERAGE_PART: &str = "update.average_part";

/// The parameter of a graph that holds the moving average of the parameter called `name`, flat.
pub fn average_parameter(name: &str) -> String {
    format!("average:{name}")
}

/// The parameter of a graph that holds the sum of the gradients of the parameter called `name`.
pub fn sum_parameter(name: &str) -> String {
    format!("gradient_sum:{name}")
}

/// The trained parameters of a step in the order of their names: that of rates and of [`SQUARES`].
pub fn trained_in_order(training: &TrainingGraph) -> Vec<String> {
    let mut names = training.trained.clone();
    names.sort_unstable();
    names
}

/// The graph of a whole training step: it runs forward and backward and updates the trained parameters, their moments, the
/// running statistics and, where asked for, moving averages of parameters and statistics. Its outputs: [`LOSS`], the logits, [`SQUARES`].
///
/// # Errors
/// None for a graph of [`super::training_graph`].
pub fn step_graph(
    training: &TrainingGraph,
    rule: UpdateRule,
    clip: GradientClip,
    average: bool,
) -> Result<Graph, GraphError> {
    let mut graph = training.graph.clone();
    let names = trained_in_order(training);
    let gradients = gradients(&graph, &names)?;
    let loss = graph.output(LOSS).ok_or_else(|| missing(LOSS))?;
    add_rules(&mut graph, &names, &gradients, Some(loss), rule, clip)?;
    add_statistics(training, &mut graph)?;
    if average {
        add_averages(training, &mut graph)?;
    }
    without_training_outputs(&graph)
}

/// The graph that updates the trained parameters with sums of the gradients of several batches ([`sum_parameter`]). Its output: [`SQUARES`].
///
/// # Errors
/// None for a graph of [`super::training_graph`].
pub fn apply_graph(
    training: &TrainingGraph,
    rule: UpdateRule,
    clip: GradientClip,
    average: bool,
) -> Result<Graph, GraphError> {
    let names = trained_in_order(training);
    let mut graph = Graph::new("update");
    let mut sums = Vec::new();
    for name in &names {
        let old = parameter(&training.graph, name)?;
        let shape = training.graph.value(old).shape.as_fixed().unwrap_or_default();
        let new = graph.add_parameter(name, &shape, Role::Weight);
        sums.push(add_flat(&mut graph, &sum_parameter(name), new));
    }
    add_rules(&mut graph, &names, &sums, None, rule, clip)?;
    if average {
        for name in &training.states {
            let old = parameter(&training.graph, name)?;
            let shape = training.graph.value(old).shape.as_fixed().unwrap_or_default();
            graph.add_parameter(name, &shape, Role::Buffer);
        }
        add_averages(training, &mut graph)?;
    }
    Ok(graph)
}

fn gradients(graph: &Graph, names: &[String]) -> Result<Vec<ValueId>, GraphError> {
    let gradient = |name: &String| {
        let output = gradient_output(name);
        graph.output(&output).ok_or_else(|| missing(&output))
    };
    names.iter().map(gradient).collect()
}

/// A parameter of f32 with as many elements as `like`.
fn add_flat(graph: &mut Graph, name: &str, like: ValueId) -> ValueId {
    let len = graph.value(like).shape.as_fixed().map_or(0, |shape| shape.iter().product());
    graph.add_parameter(name, &[len], Role::Buffer)
}

fn add_rules(
    graph: &mut Graph,
    names: &[String],
    gradients: &[ValueId],
    loss: Option<ValueId>,
    rule: UpdateRule,
    clip: GradientClip,
) -> Result<(), GraphError> {
    let rates = graph.add_input(UPDATE_RATES, DType::F32, Shape::fixed(&[names.len(), RATES]));
    let unscale = graph.add_input(UNSCALE, DType::F32, Shape::default());
    let squares = graph.add(SQUARES, Op::Update(UpdateOp::SquareSums), gradients)?;
    graph.add_output(SQUARES, squares);
    let operands: Vec<ValueId> = [squares, unscale].into_iter().chain(loss).collect();
    let clip = graph.add("update.clip", Op::Update(UpdateOp::Clip(clip)), &operands)?;
    for (row, (name, &gradient)) in names.iter().zip(gradients).enumerate() {
        let weight = parameter(graph, name)?;
        let moments: Vec<ValueId> = rule
            .moments()
            .iter()
            .map(|moment| add_flat(graph, &moment_parameter(name, moment), gradient))
            .collect();
        let kept: Vec<ValueId> = [weight].into_iter().chain(moments).collect();
        let inputs: Vec<ValueId> = kept.iter().copied().chain([gradient, clip, rates]).collect();
        let new = graph.add_node(&format!("update.{name}"), Op::Update(rule.op(row)), &inputs)?;
        for (old, new) in kept.into_iter().zip(new) {
            graph.add_result(old, new)?;
        }
    }
    Ok(())
}

fn add_statistics(training: &TrainingGraph, graph: &mut Graph) -> Result<(), GraphError> {
    for name in &training.states {
        let output = state_output(name);
        let new = graph.output(&output).ok_or_else(|| missing(&output))?;
        let old = parameter(graph, name)?;
        graph.add_result(old, new)?;
    }
    Ok(())
}

/// Averages of what the step changes, as `torch.optim.swa_utils.AveragedModel` with `use_buffers=True`.
fn add_averages(training: &TrainingGraph, graph: &mut Graph) -> Result<(), GraphError> {
    let part = graph.add_input(AVERAGE_PART, DType::F32, Shape::default());
    for name in training.moving() {
        let own = parameter(graph, name)?;
        let new =
            graph.results().iter().find(|(parameter, _)| *parameter == own).map_or(own, |&(_, new)| new);
        let average = add_flat(graph, &average_parameter(name), own);
        let node = format!("average.{name}");
        let moved = graph.add(&node, Op::Update(UpdateOp::Average), &[average, new, part])?;
        graph.add_result(average, moved)?;
    }
    Ok(())
}

/// The graph with the outputs that a step needs: gradients and statistics are results.
fn without_training_outputs(graph: &Graph) -> Result<Graph, GraphError> {
    let mut graph = graph.clone();
    graph.retain_outputs(|name| [LOSS, OUTPUT, SQUARES].contains(&name));
    prune(&graph)
}

fn parameter(graph: &Graph, name: &str) -> Result<ValueId, GraphError> {
    graph.find_parameter(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> GraphError {
    GraphError { node: name.into(), op: "update", reason: "the graph of the step does not have it".into() }
}
