//! The table of finished epochs, `results.csv`, and which of them is the best.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use offshoot_files::{Kind, open, read_text};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::Task;
use serde::{Deserialize, Serialize};

use crate::run::{RESULTS_FILE, RunError};

/// The largest number in the files of a run: f64 has all whole ones up to it, and no run counts so far.
pub(crate) const MAX_NUMBER: f64 = (1_u64 << 53) as f64;

/// The best epoch so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The fraction of the validation pictures classified correctly, of several labels, the mean average precision, or of numbers, the mean
    /// absolute error; `None` without validation pictures.
    pub val_accuracy: Option<f64>,
    /// The mean loss on the validation pictures.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub val_loss: Option<f64>,
}

impl Best {
    /// A higher accuracy, or the same with a lower loss; of numbers, a lower loss, which weighs all targets alike. An epoch that was not
    /// validated is never better than one that was; of two that were not, the later is.
    pub(crate) fn is_better_than(&self, best: &Best, task: Task) -> bool {
        let loss = |of: &Best| of.val_loss.unwrap_or(f64::INFINITY);
        let [now, before] = [self, best].map(|of| score(task, of.val_accuracy, of.val_loss));
        match (now, before) {
            (Some(a), Some(b)) if a == b => loss(self) < loss(best),
            (Some(a), Some(b)) => a > b,
            (Some(_), None) | (None, None) => true,
            (None, Some(_)) => false,
        }
    }
}

/// What epochs are compared by, the higher the better.
pub(crate) fn score(task: Task, figure: Option<f64>, loss: Option<f64>) -> Option<f64> {
    match task {
        Task::Single | Task::Multi => figure,
        Task::Regression => loss.map(|loss| -loss),
    }
}

/// One line of `results.csv`, whose columns have these names in this order; of several labels, `val_map` and `train_eval_map` in the
/// place of the accuracies after the epoch; of numbers, `train_mae`, `val_mae` and `train_eval_mae` in the place of all. Empty where there is no validation picture
/// or the system does not say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EpochRow {
    /// The epoch, from 1.
    pub epoch: u64,
    /// Mean loss of the training steps (smoothed, weighted and with dropout where those are on).
    pub train_loss: f64,
    /// Fraction of the training pictures classified correctly, during the steps (augmented, with dropout); of several labels, those whose
    /// labels are all right at a probability of 0.5; of numbers, the mean absolute error.
    pub train_accuracy: f64,
    /// Mean loss on the validation pictures.
    pub val_loss: Option<f64>,
    /// Fraction of the validation pictures classified correctly; of several labels, the mean average precision; of numbers, the mean
    /// absolute error.
    pub val_accuracy: Option<f64>,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// Mean 2-norm of the gradient over the steps that changed something; `None` where none did.
    pub gradient_norm: Option<f64>,
    /// The same figure as `val_accuracy` of training pictures after the epoch, in evaluation mode and without random changes: of all up to
    /// 2048, or where training changes pictures at random, of as many as there are to validate with.
    pub train_eval_accuracy: Option<f64>,
    /// Steps that were left out because of a number that is not finite: those of [`crate::recipe::OnNonFinite`], and those whose loss
    /// scale was too large.
    pub skipped_steps: u64,
    /// The loss scale after the epoch, where gradients are scaled.
    pub loss_scale: Option<f32>,
    /// Training pictures a second, validation not counted.
    pub images_per_second: f64,
    /// Seconds of training so far, earlier sessions included.
    pub seconds: f64,
    /// The peak memory of the process so far.
    pub peak_mib: Option<f64>,
}

/// How [`COLUMNS`] begin, in every version and for every task.
const RESULTS_START: &str = "epoch,train_loss,train_";

const COLUMNS: &str = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate,gradient_norm,\
                       train_eval_accuracy,skipped_steps,loss_scale,images_per_second,seconds,peak_mib";

