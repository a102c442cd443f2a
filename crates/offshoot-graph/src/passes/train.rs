//! From a classifier to the graph of one training step.

use std::collections::HashMap;

use super::differentiate::{Gradients, differentiate};
use super::expand::{expand, unroll};
use super::gated::recognize_gated;
use super::rewrite::{Rewriter, prune};
use crate::graph::{Graph, GraphError, Node, Parameter, ValueId};
use crate::model::{OUTPUT, Task};
use crate::op::{Binary, CrossEntropy, Norm, Op, Reduce, ShapeOp, TrainOp, Unary};
use crate::regression::RegressionLoss;
use crate::shape::{Dim, Shape};
use crate::tensor::{DType, Tensor};

/// The input that holds the labels: i64, one for each picture, or where asked for f32, a row of the classes' parts of the target
/// for each picture. Of [`Task::Multi`], f32 [N, C + 1]: the target of each class, 0 to 1, then what the picture's loss is multiplied by. Of
/// [`Task::Regression`] the same, with targets in their own units.
pub const LABELS: &str = "labels";
/// The input that holds the keys of the dropout masks: i64, one for each picture. Only there when a dropout is.
pub const KEYS: &str = "keys";
/// The input that holds the class weights: f32, one for each class. Only there when asked for. Of [`Task::Multi`] they multiply the loss
/// of what has the class, as `pos_weight` of `torch.nn.BCEWithLogitsLoss`. Of [`Task::Regression`] they multiply the differences of outputs
/// and targets before the loss is taken: the inverses of the targets' deviations.
pub const CLASS_WEIGHTS: &str = "class_weights";
/// The input that holds what the loss is multiplied by before it is differentiated: an f32 scalar. Only there when asked for.
pub const LOSS_SCALE: &str = "loss_scale";
/// The output that holds the loss, not scaled: an f32 scalar.
pub const LOSS: &str = "loss";

/// What is trained for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossOptions {
    /// What is minimized: cross entropy; of several labels, binary cross entropy, the mean over pictures and classes; of numbers, `regression`.
    pub task: Task,
    /// Of [`Task::Regression`], the loss, the mean over pictures and targets.
    pub regression: RegressionLoss,
    /// The fraction of the target spread over all classes, 0..1. Targets of [`Task::Multi`] come smoothed.
    pub label_smoothing: f32,
    /// Whether the loss reads [`CLASS_WEIGHTS`].
    pub class_weights: bool,
    /// Whether [`LABELS`] holds the classes' parts of the target.
    pub soft_targets: bool,
    /// Whether the gradients are those of the loss times [`LOSS_SCALE`].
    pub scaled: bool,
}

/// The graph of one training step. Its outputs: [`LOSS`], the logits, [`gradient_output`] of each trainable
/// parameter that the loss depends on, [`state_output`] of each running statistic that the step moves.
#[derive(Clone, Debug)]
pub struct TrainingGraph {
    /// The graph.
    pub graph: Graph,
    /// The names of the trainable parameters whose gradients are outputs.
    pub trained: Vec<String>,
    /// The names of the running statistics whose new values are outputs.
    pub states: Vec<String>,
}

impl TrainingGraph {
    /// The names of all that a step changes: trained parameters, then running statistics.
    pub fn moving(&self) -> impl Iterator<Item = &String> {
        self.trained.iter().chain(&self.states)
    }
}

/// The name of the output that holds the gradient of the parameter called `name`.
pub fn gradient_output(name: &str) -> String {
    format!("grad:{name}")
}

/// The name of the output that holds the new value of the running statistic called `name`.
pub fn state_output(name: &str) -> String {
    format!("state:{name}")
}

