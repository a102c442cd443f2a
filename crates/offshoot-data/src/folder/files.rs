//! The files in folders: pictures, pictures of kinds that are not read, and anything else.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::decode::{DecodeError, DecodeOptions, PictureError, kind_by_name, looks_like_picture, probe};

/// What is in a folder.
#[derive(Default)]
pub(super) struct Found {
    /// Pictures, and files that are or claim to be pictures and cannot be used, sorted by the bytes of the path.
    pub(super) pictures: Vec<Result<PathBuf, PictureError>>,
    /// How many files of other kinds are there, by file extension.
    pub(super) others: BTreeMap<String, usize>,
}

/// Everything in a folder, to any depth.
pub(super) fn find(folder: &Path, decode: &DecodeOptions) -> Found {
    let mut entries: Vec<Result<PathBuf, PictureError>> = walk(folder)
        .filter_map(|entry| match entry {
            Ok(entry) => (!entry.file_type().is_dir()).then(|| Ok(entry.into_path())),
            Err(error) => Some(Err(unwalkable(folder, &error))),
        })
        .collect();
    entries.sort_by(|a, b| path_bytes(a).cmp(path_bytes(b)));
    let checked: Vec<Result<Result<PathBuf, PictureError>, String>> = entries
        .into_par_iter()
        .map(|entry| match entry {
            Ok(path) if has_picture_name(&path) || looks_like_picture(&path) => Ok(check(path, decode)),
            Ok(path) => Err(picture_ending(&path)),
            Err(error) => Ok(Err(error)),
        })
        .collect();
    let mut found = Found::default();
    for entry in checked {
        match entry {
            Ok(picture) => found.pictures.push(picture),
            Err(ending) => *found.others.entry(ending).or_default() += 1,
        }
    }
    found
}

/// The folder's entries, without what is hidden or left behind by tools.
fn walk(folder: &Path) -> impl Iterator<Item = walkdir::Result<walkdir::DirEntry>> {
    let walk = walkdir::WalkDir::new(folder).follow_links(true).min_depth(1);
    walk.into_iter().filter_entry(|entry| !is_junk(entry.file_name()))
}

/// Whether any file in the folder, to any depth, has the name of a picture.
pub(super) fn holds_pictures(folder: &Path) -> bool {
    let is_file = |entry: &walkdir::DirEntry| !entry.file_type().is_dir();
    walk(folder).flatten().any(|entry| is_file(&entry) && has_picture_name(entry.path()))
}

/// How many pictures, by their names, lie in the folder itself.
pub(super) fn pictures_in(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_picture =
        |path: &PathBuf| !path.file_name().is_none_or(is_junk) && has_picture_name(path) && path.is_file();
    paths.filter(is_picture).count()
}

/// The file, if its header is that of a picture that can be read.
pub(super) fn check(path: PathBuf, decode: &DecodeOptions) -> Result<PathBuf, PictureError> {
    probe(&path, decode).map(|_| path)
}

fn unwalkable(folder: &Path, error: &walkdir::Error) -> PictureError {
    let path = error.path().unwrap_or(folder).to_owned();
    let reason = match error.io_error() {
        Some(error) => error.to_string(),
        None => "the link leads back to a folder that holds it".to_owned(),
    };
    PictureError { path, source: DecodeError::Read(reason) }
}

fn path_bytes(entry: &Result<PathBuf, PictureError>) -> &[u8] {
    let path = match entry {
        Ok(path) => path,
        Err(error) => &error.path,
    };
    path.as_os_str().as_encoded_bytes()
}

/// Whether a name is hidden, or one that archivers, editors and file servers leave in folders.
pub(super) fn is_junk(name: &OsStr) -> bool {
    const LEFT_BEHIND: [&str; 9] = [
        "__MACOSX",
        "__pycache__",
        "@eaDir",
        "@Recycle",
        "#recycle",
        "#snapshot",
        "lost+found",
        "$RECYCLE.BIN",
        "System Volume Information",
    ];
    name.as_encoded_bytes().starts_with(b".") || LEFT_BEHIND.iter().any(|junk| name == *junk)
}

/// What a file's name ends with, in lower case: `.txt`, or `(none)`.
pub fn picture_ending(path: &Path) -> String {
    let ending = path.extension().map(|ending| format!(".{}", ending.to_string_lossy().to_lowercase()));
    ending.unwrap_or_else(|| "(none)".to_owned())
}

pub(super) fn has_picture_name(path: &Path) -> bool {
    const READ: [&str; 25] = [
        "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff",
        "ppm", "pgm", "pbm", "pnm", "pam", "ico", "qoi", "tga", "targa", "icb", "vda", "vst",
    ];
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    READ.iter().any(|known| ending.eq_ignore_ascii_case(known)) || kind_by_name(path).is_some()
}
