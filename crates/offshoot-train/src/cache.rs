//! Files of cached features: the outputs of frozen layers, one row a picture.
//!
//! A file's name is a hash of all that decides about its numbers, so runs that share a folder share what they can and
//! never take one for the other. Nothing in a file is believed before it is checked: the footer with the file, each row when
//! it is read. Rows are read with `seek` and `read`, through the system's page cache, instead of a memory map: there a
//! file that somebody cuts short kills the process, here it is a row to be computed again.
//!
//! | bytes | hold |
//! | --- | --- |
//! | 8 | [`MAGIC`] |
//! | a row for each picture | its elements, little-endian, and [`CHECK`] bytes of a hash keyed by the file's key |
//! | as many as the next field says | [`Footer`] as JSON |
//! | 8 | length of the footer, little-endian |
//! | 32 | BLAKE3 of the footer |

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use offshoot_graph::remedy::{CACHE_BUDGET, CACHE_DIR};
use offshoot_graph::text::shown;

use blake3::{Hash, Hasher};
use half::f16;
use offshoot_files::{open, read};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

const MAGIC: [u8; 8] = *b"offshft1";
const CHECK: usize = 8;
const TAIL: u64 = 8 + 32;
const EXTENSION: &str = "features";
/// Says that files of ours may be removed from a folder: only one that was made or empty for them has it. Backup programs
/// know the name and the first line (bford.info/cachedir).
const TAG_FILE: &str = "CACHEDIR.TAG";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# The files with .features here are cached backbone features of offshoot.\n";
/// How long a temporary file that nobody holds is left alone: its owner may be about to lock it.
const ABANDONED: Duration = Duration::from_secs(60);

/// Where features are cached, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder, which runs may share; `cache` in the run directory where not given.
    pub folder: Option<PathBuf>,
    /// The bytes that files in the folder may take together; the least recently used ones are removed first. 0 keeps none.
    pub budget: u64,
}

impl Default for CacheOptions {
    /// In the run directory, 4 GiB.
    fn default() -> CacheOptions {
        CacheOptions { folder: None, budget: 4 << 30 }
    }
}

/// How features are stored, and rounded before they are trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheType {
    /// As they are.
    #[default]
    F32,
    /// Rounded to half precision, which takes half the room and changes the result in its last digits. Training without
    /// a cache rounds the same way.
    F16,
}

impl CacheType {
    fn size(self) -> usize {
        match self {
            CacheType::F32 => 4,
            CacheType::F16 => 2,
        }
    }

    /// `values` as they come back from a file.
    pub(crate) fn round(self, values: &mut [f32]) {
        match self {
            CacheType::F32 => {}
            CacheType::F16 => values.iter_mut().for_each(|x| *x = half(*x).to_f32()),
        }
    }

    fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            CacheType::F32 => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            CacheType::F16 => bytes.extend(values.iter().flat_map(|&x| half(x).to_le_bytes())),
        }
    }

    fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            CacheType::F32 => {
                values.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)));
            }
            CacheType::F16 => {
                values.extend(bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()));
            }
        }
    }
}

/// The nearest half; the largest one for what is beyond, so that no infinity appears.
fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// Why features are not cached. Training goes on without.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("they take {} and the cache may have {}; a larger {CACHE_BUDGET} would fit them", mib(*.needed), mib(*.budget), CACHE_BUDGET = CACHE_BUDGET)]
    NoRoom { needed: u64, budget: u64 },
    #[error(
        "{}: there is no room left, and nothing is removed from a folder with files of others; give a folder of its own with {CACHE_DIR}, or a larger {CACHE_BUDGET}",
        shown(folder), CACHE_DIR = CACHE_DIR, CACHE_BUDGET = CACHE_BUDGET)]
    Unmarked { folder: PathBuf },
    #[error("{}: {error}; choose another folder with {CACHE_DIR}", shown(path), CACHE_DIR = CACHE_DIR)]
    Io { path: PathBuf, error: io::Error },
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The form of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    /// The shape of one picture's features.
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: CacheType,
    /// Pictures, usable or not.
    pub(crate) rows: usize,
}

impl Layout {
    /// Bytes of a row with its check.
    fn stride(&self) -> Option<usize> {
        let elements = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        elements.checked_mul(self.dtype.size())?.checked_add(CHECK)
    }

    /// Bytes of the rows.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = self.stride().and_then(|stride| stride.checked_mul(self.rows));
        bytes.map_or(u64::MAX, |bytes| bytes as u64)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    key: String,
    layout: Layout,
    /// Rows without a picture that can be used, with the reason.
    unusable: Vec<(usize, String)>,
}

/// A folder of files of features.
pub(crate) struct Cache {
    folder: PathBuf,
    budget: u64,
}

impl Cache {
    /// The cache of a run in the folder `run`; `None` where it may hold nothing.
    pub(crate) fn new(options: &CacheOptions, run: &Path) -> Option<Cache> {
        let folder = options.folder.clone().unwrap_or_else(|| run.join("cache"));
        (options.budget > 0).then_some(Cache { folder, budget: options.budget })
    }

