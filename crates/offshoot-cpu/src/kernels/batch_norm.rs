//! Batch normalization over rows x channels, with the formulas of PyTorch's `batch_norm`.
//!
//! y = activation((x - mean) inv_std gamma + beta + residual). In training the statistics are the batch's, and the
//! gradient flows through them; with frozen statistics it is an affine function of each channel.

use super::Activation;
use super::element::Element;
use super::elementwise::{Sum, clamp, gate};
use super::rows::{
    Area, Fold, Map, Place, Shared, add_partials, fold_area, fold_rows, for_chunks, map_rows, map_rows_to,
    partials, rows_per_part, sum_rows,
};
use super::simd::{Isa, Simd};
use super::size::elements;
use super::source::ScaleShift;
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

/// The vectors of a batch norm, each of C elements.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// The mean: the batch's, or the running one.
    pub mean: &'a [f32],
    /// 1 / sqrt(variance + epsilon), see [`inv_std`].
    pub inv_std: &'a [f32],
    /// The weight.
    pub gamma: &'a [f32],
    /// The bias.
    pub beta: &'a [f32],
}

impl BatchNorm<'_> {
    /// (scale, shift) with y = x scale + shift, as PyTorch computes them.
    pub fn affine(&self) -> (Vec<f32>, Vec<f32>) {
        let scale: Vec<f32> = self.gamma.iter().zip(self.inv_std).map(|(g, i)| g * i).collect();
        let shift = self.beta.iter().zip(self.mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        (scale, shift)
    }
}

/// Which elements of the gradient pass the activation after a batch norm.
#[derive(Clone, Copy, Debug)]
pub enum Gate<'a, E = f32> {
    /// All: there is no activation, or the gradient has been through it.
    Open,
    /// Those that passed it by its output, rows x C. The one to use with a residual.
    Output(Activation, &'a [E]),
    /// Those that passed it, recomputed from x. Saves reading the output; wrong with a residual.
    Recomputed(Activation),
}

/// out = 1 / sqrt(var + eps), element by element.
pub fn inv_std(var: &[f32], eps: f32, out: &mut [f32]) {
    for (out, &var) in out.iter_mut().zip(var) {
        *out = inverse_root(f64::from(var), eps);
    }
}

fn inverse_root(var: f64, eps: f32) -> f32 {
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
    let channels = mean.len();
    assert!(channels > 0 && inv_std.len() == channels && !x.is_empty() && x.len().is_multiple_of(channels));
    let rows = x.len() / channels;
    let per_part = rows_per_part(channels);
    let parts = partials(rows, per_part, 2 * channels, |rows, part| {
        let (mean, squares) = part.split_at_mut(channels);
        moments(isa, x, rows, mean, squares);
    });
    let rows: Vec<usize> = (0..rows).step_by(per_part).map(|start| per_part.min(rows - start)).collect();
    batch_norm_join(&parts, &rows, eps, mean, inv_std, running);
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
pub(super) unsafe fn area_moments<E: Element>(
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

/// y = activation(x scale + shift), or with a residual, activation(x scale + shift + residual).
#[derive(Clone, Copy)]
pub(super) struct Affine(pub(super) Activation);

impl Map<1, 2> for Affine {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [x]: [S::V; 1], [scale, shift]: [S::V; 2]) -> S::V {
        let (low, high) = self.0.bounds();
        // Safety: the caller's promise.
        unsafe { clamp::<S>(S::fma(x, scale, shift), low, high) }
    }
}

impl Map<2, 2> for Affine {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [x, residual]: [S::V; 2], [scale, shift]: [S::V; 2]) -> S::V {
        let (low, high) = self.0.bounds();
        // Safety: the caller's promise.
        unsafe { clamp::<S>(S::add(S::fma(x, scale, shift), residual), low, high) }
    }
}

