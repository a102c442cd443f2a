//! The loop: epochs of steps, validation, checkpoints.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use offshoot_data::{Dataset, Loader, LoaderOptions, PictureError, Transform, TransformError};
use offshoot_formats::FormatError;
use offshoot_graph::model::OUTPUT;
use offshoot_graph::random::{Purpose, key};
use offshoot_graph::{Executor, Model, Tensor};
use serde::Serialize;

use crate::freeze::{FreezeError, apply_freeze};
use crate::memory::peak_mib;
use crate::metrics::Metrics;
use crate::pictures::{Computed, Features, Inputs, Pictures};
use crate::recipe::{Augment, Recipe};
use crate::run::{
    self, BEST_FILE, Best, EpochRow, LAST_FILE, Position, Results, RunError, Setting, Sums, write_model,
};
use crate::schedule::Schedule;
use crate::step::{StepError, StepOptions, TrainStep};

/// Pictures in a batch of evaluation.
const EVALUATION_BATCH: usize = 32;

/// Bytes of resized pictures that each of training and validation keeps.
const PIXEL_CACHE: usize = 256 << 20;

/// A training run that could not be started or finished. Checkpoints made before it are on disk.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The run directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FormatError),
    /// What is to be frozen does not fit the model.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// A pattern of a learning-rate group is no pattern.
    #[error("lr_groups: {0}")]
    Pattern(String),
    /// A step could not be made.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The preprocessing cannot be carried out.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// A picture cannot be used (strict).
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The model has other classes than the pictures.
    #[error(
        "the model has {model} classes and the pictures have {data}; build its head for the pictures' classes"
    )]
    Classes {
        /// The model's.
        model: String,
        /// The pictures'.
        data: usize,
    },
    /// `class_weights` names a class that the pictures do not have.
    #[error("class_weights: there is no class `{class}`; the classes are {classes}")]
    ClassWeight {
        /// The name.
        class: String,
        /// The classes there are.
        classes: String,
    },
    /// No picture can be used.
    #[error("no picture to train with could be decoded; the first of {count}: {first}")]
    NoPicture {
        /// How many were tried.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
}

/// What a run gives: the contract of `train --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainResult {
    /// The run directory.
    pub run: PathBuf,
    /// Finished epochs.
    pub epochs: u64,
    /// The best of them; `None` when none is finished.
    pub best: Option<BestEpoch>,
    /// Elements of the parameters that training changes.
    pub trainable_parameters: u64,
    /// Elements of the other parameters.
    pub frozen_parameters: u64,
    /// Seconds of training, earlier sessions included.
    pub seconds: f64,
    /// The high-water mark of memory in MiB; `None` where the system does not say.
    pub peak_mib: Option<f64>,
}

/// The best epoch of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestEpoch {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The part of the validation pictures that were recognised; `None` without validation pictures.
    pub val_accuracy: Option<f64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What there is.
    pub result: TrainResult,
    /// Whether it was asked to stop before the last epoch.
    pub interrupted: bool,
}

/// What happens during a run, for those who watch.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training starts, or goes on.
    Start {
        /// Elements of the parameters that training changes.
        trainable_parameters: u64,
        /// Elements of the other parameters.
        frozen_parameters: u64,
        /// Pictures to train with.
        train_images: usize,
        /// Pictures to validate with.
        val_images: usize,
        /// Epochs in all.
        epochs: u64,
        /// Steps in an epoch.
        steps: u64,
        /// Finished epochs and steps of a run that is resumed.
        resumed: Option<(u64, u64)>,
    },
    /// The frozen part is run once on each picture, whose features are kept.
    Features {
        /// Pictures done.
        done: usize,
        /// Pictures in all.
        total: usize,
    },
    /// A step was made.
    Step {
        /// The epoch it belongs to, from 1.
        epoch: u64,
        /// Which of the epoch's steps, from 1.
        step: u64,
        /// Steps in an epoch.
        steps: u64,
        /// The loss before its update.
        loss: f32,
        /// Training pictures a second in this epoch.
        images_per_second: f64,
        /// How long the rest of the run takes if it goes on like this session so far.
        remaining: Duration,
    },
    /// Validation goes on.
    Validate {
        /// Pictures done.
        done: u64,
    },
    /// An epoch is finished.
    Epoch(&'a EpochRow),
    /// A picture was left out.
    Skipped(&'a PictureError),
    /// A checkpoint is on disk.
    Checkpoint,
}

/// How a run is watched and stopped.
pub struct Control<'a> {
    /// Is told what happens.
    pub progress: &'a mut dyn FnMut(Event<'_>),
    /// Once true, the run ends after the current step, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Whether a run that is there is gone on with. Else it is an error.
    pub resume: bool,
    /// The longest time between two checkpoints; there is one after each epoch anyway. Ten minutes by
    /// [`Control::new`].
    pub checkpoint_every: Duration,
    /// Bytes in which features of frozen parts may be kept; 0 keeps none. A GiB by [`Control::new`].
    pub feature_bytes: usize,
}

