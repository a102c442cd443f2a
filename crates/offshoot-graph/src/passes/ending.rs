//! How a classifier ends: in logits, or in what turns them into probabilities.

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, Source, ValueId};
use crate::op::{
    Binary, Composite, Gemm, Op, PadMode, Pooling, Reduce, Resampling, SequenceOp, ShapeOp, Unary,
};
use crate::shape::{Dim, Shape};
use crate::tensor::{Tensor, Weights};

/// Nodes that are looked at to find the range of an output.
const MOST_NODES: usize = 256;
/// By how much the sum of probabilities in f32 may lie above 1.
const ROUNDING: f64 = 1e-5;
/// A Clip this close to 0 and 1 keeps probabilities off both, and changes nothing that shows.
const MARGIN: f32 = 1e-6;

/// Whether the one output of a classifier is confined to 0..1 by how it is computed (a Sigmoid, a Softmax, their mean, ...): it is
/// no logits then, but the probability of each class as it is.
pub fn gives_probabilities(graph: &Graph, weights: &Weights) -> bool {
    let [(_, output)] = graph.outputs() else { return false };
    is_unit(Ranges::new(graph, weights).of(*output))
}

/// What the one output of a classifier is confined to where a Softmax or a Sigmoid takes part in that and it is not 0..1: scores of
/// another scale, perhaps, which are no logits.
pub fn confined_scores(graph: &Graph, weights: &Weights) -> Option<(f64, f64)> {
    let [(_, output)] = graph.outputs() else { return None };
    let mut ranges = Ranges::new(graph, weights);
    let (low, high) = ranges.of(*output);
    let confined = ranges.seen && low.is_finite() && high.is_finite() && !is_unit((low, high));
    confined.then_some((low, high))
}

fn is_unit((low, high): Range) -> bool {
    low >= 0.0 && high <= 1.0 + ROUNDING
}

/// Finds how small and how large values can be.
struct Ranges<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    /// Nodes that may still be looked at.
    left: usize,
    /// Whether one of them gives probabilities.
    seen: bool,
}

type Range = (f64, f64);
const ANY: Range = (f64::NEG_INFINITY, f64::INFINITY);
const UNIT: Range = (0.0, 1.0);

