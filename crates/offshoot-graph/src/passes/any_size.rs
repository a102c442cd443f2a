//! A network for pictures of one size as one for pictures of any size.

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError};
use crate::model::INPUT;
use crate::shape::{Dim, Shape};

/// The graph with symbols for the height and the width of its pictures. Everything else stays, the padding of convolutions
/// too: where that was chosen for one size (TensorFlow's `SAME`), only sizes that leave the same remainder at each stride
/// have the same.
///
/// # Errors
/// When the graph works for one size only, because something in it has as many numbers as the pictures have places.
pub fn any_picture_size(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::with_inputs(graph, |input| match &input.shape.0[..] {
        [batch, channels, _, _] if input.name == INPUT => {
            Shape(vec![batch.clone(), channels.clone(), Dim::symbol("height"), Dim::symbol("width")])
        }
        _ => input.shape.clone(),
    });
    for node in graph.nodes() {
        rewriter.copy(node)?;
    }
    rewriter.finish()
}
