//! Max, average and global average pooling over NHWC activations, and their gradients.

use super::elementwise::Sum;
use super::rows::{Map, Shared, TASK, fold_rows, for_chunks, for_tasks, load, map_rows, store};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::window::inside;
use std::ops::Range;

/// The shape of a pooling. With `ceil_mode` the output is larger; the given output size says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Pictures.
    pub batch: usize,
    /// Input height in pixels.
    pub in_h: usize,
    /// Input width in pixels.
    pub in_w: usize,
    /// Channels.
    pub channels: usize,
    /// Output height in pixels.
    pub out_h: usize,
    /// Output width in pixels.
    pub out_w: usize,
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub strides: [usize; 2],
    /// Padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Vertical and horizontal distance between the window's elements.
    pub dilations: [usize; 2],
}

/// What a pooling does with its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The largest element; padding never is. A NaN is larger than any number. The gradient goes to the first of the
    /// largest elements in row order.
    Max,
    /// The mean.
    Average {
        /// Whether padding counts in the divisor.
        count_include_pad: bool,
    },
}

/// A window: the kernel rows and columns inside the picture, and the input position of its element (0, 0), which may
/// lie outside.
struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Elements in the divisor of a mean.
    count: f32,
}

impl PoolShape {
    fn check(&self, x: usize, y: usize) {
        assert_eq!(x, self.batch * self.in_h * self.in_w * self.channels, "the input's size is not {self:?}");
        assert_eq!(
            y,
            self.batch * self.out_h * self.out_w * self.channels,
            "the output's size is not {self:?}"
        );
        assert!(self.strides.iter().chain(&self.dilations).all(|&step| step > 0), "a step of 0 in {self:?}");
        assert!(self.kernel.iter().all(|&size| size > 0), "an empty window in {self:?}");
    }

    #[inline(always)]
    fn row_range(&self, oh: usize) -> Range<usize> {
        inside(oh, self.strides[0], self.pads[0], self.dilations[0], self.kernel[0], self.in_h)
    }

    #[inline(always)]
    fn column_range(&self, ow: usize) -> Range<usize> {
        inside(ow, self.strides[1], self.pads[1], self.dilations[1], self.kernel[1], self.in_w)
    }

    #[inline(always)]
    fn window(&self, oh: usize, ow: usize, pool: Pool) -> Window {
        let (rows, columns) = (self.row_range(oh), self.column_range(ow));
        let padded = matches!(pool, Pool::Average { count_include_pad: true });
        let count = match padded {
            false => rows.len() * columns.len(),
            // Past the padding at the end nothing counts (a window that `ceil_mode` added).
            true => self.padded(oh, 0, self.in_h) * self.padded(ow, 1, self.in_w),
        };
        Window { rows, columns, count: count as f32 }
    }

    #[inline(always)]
    fn padded(&self, out: usize, axis: usize, len: usize) -> usize {
        let len = len + self.pads[axis] + self.pads[axis + 2];
        inside(out, self.strides[axis], 0, self.dilations[axis], self.kernel[axis], len).len()
    }

    /// The input element under kernel element (r, s) of output (oh, ow), which must be inside the picture.
    #[inline(always)]
    fn input(&self, image: usize, (oh, ow): (usize, usize), (r, s): (usize, usize)) -> usize {
        let h = oh * self.strides[0] + r * self.dilations[0] - self.pads[0];
        let w = ow * self.strides[1] + s * self.dilations[1] - self.pads[1];
        ((image * self.in_h + h) * self.in_w + w) * self.channels
    }
}

/// The larger of two, or a NaN if either is one.
#[inline(always)]
unsafe fn max<S: Simd>(a: S::V, b: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe { S::select_nan(a, a, S::at_least(b, a)) }
}

struct Forward<'a> {
    shape: &'a PoolShape,
    pool: Pool,
    x: &'a [f32],
    /// Output rows of all pictures, counted through.
    rows: Range<usize>,
    out: *mut f32,
}

