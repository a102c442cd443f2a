//! The kernels: plain functions on slices, NHWC. One module a kernel, generic over [`simd::Simd`] and, where they work on
//! activations, over the [`element::Element`] that these are stored in.
//!
//! They are public for this crate's tests and benchmarks and may change at any time. A safe function checks all that the unsafe
//! code under it relies on, once a call: the lengths of its slices (`size.rs`), the numbers of its shape ([`ConvShape::fits`]), what a
//! filter is packed for. A path that needs instructions is an [`simd::Isa`], which only the processor gives out.
#![allow(unsafe_code)]

pub(crate) mod attention;
pub mod backward;
pub mod batch_norm;
pub mod block;
pub mod ceiling;
pub mod conv;
pub mod conv_input_grad;
pub mod conv_weight_grad;
pub mod convert;
pub mod depthwise;
pub(crate) mod direct;
pub mod dropout;
pub(crate) mod dynamic;
pub mod element;
pub mod elementwise;
mod gather;
pub mod gemm;
mod grouped;
pub mod int8;
pub(crate) mod layer_norm;
pub mod layout;
pub(crate) mod lstm;
mod math;
mod parallel;
pub mod pointwise_backward;
pub mod pool;
mod prefetch;
pub(crate) mod quantize;
pub(crate) mod reduce;
mod rows;
pub(crate) mod shape;
pub mod simd;
pub(crate) mod size;
pub mod softmax;
pub mod source;
pub(crate) mod strided;
mod team;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tile;
mod tiled;
pub(crate) mod update;
mod window;
mod winograd;

pub(crate) use parallel::{holding_a_lock, together};
pub use rows::Place;

/// The shape of a two-dimensional convolution, as in ONNX `Conv`. Activations are NHWC, weights OIHW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Pictures.
    pub batch: usize,
    /// Input height in pixels.
    pub in_h: usize,
    /// Input width in pixels.
    pub in_w: usize,
    /// Input channels.
    pub in_c: usize,
    /// Output height in pixels.
    pub out_h: usize,
    /// Output width in pixels.
    pub out_w: usize,
    /// Output channels.
    pub out_c: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub strides: [usize; 2],
    /// Zeros around the picture: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Vertical and horizontal distance between the kernel's elements.
    pub dilations: [usize; 2],
    /// Groups; input and output channels are multiples of it.
    pub groups: usize,
}

impl ConvShape {
    /// Whether it is the shape of a convolution, and all that a kernel computes from its numbers fits an `isize`.
    pub fn fits(&self) -> bool {
        let &ConvShape {
            batch,
            in_h,
            in_w,
            in_c,
            out_h,
            out_w,
            out_c,
            kernel,
            strides,
            pads,
            dilations,
            groups,
        } = self;
        let along = |axis: usize, sizes: [usize; 2]| {
            size::reach(sizes, [pads[axis], pads[axis + 2]], [kernel[axis], strides[axis], dilations[axis]])
        };
        let (Some(rows), Some(columns)) = (along(0, [in_h, out_h]), along(1, [in_w, out_w])) else {
            return false;
        };
        strides.iter().chain(&dilations).all(|&step| step > 0)
            && groups > 0
            && in_c.is_multiple_of(groups)
            && out_c.is_multiple_of(groups)
            && size::product([batch, rows, columns, in_c.max(out_c)]).is_some()
            && size::product([out_c, in_c, kernel[0], kernel[1]]).is_some()
    }

    /// # Panics
    /// When it does not [fit](ConvShape::fits).
    #[track_caller]
    fn check(&self) {
        assert!(self.fits(), "no convolution: {self:?}");
    }

    /// The product of a matrix of `m` rows of `k` and one of `k` rows of `n`, as the 1x1 convolution of a row of pixels.
    pub fn of_matrices(m: usize, k: usize, n: usize) -> ConvShape {
        ConvShape {
            batch: 1,
            in_h: 1,
            in_w: m,
            in_c: k,
            out_h: 1,
            out_w: m,
            out_c: n,
            kernel: [1, 1],
            strides: [1, 1],
            pads: [0; 4],
            dilations: [1, 1],
            groups: 1,
        }
    }
}

/// What a kernel does to its result before it stores it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// Nothing.
    None,
    /// max(0, y).
    Relu,
    /// y clamped to [min, max]; ReLU6 is `Clip { min: 0, max: 6 }`.
    Clip {
        /// The lower bound.
        min: f32,
        /// The upper bound.
        max: f32,
    },
}

impl Activation {
    /// The activation as a clamp: (lower, upper), infinite where there is no bound.
    pub fn bounds(self) -> (f32, f32) {
        match self {
            Activation::None => (f32::NEG_INFINITY, f32::INFINITY),
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Clip { min, max } => (min, max),
        }
    }

    /// Where the gradient is blocked: at or below the first, at or above the second (PyTorch's `threshold` and
    /// `hardtanh` backward). A NaN compares as false, so a bound that does not exist never blocks.
    pub fn gate(self) -> (f32, f32) {
        match self {
            Activation::None => (f32::NAN, f32::NAN),
            Activation::Relu => (0.0, f32::NAN),
            Activation::Clip { min, max } => (min, max),
        }
    }
}
