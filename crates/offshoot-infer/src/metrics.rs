//! How well logits fit labels.

use std::collections::BTreeMap;

use offshoot_graph::{Metadata, Rejection, Score};
use serde::Serialize;

use crate::calibration::Calibration;
use crate::decision::{Decision, score};
use crate::selection::Selection;

pub use crate::probabilities::{Activation, argmax, softmax};

/// Counts over pictures, from which every figure comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    classes: usize,
    /// By label and predicted class: a table of all would take the square of the classes.
    confusion: BTreeMap<(usize, usize), u64>,
    images: u64,
    correct: u64,
    in_top5: u64,
    loss: f64,
    decision: Decision,
    rejection: Option<Rejection>,
    /// Of each picture.
    said: Vec<Said>,
    /// The sum of the Brier scores.
    brier: f64,
}

/// What is said of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Said {
    /// The calibrated probability of the best class.
    confidence: f64,
    /// The score by which it is accepted or rejected.
    score: f64,
    right: bool,
}

/// The pictures of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// How many there are.
    pub images: u64,
    /// The fraction classified correctly; `None` without pictures.
    pub accuracy: Option<f64>,
}

impl Metrics {
    /// No picture yet, of a model without a temperature.
    pub fn new(classes: usize) -> Metrics {
        let metadata = Metadata { classes: vec![String::new(); classes], ..Metadata::default() };
        Metrics::of(&metadata)
    }

    /// No picture yet, for a model that says this of itself.
    pub fn of(metadata: &Metadata) -> Metrics {
        Metrics {
            classes: metadata.classes.len(),
            confusion: BTreeMap::new(),
            images: 0,
            correct: 0,
            in_top5: 0,
            loss: 0.0,
            decision: Decision::new(false, metadata),
            rejection: metadata.rejection,
            said: Vec::new(),
            brier: 0.0,
        }
    }

    /// Adds pictures: `logits` is `[n, classes]`, `labels` is `[n]`.
    ///
    /// # Panics
    /// When the lengths do not fit or a label is no class.
    pub fn add(&mut self, logits: &[f32], labels: &[i64]) {
        assert_eq!(logits.len(), labels.len() * self.classes, "one row of logits for each label");
        for (row, &label) in logits.chunks_exact(self.classes.max(1)).zip(labels) {
            let label =
                usize::try_from(label).ok().filter(|&l| l < self.classes).expect("a label is a class");
            let predicted = argmax(row);
            *self.confusion.entry((label, predicted)).or_default() += 1;
            self.images += 1;
            self.correct += u64::from(predicted == label);
            self.in_top5 += u64::from(rank(row, label) < 5);
            self.loss += cross_entropy(row, label);
            self.decide(row, label, predicted == label);
        }
    }

    fn decide(&mut self, row: &[f32], label: usize, right: bool) {
        let p = self.decision.probabilities(row);
        let confidence = p.iter().copied().fold(0.0, f64::max);
        let score = score(self.score(), row, &p);
        self.said.push(Said { confidence, score, right });
        let target = |class: usize| if class == label { 1.0 } else { 0.0 };
        self.brier += p.iter().enumerate().map(|(class, p)| (p - target(class)).powi(2)).sum::<f64>();
    }

    /// What pictures are accepted or rejected by: that of the model, or the probability where it has none.
    pub fn score(&self) -> Score {
        self.rejection.map_or(Score::Probability, |rejection| rejection.score)
    }

    /// How many pictures were added.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// How many pictures have their label as the best class.
    pub fn correct(&self) -> u64 {
        self.correct
    }

    /// The fraction of the pictures whose best class is their label. 0 without pictures.
    pub fn accuracy(&self) -> f64 {
        ratio(self.correct(), self.images()).unwrap_or(0.0)
    }

    /// The fraction of the pictures whose label is among the five best classes. 0 without pictures.
    pub fn top5(&self) -> f64 {
        ratio(self.in_top5, self.images()).unwrap_or(0.0)
    }

    /// The mean cross entropy of the logits as they are, without temperature, label smoothing or class weights. 0 without pictures.
    pub fn loss(&self) -> f64 {
        self.loss / self.images().max(1) as f64
    }

    /// How the calibrated probabilities and the accuracy go together.
    pub fn calibration(&self) -> Calibration {
        Calibration::new(self.said.iter().map(|said| (said.confidence, said.right)))
    }

