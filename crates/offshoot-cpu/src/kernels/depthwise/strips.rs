//! Depthwise convolution of a training step, strip by strip: the input and the output's gradient are computed as their rows are
//! needed and never lie in memory, and what batch norms wait for is summed while a strip is in the cache.
//!
//! A task takes a part of a picture's rows, a strip at a time, and of a strip a block of channels after the other. The rows of a block
//! lie together in scratch, in a ring, since the next strip reads some of them too; they have zeros beside them, so that no pixel is at
//! a border. Strips depend on the shape alone, so the result is bit-identical for any number of threads.

mod backward;
mod forward;
mod scratch;

use std::ops::Range;

pub use self::backward::backward;
pub use self::forward::forward_in_training;
use super::{Channels, fast_path, supports, taps};
use crate::kernels::ConvShape;
use crate::kernels::parallel;
use crate::kernels::simd::Simd;

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
