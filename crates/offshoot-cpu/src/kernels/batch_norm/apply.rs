//! The forward pass: an affine function of each channel.

use super::BatchNorm;
use crate::kernels::Activation;
use crate::kernels::element::Element;
use crate::kernels::elementwise::clamp;
use crate::kernels::rows::{Map, map_rows};
use crate::kernels::simd::{Isa, Simd};

/// y = activation(x scale + shift), or with a residual, activation(x scale + shift + residual).
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Affine(pub(in crate::kernels) Activation);

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
