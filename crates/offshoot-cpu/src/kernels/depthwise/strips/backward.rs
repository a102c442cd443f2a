//! All gradients, strip by strip.

use std::ops::Range;

use super::scratch::{Ahead, Held, Lines, Results, Ring, stage_len};
use super::{BLOCK, Strip, backward_tasks, by_blocks, firsts, groups, packed, store_some, takes_strips};
use crate::kernels::ConvShape;
use crate::kernels::backward::{Gradients, Operands};
use crate::kernels::batch_norm::Reduction;
use crate::kernels::depthwise::{Channels, TILE, check, fast_path, output, row_range, taps};
use crate::kernels::element::Element;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::rows::add_partials;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::size::elements;

/// All gradients of a depthwise convolution in one pass over memory. The weights are packed by [`pack`](crate::kernels::depthwise::pack).
///
/// # Panics
/// As [`forward_in_training`](super::forward_in_training).
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
    let rows = most + shape.kernel[0] - 1;
    let x_lines = Lines::of_input(shape, rows);
    let dy_lines = Lines::of_gradient(shape, rows / shape.strides[0] + 1);
    let count = shape.in_c.div_ceil(BLOCK);
    let [x_len, dy_len] = [x_lines, dy_lines].map(|lines| count * lines.block());
    let stage_len = stage_len::<E>(most * shape.in_w * shape.in_c);
    let weights = &by_blocks(shape, operands.weights)[..];
    let len = count * taps(shape) * BLOCK;
    let mut products = vec![0.0; elements([tasks.len(), len])];
    let (dx, sums, all) = (Shared::new(dx), Shared::new(sums), Shared::new(&mut products));
    parallel::for_each_task(tasks.len(), usize::MAX, |task| {
        parallel::with_scratch(x_len + dy_len + stage_len, |scratch| {
            let (x, rest) = scratch.split_at_mut(x_len);
            let (dy, stage) = rest.split_at_mut(dy_len);
            let x = Ring::new(operands.x, [shape.in_h, shape.in_w], shape.in_c, x_lines, x);
            let dy = Ring::new(operands.dy, [shape.out_h, shape.out_w], shape.in_c, dy_lines, dy);
            let (strips, first) = (&tasks[task], firsts[task]);
            // Safety: each task has products of its own.
            let dw = unsafe { std::slice::from_raw_parts_mut(all.at(task * len), len) };
            let reduction = operands.reduction;
            BackwardTask { isa, shape, reduction, weights, dx, dw, sums, strips, first }.run(x, dy, stage);
        });
    });
    let mut total = vec![0.0; len];
    add_partials(&products, &mut total);
    for (i, sum) in total.into_iter().enumerate() {
        let (channel, tap) = (i / (taps(shape) * BLOCK) * BLOCK + i % BLOCK, i / BLOCK % taps(shape));
        if channel < shape.in_c {
            dw[channel * taps(shape) + tap] = sum;
        }
    }
}

/// A task of [`backward`].
struct BackwardTask<'a, E> {
    isa: Isa,
    shape: &'a ConvShape,
    reduction: Option<Reduction<'a, E>>,
    /// By blocks.
    weights: &'a [f32],
    dx: Shared<E>,
    /// By blocks; zeros at first.
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
    fn run(self, mut x: Ring<'_, E>, mut dy: Ring<'_, E>, stage: &mut [f32]) {
        let BackwardTask { isa, shape, reduction, weights, dx, dw, sums, strips, first } = self;
        let ConvShape { in_h, in_w, in_c, .. } = *shape;
        for (number, Strip { image, rows }) in strips.iter().enumerate() {
            let outputs = reached(shape, rows);
            let inputs = rows.start.saturating_sub(shape.kernel[0] - 1)..rows.end;
            let (missing_x, missing_dy) = (x.missing(&inputs), dy.missing(&outputs));
            let first_pixel = (image * in_h + rows.start) * in_w;
            let pixels = rows.len() * in_w;
            // Safety: the rows of a strip are its own, in the input's gradient and among the sums.
            unsafe {
                let out = dx.at(first_pixel * in_c);
                let mut results = Results { out, pitch: in_c, stage: &mut *stage };
                let ending = ending(shape, rows, &outputs);
                for group in groups(in_c, pixels) {
                    x.bring(isa, *image, missing_x.clone(), group);
                    dy.bring(isa, *image, missing_dy.clone(), group);
                    let [a, b] = x.next(*image, inputs.end, rows.len(), group);
                    let [c, d] = dy.next(*image, outputs.end, rows.len().div_ceil(shape.strides[0]), group);
                    let scratch = BackwardRows { shape, x: x.held(), dy: dy.held(), rows, outputs: &outputs };
                    let (to, ending, dw) = (results.floats(), ending.clone(), &mut *dw);
                    let next = [a, b, c, d];
                    dispatch(isa, BackwardGroup { scratch, weights, to, ending, dw, group, next });
                    results.done(isa, pixels, group);
                    if let Some(reduction) = reduction {
                        let sums = sums.at(2 * (first + number) * in_c);
                        let channels = group.first..group.first + group.n;
                        reduction.add(isa, out, first_pixel..first_pixel + pixels, channels, sums);
                    }
                }
            }
            (x.held, dy.held) = (inputs, outputs);
        }
    }
}

