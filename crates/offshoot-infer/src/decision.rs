//! The prediction for a picture: calibrated probabilities, and whether it is of none of the classes.

use offshoot_graph::{Metadata, Rejection, Score};

use crate::calibration::{divided, temperature};
use crate::probabilities::{Activation, argmax, softmax};
use crate::selection::Selection;

/// How outputs of a classifier become probabilities and a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    activation: Activation,
    temperature: Option<f64>,
}

impl Decision {
    /// That of a network that `metadata` describes, which may give probabilities itself.
    pub fn new(gives_probabilities: bool, metadata: &Metadata) -> Decision {
        let temperature = metadata.temperature.filter(|_| metadata.task.is_single());
        Decision { activation: Activation::new(gives_probabilities, metadata.task), temperature }
    }

    /// The probability of each class: the softmax of the logits divided by the temperature, where there is one.
    pub fn probabilities(&self, answers: &[f32]) -> Vec<f64> {
        let Some(temperature) = self.temperature else { return self.activation.probabilities(answers) };
        match self.activation {
            Activation::Softmax => softmax(&divided(answers, temperature)),
            Activation::None => softmax(&divided(&logarithms(answers), temperature)),
            Activation::Sigmoid => self.activation.probabilities(answers),
        }
    }

    /// What logits are divided by, where they are.
    pub fn temperature(&self) -> Option<f64> {
        self.temperature
    }

    /// The probabilities before calibration.
    pub fn uncalibrated(&self, answers: &[f32]) -> Vec<f64> {
        self.activation.probabilities(answers)
    }

    /// The probabilities where `logits` are those that stand for the mean of several views, whose probabilities are `mean`.
    pub fn of_mean(&self, logits: &[f32], mean: &[f64]) -> Vec<f64> {
        match self.temperature.filter(|_| self.activation != Activation::Sigmoid) {
            Some(temperature) => softmax(&divided(logits, temperature)),
            None => mean.to_vec(),
        }
    }
}

/// The logarithms of probabilities; that of 0 is that of the smallest number above it.
fn logarithms(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|&p| libm::logf(p.max(f32::MIN_POSITIVE))).collect()
}

/// log(sum(exp(logits))), in f64: the negative energy of Liu and others, "Energy-based Out-of-distribution Detection", 2020, at
/// temperature 1.
pub fn negative_energy(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&z| libm::exp(f64::from(z) - most)).sum();
    most + libm::log(sum)
}

/// The score of a picture: the higher, the more it looks like one of the classes. It is rounded as [`rounded`] does.
pub fn score(score: Score, logits: &[f32], probabilities: &[f64]) -> f64 {
    rounded(match score {
        Score::Probability => probabilities.iter().copied().fold(0.0, f64::max),
        Score::Energy => negative_energy(logits),
    })
}

/// A score as precise as logits are, f32: equal logits in another order have equal scores.
pub fn rounded(score: f64) -> f64 {
    f64::from(score as f32)
}

/// What is fitted on validation pictures of a model for one class a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fitted {
    /// See [`temperature`].
    pub temperature: Option<f64>,
    /// See [`Selection::threshold`].
    pub rejection: Option<Rejection>,
}

impl Fitted {
    /// That of `logits`, a row of `classes` for each label: the temperature, and the threshold of `by` with which the fraction `precision` of
    /// the accepted pictures is classified correctly. The probability is the calibrated one.
    pub fn new(logits: &[f32], labels: &[usize], classes: usize, (by, precision): (Score, f64)) -> Fitted {
        let temperature = temperature(logits, labels, classes);
        let decision = Decision { activation: Activation::Softmax, temperature };
        let rows = logits.chunks_exact(classes.max(1)).zip(labels);
        let pictures =
            rows.map(|(row, &label)| (score(by, row, &decision.probabilities(row)), argmax(row) == label));
        let threshold = Selection::new(pictures).threshold(precision);
        let rejection = threshold.map(|threshold| Rejection { score: by, threshold, precision });
        Fitted { temperature, rejection }
    }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Task;

    use super::*;

    fn decision(gives_probabilities: bool, task: Task) -> Decision {
        let metadata = Metadata { task, temperature: Some(2.0), ..Metadata::default() };
        Decision::new(gives_probabilities, &metadata)
    }

    #[test]
    fn probabilities_are_those_of_the_logits_divided_by_the_temperature() {
        let (logits, wanted) = ([2.0, 0.0, -4.0], softmax(&[1.0, 0.0, -2.0]));
        let close = |found: &[f64]| found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&decision(false, Task::Single).probabilities(&logits)));
        // A network that gives probabilities: the same of their logarithms.
        let given: Vec<f32> = softmax(&logits).iter().map(|&p| p as f32).collect();
        assert!(close(&decision(true, Task::Single).probabilities(&given)));
        assert!(close(&decision(false, Task::Single).of_mean(&logits, &[0.0; 3])));
        let zero = decision(true, Task::Single).probabilities(&[1.0, 0.0]);
        assert!((zero.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{zero:?}");
        // Of several labels there is none.
        let several = decision(false, Task::Multi);
        assert_eq!(several.probabilities(&logits), Activation::Sigmoid.probabilities(&logits));
        assert_eq!(several.of_mean(&logits, &[0.5; 3]), [0.5; 3]);
    }

    #[test]
    fn a_threshold_is_fitted_on_the_calibrated_probability() {
        // Sure and right, or unsure and wrong.
        let logits = [[4.0, 0.0].repeat(30), [0.5, 0.0].repeat(6)].concat();
        let labels = [vec![0; 30], vec![1; 6]].concat();
        let found = Fitted::new(&logits, &labels, 2, (Score::Probability, 1.0));
        let (temperature, rejection) = (found.temperature.unwrap(), found.rejection.unwrap());
        let p = |z: f64| 1.0 / (1.0 + (-z / temperature).exp());
        assert!((rejection.threshold - (p(4.0) + p(0.5)) / 2.0).abs() < 1e-6, "{rejection:?}");
        let energy = Fitted::new(&logits, &labels, 2, (Score::Energy, 1.0)).rejection.unwrap();
        let e = |z: f64| (z.exp() + 1.0).ln();
        assert!((energy.threshold - (e(4.0) + e(0.5)) / 2.0).abs() < 1e-6, "{energy:?}");
        assert_eq!(Fitted::new(&[], &[], 2, (Score::Energy, 0.9)), Fitted::default());
    }
}
