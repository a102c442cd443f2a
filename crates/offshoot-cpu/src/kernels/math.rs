//! Exponentials and logarithms of our own: a libm's differ from one system to the next.

use super::simd::Arithmetic;

/// c[0] x^n + .. + c[n]. Neighboring terms are added first, so that a sum waits for half as many others as in Horner's scheme.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn polynomial<S: Arithmetic, const N: usize>(x: S::V, coefficients: [f32; N]) -> S::V {
    // Safety: the caller's promise.
    unsafe {
        let (alone, pairs) = coefficients.split_at(N % 2);
        let square = S::mul(x, x);
        let mut sum = S::splat(alone.first().copied().unwrap_or(0.0));
        for (i, pair) in pairs.chunks_exact(2).enumerate() {
            let pair = S::fma(S::splat(pair[0]), x, S::splat(pair[1]));
            sum = if i == 0 && alone.is_empty() { pair } else { S::fma(sum, square, pair) };
        }
        sum
    }
}

/// e^x to 2 units in the last place.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn exp<S: Arithmetic>(x: S::V) -> S::V {
    // Safety: the caller's promise; |n| stays below 152.
    unsafe {
        let (fraction, n) = exp_parts::<S>(S::at_most(S::at_least(x, S::splat(-104.0)), S::splat(89.0)));
        S::scale_by_power(fraction, n)
    }
}

/// As [`exp`], but what would be less than e^-87 is that: for sums with numbers that are not small.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn exp_above<S: Arithmetic>(x: S::V) -> S::V {
    // Safety: the caller's promise; n is in [-126, 128].
    unsafe {
        let (fraction, n) = exp_parts::<S>(S::at_most(S::at_least(x, S::splat(-87.0)), S::splat(89.0)));
        S::scale_by_normal_power(fraction, n)
    }
}

/// e^x = f 2^n: x = n ln 2 + r, and f is a polynomial in r (Cephes `expf`).
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn exp_parts<S: Arithmetic>(x: S::V) -> (S::V, S::V) {
    /// What is added to this and then subtracted is rounded to a whole number: 1.5 * 2^23.
    const WHOLE: f32 = 12_582_912.0;
    // Safety: the caller's promise.
    unsafe {
        let whole = S::splat(WHOLE);
        let n = S::sub(S::fma(x, S::splat(std::f32::consts::LOG2_E), whole), whole);
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let tail = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
        let tail = polynomial::<S, 6>(r, tail);
        (S::add(S::fma(S::mul(r, r), tail, r), S::splat(1.0)), n)
    }
}

/// 1 / (1 + e^-x).
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Arithmetic>(x: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp_above::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// tanh x: 1 - 2 / (e^2x + 1), and near 0, where that cancels, a polynomial (Cephes `tanhf`).
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn tanh<S: Arithmetic>(x: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe {
        let (one, two) = (S::splat(1.0), S::splat(2.0));
        let far = S::sub(one, S::div(two, S::add(one, exp_above::<S>(S::add(x, x)))));
        let square = S::mul(x, x);
        let series = [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
        let near = S::fma(S::mul(x, square), polynomial::<S, 5>(square, series), x);
        S::select_gt(S::splat(0.625 * 0.625), square, near, far)
    }
}

/// Two numbers whose ratio is tanh x within 3e-7: odd and even polynomials (those of Eigen's `ptanh`). Where several such ratios are
/// multiplied, their divisions are one.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn tanh_ratio<S: Arithmetic>(x: S::V) -> [S::V; 2] {
    // Safety: the caller's promise.
    unsafe {
        let x = S::at_most(S::at_least(x, S::splat(-7.905_311)), S::splat(7.905_311));
        let square = S::mul(x, x);
        let above = [
            -2.760_768_5e-16,
            2.000_188e-13,
            -8.604_672e-11,
            5.122_297e-8,
            1.485_722_4e-5,
            6.372_619e-4,
            4.893_524_6e-3,
        ];
        let below = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525_3e-3];
        [S::mul(x, polynomial::<S, 7>(square, above)), polynomial::<S, 4>(square, below)]
    }
}

/// The standard normal distribution's cumulative function and density at x.
///
/// With z = |x| / sqrt 2 and t = 1 / (1 + z / 2), erfc z = t exp(-z^2 + P(t)); P is a Chebyshev fit of degree 9 to
/// ln(erfc z / t) + z^2, within 6e-8.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn normal<S: Arithmetic>(x: S::V) -> (S::V, S::V) {
    // Safety: the caller's promise.
    unsafe {
        let (one, half, zero) = (S::splat(1.0), S::splat(0.5), S::splat(0.0));
        let z = S::mul(S::at_least(x, S::sub(zero, x)), S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = S::div(one, S::fma(z, half, one));
        let fit = [
            0.152_171_28,
            -0.720_157_55,
            1.248_985,
            -0.818_536_6,
            0.020_350_49,
            -0.051_861_517,
            0.052_532_7,
            0.382_924_55,
            0.999_060_4,
            -1.265_468_8,
        ];
        let square = S::mul(z, z);
        let tail = S::mul(S::mul(half, t), exp_above::<S>(S::sub(polynomial::<S, 10>(t, fit), square)));
        let cumulative = S::select_gt(x, zero, S::sub(one, tail), tail);
        let density = S::mul(S::splat(0.398_942_3), exp::<S>(S::sub(zero, square)));
        (cumulative, density)
    }
}

