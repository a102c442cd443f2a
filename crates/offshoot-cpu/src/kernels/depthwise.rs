//! Depthwise convolution: one filter a channel (groups = input channels = output channels), vectorized over channels.
//!
//! A tile of neighboring pixels is kept in registers, so that inputs and weights are loaded once for several
//! multiplications. Rows of the window that fall outside the picture are skipped; tiles at the left and right border
//! read zeros for what is outside. Every pixel sums in the order of the kernel's elements.

mod forward;
mod input_grad;
mod strips;
mod weight_grad;

pub use self::forward::forward;
pub use self::input_grad::input_grad;
pub use self::strips::{backward, forward_in_training, moment_rows, sum_parts, takes_strips};
pub use self::weight_grad::weight_grad;
use super::ConvShape;
use super::conv::{activations_len, weights_len};
use super::element::Element;
use super::layout::transpose;
use super::rows::{TASK, load};
use super::simd::Simd;
use super::window::inside;
use std::ops::Range;

/// Rows of `width` elements that make a task: so few that threads end together on the small pictures of deep layers.
fn rows_per_task(width: usize) -> usize {
    (TASK / 4 / width.max(1)).max(1)
}

/// Whether `shape` is a depthwise convolution that this module computes.
pub fn supports(shape: &ConvShape) -> bool {
    shape.groups == shape.in_c && shape.groups == shape.out_c && shape.fits()
}

/// Elements of a filter.
fn taps(shape: &ConvShape) -> usize {
    shape.kernel[0] * shape.kernel[1]
}

/// Packs OIHW weights (C, 1, R, S) for the kernels here, as R, S, C. Both slices have C R S elements.
///
/// # Panics
/// When they have not.
pub fn pack(shape: &ConvShape, weights: &[f32], packed: &mut [f32]) {
    shape.check();
    transpose(1, shape.out_c, taps(shape), weights, packed);
}

fn check(shape: &ConvShape, x: usize, weights: usize, y: usize) {
    assert_eq!([x, y], activations_len(shape), "the sizes of input and output are not {shape:?}");
    assert!(supports(shape), "not depthwise: {shape:?}");
    assert!(taps(shape) > 0, "an empty kernel in {shape:?}");
    assert_eq!(weights, weights_len(shape), "the weights' size is not {shape:?}");
}

/// The kernel rows of output row `oh` that lie in the picture.
#[inline(always)]
fn row_range(shape: &ConvShape, oh: usize) -> Range<usize> {
    inside(oh, shape.strides[0], shape.pads[0], shape.dilations[0], shape.kernel[0], shape.in_h)
}

/// The kernel columns of output column `ow` that lie in the picture.
#[inline(always)]
fn column_range(shape: &ConvShape, ow: usize) -> Range<usize> {
    inside(ow, shape.strides[1], shape.pads[1], shape.dilations[1], shape.kernel[1], shape.in_w)
}

/// The output columns whose whole window lies in the picture.
#[inline(always)]
fn interior(shape: &ConvShape) -> Range<usize> {
    let (stride, pad) = (shape.strides[1], shape.pads[1]);
    let first = pad.div_ceil(stride).min(shape.out_w);
    let width = (shape.kernel[1] - 1) * shape.dilations[1] + 1;
    let end = (shape.in_w + pad).checked_sub(width).map_or(0, |last| last / stride + 1);
    first..end.min(shape.out_w).max(first)
}

/// The input element of channel 0 under kernel element (r, s) of output (oh, ow), which must be in the picture.
#[inline(always)]
fn input(shape: &ConvShape, image: usize, (oh, ow): (usize, usize), (r, s): (usize, usize)) -> usize {
    let h = oh * shape.strides[0] + r * shape.dilations[0] - shape.pads[0];
    let w = ow * shape.strides[1] + s * shape.dilations[1] - shape.pads[1];
    ((image * shape.in_h + h) * shape.in_w + w) * shape.in_c
}

/// The output position from which kernel element `k` looks at input position `at` - pad, if there is one.
#[inline(always)]
fn output(at: usize, k: usize, stride: usize, dilation: usize, len: usize) -> Option<usize> {
    let offset = at.checked_sub(k * dilation)?;
    (offset.is_multiple_of(stride) && offset / stride < len).then_some(offset / stride)
}

/// The kernel size and stride if there is a fast path for them, else (0, 0).
fn fast_path(shape: &ConvShape) -> (usize, usize) {
    let square = shape.kernel[0] == shape.kernel[1] && shape.strides[0] == shape.strides[1];
    if square && shape.dilations == [1, 1] { (shape.kernel[0], shape.strides[0]) } else { (0, 0) }
}

/// A run of channels: the first, and how many (fewer than a vector at the end).
#[derive(Clone, Copy)]
struct Channels {
    first: usize,
    n: usize,
}

/// One product of a pixel's sum: the offsets of channel 0 in the source and in the weights.
#[derive(Clone, Copy)]
struct Tap {
    source: usize,
    weight: usize,
}

/// `init` plus the products at `taps`, for one pixel.
///
/// # Safety
/// `S` must be available; kernel elements and channels lie within the slices.
#[inline(always)]
unsafe fn weighted_sum<S: Simd, E: Element, const FULL: bool>(
    source: &[E],
    weights: &[f32],
    taps: &[Tap],
    init: S::V,
    c: Channels,
) -> S::V {
    // Safety: the caller's promise.
    unsafe {
        let mut sum = init;
        for tap in taps {
            let x = load::<S, _, FULL>(source.as_ptr().add(tap.source + c.first), c.n);
            let w = load::<S, _, FULL>(weights.as_ptr().add(tap.weight + c.first), c.n);
            sum = S::fma(x, w, sum);
        }
        sum
    }
}

/// Pixels of a tile: the widths of most networks' pictures are multiples of it.
const TILE: usize = 7;

#[cfg(test)]
mod tests;