/// Derives the graph of a training step from a classifier with the output [`OUTPUT`].
///
/// A batch norm with a trainable weight or bias uses the batch's statistics; a frozen one keeps its running ones.
/// Backward work that no trainable parameter needs is not built.
///
/// # Errors
/// When the graph has no [`OUTPUT`] of rank 2.
pub fn training_graph(graph: &Graph, options: LossOptions) -> Result<TrainingGraph, GraphError> {
    let graph = expand(&recognize_gated(graph)?, |_| true)?;
    let depends = depends_on_trainable(&graph);
    let graph = &unroll(&graph, |node| node.inputs.iter().any(|v| depends[v.index()]))?;
    let output = graph.output(OUTPUT).ok_or_else(|| GraphError {
        node: OUTPUT.into(),
        op: "output",
        reason: "the graph has no output of that name".into(),
    })?;
    let needs_gradient = depends_on_trainable(graph);
    let mut lowering =
        Lowering { rewriter: Rewriter::new(graph), keys: HashMap::new(), dropouts: 0, states: Vec::new() };
    for node in graph.nodes() {
        lowering.lower(graph, node, needs_gradient[node.inputs[0].index()])?;
    }
    let logits = lowering.rewriter.get(output);
    let mut new = lowering.rewriter.new;
    let loss = match options.task {
        Task::Single => add_loss(&mut new, logits, options)?,
        Task::Multi => add_binary_loss(&mut new, logits, options)?,
        Task::Regression => add_regression_loss(&mut new, logits, options)?,
    };
    new.add_output(LOSS, loss);
    new.add_output(OUTPUT, logits);
    let scaled = if options.scaled { scale(&mut new, loss)? } else { loss };
    let Gradients { mut graph, gradients } = differentiate(new, scaled)?;
    let mut trained = Vec::new();
    for (parameter, gradient) in gradients {
        let name = graph.value(parameter).name.clone();
        graph.add_output(&gradient_output(&name), gradient);
        trained.push(name);
    }
    let mut states = Vec::new();
    for (name, value) in lowering.states {
        graph.add_output(&state_output(&name), value);
        states.push(name);
    }
    Ok(TrainingGraph { graph: prune(&graph)?, trained, states })
}

/// Which values a trainable parameter takes part in.
pub(super) fn depends_on_trainable(graph: &Graph) -> Vec<bool> {
    depends_on(graph, |id| graph.parameter_info(id).is_some_and(|p| p.trainable))
}

/// By value, whether it is one of those that `is_given` holds for, or is computed from one.
pub(super) fn depends_on(graph: &Graph, is_given: impl Fn(ValueId) -> bool) -> Vec<bool> {
    let mut depends: Vec<bool> = graph.values().map(|(id, _)| is_given(id)).collect();
    for node in graph.nodes() {
        if node.inputs.iter().any(|v| depends[v.index()]) {
            node.outputs.iter().for_each(|v| depends[v.index()] = true);
        }
    }
    depends
}

fn add_loss(graph: &mut Graph, logits: ValueId, options: LossOptions) -> Result<ValueId, GraphError> {
    let shape = graph.value(logits).shape.clone();
    let labels = match options.soft_targets {
        true => graph.add_input(LABELS, DType::F32, shape.clone()),
        false => {
            let batch = Shape(shape.0.first().cloned().into_iter().collect());
            graph.add_input(LABELS, DType::I64, batch)
        }
    };
    let mut inputs = vec![logits, labels];
    if options.class_weights {
        let classes = Shape(shape.0.get(1).cloned().into_iter().collect());
        inputs.push(graph.add_input(CLASS_WEIGHTS, DType::F32, classes));
    }
    let op = CrossEntropy { label_smoothing: options.label_smoothing };
    graph.add(LOSS, Op::SoftmaxCrossEntropyLoss(op), &inputs)
}

/// The input [`LABELS`] of `[N, C + 1]` for outputs `x` of `[N, C]`: its first C columns, its last one, and C.
fn add_target_rows(graph: &mut Graph, x: ValueId) -> Result<(ValueId, ValueId, usize), GraphError> {
    let shape = graph.value(x).shape.clone();
    let (Some(batch), Some(classes)) = (shape.0.first().cloned(), shape.0.get(1).and_then(Dim::fixed)) else {
        let reason = format!("the outputs are {shape}, not [N, C] with a known number of classes");
        return Err(GraphError { node: LOSS.into(), op: "loss", reason });
    };
    let labels = graph.add_input(LABELS, DType::F32, Shape(vec![batch, Dim::Fixed(classes + 1)]));
    let mut part = |name: &str, start: usize, end: usize| {
        graph.add(name, Op::Shape(ShapeOp::Slice { axis: 1, start, end }), &[labels])
    };
    Ok((part("loss.targets", 0, classes)?, part("loss.weights", classes, classes + 1)?, classes))
}

