//! Files that appear together, after they were looked at.

use std::fs;
use std::path::{Path, PathBuf};

use offshoot_files::{Kind, plain, read, sync_folder};
use offshoot_formats::FormatError;
use offshoot_formats::temporary::{Temporary, at_once};
use offshoot_graph::remedy::OUT;
use offshoot_graph::text::shown;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::manifest::{Manifest, ManifestFile, name};

/// A folder beside the place of a file (or folder) that is being made. What is made in it, under its final name and with
/// what belongs beside it, moves to its place at once. Dropped before that, it leaves nothing behind.
pub(crate) struct Staging {
    target: PathBuf,
    folder: TempDir,
    _temporary: Temporary,
}

/// A text that goes with a file, such as a script or a configuration. The file's manifest holds its hash.
pub(crate) struct SideFile {
    pub(crate) path: PathBuf,
    /// Its path from the manifest's folder.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) executable: bool,
}

impl SideFile {
    pub(crate) fn in_manifest(&self) -> ManifestFile {
        ManifestFile::of_text(&self.name, &self.text)
    }

    /// Checks that what stands in its place, if anything does, is what an earlier export to `target` wrote, or the same text.
    pub(crate) fn check(&self, target: &Path) -> Result<()> {
        check_ours(&self.path, &self.name, target, Some(&self.text))
    }

    fn write(&self, staged: &Path) -> std::io::Result<()> {
        fs::write(staged, &self.text)?;
        if self.executable { make_executable(staged) } else { Ok(()) }
    }
}

/// The folder of side files among what is being made. It does not move anywhere.
const SIDE: &str = ".side";

impl Staging {
    /// For what will be called `target`.
    ///
    /// # Errors
    /// When the folder of `target` cannot be written to, or something is there that no manifest of ours describes.
    pub(crate) fn new(target: &Path) -> Result<Staging> {
        check_replaceable(target)?;
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
            Error::Advice { text, remedies } => {
                Error::Advice { text: text.replace(&staged, &named), remedies }
            }
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
        paths.retain(|path| !path.ends_with(SIDE));
        paths.sort_by_key(|path| (*path == self.path(), path.clone()));
        Ok(paths)
    }

    /// Moves everything to its place, with the side files, the file itself last.
    ///
    /// # Errors
    /// When something is in the way that is a link, or that no manifest of ours describes.
    pub(crate) fn commit(self, side_files: &[SideFile]) -> Result<()> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, action: "write", source }
        };
        let made = self.made()?;
        let place = |staged: &PathBuf| parent(&self.target).join(staged.file_name().unwrap_or_default());
        let places: Vec<PathBuf> = made.iter().map(place).collect();
        places.iter().try_for_each(|place| check_ours(place, &name(place), &self.target, None))?;
        let side = self.stage(side_files)?;
        at_once(|| -> Result<()> {
            for (staged, file) in side.iter().zip(side_files) {
                fs::rename(staged, &file.path).map_err(failed(&file.path))?;
            }
            for (staged, place) in made.iter().zip(&places) {
                if staged.is_dir() && place.is_dir() {
                    // A folder cannot replace another: the old one steps aside, and goes with the temporary folder.
                    fs::rename(place, self.folder.path().join(".replaced")).map_err(failed(place))?;
                }
                fs::rename(staged, place).map_err(failed(place))?;
            }
            Ok(())
        })?;
        let folders = side_files.iter().map(|file| parent(&file.path)).chain([parent(&self.target)]);
        folders.into_iter().try_for_each(|folder| sync_folder(folder).map_err(failed(folder)))
    }

    /// Writes side files, each beside its place in the end.
    fn stage(&self, side_files: &[SideFile]) -> Result<Vec<PathBuf>> {
        let folder = self.folder.path().join(SIDE);
        let failed = |file: &SideFile, source| Error::Io {
            path: file.path.clone(),
            action: "write",
            source: plain(source),
        };
        let staged = |(place, file): (usize, &SideFile)| {
            file.check(&self.target)?;
            let staged = folder.join(place.to_string());
            let written = fs::create_dir_all(&folder).and_then(|()| file.write(&staged));
            written.map_err(|source| failed(file, source))?;
            Ok(staged)
        };
        side_files.iter().enumerate().map(staged).collect()
    }
}

/// Checks that what stands at `path`, if anything does, is an earlier export of ours, which a new one replaces.
///
/// # Errors
/// When it is something else.
pub fn check_replaceable(path: &Path) -> Result<()> {
    check_ours(path, &name(path), path, None)
}

/// Checks that what stands at `place`, if anything does, is of an earlier export to `target`: its manifest beside it, or what that
/// describes under `name`, as it was written. A file that holds `text` already is as good.
fn check_ours(place: &Path, name: &str, target: &Path, text: Option<&str>) -> Result<()> {
    let Ok(found) = place.symlink_metadata() else { return Ok(()) };
    let refuse = |what: &str| {
        let place = shown(place);
        Err(Error::advice(format_args!("{place}: {what}; move or remove it, or write elsewhere with {OUT}")))
    };
    if found.is_symlink() {
        return refuse("a symbolic link is in the way");
    }
    let same = |text: &str| read(place, Kind::MANIFEST).is_ok_and(|bytes| bytes == text.as_bytes());
    let ours = match Manifest::read_beside(target)? {
        _ if text.is_some_and(same) => true,
        None => false,
        // Both are in one folder, which may be spelled in two ways.
        Some(_) if place.file_name() == Manifest::beside(target).file_name() => true,
        Some(manifest) => manifest.owns(place, name)?,
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

#[cfg(unix)]
fn make_executable(script: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(script)?.permissions().mode();
    fs::set_permissions(script, fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))
}

#[cfg(not(unix))]
fn make_executable(_script: &Path) -> std::io::Result<()> {
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
