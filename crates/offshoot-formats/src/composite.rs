//! What the writers share of operators that others define.

use offshoot_graph::op::{Composite, Coordinates, PadMode, Resampling};
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

/// Which composite operators PyTorch has an operator for. That of a GRU takes its weights in another order.
pub(crate) fn in_torch(graph: &Graph) -> impl Fn(&Composite) -> bool + use<> {
    let (exact, ties) = (exact_nearest(graph), nearest_has_ties(graph));
    move |composite| match composite {
        Composite::Resize { resampling, coordinates, .. } => {
            let written =
                torch_resize(*resampling, *coordinates).is_some() && (exact || !is_nearest(*resampling));
            written && (*resampling != Resampling::Nearest || !ties)
        }
        // PyTorch mirrors and repeats the rows and columns of pictures.
        Composite::Pad { pads, mode: PadMode::Reflect | PadMode::Edge } => {
            (3..=4).contains(&pads.len()) && pads[..2] == [[0; 2]; 2]
        }
        Composite::Pad { mode: PadMode::Constant(_), .. }
        | Composite::LogSoftmax { .. }
        | Composite::GroupNormalization { .. }
        | Composite::InstanceNormalization { .. }
        | Composite::Split { .. } => true,
        Composite::Gru { .. } => false,
    }
}

/// PyTorch's operator that resizes, and whether it aligns the corners where it can.
pub(crate) fn torch_resize(
    resampling: Resampling,
    coordinates: Coordinates,
) -> Option<(&'static str, Option<bool>)> {
    let corners = match coordinates {
        Coordinates::HalfPixel => Some(false),
        Coordinates::AlignCorners => Some(true),
        Coordinates::Asymmetric => None,
    };
    match resampling {
        // Where no pixel is in the middle between two.
        Resampling::Nearest | Resampling::NearestCeil if corners == Some(false) => {
            Some(("_upsample_nearest_exact2d", None))
        }
        Resampling::NearestFloor if corners.is_none() => Some(("upsample_nearest2d", None)),
        Resampling::Linear => corners.map(|corners| ("upsample_bilinear2d", Some(corners))),
        Resampling::Cubic => corners.map(|corners| ("upsample_bicubic2d", Some(corners))),
        Resampling::NearestFloor | Resampling::Nearest | Resampling::NearestCeil => None,
    }
}