impl<'a> Control<'a> {
    /// The defaults.
    pub fn new(progress: &'a mut dyn FnMut(Event<'_>), stop: &'a AtomicBool) -> Control<'a> {
        Control {
            progress,
            stop,
            resume: false,
            checkpoint_every: Duration::from_secs(600),
            feature_bytes: 1 << 30,
        }
    }
}

/// Trains `model`, whose head is for the classes of `data`, as `recipe` says, and keeps everything in the folder `run`.
///
/// A resumed run goes on from its last checkpoint with the same numbers as one that was never interrupted; the weights
/// of `model` are then replaced by the checkpoint's. A finished run gives its result again.
///
/// # Errors
/// When `run` is used and `control.resume` is not set, recipe, model and pictures do not fit each other, a step is refused
/// because something is not finite, or a file cannot be read or written.
pub fn train(
    model: Model,
    recipe: &Recipe,
    data: &Dataset,
    run: &Path,
    executor: &dyn Executor,
    control: Control<'_>,
) -> Result<Outcome, TrainError> {
    let clock = Instant::now();
    let same_for_any_threads = Recipe { threads: None, ..recipe.clone() };
    let setting =
        Setting { recipe: same_for_any_threads.to_toml(), pictures: [data.train.len(), data.val.len()] };
    let saved = if control.resume {
        run::read_state(run, &setting)?
    } else {
        run::check_unused(run)?;
        None
    };
    let mut model = model;
    check_classes(&model, data)?;
    apply_freeze(&mut model.graph, &recipe.freeze)?;
    let counts = model.graph.count_parameters();
    let results = Results::read(run, saved.as_ref().map_or(0, |(_, position)| position.epoch))?;
    if let Some((_, position)) = &saved {
        if position.epoch >= recipe.epochs {
            let result = result(run, position, counts, results.totals());
            return Ok(Outcome { result, interrupted: false });
        }
        model.weights = run::read_last(run, &model)?;
    }
    let transform = Transform::new(&recipe.preprocessing)?;
    let mut step = TrainStep::new(model, &step_options(recipe, data)?, executor)?;
    // What does not fit has been found by now: no folder is left behind for it.
    run::make(run)?;
    recipe.write(run)?;
    run::write_pictures(run, data)?;
    let resumed = saved.as_ref().map(|(_, position)| (position.epoch, position.step));
    let position = match saved {
        None => Position::default(),
        Some((state, position)) => {
            step.load_state(&state)?;
            position
        }
    };
    let steps = data.train.len().div_ceil(recipe.batch_size.max(1)) as u64;
    let mut session = Training {
        recipe,
        setting,
        transform,
        data,
        run,
        executor,
        control,
        step,
        schedule: Schedule::new(recipe.schedule, recipe.warmup, steps * recipe.epochs),
        steps,
        earlier_seconds: results.totals().0,
        position,
        results,
        counts,
        clock,
        last_checkpoint: Instant::now(),
        steps_made: 0,
        stepping: Duration::ZERO,
        reported: HashSet::new(),
    };
    session.announce(resumed);
    session.run_epochs()
}

