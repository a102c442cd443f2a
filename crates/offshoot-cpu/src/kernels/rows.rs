//! What the kernels over "rows x channels" share: the split into tasks, and maps and column sums over rows.
//!
//! A task's size depends on the shape only, and partial sums are added in task order, so that the number of
//! threads cannot change a bit.

mod area;
mod fold;
mod map;

pub(super) use self::area::{Area, fold_area, read_rows};
pub(super) use self::fold::{Fold, add_partials, fold_rows, partials, rows_per_part, sum_rows};
pub use self::map::Place;
pub(super) use self::map::{Map, map, map_in_place, map_rows, map_rows_to};
use super::element::Element;
use super::parallel;
pub(super) use super::parallel::Shared;
use super::simd::Simd;
use std::ops::Range;

/// Elements a task reads: 64 KiB of f32, which stays in the second-level cache.
pub(super) const TASK: usize = 1 << 14;

/// Runs `run` for 0..count, on the thread pool when there is more than one (but not inside of
/// [`parallel::serially`]).
#[inline]
pub(super) fn for_tasks(count: usize, run: impl Fn(usize) + Sync + Send) {
    parallel::for_each_task(count, usize::MAX, run);
}

/// Splits 0..len into chunks of `size` and runs each as a task.
#[inline]
pub(super) fn for_chunks(len: usize, size: usize, run: impl Fn(Range<usize>) + Sync + Send) {
    for_tasks(len.div_ceil(size), |task| run(task * size..len.min((task + 1) * size)));
}

/// Reads a whole vector, or its first `n` lanes.
///
/// # Safety
/// As [`Simd::load`] and [`Simd::load_first`].
#[inline(always)]
pub(super) unsafe fn load<S: Simd, E: Element, const FULL: bool>(from: *const E, n: usize) -> S::V {
    // Safety: the caller's promise.
    unsafe { if FULL { E::load::<S>(from) } else { E::load_first::<S>(from, n) } }
}

/// Reads a vector of each operand. A loop, not a closure: closures do not take on their caller's target features.
///
/// # Safety
/// As [`load`], for each pointer moved by `offset`.
#[inline(always)]
pub(super) unsafe fn load_all<S: Simd, E: Element, const N: usize, const FULL: bool>(
    from: [*const E; N],
    offset: usize,
    n: usize,
) -> [S::V; N] {
    // Safety: the caller's promise.
    unsafe {
        let mut vectors = [S::splat(0.0); N];
        for (vector, from) in vectors.iter_mut().zip(from) {
            *vector = load::<S, E, FULL>(from.add(offset), n);
        }
        vectors
    }
}

/// Writes a whole vector, or its first `n` lanes.
///
/// # Safety
/// As [`Simd::store`] and [`Simd::store_first`].
#[inline(always)]
pub(super) unsafe fn store<S: Simd, E: Element, const FULL: bool>(to: *mut E, n: usize, v: S::V) {
    // Safety: the caller's promise.
    unsafe { if FULL { E::store::<S>(to, v) } else { E::store_first::<S>(to, n, v) } }
}

/// Rows of `channels` elements that make a task.
pub(super) fn rows_per_task(channels: usize) -> usize {
    (TASK / channels.max(1)).max(1)
}
