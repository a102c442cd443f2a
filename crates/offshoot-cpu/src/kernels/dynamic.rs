//! x times weights of bytes, where x is quantised by its own range: ONNX's DynamicQuantizeLinear and MatMulInteger.

use std::ops::Range;

use super::parallel::{self, Shared};
use super::quantize::{Scales, quantize};
use super::rows::TASK;
use super::simd::{Isa, Kernel, Simd, dispatch};

/// The operands of [`dynamic_product`].
#[derive(Clone, Copy, Debug)]
pub struct DynamicProduct<'a> {
    /// [m, k]
    pub x: &'a [f32],
    /// [n, k]
    pub weight: &'a [i8],
    /// The sum of each row of the weight.
    pub sums: &'a [i32],
    /// The scale of each row of the weight.
    pub scale: &'a [f32],
    /// One for each row of the weight.
    pub bias: Option<&'a [f32]>,
    /// Length of the rows.
    pub k: usize,
}

/// y [m, n] = x times the transposed weight, from the bytes of both, plus bias; `bytes` become those of x.
///
/// # Panics
/// When a slice has not the size that the others say.
pub fn dynamic_product(isa: Isa, product: &DynamicProduct<'_>, bytes: &mut [u8], y: &mut [f32]) {
    let DynamicProduct { x, weight, sums, scale, bias, k } = *product;
    let n = scale.len();
    let m = x.len().checked_div(k).unwrap_or(0);
    assert_eq!([x.len(), weight.len(), sums.len(), y.len()], [m * k, n * k, n, m * n], "{m} x {k} x {n}");
    assert!(bytes.len() == x.len() && bias.is_none_or(|b| b.len() == n), "{m} x {k} x {n}");
    let (x_scale, zero_point) = scale_of(isa, x);
    quantize(isa, x, Scales::new(&[x_scale], &[zero_point], 1), bytes);
    let (bytes, shared) = (&*bytes, Shared(y.as_mut_ptr()));
    let (row_blocks, unit_blocks) = (m.div_ceil(ROWS), n.div_ceil(UNITS));
    parallel::for_each_task(row_blocks * unit_blocks, m * n * k / 4, |index| {
        let (row, unit) = (index / unit_blocks * ROWS, index % unit_blocks * UNITS);
        let (rows, units) = (row..(row + ROWS).min(m), unit..(unit + UNITS).min(n));
        dispatch(isa, Block { product, bytes, zero_point, x_scale, rows, units, y: shared });
    });
}

/// Rows of x that a task multiplies with the same rows of the weight.
const ROWS: usize = 32;

/// Rows of the weight that a task owns.
const UNITS: usize = 32;

/// The scale and zero point of DynamicQuantizeLinear: the range of x, and 0, on 0..255.
fn scale_of(isa: Isa, x: &[f32]) -> (f32, u8) {
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

/// A block of the result. Sums of integers are the same in any order.
struct Block<'a> {
    product: &'a DynamicProduct<'a>,
    bytes: &'a [u8],
    zero_point: u8,
    x_scale: f32,
    rows: Range<usize>,
    units: Range<usize>,
    y: Shared<f32>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let DynamicProduct { weight, sums, scale, bias, k, .. } = *self.product;
        let n = scale.len();
        for row in self.rows.clone() {
            let x = &self.bytes[row * k..(row + 1) * k];
            let mut unit = self.units.start;
            while unit < self.units.end {
                let count = (self.units.end - unit).min(AT_ONCE);
                let mut totals = [0i32; AT_ONCE];
                if count == AT_ONCE {
                    totals = dots(x, &weight[unit * k..(unit + AT_ONCE) * k], k);
                } else {
                    for (i, total) in totals.iter_mut().enumerate().take(count) {
                        *total = dot(x, &weight[(unit + i) * k..(unit + i + 1) * k]);
                    }
                }
                for (i, total) in totals.iter().enumerate().take(count) {
                    let centred = total.wrapping_sub(i32::from(self.zero_point).wrapping_mul(sums[unit + i]));
                    let mut value = centred as f32 * (self.x_scale * scale[unit + i]);
                    if let Some(bias) = bias {
                        value += bias[unit + i];
                    }
                    // Safety: row and unit lie within y, and no other task has this block.
                    unsafe { *self.y.at(row * n + unit + i) = value };
                }
                unit += count;
            }
        }
    }
}

/// Rows of the weight that are multiplied with a row of x while it stays in registers.
const AT_ONCE: usize = 4;

/// Sums of products of bytes.
#[inline(always)]
fn dots(x: &[u8], weights: &[i8], k: usize) -> [i32; AT_ONCE] {
    let (w0, rest) = weights.split_at(k);
    let (w1, rest) = rest.split_at(k);
    let (w2, w3) = rest.split_at(k);
    let (mut s0, mut s1, mut s2, mut s3) = (0i32, 0i32, 0i32, 0i32);
    for i in 0..x.len().min(w0.len()).min(w1.len()).min(w2.len()).min(w3.len()) {
        let x = i32::from(x[i]);
        s0 = s0.wrapping_add(x * i32::from(w0[i]));
        s1 = s1.wrapping_add(x * i32::from(w1[i]));
        s2 = s2.wrapping_add(x * i32::from(w2[i]));
        s3 = s3.wrapping_add(x * i32::from(w3[i]));
    }
    [s0, s1, s2, s3]
}

#[inline(always)]
fn dot(x: &[u8], w: &[i8]) -> i32 {
    let mut sum = 0i32;
    for i in 0..x.len().min(w.len()) {
        sum = sum.wrapping_add(i32::from(x[i]) * i32::from(w[i]));
    }
    sum
}