    /// The mean Brier score of the calibrated probabilities, 0 to 2: the sum over the classes of the squared distance to 1 for the label
    /// and to 0 for others (Brier, 1950). 0 without pictures.
    pub fn brier(&self) -> f64 {
        self.brier / self.images().max(1) as f64
    }

    /// The accuracy on the pictures with the highest scores (see [`Metrics::score`]).
    pub fn selection(&self) -> Selection {
        Selection::new(self.said.iter().map(|said| (said.score, said.right)))
    }

    /// What logits are divided by for the calibrated probabilities; `None` where the model has no temperature.
    pub fn temperature(&self) -> Option<f64> {
        self.decision.temperature()
    }

    /// Which pictures the model says to be of none of the classes.
    pub fn rejection(&self) -> Option<Rejection> {
        self.rejection
    }

    /// How many pictures have a label and a predicted class, for each pair with any, in the order of the pairs.
    pub fn confusion(&self) -> impl ExactSizeIterator<Item = ((usize, usize), u64)> {
        self.confusion.iter().map(|(&pair, &count)| (pair, count))
    }

    /// The accuracy of each class.
    pub fn per_class(&self) -> Vec<ClassAccuracy> {
        let mut counts = vec![[0, 0]; self.classes];
        for ((label, predicted), count) in self.confusion() {
            counts[label][0] += count;
            counts[label][1] += if label == predicted { count } else { 0 };
        }
        let class = |[images, right]: [u64; 2]| ClassAccuracy { images, accuracy: ratio(right, images) };
        counts.into_iter().map(class).collect()
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How many classes come before `label`; of equals, the first comes first.
fn rank(row: &[f32], label: usize) -> usize {
    let before = |&(i, &x): &(usize, &f32)| x > row[label] || (x == row[label] && i < label);
    row.iter().enumerate().filter(before).count()
}

/// log(sum(exp(row))) - row[label], in f64.
fn cross_entropy(row: &[f32], label: usize) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| libm::exp(f64::from(x) - f64::from(max))).sum();
    libm::log(sum) + f64::from(max) - f64::from(row[label])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_was_right() {
        let mut metrics = Metrics::new(6);
        metrics.add(&[9.0, 1.0, 0.0, 0.0, 0.0, 0.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], &[0, 5]);
        metrics.add(&[0.0, 2.0, 1.0, 0.0, 0.0, 0.0], &[2]);
        assert_eq!((metrics.images(), metrics.correct()), (3, 1));
        assert!((metrics.accuracy() - 1.0 / 3.0).abs() < 1e-12);
        assert!((metrics.top5() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(metrics.confusion().collect::<Vec<_>>(), [((0, 0), 1), ((2, 1), 1), ((5, 0), 1)]);
        assert_eq!(metrics.per_class()[2], ClassAccuracy { images: 1, accuracy: Some(0.0) });
        assert_eq!(metrics.per_class()[1], ClassAccuracy { images: 0, accuracy: None });
    }

    #[test]
    fn what_is_kept_grows_with_the_pictures_and_not_with_the_square_of_the_classes() {
        // A table of them all would have 80 GB.
        let mut metrics = Metrics::new(100_000);
        let mut row = vec![0.0; 100_000];
        row[99_999] = 1.0;
        metrics.add(&row, &[99_999]);
        assert_eq!((metrics.accuracy(), metrics.confusion().len()), (1.0, 1));
        assert_eq!(metrics.per_class()[99_999].accuracy, Some(1.0));
    }

    #[test]
    fn the_loss_is_the_cross_entropy_and_does_not_overflow() {
        let mut metrics = Metrics::new(2);
        metrics.add(&[1000.0, 1000.0], &[1]);
        assert!((metrics.loss() - std::f64::consts::LN_2).abs() < 1e-12);
        metrics.add(&[0.0, 1e4], &[0]);
        assert!((metrics.loss() - (std::f64::consts::LN_2 + 1e4) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn equal_logits_rank_in_the_order_of_the_classes() {
        assert_eq!(argmax(&[1.0, 1.0]), 0);
        assert_eq!(argmax(&[f32::NAN, 1.0, 2.0]), 2);
        assert_eq!(rank(&[1.0, 1.0, 2.0], 1), 2);
    }
}
