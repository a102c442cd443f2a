//! Files and folders under temporary names. Each is removed when what made it is done with it; a program that is ended by a signal
//! removes them by [`remove_all`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// No code that holds the lock can leave the list half-changed.
fn paths() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something is there under a temporary name, as long as this lives.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Makes it by `make`, under the name that `path` reads from what came out.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn make<T>(
        make: impl FnOnce() -> io::Result<T>,
        path: impl FnOnce(&T) -> &Path,
    ) -> io::Result<(T, Temporary)> {
        let mut paths = paths();
        let made = make()?;
        let path = path(&made).to_owned();
        paths.insert(path.clone());
        Ok((made, Temporary(path)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        paths().remove(&self.0);
    }
}

/// Does something that [`remove_all`] waits for: files that get their names together.
pub fn at_once<T>(work: impl FnOnce() -> T) -> T {
    let _paths = paths();
    work()
}

/// Removes all that is there under a temporary name, and lets no more be made: the process is about to end.
pub fn remove_all() {
    let paths = paths();
    for path in paths.iter() {
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    std::mem::forget(paths);
}
