//! Functions of the lanes of a vector, and of several vectors at a time.

use std::marker::PhantomData;

/// What is computed lane by lane. Everything is `#[inline(always)]`, so that it takes on the target features of its caller.
///
/// # Safety
/// As [`Simd`](super::Simd).
#[allow(clippy::missing_safety_doc, missing_docs)] // the trait's own section speaks for each method
pub trait Arithmetic: Copy {
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// max(bound, x); a NaN in `x` stays a NaN, as in PyTorch.
    unsafe fn at_least(x: Self::V, bound: Self::V) -> Self::V;
    /// min(bound, x); a NaN in `x` stays a NaN, as in PyTorch.
    unsafe fn at_most(x: Self::V, bound: Self::V) -> Self::V;
    /// `v` where a > b, else zero (also where either is a NaN).
    unsafe fn where_gt(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// Zero where a >= b, else `v` (also where either is a NaN).
    unsafe fn zero_where_ge(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// `v` where a == b, else zero.
    unsafe fn where_eq(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// `yes` where a > b, else `no` (also where either is a NaN).
    unsafe fn select_gt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `yes` where `x` is a NaN, else `no`.
    unsafe fn select_nan(x: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The nearest whole number, ties to even. |x| must be below 2^31.
    unsafe fn round(x: Self::V) -> Self::V;
    /// v * 2^n for whole `n` in [-252, 254]; underflow is gradual, overflow gives infinity.
    unsafe fn scale_by_power(v: Self::V, n: Self::V) -> Self::V;
    /// v * 2^n for whole `n` in [-126, 128]; 2^128 may be infinity.
    unsafe fn scale_by_normal_power(v: Self::V, n: Self::V) -> Self::V;
}

/// `N` vectors of `S`, each operation of which is done for all of them before the next one. The processor's window is too small to find
/// that much to do in a loop over vectors, where each goes through a long chain of operations.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Several<S, const N: usize>(PhantomData<S>);

/// An operation for each of the vectors. (A loop: a closure does not take on the target features of the function that it is in.)
macro_rules! each {
    ($name:ident, $first:ident $(, $other:ident)*) => {
        #[inline(always)]
        unsafe fn $name($first: [S::V; N] $(, $other: [S::V; N])*) -> [S::V; N] {
            let mut out = $first;
            for i in 0..N {
                // Safety: the caller's.
                out[i] = unsafe { S::$name($first[i] $(, $other[i])*) };
            }
            out
        }
    };
}

impl<S: Arithmetic, const N: usize> Arithmetic for Several<S, N> {
    type V = [S::V; N];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [S::V; N] {
        // Safety: the caller's.
        [unsafe { S::splat(x) }; N]
    }
    each!(add, a, b);
    each!(sub, a, b);
    each!(mul, a, b);
    each!(div, a, b);
    each!(fma, a, b, c);
    each!(at_least, x, bound);
    each!(at_most, x, bound);
    each!(where_gt, a, b, v);
    each!(zero_where_ge, a, b, v);
    each!(where_eq, a, b, v);
    each!(select_gt, a, b, yes, no);
    each!(select_nan, x, yes, no);
    each!(round, x);
    each!(scale_by_power, v, n);
    each!(scale_by_normal_power, v, n);
}
