//! How good a classifier is, for either task.

use offshoot_data::Sample;
use offshoot_graph::{Metadata, Task};

use crate::labels::LabelMetrics;
use crate::metrics::Metrics;

/// The figures of a classifier on pictures.
#[derive(Clone, Debug, PartialEq)]
pub enum Figures {
    /// Of [`Task::Single`].
    Classes(Metrics),
    /// Of [`Task::Multi`].
    Labels(LabelMetrics),
}

impl Figures {
    /// No picture yet, for a model that says this of itself.
    pub fn new(metadata: &Metadata) -> Figures {
        match metadata.task {
            Task::Single => Figures::Classes(Metrics::of(metadata)),
            Task::Multi => Figures::Labels(LabelMetrics::new(metadata.class_thresholds())),
        }
    }

    /// Adds pictures: `logits` is `[n, classes]`, with a sample for each row.
    ///
    /// # Panics
    /// When the lengths do not fit or a label is no class.
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
        }
    }

    /// How many pictures were added.
    pub fn images(&self) -> u64 {
        match self {
            Figures::Classes(metrics) => metrics.images(),
            Figures::Labels(metrics) => metrics.images(),
        }
    }

    /// The mean loss, without smoothing or weights. 0 without pictures.
    pub fn loss(&self) -> f64 {
        match self {
            Figures::Classes(metrics) => metrics.loss(),
            Figures::Labels(metrics) => metrics.loss(),
        }
    }

    /// What a model is chosen by, 0 to 1: the accuracy, or the mean average precision of several labels.
    pub fn score(&self) -> f64 {
        match self {
            Figures::Classes(metrics) => metrics.accuracy(),
            Figures::Labels(metrics) => metrics.map(),
        }
    }

    /// The thresholds of classes that fit these pictures best; none where a picture has one class.
    pub fn best_thresholds(&self) -> Vec<f64> {
        match self {
            Figures::Classes(_) => Vec::new(),
            Figures::Labels(metrics) => metrics.best_thresholds(),
        }
    }
}
