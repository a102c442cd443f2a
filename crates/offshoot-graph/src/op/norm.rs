//! Normalizations: one row a member. Those of groups of channels are [`super::Composite`].

use super::row::MemberRow;
use super::unary::Autocast;

/// x -> (x - mean) / sqrt(var + epsilon) * weight + bias
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// (x [N, C, ..], weight \[C\], bias \[C\], running_mean \[C\], running_var \[C\]) -> x's shape, with the running statistics
    Batch(BatchNormalization),
    /// (x [.., C], weight \[C\], bias \[C\]) -> x's shape, with the mean and the biased variance of each row of C
    Layer(LayerNormalization),
}

/// Attributes of [`Norm::Batch`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormalization {
    /// Added to the variance.
    pub epsilon: f32,
    /// The fraction of the *batch's* statistics in the new running ones: PyTorch's momentum, 1 minus ONNX's.
    pub momentum: f32,
}

/// Attributes of [`Norm::Layer`], over the last axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormalization {
    /// Added to the variance.
    pub epsilon: f32,
}

impl Norm {
    /// The member's row.
    pub const fn row(&self) -> MemberRow {
        let (onnx, autocast) = match self {
            Norm::Batch(_) => ("BatchNormalization", Autocast::Follow),
            Norm::Layer(_) => ("LayerNormalization", Autocast::Full),
        };
        MemberRow { onnx, autocast }
    }
}
