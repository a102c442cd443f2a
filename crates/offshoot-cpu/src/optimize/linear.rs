//! Functions behind linear layers.

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::{Gemm, ShapeOp, Unary};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{DType, Graph, GraphError, Node, NodeId, Op, ValueId};

use super::op::CpuOp;

/// Each Gemm with the function of one element that alone reads it, whether or not there is a Reshape between them: the product applies it
/// while it stores. For a graph without a backward pass.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn fuse_linear(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let uses = graph.use_counts();
    let found: Vec<(NodeId, Gemm, Unary, ValueId)> =
        graph.nodes().iter().filter_map(|node| linear(graph, &uses, node)).collect();
    let products: HashMap<NodeId, (Gemm, Unary)> =
        found.iter().map(|&(id, gemm, function, _)| (id, (gemm, function))).collect();
    let applied: HashSet<ValueId> = found.iter().map(|&(.., value)| value).collect();
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if applied.contains(&node.outputs[0]) {
            let value = rewriter.get(node.inputs[0]);
            rewriter.set(node.outputs[0], value);
            continue;
        }
        let product = graph.producer(node.outputs[0]).and_then(|id| products.get(&id));
        let Some(&(gemm, then)) = product else {
            rewriter.copy(node)?;
            continue;
        };
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&v| rewriter.get(v)).collect();
        let y = rewriter.new.add(&node.name, CpuOp::Gemm { gemm, then }, &inputs)?;
        rewriter.set(node.outputs[0], y);
    }
    rewriter.finish()
}

/// The Gemm behind which `node` is a function of f32, with both and the function's result.
fn linear(
    graph: &Graph<CpuOp>,
    uses: &[usize],
    node: &Node<CpuOp>,
) -> Option<(NodeId, Gemm, Unary, ValueId)> {
    let Op::Unary(function) = *node.op.plain()? else { return None };
    let maker = |value: ValueId| if uses[value.index()] == 1 { graph.producer(value) } else { None };
    let mut id = maker(node.inputs[0])?;
    if let Op::Shape(ShapeOp::Reshape { .. } | ShapeOp::Flatten { .. }) = graph.node(id).op.plain()? {
        id = maker(graph.node(id).inputs[0])?;
    }
    let product = graph.node(id);
    let Op::Gemm(gemm) = *product.op.plain()? else { return None };
    let is_f32 = graph.value(product.inputs[0]).dtype == DType::F32;
    is_f32.then_some((id, gemm, function, node.outputs[0]))
}

#[cfg(test)]
mod tests {
    use offshoot_graph::{Dim, Shape};

    use super::super::optimize;
    use super::*;

    /// The operators of relu(reshape(x w)), where the product is an output too if `shown`.
    fn operators(shown: bool) -> Vec<&'static str> {
        use offshoot_graph::Operator as _;
        let mut graph = Graph::new("linear");
        let x = graph.add_input("x", DType::F32, Shape(vec![Dim::symbol("n"), Dim::Fixed(6)]));
        let product = graph.linear("fc", x, 4).unwrap();
        let shape = Shape(vec![Dim::symbol("n"), Dim::Fixed(2), Dim::Fixed(2)]);
        let y = graph.add("pairs", Op::Shape(ShapeOp::Reshape { shape }), &[product]).unwrap();
        let y = graph.add("y", Op::Unary(Unary::Relu), &[y]).unwrap();
        graph.add_output("y", y);
        if shown {
            graph.add_output("product", product);
        }
        optimize(&graph).unwrap().nodes().iter().map(|node| node.op.name()).collect()
    }

    #[test]
    fn a_function_behind_a_reshape_belongs_to_the_product_that_nothing_else_reads() {
        assert_eq!(operators(false), ["Fused.Gemm", "Reshape"]);
        assert_eq!(operators(true), ["Gemm", "Reshape", "Relu"]);
    }
}