/// The mean over pictures and classes of losses `[N, C]`, those of a picture times its weight of `[N, 1]`.
fn add_weighed_mean(graph: &mut Graph, losses: ValueId, weights: ValueId) -> Result<ValueId, GraphError> {
    let weighed = graph.add("loss.weighed", Op::Binary(Binary::Mul), &[losses, weights])?;
    let mean =
        |graph: &mut Graph, name: &str, axis, x| graph.add(name, Op::Reduce { op: Reduce::Mean, axis }, &[x]);
    let of_pictures = mean(graph, "loss.of_pictures", 1, weighed)?;
    let of_all = mean(graph, "loss.of_all", 0, of_pictures)?;
    graph.add(LOSS, Op::Shape(ShapeOp::Reshape { shape: Shape::default() }), &[of_all])
}

/// The mean of w (p t softplus(-x) + (1 - t) softplus(x)) over pictures and classes, with targets t, weights w of pictures and p of classes.
fn add_binary_loss(graph: &mut Graph, x: ValueId, options: LossOptions) -> Result<ValueId, GraphError> {
    let (targets, weights, classes) = add_target_rows(graph, x)?;
    let one = graph.add_constant("loss.one", Tensor::f32([], vec![1.0]));
    let binary = |graph: &mut Graph, name: &str, op: Binary, a, b| graph.add(name, Op::Binary(op), &[a, b]);
    let negative = graph.add("loss.negative", Op::Unary(Unary::Neg), &[x])?;
    let missed = graph.add("loss.missed", Op::Unary(Unary::Softplus), &[negative])?;
    let found = graph.add("loss.found", Op::Unary(Unary::Softplus), &[x])?;
    let mut positive = targets;
    if options.class_weights {
        let factors = graph.add_input(CLASS_WEIGHTS, DType::F32, Shape::fixed(&[classes]));
        positive = binary(graph, "loss.positive", Binary::Mul, targets, factors)?;
    }
    let without = binary(graph, "loss.without", Binary::Sub, one, targets)?;
    let missed = binary(graph, "loss.of_missed", Binary::Mul, positive, missed)?;
    let found = binary(graph, "loss.of_found", Binary::Mul, without, found)?;
    let both = binary(graph, "loss.both", Binary::Add, missed, found)?;
    add_weighed_mean(graph, both, weights)
}

/// The mean of w loss(s (y - t)) over pictures and targets, with outputs y, targets t, weights w of pictures and factors s of targets.
fn add_regression_loss(graph: &mut Graph, y: ValueId, options: LossOptions) -> Result<ValueId, GraphError> {
    let (targets, weights, count) = add_target_rows(graph, y)?;
    let binary = |graph: &mut Graph, name: &str, op: Binary, a, b| graph.add(name, Op::Binary(op), &[a, b]);
    let mut r = binary(graph, "loss.difference", Binary::Sub, y, targets)?;
    if options.class_weights {
        let factors = graph.add_input(CLASS_WEIGHTS, DType::F32, Shape::fixed(&[count]));
        r = binary(graph, "loss.scaled_difference", Binary::Mul, r, factors)?;
    }
    let size = |graph: &mut Graph| graph.add("loss.size", Op::Unary(Unary::Abs), &[r]);
    let losses = match options.regression {
        RegressionLoss::Mse => binary(graph, "loss.square", Binary::Mul, r, r)?,
        RegressionLoss::L1 => size(graph)?,
        // q^2 / 2 + delta (|r| - q), where q is the smaller of |r| and delta.
        RegressionLoss::Huber { delta } => {
            let number =
                |graph: &mut Graph, name: &str, x| graph.add_constant(name, Tensor::f32([], vec![x]));
            let (half, delta) = (number(graph, "loss.half", 0.5), number(graph, "loss.delta", delta));
            let size = size(graph)?;
            let near = binary(graph, "loss.near", Binary::Min, size, delta)?;
            let square = binary(graph, "loss.square", Binary::Mul, near, near)?;
            let curve = binary(graph, "loss.curve", Binary::Mul, half, square)?;
            let far = binary(graph, "loss.far", Binary::Sub, size, near)?;
            let line = binary(graph, "loss.line", Binary::Mul, delta, far)?;
            binary(graph, "loss.both", Binary::Add, curve, line)?
        }
    };
    add_weighed_mean(graph, losses, weights)
}

