//! What has come of a file: beside its place under its name with `.part` at the end, until it is whole.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use offshoot_formats::temporary::Temporary;
use offshoot_graph::remedy::OUT;
use offshoot_graph::text::shown;

use super::io_error;
use crate::error::{Error, Result};
use crate::hash::sha256_of;

/// How often one process looks whether another one is done with the file.
const LOOK: Duration = Duration::from_millis(50);

/// The file, which no other process downloads to as long as this lives. An empty one is removed when it is dropped.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// Where nothing has come yet, so that a signal removes the file.
    empty: Option<Temporary>,
    /// It has another name now, or none.
    gone: bool,
}

impl Part {
    /// Opens the part of `target`, made where there is none. Waits as long as another process downloads it, and `waiting` is given how
    /// much that has got. `None` where `target` is there then.
    ///
    /// # Errors
    /// When something else has the name, it cannot be made, or the other process has got nothing for the time `stalled`.
    pub(super) fn open(
        target: &Path,
        stalled: Duration,
        waiting: &mut dyn FnMut(u64),
    ) -> Result<Option<Part>> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::Input(format!("{}: this is no name of a file", shown(target))))?;
        let mut part = name.to_owned();
        part.push(".part");
        let path = target.with_file_name(part);
        loop {
            let (file, empty) = open(&path)?;
            wait(&file, &path, stalled, waiting)?;
            // The other process has renamed or removed it, if there was one.
            if !is_at(&file, &path)? {
                continue;
            }
            let part = Part { path, file, empty, gone: false };
            return Ok((!target.exists()).then_some(part));
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(io_error(&self.path, "read"))?.len())
    }

    pub(super) fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(io_error(&self.path, "write"))
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.empty = None;
        self.file.write_all(bytes).map_err(io_error(&self.path, "write"))
    }

    /// The SHA-256 of the very file that is open, whatever has its name by now.
    pub(super) fn sha256(&mut self) -> Result<String> {
        self.file.sync_all().map_err(io_error(&self.path, "write"))?;
        self.file.rewind().and_then(|()| sha256_of(&mut self.file)).map_err(io_error(&self.path, "read"))
    }

    pub(super) fn remove(mut self) -> Result<()> {
        self.gone = true;
        fs::remove_file(&self.path).map_err(io_error(&self.path, "remove"))
    }

    /// Gives the file its final name.
    pub(super) fn keep_as(mut self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).map_err(io_error(target, "create"))?;
        self.gone = true;
        sync_folder(target)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.gone && self.file.metadata().is_ok_and(|meta| meta.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the part at `path`, or makes an empty one.
fn open(path: &Path) -> Result<(File, Option<Temporary>)> {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    loop {
        let make = || Ok((options.clone().create_new(true).open(path)?, path.to_owned()));
        match Temporary::make(make, |(_, path)| path) {
            Ok(((file, _), temporary)) => return Ok((file, Some(temporary))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(io_error(path, "create")(source)),
        }
        let refused = |what: &str| {
            Error::advice(format_args!(
                "{}: {what}; remove it, or choose another file with {OUT}",
                shown(path)
            ))
        };
        // Another process may have removed it since.
        let Ok(meta) = fs::symlink_metadata(path) else { continue };
        if !meta.is_file() {
            return Err(refused("a download would go there, and it is no plain file"));
        }
        match options.open(path) {
            Ok(file) => {
                let meta = file.metadata().map_err(io_error(path, "read"))?;
                return if is_ours(&meta, path)? {
                    Ok((file, None))
                } else {
                    Err(refused(
                        "a download would go on there, and the file belongs to another user or has a second name",
                    ))
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error(path, "open")(source)),
        }
    }
}

/// Whether a file that was there is one that this user's downloads have left: another user could change it after it has been checked,
/// and writing to one with a second name changes what has that name.
#[cfg(unix)]
fn is_ours(meta: &Metadata, path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let mine = tempfile::tempfile_in(folder(path)).and_then(|file| file.metadata());
    let mine = mine.map_err(io_error(path, "create"))?;
    Ok(meta.is_file() && meta.nlink() <= 1 && meta.uid() == mine.uid())
}

#[cfg(not(unix))]
fn is_ours(meta: &Metadata, _: &Path) -> Result<bool> {
    Ok(meta.is_file())
}

/// Locks `file`, after all others have done with it.
fn wait(file: &File, path: &Path, stalled: Duration, waiting: &mut dyn FnMut(u64)) -> Result<()> {
    let (mut before, mut since) = (0, Instant::now());
    // Where files cannot be locked, whoever downloads twice at once is found out by the hash.
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        let bytes = file.metadata().map_err(io_error(path, "read"))?.len();
        if bytes != before {
            (before, since) = (bytes, Instant::now());
        }
        if since.elapsed() > stalled {
            return Err(Error::advice(format_args!(
                "{}: another process downloads it, and has got nothing for {} s; end that one, or choose another file with {OUT}",
                shown(path),
                stalled.as_secs()
            )));
        }
        waiting(bytes);
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether `file` still has the name `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let open = file.metadata().map_err(io_error(path, "read"))?;
    Ok(fs::symlink_metadata(path).is_ok_and(|at| (at.dev(), at.ino()) == (open.dev(), open.ino())))
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> Result<bool> {
    Ok(path.exists())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the new name of a file last.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder(path);
    offshoot_files::sync_folder(folder).map_err(io_error(folder, "write"))
}
