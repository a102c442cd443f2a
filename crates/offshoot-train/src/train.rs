//! How a run starts: from the beginning, or from its last checkpoint. The loop itself is in `training.rs`.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use offshoot_data::{Dataset, Transform, picture_folder};
use offshoot_graph::passes::any_picture_size;
use offshoot_graph::{Executor, Model};

use crate::checkpoint::{self, RunSetting, Saved};
use crate::groups::{GroupRow, groups};
use crate::log::Log;
use crate::outcome::result;
use crate::recipe::Recipe;
use crate::results::Results;
use crate::run::{self, PICTURES_FILE, RunError};
use crate::run_pictures::{self, Files, Moved};
use crate::scales::with_scales;
use crate::step::TrainStep;
use crate::step_options::{check_classes, for_stage, step_options};
use crate::training::{Given, Training};
use crate::unfreeze::Stages;
use crate::{leftover, longer, occupied, together};

pub use crate::error::TrainError;
pub use crate::events::{Control, Event, Told};
pub use crate::outcome::{BestEpoch, Figure, Outcome, TrainResult};
pub use crate::refusal::Refusal;

/// Told where a run that goes on has a list of pictures without what they held.
const NO_CONTENTS: &str = "the run does not know what its pictures held when it was started: only their names and classes were compared";

/// Told where it has no list.
const NO_LIST: &str =
    "the run has lost its list of pictures: only its classes and the number of its pictures were compared";

/// Trains `model`, whose head is for the classes of `data`, as `recipe` says, and keeps everything in the folder `run`.
///
/// A resumed run goes on from its last checkpoint with the same numbers as one that was never interrupted; the weights
/// of `model` are then replaced by the checkpoint's. A finished run gives its result again, unless `recipe` is that of
/// [`Recipe::resume`] with more epochs: then it goes on to those. A run that has left no checkpoint starts again.
///
/// Where [`Control::world`] has several processes, all of them call this, and the first alone reads and writes the folder.
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
    let start = Instant::now();
    let (world, writes) = (control.world, control.world.is_first());
    together::check_processes(world, recipe)?;
    let setting = setting(recipe, data);
    let (lock, saved) = match writes {
        true => last_checkpoint(run, &setting, control.resume)?,
        false => (None, None),
    };
    let saved = together::broadcast_saved(world, saved)?;
    let same = match &saved {
        Some(saved) if writes => Some(check_pictures(run, saved, &setting, recipe, data, control.stop)?),
        _ => None,
    };
    let mut model = prepared(model, recipe, data)?;
    let stages = recipe.stages();
    let tables = tables(&model, recipe, &stages)?;
    stages.apply(&mut model.graph, stages.count() - 1)?;
    let least = leftover::check(&model.graph, recipe, data.train.len())?;
    let counts = model.graph.count_parameters();
    let finished_epochs = saved.as_ref().map_or(0, |saved| saved.header.position.epoch);
    let results = Results::read(run, if writes { finished_epochs } else { 0 }, recipe.task)?;
    if let Some(saved) = &saved {
        let position = &saved.header.position;
        if writes {
            checkpoint::check_best(run, &model, saved)?;
        }
        if is_finished(saved, &setting, recipe) {
            let result = result(run, recipe.task, position, counts, results.totals());
            return Ok(Outcome { result, interrupted: false });
        }
        checkpoint::check_stage(run, position, &stages)?;
        let last = if writes { Some(checkpoint::read_last(run, &model, saved)?) } else { None };
        model.weights = together::broadcast_weights(world, last)?;
    }
    let (files, known) = same.map_or((None, true), |(files, known)| (Some(files), known));
    let files = together::files(world, data, files, control.stop)?;
    together::agree(world, recipe, executor, (data, &files), &model)?;
    let stage = saved.as_ref().map_or(0, |saved| saved.header.position.stage);
    stages.apply(&mut model.graph, stage)?;
    let transform = Transform::new(&recipe.preprocessing)?;
    let options = step_options(recipe, data)?;
    let step = TrainStep::new(model, &for_stage(&options, &stages, stage), executor)?;
    // What does not fit has been found by now: no folder is left behind for it.
    let resumed = saved.is_some();
    let mut silent = |_: Event<'_>| {};
    let mut listen: Box<dyn FnMut(Event<'_>) + '_> = Box::new(&mut silent);
    let mut _lock = None;
    if writes {
        _lock = take_folder(run, lock, resumed)?;
        recipe.write(run)?;
        let listed = run.join(PICTURES_FILE).exists();
        run_pictures::write(run, data, &files)?;
        run::write_groups(run, &tables)?;
        listen = Box::new(logged(start_log(run, &control, data, resumed), control.progress));
        tell_start(&mut *listen, &control.told, (!known).then_some(listed));
        if let Some(text) = run_pictures::in_both(data, &files).filter(|_| !resumed) {
            listen(Event::Warning(&text));
        }
    }
    let control = Control { progress: &mut *listen, ..control };
    let given = Given { recipe, setting, transform, data, run, executor, options, stages, least };
    let mut training = Training::new(given, control, step, (results, counts, start));
    if let Some(saved) = saved {
        training.resume(saved)?;
    }
    training.run_epochs(resumed)
}

