//! What a run gives when it ends.

use std::path::{Path, PathBuf};

use offshoot_graph::Task;
use serde::Serialize;

use crate::checkpoint::Position;

/// What a run gives: the contract of `train --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainResult {
    /// The run directory.
    pub run: PathBuf,
    /// Finished epochs.
    pub epochs: u64,
    /// The best of them; `None` when none is finished.
    pub best: Option<BestEpoch>,
    /// Elements of the parameters that training changes.
    pub trainable_parameters: u64,
    /// Elements of the other parameters.
    pub frozen_parameters: u64,
    /// Seconds of training, earlier sessions included.
    pub seconds: f64,
    /// The peak memory in MiB; `None` where the system does not say.
    pub peak_mib: Option<f64>,
}

/// The best epoch of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestEpoch {
    /// The epoch, from 1.
    pub epoch: u64,
    /// How good it is.
    #[serde(flatten)]
    pub figure: Figure,
}

/// How good a model is on validation pictures; `None` without such.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// The fraction classified correctly, 0 to 1.
    ValAccuracy(Option<f64>),
    /// Of several labels, the mean average precision.
    ValMap(Option<f64>),
    /// Of numbers, the mean absolute error, in their units.
    ValMae(Option<f64>),
}

impl Figure {
    /// That of a task.
    pub fn new(task: Task, value: Option<f64>) -> Figure {
        match task {
            Task::Single => Figure::ValAccuracy(value),
            Task::Multi => Figure::ValMap(value),
            Task::Regression => Figure::ValMae(value),
        }
    }

    /// The number, whatever it says.
    pub fn value(self) -> Option<f64> {
        match self {
            Figure::ValAccuracy(value) | Figure::ValMap(value) | Figure::ValMae(value) => value,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What there is.
    pub result: TrainResult,
    /// Whether it was asked to stop before the last epoch.
    pub interrupted: bool,
}

pub(crate) fn result(
    run: &Path,
    task: Task,
    position: &Position,
    (trainable_parameters, frozen_parameters): (u64, u64),
    (seconds, peak_mib): (f64, Option<f64>),
) -> TrainResult {
    let best = position
        .best
        .as_ref()
        .map(|b| BestEpoch { epoch: b.epoch, figure: Figure::new(task, b.val_accuracy) });
    let (run, epochs) = (run.to_owned(), position.epoch);
    TrainResult { run, epochs, best, trainable_parameters, frozen_parameters, seconds, peak_mib }
}
