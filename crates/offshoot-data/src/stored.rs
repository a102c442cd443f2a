//! Where the bytes of a picture are: a file of its own, or a member of a `.tar`, which is read in place.
//!
//! A picture in an archive has the path of the archive with its name in it behind: `shards/000.tar/00017.jpg`. The archive's list of
//! members is made at the first of its pictures, kept, and made again when the file has changed.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

#[cfg(feature = "folders")]
mod archive;

#[cfg(feature = "folders")]
pub(crate) use self::archive::Archive;

/// The bytes of a picture, from the first to the last.
#[derive(Debug)]
pub struct PictureReader {
    file: File,
    /// Where the picture begins in the file.
    start: u64,
    bytes: u64,
    /// How many of its bytes were read.
    at: u64,
}

impl PictureReader {
    /// How many there are.
    pub fn size(&self) -> u64 {
        self.bytes
    }
}

impl Read for PictureReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = into.len().min(left);
        let read = self.file.read(&mut into[..most])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for PictureReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let place = place.ok_or_else(outside)?;
        self.file.seek(SeekFrom::Start(self.start.checked_add(place).ok_or_else(outside)?))?;
        self.at = place;
        Ok(place)
    }
}

/// Opens a picture.
///
/// # Errors
/// When there is none at this path, or it cannot be opened.
pub fn open_picture(path: &Path) -> io::Result<PictureReader> {
    match offshoot_files::open(path) {
        Ok(file) => {
            let bytes = file.metadata()?.len();
            Ok(PictureReader { file, start: 0, bytes, at: 0 })
        }
        Err(error) => in_archive(path, error),
    }
}

/// What the system says of the file that a picture is in, and how many bytes the picture has.
///
/// # Errors
/// Those of [`open_picture`].
pub fn picture_file(path: &Path) -> io::Result<(Metadata, u64)> {
    match path.metadata() {
        Ok(data) => {
            let bytes = data.len();
            Ok((data, bytes))
        }
        Err(error) => {
            let reader = in_archive(path, error)?;
            Ok((reader.file.metadata()?, reader.bytes))
        }
    }
}

/// The picture within an archive; `error` says why it is no file of its own.
#[cfg(feature = "folders")]
fn in_archive(path: &Path, error: io::Error) -> io::Result<PictureReader> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    if !matches!(error.kind(), NotADirectory | NotFound) {
        return Err(error);
    }
    let Some(file) = path.ancestors().skip(1).find(|path| path.is_file()) else { return Err(error) };
    let archive = Archive::known(file)?;
    let name = path.strip_prefix(file).ok().and_then(Path::to_str);
    let Some((start, bytes)) = name.and_then(|name| archive.place(name)) else { return Err(error) };
    let mut file = offshoot_files::open(file)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(PictureReader { file, start, bytes, at: 0 })
}

#[cfg(not(feature = "folders"))]
fn in_archive(_: &Path, error: io::Error) -> io::Result<PictureReader> {
    Err(error)
}
