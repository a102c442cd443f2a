//! Batch norms of inference as the operator that training has for them, which is fused with what follows and read through; norms
//! of groups as one operator.

use offshoot_graph::op::{Binary, Composite, Norm, TrainOp, Unary};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{DType, Graph, GraphError, Op, Operator, Tensor, ValueId};

use super::op::CpuOp;

/// Each norm of pictures by running statistics as a BatchNormApply, whose 1 / sqrt(variance + epsilon) is computed beside it, and each
/// norm of groups as a GroupNorm. For a graph without a backward pass, whose other composite operators are expanded.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn apply_norms(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if let Some(Op::Composite(composite)) = node.op.plain()
            && let Some(norm) = group_norm(graph, &node.inputs, composite)
        {
            let inputs: Vec<_> = node.inputs.iter().map(|&value| rewriter.get(value)).collect();
            let y = rewriter.new.add(&node.name, norm, &inputs)?;
            rewriter.set(node.outputs[0], y);
            continue;
        }
        let of_pictures = node.inputs.first().is_some_and(|&x| graph.value(x).shape.rank() == 4);
        let (Some(&Op::Norm(Norm::Batch(norm))), &[x, gamma, beta, mean, variance], true) =
            (node.op.plain(), &node.inputs[..], of_pictures)
        else {
            rewriter.copy(node)?;
            continue;
        };
        let [x, gamma, beta, mean, variance] = [x, gamma, beta, mean, variance].map(|v| rewriter.get(v));
        let new = &mut rewriter.new;
        let named = |what: &str| format!("{}.{what}", node.name);
        let epsilon = new.add_constant(&named("epsilon"), Tensor::f32([], vec![norm.epsilon]));
        let sum = new.add(&named("sum"), Op::Binary(Binary::Add).into(), &[variance, epsilon])?;
        let root = new.add(&named("root"), Op::Unary(Unary::Sqrt).into(), &[sum])?;
        let inv_std = new.add(&named("inv_std"), Op::Unary(Unary::Reciprocal).into(), &[root])?;
        let apply = Op::Train(TrainOp::BatchNormApply).into();
        let y = new.add(&node.name, apply, &[x, mean, inv_std, gamma, beta])?;
        rewriter.set(node.outputs[0], y);
    }
    rewriter.finish()
}

/// The one operator that `composite`, a node of `graph` which reads `inputs`, is: where it is a norm of groups of the channels of
/// pictures.
pub(super) fn group_norm<O: Operator>(
    graph: &Graph<O>,
    inputs: &[ValueId],
    composite: &Composite,
) -> Option<CpuOp> {
    let x = graph.value(*inputs.first()?);
    if x.shape.rank() != 4 || x.dtype != DType::F32 {
        return None;
    }
    match *composite {
        Composite::GroupNormalization { groups, epsilon } => Some(CpuOp::GroupNorm { groups, epsilon }),
        Composite::InstanceNormalization { epsilon } => {
            Some(CpuOp::GroupNorm { groups: x.shape.0[1].fixed()?, epsilon })
        }
        Composite::LogSoftmax { .. }
        | Composite::Pad { .. }
        | Composite::Split { .. }
        | Composite::Resize { .. }
        | Composite::Gru { .. } => None,
    }
}
