//! How well logits fit the labels of pictures that may have any number of classes.

use offshoot_graph::model::DEFAULT_THRESHOLD;
use serde::Serialize;

/// Two logits are told apart from this difference on, relative to the larger one, or absolute below 1: ten times what exported files are off.
const LEAST_GAP: f32 = 1e-4;

/// Logits and labels of pictures, from which every figure comes.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelMetrics {
    /// The probability from which on a picture has each class.
    thresholds: Vec<f64>,
    /// `[n, classes]`
    logits: Vec<f32>,
    /// `[n, classes]`: whether the picture has the class.
    has: Vec<bool>,
    images: u64,
    loss: f64,
}

/// The pictures of one class, and how they are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LabelFigures {
    /// How many have it.
    pub images: u64,
    /// The average precision: the sum of precision times the gain in recall over all thresholds. `None` where no picture has it.
    pub ap: Option<f64>,
    /// The area under the ROC curve. `None` where all pictures have it, or none.
    pub auroc: Option<f64>,
    /// Of those said to have it, the fraction that do; 0 where none is.
    pub precision: f64,
    /// Of those that have it, the fraction that is said to; 0 where none has.
    pub recall: f64,
    /// 2 tp / (2 tp + fp + fn); 0 where there is none of them.
    pub f1: f64,
    /// The probability from which on a picture is said to have it.
    pub threshold: f64,
}

/// What is right and wrong at a threshold.
#[derive(Clone, Copy, Default)]
struct Counts {
    both: u64,
    said: u64,
    has: u64,
}

impl Counts {
    fn f1(self) -> f64 {
        ratio(2 * self.both, self.said + self.has)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole > 0 { part as f64 / whole as f64 } else { 0.0 }
}

/// 1 / (1 + exp(-x)), in f64.
pub fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + libm::exp(-f64::from(x)))
}

/// log(1 + exp(x)), in f64.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

impl LabelMetrics {
    /// No picture yet; a threshold for each class.
    pub fn new(thresholds: Vec<f64>) -> LabelMetrics {
        LabelMetrics { thresholds, logits: Vec::new(), has: Vec::new(), images: 0, loss: 0.0 }
    }

    fn classes(&self) -> usize {
        self.thresholds.len()
    }

    /// Adds a picture with a logit for each class and the places of the classes that it has.
    ///
    /// # Panics
    /// When there is another number of logits, or a label is no class.
    pub fn add(&mut self, logits: &[f32], labels: impl Iterator<Item = usize>) {
        assert_eq!(logits.len(), self.classes(), "a logit for each class");
        let start = self.has.len();
        self.has.resize(start + logits.len(), false);
        labels.for_each(|label| self.has[start..][label] = true);
        let losses = logits.iter().zip(&self.has[start..]).map(|(&x, &has)| {
            let x = f64::from(x);
            softplus(if has { -x } else { x })
        });
        self.loss += losses.sum::<f64>();
        self.logits.extend_from_slice(logits);
        self.images += 1;
    }

    /// How many pictures were added.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// The mean binary cross entropy over pictures and classes, without smoothing or weights. 0 without pictures.
    pub fn loss(&self) -> f64 {
        self.loss / (self.logits.len().max(1)) as f64
    }

    /// The mean of the average precisions of the classes that pictures have. 0 where there is none.
    pub fn map(&self) -> f64 {
        mean(self.per_class().iter().filter_map(|class| class.ap)).unwrap_or(0.0)
    }

    /// The mean of the areas under the ROC curves of the classes that have one; `None` where none has.
    pub fn auroc(&self) -> Option<f64> {
        mean(self.per_class().iter().filter_map(|class| class.auroc))
    }

    /// F1 over all labels of all classes together.
    pub fn f1_micro(&self) -> f64 {
        let add = |a: Counts, b: Counts| Counts {
            both: a.both + b.both,
            said: a.said + b.said,
            has: a.has + b.has,
        };
        (0..self.classes()).map(|class| self.counts(class)).fold(Counts::default(), add).f1()
    }

    /// The mean of the F1 of the classes.
    pub fn f1_macro(&self) -> f64 {
        mean((0..self.classes()).map(|class| self.counts(class).f1())).unwrap_or(0.0)
    }

    /// The fraction of the pictures whose labels are all right. 0 without pictures.
    pub fn exact(&self) -> f64 {
        let classes = self.classes().max(1);
        let rows = self.logits.chunks_exact(classes).zip(self.has.chunks_exact(classes));
        let right = rows.filter(|(logits, has)| {
            let said = logits.iter().zip(&self.thresholds).map(|(&x, &threshold)| sigmoid(x) >= threshold);
            said.eq(has.iter().copied())
        });
        ratio(right.count() as u64, self.images)
    }

