//! What a checkpoint keeps of a step, the moving average, and norms of what moves.

use offshoot_graph::passes::{TrainingGraph, average_parameter};
use offshoot_graph::{Model, Tensor, Weights};

use super::{NetworkError, StepError, TrainStep};
use crate::amp::GradScaler;
use crate::average::{count_of, counted};
use crate::optimizer::{StateError, sum_of_squares};

/// A moving average, updated as `torch.optim.swa_utils.AveragedModel` with `use_buffers=True` does: the first update copies, and
/// each later one moves the average towards the weights. The session holds the values.
///
/// What is not part of it has not changed: it is frozen. What joins later starts from the value that it has then, which is
/// what its average would have been.
#[derive(Clone, Copy)]
pub(super) struct MovingAverage {
    pub(super) decay: f64,
    /// Updates so far.
    pub(super) count: u64,
}

impl MovingAverage {
    /// How far the next update moves the average.
    pub(super) fn part(self) -> f32 {
        if self.count == 0 { 1.0 } else { (1.0 - self.decay) as f32 }
    }
}

impl TrainStep {
    /// The model with the moving average in place of what trains, where there is one.
    pub fn averaged(&self) -> Option<Model> {
        let ema = self.ema?;
        let mut model = self.model();
        for (name, weight) in model.weights.iter_mut().filter(|_| ema.count > 0) {
            let average = self.session.read(&average_parameter(name));
            if let Some(average) = average.and_then(|average| average.reshape(weight.shape()).ok()) {
                *weight = average;
            }
        }
        Some(model)
    }

    /// The 2-norm of each group's gradient in the last update, with the group's name in the table. Groups that differ in
    /// weight decay alone share a name.
    pub fn gradient_norms(&self) -> impl Iterator<Item = (&str, f64)> {
        let names = self.table.iter().map(|row| row.name.as_str());
        names.zip(self.optimizer.norms().iter().copied())
    }

    /// The 2-norm of each group's weights, as [`TrainStep::gradient_norms`].
    pub fn weight_norms(&self) -> impl Iterator<Item = (&str, f64)> {
        self.table.iter().zip(self.optimizer.groups()).map(|(row, group)| {
            let weights = group.names.iter().filter_map(|name| self.session.read(name));
            let squares = weights.map(|weight| sum_of_squares(weight.as_f32().unwrap_or_default()));
            (row.name.as_str(), squares.sum::<f64>().sqrt())
        })
    }

    /// The parameters whose gradient was exactly 0 in the last update.
    pub fn silent(&self) -> &[String] {
        self.optimizer.silent()
    }

    /// The weights that steps change, without the running statistics.
    pub fn trained(&self) -> Weights {
        self.read_all(&self.training.trained)
    }

    /// The 2-norm of the difference of each group's weights from those that [`TrainStep::trained`] gave, with names as in
    /// [`TrainStep::gradient_norms`].
    pub fn change_norms(&self, before: &Weights) -> impl Iterator<Item = (&str, f64)> {
        let change = |name: &String| {
            let (now, before) = (self.session.read(name)?, before.get(name)?.as_f32()?);
            Some(now.as_f32()?.iter().zip(before).map(|(&a, &b)| f64::from(a - b).powi(2)).sum::<f64>())
        };
        self.table.iter().zip(self.optimizer.groups()).map(move |(row, group)| {
            (row.name.as_str(), group.names.iter().filter_map(change).sum::<f64>().sqrt())
        })
    }

    /// What the loss is multiplied by, where mixed precision needs that.
    pub fn loss_scale(&self) -> Option<f32> {
        self.scaler.as_ref().map(GradScaler::scale)
    }

    /// Everything that steps change: `model.NAME`, `optimizer.NAME.exp_avg`, ..., `scaler.scale`, `ema.NAME`.
    pub fn state(&self) -> Weights {
        let model = self.moving().map(|(name, tensor)| (format!("model.{name}"), tensor));
        let optimizer = self.optimizer.state(|moment| self.session.read(moment));
        let scaler = self.scaler.iter().flat_map(GradScaler::state);
        let scaler = scaler.map(|(name, t)| (format!("scaler.{name}"), t));
        let optimizer = optimizer.into_iter().map(|(name, t)| (format!("optimizer.{name}"), t));
        model.chain(optimizer).chain(scaler).chain(self.ema_state()).collect()
    }

    /// The moving average: `ema.count`, and each value, flat, after the first update.
    fn ema_state(&self) -> Weights {
        let Some(ema) = self.ema else { return Weights::new() };
        let names = self.training.moving().filter(|_| ema.count > 0);
        let values = names
            .filter_map(|name| Some((format!("ema.{name}"), self.session.read(&average_parameter(name))?)));
        values.chain([("ema.count".to_owned(), counted(ema.count))]).collect()
    }

    /// What [`TrainStep::ema_state`] gave: the average, and the values by their names in the graph.
    fn read_ema(&self, state: &Weights) -> Result<(Option<MovingAverage>, Weights), StateError> {
        let Some(MovingAverage { decay, .. }) = self.ema else { return Ok((None, Weights::new())) };
        let read = |name: &str| state.get(name).ok_or_else(|| StateError(name.to_owned()));
        let count = count_of(state)?;
        let mut values = Weights::new();
        let names = self.training.moving().filter(|_| count > 0);
        for name in names {
            let value = read(name)?.clone();
            let own = self.session.read(name).map_or(0, |weight| weight.len());
            let value = value.reshape([own]).map_err(|_| StateError(name.clone()))?;
            if value.as_f32().is_none() {
                return Err(StateError(name.clone()));
            }
            values.insert(average_parameter(name), value);
        }
        Ok((Some(MovingAverage { decay, count }), values))
    }

    /// Takes over what [`TrainStep::state`] gave.
    ///
    /// # Errors
    /// When it is the state of another model or optimizer; nothing is changed then.
    pub fn load_state(&mut self, state: &Weights) -> Result<(), StepError> {
        let moving = self.training.moving();
        let fits = |name: &String| {
            let saved = state.get(&format!("model.{name}"));
            let own = self.session.read(name);
            let fits = saved.filter(|t| own.as_ref().is_some_and(|own| own.shape() == t.shape()));
            let found = fits.filter(|t| t.as_f32().is_some()).map(|t| (name.clone(), t.clone()));
            found.ok_or_else(|| StepError::State(format!("it has no `model.{name}` of the right shape")))
        };
        let mut kept: Weights = moving.map(fits).collect::<Result<_, _>>()?;
        let mut scaler = self.scaler.clone();
        if let Some(scaler) = &mut scaler {
            scaler.load_state(&under(state, "scaler."))?;
        }
        let (ema, averages) = self.read_ema(&under(state, "ema."))?;
        kept.extend(averages);
        kept.extend(self.optimizer.load_state(&under(state, "optimizer."))?);
        (self.scaler, self.ema) = (scaler, ema);
        self.session.restore(&kept).map_err(NetworkError::from)?;
        Ok(())
    }
}

/// The averages before the first update, flat, by their names in the graph.
pub(super) fn averages_of(training: &TrainingGraph, weight: impl Fn(&str) -> Option<Tensor>) -> Weights {
    let names = training.moving();
    let flat = |name: &String| {
        let weight = weight(name)?;
        let len = weight.len();
        Some((average_parameter(name), weight.reshape([len]).ok()?))
    };
    names.filter_map(flat).collect()
}

/// What `state` holds under names that start with `prefix`.
pub(crate) fn under(state: &Weights, prefix: &str) -> Weights {
    let found = state.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())));
    found.collect()
}
