//! Values between the nodes of a graph as its outputs, to look at them.

use super::rewrite::{Rewriter, prune};
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Op, TrainOp};
use crate::tensor::DType;

/// The graph whose outputs are `values` of `graph` and no others, each under its name and as f32, and nothing that they
/// do not need.
///
/// # Errors
/// When a value is neither f32 nor of a half type: there is no cast from others.
pub fn expose(graph: &Graph, values: &[ValueId]) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        rewriter.copy(node)?;
    }
    for &id in values {
        let value = graph.value(id);
        let mut shown = rewriter.get(id);
        if value.dtype != DType::F32 {
            let op = Op::Train(TrainOp::Cast { to: DType::F32 });
            shown = rewriter.new.add(&format!("{}.shown", value.name), op, &[shown])?;
        }
        rewriter.new.add_output(&value.name, shown);
    }
    prune(&rewriter.new)
}
