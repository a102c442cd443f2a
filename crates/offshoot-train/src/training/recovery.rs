//! What becomes of a run whose step was refused: it ends, leaves the step out, or goes back.

use offshoot_graph::Weights;

use super::{Go, Training};
use crate::checkpoint::{MAX_ROLLBACKS, Position};
use crate::error::TrainError;
use crate::events::Event;
use crate::pictures::Pictures;
use crate::recipe::OnNonFinite;
use crate::refusal::Refusal;
use crate::run::{RunError, STATE_FILE};
use crate::step::under;

/// So many steps in a row are left out before the run ends.
const MAX_SKIPS: u64 = 10;

/// What stands before the names of a [`Good`] state in a checkpoint.
const GOOD: &str = "good.";

/// Where a run goes back to: its state at the start of an epoch.
pub(super) struct Good {
    state: Weights,
    position: Position,
}

impl Training<'_, '_> {
    /// Goes on after the error of a step as the recipe says.
    pub(super) fn recover(&mut self, error: TrainError, pictures: &Pictures) -> Result<Go, TrainError> {
        let refusal = match self.explain(error, pictures) {
            TrainError::Refused(refusal) => *refusal,
            other => return Err(other),
        };
        match self.given.recipe.on_nonfinite {
            OnNonFinite::Stop => Err(TrainError::Refused(Box::new(refusal))),
            OnNonFinite::Skip => self.skip(refusal, pictures),
            OnNonFinite::Rollback => self.go_back(refusal),
        }
    }

    fn skip(&mut self, refusal: Refusal, pictures: &Pictures) -> Result<Go, TrainError> {
        let skips = &mut self.position.skips;
        (skips.epoch, skips.in_a_row) = (skips.epoch + 1, skips.in_a_row + 1);
        if skips.in_a_row >= MAX_SKIPS {
            let policy = format!("{MAX_SKIPS} steps in a row were skipped for the same reason");
            return Err(TrainError::GaveUp { refusal: Box::new(refusal), policy });
        }
        self.position.step += 1;
        self.position.unusable = pictures.unusable();
        (self.control.progress)(Event::Warning(&format!("skipped {}", refusal.brief())));
        Ok(Go::On)
    }

    fn go_back(&mut self, refusal: Refusal) -> Result<Go, TrainError> {
        let Some(good) = self.good.take().filter(|_| self.position.rollbacks < MAX_ROLLBACKS) else {
            let policy = format!(
                "the run has been rolled back {MAX_ROLLBACKS} times, and the learning rate halved each time"
            );
            return Err(TrainError::GaveUp { refusal: Box::new(refusal), policy });
        };
        self.load(&good.state)?;
        // What is known of the pictures stays known.
        let unusable = std::mem::take(&mut self.position.unusable);
        let rollbacks = self.position.rollbacks + 1;
        self.position = Position { rollbacks, unusable, ..good.position.clone() };
        self.good = Some(good);
        self.checkpoint()?;
        let (epochs, factor) = (self.position.epoch, self.rollback_factor());
        (self.control.progress)(Event::Warning(&format!(
            "back to where {epochs} epochs were finished, from now on at {factor} of the rate ({rollbacks} of \
             {MAX_ROLLBACKS} times): {}",
            refusal.brief()
        )));
        Ok(Go::Back)
    }

    /// What going back has made of the rate.
    pub(super) fn rollback_factor(&self) -> f64 {
        0.5_f64.powi(self.position.rollbacks as i32)
    }

    /// Keeps the state as the one to go back to, where the recipe may want that. An epoch is about to start.
    pub(super) fn keep_good(&mut self) {
        if self.given.recipe.on_nonfinite == OnNonFinite::Rollback {
            self.good = Some(Good { state: self.state(), position: self.position.clone() });
        }
    }

    /// Puts what a checkpoint within an epoch needs to go back into its state.
    pub(super) fn save_good(&self, state: &mut Weights) -> Option<&Position> {
        let good = self.good.as_ref().filter(|_| self.position.step > 0)?;
        state.extend(good.state.iter().map(|(name, tensor)| (format!("{GOOD}{name}"), tensor.clone())));
        Some(&good.position)
    }

    /// Takes over what [`Training::save_good`] put there; the state itself where it is that of the start of an epoch.
    pub(super) fn load_good(
        &mut self,
        state: &Weights,
        position: Option<Position>,
    ) -> Result<(), TrainError> {
        let Position { epoch, stage, step, .. } = self.position;
        let Some(position) = position else {
            self.keep_good();
            return match self.good.is_none() || step == 0 {
                true => Ok(()),
                false => Err(self.no_good("does not say where the run may go back to")),
            };
        };
        if (position.epoch, position.stage, position.step) != (epoch, stage, 0) {
            return Err(self.no_good("says that the run may go back to another epoch than its own"));
        }
        self.good = Some(Good { state: under(state, GOOD), position });
        Ok(())
    }

    fn no_good(&self, reason: &str) -> TrainError {
        let path = self.given.run.join(STATE_FILE);
        RunError::Checkpoint { path, reason: reason.into() }.into()
    }
}
