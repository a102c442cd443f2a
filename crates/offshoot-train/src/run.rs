//! The files of a run directory.
//!
//! | file | holds |
//! | --- | --- |
//! | `recipe.toml` | every setting, see [`crate::recipe::Recipe`] |
//! | `best.safetensors` | the model of the epoch with the best validation accuracy (of equals, the lower loss) |
//! | `last.safetensors` | the model of the last checkpoint |
//! | `last.state.safetensors` | what `--resume` needs beside it: what trains, the optimizer, the position |
//! | `previous.state.safetensors` | the same of the checkpoint before, which `--resume` takes where that one is missing |
//! | `results.csv` | a line an epoch, see [`EpochRow`] |
//! | `average.safetensors` | the average of the last epochs, where the recipe asks for it |
//! | `pictures.csv` | a line a picture: `train` or `val`, its class, its path, and size, times and BLAKE3 hash of its file |
//! | `health.csv` | the norms of gradient and weights in each epoch, and what part of the weights an update changes: a line for all that trains, and one a group |
//! | `predictions.csv` | the logits of `best.safetensors` for each validation picture |
//! | `log.csv` | when and by which command the run was started, and its warnings; see [`crate::log`] |
//! | `report.html` | all that is known of the run on one page |
//! | `tensorboard/` | the numbers of `results.csv` and `health.csv` as TensorBoard reads them |
//! | `base.onnx` | the classifier that the run started from, where that was an ONNX file |
//! | `base.onnx.sha256` | its SHA-256 |
//! | `groups.csv` | a line for each group of parameters in each stage: whether and how fast it learns |

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use offshoot_graph::text::{escaped, quoted as quoted_text, shown};

use blake3::Hasher;
use offshoot_files::{Kind, open, open_folder, read_text};
use offshoot_formats::atomic::{AtomicFile, write_atomically};
use offshoot_formats::checkpoint::{KeyMismatch, match_weights};
use offshoot_formats::error::Problem;
use offshoot_formats::{FormatError, safetensors};
use offshoot_graph::remedy::{OUT, RESUME};
use offshoot_graph::{Metadata, Model, Weights};
use serde::{Deserialize, Serialize};

use crate::csv::quoted;
use crate::fingerprint;
use crate::groups::GroupRow;
use crate::health::{HEALTH_FILE, NormSums, Watch};
use crate::log::LOG_FILE;
use crate::longer::{is_longer, is_same};
use crate::ranges::MAX_EPOCHS;
use crate::recipe::RECIPE_FILE;
use crate::report::{PREDICTIONS_FILE, REPORT_FILE};
use crate::schedule::Plateau;
use crate::training::MAX_ROLLBACKS;
use crate::unfreeze::Stages;

pub use offshoot_infer::files::{BASE_FILE, BASE_HASH_FILE, BEST_FILE, LAST_FILE};

/// The rest of the last checkpoint.
pub const STATE_FILE: &str = "last.state.safetensors";
/// The rest of the checkpoint before that.
pub const PREVIOUS_FILE: &str = "previous.state.safetensors";
/// A line an epoch.
pub const RESULTS_FILE: &str = "results.csv";
/// The average of the last epochs.
pub const AVERAGE_FILE: &str = "average.safetensors";
/// A line a group.
pub const GROUPS_FILE: &str = "groups.csv";
/// A line a picture.
pub const PICTURES_FILE: &str = "pictures.csv";

/// What a run writes into its folder.
const FILES: [&str; 15] = [
    RECIPE_FILE,
    BEST_FILE,
    LAST_FILE,
    STATE_FILE,
    PREVIOUS_FILE,
    RESULTS_FILE,
    AVERAGE_FILE,
    PICTURES_FILE,
    GROUPS_FILE,
    BASE_FILE,
    BASE_HASH_FILE,
    HEALTH_FILE,
    PREDICTIONS_FILE,
    LOG_FILE,
    REPORT_FILE,
];

