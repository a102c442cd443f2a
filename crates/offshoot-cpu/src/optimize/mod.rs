//! What the executor makes of a graph before it plans it: fewer passes over memory, operators on bytes, and activations that
//! are computed again rather than kept.

mod attention;
mod function;
mod fuse;
mod linear;
mod norm;
mod op;
mod quantized;
mod readers;
mod recompute;
mod reshaped;
mod shuffle;
mod transposes;

pub use function::Term;
pub use op::{
    Activation, Attention, CpuOp, Quantized, QuantizedBinary, QuantizedOp, QuantizedResidual, Steps,
};

use offshoot_graph::passes::{Rewriter, expand, expand_nodes, recognize_gated, recognize_group_norms};
use offshoot_graph::{Graph, GraphError, Op};

/// `graph` with fused operators. One for inference whose activations stand between DequantizeLinear and QuantizeLinear
/// computes on bytes, and differs by a step of the scale where a float was rounded otherwise; one with a backward pass keeps less of
/// the forward pass, and its results are bit-identical.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn optimize(graph: &Graph) -> Result<Graph<CpuOp>, GraphError> {
    let trains = graph.nodes().iter().any(|node| matches!(node.op, Op::Grad(_)));
    let graph = &if trains {
        expand(graph, |_| true)?
    } else {
        let graph = recognize_group_norms(graph)?;
        expand_nodes(&graph, |node, composite| norm::group_norm(&graph, &node.inputs, composite).is_none())?
    };
    let graph = &transposes::fuse_transposes(&recognize_gated(graph)?)?;
    if trains {
        let fused = fuse::fuse(&shuffle::fuse_shuffles(&unoptimized(graph)?)?)?;
        return attention::fuse_attention(&recompute::recompute(&fused)?);
    }
    let graph = norm::apply_norms(&quantized::fuse_quantized(graph)?)?;
    let fused = fuse::fuse(&shuffle::fuse_shuffles(&graph)?)?;
    linear::fuse_linear(&attention::fuse_attention(&fused)?)
}

/// `graph` node by node, composite operators as those that define them.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn unoptimized(graph: &Graph) -> Result<Graph<CpuOp>, GraphError> {
    let graph = &expand(graph, |_| true)?;
    let mut rewriter = Rewriter::new(graph);
    graph.nodes().iter().try_for_each(|node| rewriter.copy(node))?;
    rewriter.finish()
}
