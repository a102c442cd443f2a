//! Metrics of a classifier on pictures.

use std::collections::BTreeMap;

use offshoot_data::{Batch, Loader, PictureError};
use offshoot_graph::Tensor;

use crate::inference::{Inference, NetworkError};
use crate::metrics::{Metrics, softmax};

/// An evaluation that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The network cannot run.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A picture cannot be used, and that is an error by request (strict).
    #[error(transparent)]
    Picture(#[from] PictureError),
}

/// Runs a classifier of `classes` classes on all pictures of `loader`, which does not shuffle or augment. `done` is told
/// how many pictures have been seen, after each batch. Pictures that cannot be used are in `loader.skipped()`.
///
/// # Errors
/// When the network cannot run on these pictures or gives NaN or infinities, or a picture cannot be used and the loader is strict.
pub fn evaluate(
    network: &mut Inference,
    classes: usize,
    loader: &Loader,
    mut done: impl FnMut(u64),
) -> Result<Metrics, EvaluateError> {
    let mut metrics = Metrics::new(classes);
    for batch in loader.epoch(0) {
        let Batch { images: pixels, labels, .. } = batch?;
        let logits = network.logits(&images(pixels, loader.transform().preprocessing().size))?;
        metrics.add(&logits, &labels);
        done(metrics.images());
    }
    Ok(metrics)
}

/// [`evaluate`] with several views of each picture, whose probabilities are averaged: all loaders have the same pictures, each
/// from its own side. `done` is told how many views of pictures have been seen.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_views(
    network: &mut Inference,
    classes: usize,
    loaders: &[Loader],
    mut done: impl FnMut(u64),
) -> Result<Metrics, EvaluateError> {
    let mut metrics = Metrics::new(classes);
    // What of a picture is summed: the label, the views, and the probabilities. Views are taken alternately, so that few pictures wait.
    let mut sums: BTreeMap<u64, (i64, usize, Vec<f64>)> = BTreeMap::new();
    let mut epochs: Vec<_> = loaders.iter().map(|loader| (loader, loader.epoch(0))).collect();
    let mut seen = 0;
    while !epochs.is_empty() {
        let mut left = Vec::with_capacity(epochs.len());
        for (loader, mut epoch) in epochs {
            let Some(batch) = epoch.next() else { continue };
            let Batch { images: pixels, labels, indices, .. } = batch?;
            let logits = network.logits(&images(pixels, loader.transform().preprocessing().size))?;
            for ((row, label), index) in logits.chunks_exact(classes).zip(labels).zip(indices) {
                let (_, views, sum) = sums.entry(index).or_insert_with(|| (label, 0, vec![0.0; classes]));
                sum.iter_mut().zip(softmax(row)).for_each(|(sum, p)| *sum += p);
                *views += 1;
                seen += 1;
            }
            left.push((loader, epoch));
            done(seen);
        }
        epochs = left;
        sums.retain(|_, (label, views, sum)| {
            let waits = *views < loaders.len();
            if !waits {
                metrics.add(&log_mean(sum, loaders.len()), &[*label]);
            }
            waits
        });
    }
    for (label, _, sum) in sums.into_values() {
        metrics.add(&log_mean(&sum, loaders.len()), &[label]);
    }
    Ok(metrics)
}

/// The logarithms of the means of probabilities: logits whose softmax they are.
pub fn log_mean(sums: &[f64], views: usize) -> Vec<f32> {
    // A probability that is 0 in f64 in each view is kept finite.
    sums.iter().map(|sum| libm::log((sum / views as f64).max(f64::MIN_POSITIVE)) as f32).collect()
}

/// The pictures of a [`Batch`] as a tensor [n, 3, size, size]; `size` is at least 1.
pub fn images(pixels: Vec<f32>, size: usize) -> Tensor {
    Tensor::f32([pixels.len() / (3 * size * size), 3, size, size], pixels)
}
