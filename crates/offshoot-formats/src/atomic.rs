//! Files that appear whole or not at all.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use offshoot_files::plain;
use tempfile::NamedTempFile;

use crate::error::{FormatError, Problem};
use crate::temporary::Temporary;

/// A file being written under a temporary name in the folder of its final one.
///
/// [`commit`](AtomicFile::commit) gives it its name; dropped before that, it leaves nothing behind. A reader
/// therefore sees the old file or the new one, never a part, even when the machine loses power. Only a killed
/// process can leave the temporary file, whose name starts with a dot and ends in `.tmp`.
pub struct AtomicFile {
    path: PathBuf,
    writer: BufWriter<NamedTempFile>,
    temporary: Temporary,
}

impl AtomicFile {
    /// Starts a file that will be called `path`.
    ///
    /// # Errors
    /// When `path` names no file, or its folder cannot be written to.
    pub fn create(path: impl Into<PathBuf>) -> Result<AtomicFile, FormatError> {
        let path = path.into();
        let failed = |error| Problem::Io { action: "create", error: plain(error) }.at(&path);
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        if path.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // the umask applies
        let made = Temporary::make(|| builder.tempfile_in(folder(&path)), |file| file.path());
        let (file, temporary) = made.map_err(failed)?;
        Ok(AtomicFile { path, writer: BufWriter::with_capacity(1 << 20, file), temporary })
    }

    /// Where the bytes are until [`commit`](AtomicFile::commit), for a check of what was written.
    /// Flush before reading it.
    pub fn temporary_path(&self) -> &Path {
        self.writer.get_ref().path()
    }

    /// Puts the bytes on the disk and gives the file its name, replacing what had it.
    ///
    /// # Errors
    /// When the disk is full or the name cannot be taken. The file that had the name is then untouched.
    pub fn commit(self) -> Result<(), FormatError> {
        self.finish(None)
    }

    /// [`commit`](AtomicFile::commit), where the file that had the name is called `previous` from then on. There is always
    /// one of the two: a process killed in between leaves only `previous`.
    ///
    /// # Errors
    /// Those of `commit`. While the bytes are written and put on the disk, the file that had the name is untouched.
    pub fn commit_keeping(self, previous: &Path) -> Result<(), FormatError> {
        self.finish(Some(previous))
    }

    fn finish(self, previous: Option<&Path>) -> Result<(), FormatError> {
        let AtomicFile { path, writer, temporary: _temporary } = self;
        let finish = || -> io::Result<()> {
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            if let Some(previous) = previous {
                match std::fs::rename(&path, previous) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            file.persist(&path).map_err(|e| e.error)?;
            offshoot_files::sync_folder(folder(&path))
        };
        finish().map_err(|error| Problem::Io { action: "write", error: plain(error) }.at(&path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes).map_err(plain)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().map_err(plain)
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.writer.seek(to).map_err(plain)
    }
}

/// Writes the file `path` through `fill`, whole or not at all.
///
/// # Errors
/// Those of `fill`, of the disk and of the folder; each names `path`.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut AtomicFile) -> io::Result<()>,
) -> Result<(), FormatError> {
    let mut file = AtomicFile::create(path)?;
    fill(&mut file).map_err(|error| Problem::Io { action: "write", error }.at(path))?;
    file.commit()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        fs::write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new bytes").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read(file.temporary_path()).unwrap(), b"new bytes");
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new bytes");
        assert_eq!(names(folder.path()), ["model.bin"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        fs::write(&path, b"old").unwrap();
        let error = write_atomically(&path, |file| {
            file.write_all(&[7; 4096])?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        let message = error.to_string();
        assert!(message.contains("model.bin") && message.contains("disk full"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["model.bin"]);
    }

    #[test]
    fn the_file_before_is_kept_and_a_file_given_up_touches_neither() {
        let folder = tempfile::tempdir().unwrap();
        let [path, previous] = ["now", "before"].map(|name| folder.path().join(name));
        for round in 0..3_u8 {
            let mut file = AtomicFile::create(&path).unwrap();
            file.write_all(&[round]).unwrap();
            file.commit_keeping(&previous).unwrap();
            assert_eq!(fs::read(&path).unwrap(), [round]);
            assert_eq!(fs::read(&previous).ok(), round.checked_sub(1).map(|round| vec![round]));
        }
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(&[9]).unwrap();
        drop(file);
        assert_eq!([&path, &previous].map(|path| fs::read(path).unwrap()), [[2], [1]]);
        assert_eq!(names(folder.path()), ["before", "now"]);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_the_file_as_the_umask_says() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("ours");
        let plain = folder.path().join("plain");
        write_atomically(&ours, |_| Ok(())).unwrap();
        fs::write(&plain, b"").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn a_missing_folder_or_a_folder_in_the_way_is_an_error_that_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("no/such/x.bin"), folder.path().to_owned()] {
            let message = write_atomically(&path, |_| Ok(())).unwrap_err().to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
    }
}
