//! What can go wrong with a model file. Every message names the file, the place in it, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use offshoot_graph::remedy::{LAST, worded};
use offshoot_graph::text::{escaped, shown};

/// A file that could not be read or written, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", shown(path), escaped(&problem.to_string()))]
pub struct FormatError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system refused.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried, as a verb: "open", "write".
        action: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// The content is of no format that is read here.
    #[error("not a file of weights: {found}. Give a PyTorch .pth or a .safetensors file")]
    Unrecognised {
        /// What the content looks like.
        found: String,
    },
    /// The file contradicts itself or stops early.
    #[error("{place}: {what}. The file is damaged or cut short: fetch or save it again")]
    Damaged {
        /// Where in the file.
        place: String,
        /// What does not hold.
        what: String,
    },
    /// The file does not hold what was written into it.
    #[error(
        "the file is damaged: its content does not have the SHA-256 that stands in it. Put back a copy that is whole, or make the file \
         again; of a run, {LAST} takes the weights of its last checkpoint. (A program that changes weights on purpose must leave the \
         metadata `{key}` out.)", LAST = LAST)]
    Hash {
        /// The metadata key of the hash.
        key: &'static str,
    },
    /// The file asks for more memory than a file of its size has a use for.
    #[error("{place}: {what}, above the limit of {limit}. Nothing was allocated for it")]
    TooLarge {
        /// Where in the file.
        place: String,
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A pickle asks for a call that weights do not need.
    #[error(
        "{place}: the pickle asks to call `{callable}`, which weights never need. Nothing was run. \
         If you trust where the file comes from, load it in PyTorch and save `model.state_dict()` alone"
    )]
    ForbiddenCall {
        /// Where in the file.
        place: String,
        /// What it wants to call, `module.name`.
        callable: String,
    },
    /// A valid file that uses something we do not read.
    #[error("{place}: {what}. {way_out}")]
    Unsupported {
        /// Where in the file.
        place: String,
        /// What is not read.
        what: String,
        /// What to do instead.
        way_out: String,
    },
}

impl Problem {
    /// A [`Problem::Damaged`].
    pub fn damaged(place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem::Damaged { place: place.into(), what: what.into() }
    }

    /// A [`Problem::Unsupported`]. What to do may name remedies, as in [`worded`].
    pub fn unsupported(
        place: impl Into<String>,
        what: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Problem {
        let way_out = worded(&way_out.into());
        Problem::Unsupported { place: place.into(), what: what.into(), way_out }
    }

    /// A read that failed at `place`: the system says so, or else a decoder or an early end, which is damage.
    pub fn read(place: impl Into<String>, error: io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Problem::damaged(place, "the file ends here"),
            _ if error.raw_os_error().is_some() => Problem::Io { action: "read", error },
            _ => Problem::damaged(place, error.to_string()),
        }
    }

    /// This problem, in the file at `path`.
    pub fn at(self, path: &Path) -> FormatError {
        FormatError { path: path.to_owned(), problem: self }
    }
}
