//! Channel shuffles: the channels of each group, turned into groups of one channel of each.

use offshoot_graph::op::{GradOp, ShapeOp};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{Dim, Graph, GraphError, Node, Op, ValueId};

use super::op::CpuOp;

/// Each Reshape to [n, groups, channels, h, w], Transpose of the two axes in front of the pixels, and Reshape back, as one operator that
/// keeps channels last.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn fuse_shuffles(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        match shuffled(graph, node) {
            Some((x, groups)) => {
                let x = rewriter.get(x);
                let y = rewriter.new.add(&node.name, CpuOp::ChannelShuffle { groups }, &[x])?;
                rewriter.set(node.outputs[0], y);
            }
            None => rewriter.copy(node)?,
        }
    }
    rewriter.finish()
}

/// What `node` gives the shuffled channels of, and the groups.
fn shuffled(graph: &Graph<CpuOp>, node: &Node<CpuOp>) -> Option<(ValueId, usize)> {
    let turned = reshaped(node)?;
    let transpose = graph.node(graph.producer(turned)?);
    let Op::Shape(ShapeOp::Transpose { perm }) = transpose.op.plain()? else { return None };
    if perm[..] != [0, 2, 1, 3, 4] {
        return None;
    }
    let grouped = transpose.inputs[0];
    let x = reshaped(graph.node(graph.producer(grouped)?))?;
    let dims = |value: ValueId| &graph.value(value).shape.0[..];
    let ([n, Dim::Fixed(c), pixels @ ..], [outer, Dim::Fixed(groups), Dim::Fixed(channels), inner @ ..]) =
        (dims(x), dims(grouped))
    else {
        return None;
    };
    let fits = *c > 0 && n == outer && pixels.len() == 2 && pixels == inner && groups * channels == *c;
    (fits && dims(x) == dims(node.outputs[0])).then_some((x, *groups))
}

/// What a Reshape, or the gradient of one, takes.
fn reshaped(node: &Node<CpuOp>) -> Option<ValueId> {
    let op = node.op.plain()?;
    let reshape = matches!(op, Op::Shape(ShapeOp::Reshape { .. }) | Op::Grad(GradOp::Reshape { .. }));
    reshape.then(|| node.inputs[0])
}

#[cfg(test)]
mod tests {
    use offshoot_graph::{DType, Shape};

    use super::super::optimize;
    use super::*;

    /// The operators of x [n, 6, 4, 5] as `grouped`, transposed by `perm` and as x again.
    fn operators(grouped: [usize; 4], perm: [usize; 5]) -> Vec<CpuOp> {
        let mut graph = Graph::new("shuffle");
        let shape = |dims: &[usize]| {
            Shape([Dim::symbol("n")].into_iter().chain(dims.iter().map(|&dim| Dim::Fixed(dim))).collect())
        };
        let reshape = |dims: &[usize]| Op::Shape(ShapeOp::Reshape { shape: shape(dims) });
        let x = graph.add_input("x", DType::F32, shape(&[6, 4, 5]));
        let y = graph.add("grouped", reshape(&grouped), &[x]).unwrap();
        let y = graph.add("turned", Op::Shape(ShapeOp::Transpose { perm: perm.to_vec() }), &[y]).unwrap();
        let y = graph.add("y", reshape(&[6, 4, 5]), &[y]).unwrap();
        graph.add_output("y", y);
        optimize(&graph).unwrap().nodes().iter().map(|node| node.op.clone()).collect()
    }

    #[test]
    fn only_channels_of_groups_are_shuffled() {
        assert_eq!(operators([2, 3, 4, 5], [0, 2, 1, 3, 4]), [CpuOp::ChannelShuffle { groups: 2 }]);
        assert_eq!(operators([2, 3, 4, 5], [0, 1, 2, 4, 3]).len(), 3);
        assert_eq!(operators([6, 2, 2, 5], [0, 2, 1, 3, 4]).len(), 3);
    }
}
