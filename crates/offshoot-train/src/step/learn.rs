//! Learning from batches: runs of the step's graphs, and what became of them.

mod collect;
mod shared;

use std::collections::BTreeMap;

use offshoot_graph::model::OUTPUT;
use offshoot_graph::passes::{
    AVERAGE_PART, CLASS_WEIGHTS, KEYS, LABELS, LOSS, LOSS_SCALE, SQUARES, UNSCALE, UPDATE_RATES,
    trained_in_order,
};
use offshoot_graph::{ExecuteError, Session, Task, Tensor};

use super::{NetworkError, StepError, StepReport, TrainStep};
use crate::amp::GradScaler;
use crate::metrics::argmax;
use crate::optimizer::NotFiniteGradient;

pub use shared::Share;
pub(super) use shared::Together;

/// How good the outputs of a step were, see [`StepReport`].
#[derive(Clone, Copy, Default)]
struct Answered {
    correct: usize,
    error: f64,
}

/// The inputs of an update.
struct Update {
    rates: Tensor,
    /// What gradients are multiplied by.
    unscale: f32,
    unscale_input: Tensor,
    average_part: Option<Tensor>,
}

impl Update {
    fn inputs(&self) -> Vec<(&'static str, &Tensor)> {
        let average = self.average_part.as_ref().map(|part| (AVERAGE_PART, part));
        [(UPDATE_RATES, &self.rates), (UNSCALE, &self.unscale_input)].into_iter().chain(average).collect()
    }
}

/// The parameter whose new value would not be finite, where a run was refused for that.
///
/// # Errors
/// When it did not come so far.
fn refusal(committed: Result<(), ExecuteError>) -> Result<Option<String>, NetworkError> {
    match committed {
        Ok(()) => Ok(None),
        Err(ExecuteError::NotFinite(name)) => Ok(Some(name)),
        Err(error) => Err(error.into()),
    }
}

impl TrainStep {
    /// Learns from `features` (of [`TrainStep::features`]) with labels (as in [`Batch`](super::Batch)) and dropout keys i64 `[n]`, at `factor`
    /// times the rates of the options. Weights, moments and running statistics change together or not at all. With a loss
    /// scale above 1, a gradient that is not finite lowers the scale and is no error.
    ///
    /// # Errors
    /// When a shape does not fit, and when the loss, a gradient or a new value is not finite.
    pub fn learn(
        &mut self,
        features: &Tensor,
        labels: &Tensor,
        keys: &Tensor,
        factor: f64,
    ) -> Result<StepReport, StepError> {
        let update = self.update(1.0, factor);
        let refused = self.run_batch([features, labels, keys], &update.inputs(), |session, inputs| {
            session.run_graph(0, inputs)
        })?;
        let (loss, Answered { correct, error }) = (self.loss()?, self.answered(labels));
        let report = self.finish_update(refused, update.unscale)?;
        Ok(StepReport { loss, correct, error, images: labels.shape()[0], ..report })
    }

    /// What the mean over these pictures was divided by: their number, or the sum of their classes' weights.
    fn weight_of(&self, labels: &Tensor) -> f32 {
        let weights = self.class_weights.as_ref().and_then(Tensor::as_f32);
        let (Some(weights), Some(labels)) = (weights, labels.as_i64()) else {
            return labels.shape()[0] as f32;
        };
        labels.iter().filter_map(|&label| weights.get(usize::try_from(label).ok()?)).sum()
    }

    /// What an update reads beside the gradients, which are multiplied by `mean` and by what undoes the loss scale.
    fn update(&self, mean: f32, factor: f64) -> Update {
        let unscale = self.scaler.as_ref().map_or(1.0, GradScaler::inverse) * mean;
        Update {
            rates: self.optimizer.rates(factor),
            unscale,
            unscale_input: Tensor::full([], unscale),
            average_part: self.ema.map(|ema| Tensor::full([], ema.part())),
        }
    }