/// The name of the figure that is told of an epoch.
pub(crate) fn figure_name(task: Task) -> &'static str {
    match task {
        Task::Single => "accuracy",
        Task::Multi => "map",
        Task::Regression => "mae",
    }
}

fn columns(task: Task) -> String {
    let figure = figure_name(task);
    let named = COLUMNS.replace("val_accuracy", &format!("val_{figure}"));
    let named = named.replace("train_eval_accuracy", &format!("train_eval_{figure}"));
    match task {
        Task::Single | Task::Multi => named,
        Task::Regression => named.replace("train_accuracy", &format!("train_{figure}")),
    }
}

impl EpochRow {
    fn line(&self) -> String {
        let optional = |x: Option<f64>, digits: usize| x.map_or(String::new(), |x| format!("{x:.digits$}"));
        format!(
            "{},{:.6},{:.6},{},{},{:e},{},{},{},{},{:.2},{:.3},{}",
            self.epoch,
            self.train_loss,
            self.train_accuracy,
            optional(self.val_loss, 6),
            optional(self.val_accuracy, 6),
            self.learning_rate,
            optional(self.gradient_norm, 6),
            optional(self.train_eval_accuracy, 6),
            self.skipped_steps,
            self.loss_scale.map_or(String::new(), |scale| scale.to_string()),
            self.images_per_second,
            self.seconds,
            optional(self.peak_mib, 1),
        )
    }
}

/// The lines of `results.csv`.
#[derive(Debug, Default)]
pub(crate) struct Results {
    task: Task,
    lines: Vec<String>,
}

impl Results {
    /// Those of the first `epochs` epochs in the folder `run`.
    pub(crate) fn read(run: &Path, epochs: u64, task: Task) -> Result<Results, RunError> {
        let path = run.join(RESULTS_FILE);
        let refuse = |reason: String| RunError::Checkpoint { path: path.clone(), reason };
        if epochs == 0 {
            return Ok(Results { task, lines: Vec::new() });
        }
        let text = read_text(&path, Kind::TABLE).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        let epochs = usize::try_from(epochs).unwrap_or(usize::MAX);
        let lines: Vec<String> = text.lines().skip(1).take(epochs).map(str::to_owned).collect();
        if lines.len() != epochs || text.lines().next() != Some(&columns(task)) {
            return Err(refuse(format!("is not the table of {epochs} finished epochs")));
        }
        Ok(Results { task, lines })
    }

    pub(crate) fn push(&mut self, row: &EpochRow) {
        self.lines.push(row.line());
    }

    /// The seconds of training so far, and the peak memory.
    pub(crate) fn totals(&self) -> (f64, Option<f64>) {
        let sane = |x: &f64| (0.0..=MAX_NUMBER).contains(x);
        let number = |line: &str, from_end: usize| line.rsplit(',').nth(from_end)?.parse().ok().filter(sane);
        let seconds = self.lines.last().and_then(|line| number(line, 1)).unwrap_or(0.0);
        let peaks = self.lines.iter().filter_map(|line| number(line, 0));
        (seconds, peaks.reduce(f64::max))
    }

    pub(crate) fn write(&self, run: &Path) -> Result<(), FormatError> {
        write_atomically(&run.join(RESULTS_FILE), |file| {
            writeln!(file, "{}", columns(self.task))?;
            self.lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })
    }
}

/// Whether the folder `run` has the table of finished epochs that a run writes.
pub fn has_results(run: &Path) -> bool {
    matches!(begins_as_results(run), Ok(true))
}

