//! Matrix products against a direct sum in f64, on every SIMD path, and across numbers of threads.

use offshoot_cpu::kernels::gemm::{GemmShape, gemm};
use offshoot_cpu::kernels::simd::Isa;
use proptest::prelude::*;

/// Reproducible values in [-1, 1).
fn values(len: usize, seed: u32) -> Vec<f32> {
    let value = |i: usize| (i as u32 ^ seed).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 * 2.0 - 1.0;
    (0..len).map(value).collect()
}

fn product(isa: Isa, shape: &GemmShape, bias: Option<&[f32]>) -> Vec<f32> {
    let (a, b) = (values(shape.m * shape.k, 1 << 20), values(shape.k * shape.n, 1 << 21));
    let mut c = vec![f32::NAN; shape.m * shape.n];
    gemm(isa, shape, &a, &b, bias, &mut c);
    c
}

fn check(shape: &GemmShape) {
    let GemmShape { trans_a, trans_b, m, n, k } = *shape;
    let (a, b) = (values(m * k, 1 << 20), values(k * n, 1 << 21));
    let bias = values(n, 7);
    for isa in Isa::available() {
        let (plain, biased) = (product(isa, shape, None), product(isa, shape, Some(&bias)));
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let at_a = |l| if trans_a { a[l * m + i] } else { a[i * k + l] };
            let at_b = |l| if trans_b { b[j * k + l] } else { b[l * n + j] };
            let sum: f64 = (0..k).map(|l| f64::from(at_a(l)) * f64::from(at_b(l))).sum();
            let tolerance = 1e-6 * (k as f64 + 3.0);
            let place = i * n + j;
            assert!((f64::from(plain[place]) - sum).abs() <= tolerance, "{shape:?} on {isa} at {i}, {j}");
            let sum = sum + f64::from(bias[j]);
            assert!((f64::from(biased[place]) - sum).abs() <= tolerance, "{shape:?} on {isa} with bias");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_direct_sums(
        trans_a: bool, trans_b: bool, m in 1..40usize, n in 1..90usize, k in 0..80usize,
    ) {
        check(&GemmShape { trans_a, trans_b, m, n, k });
    }
}

fn larger() -> Vec<GemmShape> {
    let transposes = [(false, false), (false, true), (true, false), (true, true)];
    let sizes = [(16, 300, 900), (200, 210, 400), (1, 500, 700)];
    let with = |(trans_a, trans_b)| sizes.map(|(m, n, k)| GemmShape { trans_a, trans_b, m, n, k });
    transposes.into_iter().flat_map(with).collect()
}

#[test]
fn larger_shapes_agree_with_direct_sums() {
    larger().iter().for_each(check);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for shape in larger() {
        for isa in Isa::available() {
            let one = pool(1).install(|| product(isa, &shape, None));
            for threads in [2, 3] {
                assert_eq!(one, pool(threads).install(|| product(isa, &shape, None)), "{shape:?} on {isa}");
            }
        }
    }
}
