//! The statistics of a batch and the running ones.

use crate::kernels::element::Element;
use crate::kernels::elementwise::Sum;
use crate::kernels::rows::{Area, Fold, Shared, fold_area, fold_rows, for_chunks, partials, rows_per_part};
use crate::kernels::simd::{Isa, Simd};
use std::ops::Range;

/// The running statistics before a step, and where the new ones go.
#[derive(Debug)]
pub struct Running<'a> {
    /// The weight of the batch in the new statistics (PyTorch's `momentum`, 0.1 by default).
    pub momentum: f32,
    /// The running mean, C.
    pub mean: &'a [f32],
    /// The running variance, C.
    pub var: &'a [f32],
    /// (1 - momentum) mean + momentum (the batch's mean).
    pub new_mean: &'a mut [f32],
    /// (1 - momentum) var + momentum (the batch's unbiased variance).
    pub new_var: &'a mut [f32],
}

/// out = 1 / sqrt(var + eps), element by element.
pub fn inv_std(var: &[f32], eps: f32, out: &mut [f32]) {
    for (out, &var) in out.iter_mut().zip(var) {
        *out = inverse_root(f64::from(var), eps);
    }
}

pub(super) fn inverse_root(var: f64, eps: f32) -> f32 {
    (1.0 / (var + f64::from(eps)).sqrt()) as f32
}

/// Sums of x - p and of its square.
#[derive(Clone, Copy)]
struct Deviations;

impl Fold<1, 1, 2> for Deviations {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [sum, squares]: [S::V; 2], [x]: [S::V; 1], [p]: [S::V; 1]) -> [S::V; 2] {
        // Safety: the caller's promise.
        unsafe {
            let d = S::sub(x, p);
            [S::add(sum, d), S::fma(d, d, squares)]
        }
    }
}

/// The mean of some rows and the sum of squares about it, in one pass: over deviations from the mean of the first eighth
/// of the rows. An eighth of the rows has a mean at most sqrt(7) standard deviations away from that of them all, so
/// that the subtraction below loses three bits at worst.
fn moments<E: Element>(isa: Isa, x: &[E], rows: Range<usize>, mean: &mut [f32], squares: &mut [f32]) {
    let n = rows.len() as f32;
    let sample = rows.start..rows.start + rows.len().div_ceil(8);
    let sampled = sample.len() as f32;
    fold_rows(isa, [x], [], sample, mean, Sum);
    mean.iter_mut().for_each(|m| *m /= sampled);
    let mut sums = vec![0.0; 2 * mean.len()];
    fold_rows(isa, [x], [mean], rows, &mut sums, Deviations);
    let (deviations, about) = sums.split_at(mean.len());
    for (c, mean) in mean.iter_mut().enumerate() {
        squares[c] = (about[c] - deviations[c] * deviations[c] / n).max(0.0);
        *mean += deviations[c] / n;
    }
}

/// Columns that a task of [`join`] takes.
const COLUMNS: usize = 64;

/// Joins the moments of all parts, of `rows[i]` rows each (Chan, Golub, LeVeque: "Updating formulae and a pairwise algorithm for
/// computing sample variances", 1979), in f64 and in order: the mean and the sum of squares of each channel.
fn join(parts: &[f32], channels: usize, rows: &[usize]) -> Vec<(f64, f64)> {
    let mut joined = vec![(0.0f64, 0.0f64); channels];
    let shared = Shared::new(&mut joined);
    for_chunks(channels, COLUMNS, |columns| {
        // Safety: chunks do not overlap and lie within the channels.
        let joined = unsafe { std::slice::from_raw_parts_mut(shared.at(columns.start), columns.len()) };
        let mut n = 0.0f64;
        for (part, &rows) in parts.chunks_exact(2 * channels).zip(rows) {
            let m = rows as f64;
            let share = m / (n + m);
            let (means, squares) = part.split_at(channels);
            let columns = means[columns.clone()].iter().zip(&squares[columns.clone()]);
            for ((mean, square), (m, s)) in joined.iter_mut().zip(columns) {
                let delta = f64::from(*m) - *mean;
                *mean += delta * share;
                *square += f64::from(*s) + delta * delta * n * share;
            }
            n += m;
        }
    });
    joined
}

