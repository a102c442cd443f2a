//! Depthwise convolution of a training step, strip by strip: the input and the output's gradient are computed as their rows are
//! needed and never lie in memory, and what batch norms wait for is summed while a strip is in the cache.
//!
//! A task takes a part of a picture's rows, a strip at a time, and of a strip a block of channels after the other. The rows of a block
//! lie together in scratch, in a ring, since the next strip reads some of them too; they have zeros beside them, so that no pixel is at
//! a border. Strips depend on the shape alone, so the result is bit-identical for any number of threads.

use std::ops::Range;

use super::{Channels, TILE, check, fast_path, row_range, supports, taps};
use crate::kernels::ConvShape;
use crate::kernels::backward::{Gradients, Operands};
use crate::kernels::batch_norm::{Reduction, area_moments};
use crate::kernels::convert::round_area;
use crate::kernels::element::{Element, Stored};
use crate::kernels::parallel::{self, Shared};
use crate::kernels::prefetch::Stream;
use crate::kernels::rows::{Area, Map, add_partials, load_all, store};
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::size::elements;
use crate::kernels::source::{Reader, Source};

/// Floats of input rows that a strip brings to scratch, so few that what is computed from them stays in a second-level cache of
/// 512 KiB.
const STRIP: usize = 20 << 10;

/// Channels of a block: a cache line of floats, so few that all that a strip needs of them is in a first-level cache.
const BLOCK: usize = 16;

/// Floats of a strip that are brought to scratch before they are worked on: those of a group of blocks.
const GROUP: usize = 8 << 10;

/// Fewest tasks to cut a batch into.
const TASKS: usize = 16;

/// Whether the functions here take `shape`: the windows that kernels exist for.
pub fn takes_strips(shape: &ConvShape) -> bool {
    supports(shape) && matches!(fast_path(shape), (3 | 5, 1 | 2))
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

/// The groups that channels are cut into, for strips of so many pixels.
fn groups(channels: usize, pixels: usize) -> impl Iterator<Item = Channels> {
    let step = BLOCK * (GROUP / (BLOCK * pixels.max(1))).max(2);
    (0..channels).step_by(step).map(move |first| Channels { first, n: step.min(channels - first) })
}

/// The blocks of a group.
#[inline(always)]
fn blocks(group: Channels) -> impl Iterator<Item = Channels> {
    let end = group.first + group.n;
    (group.first..end).step_by(BLOCK).map(move |first| Channels { first, n: BLOCK.min(end - first) })
}

/// Packed weights block by block: kernel elements times [`BLOCK`] floats, with zeros where channels end.
fn by_blocks(shape: &ConvShape, packed: &[f32]) -> Vec<f32> {
    let mut to = Vec::with_capacity(shape.in_c.div_ceil(BLOCK) * taps(shape) * BLOCK);
    for Channels { first, n } in blocks(Channels { first: 0, n: shape.in_c }) {
        for tap in packed.chunks_exact(shape.in_c) {
            to.extend_from_slice(&tap[first..first + n]);
            to.resize(to.len() + BLOCK - n, 0.0);
        }
    }
    to
}

/// How the rows of a block of channels lie in scratch.
#[derive(Clone, Copy)]
struct Lines {
    /// Pixels of zeros at the left, and pixels of a row in all.
    left: usize,
    width: usize,
    /// Rows that there is room for: row `r` of a picture is in place `r % slots`.
    slots: usize,
}

impl Lines {
    /// Those of the input, of which a strip needs at most `rows`, with zeros where windows reach out of it.
    fn of_input(shape: &ConvShape, rows: usize) -> Lines {
        let left = shape.pads[1];
        let reached = (shape.out_w.max(1) - 1) * shape.strides[1] + shape.kernel[1];
        Lines { left, width: (shape.in_w + left).max(reached), slots: rows }
    }

    /// Those of the output's gradient, with zeros where input pixels would read outside of it.
    fn of_gradient(shape: &ConvShape, rows: usize) -> Lines {
        let ([kernel, stride], pad) = ([shape.kernel[1], shape.strides[1]], shape.pads[1]);
        let left = (kernel - 1).saturating_sub(pad).div_ceil(stride);
        let width = left + shape.out_w.max((shape.in_w + pad).saturating_sub(1) / stride + 1);
        Lines { left, width, slots: rows }
    }

    /// Floats of a block.
    fn block(&self) -> usize {
        self.slots * self.width * BLOCK
    }

    /// Where a row of a block starts.
    #[inline(always)]
    fn row(&self, row: usize) -> usize {
        row % self.slots * self.width * BLOCK
    }
}

/// Rows of a picture in scratch.
struct Ring<'a, E> {
    source: &'a Source<'a, E>,
    /// Rows and columns of a picture.
    size: [usize; 2],
    channels: usize,
    lines: Lines,
    /// The rows that are there, of all blocks.
    held: Range<usize>,
    /// Block by block.
    scratch: &'a mut [f32],
}

