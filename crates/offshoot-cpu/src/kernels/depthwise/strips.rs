//! Depthwise convolution of a training step, strip by strip: the input and the output's gradient are computed as their rows are
//! needed and never lie in memory, and what batch norms wait for is summed while a strip is in the cache.
//!
//! A task takes a part of a picture's rows, a strip at a time; rows that the next strip reads too stay in scratch. On the way back
//! these have zeros beside them, so that no pixel is at a border.
//! Strips depend on the shape alone, so the result is the same bits for any number of threads.

use std::ops::Range;

use super::{Forward, check, fast_path, supports, taps};
use crate::kernels::Activation;
use crate::kernels::ConvShape;
use crate::kernels::backward::{Gradients, Operands};
use crate::kernels::batch_norm::area_moments;
use crate::kernels::convert::convert_rows;
use crate::kernels::element::{Element, Stored};
use crate::kernels::parallel::{self, Shared};
use crate::kernels::prefetch;
use crate::kernels::rows::{Area, add_partials};
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::source::Source;

/// Floats of input rows that a strip brings to scratch, so few that what is computed from them stays in a second-level cache of
/// 512 KiB.
const STRIP: usize = 20 << 10;

/// Fewest tasks to cut a batch into.
const TASKS: usize = 16;

/// Whether the functions here take `shape`.
pub fn takes_strips(shape: &ConvShape) -> bool {
    supports(shape) && fast_path(shape) != (0, 0) && fast_path(shape).0 >= fast_path(shape).1
}

/// Rows of a picture, some of all rows of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Strip {
    image: usize,
    rows: Range<usize>,
}

/// The tasks that rows are cut into, each with its strips in order. `height` rows a picture, `most` rows a strip.
fn cut(batch: usize, height: usize, most: usize) -> Vec<Vec<Strip>> {
    let parts = TASKS.div_ceil(batch.max(1)).min(height).max(1);
    let of_part = |image: usize, part: usize| {
        let rows = parallel::part(height, parts, part);
        let strip = |start| Strip { image, rows: start..rows.end.min(start + most) };
        rows.clone().step_by(most).map(strip).collect()
    };
    (0..batch)
        .flat_map(|image| (0..parts).map(move |part| (image, part)))
        .map(|(i, p)| of_part(i, p))
        .collect()
}

/// The tasks of the forward convolution, by output rows.
fn forward_tasks(shape: &ConvShape) -> Vec<Vec<Strip>> {
    let most = STRIP / (shape.in_w * shape.in_c * shape.strides[0]).max(1);
    cut(shape.batch, shape.out_h, most.max(1))
}

/// The tasks of the backward convolution, by input rows.
fn backward_tasks(shape: &ConvShape) -> Vec<Vec<Strip>> {
    let most = STRIP / (shape.in_w * shape.in_c).max(1);
    cut(shape.batch, shape.in_h, most.max(1))
}

/// The pixels of the parts of which [`forward_in_training`] leaves moments.
pub fn moment_rows(shape: &ConvShape) -> Vec<usize> {
    forward_tasks(shape).iter().flatten().map(|strip| strip.rows.len() * shape.out_w).collect()
}

/// Parts of the sums that [`backward`] leaves.
pub fn sum_parts(shape: &ConvShape) -> usize {
    backward_tasks(shape).iter().map(Vec::len).sum()
}

/// The number of each task's first strip.
fn firsts(tasks: &[Vec<Strip>]) -> Vec<usize> {
    let mut next = 0;
    let first = |task: &Vec<Strip>| {
        next += task.len();
        next - task.len()
    };
    tasks.iter().map(first).collect()
}

/// Rows of a picture that lie in scratch, with zeros beside them; the last may be wanted by the next strip too.
struct Window<'a, E> {
    source: &'a Source<'a, E>,
    /// Rows and columns of a picture.
    size: [usize; 2],
    channels: usize,
    /// Floats from a pixel to the next.
    pixel: usize,
    /// Pixels of zeros at the left, and pixels of a row in all.
    left: usize,
    width: usize,
    held: Range<usize>,
    /// Zeros at first.
    scratch: &'a mut [f32],
}

