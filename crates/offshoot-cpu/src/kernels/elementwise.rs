//! Functions of one element or of two, their gradients, broadcasting, and sums over rows.

use super::Activation;
use super::element::Element;
use super::math;
use super::rows::{Fold, Map, map, map_in_place, map_rows, sum_rows};
use super::simd::{Isa, Simd};

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// max(0, x).
    Relu,
    /// x clamped to [min, max]. Its gradient is that of PyTorch's `hardtanh`: none at the bounds.
    Clip {
        /// The lower bound.
        min: f32,
        /// The upper bound.
        max: f32,
    },
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x sigmoid(x).
    Silu,
    /// alpha x + beta, clamped to [0, 1].
    HardSigmoid {
        /// The slope; 1/6 in PyTorch, 0.2 in ONNX unless given.
        alpha: f32,
        /// The value at 0.
        beta: f32,
    },
    /// x clamp(x + 3, 0, 6) / 6.
    HardSwish,
    /// tanh x.
    Tanh,
    /// x times the standard normal distribution's cumulative function (the exact form, by erf).
    Gelu,
    /// 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x.
    Erf,
    /// e^x.
    Exp,
    /// -x.
    Negative,
}

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a b.
    Mul,
    /// a / b.
    Div,
}

/// x clamped to [low, high]; a NaN stays a NaN.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn clamp<S: Simd>(x: S::V, low: f32, high: f32) -> S::V {
    // Safety: the caller's promise.
    unsafe { S::at_most(S::at_least(x, S::splat(low)), S::splat(high)) }
}

/// `dy` where low < x < high, else zero; a bound that is a NaN never blocks (see [`Activation::gate`]).
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn gate<S: Simd>(x: S::V, (low, high): (f32, f32), dy: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe { S::zero_where_ge(x, S::splat(high), S::zero_where_ge(S::splat(low), x, dy)) }
}

impl Map<1, 0> for Unary {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [x]: [S::V; 1], []: [S::V; 0]) -> S::V {
        // Safety: the caller's promise.
        unsafe {
            match self {
                Unary::Relu => S::at_least(x, S::splat(0.0)),
                Unary::Clip { min, max } => clamp::<S>(x, min, max),
                Unary::Sigmoid => math::sigmoid::<S>(x),
                Unary::Silu => S::mul(x, math::sigmoid::<S>(x)),
                Unary::HardSigmoid { alpha, beta } => {
                    clamp::<S>(S::fma(x, S::splat(alpha), S::splat(beta)), 0.0, 1.0)
                }
                Unary::HardSwish => {
                    let ramp = clamp::<S>(S::add(x, S::splat(3.0)), 0.0, 6.0);
                    S::mul(S::mul(x, ramp), S::splat(1.0 / 6.0))
                }
                Unary::Tanh => math::tanh::<S>(x),
                Unary::Gelu => S::mul(x, math::normal::<S>(x).0),
                Unary::Erf => {
                    // erf x = 2 P(x sqrt 2) - 1 with the normal distribution's cumulative function P.
                    let cumulative = math::normal::<S>(S::mul(x, S::splat(std::f32::consts::SQRT_2))).0;
                    S::fma(S::splat(2.0), cumulative, S::splat(-1.0))
                }
                Unary::Exp => math::exp::<S>(x),
                Unary::Negative => S::sub(S::splat(0.0), x),
            }
        }
    }
}

/// The gradient of a [`Unary`]: of (dy, x).
#[derive(Clone, Copy)]
struct Gradient(Unary);

impl Map<2, 0> for Gradient {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dy, x]: [S::V; 2], []: [S::V; 0]) -> S::V {
        // Safety: the caller's promise.
        unsafe {
            let one = S::splat(1.0);
            match self.0 {
                Unary::Relu => gate::<S>(x, Activation::Relu.gate(), dy),
                Unary::Clip { min, max } => gate::<S>(x, (min, max), dy),
                Unary::Sigmoid => {
                    let s = math::sigmoid::<S>(x);
                    S::mul(dy, S::mul(s, S::sub(one, s)))
                }
                Unary::Silu => {
                    let s = math::sigmoid::<S>(x);
                    S::mul(dy, S::mul(s, S::fma(x, S::sub(one, s), one)))
                }
                Unary::HardSigmoid { alpha, beta } => {
                    let alpha = S::splat(alpha);
                    gate::<S>(S::fma(x, alpha, S::splat(beta)), (0.0, 1.0), S::mul(dy, alpha))
                }
                Unary::HardSwish => {
                    let slope = S::fma(x, S::splat(1.0 / 3.0), S::splat(0.5));
                    let ramp = gate::<S>(x, (-3.0, f32::NAN), S::mul(dy, slope));
                    S::select_gt(S::splat(3.0), x, ramp, dy)
                }
                Unary::Tanh => {
                    let t = math::tanh::<S>(x);
                    S::mul(dy, S::sub(one, S::mul(t, t)))
                }
                Unary::Gelu => {
                    let (cumulative, density) = math::normal::<S>(x);
                    S::mul(dy, S::fma(x, density, cumulative))
                }
                Unary::Erf => {
                    let density = math::exp::<S>(S::sub(S::splat(0.0), S::mul(x, x)));
                    S::mul(dy, S::mul(S::splat(std::f32::consts::FRAC_2_SQRT_PI), density))
                }
                Unary::Exp => S::mul(dy, math::exp::<S>(x)),
                Unary::Negative => S::sub(S::splat(0.0), dy),
            }
        }
    }
}

