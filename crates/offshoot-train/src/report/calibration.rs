//! Whether probabilities are calibrated (Guo and others, "On Calibration of Modern Neural Networks", 2017).

use crate::metrics::{argmax, softmax};

/// Bins of the reliability diagram.
pub const BINS: usize = 15;

/// Pictures whose best probability lies in one range.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// How many there are.
    pub pictures: usize,
    /// Their mean probability of the best class.
    pub confidence: f64,
    /// The fraction of them whose best class is the label.
    pub accuracy: f64,
}

/// How probabilities and accuracy go together.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// By the best probability, in ranges of equal width.
    pub bins: Vec<Bin>,
    /// The expected calibration error: the mean distance between confidence and accuracy, weighted by pictures.
    pub error: f64,
}

/// The calibration of `logits` (rows of `classes`) divided by `temperature`.
pub fn calibration(logits: &[f32], labels: &[usize], classes: usize, temperature: f64) -> Calibration {
    let mut bins = vec![Bin::default(); BINS];
    for (row, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
        let best = argmax(row);
        let confidence = softmax(&divided(row, temperature))[best];
        // Ranges are open below and closed above, as in the paper.
        let bin = &mut bins[((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1];
        bin.pictures += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(best == label));
    }
    for bin in bins.iter_mut().filter(|bin| bin.pictures > 0) {
        bin.confidence /= bin.pictures as f64;
        bin.accuracy /= bin.pictures as f64;
    }
    let gap = |bin: &Bin| bin.pictures as f64 * (bin.confidence - bin.accuracy).abs();
    let error = bins.iter().map(gap).sum::<f64>() / labels.len().max(1) as f64;
    Calibration { bins, error }
}

/// The temperature that logits are best divided by: the one with the lowest mean cross entropy, within 0.01 and 100. `None`
/// without pictures.
///
/// The derivative of the cross entropy by the inverse temperature b is the mean of (sum over c of p\[c\] z\[c\]) - z\[label\], and grows
/// with b: its zero is found by halving.
pub fn temperature(logits: &[f32], labels: &[usize], classes: usize) -> Option<f64> {
    if labels.is_empty() || classes == 0 {
        return None;
    }
    let slope = |inverse: f64| {
        let rows = logits.chunks_exact(classes).zip(labels).map(|(row, &label)| {
            let p = softmax(&divided(row, 1.0 / inverse));
            p.iter().zip(row).map(|(p, &z)| p * f64::from(z)).sum::<f64>() - f64::from(row[label])
        });
        rows.sum::<f64>()
    };
    let (mut low, mut high) = (libm::log(0.01), libm::log(100.0));
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if slope(libm::exp(middle)) > 0.0 { high = middle } else { low = middle }
    }
    Some(libm::exp(-(low + high) / 2.0))
}

fn divided(row: &[f32], temperature: f64) -> Vec<f32> {
    row.iter().map(|&z| (f64::from(z) / temperature) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_and_the_errors_are_those_of_pytorch() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/calibration.json")).unwrap();
        for case in cases.as_array().unwrap() {
            let numbers = |key: &str| {
                case[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>()
            };
            let logits: Vec<f32> = numbers("logits").into_iter().map(|x| x as f32).collect();
            let labels: Vec<usize> = numbers("labels").into_iter().map(|x| x as usize).collect();
            let classes = case["classes"].as_u64().unwrap() as usize;
            let found = temperature(&logits, &labels, classes).unwrap();
            let expected = case["temperature"].as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 1e-4, "{found} {expected}");
            for (key, temperature) in [("ece_before", 1.0), ("ece_after", found)] {
                let error = calibration(&logits, &labels, classes, temperature).error;
                assert!((error - case[key].as_f64().unwrap()).abs() < 1e-5, "{key}: {error}");
            }
        }
    }

    #[test]
    fn nothing_and_certainty_are_no_trouble() {
        assert_eq!(temperature(&[], &[], 3), None);
        let certain = calibration(&[100.0, 0.0, 100.0, 0.0], &[0, 1], 2, 1.0);
        assert!((certain.error - 0.5).abs() < 1e-9);
        assert_eq!(certain.bins[BINS - 1].pictures, 2);
        assert!(temperature(&[100.0, 0.0], &[0], 2).unwrap() < 0.02);
    }
}
