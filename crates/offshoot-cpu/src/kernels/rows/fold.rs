//! Sums of functions of rows, by column and by parts whose sums are added in order.

use super::{Shared, TASK, for_chunks, load, load_all, store};
use crate::kernels::element::Element;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::size::elements;
use std::ops::Range;

/// Where slices start. (A loop, and not a closure over arrays: that is compiled again for each map.)
fn starts<T, const N: usize>(slices: [&[T]; N]) -> [*const T; N] {
    let mut starts = [std::ptr::null(); N];
    for (start, slice) in starts.iter_mut().zip(slices) {
        *start = slice.as_ptr();
    }
    starts
}

/// The sums over rows of `M` functions of `N` elements and `P` per-channel parameters.
pub(in crate::kernels) trait Fold<const N: usize, const P: usize, const M: usize>:
    Copy + Send + Sync
{
    /// # Safety
    /// `S` must be available.
    unsafe fn call<S: Simd>(self, sums: [S::V; M], x: [S::V; N], p: [S::V; P]) -> [S::V; M];
}

/// Rows whose sum is made in registers before it is added to the sums in memory: few enough to read the rows nearly in
/// sequence.
const RUN: usize = 1;

struct FoldRows<'a, E, const N: usize, const P: usize, F> {
    inputs: [*const E; N],
    params: [*const f32; P],
    rows: usize,
    channels: usize,
    /// `M` x channels.
    sums: &'a mut [f32],
    fold: F,
}

impl<E: Element, const N: usize, const P: usize, F> FoldRows<'_, E, N, P, F> {
    #[inline(always)]
    unsafe fn block<S: Simd, const M: usize, const FULL: bool>(
        &mut self,
        c: usize,
        n: usize,
        rows: Range<usize>,
    ) where
        F: Fold<N, P, M>,
    {
        // Safety: `fold` passes channels and rows within the inputs, the parameters and the sums.
        unsafe {
            let p = load_all::<S, f32, P, FULL>(self.params, c, n);
            let mut sums = [S::splat(0.0); M];
            for row in rows {
                let x = load_all::<S, E, N, FULL>(self.inputs, row * self.channels + c, n);
                sums = self.fold.call::<S>(sums, x, p);
            }
            for (m, sum) in sums.into_iter().enumerate() {
                let to = self.sums.as_mut_ptr().add(m * self.channels + c);
                store::<S, f32, FULL>(to, n, S::add(load::<S, f32, FULL>(to, n), sum));
            }
        }
    }

    #[inline(always)]
    unsafe fn fold<S: Simd, const M: usize>(mut self)
    where
        F: Fold<N, P, M>,
    {
        let whole = self.channels - self.channels % S::LANES;
        for start in (0..self.rows).step_by(RUN) {
            let rows = start..self.rows.min(start + RUN);
            for c in (0..whole).step_by(S::LANES) {
                // Safety: c + LANES <= channels.
                unsafe { self.block::<S, M, true>(c, S::LANES, rows.clone()) };
            }
            if whole < self.channels {
                // Safety: fewer than LANES channels are left.
                unsafe { self.block::<S, M, false>(whole, self.channels - whole, rows.clone()) };
            }
        }
    }
}

/// [`FoldRows`] with its number of sums, which a trait without type parameters cannot carry.
struct FoldInto<'a, E, const N: usize, const P: usize, const M: usize, F>(FoldRows<'a, E, N, P, F>);

impl<E: Element, const N: usize, const P: usize, const M: usize, F: Fold<N, P, M>> Kernel
    for FoldInto<'_, E, N, P, M, F>
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Safety: passed on.
        unsafe { self.0.fold::<S, M>() }
    }
}

/// Column sums of the rows `rows` of the inputs into `sums` (`M` x channels, overwritten).
pub(in crate::kernels) fn fold_rows<E: Element, const N: usize, const P: usize, const M: usize>(
    isa: Isa,
    inputs: [&[E]; N],
    params: [&[f32]; P],
    rows: Range<usize>,
    sums: &mut [f32],
    fold: impl Fold<N, P, M>,
) {
    let channels = sums.len() / M;
    assert!(params.iter().all(|p| p.len() == channels) && sums.len() == M * channels);
    sums.fill(0.0);
    let range = elements([rows.start, channels])..elements([rows.end, channels]);
    // (The rows are within each input, which the kernel reads no more of.)
    let mut rows_of = [std::ptr::null(); N];
    for (start, input) in rows_of.iter_mut().zip(inputs) {
        *start = input[range.clone()].as_ptr();
    }
    let (inputs, params) = (rows_of, starts(params));
    dispatch(
        isa,
        FoldInto::<E, N, P, M, _>(FoldRows { inputs, params, rows: rows.len(), channels, sums, fold }),
    );
}

/// Computes partial results of `width` f32 for each chunk of rows, in parallel: `part(rows, partial)`.
pub(in crate::kernels) fn partials(
    rows: usize,
    rows_per_part: usize,
    width: usize,
    part: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let mut all = vec![0.0; elements([rows.div_ceil(rows_per_part), width])];
    let shared = Shared::new(&mut all);
    for_chunks(rows, rows_per_part, |rows| {
        // Safety: each chunk has its own `width` elements of `all`.
        let partial =
            unsafe { std::slice::from_raw_parts_mut(shared.at(rows.start / rows_per_part * width), width) };
        part(rows, partial);
    });
    all
}

/// The sums of `partials` (chunks of `out.len()`), in f64 and in order.
pub(in crate::kernels) fn add_partials(partials: &[f32], out: &mut [f32]) {
    let width = out.len();
    let shared = Shared::new(out);
    for_chunks(width, COLUMNS, |columns| {
        let mut sums = [0.0f64; COLUMNS];
        for partial in partials.chunks_exact(width) {
            for (sum, &x) in sums.iter_mut().zip(&partial[columns.clone()]) {
                *sum += f64::from(x);
            }
        }
        for (column, sum) in columns.zip(sums) {
            // Safety: `column` is within `out`, and in one chunk only.
            unsafe { *shared.at(column) = sum as f32 };
        }
    });
}

/// Columns a task of [`add_partials`] adds.
const COLUMNS: usize = 512;

/// Rows that make a part of a sum over rows of `channels` elements: enough that the partial sums are few, and so few that
/// rounding errors stay small.
pub(in crate::kernels) fn rows_per_part(channels: usize) -> usize {
    (TASK / 2 / channels.max(1)).clamp(32, 128)
}

/// out[m][c] = the sum over all rows of the fold's m-th function.
pub(in crate::kernels) fn sum_rows<E: Element, const N: usize, const P: usize, const M: usize>(
    isa: Isa,
    inputs: [&[E]; N],
    params: [&[f32]; P],
    out: &mut [f32],
    fold: impl Fold<N, P, M>,
) {
    let channels = out.len() / M;
    if channels == 0 {
        return;
    }
    let len = inputs.first().map_or(0, |i| i.len());
    assert!(
        inputs.iter().all(|i| i.len() == len) && len.is_multiple_of(channels),
        "{len} elements, {channels} channels"
    );
    let parts = partials(len / channels, rows_per_part(channels), M * channels, |rows, partial| {
        fold_rows(isa, inputs, params, rows, partial, fold);
    });
    add_partials(&parts, out);
}
