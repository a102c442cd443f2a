//! Files that are opened to be read.

use std::fs::File;
use std::path::Path;

use crate::error::{FormatError, Problem};

/// The regular file at `path`.
pub(crate) fn open_plain(path: &Path) -> Result<File, FormatError> {
    offshoot_files::open(path).map_err(|error| Problem::Io { action: "open", error }.at(path))
}
