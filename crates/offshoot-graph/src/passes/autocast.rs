//! Mixed precision: which values of a network are stored in half precision.

use std::collections::HashMap;

use super::expand::expand;
use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, Source, ValueId};
use crate::op::{Autocast, Op, TrainOp};
use crate::tensor::DType;

/// The op lists.
fn policy(op: &Op) -> Autocast {
    match op {
        Op::Conv(_) | Op::Gemm(_) | Op::MatMul(_) => Autocast::Half,
        Op::Softmax { .. }
        | Op::SoftmaxCrossEntropyLoss(_)
        | Op::QuantizeLinear { .. }
        | Op::Sequence(_)
        | Op::Composite(_)
        | Op::Reduce { .. }
        | Op::DynamicQuantizeMatMul { .. } => Autocast::Full,
        Op::Unary(unary) => unary.row().autocast,
        Op::Binary(binary) => binary.row().autocast,
        Op::Norm(norm) => norm.row().autocast,
        Op::Pool(pooling) => pooling.row().autocast,
        Op::Shape(shape) => shape.row().autocast,
        Op::Recurrent(recurrent) => recurrent.row().autocast,
        Op::Dropout { .. } | Op::DequantizeLinear { .. } | Op::Train(_) | Op::Grad(_) | Op::Update(_) => {
            Autocast::Follow
        }
    }
}

/// Inserts the casts of mixed precision into a network, with the semantics of `torch.autocast`: matrix operators compute
/// on values of type `half` (bf16 or f16) and make such, softmax and loss compute in f32, the rest follows its inputs.
/// The graph's inputs, parameters and outputs stay f32; composite operators are those that define them. To be applied before [`super::training_graph`], whose gradients
/// have the types of the values they belong to, those of parameters f32.
///
/// There is no cast node for the weight and the bias of a Conv or Gemm, which rounds them to the type of its activations.
///
/// # Errors
/// When `half` is no 16-bit float.
pub fn autocast(graph: &Graph, half: DType) -> Result<Graph, GraphError> {
    if !matches!(half, DType::BF16 | DType::F16) {
        let reason = format!("{half} is no type of mixed precision: give bf16 or f16");
        return Err(GraphError { node: graph.name().into(), op: "Cast", reason });
    }
    let graph = &expand(graph, |_| true)?;
    let mut cast = Casts { rewriter: Rewriter::new(graph), casts: HashMap::new() };
    for node in graph.nodes() {
        cast.copy(graph, node, half)?;
    }
    for (_, value) in graph.outputs() {
        let new = cast.rewriter.get(*value);
        let new = if cast.is_float(new) { cast.to(new, DType::F32)? } else { new };
        cast.rewriter.set(*value, new);
    }
    cast.rewriter.finish()
}

struct Casts<'a> {
    rewriter: Rewriter<'a>,
    /// Each value is cast to a type once.
    casts: HashMap<(ValueId, DType), ValueId>,
}

impl Casts<'_> {
    fn copy(&mut self, graph: &Graph, node: &Node, half: DType) -> Result<(), GraphError> {
        let mut inputs: Vec<ValueId> = node.inputs.iter().map(|&v| self.rewriter.get(v)).collect();
        let wanted = match policy(&node.op) {
            Autocast::Half => Some(half),
            Autocast::Full => Some(DType::F32),
            Autocast::Widest => self.widest(&inputs),
            Autocast::Follow => None,
        };
        for (slot, (input, old)) in inputs.iter_mut().zip(&node.inputs).enumerate() {
            let rounded_by_operator = matches!(node.op, Op::Conv(_) | Op::Gemm(_))
                && slot > 0
                && matches!(graph.value(*old).source, Source::Parameter(_));
            if let Some(dtype) = wanted.filter(|_| self.is_float(*input) && !rounded_by_operator) {
                *input = self.to(*input, dtype)?;
            }
        }
        let outputs = self.rewriter.new.add_node(&node.name, node.op.clone(), &inputs)?;
        for (&old, new) in node.outputs.iter().zip(outputs) {
            self.rewriter.set(old, new);
        }
        Ok(())
    }

    fn is_float(&self, value: ValueId) -> bool {
        self.rewriter.new.value(value).dtype.is_float()
    }

    fn widest(&self, inputs: &[ValueId]) -> Option<DType> {
        let dtypes = inputs.iter().map(|&v| self.rewriter.new.value(v).dtype);
        dtypes.max_by_key(|dtype| dtype.size())
    }

    /// `value` as `dtype`.
    fn to(&mut self, value: ValueId, dtype: DType) -> Result<ValueId, GraphError> {
        let own = self.rewriter.new.value(value);
        if own.dtype == dtype {
            return Ok(value);
        }
        if let Some(&cast) = self.casts.get(&(value, dtype)) {
            return Ok(cast);
        }
        let name = format!("{}.{dtype}", own.name);
        let cast = self.rewriter.new.add(&name, Op::Train(TrainOp::Cast { to: dtype }), &[value])?;
        self.casts.insert((value, dtype), cast);
        Ok(cast)
    }
}
