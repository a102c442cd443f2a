//! Max, average and global average pooling over NHWC activations, and their gradients.

use super::convert::convert_task;
use super::element::{Element, ViewMut};
use super::elementwise::Sum;
use super::parallel::with_scratch;
use super::rows::{Map, Shared, TASK, fold_rows, for_chunks, for_tasks, load, map_rows, store};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::{self, elements};
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

/// The window of one output pixel.
#[derive(Default)]
struct Window {
    /// The offsets in the picture of its elements at channel 0, in row order.
    elements: Vec<usize>,
    /// How many elements a mean counts.
    count: f32,
}

impl PoolShape {
    /// Whether it is the shape of a pooling, and all that a kernel computes from its numbers fits an `isize`.
    pub fn fits(&self) -> bool {
        let &PoolShape { kernel, strides, pads, dilations, .. } = self;
        let along = |axis: usize, sizes: [usize; 2]| {
            size::reach(sizes, [pads[axis], pads[axis + 2]], [kernel[axis], strides[axis], dilations[axis]])
        };
        let (Some(rows), Some(columns)) =
            (along(0, [self.in_h, self.out_h]), along(1, [self.in_w, self.out_w]))
        else {
            return false;
        };
        strides.iter().chain(&dilations).chain(&kernel).all(|&n| n > 0)
            && size::product([self.batch, rows, columns, self.channels]).is_some()
    }

    /// Checks the sizes of the input and the output.
    ///
    /// # Panics
    /// When they are others, or the shape does not [fit](PoolShape::fits).
    #[track_caller]
    pub(super) fn check(&self, x: usize, y: usize) {
        assert!(self.fits(), "no pooling: {self:?}");
        let PoolShape { batch, in_h, in_w, channels, out_h, out_w, .. } = *self;
        assert_eq!(x, elements([batch, in_h, in_w, channels]), "the input's size is not {self:?}");
        assert_eq!(y, elements([batch, out_h, out_w, channels]), "the output's size is not {self:?}");
    }

    #[inline(always)]
    fn row_range(&self, oh: usize) -> Range<usize> {
        inside(oh, self.strides[0], self.pads[0], self.dilations[0], self.kernel[0], self.in_h)
    }

    #[inline(always)]
    fn column_range(&self, ow: usize) -> Range<usize> {
        inside(ow, self.strides[1], self.pads[1], self.dilations[1], self.kernel[1], self.in_w)
    }

    /// Moves `window` to output (oh, ow).
    fn window(&self, oh: usize, ow: usize, pool: Pool, window: &mut Window) {
        window.elements.clear();
        for r in self.row_range(oh) {
            let h = oh * self.strides[0] + r * self.dilations[0] - self.pads[0];
            for s in self.column_range(ow) {
                let w = ow * self.strides[1] + s * self.dilations[1] - self.pads[1];
                window.elements.push((h * self.in_w + w) * self.channels);
            }
        }
        let count = match pool {
            // Past the padding at the end nothing counts (a window that `ceil_mode` added).
            Pool::Average { count_include_pad: true } => {
                self.padded(oh, 0, self.in_h) * self.padded(ow, 1, self.in_w)
            }
            _ => window.elements.len(),
        };
        window.count = count as f32;
    }

    #[inline(always)]
    fn padded(&self, out: usize, axis: usize, len: usize) -> usize {
        let len = len + self.pads[axis] + self.pads[axis + 2];
        inside(out, self.strides[axis], 0, self.dilations[axis], self.kernel[axis], len).len()
    }
}

/// The larger of two, or a NaN if either is one.
#[inline(always)]
unsafe fn max<S: Simd>(a: S::V, b: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe { S::select_nan(a, a, S::at_least(b, a)) }
}

struct Forward<'a, E> {
    shape: &'a PoolShape,
    pool: Pool,
    x: &'a [E],
    /// Output rows of all pictures, counted through.
    rows: Range<usize>,
    out: *mut E,
}