    /// The figures of each class.
    pub fn per_class(&self) -> Vec<LabelFigures> {
        (0..self.classes()).map(|class| self.of_class(class)).collect()
    }

    fn of_class(&self, class: usize) -> LabelFigures {
        let counts = self.counts(class);
        let steps = self.steps(class);
        LabelFigures {
            images: counts.has,
            ap: average_precision(&steps),
            auroc: area(&steps),
            precision: ratio(counts.both, counts.said),
            recall: ratio(counts.both, counts.has),
            f1: counts.f1(),
            threshold: self.thresholds[class],
        }
    }

    /// The logits of a class, and whether the picture has it.
    fn column(&self, class: usize) -> impl Iterator<Item = (f32, bool)> + '_ {
        let every = self.classes().max(1);
        let logits = self.logits.iter().skip(class).step_by(every);
        logits.copied().zip(self.has.iter().skip(class).step_by(every).copied())
    }

    fn counts(&self, class: usize) -> Counts {
        let mut counts = Counts::default();
        for (logit, has) in self.column(class) {
            let said = sigmoid(logit) >= self.thresholds[class];
            counts.said += u64::from(said);
            counts.has += u64::from(has);
            counts.both += u64::from(said && has);
        }
        counts
    }

    /// Each logit of a class, the largest first, with how many pictures have it, and how many of these have the class.
    fn steps(&self, class: usize) -> Vec<Step> {
        let mut column: Vec<(f32, bool)> = self.column(class).collect();
        column.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut steps: Vec<Step> = Vec::new();
        for (logit, has) in column {
            match steps.last_mut().filter(|step| step.logit == logit) {
                Some(step) => {
                    step.pictures += 1;
                    step.has += u64::from(has);
                }
                None => steps.push(Step { logit, pictures: 1, has: has.into() }),
            }
        }
        steps
    }

    /// Of each class, the threshold with the highest F1 on these pictures, half way between two probabilities that rounding does not
    /// exchange; of equals, the one that is nearest to [`DEFAULT_THRESHOLD`]. That one where no picture has the class.
    pub fn best_thresholds(&self) -> Vec<f64> {
        (0..self.classes()).map(|class| best_threshold(&self.steps(class))).collect()
    }
}

