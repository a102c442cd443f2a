//! Metrics of a classifier on pictures.

use offshoot_data::{Batch, Loader, PictureError};
use offshoot_graph::Tensor;

use crate::inference::{Inference, NetworkError};
use crate::metrics::Metrics;

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
/// When the network cannot run on these pictures, or a picture cannot be used and the loader is strict.
pub fn evaluate(
    network: &mut Inference,
    classes: usize,
    loader: &Loader,
    mut done: impl FnMut(u64),
) -> Result<Metrics, EvaluateError> {
    let mut metrics = Metrics::new(classes);
    for batch in loader.epoch(0) {
        let Batch { images: pixels, labels, .. } = batch?;
        let logits = network.run(&images(pixels, loader.transform().preprocessing().size))?;
        metrics.add(logits.data, &labels);
        done(metrics.images());
    }
    Ok(metrics)
}

/// The pictures of a [`Batch`] as a tensor [n, 3, size, size]; `size` is at least 1.
pub(crate) fn images(pixels: Vec<f32>, size: usize) -> Tensor {
    Tensor::f32([pixels.len() / (3 * size * size), 3, size, size], pixels)
}
