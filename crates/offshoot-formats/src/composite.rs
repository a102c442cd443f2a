//! What the writers share of operators that others define.

use offshoot_graph::op::{Composite, Resampling};
use offshoot_graph::{Dim, Graph, Node, Op};

/// Whether each Resize to the nearest pixel enlarges or reduces by a power of two. Other runtimes find the pixel in f32, which
/// of other factors may be the one before.
pub(crate) fn exact_nearest(graph: &Graph) -> bool {
    graph.nodes().iter().all(|node| nearest(node).is_none_or(|size| exact(graph, node, size)))
}

/// Whether a [`Resampling::Nearest`] somewhere chooses between two pixels that are as near.
pub(crate) fn nearest_has_ties(graph: &Graph) -> bool {
    let tied = |node: &Node, [height, width]: [usize; 2]| {
        let sides = graph.value(node.inputs[0]).shape.0.iter().skip(2).map(Dim::fixed);
        sides.zip([height, width]).any(|(from, to)| from.is_none_or(|from| has_ties(from, to)))
    };
    graph.nodes().iter().any(|node| {
        let first =
            matches!(node.op, Op::Composite(Composite::Resize { resampling: Resampling::Nearest, .. }));
        first && nearest(node).is_some_and(|size| tied(node, size))
    })
}

/// The size that a node resizes to by the nearest pixel.
fn nearest(node: &Node) -> Option<[usize; 2]> {
    let Op::Composite(Composite::Resize { size, resampling, .. }) = &node.op else { return None };
    is_nearest(*resampling).then_some(*size)
}

/// Whether each pixel is one of those before.
pub(crate) fn is_nearest(resampling: Resampling) -> bool {
    match resampling {
        Resampling::Nearest | Resampling::NearestCeil | Resampling::NearestFloor => true,
        Resampling::Linear | Resampling::Cubic => false,
    }
}

/// Whether a pixel of `to` lies in the middle between two of `from`, where its position is that of half pixels.
pub(crate) fn has_ties(from: usize, to: usize) -> bool {
    // (2 i + 1) from / (2 to) is whole for some i: from has more factors of two.
    from > 0 && to > 0 && from.trailing_zeros() > to.trailing_zeros()
}

fn exact(graph: &Graph, node: &Node, size: [usize; 2]) -> bool {
    let sides = graph.value(node.inputs[0]).shape.0.iter().skip(2).map(Dim::fixed);
    let power = |a: usize, b: usize| b > 0 && a.is_multiple_of(b) && (a / b).is_power_of_two();
    sides.zip(size).all(|(from, to)| from.is_some_and(|from| power(from, to) || power(to, from)))
}