/// Pictures with the same logit.
struct Step {
    logit: f32,
    pictures: u64,
    has: u64,
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

/// As `sklearn.metrics.average_precision_score`.
fn average_precision(steps: &[Step]) -> Option<f64> {
    let all: u64 = steps.iter().map(|step| step.has).sum();
    let (mut said, mut both) = (0, 0);
    let parts = steps.iter().map(|step| {
        (said, both) = (said + step.pictures, both + step.has);
        ratio(step.has, all) * ratio(both, said)
    });
    let sum = parts.sum();
    (all > 0).then_some(sum)
}

/// As `sklearn.metrics.roc_auc_score`: how often a picture that has the class comes before one that has not; one of equals half.
fn area(steps: &[Step]) -> Option<f64> {
    let has: u64 = steps.iter().map(|step| step.has).sum();
    let without = steps.iter().map(|step| step.pictures).sum::<u64>() - has;
    let (mut before, mut sum) = (0.0, 0.0);
    for step in steps {
        let behind = (step.pictures - step.has) as f64;
        sum += behind * (before + 0.5 * step.has as f64);
        before += step.has as f64;
    }
    (has > 0 && without > 0).then(|| sum / (has as f64 * without as f64))
}

/// Whether a threshold between two logits parts their pictures in whatever runs the model: rounding does not exchange them, and their
/// probabilities are different numbers in f32.
fn are_apart(larger: f32, smaller: f32) -> bool {
    let [high, low] = [larger, smaller].map(|logit| sigmoid(logit) as f32);
    let middle = (sigmoid(larger) + sigmoid(smaller)) / 2.0;
    larger - smaller > LEAST_GAP * larger.abs().max(1.0) && high > middle as f32 && middle as f32 > low
}

fn best_threshold(steps: &[Step]) -> f64 {
    let all: u64 = steps.iter().map(|step| step.has).sum();
    let mut counts = Counts { has: all, ..Counts::default() };
    let mut best = (0.0, DEFAULT_THRESHOLD);
    for (place, step) in steps.iter().enumerate() {
        counts.said += step.pictures;
        counts.both += step.has;
        let next = steps.get(place + 1);
        if next.is_some_and(|next| !are_apart(step.logit, next.logit)) {
            continue;
        }
        let next = next.map_or(0.0, |next| sigmoid(next.logit));
        let (f1, threshold) = (counts.f1(), (sigmoid(step.logit) + next) / 2.0);
        let nearer = (threshold - DEFAULT_THRESHOLD).abs() < (best.1 - DEFAULT_THRESHOLD).abs();
        if f1 > best.0 || (f1 == best.0 && f1 > 0.0 && nearer) {
            best = (f1, threshold);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
    }

    fn close(found: Option<f64>, wanted: &Value, what: &str) {
        match (found, wanted.as_f64()) {
            (None, None) => {}
            (Some(found), Some(wanted)) => {
                assert!((found - wanted).abs() < 1e-6, "{what}: {found}, {wanted}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }

    /// `golden/labels.json` was written by `scripts/golden/labels.py`: figures of scikit-learn, torchmetrics and PyTorch.
    #[test]
    fn the_figures_are_those_of_scikit_learn() {
        let cases: Vec<Value> = serde_json::from_str(include_str!("../tests/golden/labels.json")).unwrap();
        assert!(cases.len() >= 6);
        for case in &cases {
            let classes = case["classes"].as_u64().unwrap() as usize;
            let logits: Vec<f32> = numbers(&case["logits"]).iter().map(|&x| x as f32).collect();
            let labels = numbers(&case["labels"]);
            let mut metrics = LabelMetrics::new(numbers(&case["thresholds"]));
            for (row, labels) in logits.chunks_exact(classes).zip(labels.chunks_exact(classes)) {
                metrics.add(row, (0..classes).filter(|&class| labels[class] == 1.0));
            }
            close(Some(metrics.loss()), &case["loss"], "loss");
            close(Some(metrics.map()), &case["map"], "mAP");
            close(Some(metrics.f1_micro()), &case["f1_micro"], "micro F1");
            close(Some(metrics.f1_macro()), &case["f1_macro"], "macro F1");
            close(metrics.auroc(), &case["auroc"], "AUROC");
            close(Some(metrics.exact()), &case["exact"], "exact");
            for (class, figures) in metrics.per_class().into_iter().enumerate() {
                close(figures.ap, &case["ap_of"][class], "AP");
                close(figures.auroc, &case["auroc_of"][class], "AUROC of a class");
                close(Some(figures.f1), &case["f1_of"][class], "F1");
                close(Some(figures.precision), &case["precision_of"][class], "precision");
                close(Some(figures.recall), &case["recall_of"][class], "recall");
            }
            let best = LabelMetrics { thresholds: metrics.best_thresholds(), ..metrics };
            for (class, figures) in best.per_class().into_iter().enumerate() {
                close(Some(figures.f1), &case["best_f1_of"][class], "best F1");
            }
        }
    }

    #[test]
    fn thresholds_lie_between_probabilities_and_near_the_middle() {
        let fitted = |rows: &[(f32, bool)]| {
            let mut metrics = LabelMetrics::new(vec![0.5]);
            rows.iter().for_each(|&(x, has)| metrics.add(&[x], has.then_some(0).into_iter()));
            metrics.best_thresholds()[0]
        };
        let (low, high) = (sigmoid(-1.0), sigmoid(3.0));
        assert!((fitted(&[(3.0, true), (-1.0, false)]) - (low + high) / 2.0).abs() < 1e-12);
        assert_eq!(fitted(&[]), 0.5);
        assert_eq!(fitted(&[(1.0, false)]), 0.5);
        // All have it: half of the smallest.
        assert!((fitted(&[(1.0, true), (-1.0, true)]) - low / 2.0).abs() < 1e-12);
        // Rounding parts these, so that they stay together.
        let together = fitted(&[(1.0, true), (0.999_999_9, false), (-2.0, false)]);
        assert!((together - (sigmoid(0.999_999_9) + sigmoid(-2.0)) / 2.0).abs() < 1e-12);
        // Both probabilities are 1 in f32.
        assert!((fitted(&[(40.0, true), (30.0, false)]) - sigmoid(30.0) / 2.0).abs() < 1e-12);
        // One and four of the pictures first, both have the same F1.
        let rows = [(4.0, true), (1.0, false), (0.5, false), (-0.5, true), (-9.0, false)];
        let threshold = fitted(&rows);
        assert!(threshold > sigmoid(-9.0) && threshold < sigmoid(-0.5), "{threshold}");
    }

    #[test]
    fn a_logit_that_is_no_number_is_no_loss() {
        let mut metrics = LabelMetrics::new(vec![0.5; 2]);
        assert_eq!((metrics.loss(), metrics.map(), metrics.auroc(), metrics.exact()), (0.0, 0.0, None, 0.0));
        metrics.add(&[f32::NAN, 1.0], [1].into_iter());
        assert!(metrics.loss().is_nan());
        metrics.best_thresholds();
        metrics.per_class();
    }
}
