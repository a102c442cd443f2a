//! Classes of single pictures.

use std::path::{Path, PathBuf};

use offshoot_data::{Epoch, Loader, LoaderOptions, PictureError, Transform, View};
use offshoot_graph::{Executor, Model, Tensor};
use offshoot_train::Inference;
use offshoot_train::evaluate::log_mean;
use offshoot_train::metrics::softmax;
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

/// Classifies pictures with `model` and hands each prediction to `found`, in order. The probabilities of several `views` are
/// averaged; their logarithms stand for the logits then. Returns the pictures that could not be decoded.
///
/// # Errors
/// When the model cannot run, or `found` fails.
pub fn predict(
    model: &Model,
    paths: Vec<PathBuf>,
    views: &[View],
    (top, logits): (usize, bool),
    executor: &dyn Executor,
    mut found: impl FnMut(Prediction) -> Result<()>,
) -> Result<Vec<PictureError>> {
    let mut network = Inference::new(model, executor)?;
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let size = model.metadata.preprocessing.size;
    let loader = |&view: &View| {
        let options = LoaderOptions { view, ..LoaderOptions::evaluation(&transform, BATCH) };
        Loader::unlabelled(paths.clone(), transform.clone(), options)
    };
    let loaders: Vec<Loader> = views.iter().map(loader).collect();
    let mut epochs: Vec<Epoch> = loaders.iter().map(|loader| loader.epoch(0)).collect();
    // All views of a batch before the next: they leave the same pictures out.
    loop {
        let mut sum: Vec<f64> = Vec::new();
        let (mut row, mut indices) = (Vec::new(), Vec::new());
        for epoch in &mut epochs {
            let Some(batch) = epoch.next().transpose()? else { break };
            let images = Tensor::f32([batch.len(), 3, size, size], batch.images);
            row = network.run(&images)?.data.to_vec();
            indices = batch.indices;
            if loaders.len() > 1 {
                let classes = (row.len() / indices.len()).max(1);
                sum.resize(row.len(), 0.0);
                let probabilities = row.chunks_exact(classes).flat_map(softmax);
                sum.iter_mut().zip(probabilities).for_each(|(sum, p)| *sum += p);
            }
        }
        if indices.is_empty() {
            return Ok(loaders.first().map(Loader::skipped).unwrap_or_default());
        }
        let answers = if sum.is_empty() { row } else { log_mean(&sum, loaders.len()) };
        for (row, &index) in answers.chunks_exact((answers.len() / indices.len()).max(1)).zip(&indices) {
            found(prediction(&paths[index as usize], row, &model.metadata.classes, top, logits))?;
        }
    }
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
