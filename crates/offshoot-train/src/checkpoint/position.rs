//! How far training is: what a checkpoint says beside the weights.

use serde::{Deserialize, Serialize};

use super::state::RunSetting;
use crate::health::{NormSums, Watch};
use crate::ranges::MAX_EPOCHS;
use crate::results::{Best, MAX_NUMBER};
use crate::schedule::Plateau;

/// So often a run goes back.
pub(crate) const MAX_ROLLBACKS: u32 = 5;

/// Sums over the steps of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sums {
    /// Of the loss of each picture.
    pub(crate) loss: f64,
    pub(crate) correct: u64,
    /// Of the mean absolute error of each picture's targets, where numbers are predicted.
    #[serde(default)]
    pub(crate) error: f64,
    pub(crate) images: u64,
    /// Of the gradient norm of each step that changed something.
    pub(crate) gradient_norm: f64,
}

/// How far training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// Finished epochs.
    pub(crate) epoch: u64,
    /// Steps made in the epoch after those.
    pub(crate) step: u64,
    /// Sums over those steps.
    pub(crate) sums: Sums,
    /// Sums over those that changed something.
    pub(crate) norms: NormSums,
    pub(crate) best: Option<Best>,
    /// The stage whose optimizer the state belongs to.
    pub(crate) stage: usize,
    pub(crate) plateau: Plateau,
    pub(crate) patience: Patience,
    /// Whether patience has run out.
    pub(crate) ended: bool,
    pub(crate) skips: Skips,
    /// How often the run has gone back; each time the rate is halved.
    pub(crate) rollbacks: u32,
    pub(crate) watch: Watch,
    /// Training pictures that were left out so far: places in the list of samples, with the reason.
    pub(crate) unusable: Vec<(usize, String)>,
}

impl Position {
    /// What cannot be of a run with this setting.
    pub(super) fn problem(&self, setting: &RunSetting) -> Option<String> {
        let json = serde_json::to_value(self).ok()?;
        if let Some(number) = largest(&json).filter(|number| *number > MAX_NUMBER) {
            return Some(format!("holds the number {number:e}, which is out of range"));
        }
        let [train, _] = setting.pictures;
        if self.step > train as u64 {
            return Some(format!("claims {} steps in an epoch of {train} pictures", self.step));
        }
        if self.epoch > MAX_EPOCHS {
            return Some(format!("claims {} finished epochs", self.epoch));
        }
        if self.rollbacks > MAX_ROLLBACKS {
            return Some(format!("claims {} rollbacks", self.rollbacks));
        }
        None
    }

    /// Makes it one that a run with more epochs goes on from.
    pub(crate) fn go_on_longer(&mut self) {
        self.ended = false;
        self.patience.waited = 0;
    }
}

/// The largest whole number in a JSON value: a count, while a loss may be as large as it likes.
fn largest(value: &serde_json::Value) -> Option<f64> {
    match value {
        serde_json::Value::Number(number) => number.as_u64().map(|count| count as f64),
        serde_json::Value::Array(all) => all.iter().filter_map(largest).reduce(f64::max),
        serde_json::Value::Object(all) => all.values().filter_map(largest).reduce(f64::max),
        _ => None,
    }
}

/// Steps that were refused and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Skips {
    /// In the epoch, with those that a loss scaler left out.
    pub(crate) epoch: u64,
    /// Since the last one that was made, without those.
    pub(crate) in_a_row: u64,
}

/// How long a better validation accuracy has been waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Patience {
    /// The accuracy to beat.
    best: Option<f64>,
    /// Epochs without a better one.
    pub(crate) waited: u64,
}

impl Patience {
    /// Takes in the accuracy of an epoch, or another figure that is the higher the better, `None` where validation gave none. Says whether `patience` epochs have passed without one
    /// that is better by more than `min_delta`.
    pub(crate) fn runs_out(&mut self, accuracy: Option<f64>, patience: u64, min_delta: f64) -> bool {
        match accuracy {
            Some(accuracy) if self.best.is_none_or(|best| accuracy - best > min_delta) => {
                *self = Patience { best: Some(accuracy), waited: 0 };
            }
            _ => self.waited += 1,
        }
        self.waited >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_runs_out_when_nothing_gets_better() {
        let mut patience = Patience::default();
        let mut after = |accuracy| patience.runs_out(Some(accuracy), 2, 0.01);
        assert_eq!(
            [0.5, 0.505, 0.52, 0.4, 0.6, 0.6, 0.1].map(&mut after),
            [false, false, false, false, false, false, true]
        );
        let mut broken = Patience::default();
        assert_eq!(
            [None, Some(0.1), None, None].map(|a| broken.runs_out(a, 2, 0.0)),
            [false, false, false, true]
        );
    }
}
