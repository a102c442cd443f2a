//! What the steps of a plan compute: the graph's operators, and several of them in one pass over memory.

use offshoot_graph::op::{
    AveragePool, BatchNormalization, Binary, Clip, Composite, Conv, Gemm, GradOp, MatMul, Norm, Pooling,
    ShapeOp, TrainOp, Unary,
};
use offshoot_graph::{DType, Op, Operator, Shape, Value};

use super::function::Term;

/// An operator of an optimized graph.
#[derive(Clone, Debug, PartialEq)]
pub enum CpuOp {
    /// One of the graph's own.
    Plain(Op),
    /// One on bytes.
    Quantized(Quantized),
    /// (x, weight, bias, residual?) -> activation(conv + residual)
    Conv {
        /// The convolution.
        conv: Conv,
        /// Whether a fourth input is added.
        residual: bool,
        /// Applied last.
        activation: Activation,
    },
    /// (a, b, bias?) -> then(gemm)
    Gemm {
        /// The product.
        gemm: Gemm,
        /// Applied last.
        then: Unary,
    },
    /// (q, k, v, mask?) -> softmax(scale q kᵀ + mask) v
    Attention(Attention),
    /// (q, k, v, mask?, dy) -> the gradients of q, k and v, where dy is that of the attention's result and k is \[.., keys, depth\]
    AttentionGrad(Attention),
    /// x -> the channels of each group, turned into groups of one channel of each: channel c of group g becomes the g-th of group c
    ChannelShuffle {
        /// The groups of x.
        groups: usize,
    },
    /// (x, weight, bias) -> weight (x - mean) / sqrt(variance + epsilon) + bias, over each group of the channels of a picture
    GroupNorm {
        /// The groups of x.
        groups: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// (x, mean, inv_std, weight, bias, residual?) -> activation(norm + residual)
    BatchNormApply {
        /// Whether a sixth input is added.
        residual: bool,
        /// Applied last.
        activation: Activation,
    },
    /// (dz, x, mean, inv_std, weight, bias) -> (dweight, dbias) of [`GradOp::BatchNormReduce`], with dy = dz where the
    /// activation let norm(x) pass
    BatchNormReduce {
        /// The activation after the norm.
        activation: Activation,
    },
    /// (dz, x, mean, inv_std, weight, bias, dweight, dbias) -> dx of [`GradOp::BatchNormInput`], with dy as above
    BatchNormInput {
        /// The activation after the norm.
        activation: Activation,
    },
}

/// How an attention takes its operands, stacks of matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// What the scores are multiplied with.
    pub scale: f32,
    /// k is \[.., keys, depth\], else \[.., depth, keys\].
    pub keys_first: bool,
    /// A fourth input is added to the scaled scores: one that is broadcast to \[.., queries, keys\], with all keys.
    pub mask: bool,
}

/// An activation in the epilogue of a fused operator.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Activation {
    /// x
    #[default]
    None,
    /// max(x, 0)
    Relu,
    /// min(max(x, min), max)
    Clip(Clip),
    /// Any other function, after a convolution only
    Smooth(Unary),
}

/// What the bytes of a quantized tensor stand for: (byte - zero_point) * scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    /// The size of a step, positive and finite.
    pub scale: f32,
    /// The byte that stands for 0.
    pub zero_point: u8,
}

/// What is added to a quantized result before it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizedResidual {
    /// The steps in which the result is rounded before the addition.
    pub rounded: Steps,
    /// An activation after that rounding's operator: the smallest and the largest number.
    pub clip: Clip,
    /// The steps of what is added.
    pub other: Steps,
}

/// An operator on u8 that stand for floats, made of one between DequantizeLinear and QuantizeLinear.
#[derive(Clone, Debug, PartialEq)]
pub enum QuantizedOp {
    /// (x u8, weight i8, weight scale \[K\] or scalar, bias?, residual u8?) -> u8, or f32 without `y`
    Conv {
        /// The convolution.
        conv: Conv,
        /// The last input is added.
        residual: Option<QuantizedResidual>,
    },
    /// (x u8, weight i8, weight scale, bias?) -> u8, or f32 without `y`; x is not transposed
    Gemm {
        /// Whether the weight is used transposed.
        trans_b: bool,
    },
    /// (a u8, b u8 of a's shape, or f32 that is broadcast to it) -> u8, with the arithmetic that the operators on floats have
    Binary(QuantizedBinary),
    /// x u8 -> u8
    AveragePool(AveragePool),
    /// x u8 -> u8
    GlobalAveragePool,
    /// (x u8, weight, bias, mean, variance) -> u8: by running statistics
    BatchNormalization(BatchNormalization),
    /// x u8 -> u8: the last of these parts, each byte by itself. It is computed by the operators on floats, for every byte
    /// once.
    Function(Vec<Term>),
}