/// The mean and 1 / sqrt(variance + eps) of each channel of `x` (rows x C), the variance biased, and the running
/// statistics after this batch. `mean` and `inv_std` have C elements. There must be two rows or more for the
/// unbiased variance to mean anything; of one row it is 0.
pub fn batch_norm_stats<E: Element>(
    isa: Isa,
    x: &[E],
    eps: f32,
    mean: &mut [f32],
    inv_std: &mut [f32],
    running: Option<Running<'_>>,
) {
    assert_eq!(inv_std.len(), mean.len(), "channels");
    let (parts, rows) = parts_of(isa, x, mean.len());
    batch_norm_join(&parts, &rows, eps, mean, inv_std, running);
}

/// The mean of each channel of `x` (rows x C), and the sum of squares about it.
pub(super) fn row_moments(isa: Isa, x: &[f32], channels: usize) -> Vec<(f64, f64)> {
    let (parts, rows) = parts_of(isa, x, channels);
    join(&parts, channels, &rows)
}

/// The moments of parts of the rows of `x`, and how many rows each part has.
fn parts_of<E: Element>(isa: Isa, x: &[E], channels: usize) -> (Vec<f32>, Vec<usize>) {
    assert!(channels > 0 && !x.is_empty() && x.len().is_multiple_of(channels), "rows of {channels} channels");
    let rows = x.len() / channels;
    let per_part = rows_per_part(channels);
    let parts = partials(rows, per_part, 2 * channels, |rows, part| {
        let (mean, squares) = part.split_at_mut(channels);
        moments(isa, x, rows, mean, squares);
    });
    let rows = (0..rows).step_by(per_part).map(|start| per_part.min(rows - start)).collect();
    (parts, rows)
}

/// As [`batch_norm_stats`], from the moments of parts of the rows: of each part, which has `rows[i]` of them, the means of the C
/// channels and then the sums of squares about these, as convolutions leave them.
pub fn batch_norm_join(
    parts: &[f32],
    rows: &[usize],
    eps: f32,
    mean: &mut [f32],
    inv_std: &mut [f32],
    running: Option<Running<'_>>,
) {
    let joined = join(parts, mean.len(), rows);
    let rows: usize = rows.iter().sum();
    for (c, &(m, squares)) in joined.iter().enumerate() {
        mean[c] = m as f32;
        inv_std[c] = inverse_root(squares / rows as f64, eps);
    }
    if let Some(running) = running {
        update(running, &joined, rows);
    }
}

/// The moments of an area that lies in the cache: the mean of each of its columns, and `pitch` floats behind it the sum of squares
/// about that.
///
/// # Safety
/// As [`fold_area`].
pub(in crate::kernels) unsafe fn area_moments<E: Element>(
    isa: Isa,
    x: *const E,
    area: Area,
    (to, pitch): (*mut f32, usize),
) {
    let mut means = [0.0; MOST_COLUMNS];
    let rows = area.rows as f32;
    for first in (0..area.cols).step_by(MOST_COLUMNS) {
        let area = Area { cols: MOST_COLUMNS.min(area.cols - first), ..area };
        // Safety: the caller's promise; the means have room for these columns. The sums of deviations take the place of the
        // means, which are added to them.
        unsafe {
            let (x, to) = (x.add(first), to.add(first));
            fold_area::<E, 1, 0, 1>(isa, [x], [], area, (means.as_mut_ptr(), 0), Sum);
            means[..area.cols].iter_mut().for_each(|mean| *mean /= rows);
            fold_area::<E, 1, 1, 2>(isa, [x], [means.as_ptr()], area, (to, pitch), Deviations);
            for (c, mean) in means[..area.cols].iter().enumerate() {
                *to.add(c) = mean + *to.add(c) / rows;
            }
        }
    }
}

/// Columns that [`area_moments`] takes at a time.
const MOST_COLUMNS: usize = 64;

fn update(running: Running<'_>, joined: &[(f64, f64)], rows: usize) {
    let momentum = f64::from(running.momentum);
    let blend = |old: f32, new: f64| ((1.0 - momentum) * f64::from(old) + momentum * new) as f32;
    for (c, &(mean, squares)) in joined.iter().enumerate() {
        running.new_mean[c] = blend(running.mean[c], mean);
        running.new_var[c] = blend(running.var[c], squares / (rows.max(2) - 1) as f64);
    }
}
