//! What is wrong with a setting or a recipe.

use std::path::PathBuf;

use offshoot_formats::error::FormatError;
use offshoot_graph::remedy::OUT;
use offshoot_graph::text::{quoted, shortened, shown};

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {}", quoted(setting), shortened(reason, MESSAGE))]
pub struct SettingError {
    /// The setting, as the recipe file calls it.
    pub setting: String,
    /// What it must be, and what it is.
    pub reason: String,
}

/// The most characters of a line of what is wrong with a setting.
const MESSAGE: usize = 1000;

/// The words of a parser, without the middle of a value that it repeats.
pub(crate) fn bounded(message: &str) -> String {
    let words: Vec<_> = message.split(' ').map(quoted).collect();
    shortened(&words.join(" "), MESSAGE).into_owned()
}

/// A recipe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", shown(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no recipe: not TOML, an unknown setting, or a value of the wrong type.
    #[error("{}: {message}", shown(path))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with the line.
        message: String,
    },
    /// A setting in a file is out of range.
    #[error("{}:{line}: {problem}", shown(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The line of the setting, from 1.
        line: usize,
        /// The setting and what is wrong with it.
        problem: SettingError,
    },
    /// A setting that did not come from a file is out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A setting that has no default was not given.
    #[error("{0}; give it on the command line or in the recipe")]
    Missing(String),
    /// Settings that differ from those of the run that is resumed.
    #[error(
        "{}: the run was started with other settings: {}. Leave them out to resume it, or start another run with {OUT}",
        shown(run), conflicts.join(", "), OUT = OUT)]
    Conflict {
        /// The run directory.
        run: PathBuf,
        /// Each setting with its two values.
        conflicts: Vec<String>,
    },
    /// The recipe cannot be written.
    #[error(transparent)]
    Write(#[from] FormatError),
}
