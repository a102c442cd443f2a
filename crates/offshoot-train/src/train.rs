//! A run: what it is given, what it tells, how it starts. The loop itself is in `training.rs`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use offshoot_data::{Dataset, PictureError, Transform, TransformError};
use offshoot_formats::FormatError;
use offshoot_graph::model::OUTPUT;
use offshoot_graph::passes::any_picture_size;
use offshoot_graph::remedy::{BATCH_SIZE, FREEZE_NORMS, LR, OUT, RESUME, SIZE};
use offshoot_graph::text::{escaped, quoted};
use offshoot_graph::{Executor, GraphError, Model};
use serde::Serialize;

use crate::cache::CacheOptions;
use crate::freeze::FreezeError;
use crate::groups::{GroupRow, groups};
use crate::health::listed;
use crate::leftover;
use crate::log::Log;
use crate::longer;
use crate::occupied;
use crate::recipe::Recipe;
use crate::run::{self, EpochRow, PICTURES_FILE, Results, RunError, Setting};
use crate::run_pictures::{self, Moved};
use crate::step::{StepError, StepOptions, TrainStep};
pub use crate::training::Refusal;
use crate::training::{Training, result};
use crate::unfreeze::Stages;

/// Classes that are named in a message.
const LOST_CLASSES: usize = 5;

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
    /// A step was refused because of a number that is not finite.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// A step was refused once too often.
    #[error("{refusal}\n{policy}")]
    GaveUp {
        /// The last one.
        refusal: Box<Refusal>,
        /// What `on_nonfinite` has done about those before it.
        policy: String,
    },
    /// Each step of an epoch was refused, and skipped.
    #[error(
        "epoch {epoch}: all of its {steps} steps had numbers that are not finite and were skipped, so nothing was learned; \
         the warnings name them"
    )]
    EpochSkipped {
        /// The epoch, from 1.
        epoch: u64,
        /// Its steps.
        steps: u64,
    },
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
    #[error("class_weights: there is no class `{}`; the classes are {classes}", quoted(class))]
    ClassWeight {
        /// The name.
        class: String,
        /// The classes there are.
        classes: String,
    },
    /// The recipe changes the size of training pictures, and the network takes only one.
    #[error("progressive: the network takes pictures of its own size only; leave it out ({0})")]
    OneSize(GraphError),
    /// A batch of one picture, of which a batch norm in training has one value a channel.
    #[error("{}", one_picture(*pictures))]
    OnePicture {
        /// The pictures to train with.
        pictures: usize,
    },
    /// No picture to validate with can be used, or none of a class.
    #[error(
        "{}; the first of {count}: {first}. Put the files back as they were and go on with {RESUME}, or repair or remove them and start again in another folder with {OUT}",
        lost(classes, set), RESUME = RESUME, OUT = OUT)]
    Lost {
        /// `train` or `val`.
        set: &'static str,
        /// The classes that have no picture left; none where all pictures of the set are lost.
        classes: Vec<String>,
        /// How many pictures those were.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
    /// The run has come to its end, and validation gave no numbers in any epoch.
    #[error(
        "the run has no best model: in no epoch did validation give numbers that are finite. A smaller {LR} may help, and `offshoot check` \
         names where they come from; start again in another folder with {OUT}", LR = LR, OUT = OUT)]
    NoBest,
    /// No picture can be used.
    #[error("no picture to train with could be decoded; the first of {count}: {first}")]
    NoPicture {
        /// How many were tried.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
}

fn lost(classes: &[String], set: &str) -> String {
    let classes: Vec<String> = classes.iter().map(|class| format!("`{}`", escaped(class))).collect();
    match (&classes[..], set) {
        ([], _) => "none of the validation pictures could be decoded".into(),
        (all, "val") => {
            format!("no validation picture of {} could be decoded", listed(all, LOST_CLASSES, String::clone))
        }
        (all, _) => {
            format!("no training picture of {} could be decoded", listed(all, LOST_CLASSES, String::clone))
        }
    }
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
    /// The peak memory in MiB; `None` where the system does not say.
    pub peak_mib: Option<f64>,
}

/// The best epoch of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestEpoch {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The fraction of the validation pictures classified correctly; `None` without validation pictures.
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

