//! Operators that are defined by others: formats have names for them, and an executor may compute them as what they consist
//! of ([`crate::passes::expand`]), which also gives their gradients.

use crate::op::Direction;

/// An operator that a graph of others defines.
#[derive(Clone, Debug, PartialEq)]
pub enum Composite {
    /// x - log(sum(exp(x))) along an axis
    LogSoftmax {
        /// The axis whose exponentials sum to one.
        axis: usize,
    },
    /// (x [N, C, ..], weight \[C\], bias \[C\]) -> each picture's groups of channels with mean 0 and variance 1, times weight plus
    /// bias
    GroupNormalization {
        /// Groups of channels, a divisor of C.
        groups: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// [`Composite::GroupNormalization`] with a group a channel
    InstanceNormalization {
        /// Added to the variance.
        epsilon: f32,
    },
    /// x with more places on both sides of its axes
    Pad {
        /// For each axis, places before and behind.
        pads: Vec<[usize; 2]>,
        /// What they hold.
        mode: PadMode,
    },
    /// x -> its parts along an axis, an output each
    Split {
        /// The axis.
        axis: usize,
        /// The sizes of the parts; together that of the axis.
        sizes: Vec<usize>,
    },
    /// x [N, C, H, W] of known size -> [N, C, h, w], each pixel a weighted mean of x's
    Resize {
        /// Height and width of the result.
        size: [usize; 2],
        /// The weights.
        resampling: Resampling,
        /// Where a pixel of the result lies in x.
        coordinates: Coordinates,
    },
    /// (x [T, N, F], weight [D, 3 H, F], recurrence [D, 3 H, H], bias [D, 6 H]) -> (y [T, D, N, H], last h [D, N, H]): ONNX's
    /// GRU with its own activations, from states of 0; gates in the order z, r, h; the bias is that of the weight and
    /// that of the recurrence. T is known.
    Gru {
        /// The order of the steps.
        direction: Direction,
        /// Whether the reset gate multiplies the product with the recurrence, as in PyTorch, and not the state before it.
        linear_before_reset: bool,
    },
}

/// What [`Composite::Pad`] puts around x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// A number.
    Constant(f32),
    /// x mirrored at its first and last place, which are not repeated.
    Reflect,
    /// The first and the last place again and again.
    Edge,
}

/// The weights of [`Composite::Resize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resampling {
    /// The nearest pixel; of two as near the first, ONNX's `round_prefer_floor`.
    Nearest,
    /// The nearest pixel; of two as near the second, ONNX's `round_prefer_ceil` and what PyTorch calls nearest-exact.
    NearestCeil,
    /// The pixel at the position rounded down: what PyTorch calls nearest.
    NearestFloor,
    /// Two pixels along each axis.
    Linear,
    /// Four pixels along each axis, the cubic with a = -0.75.
    Cubic,
}

/// Where pixel i of n lies among m.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// (i + 1/2) m / n - 1/2
    HalfPixel,
    /// i (m - 1) / (n - 1), 0 where n is 1
    AlignCorners,
    /// i m / n
    Asymmetric,
}

impl Composite {
    /// How many outputs it has.
    pub fn outputs(&self) -> usize {
        match self {
            Composite::Split { sizes, .. } => sizes.len(),
            Composite::Gru { .. } => 2,
            Composite::LogSoftmax { .. }
            | Composite::GroupNormalization { .. }
            | Composite::InstanceNormalization { .. }
            | Composite::Pad { .. }
            | Composite::Resize { .. } => 1,
        }
    }

    /// Its name here, in messages and in ONNX.
    pub fn name(&self) -> &'static str {
        match self {
            Composite::LogSoftmax { .. } => "LogSoftmax",
            Composite::GroupNormalization { .. } => "GroupNormalization",
            Composite::InstanceNormalization { .. } => "InstanceNormalization",
            Composite::Pad { .. } => "Pad",
            Composite::Split { .. } => "Split",
            Composite::Resize { .. } => "Resize",
            Composite::Gru { .. } => "GRU",
        }
    }
}