impl<E: Element> Window<'_, E> {
    /// Floats of a row.
    #[inline(always)]
    fn pitch(&self) -> usize {
        self.width * self.pixel
    }

    /// Brings rows `rows` of a picture to the front of the scratch. Those that are there already are moved.
    fn bring(&mut self, isa: Isa, image: usize, rows: Range<usize>) {
        let ([height, width], pitch) = (self.size, self.pitch());
        let kept = rows.start.max(self.held.start)..rows.end.min(self.held.end);
        let kept = if kept.start == rows.start && !kept.is_empty() {
            let from = (kept.start - self.held.start) * pitch;
            self.scratch.copy_within(from..from + kept.len() * pitch, 0);
            kept
        } else {
            rows.start..rows.start
        };
        for row in kept.end..rows.end {
            let first = (image * height + row) * width;
            let to = &mut self.scratch[(row - rows.start) * pitch + self.left * self.pixel..];
            self.source.read(isa, self.channels, first..first + width, 0..self.channels, (to, self.pixel));
        }
        self.held = rows;
    }

    /// Asks for the `count` rows after those that are held.
    fn prefetch(&self, image: usize, count: usize) {
        let [height, width] = self.size;
        let rows = self.held.end..height.min(self.held.end + count);
        let first = image * height * width;
        let pixels = first + rows.start * width..first + rows.end * width;
        for stream in self.source.streams(self.channels, &pixels) {
            prefetch::elements(stream, 0..stream.len());
        }
    }
}

/// y = conv(x) for a batch norm to follow: the input is computed while it is read, and `moments`, if any, gets those of the output
/// for [`batch_norm_join`](crate::kernels::batch_norm::batch_norm_join): two rows of channels for each of [`moment_rows`].
/// `weights` are packed by [`pack`](super::pack).
///
/// # Panics
/// When `shape` is not one that [`takes_strips`], or a slice has not the size that it gives it.
pub fn forward_in_training<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &Source<'_, E>,
    weights: &[f32],
    y: &mut [E],
    moments: Option<&mut [f32]>,
) {
    assert!(takes_strips(shape), "not for {shape:?}");
    check(shape, x.len(), weights.len(), y.len());
    let tasks = forward_tasks(shape);
    let firsts = firsts(&tasks);
    if let Some(moments) = &moments {
        let parts: usize = tasks.iter().map(Vec::len).sum();
        assert_eq!(moments.len(), 2 * parts * shape.out_c, "moments of {shape:?}");
    }
    let (y, moments) = (Shared::new(y), moments.map(Shared::new));
    let most = tasks.iter().flatten().map(|strip| strip.rows.len()).max().unwrap_or(0);
    let rows = most * shape.strides[0] + shape.kernel[0];
    let scratch = rows * shape.in_w * shape.in_c + isa.lanes();
    let zeros: &[f32] = &vec![0.0; shape.in_c];
    parallel::for_each_task(tasks.len(), usize::MAX, |task| {
        parallel::with_scratch(scratch, |scratch| {
            let (strips, first) = (&tasks[task], firsts[task]);
            ForwardTask { isa, shape, x, weights, zeros, y, moments, strips, first, scratch }.run();
        });
    });
}

/// A task of [`forward_in_training`].
struct ForwardTask<'a, E> {
    isa: Isa,
    shape: &'a ConvShape,
    x: &'a Source<'a, E>,
    weights: &'a [f32],
    zeros: &'a [f32],
    y: Shared<E>,
    moments: Option<Shared>,
    strips: &'a [Strip],
    /// The number of the first strip.
    first: usize,
    scratch: &'a mut [f32],
}

