//! The loop of a run: stages of epochs of steps, validation, checkpoints.

mod checkpoints;
mod clock;
mod epoch_end;
mod explain;
mod losses;
mod recovery;
mod steps;
mod updates;
mod validation;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use offshoot_data::{Dataset, Transform, batch_count};
use offshoot_graph::Executor;

use crate::average::Average;
use crate::cache::Cache;
use crate::checkpoint::{FrozenHash, Position, RunSetting};
use crate::error::TrainError;
use crate::events::{Control, Event};
use crate::health::HealthLog;
use crate::leftover;
use crate::memory::peak_mib;
use crate::outcome::{Outcome, result};
use crate::pictures::{self, Keeper, Kept, Sets};
use crate::recipe::Recipe;
use crate::results::Results;
use crate::schedule::Plateau;
use crate::step::{StepOptions, TrainStep};
use crate::step_options::for_stage;
use crate::unfreeze::Stages;

use clock::Clock;
use losses::Lost;
use recovery::Good;

/// What stays the same during a run.
pub(crate) struct Given<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) setting: RunSetting,
    pub(crate) transform: Transform,
    pub(crate) data: &'a Dataset,
    pub(crate) run: &'a Path,
    pub(crate) executor: &'a dyn Executor,
    pub(crate) options: StepOptions,
    pub(crate) stages: Stages,
    /// The fewest pictures of a batch.
    pub(crate) least: usize,
}

/// A run in progress.
pub(crate) struct Training<'a, 'c> {
    given: Given<'a>,
    control: Control<'c>,
    step: TrainStep,
    /// Steps in an epoch; fewer are made where pictures turn out to be unusable.
    steps: u64,
    /// The mean of the weights at the end of the last epochs.
    late: Option<Average>,
    position: Position,
    results: Results,
    health: HealthLog,
    /// Elements of the parameters that train at the end, and of the others.
    counts: (u64, u64),
    clock: Clock,
    lost: Lost,
    /// Of the weights that do not train in this stage.
    frozen: FrozenHash,
    /// Where the run goes back to when a step is refused, where the recipe wants that.
    good: Option<Good>,
}

/// Whether to go on.
#[derive(PartialEq)]
enum Go {
    On,
    Stop,
    /// From the start of the epoch.
    Back,
}

impl<'a, 'c> Training<'a, 'c> {
    /// A run before its first step; `results` and `counts` (parameters that train at the end, and others) are only told of.
    pub(crate) fn new(
        given: Given<'a>,
        control: Control<'c>,
        step: TrainStep,
        (results, counts, start): (Results, (u64, u64), Instant),
    ) -> Training<'a, 'c> {
        let recipe = given.recipe;
        let batches = batch_count(given.data.train.len(), recipe.batch_size, given.least);
        Training {
            steps: batches.div_ceil(recipe.accumulate.max(1)) as u64,
            late: (recipe.average_last > 0).then(Average::equal),
            given,
            control,
            step,
            clock: Clock::new(start, results.totals().0),
            position: Position::default(),
            results,
            health: HealthLog::default(),
            counts,
            lost: Lost::default(),
            frozen: FrozenHash::default(),
            good: None,
        }
    }

    pub(crate) fn run_epochs(mut self, resumed: bool) -> Result<Outcome, TrainError> {
        self.announce(resumed);
        if !resumed {
            self.keep_good();
        }
        while !self.finished() {
            if self.given.stages.at(self.position.epoch) != self.position.stage {
                self = self.enter_stage()?;
            }
            self.announce_stage();
            self.announce_size();
            let Some(sets) = self.open_pictures()? else { return Ok(self.outcome(false)) };
            if self.run_stage(&sets)? == Go::Stop {
                return Ok(self.outcome(false));
            }
        }
        if self.position.best.is_none() && self.position.epoch > 0 {
            return Err(TrainError::NoBest);
        }
        Ok(self.outcome(true))
    }

    fn finished(&self) -> bool {
        self.position.ended || self.position.epoch >= self.given.recipe.epochs
    }

    fn announce(&mut self, resumed: bool) {
        (self.control.progress)(Event::Start {
            trainable_parameters: self.counts.0,
            frozen_parameters: self.counts.1,
            train_images: self.given.data.train.len(),
            val_images: self.given.data.val.len(),
            epochs: self.given.recipe.epochs,
            steps: self.steps,
            resumed: resumed.then_some((self.position.epoch, self.position.step)),
        });
        let Given { recipe, data, least, .. } = &self.given;
        if let Some(text) = leftover::notice(data.train.len(), recipe.batch_size, *least) {
            (self.control.progress)(Event::Notice(&text));
        }
    }

    fn announce_stage(&mut self) {
        let (epoch, _) = self.given.stages.span(self.position.stage);
        (self.control.progress)(Event::Stage { epoch, groups: self.step.table() });
    }