/// What is wrong with a batch of one of so many pictures, and what to do.
fn one_picture(pictures: usize) -> String {
    let (what, more) = match pictures {
        1 => ("there is one picture to train with".to_owned(), "more pictures".to_owned()),
        _ => (format!("{BATCH_SIZE} 1"), format!("a larger {BATCH_SIZE}")),
    };
    format!(
        "{what}: batch norms in training take the statistics of a batch, and one value a channel has none; give {more}, {FREEZE_NORMS} \
         on, or larger pictures with {SIZE}"
    )
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
    /// A stage starts or goes on: a stretch of epochs in which the same parameters train.
    Stage {
        /// The finished epochs at which it starts.
        epoch: u64,
        /// Which parameters learn, and at which rates.
        groups: &'a [GroupRow],
    },
    /// The frozen part is run once on each picture, whose features are cached.
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
        /// Pictures done, those to train with that are looked at again among them.
        done: u64,
        /// Pictures in all.
        total: u64,
    },
    /// An epoch is finished.
    Epoch(&'a EpochRow),
    /// The average of the last epochs was tried.
    Average {
        /// The fraction of the validation pictures that it classifies correctly.
        val_accuracy: Option<f64>,
        /// Whether it is better than each epoch, and so kept as the best model.
        best: bool,
    },
    /// The run ends before its last epoch, because the validation accuracy has not improved.
    Ended,
    /// A picture was left out.
    Skipped(&'a PictureError),
    /// Something that is no error and may spoil the result, in a line.
    Warning(&'a str),
    /// Something that is no error and that the user should know, in a sentence.
    Notice(&'a str),
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
    /// Where features of frozen layers are cached. In the run directory by [`Control::new`].
    pub cache: CacheOptions,
    /// The command that started the run, for its log.
    pub command: Option<String>,
    /// What there is to warn of and to say of the start, which the run tells first and puts into its log.
    pub told: Told,
}

/// Warnings and notes, a sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What may spoil the result.
    pub warnings: Vec<String>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl<'a> Control<'a> {
    /// The defaults.
    pub fn new(progress: &'a mut dyn FnMut(Event<'_>), stop: &'a AtomicBool) -> Control<'a> {
        Control {
            progress,
            stop,
            resume: false,
            checkpoint_every: Duration::from_secs(600),
            cache: CacheOptions::default(),
            command: None,
            told: Told::default(),
        }
    }
}

/// Trains `model`, whose head is for the classes of `data`, as `recipe` says, and keeps everything in the folder `run`.
///
/// A resumed run goes on from its last checkpoint with the same numbers as one that was never interrupted; the weights
/// of `model` are then replaced by the checkpoint's. A finished run gives its result again, unless `recipe` is that of
/// [`Recipe::resume`] with more epochs: then it goes on to those. A run that has left no checkpoint starts again.
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
    let (lock, saved) = if control.resume {
        let lock = run::lock(run)?;
        (lock, run::read_state(run, &setting)?)
    } else {
        (None, None)
    };
    if saved.is_none() {
        occupied::check(run)?;
    }
    let same = match &saved {
        None => None,
        Some(saved) => {
            let from = longer::data_of(&saved.header.setting.recipe).unwrap_or_else(|| recipe.data.clone());
            let moved = Moved { from, to: recipe.data.clone() };
            let same = run_pictures::check_same(run, data, &moved, control.stop)?;
            run::check_counts(run, saved, &setting)?;
            Some(same)
        }
    };
    let mut model = model;
    check_classes(&model, data)?;
    if !recipe.progressive.is_empty() {
        model.graph = any_picture_size(&model.graph).map_err(TrainError::OneSize)?;
    }
    let stages = recipe.stages();
    let tables = tables(&model, recipe, &stages)?;
    stages.apply(&mut model.graph, stages.count() - 1)?;
    let least = leftover::check(&model.graph, recipe, data.train.len())?;
    let counts = model.graph.count_parameters();
    let results = Results::read(run, saved.as_ref().map_or(0, |saved| saved.header.position.epoch))?;
    if let Some(saved) = &saved {
        let position = &saved.header.position;
        let longer = longer::is_longer(&saved.header.setting.recipe, &setting.recipe);
        run::check_best(run, &model, saved)?;
        if (position.ended && !longer) || position.epoch >= recipe.epochs {
            let result = result(run, position, counts, results.totals());
            return Ok(Outcome { result, interrupted: false });
        }
        run::check_stage(run, position, &stages)?;
        model.weights = run::read_last(run, &model, saved)?;
    }
    let stage = saved.as_ref().map_or(0, |saved| saved.header.position.stage);
    stages.apply(&mut model.graph, stage)?;
    let transform = Transform::new(&recipe.preprocessing)?;
    let options = step_options(recipe, data)?;
    let step = TrainStep::new(model, &for_stage(&options, &stages, stage), executor)?;
    // What does not fit has been found by now: no folder is left behind for it.
    run::check_places(run)?;
    run::make(run)?;
    let _lock = match lock {
        Some(lock) => Some(lock),
        None => run::lock(run)?,
    };
    if saved.is_none() {
        occupied::clear(run)?;
    }
    recipe.write(run)?;
    let listed = run.join(PICTURES_FILE).exists();
    let (files, told) = same.unwrap_or_else(|| (run_pictures::files_of(data, control.stop), true));
    run_pictures::write(run, data, &files)?;
    run::write_groups(run, &tables)?;
    let given = Given { recipe, setting, transform, data, run, executor, options, stages, least };
    let resumed = saved.is_some();
    let mut log = Log::open(run, control.command.as_deref(), resumed);
    if !resumed {
        for note in &data.notes {
            log.add("warning", note);
        }
        for picture in &data.skipped {
            log.add("skipped", &picture.to_string());
        }
    }
    let progress = control.progress;
    let mut logged = |event: Event<'_>| {
        // Training does not need its log, so that it cannot end training.
        let written = log.listen(&event);
        progress(event);
        if let Err(error) = written {
            progress(Event::Notice(&format!("the log was not written: {error}")));
        }
    };
    control.told.warnings.iter().for_each(|text| logged(Event::Warning(text)));
    control.told.notes.iter().for_each(|text| logged(Event::Notice(text)));
    if !told {
        logged(Event::Notice(match listed {
            true => {
                "the run does not know what its pictures held when it was started: only their names and classes were compared"
            }
            false => {
                "the run has lost its list of pictures: only its classes and the number of its pictures were compared"
            }
        }));
    }
    if let Some(text) = run_pictures::in_both(data, &files).filter(|_| !resumed) {
        logged(Event::Warning(&text));
    }
    let control = Control { progress: &mut logged, ..control };
    let mut training = Training::new(given, control, step, (results, counts, clock));
    if let Some(saved) = saved {
        training.resume(saved)?;
    }
    training.run_epochs(resumed)
}

/// What stays the same during a run.
pub(crate) struct Given<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) setting: Setting,
    pub(crate) transform: Transform,
    pub(crate) data: &'a Dataset,
    pub(crate) run: &'a Path,
    pub(crate) executor: &'a dyn Executor,
    pub(crate) options: StepOptions,
    pub(crate) stages: Stages,
    /// The fewest pictures of a batch.
    pub(crate) least: usize,
}

