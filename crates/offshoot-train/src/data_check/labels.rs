//! Pictures whose label looks wrong.
//!
//! A linear probe on frozen features is trained on all folds but one and predicts the held-out fold. Pictures are ordered
//! by how much more probable another class is than the label: the normalized margin of confident learning (Northcutt and others,
//! "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021).

use offshoot_data::{Dataset, Loader, LoaderOptions, Sample, Transform};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Executor, Model, Tensor};
use serde::Serialize;

use super::{Member, members};
use crate::error::TrainError;
use crate::freeze::{Freeze, apply_freeze};
use crate::metrics::{argmax, softmax};
use crate::optimizer::{OptimizerKind, OptimizerOptions};
use crate::schedule::{Schedule, ScheduleKind};
use crate::step::{StepError, StepOptions, TrainStep};
use offshoot_infer::evaluate::images;

/// Pictures that go through the backbone at once.
const BATCH: usize = 32;

/// How the probe is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelOptions {
    /// Parts of the data, each of which is held out once; at least 2.
    pub folds: usize,
    /// How often the probe sees each picture.
    pub epochs: u64,
    /// Its learning rate, with AdamW; it falls along a cosine.
    pub lr: f64,
    /// Decides the folds and the order.
    pub seed: u64,
}

impl Default for LabelOptions {
    fn default() -> LabelOptions {
        LabelOptions { folds: 5, epochs: 30, lr: 3e-3, seed: 0 }
    }
}

/// A picture whose label looks wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// The picture and its class.
    #[serde(flatten)]
    pub picture: Member,
    /// The class that the probe thinks it is.
    pub suggested: String,
    /// Its probability, 0..1.
    pub suggested_probability: f64,
    /// The probability of the label.
    pub label_probability: f64,
    /// The second minus the first: -1 is surely wrong.
    pub margin: f64,
}

/// The features of frozen layers for all pictures that can be used.
struct Features {
    /// Places among the members.
    places: Vec<usize>,
    labels: Vec<usize>,
    rows: Vec<Vec<f32>>,
    /// The shape of a row.
    shape: Vec<usize>,
}

