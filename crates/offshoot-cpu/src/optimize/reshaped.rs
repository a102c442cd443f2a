//! Reshapes of what bytes stand for, as reshapes of the bytes: what reads and makes them is next to their scales then.

use offshoot_graph::op::ShapeOp;
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{DType, Graph, GraphError, Node, Op};

use super::quantized::steps;

/// `Reshape(DequantizeLinear(q))` as `DequantizeLinear(Reshape(q))`, and `QuantizeLinear(Reshape(x))` as
/// `Reshape(QuantizeLinear(x))`, where one scale is for all elements.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn reshape_bytes(graph: &Graph) -> Result<Graph, GraphError> {
    let uses = graph.use_counts();
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        let inner = node.inputs.first().and_then(|&x| graph.producer(x));
        let Some(inner) = inner.map(|inner| graph.node(inner)) else {
            rewriter.copy(node)?;
            continue;
        };
        let dequantized = moves(node)
            && matches!(inner.op, Op::DequantizeLinear { .. })
            && graph.value(inner.inputs[0]).dtype == DType::U8
            && one_scale(graph, inner);
        let quantized = matches!(node.op, Op::QuantizeLinear { .. })
            && moves(inner)
            && uses[node.inputs[0].index()] == 1
            && one_scale(graph, node);
        let y = if dequantized {
            let [q, scale, zero_point] = [0, 1, 2].map(|i| inner.inputs[i]);
            let [q, scale, zero_point] = [q, scale, zero_point].map(|value| rewriter.get(value));
            let bytes = rewriter.new.add(&format!("{}.bytes", node.name), node.op.clone(), &[q])?;
            rewriter.new.add(&node.name, Op::DequantizeLinear { axis: 0 }, &[bytes, scale, zero_point])?
        } else if quantized {
            let inputs = [inner.inputs[0], node.inputs[1], node.inputs[2]].map(|value| rewriter.get(value));
            let bytes =
                rewriter.new.add(&format!("{}.bytes", node.name), Op::QuantizeLinear { axis: 0 }, &inputs)?;
            rewriter.new.add(&node.name, inner.op.clone(), &[bytes])?
        } else {
            rewriter.copy(node)?;
            continue;
        };
        rewriter.set(node.outputs[0], y);
    }
    rewriter.finish()
}

/// Whether the scale of a QuantizeLinear or a DequantizeLinear belongs to no axis.
fn one_scale(graph: &Graph, node: &Node) -> bool {
    graph.value(node.inputs[1]).shape.rank() == 0 && steps(graph, node).is_some()
}

fn moves(node: &Node) -> bool {
    matches!(node.op, Op::Shape(ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. }))
}