    /// Height and width of the training pictures of this epoch.
    fn size(&self) -> usize {
        self.given.recipe.training_preprocessing(self.position.epoch).size
    }

    fn announce_size(&mut self) {
        if !self.given.recipe.progressive.is_empty() {
            let (size, epoch) = (self.size(), self.position.epoch + 1);
            let text = format!("training pictures have {size} x {size} pixels from epoch {epoch} on");
            (self.control.progress)(Event::Notice(&text));
        }
    }

    /// Unfreezes what is due: the step is built again, with the model as it is.
    ///
    /// A checkpoint follows at once. It holds what is about to change: the files of a later one are not complete without it.
    fn enter_stage(mut self) -> Result<Self, TrainError> {
        let Given { recipe, stages, options, executor, .. } = &self.given;
        let stage = stages.at(self.position.epoch);
        let options = for_stage(options, stages, stage);
        let step =
            self.step.rebuild(|graph| stages.apply(graph, stage), &options, recipe.rebuild, *executor)?;
        if let Some(late) = &mut self.late {
            late.join(step.moving());
        }
        self.position.stage = stage;
        if recipe.restart {
            self.position.plateau = Plateau::default();
        }
        let mut next = Training { step, ..self };
        next.keep_good();
        next.checkpoint()?;
        Ok(next)
    }

    /// The epochs of a stage that are left and train with pictures of the same size.
    fn run_stage(&mut self, sets: &Sets) -> Result<Go, TrainError> {
        let size = self.size();
        while !self.finished()
            && self.given.stages.at(self.position.epoch) == self.position.stage
            && self.size() == size
        {
            if self.run_epoch(sets)? == Go::Stop {
                self.checkpoint()?;
                return Ok(Go::Stop);
            }
        }
        Ok(Go::On)
    }

    /// The steps of an epoch that are left, what validation says of it, and what is kept of both.
    fn run_epoch(&mut self, Sets { train, val, seen, .. }: &Sets) -> Result<Go, TrainError> {
        let start = (Instant::now(), self.position.sums.images);
        match self.run_steps(train)? {
            Go::On => {}
            other => return Ok(other),
        }
        let seconds = start.0.elapsed().as_secs_f64();
        let speed = (self.position.sums.images - start.1) as f64 / seconds.max(1e-9);
        self.report_skipped(train);
        self.check_left("train", &train.unusable())?;
        self.first_checkpoint()?;
        let average = self.step.averaged();
        let Some([answers, (again, _)]) = self.validate([val, seen], average.as_ref())? else {
            return Ok(Go::Stop);
        };
        self.report_skipped(val);
        self.check_left("val", &val.unusable())?;
        let late = self.late_average();
        let tried = match late.as_ref().filter(|_| self.position.epoch + 1 == self.given.recipe.epochs) {
            None => None,
            Some(late) => {
                let model = self.averaged(late);
                let Some([answers]) = self.validate([val], Some(&model))? else { return Ok(Go::Stop) };
                Some((model, answers))
            }
        };
        self.late = late;
        let row = self.row([&answers.0, &again], speed);
        self.finish_epoch((row, again.images()), &answers, average.as_ref(), tried)?;
        Ok(Go::On)
    }

    fn stopped(&self) -> bool {
        self.control.stop.load(Ordering::Relaxed)
    }

    /// The pictures, gone through the frozen part where that pays. `None` when stopped.
    fn open_pictures(&mut self) -> Result<Option<Sets>, TrainError> {
        let Given { recipe, data, transform, run, executor, .. } = &self.given;
        let training = Transform::new(&recipe.training_preprocessing(self.position.epoch))?;
        let mut sets = pictures::open(recipe, data, [&training, transform], self.given.least);
        sets.train.leave_out(&self.position.unusable);
        let cache = Cache::new(&self.control.cache, run)
            .filter(|_| self.step.has_prefix() && recipe.progressive.is_empty());
        let Some(cache) = cache else { return Ok(Some(sets)) };
        let (stop, progress) = (self.control.stop, &mut *self.control.progress);
        let mut watch = |done, total| {
            progress(Event::Features { done, total });
            !stop.load(Ordering::Relaxed)
        };
        let mut keeper = Keeper {
            world: self.control.world,
            step: &mut self.step,
            cache: &cache,
            recipe,
            processor: executor.describe(),
            watch: &mut watch,
        };
        match keeper.keep(&mut sets)? {
            Kept::Yes => {}
            Kept::Without(why) => progress(Event::Notice(&format!(
                "what the frozen part says about each picture is not kept but computed in every epoch: {why}"
            ))),
            Kept::Stopped => return Ok(None),
        }
        Ok(Some(sets))
    }

    fn outcome(&self, finished: bool) -> Outcome {
        let totals = (self.clock.seconds(), peak_mib());
        let result = result(self.given.run, self.given.recipe.task, &self.position, self.counts, totals);
        Outcome { result, interrupted: !finished }
    }
}