impl<'a, E: Element> Ring<'a, E> {
    fn new(
        source: &'a Source<'a, E>,
        size: [usize; 2],
        channels: usize,
        lines: Lines,
        scratch: &'a mut [f32],
    ) -> Ring<'a, E> {
        scratch.fill(0.0);
        Ring { source, size, channels, lines, held: 0..0, scratch }
    }

    /// Those of `rows` that are not there yet.
    fn missing(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start.max(self.held.end.min(rows.end))..rows.end
    }

    /// Brings a group of `rows` of a picture.
    fn bring(&mut self, isa: Isa, image: usize, rows: Range<usize>, group: Channels) {
        let [height, width] = self.size;
        let first = image * height * width;
        let pixels = first + rows.start * width..first + rows.end * width;
        let channels = group.first..group.first + group.n;
        let to = &mut self.scratch[group.first / BLOCK * self.lines.block()..];
        let reader = ReadBlocks { isa, pitch: self.channels, width, rows, n: group.n, lines: self.lines, to };
        // Safety: `visit` checks that these pixels and channels are there, and the reader reads no others; what it writes it takes from
        // a slice, of blocks that have a place for each row.
        unsafe { self.source.visit(self.channels, pixels, channels, reader) };
    }

    /// The rows that are there.
    fn held(&self) -> Held<'_> {
        Held { floats: self.scratch, lines: self.lines }
    }

    /// A group's share of the memory of the `count` rows after `held`.
    fn next(&self, image: usize, held: usize, count: usize, group: Channels) -> [&'a [u8]; 2] {
        let [height, width] = self.size;
        let rows = held..height.min(held + count);
        let first = image * height * width;
        let pixels = first + rows.start * width..first + rows.end * width;
        self.source.streams(self.channels, &pixels).map(|bytes| {
            let at = |channel: usize| bytes.len() / self.channels * channel;
            &bytes[at(group.first)..at(group.first + group.n)]
        })
    }
}

/// What asks for some memory while a group's channels are worked on, bit by bit.
#[derive(Clone, Copy)]
struct Ahead<const N: usize>([Stream; N]);

impl<const N: usize> Ahead<N> {
    #[inline(always)]
    fn new(next: [&[u8]; N], steps: usize) -> Ahead<N> {
        let mut streams = [Stream::NOTHING; N];
        for (stream, bytes) in streams.iter_mut().zip(next) {
            *stream = Stream::of_bytes(bytes, steps);
        }
        Ahead(streams)
    }

    #[inline(always)]
    fn advance(&mut self, steps: usize) {
        for stream in &mut self.0 {
            stream.advance(steps);
        }
    }
}

/// Into the blocks of a ring.
struct ReadBlocks<'a> {
    isa: Isa,
    /// Elements from a pixel to the next.
    pitch: usize,
    /// Pixels of a row.
    width: usize,
    rows: Range<usize>,
    /// Channels.
    n: usize,
    lines: Lines,
    /// From the first block on.
    to: &'a mut [f32],
}

impl<E: Element> Reader<E> for ReadBlocks<'_> {
    unsafe fn read<const N: usize, const P: usize>(
        self,
        inputs: [*const E; N],
        params: [*const f32; P],
        map: impl Map<N, P>,
    ) {
        dispatch(self.isa, ReadBlocksWith { blocks: self, inputs, params, map });
    }
}

/// What [`ReadBlocks`] runs.
struct ReadBlocksWith<'a, E, const N: usize, const P: usize, F> {
    blocks: ReadBlocks<'a>,
    inputs: [*const E; N],
    params: [*const f32; P],
    map: F,
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> Kernel for ReadBlocksWith<'_, E, N, P, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let n = self.blocks.n;
        for c in (0..n).step_by(S::LANES) {
            // Safety: the channels are the group's.
            unsafe {
                match n - c < S::LANES {
                    false => self.channels::<S, true>(c, S::LANES),
                    true => self.channels::<S, false>(c, n - c),
                }
            }
        }
    }
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> ReadBlocksWith<'_, E, N, P, F> {
    /// A vector of channels, `n` of them, from `c` on.
    #[inline(always)]
    unsafe fn channels<S: Simd, const FULL: bool>(&mut self, c: usize, n: usize) {
        let ReadBlocks { pitch, width, ref rows, lines, ref mut to, .. } = self.blocks;
        let to = &mut to[c / BLOCK * lines.block()..][..lines.block()];
        // Safety: the caller's; a row of the block has as many pixels behind the zeros at its left.
        unsafe {
            let p = load_all::<S, f32, P, FULL>(self.params, c, n);
            for (i, row) in rows.clone().enumerate() {
                let to = to.as_mut_ptr().add(lines.row(row) + lines.left * BLOCK + c % BLOCK);
                for pixel in 0..width {
                    let x = load_all::<S, E, N, FULL>(self.inputs, (i * width + pixel) * pitch + c, n);
                    store::<S, f32, FULL>(to.add(pixel * BLOCK), n, self.map.call::<S>(x, p));
                }
            }
        }
    }
}