    fn path(&self, key: Hash) -> PathBuf {
        self.folder.join(format!("{key}.{EXTENSION}"))
    }

    /// Whether the folder was marked as one that files are removed from.
    fn is_marked(&self) -> bool {
        read(&self.folder.join(TAG_FILE), offshoot_files::Kind::MARK).is_ok_and(|text| text == TAG.as_bytes())
    }

    /// Makes the folder, and marks it where nothing but files of ours is in it. Another folder holds files of ours as well,
    /// but none is ever removed from it.
    fn prepare_folder(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut names = fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.file_name()));
        if names.try_fold(true, |all, name| name.map(|name| all && kind(&name).is_some()))? {
            // Somebody else may have marked it meanwhile.
            let tag = File::options().write(true).create_new(true).open(self.folder.join(TAG_FILE));
            tag.and_then(|mut file| file.write_all(TAG.as_bytes())).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })?;
        }
        Ok(())
    }

    /// The file under `key`, if there is one and it is whole. Another is removed.
    pub(crate) fn open(&self, key: Hash) -> Option<RowFile> {
        let path = self.path(key);
        let file = open(&path).ok()?;
        let removable = self.is_marked();
        let found = RowFile::read_footer(file, &path, key, removable);
        if found.is_none() && removable {
            let _ = fs::remove_file(&path);
        }
        found
    }

    /// Starts the file under `key`, one of `files` of the same size that are needed together.
    pub(crate) fn create(&self, key: Hash, layout: Layout, files: u64) -> Result<Writer, CacheError> {
        let path = self.path(key);
        let failed = |error| CacheError::Io { path: self.folder.clone(), error };
        let needed = layout.bytes().saturating_mul(files);
        if needed > self.budget {
            return Err(CacheError::NoRoom { needed, budget: self.budget });
        }
        self.prepare_folder().map_err(failed)?;
        self.make_room(layout.bytes())?;
        let temporary = self.temporary(key).map_err(failed)?;
        // Says that somebody is at it. Where files cannot be locked, its age has to do.
        let _ = temporary.as_file().try_lock();
        let mut out = BufWriter::with_capacity(1 << 20, temporary);
        out.write_all(&MAGIC).map_err(failed)?;
        Ok(Writer { path, key, layout, out, removable: self.is_marked(), row: 0, bytes: Vec::new() })
    }

    fn temporary(&self, key: Hash) -> io::Result<NamedTempFile> {
        let prefix = format!(".{key}");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // the umask applies
        builder.tempfile_in(&self.folder).map_err(offshoot_files::plain)
    }

    /// Removes what was not used for longest until `needed` bytes more fit, and what killed processes left. Files that some
    /// process has open stay, and so does all that is not ours.
    fn make_room(&self, needed: u64) -> Result<(), CacheError> {
        let marked = self.is_marked();
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(data) = entry.metadata().ok().filter(fs::Metadata::is_file) else { continue };
            let used = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match kind(&entry.file_name()) {
                Some(Kind::Features) => files.push((used, data.len(), path)),
                Some(Kind::Temporary) if marked && used.elapsed().is_ok_and(|age| age > ABANDONED) => {
                    remove_unused(&path);
                }
                _ => {}
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total.saturating_add(needed) <= self.budget {
                break;
            }
            if marked && remove_unused(&path) {
                total -= bytes;
            }
        }
        match total.saturating_add(needed) > self.budget {
            true if !marked && total > 0 => Err(CacheError::Unmarked { folder: self.folder.clone() }),
            true => Err(CacheError::NoRoom { needed: total.saturating_add(needed), budget: self.budget }),
            false => Ok(()),
        }
    }
}

/// What a file in the folder is, by a name that only offshoot gives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `<64 hexadecimal digits>.features`
    Features,
    /// `.<64 hexadecimal digits>*.tmp`
    Temporary,
}

fn kind(name: &OsStr) -> Option<Kind> {
    let name = name.to_str()?;
    let (kind, name) = match name.strip_prefix('.') {
        Some(rest) => (Kind::Temporary, rest.strip_suffix(".tmp")?),
        None => (Kind::Features, name.strip_suffix(".features")?),
    };
    let (key, rest) = name.split_at_checked(2 * blake3::OUT_LEN)?;
    let digits = key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (digits && (kind == Kind::Temporary || rest.is_empty())).then_some(kind)
}

/// Removes a file unless a process holds a lock on it.
fn remove_unused(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && fs::remove_file(path).is_ok()
}

/// A file in the making, under a temporary name. Dropped, it leaves nothing behind.
pub(crate) struct Writer {
    path: PathBuf,
    key: Hash,
    layout: Layout,
    out: BufWriter<NamedTempFile>,
    /// Whether the file may be removed later, where it is broken.
    removable: bool,
    /// The next row.
    row: usize,
    bytes: Vec<u8>,
}

