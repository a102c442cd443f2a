//! Which number made a step be refused: its batch is run again.

use std::path::PathBuf;

use offshoot_data::{Loader, LoaderOptions, Sample};
use offshoot_graph::Tensor;
use offshoot_infer::evaluate::images;

use super::Training;
use crate::error::TrainError;
use crate::health::{NonFinite, trace_frozen, trace_trained};
use crate::pictures::{Inputs, Pictures};
use crate::refusal::Refusal;
use crate::step::StepError;
use crate::step_options::for_stage;

impl Training<'_, '_> {
    /// The error of a step, with the first node that made a number that is not finite where it was refused for one. The
    /// batch is run again for that.
    pub(super) fn explain(&mut self, error: TrainError, pictures: &Pictures) -> TrainError {
        let TrainError::Step(error @ StepError::NotFinite { .. }) = error else { return error };
        let (epoch, step) = (self.position.epoch + 1, self.position.step + 1);
        match self.origin(pictures) {
            Ok((origin, pictures)) => {
                TrainError::Refused(Box::new(Refusal { epoch, step, error, origin, pictures }))
            }
            Err(error) => error,
        }
    }

    /// The first number that is not finite in the step at the position, and the pictures that were looked at.
    fn origin(&mut self, pictures: &Pictures) -> Result<(Option<NonFinite>, Vec<PathBuf>), TrainError> {
        let together = self.given.recipe.accumulate.max(1);
        let from = self.position.step.saturating_mul(together as u64);
        let mut all = Vec::new();
        for inputs in pictures.epoch(self.position.epoch, from).take(together) {
            let inputs = inputs?;
            let paths: Vec<PathBuf> = self.samples(&inputs).into_iter().map(|sample| sample.path).collect();
            if let Some(origin) = self.trace(inputs)? {
                return Ok((Some(origin), paths));
            }
            all.extend(paths);
        }
        Ok((None, all))
    }

    fn trace(&mut self, inputs: Inputs) -> Result<Option<NonFinite>, TrainError> {
        let images = (!inputs.ready).then(|| inputs.tensor.clone());
        let samples = self.samples(&inputs);
        let options = for_stage(&self.given.options, &self.given.stages, self.position.stage);
        let batch = self.batch(inputs)?;
        let executor = self.given.executor;
        let found = trace_trained(&mut self.step, &options, &batch, executor).map_err(StepError::from)?;
        if !matches!(found, Some(NonFinite::Input(_))) || !self.step.has_prefix() {
            return Ok(found);
        }
        let images = images.map_or_else(|| self.decode(samples), Ok)?;
        let before = trace_frozen(&mut self.step, &images, executor).map_err(StepError::from)?;
        Ok(before.or(found))
    }

    fn samples(&self, inputs: &Inputs) -> Vec<Sample> {
        let place = |index: &u64| self.given.data.train.get(usize::try_from(*index).ok()?).cloned();
        inputs.indices.iter().filter_map(place).collect()
    }

    /// Pictures as they are, where only their features are at hand.
    fn decode(&self, samples: Vec<Sample>) -> Result<Tensor, TrainError> {
        let transform = &self.given.transform;
        let size = transform.preprocessing().size;
        let options = LoaderOptions::evaluation(transform, samples.len().max(1));
        let loader = Loader::new(samples, transform.clone(), options);
        let batch = loader.epoch(0).next().transpose()?;
        Ok(batch
            .map_or_else(|| Tensor::f32([0, 3, size, size], Vec::new()), |batch| images(batch.images, size)))
    }
}