    /// Runs a graph of the session forwards and backwards on a batch (features, labels and keys), with other inputs besides. Gives what
    /// [`refusal`] does.
    fn run_batch(
        &mut self,
        [features, labels, keys]: [&Tensor; 3],
        others: &[(&str, &Tensor)],
        run: impl FnOnce(&mut dyn Session, &[(&str, &Tensor)]) -> Result<(), ExecuteError>,
    ) -> Result<Option<String>, NetworkError> {
        let mut inputs = vec![(self.input.as_str(), features), (LABELS, labels)];
        inputs.extend(others);
        if self.has_dropout {
            inputs.push((KEYS, keys));
        }
        if let Some(weights) = &self.class_weights {
            inputs.push((CLASS_WEIGHTS, weights));
        }
        let scale = self.scaler.as_ref().map(|scaler| Tensor::full([], scaler.scale()));
        inputs.extend(scale.as_ref().map(|scale| (LOSS_SCALE, scale)));
        refusal(run(&mut *self.session, &inputs))
    }

    /// The loss of the last run.
    fn loss(&self) -> Result<f32, StepError> {
        let loss = self.session.read(LOSS).and_then(Tensor::into_f32).map_or(f32::NAN, |loss| loss[0]);
        if loss.is_finite() {
            return Ok(loss);
        }
        let problem = match self.first_broken_gradient() {
            Some(name) => {
                format!("the loss is {loss}; the first gradient that is not finite is that of `{name}`")
            }
            None => format!("the loss is {loss}"),
        };
        Err(StepError::NotFinite { problem })
    }

    /// How good the outputs of the last run were.
    fn answered(&self, labels: &Tensor) -> Answered {
        let outputs = self.session.read(OUTPUT).and_then(Tensor::into_f32).unwrap_or_default();
        match self.model.metadata.task {
            Task::Single | Task::Multi => {
                Answered { correct: count_correct(&outputs, labels), ..Answered::default() }
            }
            Task::Regression => Answered { error: sum_errors(&outputs, labels), ..Answered::default() },
        }
    }

    /// The sums of the squares of the last run's gradients, in the order of the parameters' names.
    fn squares(&self) -> Vec<f64> {
        self.session.read(SQUARES).and_then(|sums| Some(sums.as_f64()?.to_vec())).unwrap_or_default()
    }

    /// The first trained parameter of the network whose gradient is not finite.
    fn first_broken_gradient(&self) -> Option<&str> {
        let squares: BTreeMap<String, f64> =
            trained_in_order(&self.training).into_iter().zip(self.squares()).collect();
        let broken = |name: &&String| squares.get(*name).is_some_and(|sum| !sum.is_finite());
        self.training.trained.iter().find(broken).map(String::as_str)
    }

    /// What an update did, that was made, skipped or refused because of the parameter `refused`.
    fn finish_update(&mut self, refused: Option<String>, unscale: f32) -> Result<StepReport, StepError> {
        let squares = self.squares();
        let overflowed = refused.as_ref().is_some_and(|name| {
            !self.training.states.contains(name) && self.optimizer.not_finite(&squares).is_some()
        });
        let mut report = StepReport {
            loss: 0.0,
            images: 0,
            correct: 0,
            error: 0.0,
            gradient_norm: f64::INFINITY,
            skipped: true,
        };
        if let Some(scaler) = self.scaler.as_mut().filter(|scaler| overflowed && scaler.scale() >= 1.0) {
            scaler.update(true);
            return Ok(report);
        }
        refused.map_or(Ok(()), |name| Err(self.refused(&name)))?;
        (report.gradient_norm, report.skipped) = (self.optimizer.updated(&squares, unscale), false);
        self.scaler.iter_mut().for_each(|scaler| scaler.update(false));
        self.ema.iter_mut().for_each(|ema| ema.count += 1);
        Ok(report)
    }

    /// Why a run changed nothing: the new value of `name` would not be finite.
    fn refused(&self, name: &str) -> StepError {
        let problem = match self.first_broken_gradient() {
            _ if self.training.states.iter().any(|state| state == name) => {
                format!("the running statistic `{name}` would not be finite")
            }
            Some(name) => NotFiniteGradient(name.into()).to_string(),
            None => ExecuteError::NotFinite(name.into()).to_string(),
        };
        StepError::NotFinite { problem }
    }