/// The gradients of a group of channels of a strip.
struct BackwardGroup<'a> {
    scratch: BackwardRows<'a>,
    /// By blocks.
    weights: &'a [f32],
    /// The first of the strip's pixels of dx, and floats from a pixel to the next.
    to: (*mut f32, usize),
    /// The output rows whose products are added to the gradient of the weights.
    ending: Range<usize>,
    /// By blocks.
    dw: &'a mut [f32],
    group: Channels,
    /// What is asked for meanwhile.
    next: [&'a [u8]; 4],
}

impl Kernel for BackwardGroup<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const { assert!(BLOCK.is_multiple_of(S::LANES), "whole vectors") };
        // Safety: the caller's.
        unsafe {
            match fast_path(self.scratch.shape) {
                (3, 1) => self.channels::<S, 3, 1>(),
                (5, 1) => self.channels::<S, 5, 1>(),
                (3, 2) => self.channels::<S, 3, 2>(),
                (5, 2) => self.channels::<S, 5, 2>(),
                _ => unreachable!("takes_strips"),
            }
        }
    }
}

impl BackwardGroup<'_> {
    #[inline(always)]
    unsafe fn channels<S: Simd, const K: usize, const STRIDE: usize>(self) {
        let Channels { first, n } = self.group;
        // Half for each gradient.
        let steps = 2 * self.scratch.rows.len() * self.scratch.shape.in_w * n.div_ceil(S::LANES);
        let mut ahead = Ahead::new(self.next, steps);
        for c in (first..first + n).step_by(S::LANES) {
            // Safety: `to` has the strip's pixels; what is needed is in scratch.
            unsafe {
                for row in self.scratch.rows.clone() {
                    self.scratch.input::<S, K, STRIDE>((row, c), self.weights, self.to, &mut ahead);
                }
                for row in self.ending.clone() {
                    self.scratch.weights::<S, K, STRIDE>((row, c), &mut *self.dw, &mut ahead);
                }
            }
        }
    }
}

/// What the gradients of a strip are computed from.
struct BackwardRows<'a> {
    shape: &'a ConvShape,
    x: Held<'a>,
    dy: Held<'a>,
    /// The rows of the strip.
    rows: &'a Range<usize>,
    /// The rows of dy that there are.
    outputs: &'a Range<usize>,
}

/// Output pixels whose products are added to the weights' gradient at a time.
const QUAD: usize = 4;

