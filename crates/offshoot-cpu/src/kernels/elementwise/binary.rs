//! The functions of two elements and their derivatives.

use offshoot_graph::op::Binary;

use super::super::rows::Map;
use super::super::simd::Simd;
use super::per_lane_pair;

/// a op b in vectors.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn vector<S: Simd>(op: Binary, a: S::V, b: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe {
        match op {
            Binary::Add => S::add(a, b),
            Binary::Sub => S::sub(a, b),
            Binary::Mul => S::mul(a, b),
            Binary::Div => S::div(a, b),
            Binary::Max => S::select_nan(b, b, S::at_least(a, b)),
            Binary::Min => S::select_nan(b, b, S::at_most(a, b)),
            Binary::Pow => per_lane_pair::<S>(a, b, libm::powf),
        }
    }
}

/// The derivative of a op b by operand `slot`, as PyTorch has it where it is not unique: half each where a Max or Min
/// has equal operands; 0 by the base of a power of 0, and by the exponent where the base is 0 and the exponent is not
/// negative.
pub(super) fn slope(op: Binary, slot: usize, a: f32, b: f32) -> f32 {
    let (own, other) = if slot == 0 { (a, b) } else { (b, a) };
    let wins = |wins: bool| if own == other { 0.5 } else { f32::from(u8::from(wins)) };
    match (op, slot) {
        (Binary::Add, _) | (Binary::Sub, 0) => 1.0,
        (Binary::Sub, _) => -1.0,
        (Binary::Mul, _) => other,
        (Binary::Div, 0) => 1.0 / b,
        (Binary::Div, _) => -a / b / b,
        (Binary::Max, _) => wins(own > other),
        (Binary::Min, _) => wins(own < other),
        (Binary::Pow, 0) if b == 0.0 => 0.0,
        (Binary::Pow, 0) => b * libm::powf(a, b - 1.0),
        (Binary::Pow, _) if a == 0.0 && b >= 0.0 => 0.0,
        (Binary::Pow, _) => libm::powf(a, b) * super::super::math::ln(a),
    }
}

impl Map<2, 0> for Binary {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [a, b]: [S::V; 2], []: [S::V; 0]) -> S::V {
        // Safety: the caller's promise.
        unsafe { vector::<S>(self, a, b) }
    }
}

impl Map<1, 1> for Binary {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [a]: [S::V; 1], [b]: [S::V; 1]) -> S::V {
        // Safety: the caller's promise.
        unsafe { vector::<S>(self, a, b) }
    }
}
