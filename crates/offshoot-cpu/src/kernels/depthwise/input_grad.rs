//! The gradient of the input.

use super::{Channels, Tap, check, fast_path, output, rows_per_task, weighted_sum};
use crate::kernels::ConvShape;
use crate::kernels::element::Element;
use crate::kernels::prefetch;
use crate::kernels::rows::{Shared, for_chunks, load, store};
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use std::ops::Range;

struct InputGrad<'a, E> {
    shape: &'a ConvShape,
    dy: &'a [E],
    weights: &'a [f32],
    /// Input rows of all pictures, counted through.
    rows: Range<usize>,
    /// The first element of those rows.
    dx: *mut E,
}

impl<E: Element> InputGrad<'_, E> {
    /// `T` neighboring input pixels. The first is under kernel element 0 of output column `q`, and all output columns
    /// that look at the tile exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, const K: usize, const STRIDE: usize, const T: usize, const FULL: bool>(
        &self,
        image: usize,
        (ih, q): (usize, usize),
        to: *mut E,
        c: Channels,
    ) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        // Safety: `output` keeps to the output's rows, the caller to its columns.
        unsafe {
            let mut sums = [S::splat(0.0); T];
            for r in 0..K {
                let Some(oh) = output(ih + shape.pads[0], r, STRIDE, 1, shape.out_h) else { continue };
                let dy = ((image * shape.out_h + oh) * shape.out_w + q) * channels + c.first;
                let dy = self.dy.as_ptr().add(dy);
                let w = self.weights.as_ptr().add(r * K * channels + c.first);
                for s in 0..K {
                    let w = load::<S, _, FULL>(w.add(s * channels), c.n);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        if (t + K * STRIDE - s).is_multiple_of(STRIDE) {
                            let column = (t as isize - s as isize) / STRIDE as isize;
                            let dy = load::<S, _, FULL>(dy.offset(column * channels as isize), c.n);
                            *sum = S::fma(dy, w, *sum);
                        }
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                store::<S, _, FULL>(to.add(t * channels + c.first), c.n, sum);
            }
        }
    }

    /// The products that the gradient of input pixel (ih, iw) sums.
    fn taps(&self, image: usize, (ih, iw): (usize, usize), taps: &mut Vec<Tap>) {
        let shape = self.shape;
        let ([top, left, ..], [down, right]) = (shape.pads, shape.strides);
        taps.clear();
        for r in 0..shape.kernel[0] {
            let Some(oh) = output(ih + top, r, down, shape.dilations[0], shape.out_h) else { continue };
            for s in 0..shape.kernel[1] {
                let ow = output(iw + left, s, right, shape.dilations[1], shape.out_w);
                let Some(ow) = ow else { continue };
                let source = ((image * shape.out_h + oh) * shape.out_w + ow) * shape.in_c;
                taps.push(Tap { source, weight: (r * shape.kernel[1] + s) * shape.in_c });
            }
        }
    }

    /// Pixels `columns` of a row one by one; `dx` is the row's first element.
    #[inline(always)]
    unsafe fn pixels<S: Simd>(&self, image: usize, ih: usize, columns: Range<usize>, dx: *mut E) {
        let channels = self.shape.in_c;
        let whole = channels - channels % S::LANES;
        let mut taps = Vec::with_capacity(self.shape.kernel[0] * self.shape.kernel[1]);
        for iw in columns {
            self.taps(image, (ih, iw), &mut taps);
            // Safety: the kernel elements are in the output, the columns are the input's, the channels the shape's.
            unsafe {
                let (to, zero) = (dx.add(iw * channels), S::splat(0.0));
                for first in (0..whole).step_by(S::LANES) {
                    let c = Channels { first, n: S::LANES };
                    let sum = weighted_sum::<S, E, true>(self.dy, self.weights, &taps, zero, c);
                    E::store::<S>(to.add(first), sum);
                }
                if whole < channels {
                    let c = Channels { first: whole, n: channels - whole };
                    let sum = weighted_sum::<S, E, false>(self.dy, self.weights, &taps, zero, c);
                    E::store_first::<S>(to.add(whole), c.n, sum);
                }
            }
        }
    }

    /// The output columns q, a multiple of `T` / `STRIDE`, such that the `STRIDE` input columns from q `STRIDE` - left on
    /// exist, and all output columns that look at them.
    #[inline(always)]
    fn interior<const K: usize, const STRIDE: usize, const T: usize>(&self) -> Range<usize> {
        let (shape, left) = (self.shape, self.shape.pads[1]);
        let first = ((K - 1) / STRIDE).max(left.div_ceil(STRIDE));
        let count = shape.out_w.min((shape.in_w + left) / STRIDE).saturating_sub(first);
        first..first + count - count % (T / STRIDE)
    }

    /// The tiles of `T` input columns under the output columns `columns`, a whole number.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const K: usize, const STRIDE: usize, const T: usize>(
        &self,
        image: usize,
        ih: usize,
        columns: Range<usize>,
        dx: *mut E,
    ) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        let whole = channels - channels % S::LANES;
        // The output row that the next rows of tiles will be the first to read.
        let below = (ih + shape.pads[0]) / STRIDE + 1;
        for q in columns.step_by(T / STRIDE) {
            if below < shape.out_h {
                let start = ((image * shape.out_h + below) * shape.out_w + q) * channels;
                prefetch::elements(self.dy, start..start + T / STRIDE * channels);
            }
            // Safety: `interior` keeps to both pictures, the channels are the shape's.
            unsafe {
                let to = dx.add((q * STRIDE - shape.pads[1]) * channels);
                for first in (0..whole).step_by(S::LANES) {
                    let c = Channels { first, n: S::LANES };
                    self.tile::<S, K, STRIDE, T, true>(image, (ih, q), to, c);
                }
                if whole < channels {
                    let c = Channels { first: whole, n: channels - whole };
                    self.tile::<S, K, STRIDE, T, false>(image, (ih, q), to, c);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize, const T: usize>(self) {
        let (shape, left) = (self.shape, self.shape.pads[1]);
        let interior = self.interior::<K, STRIDE, T>();
        let tiled = match interior.is_empty() {
            true => 0..0,
            false => interior.start * STRIDE - left..interior.end * STRIDE - left,
        };
        for row in self.rows.clone() {
            let (image, ih) = (row / shape.in_h, row % shape.in_h);
            // Safety: `dx` holds this task's rows.
            unsafe {
                let dx = self.dx.add((row - self.rows.start) * shape.in_w * shape.in_c);
                self.pixels::<S>(image, ih, 0..tiled.start, dx);
                self.tiles::<S, K, STRIDE, T>(image, ih, interior.clone(), dx);
                self.pixels::<S>(image, ih, tiled.end..shape.in_w, dx);
            }
        }
    }

    #[inline(always)]
    unsafe fn rows_of_any<S: Simd>(self) {
        let shape = self.shape;
        for row in self.rows.clone() {
            // Safety: `dx` holds this task's rows.
            unsafe {
                let dx = self.dx.add((row - self.rows.start) * shape.in_w * shape.in_c);
                self.pixels::<S>(row / shape.in_h, row % shape.in_h, 0..shape.in_w, dx);
            }
        }
    }
}

impl<E: Element> Kernel for InputGrad<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Safety: passed on.
        unsafe {
            match fast_path(self.shape) {
                (3, 1) => self.rows::<S, 3, 1, 4>(),
                (3, 2) => self.rows::<S, 3, 2, 8>(),
                (5, 1) => self.rows::<S, 5, 1, 4>(),
                (5, 2) => self.rows::<S, 5, 2, 8>(),
                _ => self.rows_of_any::<S>(),
            }
        }
    }
}

/// dx = the gradient of [`forward`](super::forward)'s input, before bias and activation. `weights` are packed by [`pack`](super::pack).
///
/// # Panics
/// As [`forward`](super::forward).
pub fn input_grad<E: Element>(isa: Isa, shape: &ConvShape, dy: &[E], weights: &[f32], dx: &mut [E]) {
    check(shape, dx.len(), weights.len(), dy.len());
    let width = shape.in_w * shape.in_c;
    let shared = Shared::new(dx);
    for_chunks(shape.batch * shape.in_h, rows_per_task(width), |rows| {
        // Safety: the rows of a task are its own.
        let dx = unsafe { shared.at(rows.start * width) };
        dispatch(isa, InputGrad { shape, dy, weights, rows, dx });
    });
}
