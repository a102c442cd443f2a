//! How good a model is on pictures whose classes are known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use offshoot_data::{FolderOptions, Labelled, Loader, LoaderOptions, Sample, Transform, Tta, picture_file};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Score};
use offshoot_infer::labels::LabelFigures;
use offshoot_infer::targets::TargetFigures;
use offshoot_infer::{
    Accepted, Figures, Inference, LabelMetrics, Metrics, TargetMetrics, evaluate_shared, evaluate_views,
};
use offshoot_train::RunPictures;
use offshoot_world::{Alone, World};
use serde::Serialize;

use super::{Listener, Table, changed, familiar, open, run_of, skipped, views};
use crate::error::{Error, Result};
use crate::labels::labelled;
use crate::memory::batch_within;
use crate::source::{ModelSource, Overrides};
use crate::together::agree;

/// Pictures that go through the network at once.
const BATCH: usize = 32;

/// A model to evaluate.
#[derive(Clone, Debug)]
pub struct EvaluateJob {
    /// The model.
    pub source: ModelSource,
    /// A folder with a folder of pictures for each class. Of a run it may be left out: then it is its own validation pictures.
    pub data: Option<PathBuf>,
    /// How `data` is read where it is a table.
    pub table: Table,
    /// Changes to the preprocessing.
    pub overrides: Overrides,
    /// The views of each picture that are averaged.
    pub tta: Tta,
    /// Whether a picture that cannot be read is an error.
    pub strict: bool,
}

/// What an evaluation finds: the contract of `eval --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Evaluation {
    /// Of a model for one class a picture.
    Classes(ClassEvaluation),
    /// Of a model for any number of classes a picture.
    Labels(LabelEvaluation),
    /// Of a model that predicts numbers.
    Targets(TargetEvaluation),
}

/// What an evaluation finds where numbers are predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetEvaluation {
    /// The mean of the targets' mean absolute errors, in their units.
    pub mae: f64,
    /// The mean of the targets' roots of mean squared errors, in their units.
    pub rmse: f64,
    /// The mean of the targets' R^2; `None` where each target is the same for all pictures.
    pub r2: Option<f64>,
    /// The mean of the loss that was minimized, of differences in standard deviations of the training pictures.
    pub loss: f64,
    /// The pictures that were seen.
    pub images: u64,
    /// The pictures that could not be read.
    pub skipped: usize,
    /// All targets.
    pub per_target: BTreeMap<String, TargetFigures>,
}

/// What an evaluation finds where a picture has any number of classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelEvaluation {
    /// The mean of the average precisions of the classes that pictures have.
    pub map: f64,
    /// F1 over the labels of all classes together, at the thresholds of the model.
    pub f1_micro: f64,
    /// The mean of the F1 of the classes.
    pub f1_macro: f64,
    /// The mean area under the ROC curves of the classes that have one; `None` where none has.
    pub auroc: Option<f64>,
    /// The fraction of the pictures whose labels are all right.
    pub exact: f64,
    /// The mean binary cross entropy.
    pub loss: f64,
    /// The pictures that were seen.
    pub images: u64,
    /// The pictures that could not be read.
    pub skipped: usize,
    /// All classes.
    pub per_class: BTreeMap<String, LabelFigures>,
}

/// What an evaluation finds where a picture has one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassEvaluation {
    /// The fraction of the pictures classified correctly.
    pub accuracy: f64,
    /// The fraction of the pictures whose class is among the best five.
    pub top5: f64,
    /// The mean cross entropy of the logits as they are.
    pub loss: f64,
    /// What the model divides logits by for the probabilities of the figures below; `None` where it has no temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The expected calibration error, in 15 ranges of the highest probability.
    pub ece: f64,
    /// The mean Brier score, the sum over the classes: 0 to 2.
    pub brier: f64,
    /// The accuracy on the pictures with the highest scores, for some parts of them.
    pub coverage: Vec<Accepted>,
    /// What the model's own reject threshold accepts, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<RejectionFigures>,
    /// The pictures that were seen.
    pub images: u64,
    /// The pictures that could not be read.
    pub skipped: usize,
    /// The classes that have pictures.
    pub per_class: BTreeMap<String, ClassFigures>,
}

/// What is accepted at the reject threshold of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RejectionFigures {
    /// What is compared with the threshold.
    pub score: Score,
    /// The fraction of the accepted pictures that was to be right when it was fitted.
    pub precision: f64,
    /// The threshold, and what it accepts of these pictures.
    #[serde(flatten)]
    pub accepted: Accepted,
}

/// What an evaluation finds of one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassFigures {
    /// The pictures of the class.
    pub images: u64,
    /// The fraction of them classified correctly; `None` where there are none.
    pub accuracy: Option<f64>,
}

impl EvaluateJob {
    /// Evaluates the model.
    ///
    /// # Errors
    /// When the model or the pictures cannot be used.
    pub fn run(&self, executor: &dyn Executor, listener: &mut dyn Listener) -> Result<Evaluation> {
        self.run_shared(executor, &Alone, listener)
    }