fn check_classes(model: &Model, data: &Dataset) -> Result<(), TrainError> {
    let shape = model.graph.output(OUTPUT).map(|id| &model.graph.value(id).shape);
    let classes = shape.and_then(|s| s.0.get(1)).and_then(|d| d.fixed());
    if classes == Some(data.classes.len()) && model.metadata.classes == data.classes {
        return Ok(());
    }
    let model = classes.map_or("no known number of".into(), |n| n.to_string());
    Err(TrainError::Classes { model, data: data.classes.len() })
}

fn step_options(recipe: &Recipe, data: &Dataset) -> Result<StepOptions, TrainError> {
    let groups = recipe.lr_groups.iter().map(|(pattern, &lr)| Ok((pattern.parse()?, lr)));
    Ok(StepOptions {
        amp: recipe.amp,
        optimizer: recipe.optimizer_options(),
        lr: recipe.lr,
        weight_decay: recipe.weight_decay,
        lr_groups: groups.collect::<Result<_, String>>().map_err(TrainError::Pattern)?,
        label_smoothing: recipe.label_smoothing as f32,
        class_weights: class_weights(recipe, data)?,
    })
}

/// The weights given, times (pictures / classes / pictures of the class) where classes are balanced.
fn class_weights(recipe: &Recipe, data: &Dataset) -> Result<Option<Vec<f32>>, TrainError> {
    if let Some(class) = recipe.class_weights.keys().find(|class| !data.classes.contains(class)) {
        return Err(TrainError::ClassWeight { class: class.clone(), classes: data.classes.join(", ") });
    }
    if recipe.class_weights.is_empty() && !recipe.balance_classes {
        return Ok(None);
    }
    let weight = |(label, class): (usize, &String)| {
        let given = recipe.class_weights.get(class).copied().unwrap_or(1.0);
        let pictures = data.train.iter().filter(|sample| sample.label == label).count().max(1);
        let balance = data.train.len() as f64 / (data.classes.len() * pictures) as f64;
        (if recipe.balance_classes { given * balance } else { given }) as f32
    };
    Ok(Some(data.classes.iter().enumerate().map(weight).collect()))
}

/// A run in progress.
struct Training<'a, 'c> {
    recipe: &'a Recipe,
    setting: Setting,
    transform: Transform,
    data: &'a Dataset,
    run: &'a Path,
    executor: &'a dyn Executor,
    control: Control<'c>,
    step: TrainStep,
    schedule: Schedule,
    /// Steps in an epoch; fewer are made where pictures turn out to be unusable.
    steps: u64,
    earlier_seconds: f64,
    position: Position,
    results: Results,
    counts: (u64, u64),
    clock: Instant,
    last_checkpoint: Instant,
    /// Steps of this session, and the time they took.
    steps_made: u64,
    stepping: Duration,
    /// Skipped pictures that were told of.
    reported: HashSet<PathBuf>,
}

/// Whether to go on.
#[derive(PartialEq)]
enum Go {
    On,
    Stop,
}

impl Training<'_, '_> {
    fn announce(&mut self, resumed: Option<(u64, u64)>) {
        (self.control.progress)(Event::Start {
            trainable_parameters: self.counts.0,
            frozen_parameters: self.counts.1,
            train_images: self.data.train.len(),
            val_images: self.data.val.len(),
            epochs: self.recipe.epochs,
            steps: self.steps,
            resumed,
        });
    }

    fn run_epochs(mut self) -> Result<Outcome, TrainError> {
        let Some((train, val)) = self.open_pictures()? else { return Ok(self.outcome(false)) };
        while self.position.epoch < self.recipe.epochs {
            let start = (Instant::now(), self.position.sums.images);
            if self.run_steps(&train)? == Go::Stop {
                return self.interrupt();
            }
            let seconds = start.0.elapsed().as_secs_f64();
            let speed = (self.position.sums.images - start.1) as f64 / seconds.max(1e-9);
            self.report_skipped(&train);
            let Some(metrics) = self.validate(&val)? else { return self.interrupt() };
            self.report_skipped(&val);
            self.finish_epoch(&metrics, speed)?;
        }
        Ok(self.outcome(true))
    }

