//! The gradient of the weights.

use super::{Channels, check, column_range, fast_path, input, interior, row_range, taps};
use crate::kernels::ConvShape;
use crate::kernels::element::Element;
use crate::kernels::layout::transpose;
use crate::kernels::prefetch;
use crate::kernels::rows::{add_partials, load, partials, store};
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use std::ops::Range;

struct WeightGrad<'a, E> {
    shape: &'a ConvShape,
    x: &'a [E],
    dy: &'a [E],
    /// Output rows of all pictures, counted through.
    rows: Range<usize>,
    /// R, S, C.
    dw: &'a mut [f32],
}

impl<E: Element> WeightGrad<'_, E> {
    #[inline(always)]
    fn output(&self, image: usize, oh: usize, ow: usize) -> usize {
        ((image * self.shape.out_h + oh) * self.shape.out_w + ow) * self.shape.in_c
    }

    /// Fetches what the next output row will be the first to read.
    #[inline(always)]
    fn prefetch_below(&self, (image, oh): (usize, usize)) {
        let shape = self.shape;
        let start = self.output(image, oh + 1, 0);
        prefetch::elements(self.dy, start..start + shape.out_w * shape.in_c);
        let width = shape.in_w * shape.in_c;
        let h = (oh * shape.strides[0] + shape.kernel[0]).saturating_sub(shape.pads[0]);
        let h = h..shape.in_h.min(h + shape.strides[0]);
        prefetch::elements(
            self.x,
            (image * shape.in_h + h.start) * width..(image * shape.in_h + h.end) * width,
        );
    }

    /// Adds the products of kernel row `r` over an output row, for any kernel.
    #[inline(always)]
    unsafe fn row_of_any<S: Simd, const FULL: bool>(
        &mut self,
        (image, oh): (usize, usize),
        r: usize,
        c: Channels,
    ) {
        let shape = self.shape;
        for ow in 0..shape.out_w {
            // Safety: the ranges keep to the picture, the channels are the shape's.
            unsafe {
                let dy = load::<S, _, FULL>(self.dy.as_ptr().add(self.output(image, oh, ow) + c.first), c.n);
                for s in column_range(shape, ow) {
                    let x = self.x.as_ptr().add(input(shape, image, (oh, ow), (r, s)) + c.first);
                    let to = self.dw.as_mut_ptr().add((r * shape.kernel[1] + s) * shape.in_c + c.first);
                    let sum = S::fma(load::<S, _, FULL>(x, c.n), dy, load::<S, _, FULL>(to, c.n));
                    store::<S, _, FULL>(to, c.n, sum);
                }
            }
        }
    }

    /// The products of one output pixel at the border, added to `sums`: those of kernel columns `columns`.
    /// `x` is where kernel column 0 would be.
    #[inline(always)]
    unsafe fn border<S: Simd, const K: usize, const FULL: bool>(
        &self,
        sums: &mut [S::V; K],
        dy: *const E,
        x: *const E,
        columns: Range<usize>,
        n: usize,
    ) {
        // Safety: only what `columns` says is in the picture is read.
        unsafe {
            let dy = load::<S, _, FULL>(dy, n);
            for (s, sum) in sums.iter_mut().enumerate() {
                if columns.contains(&s) {
                    let x = load::<S, _, FULL>(x.wrapping_add(s * self.shape.in_c), n);
                    *sum = S::fma(x, dy, *sum);
                }
            }
        }
    }

    /// Adds the products of kernel row `r` over an output row. Two sets of sums hide the latency of additions;
    /// `paired` is an even number of columns in the interior.
    #[inline(always)]
    unsafe fn row<S: Simd, const K: usize, const STRIDE: usize, const FULL: bool>(
        &mut self,
        (image, oh): (usize, usize),
        r: usize,
        paired: &Range<usize>,
        c: Channels,
    ) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        let start = (image * shape.in_h + oh * STRIDE + r - shape.pads[0]) * shape.in_w * channels + c.first;
        // Safety: `start` is a row of the picture, as r is in its range; the interior and `border` keep to it.
        unsafe {
            let dy = self.dy.as_ptr().add(self.output(image, oh, 0) + c.first);
            let x = self.x.as_ptr().add(start).wrapping_sub(shape.pads[1] * channels);
            let mut sums = [[S::splat(0.0); K]; 2];
            for ow in (0..paired.start).chain(paired.end..shape.out_w) {
                let (dy, x) = (dy.add(ow * channels), x.wrapping_add(ow * STRIDE * channels));
                self.border::<S, K, FULL>(&mut sums[0], dy, x, column_range(shape, ow), c.n);
            }
            for ow in paired.clone().step_by(2) {
                let (dy, x) = (dy.add(ow * channels), x.wrapping_add(ow * STRIDE * channels));
                for (t, sums) in sums.iter_mut().enumerate() {
                    let dy = load::<S, _, FULL>(dy.add(t * channels), c.n);
                    for (s, sum) in sums.iter_mut().enumerate() {
                        let x = load::<S, _, FULL>(x.add((t * STRIDE + s) * channels), c.n);
                        *sum = S::fma(x, dy, *sum);
                    }
                }
            }
            let [even, odd] = sums;
            for (s, (even, odd)) in even.into_iter().zip(odd).enumerate() {
                let to = self.dw.as_mut_ptr().add((r * K + s) * channels + c.first);
                let sum = S::add(load::<S, _, FULL>(to, c.n), S::add(even, odd));
                store::<S, _, FULL>(to, c.n, sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const K: usize, const STRIDE: usize, const FULL: bool>(
        &mut self,
        at: (usize, usize),
        paired: &Range<usize>,
        c: Channels,
    ) {
        for r in row_range(self.shape, at.1) {
            // Safety: `paired` is in the interior, r in the picture.
            unsafe {
                match K {
                    0 => self.row_of_any::<S, FULL>(at, r, c),
                    _ => self.row::<S, K, STRIDE, FULL>(at, r, paired, c),
                }
            }
        }
    }

    /// `K` = 0 stands for any kernel.
    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize>(mut self) {
        let channels = self.shape.in_c;
        let whole = channels - channels % S::LANES;
        let interior = interior(self.shape);
        let paired = interior.start..interior.end - interior.len() % 2;
        for row in self.rows.clone() {
            let at = (row / self.shape.out_h, row % self.shape.out_h);
            self.prefetch_below(at);
            // Safety: the channels are the shape's.
            unsafe {
                for first in (0..whole).step_by(S::LANES) {
                    self.block::<S, K, STRIDE, true>(at, &paired, Channels { first, n: S::LANES });
                }
                if whole < channels {
                    let rest = Channels { first: whole, n: channels - whole };
                    self.block::<S, K, STRIDE, false>(at, &paired, rest);
                }
            }
        }
    }
}

impl<E: Element> Kernel for WeightGrad<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Safety: passed on.
        unsafe {
            match fast_path(self.shape) {
                (3, 1) => self.rows::<S, 3, 1>(),
                (3, 2) => self.rows::<S, 3, 2>(),
                (5, 1) => self.rows::<S, 5, 1>(),
                (5, 2) => self.rows::<S, 5, 2>(),
                _ => self.rows::<S, 0, 1>(),
            }
        }
    }
}

/// Pixels whose products make one partial sum.
const PIXELS_PER_PART: usize = 256;

/// dw = the gradient of [`forward`](super::forward)'s weights, OIHW (C, 1, R, S).
///
/// # Panics
/// As [`forward`](super::forward).
pub fn weight_grad<E: Element>(isa: Isa, shape: &ConvShape, x: &[E], dy: &[E], dw: &mut [f32]) {
    check(shape, x.len(), dw.len(), dy.len());
    let rows = shape.batch * shape.out_h;
    let parts = (rows * shape.out_w).div_ceil(PIXELS_PER_PART).clamp(1, rows.max(1));
    let sums = partials(rows, rows.div_ceil(parts).max(1), dw.len(), |rows, dw| {
        dispatch(isa, WeightGrad { shape, x, dy, rows, dw });
    });
    let mut packed = vec![0.0; dw.len()];
    add_partials(&sums, &mut packed);
    transpose(1, taps(shape), shape.out_c, &packed, dw);
}