/// The natural logarithm: x = 2^k m with m within [sqrt 1/2, sqrt 2], and the series of 2 artanh((m - 1) / (m + 1)).
/// In f64, so that the rounding to f32 is the only error that counts.
pub(super) fn ln(x: f32) -> f32 {
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x == f32::INFINITY {
        return x;
    }
    let bits = f64::from(x).to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = (0..9).rev().fold(0.0, |sum, i| sum * square + 1.0 / f64::from(2 * i + 1));
    (exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series) as f32
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Map, map};
    use super::super::simd::{Isa, Simd};
    use super::*;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Tanh,
        Sigmoid,
        Cumulative,
        TanhRatio,
    }

    impl Map<1, 0> for Function {
        #[inline(always)]
        unsafe fn call<S: Simd>(self, [x]: [S::V; 1], []: [S::V; 0]) -> S::V {
            // Safety: the caller's promise.
            unsafe {
                match self {
                    Function::Exp => exp::<S>(x),
                    Function::Tanh => tanh::<S>(x),
                    Function::Sigmoid => sigmoid::<S>(x),
                    Function::Cumulative => normal::<S>(x).0,
                    Function::TanhRatio => {
                        let [above, below] = tanh_ratio::<S>(x);
                        S::div(above, below)
                    }
                }
            }
        }
    }

    fn values(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        map(isa, [x], &mut y, function);
        y
    }

    /// The largest error in units of the last place of the true value.
    fn worst(isa: Isa, function: Function, low: f32, high: f32, truth: impl Fn(f64) -> f64) -> f64 {
        let n = 100_003;
        let x: Vec<f32> = (0..n).map(|i| low + (high - low) * (i as f32 / n as f32)).collect();
        let errors = x.iter().zip(values(isa, function, &x)).map(|(&x, y)| {
            let truth = truth(f64::from(x));
            let unit = f64::from((truth as f32).abs().next_up()) - f64::from((truth as f32).abs());
            (f64::from(y) - truth).abs() / unit
        });
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_accurate() {
        for isa in Isa::available() {
            let error = worst(isa, Function::Exp, -103.0, 88.7, f64::exp);
            assert!(error < 2.0, "{isa}: {error}");
            let edges = [f32::NEG_INFINITY, -104.0, 89.0, f32::INFINITY, f32::NAN, 0.0, -0.0];
            let y = values(isa, Function::Exp, &edges);
            assert_eq!((y[0], y[1], y[2], y[3]), (0.0, 0.0, f32::INFINITY, f32::INFINITY), "{isa}");
            assert!(y[4].is_nan() && y[5] == 1.0 && y[6] == 1.0, "{isa}");
        }
    }

    #[test]
    fn tanh_and_sigmoid_are_accurate() {
        for isa in Isa::available() {
            let tanh = worst(isa, Function::Tanh, -9.0, 9.0, f64::tanh);
            let sigmoid = worst(isa, Function::Sigmoid, -80.0, 80.0, |x| 1.0 / (1.0 + (-x).exp()));
            assert!(tanh < 4.0 && sigmoid < 4.0, "{isa}: {tanh} {sigmoid}");
            let edges = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
            let y = values(isa, Function::Tanh, &edges);
            assert!(y[0] == -1.0 && y[1] == 1.0 && y[2].is_nan(), "{isa}");
        }
    }

    #[test]
    fn the_ratio_is_tanh() {
        for isa in Isa::available() {
            let x: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 / 4000.0).collect();
            let errors = x.iter().zip(values(isa, Function::TanhRatio, &x));
            let error = errors.map(|(&x, y)| (f64::from(y) - f64::from(x).tanh()).abs()).fold(0.0, f64::max);
            assert!(error < 4e-7, "{isa}: {error}");
            let y = values(isa, Function::TanhRatio, &[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0]);
            assert!(y[0] == -y[1] && y[1] > 0.999_999 && y[2].is_nan() && y[3] == 0.0, "{isa}: {y:?}");
        }
    }

    #[test]
    fn normal_agrees_with_known_values() {
        // Abramowitz and Stegun, table 26.1.
        let known = [(0.0, 0.5), (1.0, 0.841_344_746), (2.0, 0.977_249_868), (3.0, 0.998_650_102)];
        for isa in Isa::available() {
            for (x, p) in known {
                let y = values(isa, Function::Cumulative, &[x as f32, -x as f32]);
                assert!((f64::from(y[0]) - p).abs() < 2e-7, "{isa}: {x}");
                assert!((f64::from(y[1]) / (1.0 - p) - 1.0).abs() < 1e-6, "{isa}: {x}");
            }
        }
    }

    #[test]
    fn ln_is_accurate() {
        for i in 1..2000u32 {
            let x = f32::from_bits(i * 1_065_353);
            let error = f64::from(ln(x)) - f64::from(x).ln();
            assert!(error.abs() <= 1e-7 * f64::from(x).ln().abs().max(1e-3), "{x}: {error}");
        }
        assert!(ln(0.0) == f32::NEG_INFINITY && ln(f32::INFINITY) == f32::INFINITY && ln(1.0) == 0.0);
        assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan());
    }
}
