//! Checkpoints of a run in progress: all that steps change, written and taken over again.

use std::time::Instant;

use offshoot_graph::Weights;

use super::{Given, Training};
use crate::average::Average;
use crate::checkpoint::{Saved, StateHeader, write_state};
use crate::error::TrainError;
use crate::events::Event;
use crate::health::HealthLog;
use crate::longer::is_longer;
use crate::run::{LAST_FILE, has_checkpoint, write_model};
use crate::step::{StepError, under};

impl Training<'_, '_> {
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
        if self.writes() {
            self.health = HealthLog::read(self.given.run, header.position.epoch)?;
        }
        self.position = header.position;
        if is_longer(&header.setting.recipe, &self.given.setting.recipe) {
            self.go_on_longer();
        }
        self.load_good(&state, header.good)
    }

    /// Prepares a run that has got more epochs than the checkpoint knows.
    fn go_on_longer(&mut self) {
        self.position.go_on_longer();
        self.late = self.late.take().map(|_| Average::equal());
        let (done, epochs) = (self.position.epoch, self.given.recipe.epochs);
        (self.control.progress)(Event::Notice(&format!(
            "{done} epochs are finished, and the run goes on to {epochs}: from here on the learning rate is that of a run of \
             {epochs} epochs"
        )));
    }

    /// All that steps change.
    pub(super) fn state(&self) -> Weights {
        let mut state = self.step.state();
        let late = self.late.iter().flat_map(Average::state);
        state.extend(late.map(|(name, tensor)| (format!("late.{name}"), tensor)));
        state
    }

    pub(super) fn load(&mut self, state: &Weights) -> Result<(), TrainError> {
        self.step.load_state(state)?;
        if let Some(late) = &mut self.late {
            late.load_state(&under(state, "late."), self.step.moving()).map_err(StepError::from)?;
        }
        Ok(())
    }

    /// A run has a checkpoint before the first epoch leaves its model and its tables: if it dies while it writes them, it goes on from
    /// there, and nobody takes its folder for one without a run.
    pub(super) fn first_checkpoint(&mut self) -> Result<(), TrainError> {
        match self.writes() && !has_checkpoint(self.given.run) {
            true => self.checkpoint(),
            false => Ok(()),
        }
    }

    /// The state goes last: it alone decides where a resumed run starts, and holds all that has changed since the files
    /// before it were the ones that belong to it.
    pub(super) fn checkpoint(&mut self) -> Result<(), TrainError> {
        if !self.writes() {
            return Ok(());
        }
        let mut state = self.state();
        let model = self.step.model();
        write_model(&self.given.run.join(LAST_FILE), &model)?;
        let frozen = self.frozen.of(&model.weights, &state);
        let good = self.save_good(&mut state);
        let Given { run, setting, executor, .. } = &self.given;
        let header = StateHeader::new(&self.position, good, setting, executor.describe(), frozen);
        write_state(run, &state, header)?;
        self.clock.last_checkpoint = Instant::now();
        (self.control.progress)(Event::Checkpoint);
        Ok(())
    }
}
