//! x times weights of bytes, where x is quantized by its own range: ONNX's DynamicQuantizeLinear and MatMulInteger.

use super::ConvShape;
use super::int8::conv::{ByteFilter, Numbers, Quantized, product};
use super::parallel::{self, Shared};
use super::quantize::{Scales, quantize};
use super::rows::TASK;
use super::simd::{Isa, Kernel, Simd, dispatch};

/// Weights of bytes \[n, k\], packed.
#[derive(Clone, Debug)]
pub(crate) struct ByteMatrix {
    filter: ByteFilter,
}

impl ByteMatrix {
    /// Packs `weight` \[n, k\].
    ///
    /// # Panics
    /// When it has not that many elements.
    pub(crate) fn pack(isa: Isa, weight: &[i8], [n, k]: [usize; 2]) -> ByteMatrix {
        // What the weights and the bytes they are multiplied with stand for is known when they are.
        let numbers = Numbers { weights: weight, bias: &vec![0; n], scale: &vec![1.0; n], zero_point: 0 };
        ByteMatrix { filter: ByteFilter::pack(isa, &ConvShape::of_matrices(1, k, n), &numbers) }
    }
}

/// The operands of [`dynamic_product`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct DynamicProduct<'a> {
    /// \[m, k\]
    pub x: &'a [f32],
    /// \[n, k\]
    pub weight: &'a ByteMatrix,
    /// The scale of each row of the weight.
    pub scale: &'a [f32],
    /// One for each row of the weight.
    pub bias: Option<&'a [f32]>,
}

/// y \[m, n\] = x times the transposed weight, from the bytes of both, plus bias; `bytes` become those of x.
///
/// # Panics
/// When a slice has not the size that the others say.
pub(crate) fn dynamic_product(isa: Isa, operands: &DynamicProduct<'_>, bytes: &mut [u8], y: &mut [f32]) {
    let DynamicProduct { x, weight, scale, bias } = *operands;
    assert_eq!(bytes.len(), x.len(), "bytes of x");
    assert!(bias.is_none_or(|bias| bias.len() == scale.len()), "bias of {} columns", scale.len());
    let (x_scale, zero_point) = scale_of(isa, x);
    quantize(isa, x, Scales::new(&[x_scale], &[zero_point], 1), bytes);
    product(isa, Quantized { bytes, scale: x_scale, zero_point }, &weight.filter, scale, bias, y);
}

/// The scale and zero point of DynamicQuantizeLinear: the range of x, and 0, on 0..255.
pub(super) fn scale_of(isa: Isa, x: &[f32]) -> (f32, u8) {
    let tasks = x.len().div_ceil(TASK);
    let mut ranges = vec![[0.0f32; 2]; tasks];
    let shared = Shared(ranges.as_mut_ptr());
    parallel::for_each_task(tasks, x.len(), |task| {
        let part = &x[task * TASK..x.len().min((task + 1) * TASK)];
        // Safety: each task has an element of its own.
        unsafe { *shared.at(task) = dispatch(isa, Extremes(part)) };
    });
    let [low, high] = ranges.iter().fold([0.0f32; 2], |[low, high], r| [low.min(r[0]), high.max(r[1])]);
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    let zero_point = (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even();
    (scale, zero_point as u8)
}

/// The smallest and the largest of some numbers and 0.
struct Extremes<'a>(&'a [f32]);

impl Kernel for Extremes<'_> {
    type Output = [f32; 2];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [f32; 2] {
        let (mut low, mut high) = ([0.0f32; 16], [0.0f32; 16]);
        let (chunks, rest) = self.0.as_chunks::<16>();
        for chunk in chunks {
            for lane in 0..16 {
                low[lane] = if chunk[lane] < low[lane] { chunk[lane] } else { low[lane] };
                high[lane] = if chunk[lane] > high[lane] { chunk[lane] } else { high[lane] };
            }
        }
        let mut range = [0.0f32; 2];
        for lane in 0..16 {
            range = [range[0].min(low[lane]), range[1].max(high[lane])];
        }
        for &x in rest {
            range = [range[0].min(x), range[1].max(x)];
        }
        range
    }
}