/// The pooled value of `n` channels of a window; `x` is the picture from the first of them on.
#[inline(always)]
unsafe fn pooled<S: Simd, E: Element, const FULL: bool>(
    x: *const E,
    window: &Window,
    pool: Pool,
    n: usize,
) -> S::V {
    // Safety: the window's elements lie in the picture.
    unsafe {
        match pool {
            Pool::Max => {
                let mut most = S::splat(f32::NEG_INFINITY);
                for &at in &window.elements {
                    most = max::<S>(most, load::<S, _, FULL>(x.add(at), n));
                }
                most
            }
            Pool::Average { .. } => {
                let mut sum = S::splat(0.0);
                for &at in &window.elements {
                    sum = S::add(sum, load::<S, _, FULL>(x.add(at), n));
                }
                S::div(sum, S::splat(window.count))
            }
        }
    }
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (shape, channels) = (self.shape, self.shape.channels);
        let whole = channels - channels % S::LANES;
        let mut window = Window::default();
        for row in self.rows.clone() {
            let (image, oh) = (row / shape.out_h, row % shape.out_h);
            for ow in 0..shape.out_w {
                shape.window(oh, ow, self.pool, &mut window);
                // Safety: `out` holds the rows of this task from `rows.start` on; the channels are the shape's.
                unsafe {
                    let x = self.x.as_ptr().add(image * shape.in_h * shape.in_w * channels);
                    let out = self.out.add(((row - self.rows.start) * shape.out_w + ow) * channels);
                    for c in (0..whole).step_by(S::LANES) {
                        let v = pooled::<S, E, true>(x.add(c), &window, self.pool, S::LANES);
                        E::store::<S>(out.add(c), v);
                    }
                    if whole < channels {
                        let n = channels - whole;
                        let v = pooled::<S, E, false>(x.add(whole), &window, self.pool, n);
                        E::store_first::<S>(out.add(whole), n, v);
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
pub fn pool<E: Element>(isa: Isa, pool: Pool, shape: &PoolShape, x: &[E], out: &mut [E]) {
    shape.check(x.len(), out.len());
    let width = shape.out_w * shape.channels;
    let window = shape.kernel[0] * shape.kernel[1];
    let shared = Shared::new(out);
    let rows = (TASK / width.saturating_mul(window).max(1)).max(1);
    for_chunks(shape.batch * shape.out_h, rows, |rows| {
        // Safety: the rows of a task are its own.
        let out = unsafe { shared.at(rows.start * width) };
        dispatch(isa, Forward { shape, pool, x, rows, out });
    });
}

struct Backward<'a, E> {
    shape: &'a PoolShape,
    pool: Pool,
    /// The picture's input.
    x: &'a [E],
    /// The picture's gradient.
    dy: &'a [E],
    /// Input rows of the picture that this task writes.
    band: Range<usize>,
    /// The elements of the band: sums, so f32.
    dx: &'a mut [f32],
}

/// The place among the window's elements of the one that a maximum came from: the first of the largest, or the last
/// NaN, as PyTorch has it.
#[inline(always)]
unsafe fn winner<S: Simd, E: Element, const FULL: bool>(x: *const E, window: &Window, n: usize) -> S::V {
    // Safety: the window's elements lie in the picture.
    unsafe {
        let mut most = S::splat(f32::NEG_INFINITY);
        // If all elements are minus infinity, none is larger: the first has it.
        let mut winner = S::splat(0.0);
        for (place, &at) in window.elements.iter().enumerate() {
            let x = load::<S, _, FULL>(x.add(at), n);
            let here = S::splat(place as f32);
            winner = S::select_nan(x, here, S::select_gt(x, most, here, winner));
            most = max::<S>(most, x);
        }
        winner
    }
}

impl<E: Element> Backward<'_, E> {
    /// Spreads the gradient of one output over those of its window's elements, `inside`, that lie in the band; `from` is
    /// the offset of the output.
    #[inline(always)]
    unsafe fn spread<S: Simd, const FULL: bool>(
        &mut self,
        window: &Window,
        inside: Range<usize>,
        from: usize,
        (c, n): (usize, usize),
    ) {
        let start = self.band.start * self.shape.in_w * self.shape.channels;
        // Safety: the window's elements lie in the picture, `inside` in the band, the channels are the shape's.
        unsafe {
            let dy = load::<S, _, FULL>(self.dy.as_ptr().add(from + c), n);
            let dx = self.dx.as_mut_ptr();
            match self.pool {
                Pool::Max => {
                    let winner = winner::<S, E, FULL>(self.x.as_ptr().add(c), window, n);
                    for place in inside {
                        let to = dx.add(window.elements[place] - start + c);
                        let share = S::where_eq(winner, S::splat(place as f32), dy);
                        store::<S, _, FULL>(to, n, S::add(load::<S, _, FULL>(to, n), share));
                    }
                }
                Pool::Average { .. } => {
                    let share = S::div(dy, S::splat(window.count));
                    for place in inside {
                        let to = dx.add(window.elements[place] - start + c);
                        store::<S, _, FULL>(to, n, S::add(load::<S, _, FULL>(to, n), share));
                    }
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

    /// Which of the window's elements lie in the band.
    fn inside(&self, window: &Window) -> Range<usize> {
        let width = self.shape.in_w * self.shape.channels;
        let before = |row: usize| window.elements.partition_point(|&at| at < row * width);
        before(self.band.start)..before(self.band.end)
    }
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (shape, channels) = (self.shape, self.shape.channels);
        let whole = channels - channels % S::LANES;
        let mut window = Window::default();
        self.dx.fill(0.0);
        for oh in self.out_rows() {
            for ow in 0..shape.out_w {
                shape.window(oh, ow, self.pool, &mut window);
                let inside = self.inside(&window);
                let from = (oh * shape.out_w + ow) * channels;
                // Safety: the channels are the shape's.
                unsafe {
                    for c in (0..whole).step_by(S::LANES) {
                        self.spread::<S, true>(&window, inside.clone(), from, (c, S::LANES));
                    }
                    if whole < channels {
                        self.spread::<S, false>(&window, inside.clone(), from, (whole, channels - whole));
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
pub fn pool_grad<E: Element>(isa: Isa, pool: Pool, shape: &PoolShape, x: &[E], dy: &[E], dx: &mut [E]) {
    shape.check(dx.len(), dy.len());
    assert!(pool != Pool::Max || x.len() == dx.len(), "a maximum's gradient needs its input");
    if dx.is_empty() {
        return;
    }
    let width = shape.in_w * shape.channels;
    // A band repeats the windows that reach over its edges: make it several windows high.
    let reach = shape.kernel[0] * shape.dilations[0];
    let height = (TASK / width).max(reach.saturating_mul(4)).min(shape.in_h);
    let bands = shape.in_h.div_ceil(height);
    let (in_size, out_size) = (shape.in_h * width, shape.out_h * shape.out_w * shape.channels);
    let shared = Shared::new(dx);
    for_tasks(shape.batch * bands, |task| {
        let (image, start) = (task / bands, task % bands * height);
        let band = start..shape.in_h.min(start + height);
        let (at, len) = (image * in_size + start * width, band.len() * width);
        // Safety: the bands of all pictures are disjoint.
        let dx = unsafe { std::slice::from_raw_parts_mut(shared.at(at), len) };
        let x = if pool == Pool::Max { &x[image * in_size..(image + 1) * in_size] } else { x };
        let dy = &dy[image * out_size..(image + 1) * out_size];
        match E::view_mut(dx) {
            ViewMut::F32(dx) => dispatch(isa, Backward { shape, pool, x, dy, band, dx }),
            ViewMut::Bf16(_) | ViewMut::F16(_) => with_scratch(len, |sums| {
                dispatch(isa, Backward { shape, pool, x, dy, band, dx: sums });
                convert_task(isa, sums, dx);
            }),
        }
    });
}

/// out = the mean over the pixels of each picture: `x` is batch x pixels x channels, `out` batch x channels.
///
/// # Panics
/// When `out` is not `batch` rows, or `x` not a whole number of pixels for each.
pub fn global_average<E: Element>(isa: Isa, batch: usize, x: &[E], out: &mut [E]) {
    assert!(
        batch > 0 && !out.is_empty() && out.len().is_multiple_of(batch) && x.len().is_multiple_of(out.len())
    );
    let (channels, pixels) = (out.len() / batch, x.len() / out.len());
    let shared = Shared::new(out);
    for_tasks(batch, |image| {
        // Safety: each picture has its own row of `out`.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(image * channels), channels) };
        let mut sums = vec![0.0; channels];
        fold_rows(isa, [x], [], image * pixels..(image + 1) * pixels, &mut sums, Sum);
        for (mean, sum) in out.iter_mut().zip(sums) {
            *mean = E::from_f32(sum / pixels as f32);
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
pub fn global_average_grad<E: Element>(isa: Isa, batch: usize, dy: &[E], dx: &mut [E]) {
    let pixels = (dx.len() / dy.len().max(1)) as f32;
    let dy: Vec<f32> = dy.iter().map(|dy| dy.to_f32()).collect();
    map_rows(isa, [], [&dy], batch, dx, Spread { pixels });
}

#[cfg(test)]
mod tests;