/// A run directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is a run already.
    #[error(
        "{}: it is not empty; give {RESUME} to resume the run in it, or another folder with {OUT}",
        shown(run), RESUME = RESUME, OUT = OUT)]
    Exists {
        /// The folder.
        run: PathBuf,
    },
    /// There is something that is no run with a checkpoint.
    #[error(
        "{}: it is not empty, and has no checkpoint to resume from; give another folder with {OUT}",
        shown(run), OUT = OUT)]
    Occupied {
        /// The folder.
        run: PathBuf,
    },
    /// The folder cannot be made.
    #[error("{}: the folder cannot be made: {source}", shown(run))]
    Create {
        /// The folder.
        run: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What a run has left that never reached a checkpoint cannot be removed.
    #[error("{}: cannot be removed: {source}", shown(path))]
    Remove {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that is no part of a checkpoint of ours.
    #[error("{}: {reason}. Start again in another folder with {OUT}", shown(path), OUT = OUT)]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a checkpoint is not what was written.
    #[error("{}: {reason}. The file is damaged; {way_out}", shown(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        way_out: String,
    },
    /// Another process is at it.
    #[error(
        "{}: another process is training in this folder; wait for it, or give another folder with {OUT}",
        shown(run), OUT = OUT)]
    InUse {
        /// The folder.
        run: PathBuf,
    },
    /// The weights are those of another model.
    #[error("{}: {source}", shown(path))]
    Weights {
        /// The file.
        path: PathBuf,
        /// What differs.
        source: KeyMismatch,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FormatError),
}

/// The best epoch so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The fraction of the validation pictures classified correctly; `None` without validation pictures.
    pub val_accuracy: Option<f64>,
    /// The mean cross entropy on the validation pictures.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub val_loss: Option<f64>,
}

impl Best {
    /// A higher accuracy, or the same with a lower loss. An epoch that was not validated is never better than one that was; of
    /// two that were not, the later is.
    pub(crate) fn is_better_than(&self, best: &Best) -> bool {
        let loss = |of: &Best| of.val_loss.unwrap_or(f64::INFINITY);
        match (self.val_accuracy, best.val_accuracy) {
            (Some(a), Some(b)) if a == b => loss(self) < loss(best),
            (Some(a), Some(b)) => a > b,
            (Some(_), None) | (None, None) => true,
            (None, Some(_)) => false,
        }
    }
}

/// Sums over the steps of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    /// Of the loss of each picture.
    pub(crate) loss: f64,
    pub(crate) correct: u64,
    pub(crate) images: u64,
    /// Of the gradient norm of each step that changed something.
    pub(crate) gradient_norm: f64,
}

/// The largest number in a state: f64 has all whole ones up to it, and no run counts so far.
const MAX_NUMBER: f64 = (1_u64 << 53) as f64;

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
    fn problem(&self, setting: &Setting) -> Option<String> {
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
    /// Takes in the accuracy of an epoch, `None` where validation gave none. Says whether `patience` epochs have passed without one
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

/// What the state file carries as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateHeader {
    pub(crate) position: Position,
    /// Where the run goes back to when it must, if that is not this position: then the state has it too, under `good.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<Position>,
    pub(crate) setting: Setting,
    /// What the executor said about itself.
    pub(crate) processor: String,
    /// Of the weights that the state does not hold; see [`FrozenHash`].
    frozen: String,
    /// Of the other fields and the tensors.
    content: String,
}

impl StateHeader {
    pub(crate) fn new(
        position: &Position,
        good: Option<&Position>,
        setting: &Setting,
        processor: String,
        frozen: String,
    ) -> StateHeader {
        let (position, good, setting) = (position.clone(), good.cloned(), setting.clone());
        StateHeader { position, good, setting, processor, frozen, content: String::new() }
    }

    /// A hash of this and `state`, this header's own hash left out.
    fn hash(&self, state: &Weights) -> String {
        let mut hasher = Hasher::new();
        let others = StateHeader { content: String::new(), ..self.clone() };
        fingerprint::field(&mut hasher, others.to_json().as_bytes());
        fingerprint::weights(&mut hasher, state, |_| true);
        hasher.finalize().to_string()
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a position has a JSON form")
    }
}