    /// [`TrainStep::features`] and [`TrainStep::learn`] in one.
    ///
    /// # Errors
    /// Those of the two.
    pub fn run(
        &mut self,
        images: Tensor,
        labels: &Tensor,
        keys: &Tensor,
        factor: f64,
    ) -> Result<StepReport, StepError> {
        let features = self.features(images)?;
        self.learn(&features, labels, keys, factor)
    }
}

/// How often the best class is the label, or has the largest part of the target; of several labels, how often all are right.
fn count_correct(logits: &[f32], labels: &Tensor) -> usize {
    let classes = (logits.len() / labels.shape()[0].max(1)).max(1);
    if let (Some(targets), Some(columns)) = (labels.as_f32(), labels.shape().get(1).filter(|&&n| n > classes))
    {
        let rows = logits.chunks_exact(classes).zip(targets.chunks_exact(*columns));
        let right = |(x, target): (&f32, &f32)| (*x >= 0.0) == (*target >= 0.5);
        return rows.filter(|(row, targets)| row.iter().zip(*targets).all(right)).count();
    }
    let best = logits.chunks_exact(classes).map(argmax);
    match (labels.as_i64(), labels.as_f32()) {
        (Some(labels), _) => {
            best.zip(labels).filter(|&(best, &label)| i64::try_from(best) == Ok(label)).count()
        }
        (None, Some(targets)) => {
            best.zip(targets.chunks_exact(classes)).filter(|(b, t)| *b == argmax(t)).count()
        }
        (None, None) => 0,
    }
}

/// The sum over pictures of the mean absolute error of their targets; rows of `labels` end with the pictures' weights.
fn sum_errors(outputs: &[f32], labels: &Tensor) -> f64 {
    let (Some(targets), Some(columns)) = (labels.as_f32(), labels.shape().get(1).filter(|&&n| n > 1)) else {
        return 0.0;
    };
    let rows = outputs.chunks_exact(columns - 1).zip(targets.chunks_exact(*columns));
    let error = |(y, t): (&f32, &f32)| (f64::from(*y) - f64::from(*t)).abs();
    rows.map(|(row, targets)| row.iter().zip(targets).map(error).sum::<f64>() / row.len() as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_means_over_targets() {
        let targets = Tensor::f32([2, 3], vec![1.0, 2.0, 0.5, -1.0, 4.0, 9.0]);
        assert_eq!(sum_errors(&[1.5, 2.0, -2.0, 1.0], &targets), 0.25 + 2.0);
        assert!(sum_errors(&[f32::NAN, 2.0, -2.0, 1.0], &targets).is_nan());
        assert_eq!(sum_errors(&[1.0], &Tensor::i64([1], vec![0])), 0.0);
    }

    #[test]
    fn a_picture_is_correct_where_its_best_class_is_the_label_or_the_largest_part() {
        let logits = [0.1, 0.2, 0.9, 0.8, 0.3, 0.1, -1.0, -3.0, -2.0, 0.0, 5.0, 1.0];
        assert_eq!(count_correct(&logits, &Tensor::i64([4], vec![2, 0, 2, 1])), 3);
        assert_eq!(count_correct(&logits, &Tensor::i64([4], vec![0, 1, 1, -1])), 0);
        let parts = vec![0.0, 0.3, 0.7, 0.6, 0.4, 0.0, 0.0, 0.0, 1.0, 0.2, 0.7, 0.1];
        assert_eq!(count_correct(&logits, &Tensor::f32([4, 3], parts)), 3);
        // Two classes and a weight.
        let targets = vec![1.0, 0.0, 1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.0];
        assert_eq!(count_correct(&[0.3, -0.1, -2.0, 0.5, 1.0, 0.0], &Tensor::f32([3, 3], targets)), 2);
    }
}
