//! The gradients of one class's logit by values inside of a classifier: what explanations of a prediction are made of.

use super::differentiate::{Gradients, differentiate_by};
use super::expand::{expand, unroll};
use super::freeze::freeze;
use super::gated::recognize_gated;
use super::rewrite::{Rewriter, prune};
use crate::graph::{Graph, GraphError, Node, ValueId};
use crate::model::OUTPUT;
use crate::op::{Binary, Norm, Op, Reduce, ShapeOp, TrainOp, Unary};
use crate::shape::Shape;
use crate::tensor::DType;

/// The input that chooses the class: f32 \[classes\], 1 at the class and 0 elsewhere.
pub const CLASS_MASK: &str = "class_mask";

/// The name of the output that holds the value of this place among those asked for.
pub fn exposed_value(place: usize) -> String {
    format!("value:{place}")
}

/// The name of the output that holds the gradient of the class's logit by the value of this place among those asked for.
pub fn exposed_gradient(place: usize) -> String {
    format!("gradient:{place}")
}

/// The graph of a frozen classifier that computes `values` of it and the gradient by each of them of the sum over the pictures of
/// one class's logit; the class is that of the input [`CLASS_MASK`]. Its outputs are [`OUTPUT`], [`exposed_value`] and
/// [`exposed_gradient`]; those have the shape of the value. A Softmax or a Sigmoid at the end is no part of the logit, but of [`OUTPUT`].
///
/// # Errors
/// When the graph has no [`OUTPUT`] [N, classes] with a known number of classes, a value has no influence on it, or a node on the way
/// has no gradient.
pub fn class_gradients(graph: &Graph, values: &[ValueId]) -> Result<Graph, GraphError> {
    let mut marked = graph.clone();
    marked.retain_outputs(|name| name == OUTPUT);
    for (place, &value) in values.iter().enumerate() {
        marked.add_output(&exposed_value(place), value);
    }
    freeze(&mut marked, |_| true);
    let whole = unroll(&expand(&recognize_gated(&marked)?, |_| true)?, |_| true)?;
    let mut lowered = lowered(&whole)?;
    let inner = |graph: &Graph, place| graph.output(&exposed_value(place)).ok_or_else(no_output);
    let by: Vec<ValueId> =
        (0..values.len()).map(|place| inner(&lowered, place)).collect::<Result<_, GraphError>>()?;
    let logits = lowered.output(OUTPUT).map(|output| before_probabilities(&lowered, output));
    let score = class_score(&mut lowered, logits.ok_or_else(no_output)?)?;
    let Gradients { mut graph, gradients } = differentiate_by(lowered, score, &by)?;
    for (place, &value) in by.iter().enumerate() {
        let gradient = gradients.iter().find(|(id, _)| *id == value).ok_or_else(|| GraphError {
            node: graph.value(value).name.clone(),
            op: "gradient",
            reason: "it has no influence on the output".into(),
        })?;
        graph.add_output(&exposed_gradient(place), gradient.1);
    }
    prune(&graph)
}

fn no_output() -> GraphError {
    let reason = "the graph has no output of that name".into();
    GraphError { node: OUTPUT.into(), op: "output", reason }
}

/// What a Softmax or a Sigmoid at the end of a classifier makes probabilities of.
fn before_probabilities(graph: &Graph, output: ValueId) -> ValueId {
    let producer = graph.producer(output).map(|id| graph.node(id));
    let ending = producer.filter(|node| matches!(node.op, Op::Softmax { .. } | Op::Unary(Unary::Sigmoid)));
    ending.map_or(output, |node| node.inputs[0])
}

/// The logit of the class that the mask chooses, in its place of [1, classes]: the sum over the pictures.
fn class_score(graph: &mut Graph, logits: ValueId) -> Result<ValueId, GraphError> {
    let shape = graph.value(logits).shape.clone();
    let classes = shape.0.get(1).and_then(|dim| dim.fixed()).filter(|_| shape.rank() == 2);
    let classes = classes.ok_or_else(|| GraphError {
        node: OUTPUT.into(),
        op: "output",
        reason: format!("the logits are {shape}, not [N, classes] with a known number of classes"),
    })?;
    let mask = graph.add_input(CLASS_MASK, DType::F32, Shape::fixed(&[classes]));
    let masked = graph.add("class.masked", Op::Binary(Binary::Mul), &[logits, mask])?;
    graph.add("class.score", Op::Reduce { op: Reduce::Sum, axis: 0 }, &[masked])
}

/// The graph with batch norms in the form that has a gradient, and without what does nothing outside of training.
fn lowered(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if let Op::Norm(Norm::Batch(norm)) = node.op {
            batch_norm(&mut rewriter, node, norm.epsilon)?;
        } else if matches!(node.op, Op::Dropout { .. } | Op::Shape(ShapeOp::Identity)) {
            let through = rewriter.get(node.inputs[0]);
            rewriter.set(node.outputs[0], through);
        } else {
            rewriter.copy(node)?;
        }
    }
    rewriter.finish()
}

fn batch_norm(rewriter: &mut Rewriter<'_>, node: &Node, epsilon: f32) -> Result<(), GraphError> {
    let [x, weight, bias, mean, var] = [0, 1, 2, 3, 4].map(|i| rewriter.get(node.inputs[i]));
    let op = Op::Train(TrainOp::InvStd { epsilon });
    let inv_std = rewriter.new.add(&format!("{}.inv_std", node.name), op, &[var])?;
    let inputs = [x, mean, inv_std, weight, bias];
    let y = rewriter.new.add(&node.name, Op::Train(TrainOp::BatchNormApply), &inputs)?;
    rewriter.set(node.outputs[0], y);
    Ok(())
}
