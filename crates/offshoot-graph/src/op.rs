//! The operators. Names and meaning follow ONNX opset 17; PyTorch decides where ONNX is silent.
//!
//! # Integers in a graph
//!
//! A quantized network says what is to be computed in integers by what stands between [`Op::QuantizeLinear`] (Q) and
//! [`Op::DequantizeLinear`] (DQ), as ONNX does ("QDQ"): each operator is the float one, and an executor that knows the
//! pattern computes it on the integers. In the canonical form, which `offshoot-quant` writes and ONNX Runtime reads,
//!
//! - an activation is `DQ(Q(x, s, z), s, z)` with one scale and one zero point a tensor: u8 with any zero point, or i8
//!   with zero point 0 where the target asks for symmetric activations. Q and DQ read the same two constants;
//! - a weight is a parameter of i8 behind `DQ(w, s, z)`, z = 0, with one scale, or one for each output channel: axis 0 of
//!   the filter of a Conv, axis 0 of the matrix of a Gemm with `trans_b` (axis 1 without). It holds -127..127, or
//!   -64..63 where the target's products of two bytes saturate in 16 bits;
//! - a bias is a parameter of i32 behind `DQ(b, s, z)`, z = 0, whose scale for each channel is the scale of the
//!   activation times that of the weight, rounded to f32 once; or it is a float parameter as it was;
//! - `DQ, DQ [, DQ] -> Conv | Gemm [-> Relu | Clip] -> Q` is a product of integers and one requantization;
//! - `DQ, DQ -> Add [-> Relu | Clip] -> Q` is a sum of integers under two scales;
//! - `DQ -> MaxPool | Flatten | Reshape | Transpose | Slice -> Q` with the same constants on both sides moves integers;
//! - `DQ -> AveragePool | GlobalAveragePool -> Q` takes means of integers; `DQ, .. -> Concat -> Q` rescales where the
//!   constants differ;
//! - what has no Q behind it (the logits) or no DQ before it (operators kept in float) is float on that side.
//!
//! In dynamic int8 only weights are integers in the file: [`Op::DynamicQuantizeMatMul`] finds the scale of what it multiplies them with
//! at each run.
//!
//! An executor may compute each of these patterns on integers where activations have one scale.

mod binary;
mod composite;
mod norm;
mod pool;
mod recurrent;
mod reduce;
mod row;
mod shape;
mod unary;
mod update;

pub use binary::{Binary, BinaryRow};
pub use composite::{Composite, Coordinates, PadMode, Resampling};
pub use norm::{BatchNormalization, LayerNormalization, Norm};
pub use pool::{AveragePool, Pool, Pooling};
pub use recurrent::{Direction, Recurrent, RecurrentRow};
pub use reduce::{Reduce, ReduceRow};
pub use row::MemberRow;
pub use shape::ShapeOp;
pub use unary::{Alpha, Attribute, Autocast, Derivative, Fixed, Name, Range, Row, Unary};
pub use update::{AdamRates, Clip as GradientClip, RATES, SgdRates, UpdateOp};

use std::fmt::Debug;

use crate::graph::Value;
use crate::shape::Shape;
use crate::tensor::DType;

/// What the nodes of a graph compute: [`Op`], or the set that an executor makes of it.
pub trait Operator: Clone + Debug + PartialEq {
    /// The operator's name, for people and for error messages.
    fn name(&self) -> &'static str;

    /// The types of the outputs.
    ///
    /// # Errors
    /// Why `inputs` do not fit the operator.
    fn infer(&self, inputs: &[&Value]) -> Result<Vec<(DType, Shape)>, String>;

    /// Multiply-adds of convolutions, matrix products and their gradients as they are defined (no Winograd), for operands
    /// of these shapes. 0 for other operators.
    fn multiply_adds(&self, inputs: &[Vec<usize>], outputs: &[Vec<usize>]) -> u64;
}

