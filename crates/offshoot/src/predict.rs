//! Classes of single pictures.

use std::path::PathBuf;

use offshoot_data::{Loader, LoaderOptions, PictureError, Transform, View};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Metadata, Model, Score, Task, Tensor};
use offshoot_infer::decision::negative_energy;
use offshoot_infer::evaluate::{Rounds, logits_of_means};
use offshoot_infer::inference::check_answers;
use offshoot_infer::{Decision, Inference};
use offshoot_world::{Alone, Rows, World};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::memory::batch_within;
use crate::reject::{Rejecting, Threshold};
use crate::together::agree;

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
    found: impl FnMut(Prediction) -> Result<()>,
) -> Result<Vec<PictureError>> {
    predict_shared(model, paths, views, options, (executor, &Alone), found)
}

/// [`predict`] of pictures that are split over the processes of a world, each of which gets the predictions of all, to the bit those of one
/// process.
///
/// # Errors
/// As [`predict`], and when a process cannot be reached.
pub fn predict_shared(
    model: &Model,
    paths: Vec<PathBuf>,
    views: &[View],
    options: PredictOptions,
    (executor, world): (&dyn Executor, &dyn World),
    mut found: impl FnMut(Prediction) -> Result<()>,
) -> Result<Vec<PictureError>> {
    agree(world, executor, model, paths.iter().map(PathBuf::as_path))?;
    let mut network = Inference::new(model, executor)?;
    let answering = Answering::new(model, network.gives_probabilities(), views.len(), options)?;
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let batch = batch_within(model, BATCH);
    let loader = |&view: &View| {
        let options = LoaderOptions { view, ..LoaderOptions::evaluation(&transform, batch) };
        Loader::unlabelled(paths.clone(), transform.clone(), options)
    };
    let loaders: Vec<Loader> = views.iter().map(loader).collect();
    let mut rounds: Vec<Rounds<'_>> = loaders.iter().map(|loader| Rounds::new(loader, world)).collect();
    // All views of a batch before the next: they leave the same pictures out.
    loop {
        // By process, what the views of its batch have given.
        let mut batches: Vec<Batch> = vec![Batch::default(); world.size()];
        for rounds in &mut rounds {
            let run = |images: Tensor| -> Result<Vec<f32>> {
                Ok(network.run(&images)?.into_f32().unwrap_or_default())
            };
            let Some(all) = rounds.next(run)? else {
                return Ok(loaders.first().map(Loader::skipped).unwrap_or_default());
            };
            for (batch, Rows { indices, values, .. }) in batches.iter_mut().zip(all) {
                check(&values, &indices, &paths)?;
                answering.add(batch, indices, values);
            }
        }
        for batch in batches {
            answering.answers(batch, &paths).into_iter().try_for_each(&mut found)?;
        }
    }
}

/// What the views of a batch have given.
#[derive(Clone, Debug, Default)]
struct Batch {
    indices: Vec<u64>,
    /// The outputs for the last view.
    rows: Vec<f32>,
    /// The sums of the probabilities.
    sum: Vec<f64>,
    /// The means of the negative energies.
    energies: Vec<f64>,
}

/// What makes predictions of the outputs of a model.
struct Answering<'m> {
    metadata: &'m Metadata,
    decision: Decision,
    views: usize,
    options: PredictOptions,
    thresholds: Option<Vec<f64>>,
    rejecting: Option<Rejecting>,
}

impl<'m> Answering<'m> {
    fn new(
        model: &'m Model,
        probabilities: bool,
        views: usize,
        options: PredictOptions,
    ) -> Result<Answering<'m>> {
        let metadata = &model.metadata;
        let decision = Decision::new(probabilities, metadata);
        let thresholds = match (metadata.task, options.threshold) {
            (Task::Regression, Some(_)) => return Err(no_threshold()),
            (Task::Single, _) | (Task::Regression, None) => None,
            (Task::Multi, Some(Threshold::Of(threshold))) => Some(vec![threshold; metadata.classes.len()]),
            (Task::Multi, Some(Threshold::Auto) | None) => Some(metadata.class_thresholds()),
        };
        let rejecting = options.threshold.filter(|_| metadata.task.is_single());
        let rejecting = rejecting.map(|own| Rejecting::new(metadata, probabilities, own)).transpose()?;
        Ok(Answering { metadata, decision, views, options, thresholds, rejecting })
    }

    /// Takes in what a view has given.
    fn add(&self, batch: &mut Batch, indices: Vec<u64>, rows: Vec<f32>) {
        let classes = (rows.len() / indices.len().max(1)).max(1);
        batch.sum.resize(rows.len(), 0.0);
        let found = rows.chunks_exact(classes).flat_map(|row| self.decision.uncalibrated(row));
        batch.sum.iter_mut().zip(found).for_each(|(sum, p)| *sum += p);
        batch.energies.resize(indices.len(), 0.0);
        if self.rejecting.is_some_and(|how| how.score == Score::Energy) {
            let found = rows.chunks_exact(classes).map(negative_energy);
            batch.energies.iter_mut().zip(found).for_each(|(sum, energy)| *sum += energy / self.views as f64);
        }
        (batch.indices, batch.rows) = (indices, rows);
    }

    /// The predictions of a batch.
    fn answers(&self, batch: Batch, paths: &[PathBuf]) -> Vec<Prediction> {
        let Batch { indices, mut rows, mut sum, energies } = batch;
        let several = self.views > 1;
        if several {
            rows = logits_of_means(&sum, self.views, self.metadata.task);
            sum.iter_mut().for_each(|sum| *sum /= self.views as f64);
        }
        let classes = (rows.len() / indices.len().max(1)).max(1);
        let answers = rows.chunks_exact(classes).zip(sum.chunks_exact(classes)).zip(energies);
        let mut found = Vec::with_capacity(indices.len());
        for (((row, mean), energy), index) in answers.zip(indices) {
            let p = if several { self.decision.of_mean(row, mean) } else { self.decision.probabilities(row) };
            let rejects = |how: Rejecting| match how.score {
                Score::Probability => how.rejects(row, &p),
                Score::Energy => how.is_below(energy),
            };
            let names = &self.metadata.classes;
            found.push(Prediction {
                path: paths[index as usize].clone(),
                top: match self.metadata.task {
                    Task::Single | Task::Multi => guesses((row, &p), names, self.options.top),
                    Task::Regression => Vec::new(),
                },
                values: values(self.metadata.task, row, names),
                labels: self.thresholds.as_ref().map(|thresholds| reached(&p, thresholds, names)),
                rejected: self.rejecting.map(rejects),
                logits: self.options.logits.then(|| row.to_vec()),
            });
        }
        found
    }
}

/// An error that names the first picture whose outputs are NaN or infinite.
fn check(rows: &[f32], indices: &[u64], paths: &[PathBuf]) -> Result<()> {
    let classes = (rows.len() / indices.len().max(1)).max(1);
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
