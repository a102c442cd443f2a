//! Norms of groups, where a file spells them out.

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, Source, ValueId};
use crate::op::{Binary, Composite, Op, ShapeOp};
use crate::shape::{Dim, Shape};
use crate::tensor::{DType, Tensor};

/// Each norm of \[n, groups, ..\], which a value \[n, channels, ..\] is reshaped to and back, as the
/// [`Composite::GroupNormalization`] that it is: so PyTorch's exporter writes those. A weight and a bias of each channel behind
/// it become its own.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn recognize_group_norms(graph: &Graph) -> Result<Graph, GraphError> {
    let uses = graph.use_counts();
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        // (The longest form ends last; what is left of the others is not read.)
        match GroupNorm::ending_in(graph, &uses, node) {
            Some(norm) => norm.write(&mut rewriter, &node.name)?,
            None => rewriter.copy(node)?,
        }
    }
    rewriter.finish()
}

/// A norm of groups that a graph spells out.
struct GroupNorm {
    x: ValueId,
    channels: usize,
    groups: usize,
    epsilon: f32,
    /// What the norm is multiplied with, and what is added then: a number of each channel.
    affine: [Option<ValueId>; 2],
    result: ValueId,
}

impl GroupNorm {
    /// The one whose last node is `node`.
    fn ending_in(graph: &Graph, uses: &[usize], node: &Node) -> Option<GroupNorm> {
        let scaled = |node: &Node| {
            let plain = |node: &Node| GroupNorm::plain(graph, uses, node);
            plain(node).or_else(|| GroupNorm::behind(plain, graph, uses, node, Binary::Mul))
        };
        scaled(node).or_else(|| GroupNorm::behind(scaled, graph, uses, node, Binary::Add))
    }

    /// What `inner` finds, and the vector that `node` multiplies it with, or adds.
    fn behind(
        inner: impl Fn(&Node) -> Option<GroupNorm>,
        graph: &Graph,
        uses: &[usize],
        node: &Node,
        op: Binary,
    ) -> Option<GroupNorm> {
        let (true, &[a, b]) = (node.op == Op::Binary(op), &node.inputs[..]) else { return None };
        let of = |normed: ValueId, vector: ValueId| {
            let norm = inner(graph.node(graph.producer(normed)?))?;
            let axes = graph.value(norm.x).shape.rank();
            let fits =
                uses[normed.index()] == 1 && is_vector(&graph.value(vector).shape, norm.channels, axes);
            let mut affine = norm.affine;
            affine[usize::from(op == Binary::Add)] = Some(vector);
            fits.then_some(GroupNorm { affine, result: node.outputs[0], ..norm })
        };
        of(a, b).or_else(|| of(b, a))
    }

    /// One without a weight and a bias, whose last node is `node`.
    fn plain(graph: &Graph, uses: &[usize], node: &Node) -> Option<GroupNorm> {
        let result = node.outputs[0];
        let normed = reshaped(node)?;
        let norm = graph.node(graph.producer(normed)?);
        let Op::Composite(Composite::InstanceNormalization { epsilon }) = norm.op else { return None };
        let &[grouped, weight, bias] = &norm.inputs[..] else { return None };
        let x = reshaped(graph.node(graph.producer(grouped)?))?;
        let dims = |value: ValueId| &graph.value(value).shape.0[..];
        let ([n, Dim::Fixed(channels), _, ..], [outer, Dim::Fixed(groups), ..]) = (dims(x), dims(grouped))
        else {
            return None;
        };
        let fits = n == outer && *groups > 0 && channels.is_multiple_of(*groups) && dims(x) == dims(result);
        let plain = is_all(graph, weight, 1.0) && is_all(graph, bias, 0.0);
        let once = uses[normed.index()] == 1 && graph.value(x).dtype == DType::F32;
        let affine = [None, None];
        (fits && plain && once).then_some(GroupNorm {
            x,
            channels: *channels,
            groups: *groups,
            epsilon,
            affine,
            result,
        })
    }

    fn write(&self, rewriter: &mut Rewriter<'_>, name: &str) -> Result<(), GraphError> {
        let mut vectors = [self.x; 2];
        for (place, (what, number)) in [("weight", 1.0), ("bias", 0.0)].into_iter().enumerate() {
            let named = format!("{name}.{what}");
            vectors[place] = match self.affine[place] {
                None => {
                    let numbers = Tensor::f32([self.channels], vec![number; self.channels]);
                    rewriter.new.add_constant(&named, numbers)
                }
                Some(vector) => {
                    let vector = rewriter.get(vector);
                    let shape = Shape(vec![Dim::Fixed(self.channels)]);
                    rewriter.new.add(&named, Op::Shape(ShapeOp::Reshape { shape }), &[vector])?
                }
            };
        }
        let op = Composite::GroupNormalization { groups: self.groups, epsilon: self.epsilon };
        let inputs = [rewriter.get(self.x), vectors[0], vectors[1]];
        let y = rewriter.new.add(name, Op::Composite(op), &inputs)?;
        rewriter.set(self.result, y);
        Ok(())
    }
}

/// What a Reshape takes.
fn reshaped(node: &Node) -> Option<ValueId> {
    matches!(node.op, Op::Shape(ShapeOp::Reshape { .. })).then(|| node.inputs[0])
}

/// Whether `shape` is broadcast to one number of each channel of a value of so many axes.
fn is_vector(shape: &Shape, channels: usize, axes: usize) -> bool {
    let from_last: Vec<&Dim> = shape.0.iter().rev().collect();
    let ones = |dims: &[&Dim]| dims.iter().all(|&dim| *dim == Dim::Fixed(1));
    let behind = axes - 2;
    from_last.len() > behind
        && from_last.len() <= axes
        && ones(&from_last[..behind])
        && *from_last[behind] == Dim::Fixed(channels)
        && ones(&from_last[behind + 1..])
}

/// Whether `value` is a constant whose elements are all `number`.
fn is_all(graph: &Graph, value: ValueId, number: f32) -> bool {
    let Source::Constant(tensor) = &graph.value(value).source else { return false };
    tensor.as_f32().is_some_and(|numbers| numbers.iter().all(|&element| element == number))
}