/// A function of two operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizedBinary {
    /// The function.
    pub op: Binary,
    /// The steps of the second input; none where it is floats.
    pub other: Option<Steps>,
    /// Whether the second input is the function's first operand.
    pub swapped: bool,
}

/// A [`QuantizedOp`] and the meaning of its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// What is computed.
    pub op: QuantizedOp,
    /// The steps of the first input.
    pub x: Steps,
    /// Bounds of the result before it is rounded: an activation.
    pub clip: Clip,
    /// The steps of the result; a Conv or a Gemm without them gives floats.
    pub y: Option<Steps>,
}

impl From<Op> for CpuOp {
    fn from(op: Op) -> CpuOp {
        CpuOp::Plain(op)
    }
}

impl CpuOp {
    /// The graph's operator, where it is one of the graph's own.
    pub fn plain(&self) -> Option<&Op> {
        match self {
            CpuOp::Plain(op) => Some(op),
            CpuOp::Quantized(_)
            | CpuOp::Conv { .. }
            | CpuOp::Gemm { .. }
            | CpuOp::Attention(_)
            | CpuOp::AttentionGrad(_)
            | CpuOp::ChannelShuffle { .. }
            | CpuOp::GroupNorm { .. }
            | CpuOp::BatchNormApply { .. }
            | CpuOp::BatchNormReduce { .. }
            | CpuOp::BatchNormInput { .. } => None,
        }
    }
}