/// The pictures of `data` of which a probe that has not seen them predicts another class, the most certain first. `model` gives a pretrained
/// model with a new head for the classes; its backbone is frozen here. `done` is told how many pictures have gone through it.
///
/// # Errors
/// When the model does not fit the classes or cannot run, or there is no picture.
pub fn suspects(
    model: impl Fn() -> Model,
    data: &Dataset,
    executor: &dyn Executor,
    options: LabelOptions,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Suspect>, TrainError> {
    let members = members(data);
    let mut first = probe(&model, options, executor)?;
    let features = features(&mut first, data, &model().metadata.preprocessing, done)?;
    drop(first);
    let folds = folds(&features.labels, data.classes.len(), options);
    let mut found = Vec::new();
    for fold in 0..options.folds {
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            (0..features.rows.len()).partition(|&i| folds[i] == fold);
        if inside.is_empty() || outside.is_empty() {
            continue;
        }
        let mut step = probe(&model, options, executor)?;
        train(&mut step, &features, &outside, options)?;
        let mut network = step.evaluator(None, executor)?;
        let input = features.gather(&inside);
        let logits = network.run(&input).map_err(StepError::from)?;
        for (row, &i) in logits.as_f32().unwrap_or_default().chunks_exact(data.classes.len()).zip(&inside) {
            found.extend(suspect(row, features.labels[i], &members[features.places[i]], &data.classes));
        }
    }
    found.sort_by(|a, b| a.margin.total_cmp(&b.margin).then_with(|| a.picture.path.cmp(&b.picture.path)));
    Ok(found)
}

fn probe(
    model: &impl Fn() -> Model,
    options: LabelOptions,
    executor: &dyn Executor,
) -> Result<TrainStep, TrainError> {
    let mut model = model();
    apply_freeze(&mut model.graph, &Freeze::Backbone)?;
    let step = StepOptions::new(OptimizerOptions::new(OptimizerKind::AdamW), options.lr);
    Ok(TrainStep::new(model, &step, executor)?)
}

fn features(
    step: &mut TrainStep,
    data: &Dataset,
    preprocessing: &offshoot_graph::Preprocessing,
    done: &mut dyn FnMut(usize),
) -> Result<Features, TrainError> {
    let transform = Transform::new(preprocessing)?;
    let samples: Vec<Sample> = data.train.iter().chain(&data.val).cloned().collect();
    let loader =
        Loader::new(samples.clone(), transform.clone(), LoaderOptions::evaluation(&transform, BATCH));
    let mut all = Features { places: Vec::new(), labels: Vec::new(), rows: Vec::new(), shape: Vec::new() };
    for batch in loader.epoch(0) {
        let batch = batch?;
        let features = step.features(images(batch.images, preprocessing.size))?;
        all.shape = features.shape()[1..].to_vec();
        let len = all.shape.iter().product::<usize>().max(1);
        all.rows.extend(features.as_f32().unwrap_or_default().chunks_exact(len).map(<[f32]>::to_vec));
        all.places.extend(batch.indices.iter().map(|&i| i as usize));
        all.labels.extend(batch.indices.iter().map(|&i| samples[i as usize].label));
        done(all.rows.len());
    }
    match loader.skipped().first() {
        Some(first) if all.rows.is_empty() => {
            Err(TrainError::NoPicture { count: samples.len(), first: first.to_string() })
        }
        _ => Ok(all),
    }
}

impl Features {
    fn gather(&self, places: &[usize]) -> Tensor {
        let data = places.iter().flat_map(|&i| self.rows[i].iter().copied()).collect();
        let shape: Vec<usize> = std::iter::once(places.len()).chain(self.shape.iter().copied()).collect();
        Tensor::f32(shape, data)
    }
}

/// The fold of each picture: each class is dealt out over all of them.
fn folds(labels: &[usize], classes: usize, options: LabelOptions) -> Vec<usize> {
    let mut folds = vec![0; labels.len()];
    let mut next = 0;
    let mut of_class = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(place, &label)| of_class[label].push(place));
    for (class, mut places) in of_class.into_iter().enumerate() {
        Random::new(options.seed, 0, class as u64, Purpose::Split).shuffle(&mut places);
        for place in places {
            folds[place] = next % options.folds.max(1);
            next += 1;
        }
    }
    folds
}

fn train(
    step: &mut TrainStep,
    features: &Features,
    places: &[usize],
    options: LabelOptions,
) -> Result<(), TrainError> {
    let mut order = places.to_vec();
    let steps = places.len().div_ceil(BATCH) as u64;
    let schedule = Schedule::new(ScheduleKind::Cosine, 0.0, steps, options.epochs);
    let mut made = 0;
    for epoch in 0..options.epochs {
        Random::new(options.seed, epoch, 0, Purpose::Shuffle).shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let labels = batch.iter().map(|&i| features.labels[i] as i64).collect();
            let labels = Tensor::i64([batch.len()], labels);
            let keys = batch.iter().map(|&i| (epoch << 32) as i64 ^ i as i64).collect();
            let keys = Tensor::i64([batch.len()], keys);
            step.learn(&features.gather(batch), &labels, &keys, schedule.factor(made))?;
            made += 1;
        }
    }
    Ok(())
}

/// The picture, where another class is likelier than the label.
fn suspect(logits: &[f32], label: usize, member: &Member, classes: &[String]) -> Option<Suspect> {
    let (best, p) = (argmax(logits), softmax(logits));
    (best != label).then(|| Suspect {
        picture: member.clone(),
        suggested: classes[best].clone(),
        suggested_probability: p[best],
        label_probability: p[label],
        margin: p[label] - p[best],
    })
}
