//! The last layer of a classifier, which a new head replaces.

use super::rewrite::{Rewriter, prune};
use crate::graph::{Graph, GraphError, Node, Source, ValueId};
use crate::op::{Binary, Op, Pooling, ShapeOp, Unary};

/// What computes a value but for operators without parameters that heads have: a linear layer or a convolution.
pub fn layer_before(graph: &Graph, value: ValueId) -> Option<&Node> {
    let mut node = graph.node(graph.producer(value)?);
    loop {
        if matches!(node.op, Op::Gemm(_) | Op::Conv(_)) {
            return Some(node);
        }
        // What gives scores their form or their range; any other operator computes features.
        let follows = matches!(
            node.op,
            Op::Unary(Unary::Relu | Unary::Sigmoid | Unary::HardSigmoid(_) | Unary::Clip(_))
                | Op::Dropout { .. }
                | Op::Shape(
                    ShapeOp::Identity
                        | ShapeOp::Transpose { .. }
                        | ShapeOp::Flatten { .. }
                        | ShapeOp::Reshape { .. }
                )
                | Op::Softmax { .. }
                | Op::Pool(Pooling::GlobalAverage)
        ) || scales(graph, node);
        node = graph.node(graph.producer(*node.inputs.first().filter(|_| follows)?)?);
    }
}

/// Whether a node multiplies with a constant or adds one, as where targets are scaled.
fn scales(graph: &Graph, node: &Node) -> bool {
    let is_constant = |id: &ValueId| matches!(graph.value(*id).source, Source::Constant(_));
    matches!(node.op, Op::Binary(Binary::Mul | Binary::Add)) && node.inputs.get(1).is_some_and(is_constant)
}

/// The graph without what comes behind `value` and without outputs, and `value` in it.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn up_to(graph: &Graph, value: ValueId) -> Result<(Graph, ValueId), GraphError> {
    let mut rewriter: Rewriter<'_> = Rewriter::new(graph);
    for node in graph.nodes() {
        rewriter.copy(node)?;
    }
    let end = rewriter.get(value);
    rewriter.new.add_output(END, end);
    let pruned = prune(&rewriter.new)?;
    let mut rewriter = Rewriter::new(&pruned);
    for node in pruned.nodes() {
        rewriter.copy(node)?;
    }
    let end = pruned.output(END).map_or(value, |end| rewriter.get(end));
    Ok((rewriter.new, end))
}

const END: &str = "end";
