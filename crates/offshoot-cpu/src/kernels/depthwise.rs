//! Depthwise convolution: one filter a channel (groups = input channels = output channels), vectorised over channels.
//!
//! A tile of neighbouring pixels is kept in registers, so that inputs and weights are loaded once for several
//! multiplications. Rows of the window that fall outside the picture are skipped; columns at the left and right
//! border go pixel by pixel. Every pixel sums in the order of the kernel's elements, however it is computed.

use super::layout::transpose;
use super::rows::{Shared, TASK, add_partials, for_chunks, load, partials, store};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::window::inside;
use super::{Activation, ConvShape};
use std::ops::Range;

/// Whether `shape` is a depthwise convolution that this module computes.
pub fn supports(shape: &ConvShape) -> bool {
    shape.groups == shape.in_c && shape.groups == shape.out_c
}

/// Elements of a filter.
fn taps(shape: &ConvShape) -> usize {
    shape.kernel[0] * shape.kernel[1]
}

/// Packs OIHW weights (C, 1, R, S) for the kernels here, as R, S, C. Both slices have C R S elements.
pub fn pack(shape: &ConvShape, weights: &[f32], packed: &mut [f32]) {
    transpose(1, shape.out_c, taps(shape), weights, packed);
}

fn check(shape: &ConvShape, x: usize, weights: usize, y: usize) {
    assert!(supports(shape), "not depthwise: {shape:?}");
    assert!(shape.strides.iter().chain(&shape.dilations).all(|&step| step > 0), "a step of 0 in {shape:?}");
    assert!(taps(shape) > 0, "an empty kernel in {shape:?}");
    assert_eq!(x, shape.batch * shape.in_h * shape.in_w * shape.in_c, "the input's size is not {shape:?}");
    assert_eq!(
        y,
        shape.batch * shape.out_h * shape.out_w * shape.out_c,
        "the output's size is not {shape:?}"
    );
    assert_eq!(weights, taps(shape) * shape.out_c, "the weights' size is not {shape:?}");
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

struct Forward<'a> {
    shape: &'a ConvShape,
    x: &'a [f32],
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    activation: Activation,
    /// Output rows of all pictures, counted through.
    rows: Range<usize>,
    /// The first element of those rows.
    out: *mut f32,
}