fn scale(graph: &mut Graph, loss: ValueId) -> Result<ValueId, GraphError> {
    let scale = graph.add_input(LOSS_SCALE, DType::F32, Shape::default());
    graph.add("loss.scaled", Op::Binary(Binary::Mul), &[loss, scale])
}

/// Rewrites what behaves otherwise in training.
struct Lowering<'a> {
    rewriter: Rewriter<'a>,
    /// The input of dropout keys, by the batch dim.
    keys: HashMap<Dim, ValueId>,
    dropouts: u64,
    states: Vec<(String, ValueId)>,
}

impl Lowering<'_> {
    fn lower(&mut self, graph: &Graph, node: &Node, input_needs_gradient: bool) -> Result<(), GraphError> {
        let trainable =
            |id: ValueId| matches!(graph.parameter_info(id), Some(Parameter { trainable: true, .. }));
        match node.op {
            Op::Norm(Norm::Batch(norm)) if trainable(node.inputs[1]) || trainable(node.inputs[2]) => {
                let [x, weight, bias, mean, var] = self.operands(node);
                let op = Op::Train(TrainOp::BatchNormStats(norm));
                let stats =
                    self.rewriter.new.add_node(&format!("{}.stats", node.name), op, &[x, mean, var])?;
                self.states.push((graph.value(node.inputs[3]).name.clone(), stats[2]));
                self.states.push((graph.value(node.inputs[4]).name.clone(), stats[3]));
                self.apply(node, [x, stats[0], stats[1], weight, bias])
            }
            Op::Norm(Norm::Batch(norm)) if input_needs_gradient => {
                let [x, weight, bias, mean, var] = self.operands(node);
                let op = Op::Train(TrainOp::InvStd { epsilon: norm.epsilon });
                let inv_std = self.rewriter.new.add(&format!("{}.inv_std", node.name), op, &[var])?;
                self.apply(node, [x, mean, inv_std, weight, bias])
            }
            Op::Dropout { ratio } if ratio > 0.0 => {
                let x = self.rewriter.get(node.inputs[0]);
                let keys = self.keys(x);
                let op = Op::Train(TrainOp::Dropout { ratio, layer: self.dropouts });
                self.dropouts += 1;
                let y = self.rewriter.new.add(&node.name, op, &[x, keys])?;
                self.rewriter.set(node.outputs[0], y);
                Ok(())
            }
            Op::Dropout { .. } | Op::Shape(ShapeOp::Identity) => {
                let through = self.rewriter.get(node.inputs[0]);
                self.rewriter.set(node.outputs[0], through);
                Ok(())
            }
            Op::Conv(_)
            | Op::Recurrent(_)
            | Op::Composite(_)
            | Op::Gemm(_)
            | Op::Norm(_)
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Reduce { .. }
            | Op::Pool(_)
            | Op::Shape(
                ShapeOp::Flatten { .. }
                | ShapeOp::Transpose { .. }
                | ShapeOp::Reshape { .. }
                | ShapeOp::Concat { .. }
                | ShapeOp::Slice { .. }
                | ShapeOp::Expand { .. },
            )
            | Op::MatMul(_)
            | Op::Softmax { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_)
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Sequence(_) => self.rewriter.copy(node),
        }
    }

    fn operands(&self, norm: &Node) -> [ValueId; 5] {
        [0, 1, 2, 3, 4].map(|i| self.rewriter.get(norm.inputs[i]))
    }

    fn apply(&mut self, node: &Node, inputs: [ValueId; 5]) -> Result<(), GraphError> {
        let y = self.rewriter.new.add(&node.name, Op::Train(TrainOp::BatchNormApply), &inputs)?;
        self.rewriter.set(node.outputs[0], y);
        Ok(())
    }

    fn keys(&mut self, x: ValueId) -> ValueId {
        let batch = self.rewriter.new.value(x).shape.0.first().cloned().unwrap_or(Dim::Fixed(1));
        let new = &mut self.rewriter.new;
        *self.keys.entry(batch.clone()).or_insert_with(|| new.add_input(KEYS, DType::I64, Shape(vec![batch])))
    }
}
