//! What validation says of the weights, or of an average of them, and whether that is the best so far.

use offshoot_graph::Model;

use super::Training;
use crate::average::Average;
use crate::error::TrainError;
use crate::events::Event;
use crate::pictures::{Inputs, Pictures};
use crate::report::Answers;
use crate::results::Best;
use crate::step::StepError;
use offshoot_infer::{Figures, Inference};
use offshoot_world::Rows;

impl Training<'_, '_> {
    /// The model with an average in place of what trains.
    pub(super) fn averaged(&self, average: &Average) -> Model {
        let mut model = self.step.model();
        average.put_into(&mut model.weights);
        model
    }

    /// The average of the last epochs with the epoch that has just been trained, where it is one of them.
    pub(super) fn late_average(&self) -> Option<Average> {
        let mut late = self.late.clone()?;
        if self.position.epoch + self.given.recipe.average_last >= self.given.recipe.epochs {
            late.update(self.step.moving());
        }
        Some(late)
    }

    /// Metrics on the validation pictures and the logits behind them, and on others where there are two sets, of `model` or of the
    /// weights as they are. `None` when stopped.
    pub(super) fn validate<const N: usize>(
        &mut self,
        sets: [&Pictures; N],
        model: Option<&Model>,
    ) -> Result<Option<[(Figures, Answers); N]>, TrainError> {
        let mut all = sets.map(|pictures| {
            let classes = self.step.metadata().classes.len();
            (Figures::new(self.step.metadata()), Answers::new(pictures.len(), classes))
        });
        if self.given.data.val.is_empty() {
            return Ok(Some(all));
        }
        let mut network = self.step.evaluator(model.map(|model| &model.weights), self.given.executor)?;
        let (mut done, total) = (0, sets.iter().map(|pictures| pictures.len()).sum());
        for ((metrics, answers), pictures) in all.iter_mut().zip(sets) {
            let mut rounds = pictures.rounds(self.control.world);
            let samples = pictures.samples();
            while let Some(all) = rounds.next(|inputs| self.answers(&mut network, inputs))? {
                if all.iter().any(|rows| rows.ended.is_some()) {
                    return Ok(None);
                }
                for Rows { indices, values, .. } in all {
                    done += indices.len() as u64;
                    metrics.add(&values, indices.iter().map(|&index| &samples[index as usize]));
                    answers.add(&indices, &values);
                    (self.control.progress)(Event::Validate { done, total });
                }
            }
        }
        Ok(Some(all))
    }

    /// The logits of a batch.
    fn answers(&mut self, network: &mut Inference, inputs: Inputs) -> Result<Rows, TrainError> {
        let ended = self.stopped().then(String::new);
        if inputs.indices.is_empty() || ended.is_some() {
            return Ok(Rows { ended, ..Rows::default() });
        }
        let features = self.features(inputs.tensor, inputs.ready)?;
        let logits = network.run(&features).map_err(StepError::from)?;
        let values = logits.into_f32().unwrap_or_default();
        Ok(Rows { indices: inputs.indices, values, ..Rows::default() })
    }

    /// Validation that gives no numbers says that the weights are useless: no model is better than such a one.
    pub(super) fn is_best(&self, epoch: u64, metrics: &Figures) -> bool {
        let now = best_of(epoch, metrics);
        let useless = metrics.images() > 0 && now.val_loss.is_none();
        !useless
            && self.position.best.as_ref().is_none_or(|best| now.is_better_than(best, self.given.recipe.task))
    }
}

/// What an epoch's validation says. Where the loss is not a number, the outputs of the network cannot be compared.
pub(super) fn best_of(epoch: u64, metrics: &Figures) -> Best {
    let validated = metrics.images() > 0 && metrics.loss().is_finite();
    let (accuracy, loss) = (metrics.reached(), metrics.loss());
    Best { epoch, val_accuracy: validated.then_some(accuracy), val_loss: validated.then_some(loss) }
}

/// A warning where validation gave numbers that are not finite.
pub(super) fn not_finite(epoch: u64, metrics: &Figures) -> Option<String> {
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
    use offshoot_data::Sample;
    use offshoot_graph::Metadata;

    use super::*;

    #[test]
    fn answers_that_are_no_numbers_are_no_validation() {
        let metadata = Metadata { classes: vec!["a".into(), "b".into()], ..Metadata::default() };
        let mut metrics = Figures::new(&metadata);
        metrics.add(&[f32::NAN, f32::NAN], [Sample::new("x", 0)].iter());
        assert_eq!(best_of(3, &metrics), Best { epoch: 3, val_accuracy: None, val_loss: None });
        assert!(not_finite(3, &metrics).is_some_and(|text| text.contains("epoch 3 is NaN")));
        let mut good = Figures::new(&metadata);
        good.add(&[1.0, 0.0], [Sample::new("x", 0)].iter());
        assert!(not_finite(3, &good).is_none() && best_of(3, &good).val_accuracy == Some(1.0));
    }
}
