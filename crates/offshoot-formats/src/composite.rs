//! What the writers share of operators that others define.

use offshoot_graph::op::{Composite, Resampling};
use offshoot_graph::{Dim, Graph, Node, Op};

/// Whether each Resize to the nearest pixel enlarges or reduces by a power of two. Other runtimes find the pixel in f32, which
/// of other factors may be the one before.
pub(crate) fn exact_nearest(graph: &Graph) -> bool {
    graph.nodes().iter().all(|node| nearest(node).is_none_or(|size| exact(graph, node, size)))
}

/// The size that a node resizes to by the nearest pixel.
fn nearest(node: &Node) -> Option<[usize; 2]> {
    let Op::Composite(Composite::Resize { size, resampling, .. }) = &node.op else { return None };
    matches!(resampling, Resampling::Nearest | Resampling::NearestFloor).then_some(*size)
}

fn exact(graph: &Graph, node: &Node, size: [usize; 2]) -> bool {
    let sides = graph.value(node.inputs[0]).shape.0.iter().skip(2).map(Dim::fixed);
    let power = |a: usize, b: usize| b > 0 && a.is_multiple_of(b) && (a / b).is_power_of_two();
    sides.zip(size).all(|(from, to)| from.is_some_and(|from| power(from, to) || power(to, from)))
}