impl Binary {
    #[inline(always)]
    unsafe fn vector<S: Simd>(self, a: S::V, b: S::V) -> S::V {
        // Safety: the caller's promise.
        unsafe {
            match self {
                Binary::Add => S::add(a, b),
                Binary::Sub => S::sub(a, b),
                Binary::Mul => S::mul(a, b),
                Binary::Div => S::div(a, b),
            }
        }
    }

    fn scalar(self, a: f32, b: f32) -> f32 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
        }
    }
}

impl Map<2, 0> for Binary {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [a, b]: [S::V; 2], []: [S::V; 0]) -> S::V {
        // Safety: the caller's promise.
        unsafe { self.vector::<S>(a, b) }
    }
}

impl Map<1, 1> for Binary {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [a]: [S::V; 1], [b]: [S::V; 1]) -> S::V {
        // Safety: the caller's promise.
        unsafe { self.vector::<S>(a, b) }
    }
}

/// out = op(x). The slices have one length.
pub fn unary<E: Element>(isa: Isa, op: Unary, x: &[E], out: &mut [E]) {
    map(isa, [x], out, op);
}

/// x = op(x).
pub fn unary_in_place<E: Element>(isa: Isa, op: Unary, x: &mut [E]) {
    map_in_place(isa, x, [], op);
}

/// dx = dy op'(x), `x` being what `op` was applied to. For `Relu` and `Clip` its output serves as well.
pub fn unary_grad<E: Element>(isa: Isa, op: Unary, x: &[E], dy: &[E], dx: &mut [E]) {
    map(isa, [dy, x], dx, Gradient(op));
}

/// [`unary_grad`] that overwrites dy with dx.
pub fn unary_grad_in_place<E: Element>(isa: Isa, op: Unary, x: &[E], dy: &mut [E]) {
    map_in_place(isa, dy, [x], Gradient(op));
}

/// out = a op b, element by element. The slices have one length.
pub fn binary<E: Element>(isa: Isa, op: Binary, a: &[E], b: &[E], out: &mut [E]) {
    map(isa, [a, b], out, op);
}

/// a = a op b. `Add` accumulates a gradient.
pub fn binary_in_place<E: Element>(isa: Isa, op: Binary, a: &mut [E], b: &[E]) {
    map_in_place(isa, a, [b], op);
}

/// x op p for every row: `x` is rows x channels and `p` is `groups` x channels. One group is a vector of all rows
/// (bias, scale); as many groups as pictures is an `[N, 1, 1, C]` operand (squeeze and excitation).
pub fn binary_rows<E: Element>(isa: Isa, op: Binary, x: &[E], p: &[E], groups: usize, out: &mut [E]) {
    let p: Vec<f32> = p.iter().map(|p| p.to_f32()).collect();
    map_rows(isa, [x], [&p], groups, out, op);
}

#[derive(Clone, Copy)]
struct AddActivation(Activation);

impl Map<2, 0> for AddActivation {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [a, b]: [S::V; 2], []: [S::V; 0]) -> S::V {
        let (low, high) = self.0.bounds();
        // Safety: the caller's promise.
        unsafe { clamp::<S>(S::add(a, b), low, high) }
    }
}

/// out = activation(a + b).
pub fn add_activation<E: Element>(isa: Isa, a: &[E], b: &[E], activation: Activation, out: &mut [E]) {
    map(isa, [a, b], out, AddActivation(activation));
}

/// a = activation(a + b).
pub fn add_activation_in_place<E: Element>(isa: Isa, a: &mut [E], b: &[E], activation: Activation) {
    map_in_place(isa, a, [b], AddActivation(activation));
}

#[derive(Clone, Copy)]
struct ActivationGradient(Activation);

impl Map<2, 0> for ActivationGradient {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [dz, z]: [S::V; 2], []: [S::V; 0]) -> S::V {
        // Safety: the caller's promise.
        unsafe { gate::<S>(z, self.0.gate(), dz) }
    }
}

/// dy = dz where the activation passes, else 0; `z` is the activation's output (or its input).
pub fn activation_grad<E: Element>(isa: Isa, activation: Activation, z: &[E], dz: &[E], dy: &mut [E]) {
    map(isa, [dz, z], dy, ActivationGradient(activation));
}

/// [`activation_grad`] that overwrites dz with dy.
pub fn activation_grad_in_place<E: Element>(isa: Isa, activation: Activation, z: &[E], dz: &mut [E]) {
    map_in_place(isa, dz, [z], ActivationGradient(activation));
}

