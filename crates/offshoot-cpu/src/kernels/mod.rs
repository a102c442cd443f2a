//! The kernels: plain functions on slices, NHWC. One file a kernel, generic over [`simd::Simd`] and, where they work on
//! activations, over the [`element::Element`] that these are stored in.
#![allow(unsafe_code)]

pub mod backward;
pub mod batch_norm;
pub mod block;
pub mod ceiling;
pub mod conv;
pub mod conv_input_grad;
pub mod conv_weight_grad;
pub mod convert;
pub mod depthwise;
pub mod dropout;
pub mod dynamic;
pub mod element;
pub mod elementwise;
mod gather;
pub mod gemm;
pub mod int8;
pub mod layer_norm;
pub mod layout;
pub mod lstm;
pub mod math;
mod parallel;
pub mod pointwise_backward;
pub mod pool;
mod prefetch;
pub mod quantize;
pub mod reduce;
mod rows;
pub mod shape;
pub mod simd;
pub mod softmax;
pub mod source;
mod team;
#[cfg(test)]
mod testing;
mod tile;
mod window;
mod winograd;

pub(crate) use parallel::together;
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