/// A checkpoint.
#[derive(Debug, PartialEq)]
pub(crate) struct Saved {
    pub(crate) weights: Weights,
    pub(crate) header: StateHeader,
}

/// Hashes the weights of a model that its state does not hold. They stay the same as long as the state holds the same ones,
/// so they are hashed once.
#[derive(Debug, Default)]
pub(crate) struct FrozenHash {
    known: Option<(usize, String)>,
}

impl FrozenHash {
    pub(crate) fn of(&mut self, weights: &Weights, state: &Weights) -> String {
        let moving = |name: &str| state.contains_key(&format!("model.{name}"));
        let count = weights.keys().filter(|name| moving(name)).count();
        match &self.known {
            Some((known, hash)) if *known == count => hash.clone(),
            _ => {
                let mut hasher = Hasher::new();
                fingerprint::weights(&mut hasher, weights, |name| !moving(name));
                let hash = hasher.finalize().to_string();
                self.known = Some((count, hash.clone()));
                hash
            }
        }
    }
}

/// What a checkpoint belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    /// The text of `recipe.toml`, without the number of threads.
    pub(crate) recipe: String,
    /// How many pictures there are to train and to validate with.
    pub(crate) pictures: [usize; 2],
}

/// One line of `results.csv`, whose columns have these names in this order. Empty where there is no validation picture
/// or the system does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochRow {
    /// The epoch, from 1.
    pub epoch: u64,
    /// Mean loss of the training steps (smoothed, weighted and with dropout where those are on).
    pub train_loss: f64,
    /// Fraction of the training pictures classified correctly, during the steps (augmented, with dropout).
    pub train_accuracy: f64,
    /// Mean cross entropy on the validation pictures.
    pub val_loss: Option<f64>,
    /// Fraction of the validation pictures classified correctly.
    pub val_accuracy: Option<f64>,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// Mean 2-norm of the gradient over the steps that changed something; `None` where none did.
    pub gradient_norm: Option<f64>,
    /// Fraction of the training pictures classified correctly after the epoch, in evaluation mode and without random changes: of all up to
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

/// The first of [`COLUMNS`], which every version has.
const RESULTS_START: &str = "epoch,train_loss,train_accuracy,";

const COLUMNS: &str = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate,gradient_norm,\
                       train_eval_accuracy,skipped_steps,loss_scale,images_per_second,seconds,peak_mib";

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
    lines: Vec<String>,
}

impl Results {
    /// Those of the first `epochs` epochs in the folder `run`.
    pub(crate) fn read(run: &Path, epochs: u64) -> Result<Results, RunError> {
        let path = run.join(RESULTS_FILE);
        let refuse = |reason: String| RunError::Checkpoint { path: path.clone(), reason };
        if epochs == 0 {
            return Ok(Results::default());
        }
        let text = read_text(&path, Kind::TABLE).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        let epochs = usize::try_from(epochs).unwrap_or(usize::MAX);
        let lines: Vec<String> = text.lines().skip(1).take(epochs).map(str::to_owned).collect();
        if lines.len() != epochs || text.lines().next() != Some(COLUMNS) {
            return Err(refuse(format!("is not the table of {epochs} finished epochs")));
        }
        Ok(Results { lines })
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
            writeln!(file, "{COLUMNS}")?;
            self.lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })
    }
}

/// Writes a model under torchvision's keys, its metadata beside them.
///
/// # Errors
/// When it cannot be written.
pub fn write_model(path: &Path, model: &Model) -> Result<(), FormatError> {
    let metadata = serde_json::to_string(&model.metadata).expect("metadata has a JSON form");
    safetensors::write(path, &model.weights, &metadata)
}

/// Checks that nothing stands where a run writes its files that would not be replaced, before the first of them is. It goes on without
/// its log and its report.
pub(crate) fn check_places(run: &Path) -> Result<(), FormatError> {
    let needed =
        FILES.iter().filter(|name| ![LOG_FILE, REPORT_FILE].contains(name)).map(|name| run.join(name));
    let mut there = needed.filter(|path| path.symlink_metadata().is_ok());
    there.try_for_each(|path| {
        offshoot_files::check_file(&path).map_err(|error| Problem::Io { action: "write", error }.at(&path))
    })
}