impl Operator for CpuOp {
    fn name(&self) -> &'static str {
        match self {
            CpuOp::Plain(op) => op.name(),
            CpuOp::Quantized(quantized) => quantized.op.name(),
            CpuOp::Conv { .. } => "Fused.Conv",
            CpuOp::Gemm { .. } => "Fused.Gemm",
            CpuOp::Attention(_) => "Fused.Attention",
            CpuOp::AttentionGrad(_) => "Fused.AttentionGrad",
            CpuOp::ChannelShuffle { .. } => "Fused.ChannelShuffle",
            CpuOp::GroupNorm { .. } => "Fused.GroupNorm",
            CpuOp::BatchNormApply { .. } => "Fused.BatchNormApply",
            CpuOp::BatchNormReduce { .. } => "Fused.BatchNormReduce",
            CpuOp::BatchNormInput { .. } => "Fused.BatchNormInput",
        }
    }

    fn infer(&self, inputs: &[&Value]) -> Result<Vec<(DType, Shape)>, String> {
        match self {
            CpuOp::Plain(op) => op.infer(inputs),
            CpuOp::Quantized(quantized) => quantized.infer(inputs),
            CpuOp::Conv { conv, residual, .. } => {
                let (first, last) = with_residual(inputs, 3, *residual)?;
                result_and_residual(Op::Conv(conv.clone()).infer(first)?, last)
            }
            CpuOp::Gemm { gemm, .. } => Op::Gemm(*gemm).infer(inputs),
            CpuOp::Attention(attention) => attention.infer(inputs),
            CpuOp::AttentionGrad(attention) => {
                let Some((dy, operands)) = inputs.split_last() else { return Err(count(4, inputs)) };
                let result = attention.infer(operands)?;
                let &[q, k, v, ..] = operands else { return Err(count(4, inputs)) };
                result_and_residual(result, Some(dy))?;
                Ok([q, k, v].map(|value| (value.dtype, value.shape.clone())).to_vec())
            }
            CpuOp::ChannelShuffle { .. } => Op::Shape(ShapeOp::Identity).infer(inputs),
            &CpuOp::GroupNorm { groups, epsilon } => {
                Op::Composite(Composite::GroupNormalization { groups, epsilon }).infer(inputs)
            }
            CpuOp::BatchNormApply { residual, .. } => {
                let (first, last) = with_residual(inputs, 5, *residual)?;
                result_and_residual(Op::Train(TrainOp::BatchNormApply).infer(first)?, last)
            }
            CpuOp::BatchNormReduce { .. } => {
                let &[dz, x, mean, inv_std, _, _] = inputs else { return Err(count(6, inputs)) };
                Op::Grad(GradOp::BatchNormReduce).infer(&[dz, x, mean, inv_std])
            }
            CpuOp::BatchNormInput { .. } => {
                let &[dz, x, mean, inv_std, weight, _, dweight, dbias] = inputs else {
                    return Err(count(8, inputs));
                };
                let operands = [dz, x, mean, inv_std, weight, dweight, dbias];
                Op::Grad(GradOp::BatchNormInput).infer(&operands)
            }
        }
    }

    fn multiply_adds(&self, inputs: &[Vec<usize>], outputs: &[Vec<usize>]) -> u64 {
        match self {
            CpuOp::Plain(op) => op.multiply_adds(inputs, outputs),
            CpuOp::Conv { conv, .. }
            | CpuOp::Quantized(Quantized { op: QuantizedOp::Conv { conv, .. }, .. }) => {
                Op::Conv(conv.clone()).multiply_adds(inputs, outputs)
            }
            CpuOp::Quantized(Quantized { op: QuantizedOp::Gemm { trans_b }, .. }) => {
                Op::Gemm(Gemm { trans_a: false, trans_b: *trans_b }).multiply_adds(inputs, outputs)
            }
            CpuOp::Gemm { gemm, .. } => Op::Gemm(*gemm).multiply_adds(inputs, outputs),
            // Both products of a query with all keys.
            CpuOp::Attention(Attention { keys_first, .. }) => {
                let [q, k, y] =
                    [inputs.first(), inputs.get(1), outputs.first()].map(|s| s.map_or(&[][..], |s| s));
                let ([.., depth], [.., rows, columns], [.., width]) = (q, k, y) else { return 0 };
                let keys = if *keys_first { rows } else { columns };
                let rows: u64 = y[..y.len() - 1].iter().map(|&n| n as u64).product();
                rows.saturating_mul(*keys as u64).saturating_mul((depth + width) as u64)
            }
            // Each of the two has the gradients of both of its operands.
            CpuOp::AttentionGrad(attention) => match inputs {
                [operands @ .., dy] => {
                    2 * CpuOp::Attention(*attention).multiply_adds(operands, std::slice::from_ref(dy))
                }
                [] => 0,
            },
            CpuOp::Quantized(Quantized {
                op:
                    QuantizedOp::Binary(_)
                    | QuantizedOp::BatchNormalization(_)
                    | QuantizedOp::AveragePool(_)
                    | QuantizedOp::GlobalAveragePool
                    | QuantizedOp::Function(_),
                ..
            })
            | CpuOp::ChannelShuffle { .. }
            | CpuOp::GroupNorm { .. }
            | CpuOp::BatchNormApply { .. }
            | CpuOp::BatchNormReduce { .. }
            | CpuOp::BatchNormInput { .. } => 0,
        }
    }
}

impl Attention {
    fn infer(self, inputs: &[&Value]) -> Result<Vec<(DType, Shape)>, String> {
        if inputs.len() != 3 + usize::from(self.mask) {
            return Err(count(3 + usize::from(self.mask), inputs));
        }
        let product = |a, b, trans_b| Op::MatMul(MatMul { trans_a: false, trans_b }).infer(&[a, b]);
        let [(dtype, shape)] = &product(inputs[0], inputs[1], self.keys_first)?[..] else {
            return Ok(Vec::new());
        };
        let scores = Value { dtype: *dtype, shape: shape.clone(), ..inputs[0].clone() };
        product(&scores, inputs[2], false)
    }
}

