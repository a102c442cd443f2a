//! The end of an epoch: its figures, warnings and models, and the report.

use std::time::{Duration, Instant};

use offshoot_graph::{Model, Task};

use super::Training;
use super::validation::{best_of, not_finite};
use crate::checkpoint::{Position, Sums};
use crate::error::TrainError;
use crate::events::Event;
use crate::health::{Facts, NormSums};
use crate::memory::peak_mib;
use crate::report::{self, Answers};
use crate::results::{Best, EpochRow, score};
use crate::run::{AVERAGE_FILE, BEST_FILE, write_model};
use crate::schedule::ScheduleKind;
use crate::step_options::guess;
use offshoot_infer::{Figures, Fitted};

/// The time between two reports of a run that goes on.
const REPORT_EVERY: Duration = Duration::from_secs(10);

impl Training<'_, '_> {
    /// The model with the thresholds and the temperature that fit the validation pictures, of which it has these `figures`.
    fn fitted(&self, mut model: Model, (figures, answers): &(Figures, Answers)) -> Model {
        model.metadata.thresholds = figures.best_thresholds();
        let fitted = match figures {
            Figures::Classes(_) => answers.fit(self.given.data, self.given.recipe.rejection()),
            Figures::Labels(_) | Figures::Targets(_) => Fitted::default(),
        };
        (model.metadata.temperature, model.metadata.rejection) = (fitted.temperature, fitted.rejection);
        model
    }

    /// Keeps what an epoch has brought: its figures, with how many training pictures were looked at again. `average` is the moving
    /// average, `tried` the average of the last epochs.
    pub(super) fn finish_epoch(
        &mut self,
        (row, seen): (EpochRow, u64),
        validated: &(Figures, Answers),
        average: Option<&Model>,
        tried: Option<(Model, (Figures, Answers))>,
    ) -> Result<(), TrainError> {
        let (metrics, answers) = validated;
        if self.is_best(row.epoch, metrics) {
            if self.writes() {
                let model = average.cloned().unwrap_or_else(|| self.step.model());
                write_model(&self.given.run.join(BEST_FILE), &self.fitted(model, validated))?;
                answers.write(self.given.run, self.given.data)?;
            }
            self.position.best = Some(best_of(row.epoch, metrics));
        }
        self.results.push(&row);
        if self.writes() {
            self.results.write(self.given.run)?;
        }
        let norms = std::mem::take(&mut self.position.norms);
        self.health.push(row.epoch, &norms, &self.step);
        if self.writes() {
            self.health.write(self.given.run)?;
        }
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
    pub(super) fn row(&self, [metrics, seen]: [&Figures; 2], images_per_second: f64) -> EpochRow {
        let Position { epoch, step, sums: Sums { loss, correct, error, images, gradient_norm }, .. } =
            self.position;
        let Best { val_accuracy, .. } = best_of(epoch + 1, metrics);
        let val_loss = Some(metrics.loss()).filter(|_| metrics.images() > 0);
        EpochRow {
            epoch: epoch + 1,
            train_loss: loss / images.max(1) as f64,
            train_accuracy: match self.given.recipe.task {
                Task::Single | Task::Multi => correct as f64 / images.max(1) as f64,
                Task::Regression => error / images.max(1) as f64,
            },
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
            seconds: self.clock.seconds(),
            peak_mib: peak_mib(),
        }
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
            let reached = score(recipe.task, row.val_accuracy, row.val_loss);
            let out = self.position.patience.runs_out(reached, patience, recipe.min_delta);
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
            guess: guess(self.given.recipe.task, self.given.data, &self.given.options),
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
        validated: &(Figures, Answers),
    ) -> Result<(Option<f64>, bool), TrainError> {
        let (metrics, answers) = validated;
        let best = self.is_best(epoch, metrics);
        if self.writes() {
            let model = self.fitted(model.clone(), validated);
            write_model(&self.given.run.join(AVERAGE_FILE), &model)?;
            if best {
                write_model(&self.given.run.join(BEST_FILE), &model)?;
                answers.write(self.given.run, self.given.data)?;
            }
        }
        if best {
            self.position.best = Some(best_of(epoch, metrics));
        }
        Ok((best_of(epoch, metrics).val_accuracy, best))
    }

    /// Writes the report, at the end and now and then before. Training does not need it, so that it cannot end training.
    fn report(&mut self) {
        let due = self.clock.last_report.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if !self.writes() || (!due && !self.finished()) {
            return;
        }
        match report::write(self.given.run, &self.given.executor.describe()) {
            Ok(damaged) => damaged.iter().for_each(|text| (self.control.progress)(Event::Notice(text))),
            Err(error) => {
                (self.control.progress)(Event::Notice(&format!("the report was not written: {error}")))
            }
        }
        self.clock.last_report = Some(Instant::now());
    }
}