/// Tells what is known at the start; where the run does not know what its pictures held, whether it has a list of them.
fn tell_start(listen: &mut dyn FnMut(Event<'_>), told: &Told, listed: Option<bool>) {
    told.warnings.iter().for_each(|text| listen(Event::Warning(text)));
    told.notes.iter().for_each(|text| listen(Event::Notice(text)));
    match listed {
        None => {}
        Some(true) => listen(Event::Notice(NO_CONTENTS)),
        Some(false) => listen(Event::Notice(NO_LIST)),
    }
}

/// What the checkpoints of a run belong to. The number of threads changes no result.
fn setting(recipe: &Recipe, data: &Dataset) -> RunSetting {
    let same_for_any_threads = Recipe { threads: None, ..recipe.clone() };
    RunSetting { recipe: same_for_any_threads.to_toml(), pictures: [data.train.len(), data.val.len()] }
}

/// The checkpoint that a run goes on from, with the lock of its folder. Where there is none, nothing else is in the folder either.
fn last_checkpoint(
    run: &Path,
    setting: &RunSetting,
    resume: bool,
) -> Result<(Option<File>, Option<Saved>), RunError> {
    let (lock, saved) = match resume {
        true => (run::lock(run)?, checkpoint::read_state(run, setting)?),
        false => (None, None),
    };
    if saved.is_none() {
        occupied::check(run)?;
    }
    Ok((lock, saved))
}

/// Checks that `data` has the pictures of the run. Gives their files, and whether the run knew what these held.
fn check_pictures(
    run: &Path,
    saved: &Saved,
    setting: &RunSetting,
    recipe: &Recipe,
    data: &Dataset,
    stop: &AtomicBool,
) -> Result<(Files, bool), RunError> {
    let from = longer::data_of(&saved.header.setting.recipe).unwrap_or_else(|| recipe.data.clone());
    let options = recipe.folder_options();
    let folder = |data: &Path| picture_folder(data, &options).to_owned();
    let moved = Moved { from: folder(&from), to: folder(&recipe.data) };
    let same = run_pictures::check_same(run, data, &moved, stop)?;
    checkpoint::check_counts(run, saved, setting)?;
    Ok(same)
}

/// The model for pictures of the classes or targets of `data`, of any size where the recipe changes it.
fn prepared(model: Model, recipe: &Recipe, data: &Dataset) -> Result<Model, TrainError> {
    check_classes(&model, data)?;
    let mut model = with_scales(model, recipe.loss, data)?;
    if !recipe.progressive.is_empty() {
        model.graph = any_picture_size(&model.graph).map_err(TrainError::OneSize)?;
    }
    Ok(model)
}

/// Whether the run of a checkpoint has come to its end.
fn is_finished(saved: &Saved, setting: &RunSetting, recipe: &Recipe) -> bool {
    let position = &saved.header.position;
    let longer = longer::is_longer(&saved.header.setting.recipe, &setting.recipe);
    (position.ended && !longer) || position.epoch >= recipe.epochs
}

/// Makes the folder of a run where there is none, and takes it for this process. A new run finds it empty.
fn take_folder(run: &Path, lock: Option<File>, resumed: bool) -> Result<Option<File>, TrainError> {
    run::check_places(run)?;
    run::make(run)?;
    let lock = match lock {
        Some(lock) => Some(lock),
        None => run::lock(run)?,
    };
    if !resumed {
        occupied::clear(run)?;
    }
    Ok(lock)
}

/// The log of a run, which begins with what reading its pictures told.
fn start_log(run: &Path, control: &Control<'_>, data: &Dataset, resumed: bool) -> Log {
    let mut log = Log::open(run, control.command.as_deref(), resumed);
    if !resumed {
        data.notes.iter().for_each(|note| log.add("warning", note));
        data.skipped.iter().for_each(|picture| log.add("skipped", &picture.to_string()));
    }
    log
}

/// Tells `progress` what happens once it is in the log.
fn logged<'a>(mut log: Log, progress: &'a mut dyn FnMut(Event<'_>)) -> impl FnMut(Event<'_>) + 'a {
    move |event| {
        // Training does not need its log, so that it cannot end training.
        let written = log.listen(&event);
        progress(event);
        if let Err(error) = written {
            progress(Event::Notice(&format!("the log was not written: {error}")));
        }
    }
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
