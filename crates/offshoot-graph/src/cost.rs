//! What a graph costs at least: its operations, and the bytes that its nodes read and write.

use crate::graph::{Graph, Node, ValueId};
use crate::op::{FusedOp, GradOp, Op, Quantized, QuantizedOp, TrainOp};
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
pub fn costs(graph: &Graph, bindings: &Bindings) -> Result<Vec<Cost>, DimError> {
    graph.nodes().iter().map(|node| cost(graph, node, bindings)).collect()
}

fn cost(graph: &Graph, node: &Node, bindings: &Bindings) -> Result<Cost, DimError> {
    let product = |id: ValueId, from: usize| {
        let shape = graph.value(id).shape.eval(bindings)?;
        Ok(shape.iter().skip(from).fold(1u64, |product, &n| product.saturating_mul(n as u64)))
    };
    let elements = |id| product(id, 0);
    // A filter is [K, C / group, R, S]: each element of the output takes one multiply-add an element of filter k.
    let filter = |id| product(id, 1);
    let mut bytes = 0u64;
    for &id in node.inputs.iter().chain(&node.outputs) {
        bytes = bytes.saturating_add(elements(id)?.saturating_mul(graph.value(id).dtype.size() as u64));
    }
    let multiply_adds = match &node.op {
        Op::Conv(_)
        | Op::Fused(
            FusedOp::Conv { .. } | FusedOp::Quantized(Quantized { op: QuantizedOp::Conv { .. }, .. }),
        ) => elements(node.outputs[0])?.saturating_mul(filter(node.inputs[1])?),
        Op::Grad(GradOp::ConvInput { .. }) => {
            elements(node.inputs[0])?.saturating_mul(filter(node.inputs[1])?)
        }
        Op::Grad(GradOp::ConvWeight { .. }) => {
            elements(node.inputs[0])?.saturating_mul(filter(node.outputs[0])?)
        }
        Op::Gemm(gemm) => {
            let a = graph.value(node.inputs[0]).shape.eval(bindings)?;
            let depth = a.get(usize::from(!gemm.trans_a)).copied().unwrap_or(1);
            elements(node.outputs[0])?.saturating_mul(depth as u64)
        }
        Op::Fused(FusedOp::Quantized(Quantized { op: QuantizedOp::Gemm { .. }, .. })) => {
            elements(node.outputs[0])?.saturating_mul(product(node.inputs[0], 1)?)
        }
        Op::DynamicQuantizeMatMul { .. } => {
            let depth = graph.value(node.inputs[0]).shape.eval(bindings)?.get(1).copied().unwrap_or(1);
            elements(node.outputs[0])?.saturating_mul(depth as u64)
        }
        // Four gates, each with a product of x and one of h.
        Op::Lstm(_) | Op::DynamicQuantizeLstm(_) => {
            let depth = graph.value(node.inputs[0]).shape.eval(bindings)?.last().copied().unwrap_or(1);
            let hidden = graph.value(node.outputs[0]).shape.eval(bindings)?.last().copied().unwrap_or(1);
            elements(node.outputs[0])?.saturating_mul(4 * (depth + hidden) as u64)
        }
        Op::MatMul | Op::Fused(FusedOp::MatMul { .. }) => {
            let a = graph.value(node.inputs[0]).shape.eval(bindings)?;
            let transposed = matches!(node.op, Op::Fused(FusedOp::MatMul { trans_a: true, .. }));
            let depth = a.len().checked_sub(1 + usize::from(transposed)).and_then(|axis| a.get(axis));
            elements(node.outputs[0])?.saturating_mul(depth.copied().unwrap_or(1) as u64)
        }
        Op::BatchNormalization(_)
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Reduce { .. }
        | Op::LayerNormalization(_)
        | Op::Transpose { .. }
        | Op::Reshape { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Expand { .. }
        | Op::MaxPool(_)
        | Op::AveragePool(_)
        | Op::GlobalAveragePool
        | Op::Flatten { .. }
        | Op::Identity
        | Op::Dropout { .. }
        | Op::Softmax { .. }
        | Op::SoftmaxCrossEntropyLoss(_)
        | Op::QuantizeLinear { .. }
        | Op::DequantizeLinear { .. }
        | Op::Sequence(_)
        | Op::Train(
            TrainOp::BatchNormStats(_)
            | TrainOp::BatchNormApply
            | TrainOp::InvStd { .. }
            | TrainOp::Dropout { .. }
            | TrainOp::Cast { .. },
        )
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
        )
        | Op::Fused(
            FusedOp::Quantized(Quantized {
                op:
                    QuantizedOp::Add { .. }
                    | QuantizedOp::AveragePool(_)
                    | QuantizedOp::GlobalAveragePool
                    | QuantizedOp::Rescale,
                ..
            })
            | FusedOp::BatchNormApply { .. }
            | FusedOp::BatchNormReduce { .. }
            | FusedOp::BatchNormInput { .. },
        ) => 0,
    };
    Ok(Cost { operations: multiply_adds.saturating_mul(2), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Conv, Gemm};
    use crate::shape::{Dim, Shape};
    use crate::tensor::DType;

    #[test]
    fn a_convolution_and_a_product_cost_what_their_formulas_say() {
        let mut graph = Graph::new("g");
        let shape = Shape(vec![Dim::symbol("n"), Dim::Fixed(8), Dim::Fixed(5), Dim::Fixed(5)]);
        let x = graph.add_input("x", DType::F32, shape);
        let w = graph.add_parameter("w", &[16, 4, 3, 3], crate::graph::Role::Weight);
        let y = graph.add("y", Op::Conv(Conv { group: 2, ..Conv::default() }), &[x, w]).unwrap();
        let flat = graph.add("f", Op::Flatten { axis: 1 }, &[y]).unwrap();
        let v = graph.add_parameter("v", &[10, 144], crate::graph::Role::Weight);
        graph.add("z", Op::Gemm(Gemm { trans_a: false, trans_b: true }), &[flat, v]).unwrap();
        let found = costs(&graph, &[("n".to_string(), 2)].into()).unwrap();
        let [out, x, w, v, z] = [2 * 16 * 9, 2 * 8 * 25, 16 * 4 * 9, 10 * 144, 2 * 10];
        assert_eq!(found[0], Cost { operations: 2 * out * 36, bytes: 4 * (x + w + out) });
        assert_eq!(found[1], Cost { operations: 0, bytes: 4 * 2 * out });
        assert_eq!(found[2], Cost { operations: 2 * z * 144, bytes: 4 * (out + v + z) });
    }
}