    fn stopped(&self) -> bool {
        self.control.stop.load(Ordering::Relaxed)
    }

    fn interrupt(mut self) -> Result<Outcome, TrainError> {
        self.checkpoint()?;
        Ok(self.outcome(false))
    }

    /// The pictures to train and to validate with, gone through the frozen part where that pays. `None` when stopped.
    fn open_pictures(&mut self) -> Result<Option<(Pictures, Pictures)>, TrainError> {
        let transform = self.transform.clone();
        let (batch_size, seed) = (self.recipe.batch_size.max(1), self.recipe.seed);
        let augment = self.recipe.augment == Augment::On;
        let kept = |options: LoaderOptions| LoaderOptions {
            threads: self.recipe.threads.unwrap_or(0),
            strict: self.recipe.strict,
            cache_bytes: PIXEL_CACHE,
            ..options
        };
        let ordered = |batch_size| kept(LoaderOptions::evaluation(&transform, batch_size));
        let (val_options, train_options) = (ordered(EVALUATION_BATCH), ordered(batch_size));
        let shuffled =
            LoaderOptions { augment, ..kept(LoaderOptions::training(&transform, batch_size, seed)) };
        let val = Loader::new(self.data.val.clone(), transform.clone(), val_options);
        let train = Loader::new(self.data.train.clone(), transform.clone(), train_options);
        let mut budget = self.control.feature_bytes;
        let val = match self.features(&val, (EVALUATION_BATCH, None), &mut budget)? {
            Computed::Features(features) => Pictures::Features(features),
            Computed::DoWithout => Pictures::Loader(val),
            Computed::Stopped => return Ok(None),
        };
        let computed = match augment {
            true => Computed::DoWithout,
            false => self.features(&train, (batch_size, Some(seed)), &mut budget)?,
        };
        let train = match computed {
            Computed::Features(features) => Pictures::Features(features),
            Computed::DoWithout => {
                Pictures::Loader(Loader::new(self.data.train.clone(), transform, shuffled))
            }
            Computed::Stopped => return Ok(None),
        };
        Ok(Some((train, val)))
    }

    /// Features of the pictures of `loader`, where there is a frozen part and `budget` allows it.
    fn features(
        &mut self,
        loader: &Loader,
        order: (usize, Option<u64>),
        budget: &mut usize,
    ) -> Result<Computed, TrainError> {
        if !self.step.has_prefix() || *budget == 0 {
            return Ok(Computed::DoWithout);
        }
        let (total, stop) = (loader.samples().len(), self.control.stop);
        let progress = &mut *self.control.progress;
        let computed = Features::compute(&mut self.step, loader, order, *budget, |done| {
            progress(Event::Features { done, total });
            !stop.load(Ordering::Relaxed)
        })?;
        if let Computed::Features(features) = &computed {
            *budget -= features.bytes();
        }
        Ok(computed)
    }

    /// Tells of the pictures that were left out since the last time.
    fn report_skipped(&mut self, pictures: &Pictures) {
        for error in pictures.skipped() {
            if self.reported.insert(error.path.clone()) {
                (self.control.progress)(Event::Skipped(&error));
            }
        }
    }

    /// The steps of the epoch that are left.
    fn run_steps(&mut self, pictures: &Pictures) -> Result<Go, TrainError> {
        let epoch = self.position.epoch;
        let start = (Instant::now(), self.position.sums.images);
        for inputs in pictures.epoch(epoch, self.position.step) {
            if self.stopped() {
                return Ok(Go::Stop);
            }
            let before = Instant::now();
            let loss = self.make_step(inputs?)?;
            self.stepping += before.elapsed();
            self.steps_made += 1;
            let speed =
                (self.position.sums.images - start.1) as f64 / start.0.elapsed().as_secs_f64().max(1e-9);
            let remaining = self.remaining();
            (self.control.progress)(Event::Step {
                epoch: epoch + 1,
                step: self.position.step,
                steps: self.steps,
                loss,
                images_per_second: speed,
                remaining,
            });
            if self.last_checkpoint.elapsed() >= self.control.checkpoint_every {
                self.checkpoint()?;
            }
        }
        if self.position.sums.images == 0 {
            return Err(self.no_picture(pictures));
        }
        Ok(Go::On)
    }

