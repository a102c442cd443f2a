//! Depthwise convolution: one filter a channel (groups = input channels = output channels), vectorized over channels.
//!
//! A tile of neighboring pixels is kept in registers, so that inputs and weights are loaded once for several
//! multiplications. Rows of the window that fall outside the picture are skipped; tiles at the left and right border
//! read zeros for what is outside. Every pixel sums in the order of the kernel's elements.

use super::conv::{activations_len, weights_len};
use super::element::Element;
use super::layout::transpose;
use super::prefetch;
use super::rows::{Shared, TASK, add_partials, for_chunks, load, partials, store};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::window::inside;
use super::{Activation, ConvShape};
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

/// Most input columns under a tile: those of a 5 x 5 kernel with stride 2.
const COLUMNS: usize = (TILE - 1) * 2 + 5;

/// A forward convolution.
struct Forward<'a, E> {
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

impl<E: Element> Forward<'_, E> {
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
            store::<S, _, FULL>(to.add(c.first), c.n, v);
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
                for j in 0..(TILE - 1) * STRIDE + K {
                    let column = if BORDER { row[j] } else { row[0].add(j * channels) };
                    let x = load::<S, _, FULL>(column.add(c.first), c.n);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        if j >= t * STRIDE && j < t * STRIDE + K {
                            *sum = S::fma(x, weights[j - t * STRIDE], *sum);
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

impl<E: Element> Kernel for Forward<'_, E> {
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

/// out = activation(x * weights + bias). `x` and `out` are NHWC, `weights` packed by [`pack`], `bias` has C elements.
///
/// # Panics
/// When `shape` is not depthwise or a slice has not the size that it gives it.
pub fn forward<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &[E],
    weights: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
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
        dispatch(isa, Forward { shape, x, zeros, weights, bias, activation, rows, out });
    });
}

struct InputGrad<'a, E> {
    shape: &'a ConvShape,
    dy: &'a [E],
    weights: &'a [f32],
    /// Input rows of all pictures, counted through.
    rows: Range<usize>,
    /// The first element of those rows.
    dx: *mut E,
}

/// The output position from which kernel element `k` looks at input position `at` - pad, if there is one.
#[inline(always)]
fn output(at: usize, k: usize, stride: usize, dilation: usize, len: usize) -> Option<usize> {
    let offset = at.checked_sub(k * dilation)?;
    (offset.is_multiple_of(stride) && offset / stride < len).then_some(offset / stride)
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

/// dx = the gradient of [`forward`]'s input, before bias and activation. `weights` are packed by [`pack`].
///
/// # Panics
/// As [`forward`].
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

/// dw = the gradient of [`forward`]'s weights, OIHW (C, 1, R, S).
///
/// # Panics
/// As [`forward`].
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

mod strips;
pub use strips::{backward, forward_in_training, moment_rows, sum_parts, takes_strips};

#[cfg(test)]
mod tests;
