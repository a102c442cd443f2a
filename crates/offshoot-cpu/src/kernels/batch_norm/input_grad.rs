//! The gradient of the input, in training and under frozen statistics.

use super::{BatchNorm, Gate};
use crate::kernels::Activation;
use crate::kernels::element::Element;
use crate::kernels::elementwise::gate;
use crate::kernels::rows::{Map, Place, map_rows_to};
use crate::kernels::simd::{Isa, Simd};

/// The vectors of dx = scale (dy - offset - (x - mean) slope), and the shift with which the norm is computed again.
#[derive(Clone, Debug)]
pub(in crate::kernels) struct GradVectors {
    pub(in crate::kernels) scale: Vec<f32>,
    pub(in crate::kernels) shift: Vec<f32>,
    pub(in crate::kernels) offset: Vec<f32>,
    pub(in crate::kernels) slope: Vec<f32>,
}

impl GradVectors {
    /// Of a norm of so many rows whose gradients are `dgamma` and `dbeta`.
    pub(in crate::kernels) fn new(
        norm: &BatchNorm<'_>,
        dgamma: &[f32],
        dbeta: &[f32],
        rows: usize,
    ) -> GradVectors {
        let n = rows as f32;
        let (scale, shift) = norm.affine();
        let offset = dbeta.iter().map(|d| d / n).collect();
        let slope = dgamma.iter().zip(norm.inv_std).map(|(d, i)| d * i / n).collect();
        GradVectors { scale, shift, offset, slope }
    }
}

/// dx = scale (dy - offset - (x - mean) slope), where dy is dz through the gate.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct InputGrad(pub(in crate::kernels) Activation);

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
/// where dy is dz through `gate`; `dgamma` and `dbeta` are those of [`batch_norm_reduce`](super::batch_norm_reduce). `dz` says where dz is and where dx goes.
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
