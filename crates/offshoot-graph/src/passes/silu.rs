//! Silu where a file spells it out.

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, ValueId};
use crate::op::{Binary, Op, Unary};

/// The products of a value and its own Sigmoid as [`Unary::Silu`].
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn recognize_silu(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        match gated_by_itself(graph, node) {
            Some(x) => {
                let x = rewriter.get(x);
                let y = rewriter.new.add(&node.name, Op::Unary(Unary::Silu), &[x])?;
                rewriter.set(node.outputs[0], y);
            }
            None => rewriter.copy(node)?,
        }
    }
    rewriter.finish()
}

/// x, when `node` computes x Sigmoid(x).
fn gated_by_itself(graph: &Graph, node: &Node) -> Option<ValueId> {
    let (Op::Binary(Binary::Mul), &[a, b]) = (&node.op, &node.inputs[..]) else { return None };
    let gates = |gate: ValueId, x: ValueId| {
        graph
            .producer(gate)
            .map(|n| graph.node(n))
            .is_some_and(|n| n.op == Op::Unary(Unary::Sigmoid) && n.inputs[0] == x)
    };
    if gates(b, a) {
        Some(a)
    } else if gates(a, b) {
        Some(b)
    } else {
        None
    }
}
