//! What the files of pictures were when a run was started, and whether they still are.

use std::fs::Metadata;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use offshoot_data::{Sample, picture_file};
use rayon::prelude::*;

use crate::fingerprint;

/// The columns of a [`PictureFile`] in `pictures.csv`.
pub(crate) const COLUMNS: [&str; 5] = ["bytes", "modified", "changed", "inode", "blake3"];

/// The size, the times and the number of a file. All are text, as `pictures.csv` has them: they are only compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) bytes: String,
    /// When its content was last written, in nanoseconds since 1970.
    modified: String,
    /// When its content or its attributes last changed, which no program can set; empty where the system does not say.
    changed: String,
    /// Its number in the file system: files that were written at once have the same times, and may have the same size. Empty where the
    /// system does not say.
    inode: String,
}

/// A file of a picture. Fields are empty where it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PictureFile {
    pub(crate) stat: Stat,
    /// The hash of its bytes.
    pub(crate) hash: String,
}

impl Stat {
    fn of(path: &Path) -> Stat {
        let Ok((data, bytes)) = picture_file(path) else { return Stat::default() };
        let modified = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let [changed, inode] = changed_and_inode(&data);
        let modified = modified.map_or(String::new(), |time| time.as_nanos().to_string());
        Stat { bytes: bytes.to_string(), modified, changed, inode }
    }
}

#[cfg(unix)]
fn changed_and_inode(data: &Metadata) -> [String; 2] {
    use std::os::unix::fs::MetadataExt as _;
    [format!("{}.{:09}", data.ctime(), data.ctime_nsec()), data.ino().to_string()]
}

#[cfg(not(unix))]
fn changed_and_inode(_: &Metadata) -> [String; 2] {
    [String::new(), String::new()]
}

impl PictureFile {
    fn of(path: &Path) -> PictureFile {
        let stat = Stat::of(path);
        let hash = fingerprint::content(path).map_or(String::new(), |hash| hash.to_string());
        PictureFile { stat, hash }
    }

    /// The file as it is now. Its content is only read where its size or its times are not these.
    fn now(&self, path: &Path) -> PictureFile {
        match Stat::of(path) {
            stat if stat == self.stat && !self.hash.is_empty() => self.clone(),
            _ => PictureFile::of(path),
        }
    }

    /// The fields in the order of [`COLUMNS`].
    pub(crate) fn fields(&self) -> [&str; 5] {
        let Stat { bytes, modified, changed, inode } = &self.stat;
        [bytes, modified, changed, inode, &self.hash]
    }

    pub(crate) fn from_fields(fields: [&String; 5]) -> PictureFile {
        let [bytes, modified, changed, inode, hash] = fields.map(String::clone);
        PictureFile { stat: Stat { bytes, modified, changed, inode }, hash }
    }

    /// The size and the hash, where they are known.
    pub(crate) fn identity(&self) -> Option<(u64, blake3::Hash)> {
        Some((self.stat.bytes.parse().ok()?, blake3::Hash::from_hex(&self.hash).ok()?))
    }

    /// How the content of `now` differs; `None` where it does not, or is not known of both.
    pub(crate) fn difference(&self, now: &PictureFile) -> Option<String> {
        if self.hash.is_empty() || now.hash.is_empty() || self.hash == now.hash {
            return None;
        }
        Some(match self.stat.bytes == now.stat.bytes {
            true => format!("has other content of the same size, {} bytes", now.stat.bytes),
            false => format!("had {} bytes and has {} now", self.stat.bytes, now.stat.bytes),
        })
    }
}

/// The files of `samples` as they are now, where `before` is known of them (a file each, or none). Once `stop` is set, those that
/// are left stay unknown.
pub(crate) fn files(samples: &[Sample], before: &[PictureFile], stop: &AtomicBool) -> Vec<PictureFile> {
    let file = |(place, sample): (usize, &Sample)| match (stop.load(Ordering::Relaxed), before.get(place)) {
        (true, _) => PictureFile::default(),
        (false, Some(before)) => before.now(&sample.path),
        (false, None) => PictureFile::of(&sample.path),
    };
    samples.par_iter().enumerate().map(file).collect()
}