impl Forward<'_> {
    #[inline(always)]
    unsafe fn block<S: Simd, const FULL: bool>(
        &self,
        window: &Window,
        image: usize,
        at: (usize, usize),
        (c, n): (usize, usize),
    ) -> S::V {
        let average = self.pool != Pool::Max;
        // Safety: the window's ranges keep to the picture, c + n to the channels.
        unsafe {
            let mut v = S::splat(if average { 0.0 } else { f32::NEG_INFINITY });
            for r in window.rows.clone() {
                for s in window.columns.clone() {
                    let x = load::<S, FULL>(self.x.as_ptr().add(self.shape.input(image, at, (r, s)) + c), n);
                    v = if average { S::add(v, x) } else { max::<S>(v, x) };
                }
            }
            if average { S::div(v, S::splat(window.count)) } else { v }
        }
    }
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (shape, channels) = (self.shape, self.shape.channels);
        let whole = channels - channels % S::LANES;
        for row in self.rows.clone() {
            let (image, oh) = (row / shape.out_h, row % shape.out_h);
            for ow in 0..shape.out_w {
                let window = shape.window(oh, ow, self.pool);
                let at = (oh, ow);
                // Safety: `out` holds the rows of this task from `rows.start` on.
                unsafe {
                    let out = self.out.add(((row - self.rows.start) * shape.out_w + ow) * channels);
                    for c in (0..whole).step_by(S::LANES) {
                        let v = self.block::<S, true>(&window, image, at, (c, S::LANES));
                        S::store(out.add(c), v);
                    }
                    if whole < channels {
                        let n = channels - whole;
                        let v = self.block::<S, false>(&window, image, at, (whole, n));
                        S::store_first(out.add(whole), n, v);
                    }
                }
            }
        }
    }
}

/// out = pooled `x`.
///
/// # Panics
/// When a slice has not the size that `shape` gives it.
pub fn pool(isa: Isa, pool: Pool, shape: &PoolShape, x: &[f32], out: &mut [f32]) {
    shape.check(x.len(), out.len());
    let width = shape.out_w * shape.channels;
    let window = shape.kernel[0] * shape.kernel[1];
    let shared = Shared::new(out);
    for_chunks(shape.batch * shape.out_h, (TASK / (width * window).max(1)).max(1), |rows| {
        // Safety: the rows of a task are its own.
        let out = unsafe { shared.at(rows.start * width) };
        dispatch(isa, Forward { shape, pool, x, rows, out });
    });
}

struct Backward<'a> {
    shape: &'a PoolShape,
    pool: Pool,
    x: &'a [f32],
    dy: &'a [f32],
    image: usize,
    /// Input rows of the picture that this task writes.
    band: Range<usize>,
    /// The first element of the band.
    dx: *mut f32,
}

impl Backward<'_> {
    /// The place in the window, counted in row order, of the element that a maximum came from: the first of the largest
    /// elements, or the last NaN, as PyTorch has it.
    #[inline(always)]
    unsafe fn winner<S: Simd, const FULL: bool>(
        &self,
        window: &Window,
        at: (usize, usize),
        (c, n): (usize, usize),
    ) -> S::V {
        // Safety: the window's ranges keep to the picture, c + n to the channels.
        unsafe {
            let mut most = S::splat(f32::NEG_INFINITY);
            let mut winner = S::splat(-1.0);
            let mut place = 0.0;
            for r in window.rows.clone() {
                for s in window.columns.clone() {
                    let x = self.x.as_ptr().add(self.shape.input(self.image, at, (r, s)) + c);
                    let x = load::<S, FULL>(x, n);
                    let here = S::splat(place);
                    winner = S::select_gt(x, most, here, winner);
                    winner = S::select_nan(x, here, winner);
                    most = max::<S>(most, x);
                    place += 1.0;
                }
            }
            // All elements were -inf: the first has it.
            S::at_least(winner, S::splat(0.0))
        }
    }

    /// Spreads the gradient of one output over its window.
    #[inline(always)]
    unsafe fn block<S: Simd, const FULL: bool>(
        &self,
        window: &Window,
        at: (usize, usize),
        (c, n): (usize, usize),
    ) {
        let shape = self.shape;
        let average = self.pool != Pool::Max;
        let from = ((self.image * shape.out_h + at.0) * shape.out_w + at.1) * shape.channels + c;
        // Safety: as in `winner`; the rows written are those of the band.
        unsafe {
            let mut dy = load::<S, FULL>(self.dy.as_ptr().add(from), n);
            let winner = match average {
                true => S::splat(0.0),
                false => self.winner::<S, FULL>(window, at, (c, n)),
            };
            if average {
                dy = S::div(dy, S::splat(window.count));
            }
            let start = (self.image * shape.in_h + self.band.start) * shape.in_w * shape.channels;
            for (i, r) in window.rows.clone().enumerate() {
                let h = at.0 * shape.strides[0] + r * shape.dilations[0] - shape.pads[0];
                if !self.band.contains(&h) {
                    continue;
                }
                for (j, s) in window.columns.clone().enumerate() {
                    let to = self.dx.add(shape.input(self.image, at, (r, s)) - start + c);
                    let here = S::splat((i * window.columns.len() + j) as f32);
                    let share = if average { dy } else { S::where_eq(winner, here, dy) };
                    store::<S, FULL>(to, n, S::add(load::<S, FULL>(to, n), share));
                }
            }
        }
    }

    /// The output rows whose windows reach the band.
    fn out_rows(&self) -> Range<usize> {
        let shape = self.shape;
        let reach = (shape.kernel[0] - 1) * shape.dilations[0];
        let first = (self.band.start + shape.pads[0]).saturating_sub(reach) / shape.strides[0];
        let end = (self.band.end - 1 + shape.pads[0]) / shape.strides[0] + 1;
        first.min(shape.out_h)..end.min(shape.out_h)
    }
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.shape.channels;
        let whole = channels - channels % S::LANES;
        // Safety: the band is this task's; blocks keep to the channels.
        unsafe {
            std::ptr::write_bytes(self.dx, 0, self.band.len() * self.shape.in_w * channels);
            for oh in self.out_rows() {
                for ow in 0..self.shape.out_w {
                    let window = self.shape.window(oh, ow, self.pool);
                    for c in (0..whole).step_by(S::LANES) {
                        self.block::<S, true>(&window, (oh, ow), (c, S::LANES));
                    }
                    if whole < channels {
                        self.block::<S, false>(&window, (oh, ow), (whole, channels - whole));
                    }
                }
            }
        }
    }
}

