//! Classes of single pictures.

use std::path::{Path, PathBuf};

use offshoot_data::{Epoch, Loader, LoaderOptions, PictureError, Transform, View};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model, Tensor};
use offshoot_infer::Inference;
use offshoot_infer::evaluate::log_mean;
use offshoot_infer::inference::check_answers;
use offshoot_infer::metrics::probabilities;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::memory::batch_within;

/// Pictures that go through the network at once.
const BATCH: usize = 16;

/// The prediction for a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The picture.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// The best classes, the best first.
    pub top: Vec<Guess>,
    /// What the model gives, where asked for: logits, unless its graph ends in probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Vec<f32>>,
}

/// A class and its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The class.
    pub class: String,
    /// Its place among the logits.
    pub index: usize,
    /// The softmax of its logit, or what the model gives where that is a probability already.
    pub probability: f64,
}

/// Classifies pictures with `model` and hands each prediction to `found`, in order. The probabilities of several `views` are
/// averaged; their logarithms stand for the logits then. Returns the pictures that could not be decoded.
///
/// # Errors
/// When the model cannot run or gives NaN or infinities, or `found` fails.
pub fn predict(
    model: &Model,
    paths: Vec<PathBuf>,
    views: &[View],
    (top, logits): (usize, bool),
    executor: &dyn Executor,
    mut found: impl FnMut(Prediction) -> Result<()>,
) -> Result<Vec<PictureError>> {
    let mut network = Inference::new(model, executor)?;
    let as_they_are = network.gives_probabilities();
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let size = model.metadata.preprocessing.size;
    let batch = batch_within(model, BATCH);
    let loader = |&view: &View| {
        let options = LoaderOptions { view, ..LoaderOptions::evaluation(&transform, batch) };
        Loader::unlabelled(paths.clone(), transform.clone(), options)
    };
    let loaders: Vec<Loader> = views.iter().map(loader).collect();
    let mut epochs: Vec<Epoch> = loaders.iter().map(|loader| loader.epoch(0)).collect();
    // All views of a batch before the next: they leave the same pictures out.
    loop {
        let (mut rows, mut sum): (Vec<f32>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut indices = Vec::new();
        for epoch in &mut epochs {
            let Some(batch) = epoch.next().transpose()? else { break };
            let images = Tensor::f32([batch.len(), 3, size, size], batch.images);
            rows = network.run(&images)?.into_f32().unwrap_or_default();
            indices = batch.indices;
            check(&rows, &indices, &paths)?;
            let classes = (rows.len() / indices.len()).max(1);
            sum.resize(rows.len(), 0.0);
            let found = rows.chunks_exact(classes).flat_map(|row| probabilities(row, as_they_are));
            sum.iter_mut().zip(found).for_each(|(sum, p)| *sum += p);
        }
        if indices.is_empty() {
            return Ok(loaders.first().map(Loader::skipped).unwrap_or_default());
        }
        if loaders.len() > 1 {
            rows = log_mean(&sum, loaders.len());
            sum.iter_mut().for_each(|sum| *sum /= loaders.len() as f64);
        }
        let classes = (rows.len() / indices.len()).max(1);
        let answers = rows.chunks_exact(classes).zip(sum.chunks_exact(classes));
        for ((row, p), &index) in answers.zip(&indices) {
            let logits = logits.then(|| row.to_vec());
            found(prediction(&paths[index as usize], (row, p), &model.metadata.classes, top, logits))?;
        }
    }
}

/// An error that names the first picture whose outputs are NaN or infinite.
fn check(rows: &[f32], indices: &[u64], paths: &[PathBuf]) -> Result<()> {
    let classes = (rows.len() / indices.len()).max(1);
    for (row, &index) in rows.chunks_exact(classes).zip(indices) {
        check_answers(row).map_err(|e| Error::Input(format!("{}: {e}", shown(&paths[index as usize]))))?;
    }
    Ok(())
}

fn prediction(
    path: &Path,
    (row, probabilities): (&[f32], &[f64]),
    classes: &[String],
    top: usize,
    logits: Option<Vec<f32>>,
) -> Prediction {
    Prediction { path: path.to_owned(), top: guesses((row, probabilities), classes, top), logits }
}

/// The best classes, at most `top` of them.
pub(crate) fn guesses((row, probabilities): (&[f32], &[f64]), classes: &[String], top: usize) -> Vec<Guess> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let guess = |&index: &usize| Guess {
        class: classes.get(index).cloned().unwrap_or_else(|| index.to_string()),
        index,
        probability: probabilities[index],
    };
    order.iter().take(top).map(guess).collect()
}