/// The options of a step in a stage.
pub(crate) fn for_stage(options: &StepOptions, stages: &Stages, stage: usize) -> StepOptions {
    let mut options = options.clone();
    options.rates.unfrozen = stages.unfrozen(stage);
    options
}

/// The table of groups of each stage, with the finished epochs at which it starts.
fn tables(model: &Model, recipe: &Recipe, stages: &Stages) -> Result<Vec<(u64, Vec<GroupRow>)>, TrainError> {
    let table = |stage| {
        let mut graph = model.graph.clone();
        stages.apply(&mut graph, stage)?;
        let rates = recipe.rates(stages.unfrozen(stage)).map_err(TrainError::Pattern)?;
        Ok((stages.span(stage).0, groups(&graph, &rates).1))
    };
    (0..stages.count()).map(table).collect()
}

pub(crate) fn check_classes(model: &Model, data: &Dataset) -> Result<(), TrainError> {
    let shape = model.graph.output(OUTPUT).map(|id| &model.graph.value(id).shape);
    let classes = shape.and_then(|s| s.0.get(1)).and_then(|d| d.fixed());
    if classes == Some(data.classes.len()) && model.metadata.classes == data.classes {
        return Ok(());
    }
    let model = classes.map_or("no known number of".into(), |n| n.to_string());
    Err(TrainError::Classes { model, data: data.classes.len() })
}

pub(crate) fn step_options(recipe: &Recipe, data: &Dataset) -> Result<StepOptions, TrainError> {
    Ok(StepOptions {
        optimizer: recipe.optimizer_options(),
        rates: recipe.rates(Vec::new()).map_err(TrainError::Pattern)?,
        clip: recipe.clip(),
        label_smoothing: recipe.label_smoothing as f32,
        class_weights: class_weights(recipe, data)?,
        soft_targets: recipe.augmentation().is_some_and(|how| how.mix().is_on()),
        amp: recipe.amp,
        ema: recipe.ema,
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
    let mut pictures = vec![0; data.classes.len()];
    data.train.iter().for_each(|sample| pictures[sample.label] += 1);
    let weight = |(class, pictures): (&String, usize)| {
        let given = recipe.class_weights.get(class).copied().unwrap_or(1.0);
        let balance = data.train.len() as f64 / (data.classes.len() * pictures.max(1)) as f64;
        (if recipe.balance_classes { given * balance } else { given }) as f32
    };
    Ok(Some(data.classes.iter().zip(pictures).map(weight).collect()))
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
        Dataset { classes, train: [0, 0, 0, 1].map(sample).to_vec(), ..Dataset::default() }
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
}
