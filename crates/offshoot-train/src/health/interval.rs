//! The confidence interval of an accuracy.

/// The two-sided quantile of the normal distribution for 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// The Wilson score interval at 95 % of a part `p` of `n` things: Wilson, "Probable Inference, the Law of Succession, and Statistical
/// Inference", 1927. Without continuity correction.
pub(crate) fn wilson(p: f64, n: u64) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (n, square) = (n as f64, Z * Z);
    let middle = p + square / (2.0 * n);
    let width = Z * (p * (1.0 - p) / n + square / (4.0 * n * n)).max(0.0).sqrt();
    [middle - width, middle + width].map(|end| (end / (1.0 + square / n)).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_its_definition() {
        // scripts/golden/wilson.py
        let golden = include_str!("../../tests/golden/wilson.csv");
        let mut lines = 0;
        for line in golden.lines().skip(1) {
            let numbers: Vec<f64> = line.split(',').map(|x| x.parse().unwrap()).collect();
            let [right, n, low, high] = numbers[..] else { panic!("{line}") };
            let found = wilson(right / n, n as u64);
            assert!((found[0] - low).abs() < 1e-12 && (found[1] - high).abs() < 1e-12, "{line}: {found:?}");
            lines += 1;
        }
        assert!(lines >= 20);
        assert_eq!(wilson(0.5, 0), [0.0, 1.0]);
    }
}
