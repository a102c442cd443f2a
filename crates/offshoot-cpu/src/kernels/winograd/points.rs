//! The transforms between pixels and points, along one axis.

use super::{IN, OUT};
use crate::kernels::simd::Simd;

/// The points ±A and ±B. Chosen for small rounding errors, and so that their powers are exact.
const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// The polynomial with coefficients `g` at the six points, each divided by the product of its distances to the other
/// finite points: the rows (1, p, p^2) / N(p) of G.
#[inline(always)]
pub(super) unsafe fn filter_points<S: Simd>(g: [S::V; 3]) -> [S::V; IN] {
    const AT_ZERO: f32 = 1.0 / (A2 * B2);
    const AT_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
    const AT_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));
    // Safety: the caller's.
    unsafe {
        let even_a = S::mul(S::splat(AT_A), S::fma(S::splat(A2), g[2], g[0]));
        let even_b = S::mul(S::splat(AT_B), S::fma(S::splat(B2), g[2], g[0]));
        [
            S::mul(S::splat(AT_ZERO), g[0]),
            S::fma(S::splat(AT_A * A), g[1], even_a),
            S::fma(S::splat(-AT_A * A), g[1], even_a),
            S::fma(S::splat(AT_B * B), g[1], even_b),
            S::fma(S::splat(-AT_B * B), g[1], even_b),
            g[2],
        ]
    }
}

/// Six inputs to six points. Row p of B^T has the coefficients of the product of (x - q) over the other finite points.
#[inline(always)]
pub(super) unsafe fn input_points<S: Simd>(d: [S::V; IN]) -> [S::V; IN] {
    // Safety: the caller's.
    unsafe {
        let (a2, b2) = (S::splat(-A2), S::splat(-B2));
        let even_a = S::fma(b2, d[2], d[4]);
        let odd_a = S::fma(b2, d[1], d[3]);
        let even_b = S::fma(a2, d[2], d[4]);
        let odd_b = S::fma(a2, d[1], d[3]);
        let (product, sum) = (S::splat(A2 * B2), S::splat(-(A2 + B2)));
        [
            S::fma(product, d[0], S::fma(sum, d[2], d[4])),
            S::fma(S::splat(A), odd_a, even_a),
            S::fma(S::splat(-A), odd_a, even_a),
            S::fma(S::splat(B), odd_b, even_b),
            S::fma(S::splat(-B), odd_b, even_b),
            S::fma(product, d[1], S::fma(sum, d[3], d[5])),
        ]
    }
}

/// Six points to four outputs: row i of A^T has the points' i-th powers, and infinity counts for the last.
#[inline(always)]
pub(super) unsafe fn outputs<S: Simd>(m: [S::V; IN]) -> [S::V; OUT] {
    // Safety: the caller's.
    unsafe {
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(even_a, even_b)),
            S::fma(S::splat(B), odd_b, S::mul(S::splat(A), odd_a)),
            S::fma(S::splat(B2), even_b, S::mul(S::splat(A2), even_a)),
            S::add(m[5], S::fma(S::splat(B2 * B), odd_b, S::mul(S::splat(A2 * A), odd_a))),
        ]
    }
}