impl<E: Element> ForwardTask<'_, E> {
    fn run(self) {
        let (isa, shape) = (self.isa, self.shape);
        let ConvShape { in_h, in_w, in_c, out_h, out_w, out_c, .. } = *shape;
        let (stride, pad, kernel) = (shape.strides[0], shape.pads[0], shape.kernel[0]);
        let mut window = Window {
            source: self.x,
            size: [in_h, in_w],
            channels: in_c,
            pixel: in_c,
            left: 0,
            width: in_w,
            held: 0..0,
            scratch: self.scratch,
        };
        for (number, Strip { image, rows }) in self.strips.iter().enumerate() {
            let top = (rows.start * stride).saturating_sub(pad).min(in_h);
            let end = ((rows.end - 1) * stride + kernel).saturating_sub(pad).clamp(top, in_h);
            let pads = [(pad + top) - rows.start * stride, shape.pads[1], 0, shape.pads[3]];
            let strip = ConvShape { batch: 1, in_h: end - top, out_h: rows.len(), pads, ..*shape };
            window.bring(isa, *image, top..end);
            window.prefetch(*image, rows.len() * stride);
            let x = &window.scratch[..(end - top) * in_w * in_c];
            // Safety: the rows of a strip are its own, in the output and among the moments.
            unsafe {
                let out = self.y.at((image * out_h + rows.start) * out_w * out_c);
                let (zeros, weights, activation) = (self.zeros, self.weights, Activation::None);
                let rows = 0..rows.len();
                let shape = &strip;
                dispatch(
                    isa,
                    Forward { shape, x, zeros, weights, bias: None, activation, rows: rows.clone(), out },
                );
                if let Some(moments) = self.moments {
                    let area = Area { rows: rows.len() * out_w, pitch: out_c, cols: out_c };
                    let to = moments.at(2 * (self.first + number) * out_c);
                    area_moments(isa, out.cast_const(), area, (to, out_c));
                }
            }
        }
    }
}

/// All gradients of a depthwise convolution in one pass over memory. The weights are packed by [`pack`](super::pack).
///
/// # Panics
/// As [`forward_in_training`].
pub fn backward<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    operands: Operands<'_, E, &[f32]>,
    gradients: Gradients<'_, E>,
) {
    let Gradients { dx, dw, sums } = gradients;
    assert!(takes_strips(shape), "not for {shape:?}");
    check(shape, operands.x.len(), operands.weights.len(), operands.dy.len());
    assert_eq!([dx.len(), dw.len()], [operands.x.len(), operands.weights.len()], "gradients of {shape:?}");
    let tasks = backward_tasks(shape);
    if let Some(reduction) = operands.reduction {
        reduction.check(dx.len(), shape.in_c, tasks.iter().map(Vec::len).sum(), sums.len());
    }
    let firsts = firsts(&tasks);
    let most = tasks.iter().flatten().map(|strip| strip.rows.len()).max().unwrap_or(0);
    let frame = Frame::new(isa, shape, most);
    let weights = frame.widened(shape, operands.weights);
    let len = taps(shape) * frame.pixel;
    let mut products = vec![0.0; tasks.len() * len];
    let (dx, sums, all) = (Shared::new(dx), Shared::new(sums), Shared::new(&mut products));
    parallel::for_each_task(tasks.len(), usize::MAX, |task| {
        parallel::with_scratch(frame.x_len + frame.dy_len + frame.dx_len, |scratch| {
            let (strips, first) = (&tasks[task], firsts[task]);
            // Safety: each task has products of its own.
            let dw = unsafe { std::slice::from_raw_parts_mut(all.at(task * len), len) };
            let (frame, weights) = (&frame, &weights[..]);
            BackwardTask { isa, shape, frame, operands, weights, dx, dw, sums, strips, first }.run(scratch);
        });
    });
    let mut packed = vec![0.0; len];
    add_partials(&products, &mut packed);
    for (tap, sums) in packed.chunks_exact(frame.pixel).enumerate() {
        for (channel, sum) in sums[..shape.in_c].iter().enumerate() {
            dw[channel * taps(shape) + tap] = *sum;
        }
    }
}

/// How rows lie in the scratch of a [`BackwardTask`].
#[derive(Clone, Copy)]
struct Frame {
    /// Floats of a pixel: channels rounded up to whole vectors.
    pixel: usize,
    /// Pixels of a row of x, with zeros where windows reach out of the picture.
    x_width: usize,
    /// Zeros at the left of a row of dy, and pixels of it in all: where input pixels would read outside of it.
    dy_left: usize,
    dy_width: usize,
    x_len: usize,
    dy_len: usize,
    /// Floats of a strip of dx that is rounded when it is done.
    dx_len: usize,
}