/// Makes the folder `run` where there is none.
pub(crate) fn make(run: &Path) -> Result<(), RunError> {
    std::fs::create_dir_all(run).map_err(|source| RunError::Create { run: run.to_owned(), source })
}

/// Writes how fast each group learns: the table of each stage, with the finished epochs at which it starts.
pub(crate) fn write_groups(run: &Path, stages: &[(u64, Vec<GroupRow>)]) -> Result<(), FormatError> {
    write_atomically(&run.join(GROUPS_FILE), |file| {
        writeln!(file, "stage,after_epoch,group,parameters,trainable,learning_rate,weight_decay")?;
        for (stage, (epoch, rows)) in stages.iter().enumerate() {
            for GroupRow { name, parameters, trainable, lr, weight_decay, .. } in rows {
                let name = escaped(name);
                let name = quoted(&name);
                let stage = stage + 1;
                writeln!(file, "{stage},{epoch},{name},{parameters},{trainable},{lr:e},{weight_decay:e}")?;
            }
        }
        Ok(())
    })
}

/// Takes the folder `run` for this process, as long as the result lives, and removes the temporary files that a killed one
/// left. `None` where there is no such folder, or folders cannot be locked.
pub(crate) fn lock(run: &Path) -> Result<Option<File>, RunError> {
    let Ok(folder) = open_folder(run) else { return Ok(None) };
    match folder.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(RunError::InUse { run: run.to_owned() }),
        Err(TryLockError::Error(_)) => return Ok(None),
        Ok(()) => {}
    }
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if is_temporary(&name.to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(Some(folder))
}

/// Whether it is a file of a run that was not finished: `.NAME`, something at random, `.tmp`.
pub(crate) fn is_temporary(name: &str) -> bool {
    let random = |rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric());
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    inner.is_some_and(|inner| FILES.iter().any(|file| inner.strip_prefix(file).is_some_and(random)))
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

/// Whether there is a checkpoint in the folder `run`.
pub fn has_checkpoint(run: &Path) -> bool {
    [STATE_FILE, PREVIOUS_FILE].iter().any(|name| run.join(name).exists())
}

/// Writes the state of a checkpoint, and keeps the one before.
pub(crate) fn write_state(run: &Path, state: &Weights, mut header: StateHeader) -> Result<(), FormatError> {
    header.content = header.hash(state);
    let path = run.join(STATE_FILE);
    let mut file = AtomicFile::create(&path)?;
    safetensors::write_to(&mut file, state, &header.to_json())
        .map_err(|error| Problem::Io { action: "write", error }.at(&path))?;
    file.commit_keeping(&run.join(PREVIOUS_FILE))
}

/// The state of the last checkpoint, if there is one, or of the one before where the last is missing. It must belong to
/// `setting`.
pub(crate) fn read_state(run: &Path, setting: &Setting) -> Result<Option<Saved>, RunError> {
    let files = [STATE_FILE, PREVIOUS_FILE].map(|name| run.join(name));
    let Some(path) = files.iter().find(|path| path.exists()) else { return Ok(None) };
    let refuse = |reason: String| RunError::Checkpoint { path: path.clone(), reason };
    let damaged = |reason: String| {
        let way_out = match *path == files[0] && files[1].exists() {
            true => format!("delete it, and {RESUME} goes on from the checkpoint before it"),
            false => format!("start again in another folder with {OUT}"),
        };
        RunError::Damaged { path: path.clone(), reason, way_out }
    };
    let file = safetensors::read(path).map_err(|error| match error.problem {
        Problem::Io { .. } => RunError::File(error),
        problem => damaged(problem.to_string()),
    })?;
    let header =
        file.metadata.get(safetensors::METADATA_KEY).ok_or_else(|| damaged("is no checkpoint".into()))?;
    let header: StateHeader = serde_json::from_str(header)
        .map_err(|e| damaged(format!("is no checkpoint of this version: {e}")))?;
    if header.content != header.hash(&file.weights) {
        return Err(damaged("its content does not have the hash that stands in it".into()));
    }
    let [was, now] = [&header.setting.recipe, &setting.recipe];
    if !is_same(was, now) && !is_longer(was, now) {
        return Err(refuse("belongs to another recipe than the recipe.toml beside it".into()));
    }
    for position in std::iter::once(&header.position).chain(&header.good) {
        if let Some(problem) = position.problem(&header.setting) {
            return Err(refuse(problem));
        }
    }
    Ok(Some(Saved { weights: file.weights, header }))
}

