//! Memory for time: cheap activations are computed again on the way back rather than kept.

use std::collections::HashMap;

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, ValueId};
use crate::op::{FusedOp, Op, TrainOp};

/// Computes the output of each batch norm (with its activation) again where the backward part of a training graph reads
/// it, so that only the norm's input is kept from the way forward. A norm that adds a residual is left as it is: its
/// operands would have to be computed again first. For a fused graph of a training step.
///
/// The numbers are the same bits: the same operator reads the same values.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn recompute(graph: &Graph) -> Result<Graph, GraphError> {
    let cheap: HashMap<ValueId, &Node> =
        graph.nodes().iter().filter(|n| is_cheap(&n.op)).map(|n| (n.outputs[0], n)).collect();
    let mut rewriter = Rewriter::new(graph);
    let mut again: HashMap<ValueId, ValueId> = HashMap::new();
    for node in graph.nodes() {
        if !is_backward(&node.op) {
            rewriter.copy(node)?;
            continue;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            let value = match (again.get(&input), cheap.get(&input)) {
                (Some(&value), _) => value,
                (None, None) => rewriter.get(input),
                (None, Some(norm)) => {
                    let operands: Vec<ValueId> = norm.inputs.iter().map(|&v| rewriter.get(v)).collect();
                    let name = format!("{}.again", norm.name);
                    let value = rewriter.new.add(&name, norm.op.clone(), &operands)?;
                    again.insert(input, value);
                    value
                }
            };
            inputs.push(value);
        }
        let outputs = rewriter.new.add_node(&node.name, node.op.clone(), &inputs)?;
        for (&old, new) in node.outputs.iter().zip(outputs) {
            rewriter.set(old, new);
        }
    }
    rewriter.finish()
}

/// One pass over memory, with all operands kept anyway.
fn is_cheap(op: &Op) -> bool {
    matches!(
        op,
        Op::Train(TrainOp::BatchNormApply) | Op::Fused(FusedOp::BatchNormApply { residual: false, .. })
    )
}

fn is_backward(op: &Op) -> bool {
    matches!(op, Op::Grad(_) | Op::Fused(FusedOp::BatchNormReduce { .. } | FusedOp::BatchNormInput { .. }))
}