impl Frame {
    /// For strips of at most `most` rows of the input.
    fn new(isa: Isa, shape: &ConvShape, most: usize) -> Frame {
        let ([kernel, stride], pad) = ([shape.kernel[1], shape.strides[1]], shape.pads[1]);
        let pixel = shape.in_c.next_multiple_of(isa.lanes());
        let x_width = (shape.in_w + pad).max((shape.out_w.max(1) - 1) * stride + kernel);
        let dy_left = (kernel - 1).saturating_sub(pad).div_ceil(stride);
        let dy_width = dy_left + shape.out_w.max((shape.in_w + pad).saturating_sub(1) / stride + 1);
        let rows = most + kernel - 1;
        let [x_len, dy_len, dx_len] =
            [rows * x_width * pixel, (rows / stride + 1) * dy_width * pixel, most * shape.in_w * pixel];
        Frame { pixel, x_width, dy_left, dy_width, x_len, dy_len, dx_len }
    }

    /// Packed weights with [`Frame::pixel`] floats a tap.
    fn widened(&self, shape: &ConvShape, packed: &[f32]) -> Vec<f32> {
        let mut wide = vec![0.0; taps(shape) * self.pixel];
        for (to, from) in wide.chunks_exact_mut(self.pixel).zip(packed.chunks_exact(shape.in_c.max(1))) {
            to[..from.len()].copy_from_slice(from);
        }
        wide
    }
}

/// A task of [`backward`].
struct BackwardTask<'a, E> {
    isa: Isa,
    shape: &'a ConvShape,
    frame: &'a Frame,
    operands: Operands<'a, E, &'a [f32]>,
    /// R, S, pixel.
    weights: &'a [f32],
    dx: Shared<E>,
    /// R, S, pixel; zeros at first.
    dw: &'a mut [f32],
    sums: Shared,
    strips: &'a [Strip],
    /// The number of the first strip.
    first: usize,
}

/// The output rows whose windows reach input rows `rows`.
fn reached(shape: &ConvShape, rows: &Range<usize>) -> Range<usize> {
    let (stride, pad) = (shape.strides[0], shape.pads[0]);
    let first = (rows.start + pad + 1).saturating_sub(shape.kernel[0]).div_ceil(stride).min(shape.out_h);
    first..((rows.end - 1 + pad) / stride + 1).clamp(first, shape.out_h)
}

/// The output rows among `reached` whose windows end in input rows `rows`, or beyond them where the picture ends.
fn ending(shape: &ConvShape, rows: &Range<usize>, reached: &Range<usize>) -> Range<usize> {
    let last =
        |output: usize| (output * shape.strides[0] + shape.kernel[0] - 1).saturating_sub(shape.pads[0]);
    let start = reached.clone().find(|&output| last(output) >= rows.start).unwrap_or(reached.end);
    let end = match rows.end == shape.in_h {
        true => reached.end,
        false => reached.clone().find(|&output| last(output) >= rows.end).unwrap_or(reached.end),
    };
    start..end.max(start)
}

