//! The files of a run directory.
//!
//! | file | holds |
//! | --- | --- |
//! | `recipe.toml` | every setting, see [`crate::recipe::Recipe`] |
//! | `best.safetensors` | the model of the epoch with the best validation accuracy (of equals, the lower loss) |
//! | `last.safetensors` | the model of the last checkpoint |
//! | `last.state.safetensors` | what `--resume` needs beside it: what trains, the optimizer, the position |
//! | `previous.state.safetensors` | the same of the checkpoint before, which `--resume` takes where that one is missing |
//! | `results.csv` | a line an epoch, see [`crate::EpochRow`] |
//! | `average.safetensors` | the average of the last epochs, where the recipe asks for it |
//! | `pictures.csv` | a line a picture: `train` or `val`, its class, its path, and size, times and BLAKE3 hash of its file |
//! | `health.csv` | the norms of gradient and weights in each epoch, and what part of the weights an update changes: a line for all that trains, and one a group |
//! | `predictions.csv` | the logits of `best.safetensors` for each validation picture |
//! | `log.csv` | when and by which command the run was started, and its warnings; see [`crate::log`] |
//! | `report.html` | all that is known of the run on one page |
//! | `explanations.json` | what the predictions for pictures on that page rest on, where that was asked for |
//! | `tensorboard/` | the numbers of `results.csv` and `health.csv` as TensorBoard reads them |
//! | `base.onnx` | the classifier that the run started from, where that was an ONNX file |
//! | `base.onnx.sha256` | its SHA-256 |
//! | `groups.csv` | a line for each group of parameters in each stage: whether and how fast it learns |

mod error;

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::Path;

use offshoot_files::open_folder;
use offshoot_formats::atomic::write_atomically;
use offshoot_formats::checkpoint::state_dict;
use offshoot_formats::error::Problem;
use offshoot_formats::{FormatError, safetensors};
use offshoot_graph::Model;
use offshoot_graph::text::escaped;

use crate::csv::quoted;
use crate::groups::GroupRow;

pub use error::RunError;
pub use offshoot_infer::files::{BASE_FILE, BASE_HASH_FILE, BEST_FILE, LAST_FILE, RECIPE_FILE};

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
/// A line for all that trains in each epoch, and one for each group of it.
pub const HEALTH_FILE: &str = "health.csv";
/// A line for each validation picture: path, class, and the logit of each class by the best model.
pub const PREDICTIONS_FILE: &str = "predictions.csv";
/// A line for each start of a run, its command, and each warning, note and picture left out.
pub const LOG_FILE: &str = "log.csv";
/// The name of the page in a run directory.
pub const REPORT_FILE: &str = "report.html";

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

/// Writes a model under torchvision's keys, its metadata beside them, so that torchvision loads it with `strict=True`.
///
/// # Errors
/// When it cannot be written.
pub fn write_model(path: &Path, model: &Model) -> Result<(), FormatError> {
    let metadata = serde_json::to_string(&model.metadata).expect("metadata has a JSON form");
    safetensors::write(path, &state_dict(model), &metadata)
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

/// Whether there is a checkpoint in the folder `run`.
pub fn has_checkpoint(run: &Path) -> bool {
    [STATE_FILE, PREVIOUS_FILE].iter().any(|name| run.join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
