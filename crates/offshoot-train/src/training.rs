//! The loop of a run: stages of epochs of steps, validation, checkpoints.

mod losses;
mod recovery;
mod refusal;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use offshoot_data::{PictureError, Transform, batch_count};
use offshoot_graph::{Model, Tensor, Weights};

use crate::average::Average;
use crate::cache::Cache;
use crate::health::{Facts, HealthLog, NormSums};
use crate::leftover;
use crate::longer::{go_on, is_longer};
use crate::memory::peak_mib;
use crate::metrics::Metrics;
use crate::pictures::{self, Inputs, Keeper, Kept, Pictures, Sets};
use crate::report::{self, Answers};
use crate::run::{
    self, AVERAGE_FILE, BEST_FILE, Best, EpochRow, FrozenHash, LAST_FILE, Position, Results, Saved,
    StateHeader, Sums, write_model,
};
use crate::schedule::{Plateau, Schedule, ScheduleKind};
use crate::step::{Batch, StepError, TrainStep, under};
use crate::train::{BestEpoch, Control, Event, Given, Outcome, TrainError, TrainResult, for_stage};

use losses::Told;
use recovery::Good;
pub(crate) use recovery::MAX_ROLLBACKS;
pub use refusal::Refusal;

/// The time between two reports of a run that goes on.
const REPORT_EVERY: Duration = Duration::from_secs(10);

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
    counts: (u64, u64),
    clock: Instant,
    earlier_seconds: f64,
    last_checkpoint: Instant,
    last_report: Option<Instant>,
    /// Steps of this session, and the time they took.
    steps_made: u64,
    stepping: Duration,
    /// Skipped pictures that were told of.
    reported: HashSet<PathBuf>,
    /// Whether it was told that many pictures were left out.
    many: Told,
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
        (results, counts, clock): (Results, (u64, u64), Instant),
    ) -> Training<'a, 'c> {
        let recipe = given.recipe;
        let batches = batch_count(given.data.train.len(), recipe.batch_size, given.least);
        Training {
            steps: batches.div_ceil(recipe.accumulate.max(1)) as u64,
            late: (recipe.average_last > 0).then(Average::equal),
            given,
            control,
            step,
            earlier_seconds: results.totals().0,
            position: Position::default(),
            results,
            health: HealthLog::default(),
            counts,
            clock,
            last_checkpoint: Instant::now(),
            last_report: None,
            steps_made: 0,
            stepping: Duration::ZERO,
            reported: HashSet::new(),
            many: Told::default(),
            frozen: FrozenHash::default(),
            good: None,
        }
    }

    /// Goes to where a checkpoint was made. Says so when it was made where numbers are rounded in another way.
    pub(crate) fn resume(&mut self, saved: Saved) -> Result<(), TrainError> {
        let Saved { weights: state, header } = saved;
        self.load(&state)?;
        let (before, now) = (header.processor, self.given.executor.describe());
        if before != now {
            (self.control.progress)(Event::Notice(&format!(
                "the run was on `{before}` until now and goes on on `{now}`: last digits may differ from those of a run \
                 that stays on one"
            )));
        }
        self.health = HealthLog::read(self.given.run, header.position.epoch)?;
        self.position = header.position;
        if is_longer(&header.setting.recipe, &self.given.setting.recipe) {
            self.go_on_longer();
        }
        self.load_good(&state, header.good)
    }

    /// Prepares a run that has got more epochs than the checkpoint knows.
    fn go_on_longer(&mut self) {
        go_on(&mut self.position);
        self.late = self.late.take().map(|_| Average::equal());
        let (done, epochs) = (self.position.epoch, self.given.recipe.epochs);
        (self.control.progress)(Event::Notice(&format!(
            "{done} epochs are finished, and the run goes on to {epochs}: from here on the learning rate is that of a run of \
             {epochs} epochs"
        )));
    }

    /// All that steps change.
    fn state(&self) -> Weights {
        let mut state = self.step.state();
        let late = self.late.iter().flat_map(Average::state);
        state.extend(late.map(|(name, tensor)| (format!("late.{name}"), tensor)));
        state
    }

    fn load(&mut self, state: &Weights) -> Result<(), TrainError> {
        self.step.load_state(state)?;
        if let Some(late) = &mut self.late {
            late.load_state(&under(state, "late."), self.step.moving()).map_err(StepError::from)?;
        }
        Ok(())
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
    fn run_stage(&mut self, Sets { train, val, seen, .. }: &Sets) -> Result<Go, TrainError> {
        let size = self.size();
        while !self.finished()
            && self.given.stages.at(self.position.epoch) == self.position.stage
            && self.size() == size
        {
            let start = (Instant::now(), self.position.sums.images);
            match self.run_steps(train)? {
                Go::On => {}
                Go::Back => continue,
                Go::Stop => return self.interrupt(),
            }
            let seconds = start.0.elapsed().as_secs_f64();
            let speed = (self.position.sums.images - start.1) as f64 / seconds.max(1e-9);
            self.report_skipped(train);
            self.check_left("train", &train.unusable())?;
            self.first_checkpoint()?;
            let average = self.step.averaged();
            let Some([answers, (again, _)]) = self.validate([val, seen], average.as_ref())? else {
                return self.interrupt();
            };
            self.report_skipped(val);
            self.check_left("val", &val.unusable())?;
            let late = self.late_average();
            let tried = match late.as_ref().filter(|_| self.position.epoch + 1 == self.given.recipe.epochs) {
                None => None,
                Some(late) => {
                    let model = self.averaged(late);
                    let Some([answers]) = self.validate([val], Some(&model))? else {
                        return self.interrupt();
                    };
                    Some((model, answers))
                }
            };
            self.late = late;
            let row = self.row([&answers.0, &again], speed);
            self.finish_epoch((row, again.images()), &answers, average.as_ref(), tried)?;
        }
        Ok(Go::On)
    }

    fn stopped(&self) -> bool {
        self.control.stop.load(Ordering::Relaxed)
    }

    fn interrupt(&mut self) -> Result<Go, TrainError> {
        self.checkpoint()?;
        Ok(Go::Stop)
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

    /// What the part that trains reads.
    fn features(&mut self, tensor: Tensor, ready: bool) -> Result<Tensor, TrainError> {
        if ready {
            return Ok(tensor);
        }
        let mut features = self.step.features(tensor)?;
        if let Some(values) = features.as_f32_mut().filter(|_| self.step.has_prefix()) {
            self.given.recipe.cache_dtype.round(values);
        }
        Ok(features)
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
        let together = self.given.recipe.accumulate.max(1);
        let mut batches = pictures.epoch(epoch, self.position.step.saturating_mul(together as u64));
        loop {
            let inputs: Vec<Inputs> = batches.by_ref().take(together).collect::<Result<_, _>>()?;
            if inputs.is_empty() {
                break;
            }
            if self.stopped() {
                return Ok(Go::Stop);
            }
            let before = Instant::now();
            let loss = match self.make_step(inputs) {
                Ok(loss) => loss,
                Err(error) => match self.recover(error, pictures)? {
                    Go::On => continue,
                    back => return Ok(back),
                },
            };
            self.position.unusable = pictures.unusable();
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
            return Err(self.nothing_learned(pictures));
        }
        Ok(Go::On)
    }

    fn make_step(&mut self, inputs: Vec<Inputs>) -> Result<f32, TrainError> {
        let factor = self.factor(self.position.step);
        let batches: Vec<Batch> = inputs.into_iter().map(|i| self.batch(i)).collect::<Result<_, _>>()?;
        let images: usize = batches.iter().map(|batch| batch.labels.len()).sum();
        let before = (self.position.step == self.steps / 2).then(|| self.step.trained());
        let report = self.step.learn_together(&batches, factor)?;
        if !report.skipped {
            self.position.norms.add(&self.step, before.as_ref());
            self.position.skips.in_a_row = 0;
            self.position.sums.gradient_norm += report.gradient_norm;
        } else {
            self.position.skips.epoch += 1;
        }
        let sums = &mut self.position.sums;
        sums.loss += f64::from(report.loss) * images as f64;
        sums.correct += report.correct as u64;
        sums.images += images as u64;
        self.position.step += 1;
        Ok(report.loss)
    }

    fn batch(&mut self, inputs: Inputs) -> Result<Batch, TrainError> {
        let (seed, epoch) = (self.given.recipe.seed, self.position.epoch);
        let keys = inputs.dropout_keys(seed, epoch);
        let features = self.features(inputs.tensor, inputs.ready)?;
        Ok(Batch { features, labels: inputs.labels, keys })
    }

    /// The factor of the learning rates at a step of the epoch.
    fn factor(&self, step: u64) -> f64 {
        let recipe = self.given.recipe;
        let (start, end) = match recipe.restart {
            true => self.given.stages.span(self.position.stage),
            false => (0, recipe.epochs),
        };
        let schedule = Schedule::new(recipe.schedule, recipe.warmup, self.steps, end - start);
        schedule.factor((self.position.epoch - start) * self.steps + step)
            * self.position.plateau.factor()
            * self.rollback_factor()
    }

    fn remaining(&self) -> Duration {
        let left = (self.given.recipe.epochs - self.position.epoch) * self.steps;
        let left = left.saturating_sub(self.position.step);
        self.stepping.div_f64(self.steps_made.max(1) as f64).mul_f64(left as f64)
    }

    /// Why an epoch has no step.
    fn nothing_learned(&self, pictures: &Pictures) -> TrainError {
        if self.position.skips.epoch > 0 {
            let (epoch, steps) = (self.position.epoch + 1, self.position.skips.epoch);
            return TrainError::EpochSkipped { epoch, steps };
        }
        let first = pictures.skipped().first().map_or("the list is empty".into(), PictureError::to_string);
        TrainError::NoPicture { count: self.given.data.train.len(), first }
    }

    /// The model with an average in place of what trains.
    fn averaged(&self, average: &Average) -> Model {
        let mut model = self.step.model();
        average.put_into(&mut model.weights);
        model
    }

    /// The average of the last epochs with the epoch that has just been trained, where it is one of them.
    fn late_average(&self) -> Option<Average> {
        let mut late = self.late.clone()?;
        if self.position.epoch + self.given.recipe.average_last >= self.given.recipe.epochs {
            late.update(self.step.moving());
        }
        Some(late)
    }

    /// Metrics on the validation pictures and the logits behind them, and on others where there are two sets, of `model` or of the
    /// weights as they are. `None` when stopped.
    fn validate<const N: usize>(
        &mut self,
        sets: [&Pictures; N],
        model: Option<&Model>,
    ) -> Result<Option<[(Metrics, Answers); N]>, TrainError> {
        let mut all = sets.map(|_| (Metrics::new(self.given.data.classes.len()), Answers::default()));
        if self.given.data.val.is_empty() {
            return Ok(Some(all));
        }
        let mut network = self.step.evaluator(model.map(|model| &model.weights), self.given.executor)?;
        let (mut done, total) = (0, sets.iter().map(|pictures| pictures.len()).sum());
        for ((metrics, answers), pictures) in all.iter_mut().zip(sets) {
            for inputs in pictures.epoch(0, 0) {
                if self.stopped() {
                    return Ok(None);
                }
                let inputs = inputs?;
                done += inputs.indices.len() as u64;
                let features = self.features(inputs.tensor, inputs.ready)?;
                let logits = network.run(&features).map_err(StepError::from)?;
                let logits = logits.as_f32().unwrap_or_default();
                metrics.add(logits, inputs.labels.as_i64().unwrap_or_default());
                answers.add(&inputs.indices, logits);
                (self.control.progress)(Event::Validate { done, total });
            }
        }
        Ok(Some(all))
    }

    /// Keeps what an epoch has brought: its figures, with how many training pictures were looked at again. `average` is the moving
    /// average, `tried` the average of the last epochs.
    fn finish_epoch(
        &mut self,
        (row, seen): (EpochRow, u64),
        (metrics, answers): &(Metrics, Answers),
        average: Option<&Model>,
        tried: Option<(Model, (Metrics, Answers))>,
    ) -> Result<(), TrainError> {
        if self.is_best(row.epoch, metrics) {
            let path = self.given.run.join(BEST_FILE);
            match average {
                Some(model) => write_model(&path, model)?,
                None => write_model(&path, &self.step.model())?,
            }
            answers.write(self.given.run, self.given.data)?;
            self.position.best = Some(best_of(row.epoch, metrics));
        }
        self.results.push(&row);
        self.results.write(self.given.run)?;
        let norms = std::mem::take(&mut self.position.norms);
        self.health.push(row.epoch, &norms, &self.step);
        self.health.write(self.given.run)?;
        self.watch(&row);
        let mut warnings = self.warnings(&row, &norms, [seen, metrics.images()]);
        warnings.extend(not_finite(row.epoch, metrics));
        let tried =
            tried.map(|(model, answers)| self.keep_average(row.epoch, &model, &answers)).transpose()?;
        (self.position.epoch, self.position.step) = (row.epoch, 0);
        (self.position.sums, self.position.skips.epoch) = (Sums::default(), 0);
        self.keep_good();
        self.checkpoint()?;
        (self.control.progress)(Event::Epoch(&row));
        warnings.iter().for_each(|text| (self.control.progress)(Event::Warning(text)));
        if let Some((val_accuracy, best)) = tried {
            (self.control.progress)(Event::Average { val_accuracy, best });
        }
        if self.position.ended {
            (self.control.progress)(Event::Ended);
        }
        // It tells of the warnings too.
        self.report();
        Ok(())
    }

    /// The figures of the epoch: those of its steps, and the accuracy after it on the validation pictures and on the
    /// training ones.
    fn row(&self, [metrics, seen]: [&Metrics; 2], images_per_second: f64) -> EpochRow {
        let Position { epoch, step, sums: Sums { loss, correct, images, gradient_norm }, .. } = self.position;
        let Best { val_accuracy, .. } = best_of(epoch + 1, metrics);
        let val_loss = Some(metrics.loss()).filter(|_| metrics.images() > 0);
        EpochRow {
            epoch: epoch + 1,
            train_loss: loss / images.max(1) as f64,
            train_accuracy: correct as f64 / images.max(1) as f64,
            val_loss,
            val_accuracy,
            learning_rate: self.given.recipe.lr * self.factor(step.saturating_sub(1)),
            gradient_norm: Some(self.position.norms.updates())
                .filter(|&updates| updates > 0)
                .map(|updates| gradient_norm / updates as f64),
            train_eval_accuracy: best_of(epoch + 1, seen).val_accuracy,
            skipped_steps: self.position.skips.epoch,
            loss_scale: self.step.loss_scale(),
            images_per_second,
            seconds: self.seconds(),
            peak_mib: peak_mib(),
        }
    }

    /// Validation that gives no numbers says that the weights are useless: no model is better than such a one.
    fn is_best(&self, epoch: u64, metrics: &Metrics) -> bool {
        let now = best_of(epoch, metrics);
        let useless = metrics.images() > 0 && now.val_loss.is_none();
        !useless && self.position.best.as_ref().is_none_or(|best| now.is_better_than(best))
    }

    /// Lowers the rate or ends the run where the recipe wants that.
    fn watch(&mut self, row: &EpochRow) {
        let recipe = self.given.recipe;
        if let ScheduleKind::Plateau(options) = recipe.schedule {
            self.position.plateau.update(row.val_loss.unwrap_or(row.train_loss), &options, recipe.lr);
        }
        let last_stage = self.position.stage + 1 == self.given.stages.count();
        let validates = !self.given.data.val.is_empty();
        if let Some(patience) = recipe.patience.filter(|_| validates && last_stage) {
            let out = self.position.patience.runs_out(row.val_accuracy, patience, recipe.min_delta);
            self.position.ended = out && row.epoch < recipe.epochs;
        }
    }

    /// What the figures of an epoch warn of for the first time.
    fn warnings(&mut self, row: &EpochRow, norms: &NormSums, images: [u64; 2]) -> Vec<String> {
        let facts = Facts {
            row,
            norms,
            images,
            recipe: self.given.recipe,
            stage: self.position.stage,
            classes: self.given.data.classes.len(),
            trained: self.step.groups().iter().map(|group| group.names.len()).sum(),
            has_prefix: self.step.has_prefix(),
        };
        self.position.watch.look(&facts)
    }

    /// Writes the average of the last epochs, also as the best model where it is. Says how good it is, and whether it is the best.
    fn keep_average(
        &mut self,
        epoch: u64,
        model: &Model,
        (metrics, answers): &(Metrics, Answers),
    ) -> Result<(Option<f64>, bool), TrainError> {
        write_model(&self.given.run.join(AVERAGE_FILE), model)?;
        let best = self.is_best(epoch, metrics);
        if best {
            write_model(&self.given.run.join(BEST_FILE), model)?;
            answers.write(self.given.run, self.given.data)?;
            self.position.best = Some(best_of(epoch, metrics));
        }
        Ok((best_of(epoch, metrics).val_accuracy, best))
    }

    /// Writes the report, at the end and now and then before. Training does not need it, so that it cannot end training.
    fn report(&mut self) {
        let due = self.last_report.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if !due && !self.finished() {
            return;
        }
        match report::write(self.given.run, &self.given.executor.describe()) {
            Ok(damaged) => damaged.iter().for_each(|text| (self.control.progress)(Event::Notice(text))),
            Err(error) => {
                (self.control.progress)(Event::Notice(&format!("the report was not written: {error}")))
            }
        }
        self.last_report = Some(Instant::now());
    }

    /// A run has a checkpoint before the first epoch leaves its model and its tables: if it dies while it writes them, it goes on from
    /// there, and nobody takes its folder for one without a run.
    fn first_checkpoint(&mut self) -> Result<(), TrainError> {
        match run::has_checkpoint(self.given.run) {
            true => Ok(()),
            false => self.checkpoint(),
        }
    }

    /// The state goes last: it alone decides where a resumed run starts, and holds all that has changed since the files
    /// before it were the ones that belong to it.
    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let mut state = self.state();
        let model = self.step.model();
        write_model(&self.given.run.join(LAST_FILE), &model)?;
        let frozen = self.frozen.of(&model.weights, &state);
        let good = self.save_good(&mut state);
        let Given { run, setting, executor, .. } = &self.given;
        let header = StateHeader::new(&self.position, good, setting, executor.describe(), frozen);
        run::write_state(run, &state, header)?;
        self.last_checkpoint = Instant::now();
        (self.control.progress)(Event::Checkpoint);
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.earlier_seconds + self.clock.elapsed().as_secs_f64()
    }

    fn outcome(&self, finished: bool) -> Outcome {
        let totals = (self.seconds(), peak_mib());
        let result = result(self.given.run, &self.position, self.counts, totals);
        Outcome { result, interrupted: !finished }
    }
}

