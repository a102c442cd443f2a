//! The norms of gradients and weights, epoch by epoch: `health.csv`.

use std::io::Write as _;
use std::path::Path;

use offshoot_files::{Kind, read_text};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::Weights;
use offshoot_graph::text::escaped;
use serde::{Deserialize, Serialize};

use crate::csv::quoted;
use crate::run::{HEALTH_FILE, RunError};
use crate::step::TrainStep;

const COLUMNS: &str = "epoch,group,gradient_norm,weight_norm,update_ratio";

/// What stands for all groups together.
const ALL: &str = "all";

/// Sums over the updates of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NormSums {
    updates: u64,
    /// Of the 2-norm of the gradient of all groups and of each.
    gradients: Vec<(String, f64)>,
    /// What one of the updates, in the middle of the epoch, changed: the 2-norm of the change over that of the weights.
    ratios: Vec<(String, f64)>,
    /// The parameters whose gradient was exactly 0 in each of the updates; `None` before the first.
    silent: Option<Vec<String>>,
}

impl NormSums {
    /// Takes in the last update, and what it changed where the weights `before` it are given.
    pub(crate) fn add(&mut self, step: &TrainStep, before: Option<&Weights>) {
        self.updates += 1;
        for (name, norm) in together(step.gradient_norms()) {
            match self.gradients.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += norm,
                None => self.gradients.push((name, norm)),
            }
        }
        match &mut self.silent {
            None => self.silent = Some(step.silent().to_vec()),
            Some(silent) => silent.retain(|name| step.silent().contains(name)),
        }
        if let Some(before) = before {
            let pairs = together(step.change_norms(before)).into_iter().zip(together(step.weight_norms()));
            let ratio = |((name, change), (_, weight)): ((String, f64), (String, f64))| {
                (name, change / weight.max(f64::MIN_POSITIVE))
            };
            self.ratios = pairs.map(ratio).collect();
        }
    }

    /// Steps that changed something.
    pub(crate) fn updates(&self) -> u64 {
        self.updates
    }

    /// The parameters whose gradient was exactly 0 in each of the updates.
    pub(crate) fn silent(&self) -> &[String] {
        self.silent.as_deref().unwrap_or_default()
    }

    /// How much an update changes of each group, relative to them.
    pub(crate) fn ratios(&self) -> impl Iterator<Item = (&str, f64)> {
        self.ratios.iter().filter(|(name, _)| name != ALL).map(|(name, ratio)| (name.as_str(), *ratio))
    }

    /// The mean over the updates; `None` where there were none.
    fn mean(&self, name: &str) -> Option<f64> {
        let (_, sum) = self.gradients.iter().find(|(known, _)| known == name)?;
        (self.updates > 0).then(|| sum / self.updates as f64)
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
        let text = read_text(&path, Kind::TABLE).map_err(|e| refuse(format!("cannot be read: {e}")))?;
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
            let gradient = sums.mean(&name).map_or(String::new(), |norm| format!("{norm:e}"));
            let ratio = sums.ratios.iter().find(|(known, _)| *known == name);
            let ratio = ratio.map_or(String::new(), |(_, ratio)| format!("{ratio:e}"));
            self.lines.push(format!("{epoch},{},{gradient},{weight:e},{ratio}", quoted(&escaped(&name))));
        }
    }

    pub(crate) fn write(&self, run: &Path) -> Result<(), FormatError> {
        write_atomically(&run.join(HEALTH_FILE), |file| {
            writeln!(file, "{COLUMNS}")?;
            self.lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })
    }
}
