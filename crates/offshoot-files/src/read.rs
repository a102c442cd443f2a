//! Opening and reading.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// What a file is read as, and how large one of that kind can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// In words, with an article.
    name: &'static str,
    /// More bytes than any such file has.
    most: u64,
}

impl Kind {
    /// A recipe.
    pub const RECIPE: Kind = Kind { name: "a recipe", most: 1 << 20 };
    /// What stands beside an export.
    pub const MANIFEST: Kind = Kind { name: "a manifest", most: 1 << 24 };
    /// The measurements of the formats of a run.
    pub const MEASUREMENTS: Kind = Kind { name: "a file of measurements", most: 1 << 24 };
    /// A table of a run, a line for each epoch or picture.
    pub const TABLE: Kind = Kind { name: "a table of a run", most: 1 << 32 };
    /// A mark that offshoot leaves in a folder.
    pub const MARK: Kind = Kind { name: "a mark", most: 1 << 12 };
    /// What the operating system says of itself and of a process.
    pub const SYSTEM: Kind = Kind { name: "a file of the system", most: 1 << 24 };

    /// An error for a file of `bytes` bytes that is larger than any of its kind.
    fn check(self, bytes: u64) -> io::Result<()> {
        let Kind { name, most } = self;
        if bytes <= most {
            return Ok(());
        }
        let text = format!("it has {bytes} bytes, and {name} has at most {most}");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
    }
}

/// Opens a regular file to read it. Everything else is refused, and nothing is waited for: opening a pipe would wait for its
/// writer, and a device may never end or do something when it is opened.
///
/// # Errors
/// When there is no such file, it cannot be opened, or is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    check_regular(&path.metadata()?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    // Somebody may have put a pipe in its place since.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a folder, to lock it or to put its names on the disk.
///
/// # Errors
/// When there is no such folder, or it cannot be opened.
pub fn open_folder(path: &Path) -> io::Result<File> {
    match path.metadata()? {
        meta if meta.is_dir() => OpenOptions::new().read(true).open(path),
        _ => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// Puts the names in a folder on the disk, so that they survive a power loss. Windows has no such call and needs none.
///
/// # Errors
/// When it cannot be opened, or the disk refuses.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { open_folder(path)?.sync_all() } else { Ok(()) }
}

/// [`open`] of a file that is not larger than one of its kind.
///
/// # Errors
/// Those of [`open`], and when it is larger.
pub fn open_within(path: &Path, kind: Kind) -> io::Result<File> {
    let file = open(path)?;
    kind.check(file.metadata()?.len())?;
    Ok(file)
}

/// All bytes of a file.
///
/// # Errors
/// Those of [`open_within`], and when it cannot be read.
pub fn read(path: &Path, kind: Kind) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // It may grow meanwhile, and files of the system say that they are empty.
    open_within(path, kind)?.take(kind.most.saturating_add(1)).read_to_end(&mut bytes)?;
    kind.check(bytes.len() as u64)?;
    Ok(bytes)
}

/// The text of a file.
///
/// # Errors
/// Those of [`read()`], and when it is not UTF-8.
pub fn read_text(path: &Path, kind: Kind) -> io::Result<String> {
    let text = String::from_utf8(read(path, kind)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

fn check_regular(meta: &Metadata) -> io::Result<()> {
    match meta {
        meta if meta.is_file() => check_holes(meta),
        meta if meta.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder")),
        _ => Err(io::Error::other("it is a pipe, a device or a socket, not a file")),
    }
}

/// Files that are larger are looked at for holes.
const LARGE: u64 = 1 << 30;
/// A file of which a smaller part than this is on the disk holds nothing worth the memory that it claims.
const LEAST_PART: u64 = 64;

/// An error for a file that is all holes but for a little: it would take the memory of what it says it holds. Where the file
/// system does not say what is on the disk it is believed.
#[cfg(unix)]
fn check_holes(meta: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (bytes, stored) = (meta.len(), meta.blocks().saturating_mul(512));
    if bytes <= LARGE || stored == 0 || stored >= bytes / LEAST_PART {
        return Ok(());
    }
    let text =
        format!("it says that it has {bytes} bytes, of which {stored} are on the disk: the rest is sparse");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
}

#[cfg(not(unix))]
fn check_holes(_meta: &Metadata) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_refused_by_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let kind = |most| Kind { name: "a letter", most };
        assert_eq!(read_text(&path, kind(4)).unwrap(), "text");
        let error = read_text(&path, kind(3)).unwrap_err().to_string();
        assert_eq!(error, "it has 4 bytes, and a letter has at most 3");
        // A hole of a terabyte: it is refused before it is read.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path, Kind::RECIPE).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        #[cfg(unix)]
        {
            std::fs::write(&path, [1; 100]).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
            assert!(open(&path).unwrap_err().to_string().contains("sparse"));
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, Kind::RECIPE).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(open(folder.path()).unwrap_err().to_string().contains("folder"));
        assert_eq!(open(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn pipes_sockets_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        for path in [at("pipe"), at("link"), at("socket"), "/dev/zero".into(), "/dev/null".into()] {
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains("not a file"), "{}: {error}", path.display());
        }
    }
}