/// The sum of each column.
#[derive(Clone, Copy)]
pub(super) struct Sum;

impl Fold<1, 0, 1> for Sum {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [sum]: [S::V; 1], [x]: [S::V; 1], []: [S::V; 0]) -> [S::V; 1] {
        // Safety: the caller's promise.
        unsafe { [S::add(sum, x)] }
    }
}

#[derive(Clone, Copy)]
struct SumOfProducts;

impl Fold<2, 0, 1> for SumOfProducts {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [sum]: [S::V; 1], [a, b]: [S::V; 2], []: [S::V; 0]) -> [S::V; 1] {
        // Safety: the caller's promise.
        unsafe { [S::fma(a, b, sum)] }
    }
}

/// Runs `part` for each group's slice of the operands and of `out` (`groups` x channels).
fn for_groups<E, const N: usize>(
    inputs: [&[E]; N],
    groups: usize,
    out: &mut [f32],
    mut part: impl FnMut([&[E]; N], &mut [f32]),
) {
    assert!(groups > 0 && out.len().is_multiple_of(groups), "{} sums, {groups} groups", out.len());
    let (channels, rows) = (out.len() / groups, inputs[0].len() / groups);
    assert!(channels > 0 && rows.is_multiple_of(channels) && inputs.iter().all(|i| i.len() == rows * groups));
    for (group, out) in out.chunks_exact_mut(channels).enumerate() {
        part(inputs.map(|input| &input[group * rows..(group + 1) * rows]), out);
    }
}

/// out[g, c] = the sum of x over the rows of group g: the gradient of an operand that [`binary_rows`] added (with one
/// group, a bias). `x` is rows x channels, split evenly among the groups.
pub fn sum_to_rows<E: Element>(isa: Isa, x: &[E], groups: usize, out: &mut [f32]) {
    for_groups([x], groups, out, |x, out| sum_rows(isa, x, [], out, Sum));
}

/// out[g, c] = the sum of a b over the rows of group g: the gradient of an operand that [`binary_rows`] multiplied by.
pub fn sum_products_to_rows<E: Element>(isa: Isa, a: &[E], b: &[E], groups: usize, out: &mut [f32]) {
    for_groups([a, b], groups, out, |ab, out| sum_rows(isa, ab, [], out, SumOfProducts));
}

/// `shape` as strides within `to`, right-aligned; 0 along the axes it is broadcast over.
pub(super) fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    assert!(shape.len() <= to.len(), "{shape:?} has more axes than {to:?}");
    let missing = to.len() - shape.len();
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for (axis, &size) in shape.iter().enumerate().rev() {
        assert!(size == 1 || size == to[missing + axis], "{shape:?} cannot be broadcast to {to:?}");
        strides[missing + axis] = if size == 1 { 0 } else { stride };
        stride *= size;
    }
    strides
}

/// Calls `visit(i, offset)` for every element i of `shape` in order, with its offset under each of the strides.
pub(super) fn for_offsets<const N: usize>(
    shape: &[usize],
    strides: [&[usize]; N],
    mut visit: impl FnMut(usize, [usize; N]),
) {
    let count = shape.iter().product();
    let mut index = vec![0; shape.len()];
    let mut offsets = [0; N];
    for i in 0..count {
        visit(i, offsets);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset += strides[axis];
            }
            if index[axis] < shape[axis] {
                break;
            }
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset -= strides[axis] * shape[axis];
            }
            index[axis] = 0;
        }
    }
}

/// out = a op b with NumPy's broadcasting; `shape` is the result's. Plain and serial: for small operands.
///
/// # Panics
/// When a shape does not broadcast to `shape`, or a slice has not the size of its shape.
pub fn broadcast_binary<E: Element>(
    op: Binary,
    (a, a_shape): (&[E], &[usize]),
    (b, b_shape): (&[E], &[usize]),
    shape: &[usize],
    out: &mut [E],
) {
    let (a_strides, b_strides) = (broadcast_strides(a_shape, shape), broadcast_strides(b_shape, shape));
    for_offsets(shape, [&a_strides, &b_strides], |i, [at_a, at_b]| {
        out[i] = E::from_f32(op.scalar(a[at_a].to_f32(), b[at_b].to_f32()));
    });
}

/// The gradient of broadcasting `shape` to `dy_shape`: sums of dy over the axes that were broadcast. Plain and serial.
///
/// # Panics
/// As [`broadcast_binary`].
pub fn sum_to_shape<E: Element>(dy: &[E], dy_shape: &[usize], shape: &[usize], out: &mut [E]) {
    let strides = broadcast_strides(shape, dy_shape);
    let mut sums = vec![0.0f64; out.len()];
    for_offsets(dy_shape, [&strides], |i, [at]| sums[at] += f64::from(dy[i].to_f32()));
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = E::from_f32(sum as f32);
    }
}

#[cfg(test)]
mod tests;
