//! Functions behind linear layers.

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::{ShapeOp, Unary};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{Graph, GraphError, Node, Op, ValueId};

use super::op::CpuOp;
use super::readers::Readers;

/// Each Gemm with the function of one element that alone reads it, whether or not there is a Reshape between them: the product applies it
/// while it stores. For a graph without a backward pass.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn fuse_linear(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let readers = Readers::of(graph);
    let (mut products, mut applied) = (HashMap::new(), HashSet::new());
    for node in graph.nodes() {
        if let Some((product, function)) = linear(&readers, node) {
            products.insert(product, function);
            applied.insert(node.outputs[0]);
        }
    }
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        let value = node.outputs[0];
        if let (Some(&then), Some(&Op::Gemm(gemm))) = (products.get(&value), node.op.plain()) {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|&v| rewriter.get(v)).collect();
            let y = rewriter.new.add(&node.name, CpuOp::Gemm { gemm, then }, &inputs)?;
            rewriter.set(value, y);
        } else if applied.contains(&value) {
            rewriter.set(value, rewriter.get(node.inputs[0]));
        } else {
            rewriter.copy(node)?;
        }
    }
    rewriter.finish()
}

/// The result of the Gemm behind which `node` is a function of each element, and the function.
fn linear(readers: &Readers<'_>, node: &Node<CpuOp>) -> Option<(ValueId, Unary)> {
    let Op::Unary(function) = *node.op.plain()? else { return None };
    let mut product = node.inputs[0];
    let mut maker = readers.maker(product)?;
    if let Op::Shape(ShapeOp::Reshape { .. } | ShapeOp::Flatten { .. }) = maker.op.plain()? {
        product = maker.inputs[0];
        maker = readers.maker(product)?;
    }
    matches!(maker.op.plain(), Some(Op::Gemm(_))).then_some((product, function))
}

#[cfg(test)]
mod tests {
    use offshoot_graph::{DType, Dim, Shape};

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