impl<'a> Ranges<'a> {
    fn new(graph: &'a Graph, weights: &'a Weights) -> Ranges<'a> {
        Ranges { graph, weights, left: MOST_NODES, seen: false }
    }

    fn of(&mut self, id: ValueId) -> Range {
        let value = self.graph.value(id);
        match &value.source {
            Source::Input => ANY,
            Source::Constant(tensor) => of_tensor(tensor),
            Source::Parameter(_) => self.weights.get(&value.name).map_or(ANY, of_tensor),
            Source::Node { .. } if self.left == 0 => ANY,
            Source::Node { node, .. } => {
                self.left -= 1;
                self.of_node(self.graph.node(*node))
            }
        }
    }

    fn of_node(&mut self, node: &Node) -> Range {
        let x = node.inputs[0];
        match &node.op {
            Op::Softmax { .. } => {
                self.seen = true;
                UNIT
            }
            Op::Unary(unary) => {
                let row = unary.row();
                self.seen |= row.probability;
                match (row.range)(&unary.numbers(), ANY) {
                    // What comes in makes no difference.
                    bounds
                        if bounds.0.is_finite()
                            && bounds.1.is_finite()
                            && !matches!(unary, Unary::Clip(_)) =>
                    {
                        bounds
                    }
                    _ => (row.range)(&unary.numbers(), self.of(x)),
                }
            }
            Op::Gemm(Gemm { trans_a: false, trans_b }) => self.linear(node, *trans_b),
            Op::MatMul(product) if !product.trans_a => self.linear(node, product.trans_b),
            Op::Shape(
                ShapeOp::Identity
                | ShapeOp::Reshape { .. }
                | ShapeOp::Flatten { .. }
                | ShapeOp::Transpose { .. }
                | ShapeOp::Slice { .. }
                | ShapeOp::Expand { .. },
            )
            | Op::Dropout { .. } => self.of(x),
            Op::Composite(composite) => self.of_composite(composite, x),
            Op::Pool(Pooling::Max(_) | Pooling::GlobalAverage) => self.pooled(x),
            Op::Reduce { op: Reduce::Mean | Reduce::Max | Reduce::Min, .. } => self.of(x),
            Op::Pool(Pooling::Average(_)) => hull(self.pooled(x), (0.0, 0.0)),
            Op::Binary(Binary::Add) => {
                let (a, b) = (self.of(x), self.of(node.inputs[1]));
                (a.0 + b.0, a.1 + b.1)
            }
            Op::Binary(Binary::Sub) => {
                let (a, b) = (self.of(x), self.of(node.inputs[1]));
                (a.0 - b.1, a.1 - b.0)
            }
            Op::Binary(Binary::Mul) => product(self.of(x), self.of(node.inputs[1])),
            Op::Binary(Binary::Max) => {
                let (a, b) = (self.of(x), self.of(node.inputs[1]));
                (a.0.max(b.0), a.1.max(b.1))
            }
            Op::Binary(Binary::Min) => {
                let (a, b) = (self.of(x), self.of(node.inputs[1]));
                (a.0.min(b.0), a.1.min(b.1))
            }
            Op::Shape(ShapeOp::Concat { .. }) => {
                let ranges: Vec<Range> = node.inputs.iter().map(|&id| self.of(id)).collect();
                ranges.into_iter().reduce(hull).unwrap_or(ANY)
            }
            Op::Sequence(SequenceOp::Where) => hull(self.of(node.inputs[1]), self.of(node.inputs[2])),
            Op::Binary(Binary::Div) if self.is_sum_of(node.inputs[1], x) && self.of(x).0 >= 0.0 => UNIT,
            Op::DequantizeLinear { .. } => {
                let quantize = self.graph.producer(x).map(|id| self.graph.node(id));
                let quantize = quantize.filter(|node| matches!(node.op, Op::QuantizeLinear { .. }));
                quantize.map_or(ANY, |node| self.of(node.inputs[0]))
            }
            Op::Conv(_)
            | Op::Gemm(_)
            | Op::MatMul(_)
            | Op::Norm(_)
            | Op::Binary(Binary::Div | Binary::Pow)
            | Op::Reduce { op: Reduce::Sum | Reduce::L2, .. }
            | Op::QuantizeLinear { .. }
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(_)
            | Op::Sequence(
                SequenceOp::Gather
                | SequenceOp::Positions { .. }
                | SequenceOp::Equal { .. }
                | SequenceOp::ToFloat,
            )
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_) => ANY,
        }
    }

    fn of_composite(&mut self, composite: &Composite, x: ValueId) -> Range {
        match composite {
            Composite::LogSoftmax { .. } => (f64::NEG_INFINITY, 0.0),
            Composite::Pad { mode: PadMode::Constant(number), .. } => {
                hull(self.of(x), (f64::from(*number), f64::from(*number)))
            }
            Composite::Split { .. }
            | Composite::Pad { mode: PadMode::Reflect | PadMode::Edge, .. }
            | Composite::Resize {
                resampling:
                    Resampling::Nearest | Resampling::NearestCeil | Resampling::NearestFloor | Resampling::Linear,
                ..
            } => self.of(x),
            Composite::Resize { resampling: Resampling::Cubic, .. }
            | Composite::GroupNormalization { .. }
            | Composite::InstanceNormalization { .. }
            | Composite::Gru { .. } => ANY,
        }
    }

    /// The range of what is pooled: a Sigmoid before that weighs features, and gives no scores.
    fn pooled(&mut self, x: ValueId) -> Range {
        let seen = self.seen;
        let range = self.of(x);
        self.seen = seen;
        range
    }

    /// The range of x W + b, where W is stored. Unless that is 0..1, these are logits of a layer that reads probabilities.
    fn linear(&mut self, node: &Node, trans_b: bool) -> Range {
        let seen = self.seen;
        let range = self.product_of(node, trans_b);
        self.seen = if is_unit(range) { self.seen } else { seen };
        range
    }

    /// Of each output of x W + b the least and the most that its weights make of the range of x.
    fn product_of(&mut self, node: &Node, trans_b: bool) -> Range {
        let (low, high) = self.of(node.inputs[0]);
        let bias = node.inputs.get(2).map_or((0.0, 0.0), |&id| self.of(id));
        let Some(([rows, columns], numbers)) = self.matrix(node.inputs[1]) else { return ANY };
        if !low.is_finite() || !high.is_finite() {
            return ANY;
        }
        let (outputs, inputs) = if trans_b { (rows, columns) } else { (columns, rows) };
        let weight = |input, output| {
            f64::from(if trans_b {
                numbers[output * columns + input]
            } else {
                numbers[input * columns + output]
            })
        };
        let sums_to_one = self.is_softmax(node.inputs[0]);
        let of_output = |output| {
            let weights = (0..inputs).map(|input| weight(input, output));
            if sums_to_one {
                let start = (f64::INFINITY, f64::NEG_INFINITY);
                return weights.fold(start, |(least, most), w| (least.min(w), most.max(w)));
            }
            weights.fold((0.0, 0.0), |(least, most), w| {
                (least + (w * low).min(w * high), most + (w * low).max(w * high))
            })
        };
        let (least, most) = (0..outputs).map(of_output).reduce(hull).unwrap_or(ANY);
        let range = (least + bias.0, most + bias.1);
        if range.0.is_nan() || range.1.is_nan() { ANY } else { range }
    }

    /// The sizes and elements of a stored matrix that is not empty.
    fn matrix(&self, id: ValueId) -> Option<([usize; 2], &'a [f32])> {
        let tensor = stored(self.graph, self.weights, id)?;
        let shape = <[usize; 2]>::try_from(tensor.shape()).ok()?;
        tensor.as_f32().filter(|numbers| !numbers.is_empty()).map(|numbers| (shape, numbers))
    }

    /// Whether the rows of a matrix are those of a Softmax.
    fn is_softmax(&self, id: ValueId) -> bool {
        let Some(node) = self.graph.producer(id).map(|id| self.graph.node(id)) else { return false };
        if let Op::Softmax { axis } = node.op {
            return axis + 1 == self.graph.value(id).shape.rank();
        }
        matches!(node.op, Op::Shape(ShapeOp::Identity) | Op::Dropout { .. })
            && self.is_softmax(node.inputs[0])
    }

    /// Whether `sum` is the sum of `x` along an axis.
    fn is_sum_of(&self, sum: ValueId, x: ValueId) -> bool {
        let node = self.graph.producer(sum).map(|id| self.graph.node(id));
        node.is_some_and(|n| matches!(n.op, Op::Reduce { op: Reduce::Sum, .. }) && n.inputs[0] == x)
    }
}

