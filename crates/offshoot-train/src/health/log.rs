//! The norms of gradients and weights, epoch by epoch: `health.csv`.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use serde::{Deserialize, Serialize};

use crate::run::{RunError, quoted};
use crate::step::TrainStep;

/// A line for all that trains in each epoch, and one for each group of it.
pub const HEALTH_FILE: &str = "health.csv";

const COLUMNS: &str = "epoch,group,gradient_norm,weight_norm";

/// What stands for all groups together.
const ALL: &str = "all";

/// Sums over the updates of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NormSums {
    updates: u64,
    /// Of the 2-norm of the gradient of all groups and of each.
    gradients: Vec<(String, f64)>,
}

impl NormSums {
    /// Takes in the last update.
    pub(crate) fn add(&mut self, step: &TrainStep) {
        self.updates += 1;
        for (name, norm) in together(step.gradient_norms()) {
            match self.gradients.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += norm,
                None => self.gradients.push((name, norm)),
            }
        }
    }

    /// Steps that changed something.
    pub(crate) fn updates(&self) -> u64 {
        self.updates
    }

    /// The mean over the updates.
    fn mean(&self, name: &str) -> f64 {
        let sum = self.gradients.iter().find(|(known, _)| known == name).map_or(0.0, |(_, sum)| *sum);
        sum / self.updates.max(1) as f64
    }
}

/// The 2-norm over all groups, and then that of each name.
fn together<'n>(groups: impl Iterator<Item = (&'n str, f64)>) -> Vec<(String, f64)> {
    let mut squares = vec![(ALL.to_owned(), 0.0)];
    for (name, norm) in groups {
        squares[0].1 += norm * norm;
        match squares.iter_mut().skip(1).find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += norm * norm,
            None => squares.push((name.to_owned(), norm * norm)),
        }
    }
    squares.into_iter().map(|(name, squares)| (name, f64::sqrt(squares))).collect()
}

/// The lines of `health.csv`.
#[derive(Debug, Default)]
pub(crate) struct HealthLog {
    lines: Vec<String>,
}

impl HealthLog {
    /// Those of the first `epochs` epochs in the folder `run`.
    pub(crate) fn read(run: &Path, epochs: u64) -> Result<HealthLog, RunError> {
        if epochs == 0 {
            return Ok(HealthLog::default());
        }
        let path = run.join(HEALTH_FILE);
        let refuse = |reason: String| RunError::Checkpoint { path: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        let epoch = |line: &str| line.split(',').next().and_then(|epoch| epoch.parse::<u64>().ok());
        let kept = text.lines().skip(1).take_while(|line| epoch(line).is_some_and(|epoch| epoch <= epochs));
        let lines: Vec<String> = kept.map(str::to_owned).collect();
        if text.lines().next() != Some(COLUMNS) || lines.last().and_then(|line| epoch(line)) != Some(epochs) {
            return Err(refuse(format!("is not the table of {epochs} finished epochs")));
        }
        Ok(HealthLog { lines })
    }

    /// Adds an epoch, from 1, after its last step.
    pub(crate) fn push(&mut self, epoch: u64, sums: &NormSums, step: &TrainStep) {
        for (name, weight) in together(step.weight_norms()) {
            let gradient = sums.mean(&name);
            self.lines.push(format!("{epoch},{},{gradient:e},{weight:e}", quoted(&name)));
        }
    }

    pub(crate) fn write(&self, run: &Path) -> Result<(), FormatError> {
        write_atomically(&run.join(HEALTH_FILE), |file| {
            writeln!(file, "{COLUMNS}")?;
            self.lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })
    }
}