/// Checks that there are as many pictures as when a checkpoint was made.
pub(crate) fn check_counts(run: &Path, saved: &Saved, setting: &Setting) -> Result<(), RunError> {
    let ([train, val], [now_train, now_val]) = (saved.header.setting.pictures, setting.pictures);
    if [train, val] == setting.pictures {
        return Ok(());
    }
    let reason = format!(
        "was made with {train} pictures to train and {val} to validate with, and now there are {now_train} and {now_val}"
    );
    Err(RunError::Checkpoint { path: run.join(STATE_FILE), reason })
}

/// Checks that the stage of a checkpoint is one that its epoch can be in: its own, or the one before where that has just ended.
pub(crate) fn check_stage(run: &Path, position: &Position, stages: &Stages) -> Result<(), RunError> {
    let Position { epoch, stage, .. } = *position;
    let now = stages.at(epoch);
    if stage == now || (stage + 1 == now && stages.span(now).0 == epoch) {
        return Ok(());
    }
    let reason = format!("claims stage {} after {epoch} epochs", stage.saturating_add(1));
    Err(RunError::Checkpoint { path: run.join(STATE_FILE), reason })
}

/// The weights in the last checkpoint, checked against the graph of `model` and against `saved`. What the state holds may be
/// newer in them: a process may have died before it wrote the state.
pub(crate) fn read_last(run: &Path, model: &Model, saved: &Saved) -> Result<Weights, RunError> {
    let path = run.join(LAST_FILE);
    let way_out = format!("{BEST_FILE} has the same frozen weights: copy it to this name");
    let file = safetensors::read(&path).map_err(|error| match error.problem {
        Problem::Hash { .. } => {
            let reason = "its content does not have the hash that stands in it".into();
            RunError::Damaged { path: path.clone(), reason, way_out: way_out.clone() }
        }
        _ => RunError::File(error),
    })?;
    check_model(&path, &file.metadata, model)?;
    if FrozenHash::default().of(&file.weights, &saved.weights) != saved.header.frozen {
        let reason = "its frozen weights do not have the hash that the state holds".into();
        return Err(RunError::Damaged { path, reason, way_out });
    }
    let parameters = model.graph.parameters().iter().map(|&id| model.graph.value(id));
    let expected = parameters.map(|v| (v.name.clone(), v.shape.as_fixed().unwrap_or_default()));
    let expected: Vec<(String, Vec<usize>)> = expected.collect();
    match_weights(&expected, file.weights).map_err(|source| RunError::Weights { path, source })
}

/// Checks that a checkpoint is of the classes and the head of `model`, where it says so: a run without its list of pictures would go
/// on with other names for what it has learned.
fn check_model(path: &Path, metadata: &BTreeMap<String, String>, model: &Model) -> Result<(), RunError> {
    let of_file = metadata.get(safetensors::METADATA_KEY).and_then(|text| serde_json::from_str(text).ok());
    let Some(Metadata { classes: was, architecture, head, .. }) = of_file else { return Ok(()) };
    let now = &model.metadata.classes;
    if (&architecture, &head) != (&model.metadata.architecture, &model.metadata.head) {
        let named = |name: Option<&String>| quoted_text(name.map_or("none", String::as_str)).into_owned();
        let reason = format!(
            "it is the model of another run: of the architecture {} with the head {}",
            named(architecture.as_ref()),
            named(head.as_ref())
        );
        return Err(RunError::Checkpoint { path: path.to_owned(), reason });
    }
    let differs = was.iter().zip(now).find(|(was, now)| was != now);
    let reason = match differs {
        None if was.len() == now.len() => return Ok(()),
        None => format!("the run has {} classes, and the data has {}", was.len(), now.len()),
        Some((was, now)) => format!(
            "the run was made with the class `{}` where the data has `{}` now; put the folders back as they were",
            escaped(&quoted_text(was)),
            escaped(&quoted_text(now))
        ),
    };
    Err(RunError::Checkpoint { path: path.to_owned(), reason })
}