/// The rows of a picture in scratch, to be read.
#[derive(Clone, Copy)]
struct Held<'a> {
    floats: &'a [f32],
    lines: Lines,
}

impl Held<'_> {
    /// A channel of a pixel, the first of a vector; columns count from the first of the zeros at the left.
    ///
    /// # Safety
    /// There is such a row, with such a column.
    #[inline(always)]
    unsafe fn at(&self, row: usize, column: usize, channel: usize) -> *const f32 {
        let block = channel / BLOCK * self.lines.block();
        // Safety: the caller's.
        unsafe { self.floats.as_ptr().add(block + self.lines.row(row) + column * BLOCK + channel % BLOCK) }
    }
}

/// Where the results of a strip go: to memory, or to scratch where they are rounded when they are done.
struct Results<'a, E> {
    /// The first of the strip's pixels of the tensor, and channels of that.
    out: *mut E,
    pitch: usize,
    stage: &'a mut [f32],
}

impl<E: Element> Results<'_, E> {
    /// The first channel of the first pixel, and floats from a pixel to the next.
    fn floats(&mut self) -> (*mut f32, usize) {
        let pitch = self.pitch;
        if E::DTYPE == f32::DTYPE { (self.out.cast(), pitch) } else { (self.stage.as_mut_ptr(), pitch) }
    }

    /// Rounds a group of what was stored there, `pixels` of them.
    ///
    /// # Safety
    /// The tensor has as many from the first on, and so has the stage.
    unsafe fn done(&self, isa: Isa, pixels: usize, group: Channels) {
        if E::DTYPE != f32::DTYPE {
            let area = Area { rows: pixels, pitch: self.pitch, cols: group.n };
            let from = self.stage[group.first..].as_ptr();
            // Safety: the caller's.
            unsafe { round_area(isa, (from, self.pitch), self.out.add(group.first), area) };
        }
    }
}

/// Floats of a stage for so many results.
fn stage_len<E: Element>(results: usize) -> usize {
    if E::DTYPE == f32::DTYPE { 0 } else { results }
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
        assert_eq!(moments.len(), elements([2, parts, shape.out_c]), "moments of {shape:?}");
    }
    let (y, moments) = (Shared::new(y), moments.map(Shared::new));
    let most = tasks.iter().flatten().map(|strip| strip.rows.len()).max().unwrap_or(0);
    let lines = Lines::of_input(shape, most * shape.strides[0] + shape.kernel[0]);
    let x_len = shape.in_c.div_ceil(BLOCK) * lines.block();
    let stage_len = stage_len::<E>(most * shape.out_w * shape.out_c);
    let weights = &by_blocks(shape, weights)[..];
    parallel::for_each_task(tasks.len(), usize::MAX, |task| {
        parallel::with_scratch(x_len + stage_len, |scratch| {
            let (scratch, stage) = scratch.split_at_mut(x_len);
            let x = Ring::new(x, [shape.in_h, shape.in_w], shape.in_c, lines, scratch);
            let (strips, first) = (&tasks[task], firsts[task]);
            ForwardTask { isa, shape, weights, y, moments, strips, first }.run(x, stage);
        });
    });
}

/// A task of [`forward_in_training`].
struct ForwardTask<'a, E> {
    isa: Isa,
    shape: &'a ConvShape,
    /// By blocks.
    weights: &'a [f32],
    y: Shared<E>,
    moments: Option<Shared>,
    strips: &'a [Strip],
    /// The number of the first strip.
    first: usize,
}