fn of_tensor(tensor: &Tensor) -> Range {
    let Some(numbers) = tensor.as_f32().filter(|n| !n.is_empty() && !n.iter().any(|x| x.is_nan())) else {
        return ANY;
    };
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    numbers.iter().fold(start, |(low, high), &x| (low.min(x.into()), high.max(x.into())))
}

fn hull(a: Range, b: Range) -> Range {
    (a.0.min(b.0), a.1.max(b.1))
}

fn product(a: Range, b: Range) -> Range {
    let corners = [a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1];
    if corners.iter().any(|x| x.is_nan()) {
        return ANY;
    }
    (corners.into_iter().fold(f64::INFINITY, f64::min), corners.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

/// What [`without_softmax`] left out.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOut {
    /// The names of the nodes, the last one of the graph first; among them one Softmax or LogSoftmax.
    pub nodes: Vec<String>,
    /// Whether it is the logarithm.
    pub logarithm: bool,
    /// What the file multiplies its probabilities by; 1 where it does not.
    pub scale: f32,
}

/// A classifier that ends in a Softmax over its classes, or in the logarithm of one, without it, so that the output is logits: the softmax of these is what
/// the graph gave, whatever moves elements behind the Softmax without taking rows apart. `None` where it ends otherwise, or where the
/// values without the Softmax are confined to 0..1 too: they would be taken for probabilities.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn without_softmax(graph: &Graph, weights: &Weights) -> Result<Option<(Graph, LeftOut)>, GraphError> {
    let Some(found) = find_softmax(graph, weights) else { return Ok(None) };
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if let Some(index) = found.left_out.nodes.iter().position(|name| *name == node.name) {
            let through = rewriter.get(node.inputs[found.kept[index]]);
            rewriter.set(node.outputs[0], through);
        } else {
            rewriter.copy(node)?;
        }
    }
    let logits = rewriter.finish()?;
    if gives_probabilities(&logits, weights) {
        return Ok(None);
    }
    Ok(Some((logits, found.left_out)))
}

/// Nodes to leave out.
struct Found {
    left_out: LeftOut,
    /// Which input of each takes its place.
    kept: Vec<usize>,
}

/// The axis of a Softmax or LogSoftmax, and whether it is the logarithm.
fn softmax(op: &Op) -> Option<(usize, bool)> {
    if let Op::Composite(Composite::LogSoftmax { axis }) = op {
        return Some((*axis, true));
    }
    if let Op::Softmax { axis } = op { Some((*axis, false)) } else { None }
}

/// Walks from the output to the Softmax.
fn find_softmax(graph: &Graph, weights: &Weights) -> Option<Found> {
    let [(_, output)] = graph.outputs() else { return None };
    let [batch, Dim::Fixed(classes)] = &graph.value(*output).shape.0[..] else { return None };
    let uses = graph.use_counts();
    let (mut at, mut kept) = (*output, Vec::new());
    let mut left_out = LeftOut { nodes: Vec::new(), logarithm: false, scale: 1.0 };
    // A clipped logarithm is no logarithm of a probability.
    let mut changed = false;
    loop {
        let node = graph.node(graph.producer(at)?);
        let x = node.inputs[0];
        // What else reads probabilities needs them.
        if uses[at.index()] != 1 {
            return None;
        }
        if let Some((axis, logarithm)) = softmax(&node.op) {
            let ours = is_of_rows(&graph.value(x).shape, axis, batch, *classes);
            if !ours || logarithm && changed {
                return None;
            }
            left_out.nodes.push(node.name.clone());
            left_out.logarithm = logarithm;
            kept.push(0);
            return Some(Found { left_out, kept });
        }
        if keeps_elements(graph, node) {
            at = x;
            continue;
        }
        let (input, scale) = scaling(graph, weights, node)?;
        changed |= scale != 1.0 || matches!(node.op, Op::Unary(Unary::Clip(_)));
        left_out.scale *= scale;
        left_out.nodes.push(node.name.clone());
        kept.push(input);
        at = node.inputs[input];
    }
}

