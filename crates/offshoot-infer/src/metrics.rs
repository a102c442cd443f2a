//! How well logits fit labels.

use std::collections::BTreeMap;

use serde::Serialize;

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
    /// No picture yet.
    pub fn new(classes: usize) -> Metrics {
        Metrics { classes, confusion: BTreeMap::new(), images: 0, correct: 0, in_top5: 0, loss: 0.0 }
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
        }
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

    /// The mean cross entropy, without label smoothing or class weights. 0 without pictures.
    pub fn loss(&self) -> f64 {
        self.loss / self.images().max(1) as f64
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

/// The place of the largest value; of several, the first. One that is not a number never wins.
pub fn argmax(row: &[f32]) -> usize {
    let better =
        |best: usize, (i, &x): (usize, &f32)| if x > row[best] || row[best].is_nan() { i } else { best };
    row.iter().enumerate().fold(0, better)
}

/// exp(x) / sum(exp(x)), in f64.
pub fn softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = row.iter().map(|&x| libm::exp(f64::from(x) - f64::from(most))).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|x| x / sum).collect()
}

/// The probability of each class: the outputs themselves where a network gives `probabilities`, else their softmax.
pub fn probabilities(answers: &[f32], probabilities: bool) -> Vec<f64> {
    if probabilities { answers.iter().map(|&p| p.into()).collect() } else { softmax(answers) }
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
