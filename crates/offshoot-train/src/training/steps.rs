//! The steps of an epoch: each reads its batches, learns from them, and is told of.

use std::time::{Duration, Instant};

use offshoot_data::PictureError;
use offshoot_graph::Tensor;

use super::updates::Next;
use super::{Go, Training};
use crate::error::TrainError;
use crate::events::Event;
use crate::pictures::{Inputs, Pictures};
use crate::schedule::Schedule;
use crate::step::{Batch, Share};

impl Training<'_, '_> {
    /// The steps of the epoch that are left.
    pub(super) fn run_steps(&mut self, pictures: &Pictures) -> Result<Go, TrainError> {
        let epoch = self.position.epoch;
        let start = (Instant::now(), self.position.sums.images);
        let mut updates = self.updates(pictures);
        loop {
            let (inputs, batches) = match self.next_update(&mut updates)? {
                Next::Update { inputs, batches } => (inputs, batches),
                Next::End => break,
                Next::Stop => return Ok(Go::Stop),
            };
            let before = Instant::now();
            let loss = match self.make_step(inputs, batches) {
                Ok(loss) => loss,
                Err(error) => match self.recover(error, pictures)? {
                    Go::On => continue,
                    back => return Ok(back),
                },
            };
            self.position.unusable = pictures.unusable();
            self.clock.add_step(before.elapsed());
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
            if self.wants_checkpoint(&updates) {
                self.checkpoint()?;
            }
        }
        if self.position.sums.images == 0 {
            return Err(self.nothing_learned(pictures));
        }
        Ok(Go::On)
    }

    /// Learns from the batches of this process and those of others, `count` together.
    fn make_step(&mut self, inputs: Vec<Inputs>, count: usize) -> Result<f32, TrainError> {
        let factor = self.factor(self.position.step);
        let batches: Vec<Batch> = inputs.into_iter().map(|i| self.batch(i)).collect::<Result<_, _>>()?;
        let before = (self.position.step == self.steps / 2).then(|| self.step.trained());
        let report = match (&batches[..], self.together()) {
            ([Batch { features, labels, keys }], 1) => self.step.learn(features, labels, keys, factor)?,
            _ => {
                let share = Share { world: self.control.world, batches: count };
                self.step.learn_shared(&batches, share, factor)?
            }
        };
        if !report.skipped {
            self.position.norms.add(&self.step, before.as_ref());
            self.position.skips.in_a_row = 0;
            self.position.sums.gradient_norm += report.gradient_norm;
        } else {
            self.position.skips.epoch += 1;
        }
        let sums = &mut self.position.sums;
        sums.loss += f64::from(report.loss) * report.images as f64;
        sums.correct += report.correct as u64;
        sums.error += report.error;
        sums.images += report.images as u64;
        self.position.step += 1;
        Ok(report.loss)
    }

    pub(super) fn batch(&mut self, inputs: Inputs) -> Result<Batch, TrainError> {
        let (seed, epoch) = (self.given.recipe.seed, self.position.epoch);
        let keys = inputs.dropout_keys(seed, epoch);
        let features = self.features(inputs.tensor, inputs.ready)?;
        Ok(Batch { features, labels: inputs.labels, keys })
    }

    /// What the part that trains reads.
    pub(super) fn features(&mut self, tensor: Tensor, ready: bool) -> Result<Tensor, TrainError> {
        if ready {
            return Ok(tensor);
        }
        let mut features = self.step.features(tensor)?;
        if let Some(values) = features.as_f32_mut().filter(|_| self.step.has_prefix()) {
            self.given.recipe.cache_dtype.round(values);
        }
        Ok(features)
    }

    /// The factor of the learning rates at a step of the epoch.
    pub(super) fn factor(&self, step: u64) -> f64 {
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
        self.clock.time_of(left)
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
}