/// What a node computes. Matches on it have no wildcard arm: add an operator, and the compiler lists each module
/// that must handle it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// (x [N, C, H, W], weight [K, C / group, R, S], bias \[K\]?) -> [N, K, H', W']
    Conv(Conv),
    /// (a, b, c?) -> op(a) op(b) + c, with a and b of rank 2
    Gemm(Gemm),
    /// A normalization of x
    Norm(Norm),
    /// A function of each element of x
    Unary(Unary),
    /// A function of two elements, broadcast as NumPy does
    Binary(Binary),
    /// A reduction of x along an axis, which stays with one place
    Reduce {
        /// The function.
        op: Reduce,
        /// The axis.
        axis: usize,
    },
    /// The windows of x
    Pool(Pooling),
    /// The elements of x in other places
    Shape(ShapeOp),
    /// (a, b) -> op(a) op(b), [.., m, k] times [.., k, n], with the same leading axes in both
    MatMul(MatMul),
    /// x -> x; training makes it [`TrainOp::Dropout`]
    Dropout {
        /// The probability with which an element becomes zero in training.
        ratio: f32,
    },
    /// exp(x) / sum(exp(x)) along an axis
    Softmax {
        /// The axis that sums to one.
        axis: usize,
    },
    /// (logits [N, C], labels i64 \[N\] or targets f32 [N, C], class weights \[C\]?) -> scalar, as `torch.nn.CrossEntropyLoss`: with
    /// labels the weighted mean, with targets the sum over N
    SoftmaxCrossEntropyLoss(CrossEntropy),
    /// What only training computes in the forward pass.
    Train(TrainOp),
    /// What only training computes in the backward pass.
    Grad(GradOp),
    /// What training does to the values that it keeps.
    Update(UpdateOp),
    /// (x f32, scale f32, zero_point u8 or i8) -> saturate(round(x / scale) + zero_point) of zero_point's type, rounded half to
    /// even. The scale and the zero point are scalars, or have a number for each place of `axis`.
    QuantizeLinear {
        /// The axis of x that the scale goes along; 0 when it is a scalar.
        axis: usize,
    },
    /// (x u8, i8 or i32, scale f32, zero_point of x's type) -> (x - zero_point) * scale, f32. The scale and the zero point as in
    /// [`Op::QuantizeLinear`].
    DequantizeLinear {
        /// The axis of x that the scale goes along; 0 when it is a scalar.
        axis: usize,
    },
    /// (x f32 [M, K], weight i8, scale f32 \[N\], bias f32 \[N\]?) -> [M, N], f32: q, s, z = ONNX's DynamicQuantizeLinear(x), the
    /// bytes of all of x under one scale; (q - z) weight in integers; times s scale; plus bias. ONNX Runtime has it under
    /// this name, ONNX as several nodes. A picture's result depends on what else is in its batch.
    DynamicQuantizeMatMul {
        /// Whether the weight is [N, K], as PyTorch's `Linear` has it, and not [K, N].
        trans_b: bool,
    },
    /// Steps over time
    Recurrent(Recurrent),
    /// What networks over tokens compute and those over pictures do not.
    Sequence(SequenceOp),
    /// What a graph of other operators defines.
    Composite(Composite),
}

/// Operators on tokens: numbers of rows in a table, i64. A boolean is an f32 that is 1 or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SequenceOp {
    /// (table [R, ..], indices i64 [..]) -> the table's rows in the indices' places, as `torch.nn.Embedding`. An index
    /// below 0 counts from the end; one outside of the table is an error of the run.
    Gather,
    /// x -> i64 \[d\]: 0, 1, .., d - 1, where d is the size of x's axis. x's elements are not looked at.
    Positions {
        /// The axis that is counted.
        axis: usize,
    },
    /// x i64 -> 1 where an element is `number`, else 0
    Equal {
        /// What is looked for.
        number: i64,
    },
    /// x i64 -> the nearest f32
    ToFloat,
    /// (condition, a, b) -> a where the condition is not 0, else b; broadcast as NumPy does
    Where,
}

impl SequenceOp {
    fn name(self) -> &'static str {
        match self {
            SequenceOp::Gather => "Gather",
            SequenceOp::Positions { .. } => "Positions",
            SequenceOp::Equal { .. } => "Equal",
            SequenceOp::ToFloat => "ToFloat",
            SequenceOp::Where => "Where",
        }
    }
}

/// Attributes of a 2-d convolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Rows and columns from one output to the next.
    pub strides: [usize; 2],
    /// Zeros around the input: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Rows and columns from one kernel element to the next.
    pub dilations: [usize; 2],
    /// Groups of channels that do not see each other.
    pub group: usize,
}

impl Default for Conv {
    fn default() -> Conv {
        Conv { strides: [1, 1], pads: [0; 4], dilations: [1, 1], group: 1 }
    }
}

/// Attributes of [`Op::Gemm`] (ONNX's alpha and beta are 1; the reader folds others into the weights).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Gemm {
    /// Whether a is used transposed.
    pub trans_a: bool,
    /// Whether b is used transposed. PyTorch's `Linear` is `trans_b`.
    pub trans_b: bool,
}

/// Attributes of [`Op::MatMul`], which ONNX writes as Transposes of the last two axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct MatMul {
    /// Whether a is used with its last two axes exchanged.
    pub trans_a: bool,
    /// Whether b is used with its last two axes exchanged.
    pub trans_b: bool,
}

/// Attributes of [`Unary::HardSigmoid`]. PyTorch's is 1/6 and 1/2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardSigmoid {
    /// The slope.
    pub alpha: f32,
    /// The value at 0.
    pub beta: f32,
}

/// Bounds of [`Unary::Clip`]; infinities where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The lower bound.
    pub min: f32,
    /// The upper bound.
    pub max: f32,
}