impl<E: Element> ForwardTask<'_, E> {
    fn run(self, mut x: Ring<'_, E>, stage: &mut [f32]) {
        let ForwardTask { isa, shape, weights, y, moments, strips, first } = self;
        let ConvShape { in_h, in_w, out_h, out_w, out_c, .. } = *shape;
        let (stride, pad, kernel) = (shape.strides[0], shape.pads[0], shape.kernel[0]);
        for (number, Strip { image, rows }) in strips.iter().enumerate() {
            let top = (rows.start * stride).saturating_sub(pad).min(in_h);
            let end = ((rows.end - 1) * stride + kernel).saturating_sub(pad).clamp(top, in_h);
            let missing = x.missing(&(top..end));
            let pixels = rows.len() * out_w;
            // Safety: the rows of a strip are its own, in the output and among the moments.
            unsafe {
                let out = y.at((image * out_h + rows.start) * out_w * out_c);
                let mut results = Results { out, pitch: out_c, stage: &mut *stage };
                for group in groups(out_c, rows.len() * stride * in_w) {
                    x.bring(isa, *image, missing.clone(), group);
                    let next = x.next(*image, end, rows.len() * stride, group);
                    let (rows, to) = (rows.clone(), results.floats());
                    dispatch(isa, ForwardGroup { shape, x: x.held(), weights, rows, to, group, next });
                    results.done(isa, pixels, group);
                    if let Some(moments) = moments {
                        let area = Area { rows: pixels, pitch: out_c, cols: group.n };
                        let to = moments.at(2 * (first + number) * out_c + group.first);
                        area_moments(isa, out.add(group.first).cast_const(), area, (to, out_c));
                    }
                }
            }
            x.held = top..end;
        }
    }
}

/// The output rows `rows` of a group of channels, to pixels of `to.1` floats.
struct ForwardGroup<'a> {
    shape: &'a ConvShape,
    x: Held<'a>,
    /// By blocks.
    weights: &'a [f32],
    rows: Range<usize>,
    to: (*mut f32, usize),
    group: Channels,
    /// What is asked for meanwhile.
    next: [&'a [u8]; 2],
}

impl Kernel for ForwardGroup<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const { assert!(BLOCK.is_multiple_of(S::LANES), "whole vectors") };
        // Safety: the caller's.
        unsafe {
            match fast_path(self.shape) {
                (3, 1) => self.rows::<S, 3, 1>(),
                (5, 1) => self.rows::<S, 5, 1>(),
                (3, 2) => self.rows::<S, 3, 2>(),
                (5, 2) => self.rows::<S, 5, 2>(),
                _ => unreachable!("takes_strips"),
            }
        }
    }
}

impl ForwardGroup<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize>(&self) {
        let (out_w, Channels { first, n }) = (self.shape.out_w, self.group);
        let whole = out_w - out_w % TILE;
        let mut ahead = Ahead::new(self.next, self.rows.len() * out_w * n.div_ceil(S::LANES));
        for c in (first..first + n).step_by(S::LANES) {
            for row in self.rows.clone() {
                // Safety: the rows of the strip, and channels of the group.
                unsafe {
                    for column in (0..whole).step_by(TILE) {
                        self.tile::<S, K, STRIDE, TILE>((row, column), c);
                        ahead.advance(TILE);
                    }
                    for column in whole..out_w {
                        self.tile::<S, K, STRIDE, 1>((row, column), c);
                    }
                    ahead.advance(out_w - whole);
                }
            }
        }
    }

    /// `T` pixels of a row from `column` on, of the channels from `c` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const K: usize, const STRIDE: usize, const T: usize>(
        &self,
        (row, column): (usize, usize),
        c: usize,
    ) {
        let (ConvShape { out_w, out_c, pads, .. }, (to, pitch)) = (self.shape, self.to);
        let to = to.wrapping_add(((row - self.rows.start) * out_w + column) * pitch + c);
        // Safety: the rows under the window are in scratch, with zeros beside them.
        unsafe {
            let mut sums = [S::splat(0.0); T];
            for r in row_range(self.shape, row) {
                let x = self.x.at(row * STRIDE + r - pads[0], column * STRIDE, c);
                let mut weights = [S::splat(0.0); K];
                for (s, weight) in weights.iter_mut().enumerate() {
                    *weight = S::load(self.weights.as_ptr().add(packed::<K>(r * K + s, c)));
                }
                for j in 0..(T - 1) * STRIDE + K {
                    let x = S::load(x.add(j * BLOCK));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        if j >= t * STRIDE && j < t * STRIDE + K {
                            *sum = S::fma(x, weights[j - t * STRIDE], *sum);
                        }
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                store_some::<S>(to.add(t * pitch), out_c - c, sum);
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

/// Where a weight of the vector of channels from `c` on lies among those by blocks, for a kernel of `K` x `K`.
#[inline(always)]
fn packed<const K: usize>(tap: usize, c: usize) -> usize {
    (c / BLOCK * K * K + tap) * BLOCK + c % BLOCK
}

/// Stores the first `n` elements of a vector, or all.
#[inline(always)]
unsafe fn store_some<S: Simd>(to: *mut f32, n: usize, v: S::V) {
    // Safety: the caller's.
    unsafe { if n >= S::LANES { S::store(to, v) } else { S::store_first(to, n, v) } }
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
                let Some(output) = super::output(row + shape.pads[0], r, STRIDE, 1, outputs.end) else {
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
