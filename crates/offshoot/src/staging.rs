//! Files that appear together, after they were looked at.

use std::fs;
use std::path::{Path, PathBuf};

use offshoot_files::{plain, sync_folder};
use offshoot_formats::FormatError;
use offshoot_formats::temporary::{Temporary, at_once};
use offshoot_graph::text::shown;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::manifest::Manifest;

/// A folder beside the place of a file (or folder) that is being made. What is made in it, under its final name and with
/// what belongs beside it, moves to its place at once. Dropped before that, it leaves nothing behind.
pub(crate) struct Staging {
    target: PathBuf,
    folder: TempDir,
    _temporary: Temporary,
}

impl Staging {
    /// For what will be called `target`.
    ///
    /// # Errors
    /// When the folder of `target` cannot be written to, or something is there that no manifest of ours describes.
    pub(crate) fn new(target: &Path) -> Result<Staging> {
        check_ours(target, target)?;
        let failed = |source| Error::Io { path: target.to_owned(), action: "create", source: plain(source) };
        let name = target.file_name().ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        let folder = || tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempdir_in(parent(target));
        let (folder, temporary) = Temporary::make(folder, |folder| folder.path()).map_err(failed)?;
        Ok(Staging { target: target.to_owned(), folder, _temporary: temporary })
    }

    /// Where to make it.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(self.target.file_name().unwrap_or_default())
    }

    /// An error about what is being made, with the name that it will have.
    pub(crate) fn named(&self, error: Error) -> Error {
        let place = |path: PathBuf| match path.strip_prefix(self.folder.path()) {
            Ok(below) => parent(&self.target).join(below),
            Err(_) => path,
        };
        let [staged, named] = [self.path(), self.target.clone()].map(shown);
        match error {
            Error::Format(FormatError { path, problem }) => FormatError { path: place(path), problem }.into(),
            Error::Io { path, action, source } => Error::Io { path: place(path), action, source },
            Error::Input(text) => Error::Input(text.replace(&staged, &named)),
            other => other,
        }
    }

    /// What has been made so far: the file and what belongs beside it.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(crate) fn made(&self) -> Result<Vec<PathBuf>> {
        let failed = |source| Error::Io { path: self.target.clone(), action: "write", source };
        let entries = fs::read_dir(self.folder.path()).map_err(failed)?;
        let mut paths: Vec<PathBuf> =
            entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(failed)?;
        paths.sort_by_key(|path| (*path == self.path(), path.clone()));
        Ok(paths)
    }

    /// Moves everything to its place, the file itself last.
    ///
    /// # Errors
    /// When something is in the way that is a link, or that no manifest of ours describes.
    pub(crate) fn commit(self) -> Result<()> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, action: "write", source }
        };
        let made = self.made()?;
        let place = |staged: &PathBuf| parent(&self.target).join(staged.file_name().unwrap_or_default());
        let places: Vec<PathBuf> = made.iter().map(place).collect();
        places.iter().try_for_each(|place| check_ours(place, &self.target))?;
        at_once(|| -> Result<()> {
            for (staged, place) in made.iter().zip(&places) {
                if staged.is_dir() && place.is_dir() {
                    // A folder cannot replace another: the old one steps aside, and goes with the temporary folder.
                    fs::rename(place, self.folder.path().join(".replaced")).map_err(failed(place))?;
                }
                fs::rename(staged, place).map_err(failed(place))?;
            }
            Ok(())
        })?;
        sync_folder(parent(&self.target)).map_err(failed(&self.target))
    }
}

/// Checks that what stands at `path`, if anything does, is an earlier export of ours, which a new one replaces.
///
/// # Errors
/// When it is something else.
pub fn check_replaceable(path: &Path) -> Result<()> {
    check_ours(path, path)
}

/// Checks that what stands at `place`, if anything does, is of an earlier export to `target`: its manifest beside it, or what that
/// describes, as it was written.
fn check_ours(place: &Path, target: &Path) -> Result<()> {
    let Ok(found) = place.symlink_metadata() else { return Ok(()) };
    let refuse = |what: &str| {
        let place = shown(place);
        Err(Error::Input(format!("{place}: {what}; move or remove it, or write elsewhere with --out")))
    };
    if found.is_symlink() {
        return refuse("a symbolic link is in the way");
    }
    let ours = match Manifest::read_beside(target)? {
        None => false,
        // Both are in one folder, which may be spelled in two ways.
        Some(_) if place.file_name() == Manifest::beside(target).file_name() => true,
        Some(manifest) => manifest.owns(place)?,
    };
    match ours {
        true => Ok(()),
        false => refuse(
            "there is a file or folder already that is not an unchanged export of offshoot, and it would be lost",
        ),
    }
}

/// Folders that were made for files. Dropped, it removes those that hold nothing: where no file came of it, nothing is left.
pub struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    /// Makes `folder` and the folders above it that are missing.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn new(folder: &Path) -> Result<MadeFolders> {
        let missing = folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        let failed = |source| Error::Io { path: folder.to_owned(), action: "create", source };
        if !folder.as_os_str().is_empty() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        Ok(MadeFolders(missing))
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        // The innermost comes first; a folder with something in it is not removed.
        for folder in &self.0 {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