impl Clip {
    /// No bounds.
    pub const NONE: Clip = Clip { min: f32::NEG_INFINITY, max: f32::INFINITY };
}

/// Attributes of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// The fraction of the target spread over all classes, 0..1.
    pub label_smoothing: f32,
}

/// Forward operators that only a training graph has.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainOp {
    /// (x, running_mean, running_var) -> (mean, 1 / sqrt(var + epsilon), new running_mean, new running_var), each \[C\]
    BatchNormStats(BatchNormalization),
    /// (x, mean, inv_std, weight, bias) -> (x - mean) * inv_std * weight + bias
    BatchNormApply,
    /// var -> 1 / sqrt(var + epsilon)
    InvStd {
        /// Added to the variance.
        epsilon: f32,
    },
    /// (x [N, ..], keys i64 \[N\]) -> x / (1 - ratio) where kept, else 0. Picture n's mask depends on keys\[n\] and `layer` only.
    Dropout {
        /// The probability with which an element becomes zero.
        ratio: f32,
        /// Tells one dropout of a network from another.
        layer: u64,
    },
    /// x -> x rounded to another float type; its gradient is rounded to x's
    Cast {
        /// The type of the result.
        to: DType,
    },
}

/// Backward operators: what [`crate::passes::differentiate`] puts in a graph. `dy` is the gradient of the output.
#[derive(Clone, Debug, PartialEq)]
pub enum GradOp {
    /// (dy, weight) -> dx of `shape`
    ConvInput {
        /// The convolution's attributes.
        conv: Conv,
        /// x's shape.
        shape: Shape,
    },
    /// (dy, x) -> dweight of `shape`
    ConvWeight {
        /// The convolution's attributes.
        conv: Conv,
        /// The weight's shape.
        shape: Shape,
    },
    /// dy [N, C, ..] -> \[C\], summed over all but axis 1
    SumToChannels,
    /// (dy, x, mean, inv_std) -> (dweight, dbias), each \[C\]
    BatchNormReduce,
    /// (dy, x, mean, inv_std, weight, dweight, dbias) -> dx, where mean and inv_std are x's own
    BatchNormInput,
    /// (dy, inv_std, weight) -> dx, where mean and inv_std are constants
    BatchNormScale,
    /// (dy, x or y, as the member's row says) -> dx
    Unary(Unary),
    /// (dy, a, b) -> the gradient of operand `slot`, in dy's shape: what the operands' broadcast shapes need is
    /// summed by [`GradOp::ReduceTo`]
    Binary {
        /// The function: [`Binary::Max`], [`Binary::Min`] or [`Binary::Pow`]. The others' gradients are operators.
        op: Binary,
        /// 0 for a, 1 for b.
        slot: usize,
    },
    /// (dy, x, y) -> dx
    Reduce {
        /// The function.
        op: Reduce,
        /// The axis.
        axis: usize,
    },
    /// (dy, indices) -> dx of `shape`: each row of the table takes the sum of the gradients of its places
    Gather {
        /// The table's shape.
        shape: Shape,
    },
    /// (dy, x) -> (dweight, dbias), each \[C\]
    LayerNormReduce(LayerNormalization),
    /// (dy, x, weight) -> dx
    LayerNormInput(LayerNormalization),
    /// dy -> dx of `shape`: dy from index `start` of `axis` on, zeros elsewhere
    Slice {
        /// The axis.
        axis: usize,
        /// The first index.
        start: usize,
        /// x's shape.
        shape: Shape,
    },
    /// (dy, x) -> dx; the first largest element of a window takes it
    MaxPool(Pool),
    /// dy -> dx of `shape`
    AveragePool {
        /// The operator's attributes.
        pool: AveragePool,
        /// x's shape.
        shape: Shape,
    },
    /// dy [N, C, 1, 1] -> dx of `shape`
    GlobalAveragePool {
        /// x's shape.
        shape: Shape,
    },
    /// dy -> the same elements under `shape`
    Reshape {
        /// x's shape.
        shape: Shape,
    },
    /// dy -> `shape`, summed over the axes that were broadcast
    ReduceTo {
        /// The operand's shape.
        shape: Shape,
    },
    /// (dy, keys) -> dx
    Dropout {
        /// The probability with which an element becomes zero.
        ratio: f32,
        /// Tells one dropout of a network from another.
        layer: u64,
    },
    /// (dy, y) -> dx
    Softmax {
        /// The axis that sums to one.
        axis: usize,
    },
    /// (dloss, logits, labels, class weights?) -> dlogits
    SoftmaxCrossEntropyLoss(CrossEntropy),
    /// (dy, x, scale, zero_point) -> dy where the quantized x did not saturate, else 0: the straight-through gradient of a
    /// Q and the DQ behind it, as PyTorch's `fake_quantize`
    QuantizeLinear {
        /// The axis of x that the scale goes along.
        axis: usize,
    },
}