/// out = activation(x scale + shift + residual): an affine function of each channel. `x`, `residual` and `out` are
/// rows x C, `scale` and `shift` have C elements.
pub fn affine<E: Element>(
    isa: Isa,
    x: &[E],
    (scale, shift): (&[f32], &[f32]),
    residual: Option<&[E]>,
    activation: Activation,
    out: &mut [E],
) {
    match residual {
        None => map_rows(isa, [x], [scale, shift], 1, out, Affine(activation)),
        Some(residual) => map_rows(isa, [x, residual], [scale, shift], 1, out, Affine(activation)),
    }
}

/// out = activation((x - mean) inv_std gamma + beta + residual), as [`affine`].
pub fn batch_norm_apply<E: Element>(
    isa: Isa,
    x: &[E],
    norm: &BatchNorm<'_>,
    residual: Option<&[E]>,
    activation: Activation,
    out: &mut [E],
) {
    let (scale, shift) = norm.affine();
    affine(isa, x, (&scale, &shift), residual, activation, out);
}

/// Sums of dy and of dy (x - mean), where dy is dz through the gate.
#[derive(Clone, Copy)]
struct Reduce(Activation);

impl Reduce {
    #[inline(always)]
    unsafe fn add<S: Simd>([sum, products]: [S::V; 2], dy: S::V, x: S::V, mean: S::V) -> [S::V; 2] {
        // Safety: the caller's promise.
        unsafe { [S::add(sum, dy), S::fma(dy, S::sub(x, mean), products)] }
    }
}

impl Fold<2, 1, 2> for Reduce {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, sums: [S::V; 2], [dy, x]: [S::V; 2], [mean]: [S::V; 1]) -> [S::V; 2] {
        // Safety: the caller's promise.
        unsafe { Reduce::add::<S>(sums, dy, x, mean) }
    }
}

impl Fold<3, 1, 2> for Reduce {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, sums: [S::V; 2], [dz, x, z]: [S::V; 3], [mean]: [S::V; 1]) -> [S::V; 2] {
        // Safety: the caller's promise.
        unsafe { Reduce::add::<S>(sums, gate::<S>(z, self.0.gate(), dz), x, mean) }
    }
}

impl Fold<2, 3, 2> for Reduce {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, sums: [S::V; 2], [dz, x]: [S::V; 2], p: [S::V; 3]) -> [S::V; 2] {
        let [mean, scale, shift] = p;
        // Safety: the caller's promise.
        unsafe {
            let dy = gate::<S>(S::fma(x, scale, shift), self.0.gate(), dz);
            Reduce::add::<S>(sums, dy, x, mean)
        }
    }
}

/// dgamma = the sum of dy (x - mean) inv_std over rows, and dbeta = the sum of dy, where dy is dz through `gate`.
/// `x` and `dz` are rows x C, `dgamma` and `dbeta` have C elements.
pub fn batch_norm_reduce<E: Element>(
    isa: Isa,
    x: &[E],
    dz: &[E],
    norm: &BatchNorm<'_>,
    gate: Gate<'_, E>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let channels = norm.mean.len();
    let mut sums = vec![0.0; 2 * channels];
    match gate {
        Gate::Open => sum_rows(isa, [dz, x], [norm.mean], &mut sums, Reduce(Activation::None)),
        Gate::Output(activation, z) => sum_rows(isa, [dz, x, z], [norm.mean], &mut sums, Reduce(activation)),
        Gate::Recomputed(activation) => {
            let (scale, shift) = norm.affine();
            sum_rows(isa, [dz, x], [norm.mean, &scale, &shift], &mut sums, Reduce(activation));
        }
    }
    finish_reduction(&sums, norm.inv_std, dgamma, dbeta);
}

fn finish_reduction(sums: &[f32], inv_std: &[f32], dgamma: &mut [f32], dbeta: &mut [f32]) {
    let (offsets, products) = sums.split_at(dbeta.len());
    dbeta.copy_from_slice(offsets);
    for ((dgamma, products), inv_std) in dgamma.iter_mut().zip(products).zip(inv_std) {
        *dgamma = products * inv_std;
    }
}

