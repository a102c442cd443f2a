//! Metrics of a classifier on pictures.

use std::collections::BTreeMap;

use offshoot_data::{Batch, Loader, PictureError};
use offshoot_graph::{Metadata, Task, Tensor};

use crate::decision::negative_energy;
use crate::figures::Figures;
use crate::inference::{Inference, NetworkError};
use crate::metrics::Activation;

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

/// Runs a classifier that `metadata` describes on all pictures of `loader`, which does not shuffle or augment. `done` is told
/// how many pictures have been seen, after each batch. Pictures that cannot be used are in `loader.skipped()`.
///
/// # Errors
/// When the network cannot run on these pictures or gives NaN or infinities, or a picture cannot be used and the loader is strict.
pub fn evaluate(
    network: &mut Inference,
    metadata: &Metadata,
    loader: &Loader,
    mut done: impl FnMut(u64),
) -> Result<Figures, EvaluateError> {
    let mut figures = Figures::new(metadata);
    for batch in loader.epoch(0) {
        let Batch { images: pixels, indices, .. } = batch?;
        let logits = network.logits(&images(pixels, loader.transform().preprocessing().size))?;
        figures.add(&logits, indices.iter().map(|&index| &loader.samples()[index as usize]));
        done(figures.images());
    }
    Ok(figures)
}

/// [`evaluate`] with several views of each picture, whose probabilities are averaged: all loaders have the same pictures, each
/// from its own side. `done` is told how many views of pictures have been seen.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_views(
    network: &mut Inference,
    metadata: &Metadata,
    loaders: &[Loader],
    mut done: impl FnMut(u64),
) -> Result<Figures, EvaluateError> {
    let mut figures = Figures::new(metadata);
    let classes = metadata.classes.len().max(1);
    // Its logits are the logarithms of probabilities where it gives those.
    let activation = Activation::new(false, metadata.task);
    let mut add = |index: u64, (sum, energies): (&[f64], f64)| {
        let sample = loaders.first().map(|loader| &loader.samples()[index as usize]);
        let mut logits = logits_of_means(sum, loaders.len(), metadata.task);
        if metadata.task.is_single() {
            // The same probabilities, with the mean of the energies as their energy.
            let mean = (energies / loaders.len() as f64) as f32;
            logits.iter_mut().for_each(|logit| *logit += mean);
        }
        figures.add(&logits, sample.into_iter());
    };
    // What of a picture is summed: the views, the probabilities and the negative energies. Views are taken alternately, so that few
    // pictures wait.
    let mut sums: BTreeMap<u64, (usize, Vec<f64>, f64)> = BTreeMap::new();
    let mut epochs: Vec<_> = loaders.iter().map(|loader| (loader, loader.epoch(0))).collect();
    let mut seen = 0;
    while !epochs.is_empty() {
        let mut left = Vec::with_capacity(epochs.len());
        for (loader, mut epoch) in epochs {
            let Some(batch) = epoch.next() else { continue };
            let Batch { images: pixels, indices, .. } = batch?;
            let logits = network.logits(&images(pixels, loader.transform().preprocessing().size))?;
            for (row, index) in logits.chunks_exact(classes).zip(indices) {
                let (views, sum, energies) =
                    sums.entry(index).or_insert_with(|| (0, vec![0.0; classes], 0.0));
                sum.iter_mut().zip(activation.probabilities(row)).for_each(|(sum, p)| *sum += p);
                *energies += negative_energy(row);
                *views += 1;
                seen += 1;
            }
            left.push((loader, epoch));
            done(seen);
        }
        epochs = left;
        sums.retain(|&index, (views, sum, energies)| {
            let waits = *views < loaders.len();
            if !waits {
                add(index, (sum, *energies));
            }
            waits
        });
    }
    sums.into_iter().for_each(|(index, (_, sum, energies))| add(index, (&sum, energies)));
    Ok(figures)
}

/// Logits whose softmax, or for several labels whose sigmoid, are the means of probabilities of `views` views; of numbers, their means.
pub fn logits_of_means(sums: &[f64], views: usize, task: Task) -> Vec<f32> {
    // A probability that is 0 in f64 in each view is kept finite.
    let log = |p: f64| libm::log(p.max(f64::MIN_POSITIVE));
    let logit = |&sum: &f64| {
        let p = sum / views as f64;
        match task {
            Task::Single => log(p) as f32,
            Task::Multi => (log(p) - log(1.0 - p)) as f32,
            Task::Regression => p as f32,
        }
    };
    sums.iter().map(logit).collect()
}

/// The pictures of a [`Batch`] as a tensor [n, 3, size, size]; `size` is at least 1.
pub fn images(pixels: Vec<f32>, size: usize) -> Tensor {
    Tensor::f32([pixels.len() / (3 * size * size), 3, size, size], pixels)
}