    fn make_step(&mut self, inputs: Inputs) -> Result<f32, TrainError> {
        let Position { epoch, step, .. } = self.position;
        let seed = self.recipe.seed;
        // The key's bits are what counts, not its sign.
        let keys = inputs.indices.iter().map(|&picture| key(seed, epoch, picture, Purpose::Dropout) as i64);
        let keys = Tensor::i64([inputs.indices.len()], keys.collect());
        let factor = self.schedule.factor(epoch * self.steps + step);
        let features = if inputs.ready { inputs.tensor } else { self.step.features(inputs.tensor)? };
        let report = self.step.learn(&features, &inputs.labels, &keys, factor)?;
        let sums = &mut self.position.sums;
        sums.loss += f64::from(report.loss) * inputs.indices.len() as f64;
        sums.correct += report.correct as u64;
        sums.images += inputs.indices.len() as u64;
        sums.gradient_norm += report.gradient_norm;
        self.position.step += 1;
        Ok(report.loss)
    }

    fn remaining(&self) -> Duration {
        let left = (self.recipe.epochs - self.position.epoch) * self.steps;
        let left = left.saturating_sub(self.position.step);
        self.stepping.div_f64(self.steps_made.max(1) as f64).mul_f64(left as f64)
    }

    fn no_picture(&self, pictures: &Pictures) -> TrainError {
        let first = pictures.skipped().first().map_or("the list is empty".into(), PictureError::to_string);
        TrainError::NoPicture { count: self.data.train.len(), first }
    }

    /// Metrics on the validation pictures. `None` when stopped.
    fn validate(&mut self, pictures: &Pictures) -> Result<Option<Metrics>, TrainError> {
        let mut metrics = Metrics::new(self.data.classes.len());
        if self.data.val.is_empty() {
            return Ok(Some(metrics));
        }
        let mut network = self.step.evaluator(self.executor)?;
        for inputs in pictures.epoch(0, 0) {
            if self.stopped() {
                return Ok(None);
            }
            let inputs = inputs?;
            let features = if inputs.ready { inputs.tensor } else { self.step.features(inputs.tensor)? };
            let logits = network.run(&features).map_err(StepError::from)?;
            metrics.add(logits.data, inputs.labels.as_i64().unwrap_or_default());
            (self.control.progress)(Event::Validate { done: metrics.images() });
        }
        Ok(Some(metrics))
    }

    fn finish_epoch(&mut self, metrics: &Metrics, images_per_second: f64) -> Result<(), TrainError> {
        let validated = metrics.images() > 0;
        let Position { epoch, step, sums: Sums { loss, correct, images, gradient_norm }, .. } = self.position;
        let last_step = epoch * self.steps + step.saturating_sub(1);
        let row = EpochRow {
            epoch: epoch + 1,
            train_loss: loss / images.max(1) as f64,
            train_accuracy: correct as f64 / images.max(1) as f64,
            val_loss: validated.then(|| metrics.loss()),
            val_accuracy: validated.then(|| metrics.accuracy()),
            learning_rate: self.recipe.lr * self.schedule.factor(last_step),
            gradient_norm: gradient_norm / step.max(1) as f64,
            images_per_second,
            seconds: self.seconds(),
            peak_mib: peak_mib(),
        };
        let now = Best { epoch: row.epoch, val_accuracy: row.val_accuracy, val_loss: row.val_loss };
        if self.position.best.as_ref().is_none_or(|best| is_better(&now, best)) {
            write_model(&self.run.join(BEST_FILE), self.step.model())?;
            self.position.best = Some(now);
        }
        self.results.push(&row);
        self.results.write(self.run)?;
        self.position =
            Position { epoch: epoch + 1, step: 0, sums: Sums::default(), best: self.position.best.take() };
        self.checkpoint()?;
        (self.control.progress)(Event::Epoch(&row));
        Ok(())
    }