/// Whether the file in the place of that table begins like one.
///
/// # Errors
/// When it cannot be read.
pub fn begins_as_results(run: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    open(&run.join(RESULTS_FILE))?.take(RESULTS_START.len() as u64).read_to_end(&mut start)?;
    Ok(start == RESULTS_START.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u64, seconds: f64) -> EpochRow {
        EpochRow {
            epoch,
            train_loss: 1.25,
            train_accuracy: 0.5,
            val_loss: None,
            val_accuracy: None,
            learning_rate: 1e-3,
            gradient_norm: Some(2.0),
            train_eval_accuracy: Some(0.75),
            skipped_steps: 3,
            loss_scale: None,
            images_per_second: 100.0,
            seconds,
            peak_mib: Some(64.0),
        }
    }

    #[test]
    fn results_are_kept_up_to_the_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let mut results = Results::default();
        results.push(&row(1, 10.0));
        results.push(&row(2, 20.5));
        results.write(run.path()).unwrap();
        let text = std::fs::read_to_string(run.path().join(RESULTS_FILE)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], COLUMNS);
        assert_eq!(lines[1], "1,1.250000,0.500000,,,1e-3,2.000000,0.750000,3,,100.00,10.000,64.0");
        assert_eq!(Results::read(run.path(), 1, Task::Single).unwrap().lines, lines[1..2]);
        assert_eq!(Results::read(run.path(), 2, Task::Single).unwrap().totals(), (20.5, Some(64.0)));
        assert_eq!(Results::read(run.path(), 0, Task::Single).unwrap().totals(), (0.0, None));
        let error = Results::read(run.path(), 3, Task::Single).unwrap_err().to_string();
        assert!(error.contains("results.csv") && error.contains("3 finished epochs"), "{error}");
        // Of another task the columns are others.
        assert!(Results::read(run.path(), 1, Task::Multi).is_err());
        let several = Results { task: Task::Multi, ..results };
        several.write(run.path()).unwrap();
        assert_eq!(Results::read(run.path(), 2, Task::Multi).unwrap().lines, lines[1..3]);
        let text = std::fs::read_to_string(run.path().join(RESULTS_FILE)).unwrap();
        assert!(text.starts_with("epoch,train_loss,train_accuracy,val_loss,val_map,"), "{text}");
        assert!(text.contains(",train_eval_map,") && has_results(run.path()), "{text}");
        let numbers = Results { task: Task::Regression, ..several };
        numbers.write(run.path()).unwrap();
        let text = std::fs::read_to_string(run.path().join(RESULTS_FILE)).unwrap();
        assert!(text.starts_with("epoch,train_loss,train_mae,val_loss,val_mae,"), "{text}");
        assert!(text.contains(",train_eval_mae,") && has_results(run.path()), "{text}");
    }

    #[test]
    fn the_best_epoch_is_the_most_accurate_and_then_the_surest() {
        let epoch = |val_accuracy, val_loss| Best { epoch: 1, val_accuracy, val_loss };
        let best = epoch(Some(0.5), Some(1.0));
        assert!(epoch(Some(0.6), Some(2.0)).is_better_than(&best, Task::Single));
        assert!(epoch(Some(0.5), Some(0.9)).is_better_than(&best, Task::Single));
        assert!(!epoch(Some(0.5), Some(1.0)).is_better_than(&best, Task::Single));
        assert!(!epoch(Some(0.4), Some(0.1)).is_better_than(&best, Task::Single));
        assert!(epoch(None, None).is_better_than(&epoch(None, None), Task::Single));
        assert!(!epoch(None, None).is_better_than(&epoch(Some(0.0), Some(9.0)), Task::Single));
        assert!(epoch(Some(0.0), Some(9.0)).is_better_than(&epoch(None, None), Task::Single));
        assert!(epoch(Some(0.5), Some(9.0)).is_better_than(&epoch(Some(0.5), None), Task::Single));
        assert!(!epoch(Some(0.5), None).is_better_than(&epoch(Some(0.5), Some(9.0)), Task::Single));
        // Of numbers the loss decides, and a figure is an error.
        let better = |a: Best, b: &Best| a.is_better_than(b, Task::Regression);
        assert!(better(epoch(Some(0.6), Some(0.9)), &best) && !better(epoch(Some(0.4), Some(1.1)), &best));
        assert!(!better(epoch(None, None), &best) && better(epoch(Some(9.0), Some(9.0)), &epoch(None, None)));
    }
}
