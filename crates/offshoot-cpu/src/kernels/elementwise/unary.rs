//! The functions of one element and their gradients, in vectors.

use offshoot_graph::op::{Alpha, Clip, HardSigmoid, Unary};

use super::super::math;
use super::super::rows::Map;
use super::super::simd::{Arithmetic, Simd};
use super::{clamp, gate, per_lane};
use crate::kernels::Activation;

impl Map<1, 0> for Unary {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [x]: [S::V; 1], []: [S::V; 0]) -> S::V {
        // Safety: the caller's promise.
        unsafe {
            let zero = S::splat(0.0);
            match self {
                Unary::Relu => S::at_least(x, zero),
                Unary::Clip(Clip { min, max }) => clamp::<S>(x, min, max),
                Unary::Sigmoid => math::sigmoid::<S>(x),
                Unary::Silu => Silu::call::<S>(x),
                Unary::HardSigmoid(HardSigmoid { alpha, beta }) => {
                    clamp::<S>(S::fma(x, S::splat(alpha), S::splat(beta)), 0.0, 1.0)
                }
                Unary::HardSwish => {
                    let ramp = clamp::<S>(S::add(x, S::splat(3.0)), 0.0, 6.0);
                    S::mul(S::mul(x, ramp), S::splat(1.0 / 6.0))
                }
                Unary::Tanh => math::tanh::<S>(x),
                Unary::Gelu => Gelu::call::<S>(x),
                Unary::Erf => {
                    // erf x = 2 P(x sqrt 2) - 1 with the normal distribution's cumulative function P.
                    let cumulative = math::normal::<S>(S::mul(x, S::splat(std::f32::consts::SQRT_2))).0;
                    S::fma(S::splat(2.0), cumulative, S::splat(-1.0))
                }
                Unary::Exp => math::exp::<S>(x),
                Unary::Log => per_lane::<S>(x, math::ln),
                Unary::Sqrt => per_lane::<S>(x, f32::sqrt),
                Unary::Neg => S::sub(zero, x),
                Unary::Reciprocal => S::div(S::splat(1.0), x),
                Unary::Abs => S::at_least(x, S::sub(zero, x)),
                Unary::Softplus => {
                    let magnitude = S::at_least(x, S::sub(zero, x));
                    let small = math::exp::<S>(S::sub(zero, magnitude));
                    S::add(S::at_least(x, zero), per_lane::<S>(small, libm::log1pf))
                }
                Unary::Mish => S::mul(x, mish_gate::<S>(x)),
                Unary::LeakyRelu(Alpha { alpha }) => S::select_gt(x, zero, x, S::mul(S::splat(alpha), x)),
                Unary::Elu(Alpha { alpha }) => {
                    // e^x - 1 without its cancellation near 0.
                    let t = math::tanh::<S>(S::mul(x, S::splat(0.5)));
                    let below = S::div(S::add(t, t), S::sub(S::splat(1.0), t));
                    S::select_gt(x, zero, x, S::mul(S::splat(alpha), below))
                }
            }
        }
    }
}

/// A function that is a long chain of operations, of one vector or of [several](super::super::simd::Several).
pub(super) trait Long {
    /// # Safety
    /// `S` must be available.
    unsafe fn call<S: Arithmetic>(x: S::V) -> S::V;
}

/// x / (1 + e^-x).
pub(super) struct Silu;

impl Long for Silu {
    #[inline(always)]
    unsafe fn call<S: Arithmetic>(x: S::V) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::mul(x, math::sigmoid::<S>(x)) }
    }
}

/// x times the standard normal distribution's cumulative function.
pub(super) struct Gelu;

impl Long for Gelu {
    #[inline(always)]
    unsafe fn call<S: Arithmetic>(x: S::V) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::mul(x, math::normal::<S>(x).0) }
    }
}

/// tanh(log(1 + e^x)) = (e^2x + 2 e^x) / (e^2x + 2 e^x + 2). From 20 on it is 1.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn mish_gate<S: Simd>(x: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe {
        let e = math::exp::<S>(S::at_most(x, S::splat(20.0)));
        let sum = S::mul(e, S::add(e, S::splat(2.0)));
        S::div(sum, S::add(sum, S::splat(2.0)))
    }
}

/// The gradient of a [`Unary`]: of dy and of x or y, whichever its row says.
#[derive(Clone, Copy)]
pub(super) struct Gradient(pub(super) Unary);

impl Map<2, 0> for Gradient {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dy, known]: [S::V; 2], []: [S::V; 0]) -> S::V {
        // Safety: the caller's promise.
        unsafe {
            let (zero, one) = (S::splat(0.0), S::splat(1.0));
            let (x, y) = (known, known);
            match self.0 {
                Unary::Relu => gate::<S>(y, Activation::Relu.gate(), dy),
                Unary::Clip(Clip { min, max }) => gate::<S>(y, (min, max), dy),
                Unary::Sigmoid => {
                    let s = math::sigmoid::<S>(x);
                    S::mul(dy, S::mul(s, S::sub(one, s)))
                }
                Unary::Silu => {
                    let s = math::sigmoid::<S>(x);
                    S::mul(dy, S::mul(s, S::fma(x, S::sub(one, s), one)))
                }
                Unary::HardSigmoid(HardSigmoid { alpha, beta }) => {
                    let alpha = S::splat(alpha);
                    gate::<S>(S::fma(x, alpha, S::splat(beta)), (0.0, 1.0), S::mul(dy, alpha))
                }
                Unary::HardSwish => {
                    let slope = S::fma(x, S::splat(1.0 / 3.0), S::splat(0.5));
                    let ramp = gate::<S>(x, (-3.0, f32::NAN), S::mul(dy, slope));
                    S::select_gt(S::splat(3.0), x, ramp, dy)
                }
                Unary::Tanh => S::mul(dy, S::sub(one, S::mul(y, y))),
                Unary::Gelu => {
                    let (cumulative, density) = math::normal::<S>(x);
                    S::mul(dy, S::fma(x, density, cumulative))
                }
                Unary::Erf => {
                    let density = math::exp::<S>(S::sub(zero, S::mul(x, x)));
                    S::mul(dy, S::mul(S::splat(std::f32::consts::FRAC_2_SQRT_PI), density))
                }
                Unary::Exp => S::mul(dy, y),
                Unary::Log => S::div(dy, x),
                Unary::Sqrt => S::div(dy, S::add(y, y)),
                Unary::Neg => S::sub(zero, dy),
                Unary::Reciprocal => S::mul(S::sub(zero, dy), S::mul(y, y)),
                Unary::Abs => S::select_gt(x, zero, dy, S::where_gt(zero, x, S::sub(zero, dy))),
                Unary::Softplus => S::mul(dy, math::sigmoid::<S>(x)),
                Unary::Mish => {
                    let t = mish_gate::<S>(x);
                    let steep = S::mul(S::sub(one, S::mul(t, t)), math::sigmoid::<S>(x));
                    S::mul(dy, S::fma(x, steep, t))
                }
                Unary::LeakyRelu(Alpha { alpha }) => S::select_gt(x, zero, dy, S::mul(S::splat(alpha), dy)),
                Unary::Elu(Alpha { alpha }) => {
                    let below = S::mul(S::splat(alpha), math::exp::<S>(x));
                    S::select_gt(x, zero, dy, S::mul(dy, below))
                }
            }
        }
    }
}