/// As [`batch_norm_reduce`], from the sums over parts of the rows: of each part, those of dy and then those of dy (x - mean).
pub fn batch_norm_reduce_join(parts: &[f32], inv_std: &[f32], dgamma: &mut [f32], dbeta: &mut [f32]) {
    let mut sums = vec![0.0; 2 * dbeta.len()];
    add_partials(parts, &mut sums);
    finish_reduction(&sums, inv_std, dgamma, dbeta);
}

/// What [`batch_norm_reduce`] sums, for a kernel that makes dz and knows where its part of it lies.
#[derive(Clone, Copy, Debug)]
pub struct Reduction<'a, E = f32> {
    /// The norm's input, as large as dz.
    pub x: &'a [E],
    /// Its mean.
    pub mean: &'a [f32],
    /// (scale, shift) of the norm, with the activation behind it; without one, dy is dz.
    pub gate: Option<ScaleShift<'a>>,
}

impl<E: Element> Reduction<'_, E> {
    /// Checks that this is about `len` elements of `channels`, and that `sums` elements hold so many parts of it.
    ///
    /// # Panics
    /// When it is not.
    pub(super) fn check(&self, len: usize, channels: usize, parts: usize, sums: usize) {
        assert_eq!([self.x.len(), self.mean.len()], [len, channels], "the norm's input and mean");
        assert_eq!(sums, elements([2, parts, channels]), "sums of {parts} parts");
    }

    /// The two sums over `rows` of some channels, into rows of all channels, one behind the other.
    ///
    /// # Safety
    /// `dz` points to the first of the rows, and `sums` has room for two rows.
    pub(super) unsafe fn add(
        &self,
        isa: Isa,
        dz: *const E,
        rows: Range<usize>,
        channels: Range<usize>,
        sums: *mut f32,
    ) {
        let pitch = self.mean.len();
        let area = Area { rows: rows.len(), pitch, cols: channels.len() };
        let x = self.x[rows.start * pitch..rows.end * pitch].as_ptr();
        let mean = self.mean[channels.clone()].as_ptr();
        // Safety: the rows are within x, and the vectors have an element for each channel.
        unsafe {
            let [dz, x] = [dz.add(channels.start), x.add(channels.start)];
            let to = (sums.add(channels.start), pitch);
            match self.gate {
                None => {
                    fold_area::<E, 2, 1, 2>(isa, [dz, x], [mean], area, to, Reduce(Activation::None));
                }
                Some((scale, shift, activation)) => {
                    let p = [mean, scale[channels.clone()].as_ptr(), shift[channels].as_ptr()];
                    fold_area::<E, 2, 3, 2>(isa, [dz, x], p, area, to, Reduce(activation));
                }
            }
        }
    }
}

/// The vectors of dx = scale (dy - offset - (x - mean) slope), and the shift with which the norm is computed again.
#[derive(Clone, Debug)]
pub(super) struct GradVectors {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) offset: Vec<f32>,
    pub(super) slope: Vec<f32>,
}

impl GradVectors {
    /// Of a norm of so many rows whose gradients are `dgamma` and `dbeta`.
    pub(super) fn new(norm: &BatchNorm<'_>, dgamma: &[f32], dbeta: &[f32], rows: usize) -> GradVectors {
        let n = rows as f32;
        let (scale, shift) = norm.affine();
        let offset = dbeta.iter().map(|d| d / n).collect();
        let slope = dgamma.iter().zip(norm.inv_std).map(|(d, i)| d * i / n).collect();
        GradVectors { scale, shift, offset, slope }
    }
}

/// dx = scale (dy - offset - (x - mean) slope), where dy is dz through the gate.
#[derive(Clone, Copy)]
pub(super) struct InputGrad(pub(super) Activation);

impl InputGrad {
    #[inline(always)]
    unsafe fn formula<S: Simd>(dy: S::V, x: S::V, [scale, mean, offset, slope]: [S::V; 4]) -> S::V {
        // Safety: the caller's promise.
        unsafe {
            let through_var = S::mul(S::sub(x, mean), slope);
            S::mul(S::sub(S::sub(dy, offset), through_var), scale)
        }
    }
}

