//! Between floats and the integers that stand for them: ONNX's QuantizeLinear and DequantizeLinear.

use super::element::Stored;
use super::int8::elementwise::quantize_bytes;
use super::rows::{Shared, TASK, for_chunks, rows_per_task};
use super::simd::Isa;

/// An integer that stands for a float.
pub(crate) trait Integer: Stored {
    /// Its number.
    fn to_i32(self) -> i32;
}

/// What floats are quantized to.
pub(crate) trait Byte: Integer {
    /// The smallest and the largest one.
    const RANGE: [i32; 2];

    /// The byte of a number that is in its range.
    fn from_i32(x: i32) -> Self;

    /// out = saturate(round(x / scale) + zero point), see [`quantize`].
    fn quantize(_isa: Isa, x: &[f32], scale: f32, zero_point: Self, out: &mut [Self]) {
        let zero_point = zero_point.to_i32();
        // Rounding keeps whole bounds, so that x can be cut before.
        let [low, high] = Self::RANGE.map(|bound| (bound - zero_point) as f32);
        for (out, &x) in out.iter_mut().zip(x) {
            *out = Self::from_i32(round((x / scale).max(low).min(high)) as i32 + zero_point);
        }
    }
}

impl Integer for i8 {
    #[inline(always)]
    fn to_i32(self) -> i32 {
        self.into()
    }
}

impl Byte for i8 {
    const RANGE: [i32; 2] = [-128, 127];

    #[inline(always)]
    fn from_i32(x: i32) -> i8 {
        x as i8
    }
}

impl Integer for u8 {
    #[inline(always)]
    fn to_i32(self) -> i32 {
        self.into()
    }
}

impl Byte for u8 {
    const RANGE: [i32; 2] = [0, 255];

    #[inline(always)]
    fn from_i32(x: i32) -> u8 {
        x as u8
    }

    fn quantize(isa: Isa, x: &[f32], scale: f32, zero_point: u8, out: &mut [u8]) {
        quantize_bytes(isa, x, scale, zero_point, out);
    }
}

impl Integer for i32 {
    #[inline(always)]
    fn to_i32(self) -> i32 {
        self
    }
}

/// Scales and zero points, and which elements each pair belongs to: row i of `row` elements has pair i modulo their number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scales<'a, Q> {
    scale: &'a [f32],
    zero_point: &'a [Q],
    row: usize,
}

impl<'a, Q: Integer> Scales<'a, Q> {
    /// One pair for all elements, or one for each place of an axis of which `inner` elements stand at one place.
    ///
    /// # Panics
    /// When there is no pair, or not as many zero points as scales.
    pub(crate) fn new(scale: &'a [f32], zero_point: &'a [Q], inner: usize) -> Scales<'a, Q> {
        assert!(!scale.is_empty() && scale.len() == zero_point.len(), "{} scales", scale.len());
        // Of one pair for all, rows only split the work.
        let row = if scale.len() == 1 { TASK } else { inner.max(1) };
        Scales { scale, zero_point, row }
    }

    #[inline(always)]
    fn of_row(&self, row: usize) -> (f32, Q) {
        let place = row % self.scale.len();
        (self.scale[place], self.zero_point[place])
    }

    /// Calls `run` with parts of both slices, and the scale and zero point of each.
    fn for_rows<A: Sync, B: Copy + Send>(
        &self,
        x: &[A],
        out: &mut [B],
        run: impl Fn(&[A], &mut [B], f32, Q) + Sync + Send,
    ) where
        Q: Sync,
    {
        assert_eq!(x.len(), out.len(), "elements in and out");
        let (len, shared) = (x.len(), Shared::new(out));
        for_chunks(len.div_ceil(self.row), rows_per_task(self.row), |rows| {
            for row in rows {
                let elements = row * self.row..len.min((row + 1) * self.row);
                // Safety: rows do not overlap and lie within 0..len.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(shared.at(elements.start), elements.len()) };
                let (scale, zero_point) = self.of_row(row);
                run(&x[elements], out, scale, zero_point);
            }
        });
    }
}

/// 1.5 * 2^23: a float of at most 2^22 plus this has no bits for fractions, so that adding it rounds half to even.
const ROUND: f32 = 12_582_912.0;

/// x rounded half to even, of |x| at most 2^22.
#[inline(always)]
fn round(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

/// out = saturate(round(x / scale) + zero point). A NaN becomes the smallest number.
///
/// # Panics
/// When the slices differ in length.
pub(crate) fn quantize<Q: Byte>(isa: Isa, x: &[f32], scales: Scales<'_, Q>, out: &mut [Q]) {
    scales.for_rows(x, out, |x, out, scale, zero_point| Q::quantize(isa, x, scale, zero_point, out));
}

/// out = (x - zero point) * scale.
///
/// # Panics
/// When the slices differ in length.
pub(crate) fn dequantize<Q: Integer>(x: &[Q], scales: Scales<'_, Q>, out: &mut [f32]) {
    scales.for_rows(x, out, |x, out, scale, zero_point| {
        let zero_point = zero_point.to_i32();
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.to_i32().wrapping_sub(zero_point) as f32 * scale;
        }
    });
}

/// dx = dy where x, quantized, did not saturate, else 0.
///
/// # Panics
/// When the slices differ in length.
pub(crate) fn quantize_grad<Q: Byte>(dy: &[f32], x: &[f32], scales: Scales<'_, Q>, dx: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "elements and their gradients");
    dx.copy_from_slice(dy);
    scales.for_rows(x, dx, |x, dx, scale, zero_point| {
        let [low, high] = Q::RANGE.map(|bound| (bound - zero_point.to_i32()) as f32);
        for (dx, &x) in dx.iter_mut().zip(x) {
            // One step beyond the range is outside of it as well as a million.
            let level = round((x / scale).max(low - 1.0).min(high + 1.0));
            if level < low || level > high {
                *dx = 0.0;
            }
        }
    });
}
