//! What is wrong with a run directory that cannot be used.

use std::path::PathBuf;

use offshoot_formats::FormatError;
use offshoot_formats::checkpoint::KeyMismatch;
use offshoot_graph::remedy::{OUT, RESUME};
use offshoot_graph::text::shown;

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