pub(crate) fn result(
    run: &Path,
    position: &Position,
    (trainable_parameters, frozen_parameters): (u64, u64),
    (seconds, peak_mib): (f64, Option<f64>),
) -> TrainResult {
    let best = position.best.as_ref().map(|b| BestEpoch { epoch: b.epoch, val_accuracy: b.val_accuracy });
    let (run, epochs) = (run.to_owned(), position.epoch);
    TrainResult { run, epochs, best, trainable_parameters, frozen_parameters, seconds, peak_mib }
}

/// What an epoch's validation says. Where the loss is not a number, the outputs of the network cannot be compared.
fn best_of(epoch: u64, metrics: &Metrics) -> Best {
    let validated = metrics.images() > 0 && metrics.loss().is_finite();
    let (accuracy, loss) = (metrics.accuracy(), metrics.loss());
    Best { epoch, val_accuracy: validated.then_some(accuracy), val_loss: validated.then_some(loss) }
}

/// A warning where validation gave numbers that are not finite.
fn not_finite(epoch: u64, metrics: &Metrics) -> Option<String> {
    let loss = metrics.loss();
    (!loss.is_finite()).then(|| {
        format!(
            "the validation loss of epoch {epoch} is {loss}: the network gives numbers that are not finite for validation pictures, \
             and the epoch cannot be the best one; `offshoot check` names where they come from"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_no_numbers_are_no_validation() {
        let mut metrics = Metrics::new(2);
        metrics.add(&[f32::NAN, f32::NAN], &[0]);
        assert_eq!(best_of(3, &metrics), Best { epoch: 3, val_accuracy: None, val_loss: None });
        assert!(not_finite(3, &metrics).is_some_and(|text| text.contains("epoch 3 is NaN")));
        let mut good = Metrics::new(2);
        good.add(&[1.0, 0.0], &[0]);
        assert!(not_finite(3, &good).is_none() && best_of(3, &good).val_accuracy == Some(1.0));
    }

    #[test]
    fn the_best_epoch_is_the_most_accurate_and_then_the_surest() {
        let epoch = |val_accuracy, val_loss| Best { epoch: 1, val_accuracy, val_loss };
        let best = epoch(Some(0.5), Some(1.0));
        assert!(epoch(Some(0.6), Some(2.0)).is_better_than(&best));
        assert!(epoch(Some(0.5), Some(0.9)).is_better_than(&best));
        assert!(!epoch(Some(0.5), Some(1.0)).is_better_than(&best));
        assert!(!epoch(Some(0.4), Some(0.1)).is_better_than(&best));
        assert!(epoch(None, None).is_better_than(&epoch(None, None)));
        assert!(!epoch(None, None).is_better_than(&epoch(Some(0.0), Some(9.0))));
        assert!(epoch(Some(0.0), Some(9.0)).is_better_than(&epoch(None, None)));
        assert!(epoch(Some(0.5), Some(9.0)).is_better_than(&epoch(Some(0.5), None)));
        assert!(!epoch(Some(0.5), None).is_better_than(&epoch(Some(0.5), Some(9.0))));
    }
}
