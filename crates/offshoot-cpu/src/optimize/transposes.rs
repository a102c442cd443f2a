//! Products of matrices and the Transposes before and behind them.

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::{MatMul, ShapeOp};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{Graph, GraphError, Node, Op, ValueId};

/// Products of matrices that read their operands as they are before a Transpose of their last two axes, and give their result as it is
/// after one that nothing but a product reads beside it: (a b)ᵀ = bᵀ aᵀ.
pub(super) fn fuse_transposes(graph: &Graph) -> Result<Graph, GraphError> {
    let transposed_later = transposed_products(graph);
    let later: HashSet<ValueId> = transposed_later.values().map(|product| product.outputs[0]).collect();
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        let product = transposed_later.get(&node.outputs[0]).copied();
        if later.contains(&node.outputs[0]) {
            continue;
        }
        let Some((product, swap)) =
            product.map(|product| (product, true)).or(matmul(node).map(|_| (node, false)))
        else {
            rewriter.copy(node)?;
            continue;
        };
        let Some(MatMul { trans_a, trans_b }) = matmul(product) else { continue };
        let [a, b] = [0, 1].map(|i| transposed(graph, product.inputs[i]));
        let [trans_a, trans_b] = [trans_a ^ a.is_some(), trans_b ^ b.is_some()];
        let [a, b] =
            [a.unwrap_or(product.inputs[0]), b.unwrap_or(product.inputs[1])].map(|v| rewriter.get(v));
        let (op, operands) = match swap {
            true => (MatMul { trans_a: !trans_b, trans_b: !trans_a }, [b, a]),
            false => (MatMul { trans_a, trans_b }, [a, b]),
        };
        let y = rewriter.new.add(&product.name, Op::MatMul(op), &operands)?;
        rewriter.set(node.outputs[0], y);
    }
    rewriter.finish()
}

fn matmul(node: &Node) -> Option<MatMul> {
    if let Op::MatMul(product) = node.op { Some(product) } else { None }
}

/// The products whose only reader is a Transpose of the last two axes that no product reads (it would read through it), by the Transpose's
/// output.
fn transposed_products(graph: &Graph) -> HashMap<ValueId, &Node> {
    let uses = graph.use_counts();
    let mut found: HashMap<ValueId, &Node> = HashMap::new();
    for node in graph.nodes() {
        if let Some(source) = transposed(graph, node.outputs[0])
            && uses[source.index()] == 1
            && let Some(product) = graph.producer(source).map(|id| graph.node(id))
            && matmul(product).is_some()
        {
            found.insert(node.outputs[0], product);
        }
        if matmul(node).is_some() {
            for input in &node.inputs {
                found.remove(input);
            }
        }
    }
    found
}

/// What `value` is with its last two axes exchanged, if a Transpose does just that.
fn transposed(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let node = graph.node(graph.producer(value)?);
    let Op::Shape(ShapeOp::Transpose { perm }) = &node.op else { return None };
    let matrix = perm.len().checked_sub(2)?;
    let exchanges = perm[..matrix].iter().enumerate().all(|(i, &axis)| i == axis)
        && perm[matrix..] == [matrix + 1, matrix];
    exchanges.then_some(node.inputs[0])
}