    /// [`EvaluateJob::run`] of pictures that are split over the processes of a world, each of which gets the figures of all, to the bit those
    /// of one process.
    ///
    /// # Errors
    /// As [`EvaluateJob::run`], and when the processes have other pictures or models, or one cannot be reached.
    pub fn run_shared(
        &self,
        executor: &dyn Executor,
        world: &dyn World,
        listener: &mut dyn Listener,
    ) -> Result<Evaluation> {
        let run = run_of(&self.source);
        if self.data.is_none() && run.is_none() {
            return Err(no_data());
        }
        let model = open(&self.source, &self.overrides, listener)?.model;
        let transform = Transform::new(&model.metadata.preprocessing)?;
        let classes = &model.metadata.classes;
        let found = match (&self.data, &run) {
            (Some(data), run) => {
                let decode = transform.decode_options();
                let folder =
                    FolderOptions { strict: self.strict, ..self.table.options(decode, &model.metadata) };
                let found = labelled(data, classes, &folder)?;
                found.notes.iter().for_each(|note| listener.warning(note));
                absent(data, &found.absent, classes).iter().for_each(|text| listener.warning(text));
                if let Some(Ok(of_run)) = run.as_ref().map(|run| RunPictures::read(run, classes)) {
                    let known = of_run.familiar(&found.samples);
                    let text = familiar(known, data, found.samples.len());
                    text.iter().for_each(|text| listener.warning(text));
                }
                found
            }
            (None, Some(run)) => validation(run, classes, listener)?,
            (None, None) => return Err(no_data()),
        };
        agree(world, executor, &model, found.samples.iter().map(|sample| &*sample.path))?;
        let loader = |view| {
            let plain = LoaderOptions::evaluation(&transform, batch_within(&model, BATCH));
            let options = LoaderOptions { strict: self.strict, view, ..plain };
            Loader::new(found.samples.clone(), transform.clone(), options)
        };
        let loaders: Vec<Loader> = views(self.tta, &model.metadata)?.into_iter().map(loader).collect();
        let total = (found.samples.len() * loaders.len()) as u64;
        let mut network = Inference::new(&model, executor)?;
        let done = |done| listener.progress(done, total);
        let figures = match &loaders[..] {
            [one] => evaluate_shared(&mut network, &model.metadata, one, world, done)?,
            all => evaluate_views(&mut network, &model.metadata, all, world, done)?,
        };
        let mut unread = found.skipped;
        unread.extend(loaders.first().map(Loader::skipped).unwrap_or_default());
        skipped(&unread).iter().for_each(|line| listener.warning(line));
        Ok(match figures {
            Figures::Classes(metrics) => Evaluation::Classes(of_classes(&metrics, classes, unread.len())),
            Figures::Labels(metrics) => Evaluation::Labels(of_labels(&metrics, classes, unread.len())),
            Figures::Targets(metrics) => Evaluation::Targets(of_targets(&metrics, classes, unread.len())),
        })
    }
}

fn of_classes(metrics: &Metrics, classes: &[String], skipped: usize) -> ClassEvaluation {
    let per_class = metrics.per_class().into_iter().zip(classes).filter(|(c, _)| c.images > 0);
    let selection = metrics.selection();
    ClassEvaluation {
        accuracy: metrics.accuracy(),
        top5: metrics.top5(),
        loss: metrics.loss(),
        temperature: metrics.temperature(),
        ece: metrics.calibration().error,
        brier: metrics.brier(),
        coverage: selection.coverage(),
        rejection: metrics.rejection().map(|own| RejectionFigures {
            score: own.score,
            precision: own.precision,
            accepted: selection.at(own.threshold),
        }),
        images: metrics.images(),
        skipped,
        per_class: per_class
            .map(|(c, name)| (name.clone(), ClassFigures { images: c.images, accuracy: c.accuracy }))
            .collect(),
    }
}

fn of_labels(metrics: &LabelMetrics, classes: &[String], skipped: usize) -> LabelEvaluation {
    LabelEvaluation {
        map: metrics.map(),
        f1_micro: metrics.f1_micro(),
        f1_macro: metrics.f1_macro(),
        auroc: metrics.auroc(),
        exact: metrics.exact(),
        loss: metrics.loss(),
        images: metrics.images(),
        skipped,
        per_class: classes.iter().cloned().zip(metrics.per_class()).collect(),
    }
}

fn of_targets(metrics: &TargetMetrics, targets: &[String], skipped: usize) -> TargetEvaluation {
    TargetEvaluation {
        mae: metrics.mae(),
        rmse: metrics.rmse(),
        r2: metrics.r2(),
        loss: metrics.loss(),
        images: metrics.images(),
        skipped,
        per_target: targets.iter().cloned().zip(metrics.per_target()).collect(),
    }
}

/// The error where nothing says which pictures to look at.
fn no_data() -> Error {
    Error::Input("give DATA, a folder with a folder of pictures for each class, after the model".into())
}

/// The pictures that a run was validated with.
fn validation(run: &Path, classes: &[String], listener: &mut dyn Listener) -> Result<Labelled> {
    let of_run = RunPictures::read(run, classes)?;
    let samples = of_run.val.clone();
    let folder = shown(run);
    if samples.is_empty() {
        return Err(Error::Input(format!("{folder}: this run has no validation pictures; give DATA")));
    }
    let gone: Vec<&Sample> = samples.iter().filter(|sample| picture_file(&sample.path).is_err()).collect();
    if let Some(first) = gone.first() {
        return Err(Error::Input(format!(
            "{}: {} of the {} validation pictures of {folder} are no longer where they were, this one the first; put them back, or \
             give DATA",
            shown(&first.path),
            gone.len(),
            samples.len()
        )));
    }
    changed(&of_run).iter().for_each(|text| listener.warning(text));
    Ok(Labelled { samples, absent: Vec::new(), skipped: Vec::new(), notes: Vec::new() })
}

/// What to say of the classes without a picture.
fn absent(data: &Path, absent: &[String], classes: &[String]) -> Option<String> {
    let (n, all) = (absent.len(), classes.len());
    let named = absent.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if n > 5 { ", ..." } else { "" };
    (n > 0).then(|| format!("{}: no picture of {n} of the model's {all} classes: {named}{more}", shown(data)))
}