/// Checks that the best model of a run that goes on is there, whole and its own: nothing would make it again.
pub(crate) fn check_best(run: &Path, model: &Model, saved: &Saved) -> Result<(), RunError> {
    let Some(best) = &saved.header.position.best else { return Ok(()) };
    let path = run.join(BEST_FILE);
    match safetensors::read(&path) {
        Ok(file) => {
            check_model(&path, &file.metadata, model)?;
            // What is frozen now was so before, too.
            match FrozenHash::default().of(&file.weights, &saved.weights) == saved.header.frozen {
                true => Ok(()),
                false => Err(RunError::Checkpoint {
                    path,
                    reason: "it is the model of another run: its frozen weights are not those of this one"
                        .into(),
                }),
            }
        }
        Err(error) => Err(RunError::Damaged {
            path,
            reason: error.problem.to_string(),
            way_out: format!(
                "It is the model of epoch {}, which nothing makes again: put back a copy, or start again in another folder with {OUT}",
                best.epoch
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(recipe: &str, train: usize) -> Setting {
        Setting { recipe: recipe.into(), pictures: [train, 2] }
    }

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
        assert_eq!(Results::read(run.path(), 1).unwrap().lines, lines[1..2]);
        assert_eq!(Results::read(run.path(), 2).unwrap().totals(), (20.5, Some(64.0)));
        assert_eq!(Results::read(run.path(), 0).unwrap().totals(), (0.0, None));
        let error = Results::read(run.path(), 3).unwrap_err().to_string();
        assert!(error.contains("results.csv") && error.contains("3 finished epochs"), "{error}");
    }

    fn header(position: Position, setting: &Setting) -> StateHeader {
        StateHeader::new(&position, None, setting, "cpu".into(), "frozen".into())
    }

    #[test]
    fn a_state_comes_back_and_one_of_another_recipe_does_not() {
        let run = tempfile::tempdir().unwrap();
        let ours = setting("a = 1", 7);
        assert!(read_state(run.path(), &ours).unwrap().is_none() && !has_checkpoint(run.path()));
        let sums = Sums { loss: 0.1 + 0.2, correct: 3, images: 4, gradient_norm: 1.0 / 3.0 };
        let best = Some(Best { epoch: 1, val_accuracy: Some(2.0 / 3.0), val_loss: Some(0.7) });
        let unusable = vec![(3, "it is \"broken\"".to_string())];
        let position = Position { epoch: 2, step: 5, sums, best, stage: 1, unusable, ..Position::default() };
        let state = Weights::from([("model.w".to_string(), offshoot_graph::Tensor::full([2], 0.5))]);
        write_state(run.path(), &state, header(position.clone(), &ours)).unwrap();
        let saved = read_state(run.path(), &ours).unwrap().unwrap();
        assert_eq!((saved.weights, saved.header.position), (state, position));
        let error = read_state(run.path(), &setting("a = 2", 7)).unwrap_err().to_string();
        assert!(error.contains("last.state.safetensors") && error.contains("another recipe"), "{error}");
        let saved = read_state(run.path(), &setting("a = 1", 8)).unwrap().unwrap();
        let error = check_counts(run.path(), &saved, &setting("a = 1", 8)).unwrap_err().to_string();
        assert!(error.contains("last.state.safetensors") && error.contains("7 pictures"), "{error}");
    }

    /// Puts `number` in place of the `place`-th number of a JSON value; says how many numbers come before what is left.
    fn put(value: &mut serde_json::Value, place: &mut usize, number: &serde_json::Value) {
        match value {
            serde_json::Value::Number(_) => {
                if *place == 0 {
                    *value = number.clone();
                }
                *place = place.wrapping_sub(1);
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(|value| put(value, place, number)),
            serde_json::Value::Object(all) => all.values_mut().for_each(|value| put(value, place, number)),
            _ => {}
        }
    }

    #[test]
    fn no_number_of_a_state_is_larger_than_a_run_reaches() {
        let run = tempfile::tempdir().unwrap();
        let ours = setting("a = 1", 7);
        let best = Some(Best { epoch: 1, val_accuracy: Some(0.5), val_loss: Some(0.7) });
        let full = Position { epoch: 2, best, unusable: vec![(3, "x".into())], ..Position::default() };
        let json = serde_json::to_value(&full).unwrap();
        let mut tried = 0;
        for number in [1_u64 << 31, 1 << 32, (1 << 53) + 2, 1 << 63, u64::MAX] {
            for place in 0.. {
                let (mut changed, mut left) = (json.clone(), place);
                put(&mut changed, &mut left, &number.into());
                if changed == json {
                    break;
                }
                // Of a smaller type, it is no state.
                let Ok(position) = serde_json::from_value::<Position>(changed) else { continue };
                write_state(run.path(), &Weights::new(), header(position.clone(), &ours)).unwrap();
                let read = read_state(run.path(), &ours);
                tried += 1;
                // A loss may be so large; it is written with a point or an exponent.
                let text = serde_json::to_string(&position).unwrap();
                let counts = [',', '}', ']'].iter().any(|end| text.contains(&format!("{number}{end}")));
                match number > 1 << 53 && counts {
                    true => {
                        let error = read.unwrap_err().to_string();
                        assert!(error.contains("last.state.safetensors"), "{error}");
                    }
                    false => drop(read),
                }
            }
        }
        assert!(tried > 60, "{tried}");
        for position in [
            Position { step: 8, ..Position::default() },
            Position { epoch: 1_000_001, ..Position::default() },
            Position { rollbacks: 6, ..Position::default() },
        ] {
            write_state(run.path(), &Weights::new(), header(position, &ours)).unwrap();
            let error = read_state(run.path(), &ours).unwrap_err().to_string();
            assert!(error.contains("claims"), "{error}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_a_state_is_found_and_the_one_before_still_loads() {
        let run = tempfile::tempdir().unwrap();
        let ours = setting("a = 1", 7);
        let state = Weights::from([("model.w".to_string(), offshoot_graph::Tensor::full([5], 0.5))]);
        for step in [1, 2] {
            let position = Position { step, ..Position::default() };
            write_state(run.path(), &state, header(position, &ours)).unwrap();
        }
        let path = run.path().join(STATE_FILE);
        let whole = fs::read(&path).unwrap();
        let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
        let changed = (0..whole.len()).map(|at| {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            changed
        });
        for bytes in cut.chain(changed) {
            fs::write(&path, &bytes).unwrap();
            let error = read_state(run.path(), &ours).unwrap_err().to_string();
            assert!(error.contains("last.state.safetensors") && error.contains("delete it"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(read_state(run.path(), &ours).unwrap().unwrap().header.position.step, 1);
    }

    #[test]
    fn a_folder_is_for_one_process_which_tidies_up() {
        let run = tempfile::tempdir().unwrap();
        assert!(lock(&run.path().join("nothing")).unwrap().is_none());
        fs::write(run.path().join(".last.safetensors1x.tmp"), "half").unwrap();
        let others = ["notes.tmp", ".mine.tmp", ".best.safetensors.tmp", ".best.safetensors-mine.tmp"];
        others.iter().for_each(|name| fs::write(run.path().join(name), "mine").unwrap());
        let held = lock(run.path()).unwrap().unwrap();
        assert!(others.iter().all(|name| run.path().join(name).exists()));
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), others.len());
        let error = lock(run.path()).unwrap_err().to_string();
        assert!(error.contains("another process") && error.contains("`out`"), "{error}");
        drop(held);
        assert!(lock(run.path()).unwrap().is_some());
    }

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
