//! The gradients of the weight and the bias: sums over rows.

use super::{BatchNorm, Gate};
use crate::kernels::Activation;
use crate::kernels::element::Element;
use crate::kernels::elementwise::gate;
use crate::kernels::rows::{Area, Fold, add_partials, fold_area, sum_rows};
use crate::kernels::simd::{Isa, Simd};
use crate::kernels::size::elements;
use crate::kernels::source::ScaleShift;
use std::ops::Range;

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
    pub(in crate::kernels) fn check(&self, len: usize, channels: usize, parts: usize, sums: usize) {
        assert_eq!([self.x.len(), self.mean.len()], [len, channels], "the norm's input and mean");
        assert_eq!(sums, elements([2, parts, channels]), "sums of {parts} parts");
    }

    /// The two sums over `rows` of some channels, into rows of all channels, one behind the other.
    ///
    /// # Safety
    /// `dz` points to the first of the rows, and `sums` has room for two rows.
    pub(in crate::kernels) unsafe fn add(
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
