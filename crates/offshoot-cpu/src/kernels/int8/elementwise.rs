//! From floats to bytes, sums of two tensors of bytes, and functions of one.

use std::ops::Range;

use super::super::parallel;
use super::super::simd::Isa;
use super::requantize::{Requantize, Residual, load_bytes, store_bytes};
use super::simd::{IntegerKernel, Integers, dispatch_integers};

/// Bytes of a task.
const TASK: usize = 1 << 16;

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

/// y = clamp(round((a - a's zero point) * scale + (x - x's zero point) * x's scale) + zero point), where `residual` is x and
/// the rest.
///
/// # Panics
/// When the slices differ in length.
pub fn add(isa: Isa, a: &[u8], a_zero_point: u8, residual: &Residual<'_>, y: &mut [u8]) {
    assert_eq!([a.len(), residual.x.len()], [y.len(); 2], "operands of a sum");
    let (len, y) = (y.len(), parallel::Shared::new(y));
    parallel::for_each_task(len.div_ceil(TASK), len, |i| {
        let range = i * TASK..len.min((i + 1) * TASK);
        dispatch_integers(isa, Add { a, a_zero_point, residual, range, y: y.get() });
    });
}

struct Add<'a> {
    a: &'a [u8],
    a_zero_point: u8,
    residual: &'a Residual<'a>,
    range: Range<usize>,
    y: *mut u8,
}

impl IntegerKernel for Add<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers>(self) {
        for at in self.range.clone().step_by(S::LANES) {
            let n = (self.range.end - at).min(S::LANES);
            // Safety: `S` is available; the elements lie within the slices, and those of `y` are this task's.
            unsafe {
                let a = S::to_floats(load_bytes::<S>(self.a.as_ptr(), at, n));
                let a = S::sub(a, S::splat(self.a_zero_point.into()));
                store_bytes::<S>(
                    self.y,
                    at,
                    n,
                    self.residual.add::<S>(self.residual.x.as_ptr().add(at), n, a),
                );
            }
        }
    }
}

/// y = the table's byte for each byte of x.
///
/// # Panics
/// When the slices differ in length.
pub fn table(x: &[u8], table: &[u8; 256], y: &mut [u8]) {
    assert_eq!(x.len(), y.len(), "elements in and out");
    let (len, y) = (y.len(), parallel::Shared::new(y));
    parallel::for_each_task(len.div_ceil(TASK), len, |i| {
        let range = i * TASK..len.min((i + 1) * TASK);
        // Safety: tasks have elements of their own.
        let y = unsafe { std::slice::from_raw_parts_mut(y.at(range.start), range.len()) };
        for (y, &x) in y.iter_mut().zip(&x[range]) {
            *y = table[usize::from(x)];
        }
    });
}

/// The bytes of all bytes that mean (byte - zero point) * scale, in other steps.
pub fn table_of(zero_point: u8, scale: f32, step: f32, to: Requantize) -> [u8; 256] {
    std::array::from_fn(|byte| {
        let x = (byte as i32 - i32::from(zero_point)) as f32 * scale;
        to.of(x / step)
    })
}
