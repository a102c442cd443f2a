//! The operators. Names and meaning follow ONNX opset 17; PyTorch decides where ONNX is silent.

use crate::shape::Shape;
use crate::tensor::DType;

/// What a node computes. Matches on it have no wildcard arm: add an operator, and the compiler lists each room
/// that must learn it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// (x [N, C, H, W], weight [K, C / group, R, S], bias [K]?) -> [N, K, H', W']
    Conv(Conv),
    /// (a, b, c?) -> op(a) op(b) + c, with a and b of rank 2
    Gemm(Gemm),
    /// (x [N, C, ..], weight [C], bias [C], running_mean [C], running_var [C]) -> x's shape, with the running statistics
    BatchNormalization(BatchNormalization),
    /// max(x, 0)
    Relu,
    /// min(max(x, min), max)
    Clip(Clip),
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// a + b, broadcast as NumPy does
    Add,
    /// a * b, broadcast as NumPy does
    Mul,
    /// The largest of each window; padding never wins
    MaxPool(Pool),
    /// The mean of each window
    AveragePool(AveragePool),
    /// [N, C, H, W] -> [N, C, 1, 1]
    GlobalAveragePool,
    /// [d0, .., dn] -> [d0 * .. * d(axis-1), d(axis) * .. * dn]
    Flatten {
        /// The first axis of the second part.
        axis: usize,
    },
    /// x -> x
    Identity,
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
    /// (logits [N, C], labels i64 [N] or targets f32 [N, C], class weights [C]?) -> scalar, as `torch.nn.CrossEntropyLoss`: with
    /// labels the weighted mean, with targets the sum over N
    SoftmaxCrossEntropyLoss(CrossEntropy),
    /// What only training computes on the way forward.
    Train(TrainOp),
    /// What only training computes on the way back.
    Grad(GradOp),
    /// Several operators in one pass over memory, made by `fuse` for an executor.
    Fused(FusedOp),
}

/// Attributes of a 2-d convolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Rows and columns from one output to the next.
    pub strides: [usize; 2],
    /// Zeros around the input: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Rows and columns from one tap to the next.
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

/// Attributes of [`Op::BatchNormalization`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormalization {
    /// Added to the variance.
    pub epsilon: f32,
    /// The part of the *batch's* statistics in the new running ones: PyTorch's momentum, 1 minus ONNX's.
    pub momentum: f32,
}

/// Bounds of [`Op::Clip`]; infinities where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The lower bound.
    pub min: f32,
    /// The upper bound.
    pub max: f32,
}

/// Windows of a pooling operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub strides: [usize; 2],
    /// Rows and columns around the input: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Whether a last window that only starts inside counts.
    pub ceil_mode: bool,
}

/// Attributes of [`Op::AveragePool`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AveragePool {
    /// The windows.
    pub pool: Pool,
    /// Whether padding counts as zeros in the mean.
    pub count_include_pad: bool,
}

/// Attributes of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// The part of the target spread over all classes, 0..1.
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
    /// (x [N, ..], keys i64 [N]) -> x / (1 - ratio) where kept, else 0. Picture n's mask depends on keys\[n\] and `layer` only.
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
    /// dy [N, C, ..] -> [C], summed over all but axis 1
    SumToChannels,
    /// (dy, x, mean, inv_std) -> (dweight, dbias), each \[C\]
    BatchNormReduce,
    /// (dy, x, mean, inv_std, weight, dweight, dbias) -> dx, where mean and inv_std are x's own
    BatchNormInput,
    /// (dy, inv_std, weight) -> dx, where mean and inv_std are constants
    BatchNormScale,
    /// (dy, y) -> dx
    Relu,
    /// (dy, y) -> dx; zero at the bounds, as PyTorch's `hardtanh`
    Clip(Clip),
    /// (dy, x) -> dx
    Sigmoid,
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
}

/// Several operators in one.
#[derive(Clone, Debug, PartialEq)]
pub enum FusedOp {
    /// (x, weight, bias, residual?) -> activation(conv + residual)
    Conv {
        /// The convolution.
        conv: Conv,
        /// Whether a fourth input is added.
        residual: bool,
        /// Applied last.
        activation: Activation,
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

impl Op {
    /// The operator's name, for people and for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv(_) => "Conv",
            Op::Gemm(_) => "Gemm",
            Op::BatchNormalization(_) => "BatchNormalization",
            Op::Relu => "Relu",
            Op::Clip(_) => "Clip",
            Op::Sigmoid => "Sigmoid",
            Op::Add => "Add",
            Op::Mul => "Mul",
            Op::MaxPool(_) => "MaxPool",
            Op::AveragePool(_) => "AveragePool",
            Op::GlobalAveragePool => "GlobalAveragePool",
            Op::Flatten { .. } => "Flatten",
            Op::Identity => "Identity",
            Op::Dropout { .. } => "Dropout",
            Op::Softmax { .. } => "Softmax",
            Op::SoftmaxCrossEntropyLoss(_) => "SoftmaxCrossEntropyLoss",
            Op::Train(op) => op.name(),
            Op::Grad(op) => op.name(),
            Op::Fused(op) => op.name(),
        }
    }

    /// How many outputs a node of it has.
    pub fn outputs(&self) -> usize {
        match self {
            Op::Train(TrainOp::BatchNormStats(_)) => 4,
            Op::Grad(GradOp::BatchNormReduce) | Op::Fused(FusedOp::BatchNormReduce { .. }) => 2,
            Op::Train(_) | Op::Grad(_) | Op::Fused(_) => 1,
            Op::Conv(_)
            | Op::Gemm(_)
            | Op::BatchNormalization(_)
            | Op::Relu
            | Op::Clip(_)
            | Op::Sigmoid
            | Op::Add
            | Op::Mul
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool
            | Op::Flatten { .. }
            | Op::Identity
            | Op::Dropout { .. }
            | Op::Softmax { .. }
            | Op::SoftmaxCrossEntropyLoss(_) => 1,
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
            GradOp::Relu => "Grad.Relu",
            GradOp::Clip(_) => "Grad.Clip",
            GradOp::Sigmoid => "Grad.Sigmoid",
            GradOp::MaxPool(_) => "Grad.MaxPool",
            GradOp::AveragePool { .. } => "Grad.AveragePool",
            GradOp::GlobalAveragePool { .. } => "Grad.GlobalAveragePool",
            GradOp::Reshape { .. } => "Grad.Reshape",
            GradOp::ReduceTo { .. } => "Grad.ReduceTo",
            GradOp::Dropout { .. } => "Grad.Dropout",
            GradOp::Softmax { .. } => "Grad.Softmax",
            GradOp::SoftmaxCrossEntropyLoss(_) => "Grad.SoftmaxCrossEntropyLoss",
        }
    }
}

impl FusedOp {
    fn name(&self) -> &'static str {
        match self {
            FusedOp::Conv { .. } => "Fused.Conv",
            FusedOp::BatchNormApply { .. } => "Fused.BatchNormApply",
            FusedOp::BatchNormReduce { .. } => "Fused.BatchNormReduce",
            FusedOp::BatchNormInput { .. } => "Fused.BatchNormInput",
        }
    }
}