impl QuantizedOp {
    fn name(&self) -> &'static str {
        match self {
            QuantizedOp::Conv { .. } => "Quantized.Conv",
            QuantizedOp::Gemm { .. } => "Quantized.Gemm",
            QuantizedOp::Binary(_) => "Quantized.Binary",
            QuantizedOp::BatchNormalization(_) => "Quantized.BatchNormalization",
            QuantizedOp::AveragePool(_) => "Quantized.AveragePool",
            QuantizedOp::GlobalAveragePool => "Quantized.GlobalAveragePool",
            QuantizedOp::Function(_) => "Quantized.Function",
        }
    }
}

impl Quantized {
    /// The rule of the operator on floats, whose bytes have the same shapes.
    fn infer(&self, inputs: &[&Value]) -> Result<Vec<(DType, Shape)>, String> {
        if inputs.first().is_none_or(|x| x.dtype != DType::U8) {
            return Err("its first input must be u8".into());
        }
        let as_floats: Vec<Value> =
            inputs.iter().map(|&value| Value { dtype: DType::F32, ..value.clone() }).collect();
        let operands: Vec<&Value> = as_floats.iter().collect();
        let types = match &self.op {
            QuantizedOp::Conv { conv, residual } => {
                let (first, last) = with_residual(
                    &operands,
                    operands.len() - usize::from(residual.is_some()),
                    residual.is_some(),
                )?;
                result_and_residual(Op::Conv(conv.clone()).infer(&product(inputs, first)?)?, last)?
            }
            QuantizedOp::Gemm { trans_b } => {
                let gemm = Gemm { trans_a: false, trans_b: *trans_b };
                Op::Gemm(gemm).infer(&product(inputs, &operands)?)?
            }
            QuantizedOp::Binary(QuantizedBinary { op, .. }) => {
                let types = Op::Binary(*op).infer(&operands)?;
                result_and_residual(types, operands.first().copied())?
            }
            QuantizedOp::BatchNormalization(norm) => Op::Norm(Norm::Batch(*norm)).infer(&operands)?,
            QuantizedOp::AveragePool(pool) => Op::Pool(Pooling::Average(pool.clone())).infer(&operands)?,
            QuantizedOp::GlobalAveragePool => Op::Pool(Pooling::GlobalAverage).infer(&operands)?,
            QuantizedOp::Function(_) => Op::Shape(ShapeOp::Identity).infer(&operands)?,
        };
        let dtype = if self.y.is_some() { DType::U8 } else { DType::F32 };
        Ok(types.into_iter().map(|(_, shape)| (dtype, shape)).collect())
    }
}

/// (x, weight, bias?) of (x u8, weight i8, weight scale, bias?), as floats.
fn product<'v>(inputs: &[&Value], as_floats: &[&'v Value]) -> Result<Vec<&'v Value>, String> {
    if inputs.get(1).is_none_or(|weight| weight.dtype != DType::I8) {
        return Err("its weight must be i8".into());
    }
    match *as_floats {
        [x, weight, _] => Ok(vec![x, weight]),
        [x, weight, _, bias] => Ok(vec![x, weight, bias]),
        _ => Err(count(3, inputs)),
    }
}

/// The operands of an operator that takes `count`, and what is added to its result.
fn with_residual<'i, 'v>(
    inputs: &'i [&'v Value],
    operands: usize,
    residual: bool,
) -> Result<(&'i [&'v Value], Option<&'v Value>), String> {
    if inputs.len() != operands + usize::from(residual) {
        return Err(count(operands + usize::from(residual), inputs));
    }
    let (first, last) = inputs.split_at(operands);
    Ok((first, last.first().copied()))
}

fn result_and_residual(
    types: Vec<(DType, Shape)>,
    residual: Option<&Value>,
) -> Result<Vec<(DType, Shape)>, String> {
    if let (Some(residual), [(dtype, shape)]) = (residual, &types[..]) {
        same_shape(shape, residual)?;
        if residual.dtype != *dtype {
            return Err(format!("the residual is {}, the output {dtype}", residual.dtype));
        }
    }
    Ok(types)
}

fn same_shape(shape: &Shape, other: &Value) -> Result<(), String> {
    match other.shape == *shape {
        true => Ok(()),
        false => Err(format!("`{}` is {}, the output {shape}", other.name, other.shape)),
    }
}

fn count(wanted: usize, inputs: &[&Value]) -> String {
    format!("takes {wanted} inputs, not {}", inputs.len())
}