impl Writer {
    fn failed(&self) -> impl Fn(io::Error) -> CacheError + use<> {
        let path = self.path.clone();
        move |error| CacheError::Io { path: path.clone(), error }
    }

    /// Writes the features of the picture `row`. Rows come in order; those left out are unusable.
    pub(crate) fn put(&mut self, row: usize, values: &[f32]) -> Result<(), CacheError> {
        let failed = self.failed();
        self.skip_to(row).map_err(&failed)?;
        self.bytes.clear();
        self.layout.dtype.encode(values, &mut self.bytes);
        let check = check(self.key, row, &self.bytes);
        self.bytes.extend(check);
        self.out.write_all(&self.bytes).map_err(&failed)?;
        self.row = row + 1;
        Ok(())
    }

    /// Fills the place of rows that have no picture.
    fn skip_to(&mut self, row: usize) -> io::Result<()> {
        let empty = vec![0; self.layout.stride().unwrap_or_default()];
        (self.row..row).try_for_each(|_| self.out.write_all(&empty))
    }

    /// Gives the file its name. It is not synced: what a power loss takes is found out when it is read.
    pub(crate) fn finish(mut self, unusable: Vec<(usize, String)>) -> Result<RowFile, CacheError> {
        let failed = self.failed();
        self.skip_to(self.layout.rows).map_err(&failed)?;
        let footer = Footer { key: self.key.to_string(), layout: self.layout, unusable };
        let text = serde_json::to_vec(&footer).expect("a footer has a JSON form");
        let tail = [&text[..], &(text.len() as u64).to_le_bytes(), blake3::hash(&text).as_bytes()].concat();
        self.out.write_all(&tail).map_err(&failed)?;
        let temporary = self.out.into_inner().map_err(|e| failed(e.into_error()))?;
        temporary.persist(&self.path).map_err(|e| failed(e.error))?;
        let file = open(&self.path).map_err(&failed)?;
        let file = RowFile::read_footer(file, &self.path, self.key, self.removable);
        file.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }
}

/// The bytes that stand behind a row.
fn check(key: Hash, row: usize, bytes: &[u8]) -> [u8; CHECK] {
    let mut hasher = Hasher::new_keyed(key.as_bytes());
    hasher.update(&(row as u64).to_le_bytes()).update(bytes);
    let mut check = [0; CHECK];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// A file of features, open to read.
#[derive(Debug)]
pub(crate) struct RowFile {
    file: File,
    path: PathBuf,
    key: Hash,
    layout: Layout,
    removable: bool,
    unusable: Vec<(usize, String)>,
}

impl RowFile {
    fn read_footer(mut file: File, path: &Path, key: Hash, removable: bool) -> Option<RowFile> {
        // While it is held nobody removes this file to free space.
        let _ = file.try_lock_shared();
        let len = file.metadata().ok()?.len();
        let end = len.checked_sub(TAIL)?;
        let mut magic = [0; 8];
        file.read_exact(&mut magic).ok()?;
        let (mut length, mut hash) = ([0; 8], [0; 32]);
        file.seek(SeekFrom::Start(end)).ok()?;
        file.read_exact(&mut length).ok()?;
        file.read_exact(&mut hash).ok()?;
        let rows = end.checked_sub(u64::from_le_bytes(length))?.checked_sub(MAGIC.len() as u64)?;
        let mut text = vec![0; usize::try_from(u64::from_le_bytes(length)).ok()?];
        file.seek(SeekFrom::Start(end - text.len() as u64)).ok()?;
        file.read_exact(&mut text).ok()?;
        if magic != MAGIC || blake3::hash(&text) != hash {
            return None;
        }
        let footer: Footer = serde_json::from_slice(&text).ok()?;
        if footer.key != key.to_string() || footer.layout.bytes() != rows {
            return None;
        }
        let _ = file.set_modified(SystemTime::now());
        let Footer { layout, unusable, .. } = footer;
        Some(RowFile { file, path: path.to_owned(), key, layout, removable, unusable })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Rows without a picture that can be used, with the reason.
    pub(crate) fn unusable(&self) -> &[(usize, String)] {
        &self.unusable
    }

    /// Appends the row to `values`. `None` when it is not what was written; the file is then removed, for the next run to
    /// write it again.
    pub(crate) fn read(&self, row: usize, values: &mut Vec<f32>) -> Option<()> {
        let read = self.read_checked(row, values);
        if read.is_none() && self.removable {
            let _ = fs::remove_file(&self.path);
        }
        read
    }

    fn read_checked(&self, row: usize, values: &mut Vec<f32>) -> Option<()> {
        let stride = self.layout.stride()?;
        let mut bytes = vec![0; stride];
        let mut file = &self.file;
        file.seek(SeekFrom::Start((MAGIC.len() + row.checked_mul(stride)?) as u64)).ok()?;
        file.read_exact(&mut bytes).ok()?;
        let (data, found) = bytes.split_at(stride - CHECK);
        if check(self.key, row, data) != found {
            return None;
        }
        self.layout.dtype.decode(data, values);
        Some(())
    }
}

#[cfg(test)]
mod tests;
