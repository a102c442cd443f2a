//! Classes of single pictures.

use std::path::{Path, PathBuf};

use offshoot_data::{Loader, LoaderOptions, PictureError, Transform};
use offshoot_graph::{Executor, Model, Tensor};
use offshoot_train::Inference;
use serde::Serialize;

use crate::error::Result;

/// Pictures that go through the network at once.
const BATCH: usize = 16;

/// What a model says of a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The picture.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// The best classes, the best first.
    pub top: Vec<Guess>,
    /// The logits, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Vec<f32>>,
}

/// A class and how sure the model is of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The class.
    pub class: String,
    /// Its place among the logits.
    pub index: usize,
    /// The softmax of its logit.
    pub probability: f64,
}

/// Classifies pictures with `model` and hands each prediction to `found`, in order. Returns the pictures that could not
/// be decoded.
///
/// # Errors
/// When the model cannot run, or `found` fails.
pub fn predict(
    model: &Model,
    paths: Vec<PathBuf>,
    (top, logits): (usize, bool),
    executor: &dyn Executor,
    mut found: impl FnMut(Prediction) -> Result<()>,
) -> Result<Vec<PictureError>> {
    let mut network = Inference::new(model, executor)?;
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let size = model.metadata.preprocessing.size;
    let loader =
        Loader::unlabelled(paths.clone(), transform.clone(), LoaderOptions::evaluation(&transform, BATCH));
    for batch in loader.epoch(0) {
        let batch = batch?;
        let images = Tensor::f32([batch.len(), 3, size, size], batch.images);
        let output = network.run(&images)?;
        let classes = output.shape.last().copied().unwrap_or(1).max(1);
        for (row, &index) in output.data.chunks_exact(classes).zip(&batch.indices) {
            found(prediction(&paths[index as usize], row, &model.metadata.classes, top, logits))?;
        }
    }
    Ok(loader.skipped())
}

fn prediction(path: &Path, row: &[f32], classes: &[String], top: usize, logits: bool) -> Prediction {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let most = order.first().map_or(0.0, |&i| f64::from(row[i]));
    let exp = |i: usize| (f64::from(row[i]) - most).exp();
    let sum: f64 = order.iter().map(|&i| exp(i)).sum();
    let guess = |&index: &usize| Guess {
        class: classes.get(index).cloned().unwrap_or_else(|| index.to_string()),
        index,
        probability: exp(index) / sum,
    };
    let top = order.iter().take(top).map(guess).collect();
    Prediction { path: path.to_owned(), top, logits: logits.then(|| row.to_vec()) }
}
