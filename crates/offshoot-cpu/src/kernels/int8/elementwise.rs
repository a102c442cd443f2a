//! From floats to bytes.

use super::super::simd::Isa;
use super::requantize::Requantize;
use super::simd::{IntegerKernel, Integers, dispatch_integers};

/// y = saturate(round(x / scale) + zero point), on this thread.
///
/// # Panics
/// When the slices differ in length.
pub(in super::super) fn quantize_bytes(isa: Isa, x: &[f32], scale: f32, zero_point: u8, y: &mut [u8]) {
    assert_eq!(x.len(), y.len(), "elements in and out");
    dispatch_integers(isa, QuantizeBytes { x, scale, zero_point, y });
}

struct QuantizeBytes<'a> {
    x: &'a [f32],
    scale: f32,
    zero_point: u8,
    y: &'a mut [u8],
}

impl IntegerKernel for QuantizeBytes<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers>(self) {
        let requantize = Requantize { zero_point: self.zero_point, bounds: [0, 255] };
        let mut at = 0;
        // Safety: `S` is available; the elements lie within the slices.
        unsafe {
            let (scale, x) = (S::splat(self.scale), self.x.as_ptr());
            while at + 2 * S::LANES <= self.x.len() {
                let y = [S::div(S::load(x.add(at)), scale), S::div(S::load(x.add(at + S::LANES)), scale)];
                let to = self.y.as_mut_ptr().add(at);
                requantize.store::<S>([to, to.add(S::LANES)], y);
                at += 2 * S::LANES;
            }
        }
        for (y, x) in self.y[at..].iter_mut().zip(&self.x[at..]) {
            *y = requantize.of(x / self.scale);
        }
    }
}