impl<E: Element> BackwardTask<'_, E> {
    fn run(self, scratch: &mut [f32]) {
        let BackwardTask { isa, shape, frame, operands, weights, dx, dw, sums, strips, first } = self;
        let ConvShape { in_h, in_w, in_c, out_h, out_w, .. } = *shape;
        let Operands { dy, x, reduction, .. } = operands;
        let (x_rows, rest) = scratch.split_at_mut(frame.x_len);
        let (dy_rows, rest) = rest.split_at_mut(frame.dy_len);
        x_rows.fill(0.0);
        dy_rows.fill(0.0);
        let (channels, pixel, left) = (in_c, frame.pixel, shape.pads[1]);
        let (size, width) = ([in_h, in_w], frame.x_width);
        let mut x = Window { source: x, size, channels, pixel, left, width, held: 0..0, scratch: x_rows };
        let (size, width, left) = ([out_h, out_w], frame.dy_width, frame.dy_left);
        let mut dy = Window { source: dy, size, channels, pixel, left, width, held: 0..0, scratch: dy_rows };
        for (number, Strip { image, rows }) in strips.iter().enumerate() {
            let outputs = reached(shape, rows);
            x.bring(isa, *image, rows.start.saturating_sub(shape.kernel[0] - 1)..rows.end);
            dy.bring(isa, *image, outputs.clone());
            x.prefetch(*image, rows.len());
            dy.prefetch(*image, rows.len() / shape.strides[0]);
            let (x, dy) = ((&*x.scratch, x.held.start), (&*dy.scratch, outputs.start));
            let scratch = Rows { shape, frame, x, dy };
            let first_pixel = (image * in_h + rows.start) * in_w;
            // Safety: the rows of a strip are its own, in the input's gradient and among the sums.
            unsafe {
                let out = dx.at(first_pixel * in_c);
                let direct = E::DTYPE == f32::DTYPE;
                let to = if direct { (out.cast::<f32>(), in_c) } else { (rest.as_mut_ptr(), pixel) };
                let input =
                    InputStrip { scratch: &scratch, rows: rows.clone(), outputs: &outputs, weights, to };
                dispatch(isa, input);
                let pixels = rows.len() * in_w;
                if !direct {
                    let out = std::slice::from_raw_parts_mut(out, pixels * in_c);
                    convert_rows(isa, (rest, pixel), (out, in_c));
                }
                let rows = ending(shape, rows, &outputs);
                dispatch(isa, WeightStrip { scratch: &scratch, rows, dw: &mut *dw });
                if let Some(reduction) = reduction {
                    let sums = sums.at(2 * (first + number) * in_c);
                    reduction.add(isa, out, first_pixel..first_pixel + pixels, sums);
                }
            }
        }
    }
}

/// The gradient of input rows `rows`, from what is in scratch, to pixels of `to.1` floats.
struct InputStrip<'a> {
    scratch: &'a Rows<'a>,
    rows: Range<usize>,
    /// The rows of dy that there are.
    outputs: &'a Range<usize>,
    weights: &'a [f32],
    to: (*mut f32, usize),
}

impl Kernel for InputStrip<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let InputStrip { scratch, rows, outputs, weights, to: (to, pixel) } = self;
        for row in rows.clone() {
            // Safety: `to` has the strip's rows.
            unsafe {
                let to = to.add((row - rows.start) * scratch.shape.in_w * pixel);
                scratch.input::<S>(row, weights, (to, pixel), outputs);
            }
        }
    }
}

/// Adds the products of output rows `rows` to the gradient of the weights.
struct WeightStrip<'a> {
    scratch: &'a Rows<'a>,
    rows: Range<usize>,
    dw: &'a mut [f32],
}

impl Kernel for WeightStrip<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.rows.clone() {
            // Safety: what the rows need is in scratch.
            unsafe { self.scratch.weights::<S>(row, self.dw) };
        }
    }
}

/// Stores the first `n` elements of a vector, or all.
#[inline(always)]
unsafe fn store_some<S: Simd>(to: *mut f32, n: usize, v: S::V) {
    // Safety: the caller's.
    unsafe { if n >= S::LANES { S::store(to, v) } else { S::store_first(to, n, v) } }
}

/// Pixels of a tile of the input's gradient: the widths of most networks' pictures are multiples of it.
const TILE: usize = 7;

/// Output pixels whose products are added to the weights' gradient at a time.
const QUAD: usize = 4;