impl Map<2, 4> for InputGrad {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dy, x]: [S::V; 2], p: [S::V; 4]) -> S::V {
        // Safety: the caller's promise.
        unsafe { InputGrad::formula::<S>(dy, x, p) }
    }
}

impl Map<3, 4> for InputGrad {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dz, x, z]: [S::V; 3], p: [S::V; 4]) -> S::V {
        // Safety: the caller's promise.
        unsafe { InputGrad::formula::<S>(gate::<S>(z, self.0.gate(), dz), x, p) }
    }
}

impl Map<2, 5> for InputGrad {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dz, x]: [S::V; 2], p: [S::V; 5]) -> S::V {
        let [scale, mean, offset, slope, shift] = p;
        // Safety: the caller's promise.
        unsafe {
            let dy = gate::<S>(S::fma(x, scale, shift), self.0.gate(), dz);
            InputGrad::formula::<S>(dy, x, [scale, mean, offset, slope])
        }
    }
}

/// The gradient of x in training mode, dx = gamma inv_std (dy - dbeta / n - (x - mean) inv_std dgamma / n) for n rows,
/// where dy is dz through `gate`; `dgamma` and `dbeta` are those of [`batch_norm_reduce`]. `dz` says where dz is and where dx goes.
pub fn batch_norm_input_grad<E: Element>(
    isa: Isa,
    x: &[E],
    dz: Place<'_, E>,
    norm: &BatchNorm<'_>,
    gate: Gate<'_, E>,
    dgamma: &[f32],
    dbeta: &[f32],
) {
    let rows = dz.operand().len() / norm.mean.len().max(1);
    let GradVectors { scale, shift, offset, slope } = GradVectors::new(norm, dgamma, dbeta, rows);
    let p = [&scale, norm.mean, &offset, &slope];
    match gate {
        Gate::Open => map_rows_to::<E, 1, 2, 4>(isa, dz, [x], p, InputGrad(Activation::None)),
        Gate::Output(activation, z) => {
            map_rows_to::<E, 2, 3, 4>(isa, dz, [x, z], p, InputGrad(activation));
        }
        Gate::Recomputed(activation) => {
            let p = [&scale, norm.mean, &offset, &slope, &shift];
            map_rows_to::<E, 1, 2, 5>(isa, dz, [x], p, InputGrad(activation));
        }
    }
}

/// dx = scale dy, where dy is dz through the gate.
#[derive(Clone, Copy)]
struct Scale(Activation);

impl Map<1, 1> for Scale {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dy]: [S::V; 1], [scale]: [S::V; 1]) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::mul(dy, scale) }
    }
}

impl Map<2, 1> for Scale {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dz, z]: [S::V; 2], [scale]: [S::V; 1]) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::mul(gate::<S>(z, self.0.gate(), dz), scale) }
    }
}

impl Map<2, 2> for Scale {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dz, x]: [S::V; 2], [scale, shift]: [S::V; 2]) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::mul(gate::<S>(S::fma(x, scale, shift), self.0.gate(), dz), scale) }
    }
}

/// The gradient of x under frozen statistics, dx = gamma inv_std dy, where dy is dz through `gate`. `dz` says where dz is and
/// where dx goes. `x` is read by [`Gate::Recomputed`] only.
pub fn scale_input_grad<E: Element>(
    isa: Isa,
    x: &[E],
    dz: Place<'_, E>,
    norm: &BatchNorm<'_>,
    gate: Gate<'_, E>,
) {
    let (scale, shift) = norm.affine();
    match gate {
        Gate::Open => map_rows_to::<E, 0, 1, 1>(isa, dz, [], [&scale], Scale(Activation::None)),
        Gate::Output(activation, z) => {
            map_rows_to::<E, 1, 2, 1>(isa, dz, [z], [&scale], Scale(activation));
        }
        Gate::Recomputed(activation) => {
            map_rows_to::<E, 1, 2, 2>(isa, dz, [x], [&scale, &shift], Scale(activation));
        }
    }
}

#[cfg(test)]
mod tests;
