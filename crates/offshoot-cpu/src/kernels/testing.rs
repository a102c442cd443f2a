//! What the kernels' tests share.

use offshoot_graph::random::{Purpose, Random};

/// `len` numbers of a standard normal distribution.
pub(super) fn normals(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random::new(seed, 0, 0, Purpose::Init);
    (0..len).map(|_| random.normal()).collect()
}

/// Asserts |actual - expected| <= tolerance (1 + |expected|), element by element.
#[track_caller]
pub(super) fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths");
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let a = f64::from(a);
        let same = a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= tolerance * (1.0 + e.abs());
        assert!(same, "{what}: element {i} is {a}, not {e}");
    }
}

/// Asserts that `compute` gives bit-identical results on one, two and three threads.
#[track_caller]
pub(super) fn assert_same_on_any_threads(what: &str, compute: impl Fn() -> Vec<f32> + Send + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        let bits: Vec<u32> = pool.install(&compute).into_iter().map(f32::to_bits).collect();
        bits
    };
    let one = on(1);
    assert!(one == on(2) && one == on(3), "{what} depends on the number of threads");
}