/// The rows in scratch that the gradients of a strip are computed from, each with the number of the first.
struct Rows<'a> {
    shape: &'a ConvShape,
    frame: &'a Frame,
    x: (&'a [f32], usize),
    dy: (&'a [f32], usize),
}

impl Rows<'_> {
    /// The gradient of input row `row`, to pixels of `to.1` floats. `outputs` are the rows of dy that there are.
    #[inline(always)]
    unsafe fn input<S: Simd>(
        &self,
        row: usize,
        weights: &[f32],
        to: (*mut f32, usize),
        outputs: &Range<usize>,
    ) {
        // Safety: the caller's.
        unsafe {
            match fast_path(self.shape) {
                (3, 1) => self.input_phase::<S, 3, 1, 0>(row, 0, weights, to, outputs),
                (5, 1) => self.input_phase::<S, 5, 1, 0>(row, 0, weights, to, outputs),
                (3, 2) => self.input_phases::<S, 3>(row, weights, to, outputs),
                (5, 2) => self.input_phases::<S, 5>(row, weights, to, outputs),
                _ => unreachable!("takes_strips"),
            }
        }
    }

    /// [`Rows::input`] for a stride of 2: even and odd columns are reached by other kernel columns.
    #[inline(always)]
    unsafe fn input_phases<S: Simd, const K: usize>(
        &self,
        row: usize,
        weights: &[f32],
        to: (*mut f32, usize),
        outputs: &Range<usize>,
    ) {
        for phase in 0..2 {
            // Safety: the caller's.
            unsafe {
                match (phase + self.shape.pads[1]) % 2 {
                    0 => self.input_phase::<S, K, 2, 0>(row, phase, weights, to, outputs),
                    _ => self.input_phase::<S, K, 2, 1>(row, phase, weights, to, outputs),
                }
            }
        }
    }

    /// The input columns `phase`, `phase` + `STRIDE`, ... of a row, which the kernel columns `Q`, `Q` + `STRIDE`, ... reach.
    #[inline(always)]
    unsafe fn input_phase<S: Simd, const K: usize, const STRIDE: usize, const Q: usize>(
        &self,
        row: usize,
        phase: usize,
        weights: &[f32],
        to: (*mut f32, usize),
        outputs: &Range<usize>,
    ) {
        let (shape, frame) = (self.shape, self.frame);
        let count = (shape.in_w.saturating_sub(phase)).div_ceil(STRIDE);
        // Column `phase` is under kernel column Q of this column of dy in scratch.
        let first = frame.dy_left + (phase + shape.pads[1] - Q) / STRIDE;
        for start in (0..count).step_by(TILE) {
            let n = TILE.min(count - start);
            for c in (0..shape.in_c).step_by(S::LANES) {
                // Safety: the zeros beside dy are as many as the columns that reach out of it.
                unsafe {
                    let at = (first + start, phase + STRIDE * start, c);
                    if n == TILE {
                        self.input_tile::<S, K, STRIDE, Q, TILE>(row, at, weights, to, outputs);
                    } else {
                        for i in 0..n {
                            let at = (at.0 + i, at.1 + STRIDE * i, c);
                            self.input_tile::<S, K, STRIDE, Q, 1>(row, at, weights, to, outputs);
                        }
                    }
                }
            }
        }
    }

    /// `T` columns of [`Rows::input_phase`] from `column` on, of the channels from `c` on.
    #[inline(always)]
    unsafe fn input_tile<S: Simd, const K: usize, const STRIDE: usize, const Q: usize, const T: usize>(
        &self,
        row: usize,
        (dy_column, column, c): (usize, usize, usize),
        weights: &[f32],
        (to, to_pixel): (*mut f32, usize),
        outputs: &Range<usize>,
    ) {
        let (shape, Frame { pixel, dy_width, .. }) = (self.shape, *self.frame);
        // Safety: rows of dy are those in scratch, columns those of its rows.
        unsafe {
            let mut sums = [S::splat(0.0); T];
            for r in 0..K {
                let Some(output) = super::output(row + shape.pads[0], r, STRIDE, 1, outputs.end) else {
                    continue;
                };
                if output < outputs.start {
                    continue;
                }
                let dy = self.dy.0.as_ptr().add(((output - self.dy.1) * dy_width + dy_column) * pixel + c);
                for s in (Q..K).step_by(STRIDE) {
                    let weight = S::load(weights.as_ptr().add((r * K + s) * pixel + c));
                    let dy = dy.sub((s - Q) / STRIDE * pixel);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = S::fma(S::load(dy.add(t * pixel)), weight, *sum);
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                store_some::<S>(to.add((column + t * STRIDE) * to_pixel + c), shape.in_c - c, sum);
            }
        }
    }

    /// Adds the products of output row `row` to the gradient of the weights.
    #[inline(always)]
    unsafe fn weights<S: Simd>(&self, row: usize, dw: &mut [f32]) {
        let window = super::row_range(self.shape, row);
        let path = fast_path(self.shape);
        // Safety: the caller's.
        unsafe {
            match path {
                (3, 1) if window.len() == 3 => return self.weight_rows::<S, 3, 1, 3>(row, 0, dw),
                (3, 2) if window.len() == 3 => return self.weight_rows::<S, 3, 2, 3>(row, 0, dw),
                _ => {}
            }
            // A loop, not a closure: closures do not take on their caller's target features.
            for r in window {
                match path {
                    (3, 1) => self.weight_rows::<S, 3, 1, 1>(row, r, dw),
                    (3, 2) => self.weight_rows::<S, 3, 2, 1>(row, r, dw),
                    (5, 1) => self.weight_rows::<S, 5, 1, 1>(row, r, dw),
                    (5, 2) => self.weight_rows::<S, 5, 2, 1>(row, r, dw),
                    _ => unreachable!("takes_strips"),
                }
            }
        }
    }

    /// The kernel rows `r`, ... `r` + `R` - 1 of [`Rows::weights`].
    #[inline(always)]
    unsafe fn weight_rows<S: Simd, const K: usize, const STRIDE: usize, const R: usize>(
        &self,
        row: usize,
        r: usize,
        dw: &mut [f32],
    ) {
        let (shape, Frame { pixel, x_width, dy_width, dy_left, .. }) = (self.shape, *self.frame);
        let x_row = row * STRIDE + r - shape.pads[0] - self.x.1;
        // Safety: the rows of x are in scratch, and have zeros where windows reach out of them; channels are whole vectors.
        unsafe {
            let x = self.x.0.as_ptr().add(x_row * x_width * pixel);
            let dy = self.dy.0.as_ptr().add(((row - self.dy.1) * dy_width + dy_left) * pixel);
            for c in (0..pixel).step_by(S::LANES) {
                let mut sums = [[S::splat(0.0); K]; R];
                let quads = shape.out_w - shape.out_w % QUAD;
                for column in (0..quads).step_by(QUAD) {
                    let (x, dy) = (x.add(column * STRIDE * pixel + c), dy.add(column * pixel + c));
                    add_products::<S, K, STRIDE, R, QUAD>(&mut sums, x, dy, [x_width * pixel, pixel]);
                }
                for column in quads..shape.out_w {
                    let (x, dy) = (x.add(column * STRIDE * pixel + c), dy.add(column * pixel + c));
                    add_products::<S, K, STRIDE, R, 1>(&mut sums, x, dy, [x_width * pixel, pixel]);
                }
                for (i, sums) in sums.into_iter().enumerate() {
                    for (s, sum) in sums.into_iter().enumerate() {
                        let to = dw.as_mut_ptr().add(((r + i) * K + s) * pixel + c);
                        S::store(to, S::add(S::load(to), sum));
                    }
                }
            }
        }
    }
}

/// Adds the products of `T` output pixels with their windows: `sums[r][s] += dy[t] x[r][t STRIDE + s]`. `pitch` and `pixel` are the
/// floats from a row of x, and from a pixel, to the next.
#[inline(always)]
unsafe fn add_products<S: Simd, const K: usize, const STRIDE: usize, const R: usize, const T: usize>(
    sums: &mut [[S::V; K]; R],
    x: *const f32,
    dy: *const f32,
    [pitch, pixel]: [usize; 2],
) {
    // Safety: the caller's.
    unsafe {
        let mut products = [S::splat(0.0); T];
        for (t, dy_of) in products.iter_mut().enumerate() {
            *dy_of = S::load(dy.add(t * pixel));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            for j in 0..(T - 1) * STRIDE + K {
                let x = S::load(x.add(r * pitch + j * pixel));
                for (t, &dy) in products.iter().enumerate() {
                    if j >= t * STRIDE && j < t * STRIDE + K {
                        let sum = &mut sums[j - t * STRIDE];
                        *sum = S::fma(x, dy, *sum);
                    }
                }
            }
        }
    }
}
