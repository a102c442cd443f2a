//! Pooling: one row a member.

use super::row::MemberRow;
use super::unary::Autocast;

/// x [N, C, H, W] -> a number for each window of each channel
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The largest of each window; padding never wins
    Max(Pool),
    /// The mean of each window
    Average(AveragePool),
    /// [N, C, H, W] -> [N, C, 1, 1]: the mean of each channel
    GlobalAverage,
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

/// Attributes of [`Pooling::Average`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AveragePool {
    /// The windows.
    pub pool: Pool,
    /// Whether padding counts as zeros in the mean.
    pub count_include_pad: bool,
}

impl Pooling {
    /// The member's row.
    pub const fn row(&self) -> MemberRow {
        let onnx = match self {
            Pooling::Max(_) => "MaxPool",
            Pooling::Average(_) => "AveragePool",
            Pooling::GlobalAverage => "GlobalAveragePool",
        };
        MemberRow { onnx, autocast: Autocast::Follow }
    }
}
