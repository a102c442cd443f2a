//! The source files of the workspace, for tests that look at them.

use std::path::{Path, PathBuf};

/// The folder of all crates.
pub(crate) fn crates() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The Rust files below a folder.
pub(crate) fn below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(below(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

/// The folder `src` of each crate.
pub(crate) fn all() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(crates()).unwrap();
    entries.map(|entry| entry.unwrap().path().join("src")).filter(|src| src.is_dir()).collect()
}
