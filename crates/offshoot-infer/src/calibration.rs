//! Whether probabilities are calibrated (Guo and others, "On Calibration of Modern Neural Networks", 2017).

use crate::probabilities::{argmax, softmax};

/// Bins of the reliability diagram.
pub const BINS: usize = 15;

/// The fewest pictures that a temperature or a reject threshold is fitted on.
pub const LEAST_PICTURES: usize = 20;

/// The temperatures that are looked at.
const RANGE: [f64; 2] = [0.01, 100.0];

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
    /// The expected calibration error: the mean distance between confidence and accuracy, weighted by pictures. 0 without pictures.
    pub error: f64,
}

impl Calibration {
    /// That of pictures with the highest probability of each, and whether that is the one of the label.
    pub fn new(pictures: impl IntoIterator<Item = (f64, bool)>) -> Calibration {
        let mut bins = vec![Bin::default(); BINS];
        let mut count = 0;
        for (confidence, right) in pictures {
            // Ranges are open below and closed above, as in the paper.
            let bin = &mut bins[((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1];
            bin.pictures += 1;
            bin.confidence += confidence;
            bin.accuracy += f64::from(u8::from(right));
            count += 1;
        }
        for bin in bins.iter_mut().filter(|bin| bin.pictures > 0) {
            bin.confidence /= bin.pictures as f64;
            bin.accuracy /= bin.pictures as f64;
        }
        let gap = |bin: &Bin| bin.pictures as f64 * (bin.confidence - bin.accuracy).abs();
        let error = bins.iter().map(gap).sum::<f64>() / f64::from(count.max(1));
        Calibration { bins, error }
    }
}

/// The calibration of `logits` (rows of `classes`) divided by `temperature`.
pub fn calibration(logits: &[f32], labels: &[usize], classes: usize, temperature: f64) -> Calibration {
    let rows = logits.chunks_exact(classes.max(1)).zip(labels);
    Calibration::new(rows.map(|(row, &label)| {
        let best = argmax(row);
        (softmax(&divided(row, temperature))[best], best == label)
    }))
}

/// The temperature that logits are best divided by: the one with the lowest mean cross entropy with label smoothing of 1 / (n + 1) for n
/// pictures, within 0.01 and 100. `None` with fewer than [`LEAST_PICTURES`], where a logit is not finite, and where there is no minimum
/// in that range: the logits say nothing of the labels.
///
/// The smoothing counts one picture more, whose class is any with equal probability. Without it, pictures that are all
/// classified correctly would have no minimum: a probability of 1 for each would be best.
///
/// The derivative of the cross entropy by the inverse temperature b is the mean of (sum over c of p\[c\] z\[c\]) - (sum over c of t\[c\]
/// z\[c\]), where t are the smoothed targets, and grows with b: its zero is found by halving.
pub fn temperature(logits: &[f32], labels: &[usize], classes: usize) -> Option<f64> {
    if labels.len() < LEAST_PICTURES || classes < 2 || !logits.iter().all(|z| z.is_finite()) {
        return None;
    }
    let smoothing = 1.0 / (labels.len() as f64 + 1.0);
    let target = |(row, &label): (&[f32], &usize)| {
        let mean = row.iter().copied().map(f64::from).sum::<f64>() / classes as f64;
        (1.0 - smoothing) * f64::from(row[label]) + smoothing * mean
    };
    let rows = || logits.chunks_exact(classes).zip(labels);
    let targets: f64 = rows().map(target).sum();
    let slope = |inverse: f64| {
        let expected = rows().map(|(row, _)| {
            let p = softmax(&divided(row, 1.0 / inverse));
            p.iter().zip(row).map(|(p, &z)| p * f64::from(z)).sum::<f64>()
        });
        expected.sum::<f64>() - targets
    };
    let [coldest, hottest] = RANGE;
    let (mut low, mut high) = (libm::log(1.0 / hottest), libm::log(1.0 / coldest));
    if !(slope(libm::exp(low)) < 0.0 && slope(libm::exp(high)) > 0.0) {
        return None;
    }
    // To 1e-7 of the temperature.
    for _ in 0..28 {
        let middle = (low + high) / 2.0;
        if slope(libm::exp(middle)) > 0.0 { high = middle } else { low = middle }
    }
    Some(libm::exp(-(low + high) / 2.0))
}

/// Logits divided by a temperature.
pub(crate) fn divided(row: &[f32], temperature: f64) -> Vec<f32> {
    row.iter().map(|&z| (f64::from(z) / temperature) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_and_the_errors_are_those_of_pytorch() {
        let cases: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../tests/golden/calibration.json")).unwrap();
        assert!(cases.len() >= 5);
        for case in &cases {
            let numbers = |key: &str| {
                case[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>()
            };
            let logits: Vec<f32> = numbers("logits").into_iter().map(|x| x as f32).collect();
            let labels: Vec<usize> = numbers("labels").into_iter().map(|x| x as usize).collect();
            let classes = case["classes"].as_u64().unwrap() as usize;
            let found = temperature(&logits, &labels, classes).unwrap();
            let expected = case["temperature"].as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
            for (key, temperature) in [("ece_before", 1.0), ("ece_after", found)] {
                let error = calibration(&logits, &labels, classes, temperature).error;
                assert!((error - case[key].as_f64().unwrap()).abs() < 1e-5, "{key}: {error}");
            }
        }
    }

    #[test]
    fn nothing_and_certainty_are_no_trouble() {
        assert_eq!(temperature(&[], &[], 3), None);
        assert_eq!(temperature(&[1.0; 38], &[0; 19], 2), None, "too few");
        let certain = calibration(&[100.0, 0.0, 100.0, 0.0], &[0, 1], 2, 1.0);
        assert!((certain.error - 0.5).abs() < 1e-9);
        assert_eq!(certain.bins[BINS - 1].pictures, 2);
        assert_eq!(Calibration::new([]).error, 0.0);
        // Equal logits, and those that are wrong more often than by chance.
        assert_eq!(temperature(&[1.0; 60], &[0; 30], 2), None);
        assert_eq!(temperature(&[1.0, 0.0].repeat(30), &[1; 30], 2), None);
        assert_eq!(temperature(&[f32::NAN, 0.0].repeat(30), &[1; 30], 2), None);
        assert_eq!(temperature(&[f32::INFINITY, 0.0].repeat(30), &[0; 30], 2), None);
    }

    #[test]
    fn pictures_that_are_all_right_have_a_temperature() {
        // The target of each is 1 - 1/31/2, at which the probability is when z / T is its logit.
        let found = temperature(&[3.0, 0.0].repeat(30), &[0; 30], 2).unwrap();
        let p: f64 = 1.0 - 0.5 / 31.0;
        assert!((found - 3.0 / (p / (1.0 - p)).ln()).abs() < 1e-5, "{found}");
    }
}