/// Whether a node gives the elements of its first input in their order.
fn keeps_elements(graph: &Graph, node: &Node) -> bool {
    let of = &graph.value(node.inputs[0]).shape;
    if let Op::Shape(ShapeOp::Transpose { perm }) = &node.op {
        return keeps_order(of, perm);
    }
    if let Op::Shape(ShapeOp::Slice { axis, start: 0, end }) = node.op {
        return of.0[axis] == Dim::Fixed(end);
    }
    if let Op::Shape(ShapeOp::Expand { shape }) = &node.op {
        return shape == of;
    }
    if let Op::Shape(ShapeOp::Concat { .. }) = node.op {
        return node.inputs.len() == 1;
    }
    matches!(
        node.op,
        Op::Shape(ShapeOp::Identity | ShapeOp::Reshape { .. } | ShapeOp::Flatten { .. }) | Op::Dropout { .. }
    )
}

/// The input of a node that changes no probability, or multiplies all of them: which it is, and the factor.
fn scaling(graph: &Graph, weights: &Weights, node: &Node) -> Option<(usize, f32)> {
    if let Op::Unary(Unary::Clip(clip)) = node.op {
        return (clip.min <= MARGIN && clip.max >= 1.0 - MARGIN).then_some((0, 1.0));
    }
    if let Op::Binary(Binary::Add) = node.op {
        return Some((other_than(graph, weights, node, 0.0)?, 1.0));
    }
    let multiplies = matches!(node.op, Op::Binary(Binary::Mul));
    multiplies.then(|| scaled(graph, weights, node))?
}

/// The input that a node adds `number` to.
fn other_than(graph: &Graph, weights: &Weights, node: &Node, number: f32) -> Option<usize> {
    (0..2).find(|&kept| {
        same_shape(graph, node, kept) && known(graph, weights, node.inputs[1 - kept]) == Some(number)
    })
}

/// The input that a node multiplies by one number above 0, and the number.
fn scaled(graph: &Graph, weights: &Weights, node: &Node) -> Option<(usize, f32)> {
    (0..2).find_map(|kept| {
        let number = known(graph, weights, node.inputs[1 - kept])?;
        (same_shape(graph, node, kept) && number > 0.0 && number.is_finite()).then_some((kept, number))
    })
}

fn same_shape(graph: &Graph, node: &Node, input: usize) -> bool {
    graph.value(node.inputs[input]).shape == graph.value(node.outputs[0]).shape
}

/// The tensor of a value that is not computed.
fn stored<'a>(graph: &'a Graph, weights: &'a Weights, id: ValueId) -> Option<&'a Tensor> {
    let value = graph.value(id);
    match &value.source {
        Source::Constant(tensor) => Some(tensor),
        Source::Parameter(_) => weights.get(&value.name),
        Source::Input | Source::Node { .. } => None,
    }
}

/// The number that all elements of a stored tensor are.
fn known(graph: &Graph, weights: &Weights, id: ValueId) -> Option<f32> {
    let (first, rest) = stored(graph, weights, id)?.as_f32()?.split_first()?;
    rest.iter().all(|x| x == first).then_some(*first)
}

/// Whether a Softmax along `axis` sums over the classes of each picture, and over nothing else.
fn is_of_rows(shape: &Shape, axis: usize, batch: &Dim, classes: usize) -> bool {
    let others: Vec<&Dim> = shape.0[..axis].iter().filter(|dim| **dim != Dim::Fixed(1)).collect();
    let ones_behind = shape.0[axis + 1..].iter().all(|dim| *dim == Dim::Fixed(1));
    let rows = match others[..] {
        [] => *batch == Dim::Fixed(1),
        [only] => only == batch,
        _ => false,
    };
    shape.0[axis] == Dim::Fixed(classes) && ones_behind && rows
}

/// Whether a Transpose moves axes of one place only, so that the elements stay in their order.
fn keeps_order(shape: &Shape, perm: &[usize]) -> bool {
    perm.iter().filter(|&&axis| shape.0[axis] != Dim::Fixed(1)).is_sorted()
}
