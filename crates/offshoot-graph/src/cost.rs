//! What a graph costs at least: its operations, and the bytes that its nodes read and write.

use crate::graph::{Graph, Node, ValueId};
use crate::op::{GradOp, Op, Operator};
use crate::shape::{Bindings, DimError};

/// The least work of a node or a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-adds of convolutions, matrix products and their gradients as they are defined (no Winograd), each
    /// counted as two. What other operators compute is not counted: bytes bound them.
    pub operations: u64,
    /// Bytes of the values that a node reads and writes, each once.
    pub bytes: u64,
}

impl Cost {
    /// Seconds below which no machine of `flops` operations and `bandwidth` bytes a second gets: the slower of the two.
    pub fn seconds(self, flops: f64, bandwidth: f64) -> f64 {
        (self.operations as f64 / flops).max(self.bytes as f64 / bandwidth)
    }
}

/// The cost of each node of `graph`, in order, with the numbers of `bindings` for its symbols.
///
/// # Errors
/// When a symbol has no number.
pub fn costs<O: Operator>(graph: &Graph<O>, bindings: &Bindings) -> Result<Vec<Cost>, DimError> {
    graph.nodes().iter().map(|node| cost(graph, node, bindings)).collect()
}

fn cost<O: Operator>(graph: &Graph<O>, node: &Node<O>, bindings: &Bindings) -> Result<Cost, DimError> {
    let shapes = |ids: &[ValueId]| {
        ids.iter().map(|&id| graph.value(id).shape.eval(bindings)).collect::<Result<Vec<_>, _>>()
    };
    let (inputs, outputs) = (shapes(&node.inputs)?, shapes(&node.outputs)?);
    let mut bytes = 0u64;
    for (id, shape) in node.inputs.iter().chain(&node.outputs).zip(inputs.iter().chain(&outputs)) {
        let size = graph.value(*id).dtype.size() as u64;
        bytes = bytes.saturating_add(elements(shape).saturating_mul(size));
    }
    let operations = node.op.multiply_adds(&inputs, &outputs).saturating_mul(2);
    Ok(Cost { operations, bytes })
}

/// How many elements a value of `shape` has.
fn elements(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |product, &n| product.saturating_mul(n as u64))
}

/// The multiply-adds of `op` ([`Operator::multiply_adds`]).
pub(crate) fn multiply_adds(op: &Op, inputs: &[Vec<usize>], outputs: &[Vec<usize>]) -> u64 {
    let shape = |shapes: &[Vec<usize>], i: usize| shapes.get(i).cloned().unwrap_or_default();
    let (x, y) = (shape(inputs, 0), shape(outputs, 0));
    // A filter is [K, C / group, R, S]: each element of the output takes one multiply-add an element of filter k.
    let filter = |filter: &[usize]| elements(filter.get(1..).unwrap_or_default());
    // The size of x's axis that a product sums over, counted from the last.
    let depth = |from_last: usize| {
        x.len().checked_sub(from_last).and_then(|axis| x.get(axis)).map_or(1, |&depth| depth as u64)
    };
    let each = |elements: u64, multiply_adds: u64| elements.saturating_mul(multiply_adds);
    match op {
        Op::Conv(_) => each(elements(&y), filter(&shape(inputs, 1))),
        Op::Grad(GradOp::ConvInput { .. }) => each(elements(&x), filter(&shape(inputs, 1))),
        Op::Grad(GradOp::ConvWeight { .. }) => each(elements(&x), filter(&y)),
        Op::Gemm(gemm) => each(elements(&y), depth(1 + usize::from(gemm.trans_a))),
        Op::DynamicQuantizeMatMul { .. } => each(elements(&y), depth(1)),
        Op::MatMul(product) => each(elements(&y), depth(1 + usize::from(product.trans_a))),
        // Gates, each with a product of x and one of h.
        Op::Recurrent(recurrent) => {
            let hidden = y.last().map_or(1, |&hidden| hidden as u64);
            each(elements(&y), recurrent.row().gates as u64 * (depth(1) + hidden))
        }
        Op::Norm(_) | Op::Unary(_) | Op::Binary(_) | Op::Reduce { .. } | Op::Shape(_) | Op::Pool(_) | Op::Dropout { .. } | Op::Softmax { .. } | Op::SoftmaxCrossEntropyLoss(_) | Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } | Op::Sequence(_) | Op::Train(_) | Op::Update(_)
        // What defines it is counted.
        | Op::Composite(_)
        | Op::Grad(
            GradOp::SumToChannels
            | GradOp::BatchNormReduce
            | GradOp::BatchNormInput
            | GradOp::BatchNormScale
            | GradOp::Unary(_)
            | GradOp::Binary { .. }
            | GradOp::Reduce { .. }
            | GradOp::Gather { .. }
            | GradOp::LayerNormReduce(_)
            | GradOp::LayerNormInput(_)
            | GradOp::Slice { .. }
            | GradOp::MaxPool(_)
            | GradOp::AveragePool { .. }
            | GradOp::GlobalAveragePool { .. }
            | GradOp::Reshape { .. }
            | GradOp::ReduceTo { .. }
            | GradOp::Dropout { .. }
            | GradOp::Softmax { .. }
            | GradOp::SoftmaxCrossEntropyLoss(_)
            | GradOp::QuantizeLinear { .. },
        ) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Conv, Gemm, ShapeOp};
    use crate::shape::{Dim, Shape};
    use crate::tensor::DType;

    #[test]
    fn a_convolution_and_a_product_cost_what_their_formulas_say() {
        let mut graph = Graph::new("g");
        let shape = Shape(vec![Dim::symbol("n"), Dim::Fixed(8), Dim::Fixed(5), Dim::Fixed(5)]);
        let x = graph.add_input("x", DType::F32, shape);
        let w = graph.add_parameter("w", &[16, 4, 3, 3], crate::graph::Role::Weight);
        let y = graph.add("y", Op::Conv(Conv { group: 2, ..Conv::default() }), &[x, w]).unwrap();
        let flat = graph.add("f", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[y]).unwrap();
        let v = graph.add_parameter("v", &[10, 144], crate::graph::Role::Weight);
        graph.add("z", Op::Gemm(Gemm { trans_a: false, trans_b: true }), &[flat, v]).unwrap();
        let found = costs(&graph, &[("n".to_string(), 2)].into()).unwrap();
        let [out, x, w, v, z] = [2 * 16 * 9, 2 * 8 * 25, 16 * 4 * 9, 10 * 144, 2 * 10];
        assert_eq!(found[0], Cost { operations: 2 * out * 36, bytes: 4 * (x + w + out) });
        assert_eq!(found[1], Cost { operations: 0, bytes: 4 * 2 * out });
        assert_eq!(found[2], Cost { operations: 2 * z * 144, bytes: 4 * (out + v + z) });
    }
}