    /// The state goes last: it alone decides where a resumed run starts, and holds all that has changed since the files
    /// before it were the ones that belong to it.
    fn checkpoint(&mut self) -> Result<(), TrainError> {
        write_model(&self.run.join(LAST_FILE), self.step.model())?;
        run::write_state(self.run, &self.step.state(), &self.position, &self.setting)?;
        self.last_checkpoint = Instant::now();
        (self.control.progress)(Event::Checkpoint);
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.earlier_seconds + self.clock.elapsed().as_secs_f64()
    }

    fn outcome(&self, finished: bool) -> Outcome {
        let result = result(self.run, &self.position, self.counts, (self.seconds(), peak_mib()));
        Outcome { result, interrupted: !finished }
    }
}

fn result(
    run: &Path,
    position: &Position,
    (trainable_parameters, frozen_parameters): (u64, u64),
    (seconds, peak_mib): (f64, Option<f64>),
) -> TrainResult {
    let best = position.best.as_ref().map(|b| BestEpoch { epoch: b.epoch, val_accuracy: b.val_accuracy });
    let (run, epochs) = (run.to_owned(), position.epoch);
    TrainResult { run, epochs, best, trainable_parameters, frozen_parameters, seconds, peak_mib }
}

/// A higher accuracy, or the same with a lower loss. Without validation pictures, the later epoch.
fn is_better(now: &Best, best: &Best) -> bool {
    match (now.val_accuracy, best.val_accuracy) {
        (Some(a), Some(b)) if a == b => now.val_loss < best.val_loss,
        (Some(a), Some(b)) => a > b,
        (None, _) | (_, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use offshoot_data::Sample;
    use offshoot_graph::Preprocessing;

    use super::*;
    use crate::recipe::Settings;

    fn data() -> Dataset {
        let sample = |label| Sample { path: PathBuf::from("x.png"), label };
        let classes = vec!["a".to_string(), "b".to_string()];
        Dataset { classes, train: [0, 0, 0, 1].map(sample).to_vec(), val: vec![], skipped: vec![] }
    }

    fn weights(change: impl FnOnce(&mut Settings)) -> Option<Vec<f32>> {
        let mut settings =
            Settings { model: Some("m".into()), data: Some("d".into()), ..Settings::default() };
        change(&mut settings);
        let recipe = Recipe::resolve(settings, &Preprocessing::default()).unwrap();
        class_weights(&recipe, &data()).unwrap()
    }

    #[test]
    fn classes_weigh_what_is_asked_for() {
        let given = || Some([("b".to_string(), 3.0)].into());
        assert_eq!(weights(|_| ()), None);
        assert_eq!(weights(|s| s.class_weights = given()), Some(vec![1.0, 3.0]));
        let balanced = Some(vec![4.0 / 6.0, 2.0]);
        assert_eq!(weights(|s| s.balance_classes = Some(true)), balanced);
        let both = weights(|s| {
            s.balance_classes = Some(true);
            s.class_weights = given();
        });
        assert_eq!(both, Some(vec![4.0 / 6.0, 6.0]));
    }

    #[test]
    fn the_best_epoch_is_the_most_accurate_and_then_the_surest() {
        let epoch = |val_accuracy, val_loss| Best { epoch: 1, val_accuracy, val_loss };
        let best = epoch(Some(0.5), Some(1.0));
        assert!(is_better(&epoch(Some(0.6), Some(2.0)), &best));
        assert!(is_better(&epoch(Some(0.5), Some(0.9)), &best));
        assert!(!is_better(&epoch(Some(0.5), Some(1.0)), &best));
        assert!(!is_better(&epoch(Some(0.4), Some(0.1)), &best));
        assert!(is_better(&epoch(None, None), &epoch(None, None)));
    }
}