impl Op {
    /// The operator's name, for people and for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv(_) => "Conv",
            Op::Gemm(_) => "Gemm",
            Op::Norm(norm) => norm.row().onnx,
            Op::Unary(unary) => unary.row().name,
            Op::Binary(binary) => binary.row().onnx,
            Op::Reduce { op, axis: _ } => op.row().onnx,
            Op::Pool(pooling) => pooling.row().onnx,
            Op::Shape(shape) => shape.row().onnx,
            Op::MatMul(_) => "MatMul",
            Op::Dropout { .. } => "Dropout",
            Op::Softmax { .. } => "Softmax",
            Op::SoftmaxCrossEntropyLoss(_) => "SoftmaxCrossEntropyLoss",
            Op::QuantizeLinear { .. } => "QuantizeLinear",
            Op::DequantizeLinear { .. } => "DequantizeLinear",
            Op::DynamicQuantizeMatMul { .. } => "DynamicQuantizeMatMul",
            Op::Recurrent(recurrent) => recurrent.row().onnx,
            Op::Sequence(op) => op.name(),
            Op::Composite(op) => op.name(),
            Op::Train(op) => op.name(),
            Op::Grad(op) => op.name(),
            Op::Update(op) => op.name(),
        }
    }

    /// How many outputs a node of it has.
    pub fn outputs(&self) -> usize {
        match self {
            Op::Train(TrainOp::BatchNormStats(_)) => 4,
            Op::Grad(GradOp::BatchNormReduce | GradOp::LayerNormReduce(_)) | Op::Recurrent(_) => 2,
            Op::Update(op) => op.kept().max(1),
            Op::Composite(op) => op.outputs(),
            Op::Sequence(_) | Op::Train(_) | Op::Grad(_) => 1,
            Op::Conv(_)
            | Op::Gemm(_)
            | Op::Norm(_)
            | Op::Pool(_)
            | Op::Shape(_)
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Reduce { .. }
            | Op::MatMul(_)
            | Op::Dropout { .. }
            | Op::Softmax { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeMatMul { .. } => 1,
        }
    }
}

impl TrainOp {
    fn name(&self) -> &'static str {
        match self {
            TrainOp::BatchNormStats(_) => "BatchNormStats",
            TrainOp::BatchNormApply => "BatchNormApply",
            TrainOp::InvStd { .. } => "InvStd",
            TrainOp::Dropout { .. } => "TrainDropout",
            TrainOp::Cast { .. } => "Cast",
        }
    }
}

impl GradOp {
    fn name(&self) -> &'static str {
        match self {
            GradOp::ConvInput { .. } => "Grad.ConvInput",
            GradOp::ConvWeight { .. } => "Grad.ConvWeight",
            GradOp::SumToChannels => "Grad.SumToChannels",
            GradOp::BatchNormReduce => "Grad.BatchNormReduce",
            GradOp::BatchNormInput => "Grad.BatchNormInput",
            GradOp::BatchNormScale => "Grad.BatchNormScale",
            GradOp::Unary(unary) => unary.row().gradient,
            GradOp::Binary { op: _, slot: _ } => "Grad.Binary",
            GradOp::Reduce { op: _, axis: _ } => "Grad.Reduce",
            GradOp::Gather { .. } => "Grad.Gather",
            GradOp::LayerNormReduce(_) => "Grad.LayerNormReduce",
            GradOp::LayerNormInput(_) => "Grad.LayerNormInput",
            GradOp::Slice { .. } => "Grad.Slice",
            GradOp::MaxPool(_) => "Grad.MaxPool",
            GradOp::AveragePool { .. } => "Grad.AveragePool",
            GradOp::GlobalAveragePool { .. } => "Grad.GlobalAveragePool",
            GradOp::Reshape { .. } => "Grad.Reshape",
            GradOp::ReduceTo { .. } => "Grad.ReduceTo",
            GradOp::Dropout { .. } => "Grad.Dropout",
            GradOp::Softmax { .. } => "Grad.Softmax",
            GradOp::SoftmaxCrossEntropyLoss(_) => "Grad.SoftmaxCrossEntropyLoss",
            GradOp::QuantizeLinear { .. } => "Grad.QuantizeLinear",
        }
    }
}

impl Operator for Op {
    fn name(&self) -> &'static str {
        Op::name(self)
    }

    fn infer(&self, inputs: &[&Value]) -> Result<Vec<(DType, Shape)>, String> {
        crate::infer::infer(self, inputs)
    }

    fn multiply_adds(&self, inputs: &[Vec<usize>], outputs: &[Vec<usize>]) -> u64 {
        crate::cost::multiply_adds(self, inputs, outputs)
    }
}