impl BackwardRows<'_> {
    /// The gradient of input row `row`, of the vector of channels from `c` on.
    #[inline(always)]
    unsafe fn input<S: Simd, const K: usize, const STRIDE: usize>(
        &self,
        (row, c): (usize, usize),
        weights: &[f32],
        (to, pitch): (*mut f32, usize),
        ahead: &mut Ahead<4>,
    ) {
        let to = to.wrapping_add((row - self.rows.start) * self.shape.in_w * pitch + c);
        for phase in 0..STRIDE {
            // Safety: the caller's.
            unsafe {
                match (phase + self.shape.pads[1]) % STRIDE {
                    0 => self.phase::<S, K, STRIDE, 0>((row, c), phase, weights, (to, pitch), ahead),
                    _ => self.phase::<S, K, STRIDE, 1>((row, c), phase, weights, (to, pitch), ahead),
                }
            }
        }
    }

    /// The input columns `phase`, `phase` + `STRIDE`, ... of a row, which the kernel columns `Q`, `Q` + `STRIDE`, ... reach.
    #[inline(always)]
    unsafe fn phase<S: Simd, const K: usize, const STRIDE: usize, const Q: usize>(
        &self,
        at: (usize, usize),
        phase: usize,
        weights: &[f32],
        (to, pitch): (*mut f32, usize),
        ahead: &mut Ahead<4>,
    ) {
        let count = self.shape.in_w.saturating_sub(phase).div_ceil(STRIDE);
        let whole = count - count % TILE;
        // Column `phase` is under kernel column Q of this column of dy in scratch.
        let first = self.dy.lines.left + (phase + self.shape.pads[1]) / STRIDE;
        let to = |start: usize| (to.wrapping_add((phase + STRIDE * start) * pitch), pitch);
        // Safety: the zeros beside dy are as many as the columns that reach out of it.
        unsafe {
            for start in (0..whole).step_by(TILE) {
                self.tile::<S, K, STRIDE, Q, TILE>(at, first + start, weights, to(start));
                ahead.advance(TILE);
            }
            for start in whole..count {
                self.tile::<S, K, STRIDE, Q, 1>(at, first + start, weights, to(start));
            }
            ahead.advance(count - whole);
        }
    }

    /// `T` columns of a phase, under kernel column `Q` of dy's columns from `column` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const K: usize, const STRIDE: usize, const Q: usize, const T: usize>(
        &self,
        (row, c): (usize, usize),
        column: usize,
        weights: &[f32],
        (to, pitch): (*mut f32, usize),
    ) {
        let (shape, outputs) = (self.shape, self.outputs);
        // Safety: rows of dy are those in scratch, columns those of its rows.
        unsafe {
            let mut sums = [S::splat(0.0); T];
            for r in 0..K {
                let Some(output) = output(row + shape.pads[0], r, STRIDE, 1, outputs.end) else {
                    continue;
                };
                if output < outputs.start {
                    continue;
                }
                let dy = self.dy.at(output, column, c);
                for s in (Q..K).step_by(STRIDE) {
                    let weight = S::load(weights.as_ptr().add(packed::<K>(r * K + s, c)));
                    let dy = dy.sub((s - Q) / STRIDE * BLOCK);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = S::fma(S::load(dy.add(t * BLOCK)), weight, *sum);
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                store_some::<S>(to.add(t * STRIDE * pitch), shape.in_c - c, sum);
            }
        }
    }

    /// Adds the products of output row `row` to the gradient of the weights, of the vector of channels from `c` on.
    #[inline(always)]
    unsafe fn weights<S: Simd, const K: usize, const STRIDE: usize>(
        &self,
        (row, c): (usize, usize),
        dw: &mut [f32],
        ahead: &mut Ahead<4>,
    ) {
        let window = row_range(self.shape, row);
        // Safety: the caller's.
        unsafe {
            if K == 3 && window.len() == 3 {
                return self.weight_rows::<S, K, STRIDE, 3>((row, c), 0, dw, ahead);
            }
            // A loop, not a closure: closures do not take on their caller's target features.
            for r in window {
                self.weight_rows::<S, K, STRIDE, 1>((row, c), r, dw, ahead);
            }
        }
    }

    /// The kernel rows `r`, ... `r` + `R` - 1 of [`BackwardRows::weights`].
    #[inline(always)]
    unsafe fn weight_rows<S: Simd, const K: usize, const STRIDE: usize, const R: usize>(
        &self,
        (row, c): (usize, usize),
        r: usize,
        dw: &mut [f32],
        ahead: &mut Ahead<4>,
    ) {
        // Rows of the input for each of the output, shared by the calls for an output row.
        let step = QUAD * STRIDE * STRIDE * R / K;
        let out_w = self.shape.out_w;
        let quads = out_w - out_w % QUAD;
        // Safety: the rows of x are in scratch, and have zeros where windows reach out of them; channels are whole vectors.
        unsafe {
            let dy = self.dy.at(row, self.dy.lines.left, c);
            let mut lines = [dy; R];
            for (i, line) in lines.iter_mut().enumerate() {
                *line = self.x.at(row * STRIDE + r + i - self.shape.pads[0], 0, c);
            }
            let mut sums = [[S::splat(0.0); K]; R];
            for column in (0..quads).step_by(QUAD) {
                let (at, dy) = (column * STRIDE * BLOCK, dy.add(column * BLOCK));
                add_products::<S, K, STRIDE, R, QUAD>(&mut sums, lines, at, dy);
                ahead.advance(step);
            }
            for column in quads..out_w {
                let (at, dy) = (column * STRIDE * BLOCK, dy.add(column * BLOCK));
                add_products::<S, K, STRIDE, R, 1>(&mut sums, lines, at, dy);
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (s, sum) in sums.into_iter().enumerate() {
                    let to = dw.as_mut_ptr().add(packed::<K>((r + i) * K + s, c));
                    S::store(to, S::add(S::load(to), sum));
                }
            }
        }
    }
}

/// Adds the products of `T` output pixels with their windows: `sums[r][s] += dy[t] x[r][t STRIDE + s]`, where each row of x counts
/// from `at` on.
#[inline(always)]
unsafe fn add_products<S: Simd, const K: usize, const STRIDE: usize, const R: usize, const T: usize>(
    sums: &mut [[S::V; K]; R],
    x: [*const f32; R],
    at: usize,
    dy: *const f32,
) {
    // Safety: the caller's.
    unsafe {
        let mut products = [S::splat(0.0); T];
        for (t, dy_of) in products.iter_mut().enumerate() {
            *dy_of = S::load(dy.add(t * BLOCK));
        }
        for (x, sums) in x.into_iter().zip(sums.iter_mut()) {
            for j in 0..(T - 1) * STRIDE + K {
                let x = S::load(x.add(at + j * BLOCK));
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
