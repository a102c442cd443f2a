//! Classes of single pictures.

use std::path::PathBuf;

use offshoot_data::{Epoch, Loader, LoaderOptions, PictureError, Transform, View};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Metadata, Model, Score, Task, Tensor};
use offshoot_infer::decision::negative_energy;
use offshoot_infer::evaluate::logits_of_means;
use offshoot_infer::inference::check_answers;
use offshoot_infer::{Decision, Inference};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::memory::batch_within;
use crate::reject::{Rejecting, Threshold};

/// Pictures that go through the network at once.
const BATCH: usize = 16;

/// The prediction for a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The picture.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// The best classes, the best first; none where numbers are predicted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Guess>,
    /// Where numbers are predicted, those, in the order of the targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<TargetValue>>,
    /// Where a picture may have any number of classes, those whose probability reaches the threshold of the class, in the order of the
    /// classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Where a threshold is given and a picture has one class: whether its score is below, so that it is of none of the classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<bool>,
    /// What the model gives, where asked for: logits, unless its graph ends in probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Vec<f32>>,
}

/// A target and what is predicted for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetValue {
    /// The target.
    pub target: String,
    /// The prediction, in the unit of the target.
    pub value: f32,
}

/// A class and its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The class.
    pub class: String,
    /// Its place among the logits.
    pub index: usize,
    /// The softmax of its logit, divided by the model's temperature where it has one; its sigmoid where a picture may have any number of classes, or what the model gives where that is a
    /// probability already.
    pub probability: f64,
}

/// What a prediction has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictOptions {
    /// The number of classes, the best first.
    pub top: usize,
    /// Whether logits are given.
    pub logits: bool,
    /// Where a picture may have any number of classes, the probability from which on it has one; without, the model's own. Where it has
    /// one class, the score below which it is rejected; without, none is.
    pub threshold: Option<Threshold>,
}

impl Default for PredictOptions {
    /// Five classes, no logits, the model's own thresholds for any number of classes, and no rejection.
    fn default() -> PredictOptions {
        PredictOptions { top: 5, logits: false, threshold: None }
    }
}

/// Classifies pictures with `model` and hands each prediction to `found`, in order. The probabilities of several `views` are
/// averaged; their logarithms stand for the logits then, and the energy is the mean of the views'. Returns the pictures that could not
/// be decoded.
///
/// # Errors
/// When the model cannot run or gives NaN or infinities, has no threshold that `options` asks for, or `found` fails.
pub fn predict(
    model: &Model,
    paths: Vec<PathBuf>,
    views: &[View],
    options: PredictOptions,
    executor: &dyn Executor,
    mut found: impl FnMut(Prediction) -> Result<()>,
) -> Result<Vec<PictureError>> {
    let mut network = Inference::new(model, executor)?;
    let Metadata { classes: names, task, .. } = &model.metadata;
    let decision = Decision::new(network.gives_probabilities(), &model.metadata);
    let thresholds = match (task, options.threshold) {
        (Task::Regression, Some(_)) => return Err(no_threshold()),
        (Task::Single, _) | (Task::Regression, None) => None,
        (Task::Multi, Some(Threshold::Of(threshold))) => Some(vec![threshold; names.len()]),
        (Task::Multi, Some(Threshold::Auto) | None) => Some(model.metadata.class_thresholds()),
    };
    let rejecting = options.threshold.filter(|_| task.is_single());
    let rejecting = rejecting
        .map(|own| Rejecting::new(&model.metadata, network.gives_probabilities(), own))
        .transpose()?;
    let by_energy = rejecting.is_some_and(|how| how.score == Score::Energy);
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
        let mut energies: Vec<f64> = Vec::new();
        let mut indices = Vec::new();
        for epoch in &mut epochs {
            let Some(batch) = epoch.next().transpose()? else { break };
            let images = Tensor::f32([batch.len(), 3, size, size], batch.images);
            rows = network.run(&images)?.into_f32().unwrap_or_default();
            indices = batch.indices;
            check(&rows, &indices, &paths)?;
            let classes = (rows.len() / indices.len()).max(1);
            sum.resize(rows.len(), 0.0);
            let found = rows.chunks_exact(classes).flat_map(|row| decision.uncalibrated(row));
            sum.iter_mut().zip(found).for_each(|(sum, p)| *sum += p);
            energies.resize(indices.len(), 0.0);
            if by_energy {
                let found = rows.chunks_exact(classes).map(negative_energy);
                energies
                    .iter_mut()
                    .zip(found)
                    .for_each(|(sum, energy)| *sum += energy / loaders.len() as f64);
            }
        }
        if indices.is_empty() {
            return Ok(loaders.first().map(Loader::skipped).unwrap_or_default());
        }
        if loaders.len() > 1 {
            rows = logits_of_means(&sum, loaders.len(), *task);
            sum.iter_mut().for_each(|sum| *sum /= loaders.len() as f64);
        }
        let classes = (rows.len() / indices.len()).max(1);
        let answers = rows.chunks_exact(classes).zip(sum.chunks_exact(classes)).zip(&energies);
        for (((row, mean), &energy), &index) in answers.zip(&indices) {
            let p = if loaders.len() > 1 { decision.of_mean(row, mean) } else { decision.probabilities(row) };
            let rejects = |how: Rejecting| match how.score {
                Score::Probability => how.rejects(row, &p),
                Score::Energy => how.is_below(energy),
            };
            found(Prediction {
                path: paths[index as usize].clone(),
                top: match task {
                    Task::Single | Task::Multi => guesses((row, &p), names, options.top),
                    Task::Regression => Vec::new(),
                },
                values: values(*task, row, names),
                labels: thresholds.as_ref().map(|thresholds| reached(&p, thresholds, names)),
                rejected: rejecting.map(rejects),
                logits: options.logits.then(|| row.to_vec()),
            })?;
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

/// The error where a threshold is given and numbers are predicted.
pub(crate) fn no_threshold() -> Error {
    Error::option("threshold", format_args!("is for classes, and this model predicts numbers; leave it out"))
}

/// What is predicted for each target, where numbers are.
pub(crate) fn values(task: Task, row: &[f32], targets: &[String]) -> Option<Vec<TargetValue>> {
    let value = |(target, &value): (&String, &f32)| TargetValue { target: target.clone(), value };
    (task == Task::Regression).then(|| targets.iter().zip(row).map(value).collect())
}

/// The classes whose probabilities reach their thresholds.
pub(crate) fn reached(probabilities: &[f64], thresholds: &[f64], classes: &[String]) -> Vec<String> {
    let all = classes.iter().zip(probabilities.iter().zip(thresholds));
    all.filter(|(_, (p, threshold))| p >= threshold).map(|(class, _)| class.clone()).collect()
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