impl Forward<'_> {
    #[inline(always)]
    unsafe fn bias<S: Simd, const FULL: bool>(&self, c: Channels) -> S::V {
        // Safety: the channels are the shape's.
        unsafe {
            match self.bias {
                Some(bias) => load::<S, FULL>(bias.as_ptr().add(c.first), c.n),
                None => S::splat(0.0),
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const FULL: bool>(&self, v: S::V, to: *mut f32, c: Channels) {
        let (low, high) = self.activation.bounds();
        // Safety: the caller's promise.
        unsafe {
            let v = S::at_most(S::at_least(v, S::splat(low)), S::splat(high));
            store::<S, FULL>(to.add(c.first), c.n, v);
        }
    }

    /// One output pixel, with only those of the window's elements that lie in the picture.
    #[inline(always)]
    unsafe fn pixel<S: Simd, const FULL: bool>(
        &self,
        image: usize,
        at: (usize, usize),
        to: *mut f32,
        c: Channels,
    ) {
        let shape = self.shape;
        // Safety: the ranges keep to the picture.
        unsafe {
            let mut sum = self.bias::<S, FULL>(c);
            for r in row_range(shape, at.0) {
                for s in column_range(shape, at.1) {
                    let w = self.weights.as_ptr().add((r * shape.kernel[1] + s) * shape.in_c + c.first);
                    let x = self.x.as_ptr().add(input(shape, image, at, (r, s)) + c.first);
                    sum = S::fma(load::<S, FULL>(x, c.n), load::<S, FULL>(w, c.n), sum);
                }
            }
            self.finish::<S, FULL>(sum, to, c);
        }
    }

    /// `T` neighbouring output pixels whose windows' columns lie in the picture.
    #[inline(always)]
    unsafe fn tile<S: Simd, const K: usize, const STRIDE: usize, const T: usize, const FULL: bool>(
        &self,
        image: usize,
        at: (usize, usize),
        to: *mut f32,
        c: Channels,
    ) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        let rows = row_range(shape, at.0);
        // Safety: the row range and the caller keep the windows in the picture.
        unsafe {
            let mut sums = [self.bias::<S, FULL>(c); T];
            for r in rows {
                let x = self.x.as_ptr().add(input(shape, image, at, (r, 0)) + c.first);
                let w = self.weights.as_ptr().add(r * K * channels + c.first);
                for s in 0..K {
                    let w = load::<S, FULL>(w.add(s * channels), c.n);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let x = load::<S, FULL>(x.add((t * STRIDE + s) * channels), c.n);
                        *sum = S::fma(x, w, *sum);
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                self.finish::<S, FULL>(sum, to.add(t * channels), c);
            }
        }
    }

    /// Pixels `columns` of a row one by one; `out` is the row's first element.
    #[inline(always)]
    unsafe fn pixels<S: Simd>(&self, image: usize, oh: usize, columns: Range<usize>, out: *mut f32) {
        let channels = self.shape.in_c;
        let whole = channels - channels % S::LANES;
        for ow in columns {
            // Safety: the columns are the output's, the channels the shape's.
            unsafe {
                let to = out.add(ow * channels);
                for first in (0..whole).step_by(S::LANES) {
                    self.pixel::<S, true>(image, (oh, ow), to, Channels { first, n: S::LANES });
                }
                if whole < channels {
                    let rest = Channels { first: whole, n: channels - whole };
                    self.pixel::<S, false>(image, (oh, ow), to, rest);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize, const T: usize>(self) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        let whole = channels - channels % S::LANES;
        let interior = interior(shape);
        let tiled = interior.start..interior.end - interior.len() % T;
        for row in self.rows.clone() {
            let (image, oh) = (row / shape.out_h, row % shape.out_h);
            // Safety: `out` holds this task's rows; tiles stay in the interior.
            unsafe {
                let out = self.out.add((row - self.rows.start) * shape.out_w * channels);
                self.pixels::<S>(image, oh, 0..tiled.start, out);
                for ow in tiled.clone().step_by(T) {
                    let to = out.add(ow * channels);
                    for first in (0..whole).step_by(S::LANES) {
                        let c = Channels { first, n: S::LANES };
                        self.tile::<S, K, STRIDE, T, true>(image, (oh, ow), to, c);
                    }
                    if whole < channels {
                        let c = Channels { first: whole, n: channels - whole };
                        self.tile::<S, K, STRIDE, T, false>(image, (oh, ow), to, c);
                    }
                }
                self.pixels::<S>(image, oh, tiled.end..shape.out_w, out);
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

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Safety: passed on.
        unsafe {
            match fast_path(self.shape) {
                (3, 1) => self.rows::<S, 3, 1, 4>(),
                (3, 2) => self.rows::<S, 3, 2, 4>(),
                (5, 1) => self.rows::<S, 5, 1, 4>(),
                (5, 2) => self.rows::<S, 5, 2, 4>(),
                _ => self.rows_of_any::<S>(),
            }
        }
    }
}

/// out = activation(x * weights + bias). `x` and `out` are NHWC, `weights` packed by [`pack`], `bias` has C elements.
///
/// # Panics
/// When `shape` is not depthwise or a slice has not the size that it gives it.
pub fn forward(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
    out: &mut [f32],
) {
    check(shape, x.len(), weights.len(), out.len());
    assert!(bias.is_none_or(|bias| bias.len() == shape.out_c), "the bias has not {} elements", shape.out_c);
    let width = shape.out_w * shape.out_c;
    let shared = Shared::new(out);
    for_chunks(shape.batch * shape.out_h, (TASK / width.max(1)).max(1), |rows| {
        // Safety: the rows of a task are its own.
        let out = unsafe { shared.at(rows.start * width) };
        dispatch(isa, Forward { shape, x, weights, bias, activation, rows, out });
    });
}

struct InputGrad<'a> {
    shape: &'a ConvShape,
    dy: &'a [f32],
    weights: &'a [f32],
    /// Input rows of all pictures, counted through.
    rows: Range<usize>,
    /// The first element of those rows.
    dx: *mut f32,
}

/// The output position from which kernel element `k` looks at input position `at` - pad, if there is one.
#[inline(always)]
fn output(at: usize, k: usize, stride: usize, dilation: usize, len: usize) -> Option<usize> {
    let offset = at.checked_sub(k * dilation)?;
    (offset.is_multiple_of(stride) && offset / stride < len).then_some(offset / stride)
}

impl InputGrad<'_> {
    #[inline(always)]
    unsafe fn pixel<S: Simd, const FULL: bool>(
        &self,
        image: usize,
        (ih, iw): (usize, usize),
        to: *mut f32,
        c: Channels,
    ) {
        let shape = self.shape;
        let ([top, left, ..], [down, right]) = (shape.pads, shape.strides);
        // Safety: `output` keeps to the output's rows and columns.
        unsafe {
            let mut sum = S::splat(0.0);
            for r in 0..shape.kernel[0] {
                let Some(oh) = output(ih + top, r, down, shape.dilations[0], shape.out_h) else { continue };
                for s in 0..shape.kernel[1] {
                    let ow = output(iw + left, s, right, shape.dilations[1], shape.out_w);
                    let Some(ow) = ow else { continue };
                    let w = self.weights.as_ptr().add((r * shape.kernel[1] + s) * shape.in_c + c.first);
                    let dy = ((image * shape.out_h + oh) * shape.out_w + ow) * shape.in_c + c.first;
                    let dy = load::<S, FULL>(self.dy.as_ptr().add(dy), c.n);
                    sum = S::fma(dy, load::<S, FULL>(w, c.n), sum);
                }
            }
            store::<S, FULL>(to.add(c.first), c.n, sum);
        }
    }

    /// `T` neighbouring input pixels. The first is under kernel element 0 of output column `q`, and all output columns
    /// that look at the tile exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, const K: usize, const STRIDE: usize, const T: usize, const FULL: bool>(
        &self,
        image: usize,
        (ih, q): (usize, usize),
        to: *mut f32,
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
                    let w = load::<S, FULL>(w.add(s * channels), c.n);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        if (t + K * STRIDE - s).is_multiple_of(STRIDE) {
                            let column = (t as isize - s as isize) / STRIDE as isize;
                            let dy = load::<S, FULL>(dy.offset(column * channels as isize), c.n);
                            *sum = S::fma(dy, w, *sum);
                        }
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                store::<S, FULL>(to.add(t * channels + c.first), c.n, sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn pixels<S: Simd>(&self, image: usize, ih: usize, columns: Range<usize>, dx: *mut f32) {
        let channels = self.shape.in_c;
        let whole = channels - channels % S::LANES;
        for iw in columns {
            // Safety: the columns are the input's, the channels the shape's.
            unsafe {
                let to = dx.add(iw * channels);
                for first in (0..whole).step_by(S::LANES) {
                    self.pixel::<S, true>(image, (ih, iw), to, Channels { first, n: S::LANES });
                }
                if whole < channels {
                    let rest = Channels { first: whole, n: channels - whole };
                    self.pixel::<S, false>(image, (ih, iw), to, rest);
                }
            }
        }
    }

    /// The output columns q at which tiles of `T` input columns start.
    #[inline(always)]
    fn tiles<const K: usize, const STRIDE: usize, const T: usize>(&self) -> Range<usize> {
        let (shape, left) = (self.shape, self.shape.pads[1]);
        let step = T / STRIDE;
        let first = ((K - 1) / STRIDE).max(left.div_ceil(STRIDE));
        // The last columns of the tile are seen from q + step - 1; the tile ends at column (q + step) STRIDE - left.
        let end = shape.out_w.min((shape.in_w + left) / STRIDE);
        let count = end.saturating_sub(first) / step;
        first..first + count * step
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize, const T: usize>(self) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        let whole = channels - channels % S::LANES;
        let tiles = self.tiles::<K, STRIDE, T>();
        let tiled = match tiles.is_empty() {
            true => 0..0,
            false => tiles.start * STRIDE - shape.pads[1]..tiles.end * STRIDE - shape.pads[1],
        };
        for row in self.rows.clone() {
            let (image, ih) = (row / shape.in_h, row % shape.in_h);
            // Safety: `dx` holds this task's rows; `tiles` keeps to both pictures.
            unsafe {
                let dx = self.dx.add((row - self.rows.start) * shape.in_w * channels);
                self.pixels::<S>(image, ih, 0..tiled.start, dx);
                for q in tiles.clone().step_by(T / STRIDE) {
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

impl Kernel for InputGrad<'_> {
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
pub fn input_grad(isa: Isa, shape: &ConvShape, dy: &[f32], weights: &[f32], dx: &mut [f32]) {
    check(shape, dx.len(), weights.len(), dy.len());
    let width = shape.in_w * shape.in_c;
    let shared = Shared::new(dx);
    for_chunks(shape.batch * shape.in_h, (TASK / width.max(1)).max(1), |rows| {
        // Safety: the rows of a task are its own.
        let dx = unsafe { shared.at(rows.start * width) };
        dispatch(isa, InputGrad { shape, dy, weights, rows, dx });
    });
}

struct WeightGrad<'a> {
    shape: &'a ConvShape,
    x: &'a [f32],
    dy: &'a [f32],
    /// Output rows of all pictures, counted through.
    rows: Range<usize>,
    /// R, S, C.
    dw: &'a mut [f32],
}

impl WeightGrad<'_> {
    /// Adds the products of kernel row `r` at output columns `columns`, one by one.
    #[inline(always)]
    unsafe fn pixels<S: Simd, const FULL: bool>(
        &mut self,
        image: usize,
        (oh, r): (usize, usize),
        columns: Range<usize>,
        c: Channels,
    ) {
        let shape = self.shape;
        for ow in columns {
            // Safety: the ranges keep to the picture, the channels are the shape's.
            unsafe {
                let dy = ((image * shape.out_h + oh) * shape.out_w + ow) * shape.in_c + c.first;
                let dy = load::<S, FULL>(self.dy.as_ptr().add(dy), c.n);
                for s in column_range(shape, ow) {
                    let x = self.x.as_ptr().add(input(shape, image, (oh, ow), (r, s)) + c.first);
                    let to = self.dw.as_mut_ptr().add((r * shape.kernel[1] + s) * shape.in_c + c.first);
                    let sum = S::fma(load::<S, FULL>(x, c.n), dy, load::<S, FULL>(to, c.n));
                    store::<S, FULL>(to, c.n, sum);
                }
            }
        }
    }

    /// Adds the products of kernel row `r` at the output columns `columns`, all in the interior, an even number.
    #[inline(always)]
    unsafe fn pairs<S: Simd, const K: usize, const STRIDE: usize, const FULL: bool>(
        &mut self,
        image: usize,
        (oh, r): (usize, usize),
        columns: Range<usize>,
        c: Channels,
    ) {
        let (shape, channels) = (self.shape, self.shape.in_c);
        // Safety: the columns' windows lie in the picture, the channels are the shape's.
        unsafe {
            let mut sums = [[S::splat(0.0); K]; 2];
            for ow in columns.step_by(2) {
                let dy = ((image * shape.out_h + oh) * shape.out_w + ow) * channels + c.first;
                let dy = self.dy.as_ptr().add(dy);
                let x = self.x.as_ptr().add(input(shape, image, (oh, ow), (r, 0)) + c.first);
                for (t, sums) in sums.iter_mut().enumerate() {
                    let dy = load::<S, FULL>(dy.add(t * channels), c.n);
                    for (s, sum) in sums.iter_mut().enumerate() {
                        let x = load::<S, FULL>(x.add((t * STRIDE + s) * channels), c.n);
                        *sum = S::fma(x, dy, *sum);
                    }
                }
            }
            let [even, odd] = sums;
            for s in 0..K {
                let to = self.dw.as_mut_ptr().add((r * K + s) * channels + c.first);
                let sum = S::add(load::<S, FULL>(to, c.n), S::add(even[s], odd[s]));
                store::<S, FULL>(to, c.n, sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const K: usize, const STRIDE: usize, const FULL: bool>(
        &mut self,
        (image, oh): (usize, usize),
        paired: &Range<usize>,
        c: Channels,
    ) {
        for r in row_range(self.shape, oh) {
            // Safety: `paired` is in the interior.
            unsafe {
                self.pixels::<S, FULL>(image, (oh, r), 0..paired.start, c);
                if K > 0 {
                    self.pairs::<S, K, STRIDE, FULL>(image, (oh, r), paired.clone(), c);
                }
                self.pixels::<S, FULL>(image, (oh, r), paired.end..self.shape.out_w, c);
            }
        }
    }

    /// `K` = 0 stands for any kernel.
    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize>(mut self) {
        let channels = self.shape.in_c;
        let whole = channels - channels % S::LANES;
        let interior = if K > 0 { interior(self.shape) } else { 0..0 };
        let paired = interior.start..interior.end - interior.len() % 2;
        for row in self.rows.clone() {
            let at = (row / self.shape.out_h, row % self.shape.out_h);
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

impl Kernel for WeightGrad<'_> {
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
pub fn weight_grad(isa: Isa, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
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

#[cfg(test)]
mod tests;