/// dx = the gradient of [`pool`]. `x` is its input (read by `Max` only).
///
/// # Panics
/// When a slice has not the size that `shape` gives it.
pub fn pool_grad(isa: Isa, pool: Pool, shape: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    shape.check(dx.len(), dy.len());
    assert!(pool != Pool::Max || x.len() == dx.len(), "a maximum's gradient needs its input");
    if dx.is_empty() {
        return;
    }
    let width = shape.in_w * shape.channels;
    // A band repeats the windows that reach over its edges: make it several windows high.
    let reach = shape.kernel[0] * shape.dilations[0];
    let height = (TASK / width).max(4 * reach).min(shape.in_h);
    let bands = shape.in_h.div_ceil(height);
    let shared = Shared::new(dx);
    for_tasks(shape.batch * bands, |task| {
        let (image, start) = (task / bands, task % bands * height);
        let band = start..shape.in_h.min(start + height);
        // Safety: the bands of all pictures are disjoint.
        let dx = unsafe { shared.at((image * shape.in_h + start) * width) };
        dispatch(isa, Backward { shape, pool, x, dy, image, band, dx });
    });
}

/// out = the mean over the pixels of each picture: `x` is batch x pixels x channels, `out` batch x channels.
///
/// # Panics
/// When `out` is not `batch` rows, or `x` not a whole number of pixels for each.
pub fn global_average(isa: Isa, batch: usize, x: &[f32], out: &mut [f32]) {
    assert!(
        batch > 0 && !out.is_empty() && out.len().is_multiple_of(batch) && x.len().is_multiple_of(out.len())
    );
    let (channels, pixels) = (out.len() / batch, x.len() / out.len());
    let shared = Shared::new(out);
    for_tasks(batch, |image| {
        // Safety: each picture has its own row of `out`.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(image * channels), channels) };
        fold_rows(isa, [x], [], image * pixels..(image + 1) * pixels, out, Sum);
        for mean in out {
            *mean /= pixels as f32;
        }
    });
}

#[derive(Clone, Copy)]
struct Spread {
    pixels: f32,
}

impl Map<0, 1> for Spread {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, []: [S::V; 0], [dy]: [S::V; 1]) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::div(dy, S::splat(self.pixels)) }
    }
}

/// dx = dy / pixels, for every pixel: the gradient of [`global_average`].
///
/// # Panics
/// As [`global_average`].
pub fn global_average_grad(isa: Isa, batch: usize, dy: &[f32], dx: &mut [f32]) {
    let pixels = (dx.len() / dy.len().max(1)) as f32;
    map_rows(isa, [], [dy], batch, dx, Spread { pixels });
}

#[cfg(test)]
mod tests;
