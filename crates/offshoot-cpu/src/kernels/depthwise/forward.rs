//! The forward pass.

use super::{
    Channels, TILE, Tap, check, column_range, fast_path, input, interior, row_range, rows_per_task,
    weighted_sum,
};
use crate::kernels::element::Element;
use crate::kernels::elementwise::InPlace;
use crate::kernels::prefetch;
use crate::kernels::rows::{Shared, for_chunks, load, store};
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch, dispatch_bf16};
use crate::kernels::{Activation, ConvShape};
use offshoot_graph::DType;
use offshoot_graph::op::Unary;
use std::ops::Range;

/// Most input columns under a tile: those of a 5 x 5 kernel with stride 2.
const COLUMNS: usize = (TILE - 1) * 2 + 5;

/// A forward convolution. `SUMS` says that it is run by [`dispatch_bf16`], and rounds with the instruction that there is then.
struct Forward<'a, E, const SUMS: bool> {
    shape: &'a ConvShape,
    x: &'a [E],
    /// A pixel outside the picture.
    zeros: &'a [E],
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    activation: Activation,
    /// Output rows of all pictures, counted through.
    rows: Range<usize>,
    /// The first element of those rows.
    out: *mut E,
}

impl<E: Element, const SUMS: bool> Forward<'_, E, SUMS> {
    #[inline(always)]
    unsafe fn bias<S: Simd, const FULL: bool>(&self, c: Channels) -> S::V {
        // Safety: the channels are the shape's.
        unsafe {
            match self.bias {
                Some(bias) => load::<S, _, FULL>(bias.as_ptr().add(c.first), c.n),
                None => S::splat(0.0),
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const FULL: bool>(&self, v: S::V, to: *mut E, c: Channels) {
        let (low, high) = self.activation.bounds();
        // Safety: the caller's promise.
        unsafe {
            let v = S::at_most(S::at_least(v, S::splat(low)), S::splat(high));
            if SUMS && FULL {
                E::store_sum::<S>(to.add(c.first), v);
            } else {
                store::<S, _, FULL>(to.add(c.first), c.n, v);
            }
        }
    }

    /// Fetches what the outputs below those at `at` will be the first to read: their windows' lowest rows.
    #[inline(always)]
    fn prefetch_below(&self, image: usize, (oh, ow): (usize, usize), pixels: usize) {
        let shape = self.shape;
        let [down, right] = shape.strides;
        let h = (oh * down + shape.kernel[0]).saturating_sub(shape.pads[0]);
        let w = (ow * right + shape.kernel[1]).saturating_sub(shape.pads[1] + right);
        for h in h..shape.in_h.min(h + down) {
            let start = ((image * shape.in_h + h) * shape.in_w + w) * shape.in_c;
            prefetch::elements(self.x, start..start + pixels * right * shape.in_c);
        }
    }

    /// Neighboring output pixels from `at` on: [`TILE`] of them whose windows' columns lie in the picture or, at a
    /// border, `n`. `x` holds the input columns under them in each row of the window, of which a tile that is at no border
    /// needs the first only.
    #[inline(always)]
    unsafe fn tile<S: Simd, const K: usize, const STRIDE: usize, const BORDER: bool, const FULL: bool>(
        &self,
        x: &[[*const E; COLUMNS]; K],
        rows: Range<usize>,
        n: usize,
        to: *mut E,
        c: Channels,
    ) {
        let channels = self.shape.in_c;
        // Safety: the caller's promise; rows are the kernel's.
        unsafe {
            let mut sums = [self.bias::<S, FULL>(c); TILE];
            for r in rows {
                let w = self.weights.as_ptr().add(r * K * channels + c.first);
                let mut weights = [S::splat(0.0); K];
                for (s, weight) in weights.iter_mut().enumerate() {
                    *weight = load::<S, _, FULL>(w.add(s * channels), c.n);
                }
                let row = x.get_unchecked(r);
                let read = |j: usize| if BORDER { row[j] } else { row[0].add(j * channels) };
                if STRIDE == 1 {
                    for j in 0..(TILE - 1) * STRIDE + K {
                        let x = load::<S, _, FULL>(read(j).add(c.first), c.n);
                        for (t, sum) in sums.iter_mut().enumerate() {
                            if j >= t && j < t + K {
                                *sum = S::fma(x, weights[j - t], *sum);
                            }
                        }
                    }
                } else {
                    // (Loops over the columns of larger windows are too long for the compiler to unroll.)
                    for (t, sum) in sums.iter_mut().enumerate() {
                        for (s, &weight) in weights.iter().enumerate() {
                            let x = load::<S, _, FULL>(read(t * STRIDE + s).add(c.first), c.n);
                            *sum = S::fma(x, weight, *sum);
                        }
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                if !BORDER || t < n {
                    self.finish::<S, FULL>(sum, to.add(t * channels), c);
                }
            }
        }
    }

    /// The input columns under the tile at `at`, for the rows of the window that are in the picture.
    #[inline(always)]
    fn columns<const K: usize, const STRIDE: usize>(
        &self,
        image: usize,
        (oh, ow): (usize, usize),
        rows: &Range<usize>,
    ) -> [[*const E; COLUMNS]; K] {
        let ConvShape { in_h, in_w, in_c, pads: [top, left, ..], .. } = *self.shape;
        let mut columns = [[self.zeros.as_ptr(); COLUMNS]; K];
        for r in rows.clone() {
            let row = self.x[(image * in_h + oh * STRIDE + r - top) * in_w * in_c..].as_ptr();
            for (j, column) in columns[r][..(TILE - 1) * STRIDE + K].iter_mut().enumerate() {
                let w = (ow * STRIDE + j).wrapping_sub(left);
                if w < in_w {
                    *column = row.wrapping_add(w * in_c);
                }
            }
        }
        columns
    }

    /// Pixels `columns` of a row one by one; `out` is the row's first element.
    #[inline(always)]
    unsafe fn pixels<S: Simd>(&self, image: usize, oh: usize, columns: Range<usize>, out: *mut E) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        let whole = channels - channels % S::LANES;
        let mut taps = Vec::with_capacity(shape.kernel[0] * shape.kernel[1]);
        for ow in columns {
            taps.clear();
            for r in row_range(shape, oh) {
                for s in column_range(shape, ow) {
                    let source = input(shape, image, (oh, ow), (r, s));
                    taps.push(Tap { source, weight: (r * shape.kernel[1] + s) * channels });
                }
            }
            // Safety: the kernel elements are in the picture, the columns are the output's, the channels the shape's.
            unsafe {
                let to = out.add(ow * channels);
                for first in (0..whole).step_by(S::LANES) {
                    let c = Channels { first, n: S::LANES };
                    let bias = self.bias::<S, true>(c);
                    let sum = weighted_sum::<S, E, true>(self.x, self.weights, &taps, bias, c);
                    self.finish::<S, true>(sum, to, c);
                }
                if whole < channels {
                    let c = Channels { first: whole, n: channels - whole };
                    let bias = self.bias::<S, false>(c);
                    let sum = weighted_sum::<S, E, false>(self.x, self.weights, &taps, bias, c);
                    self.finish::<S, false>(sum, to, c);
                }
            }
        }
    }

    /// The tiles of an output row; `out` is its first element.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const K: usize, const STRIDE: usize>(
        &self,
        (image, oh): (usize, usize),
        interior: &Range<usize>,
        out: *mut E,
    ) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        let whole = channels - channels % S::LANES;
        let window = row_range(shape, oh);
        for ow in (0..shape.out_w).step_by(TILE) {
            self.prefetch_below(image, (oh, ow), TILE);
            let n = TILE.min(shape.out_w - ow);
            let inside = interior.contains(&ow) && ow + TILE <= interior.end;
            let x = self.columns::<K, STRIDE>(image, (oh, ow), &window);
            // Safety: what `columns` points to has the shape's channels, and only a tile inside reads beyond it.
            unsafe {
                let to = out.add(ow * channels);
                for first in (0..whole).step_by(S::LANES) {
                    let c = Channels { first, n: S::LANES };
                    if inside {
                        self.tile::<S, K, STRIDE, false, true>(&x, window.clone(), n, to, c);
                    } else {
                        self.tile::<S, K, STRIDE, true, true>(&x, window.clone(), n, to, c);
                    }
                }
                if whole < channels {
                    let c = Channels { first: whole, n: channels - whole };
                    self.tile::<S, K, STRIDE, true, false>(&x, window.clone(), n, to, c);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize>(self) {
        let shape = self.shape;
        let interior = interior(shape);
        for row in self.rows.clone() {
            // Safety: `out` holds this task's rows.
            unsafe {
                let out = self.out.add((row - self.rows.start) * shape.out_w * shape.in_c);
                self.tiles::<S, K, STRIDE>((row / shape.out_h, row % shape.out_h), &interior, out);
            }
        }
    }

    #[inline(always)]
    unsafe fn rows_of_any<S: Simd>(self) {
        let shape = self.shape;
        for row in self.rows.clone() {
            // Safety: `out` holds this task's rows.
            unsafe {
                let out = self.out.add((row - self.rows.start) * shape.out_w * shape.in_c);
                self.pixels::<S>(row / shape.out_h, row % shape.out_h, 0..shape.out_w, out);
            }
        }
    }
}

impl<E: Element, const SUMS: bool> Kernel for Forward<'_, E, SUMS> {
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
                _ => self.rows_of_any::<S>(),
            }
        }
    }
}

/// out = then(activation(x * weights + bias)). `x` and `out` are NHWC, `weights` packed by [`pack`](super::pack), `bias` has C elements.
///
/// # Panics
/// When `shape` is not depthwise or a slice has not the size that it gives it.
pub fn forward<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &[E],
    weights: &[f32],
    bias: Option<&[f32]>,
    (activation, then): (Activation, Option<Unary>),
    out: &mut [E],
) {
    check(shape, x.len(), weights.len(), out.len());
    assert!(bias.is_none_or(|bias| bias.len() == shape.out_c), "the bias has not {} elements", shape.out_c);
    let width = shape.out_w * shape.out_c;
    let shared = Shared::new(out);
    let zeros: &[E] = &bytemuck::zeroed_vec(shape.in_c);
    for_chunks(shape.batch * shape.out_h, rows_per_task(width), |rows| {
        // Safety: the rows of a task are its own.
        let out = unsafe { shared.at(rows.start * width) };
        let cols = rows.len() * width;
        if E::DTYPE == DType::BF16 && isa.multiplies_bf16() {
            let kernel = Forward::<E, true> { shape, x, zeros, weights, bias, activation, rows, out };
            dispatch_bf16(isa, kernel);
        } else {
            dispatch(isa, Forward::<E, false> { shape, x, zeros, weights, bias, activation, rows, out });
        }
        if let Some(op) = then {
            dispatch(isa, InPlace { op, x: out, rows: &[0], cols });
        }
    });
}
