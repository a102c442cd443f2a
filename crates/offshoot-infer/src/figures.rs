//! How good a model is, for each task.

use offshoot_data::Sample;
use offshoot_graph::{Metadata, Task};

use crate::labels::LabelMetrics;
use crate::metrics::Metrics;
use crate::targets::TargetMetrics;

/// The figures of a classifier on pictures.
#[derive(Clone, Debug, PartialEq)]
pub enum Figures {
    /// Of [`Task::Single`].
    Classes(Metrics),
    /// Of [`Task::Multi`].
    Labels(LabelMetrics),
    /// Of [`Task::Regression`].
    Targets(TargetMetrics),
}

impl Figures {
    /// No picture yet, for a model that says this of itself.
    pub fn new(metadata: &Metadata) -> Figures {
        match metadata.task {
            Task::Single => Figures::Classes(Metrics::of(metadata)),
            Task::Multi => Figures::Labels(LabelMetrics::new(metadata.class_thresholds())),
            Task::Regression => Figures::Targets(TargetMetrics::new(metadata.regression())),
        }
    }

    /// Adds pictures: `logits` is `[n, classes]`, with a sample for each row.
    ///
    /// # Panics
    /// When the lengths do not fit, a label is no class, or a sample has no targets that are to be predicted.
    pub fn add<'a>(&mut self, logits: &[f32], samples: impl Iterator<Item = &'a Sample>) {
        match self {
            Figures::Classes(metrics) => {
                let labels: Vec<i64> = samples.map(|sample| sample.label as i64).collect();
                metrics.add(logits, &labels);
            }
            Figures::Labels(metrics) => {
                let samples: Vec<&Sample> = samples.collect();
                let classes = (logits.len() / samples.len().max(1)).max(1);
                logits.chunks_exact(classes).zip(samples).for_each(|(row, s)| metrics.add(row, s.classes()));
            }
            Figures::Targets(metrics) => {
                let samples: Vec<&Sample> = samples.collect();
                let count = (logits.len() / samples.len().max(1)).max(1);
                let rows = logits.chunks_exact(count).zip(samples);
                rows.for_each(|(row, sample)| {
                    metrics.add(row, sample.targets.as_deref().unwrap_or_default())
                });
            }
        }
    }

    /// How many pictures were added.
    pub fn images(&self) -> u64 {
        match self {
            Figures::Classes(metrics) => metrics.images(),
            Figures::Labels(metrics) => metrics.images(),
            Figures::Targets(metrics) => metrics.images(),
        }
    }

    /// The mean loss, without smoothing or weights. 0 without pictures.
    pub fn loss(&self) -> f64 {
        match self {
            Figures::Classes(metrics) => metrics.loss(),
            Figures::Labels(metrics) => metrics.loss(),
            Figures::Targets(metrics) => metrics.loss(),
        }
    }

    /// What two versions of a model are compared by, at most 1, the higher the better: the accuracy, the mean average precision of
    /// several labels, or the mean R^2 of numbers, which is `None` where no target varies over the pictures.
    pub fn score(&self) -> Option<f64> {
        match self {
            Figures::Classes(metrics) => Some(metrics.accuracy()),
            Figures::Labels(metrics) => Some(metrics.map()),
            Figures::Targets(metrics) => metrics.r2(),
        }
    }

    /// What an epoch is said to have reached: the accuracy, the mean average precision of several labels, or the mean absolute error of
    /// numbers, in their units.
    pub fn reached(&self) -> f64 {
        match self {
            Figures::Classes(metrics) => metrics.accuracy(),
            Figures::Labels(metrics) => metrics.map(),
            Figures::Targets(metrics) => metrics.mae(),
        }
    }

    /// The thresholds of classes that fit these pictures best; none where a picture has one class, or numbers.
    pub fn best_thresholds(&self) -> Vec<f64> {
        match self {
            Figures::Classes(_) | Figures::Targets(_) => Vec::new(),
            Figures::Labels(metrics) => metrics.best_thresholds(),
        }
    }
}
