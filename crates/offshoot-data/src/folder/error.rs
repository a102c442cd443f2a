//! Why a folder is not a data set, and what to do about it.

use std::path::{Path, PathBuf};

use offshoot_graph::text::shown;

use super::table::TableError;
use crate::decode::PictureError;

/// A folder that is not a data set.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is nothing at this path.
    #[error("{}: no such file or folder", shown(path))]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A file stands where a folder is needed.
    #[error(
        "{}: neither a folder nor a table; a data set is a folder with one folder of pictures for each class, a .csv, .tsv or .jsonl \
         with a row for each picture, or a .tar",
        shown(path)
    )]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// Numbers are to be predicted, and a folder has none.
    #[error(
        "{}: no table, and regression needs one: a .csv, .tsv, .jsonl or .tar with the number of each picture in the column `target`, or in \
         columns that the setting `columns` names, as in target=width|height",
        shown(path)
    )]
    NoTargets {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be listed.
    #[error("{}: cannot be read: {source}", shown(path))]
    Read {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no class folder.
    #[error(
        "{}: no class in it; put the pictures into one folder for each class: DATA/<class>/*, or DATA/train/<class>/* \
         with DATA/val/<class>/*",
        shown(path)
    )]
    NoClass {
        /// The folder.
        path: PathBuf,
    },
    /// There is one class folder only.
    #[error("{}: only one class ({class:?}) in it; a classifier needs at least two", shown(path))]
    OneClass {
        /// The folder.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// A class folder has no picture.
    #[error(
        "{}: no picture for class {class:?} ({}); add pictures or remove the folder",
        shown(path),
        unusable(skipped)
    )]
    EmptyClass {
        /// The class folder.
        path: PathBuf,
        /// The class.
        class: String,
        /// The files there that look like pictures but cannot be used.
        skipped: Vec<PictureError>,
    },
    /// A name that is not UTF-8 cannot be stored as a class.
    #[error("{}: the name of a class must be UTF-8; rename the folder", shown(path))]
    ClassName {
        /// The class folder.
        path: PathBuf,
    },
    /// There are training pictures and none to validate with.
    #[error(
        "{}: has `{}` but no `val`; add `val` with a folder for each class, or give {} to hold out a fraction for \
         validation",
        shown(path),
        name(train),
        shown(train)
    )]
    NoVal {
        /// The folder.
        path: PathBuf,
        /// Its folder of training pictures.
        train: PathBuf,
    },
    /// There are pictures to validate or to test with and none to train with.
    #[error(
        "{}: has `{}` but no `train`; add `train` with a folder for each class, or give {} to train with a part of it",
        shown(path),
        name(val),
        shown(val)
    )]
    NoTrain {
        /// The folder.
        path: PathBuf,
        /// Its folder of other pictures.
        val: PathBuf,
    },
    /// `DATA/val` has classes that `DATA/train` does not have.
    #[error(
        "{}: no class {} in {}, for which there are validation pictures; add training pictures, remove the folder, or give \
         {} alone to hold out a fraction of it for validation",
        shown(val),
        listed(extra),
        shown(train),
        shown(train)
    )]
    ValClasses {
        /// The folder of training pictures.
        train: PathBuf,
        /// The folder of validation pictures.
        val: PathBuf,
        /// Classes that only the latter has.
        extra: Vec<String>,
    },
    /// Folders have the names of parts and hold no class folders.
    #[error(
        "{}: {} named like a split of the data, but without a folder for each class; move the pictures to DATA/train/<class>/* \
         and DATA/val/<class>/*, or rename what is a class",
        shown(path),
        are(folders)
    )]
    FlatParts {
        /// The folder.
        path: PathBuf,
        /// The names.
        folders: Vec<String>,
    },
    /// Several folders have names of the same part.
    #[error(
        "{}: {} may all be meant for `{plain}`; name one of them `{plain}`, or join them",
        shown(path),
        listed(folders)
    )]
    SeveralParts {
        /// The folder.
        path: PathBuf,
        /// Their names.
        folders: Vec<String>,
        /// The plain name of the part.
        plain: String,
    },
    /// A folder beside a part holds the same classes and has a name that says nothing.
    #[error(
        "{}: `{}` and `{}` hold the same folders, so they are parts of the data and no classes; name them `train` and `val`",
        shown(path), folders[0], folders[1]
    )]
    UnknownPart {
        /// The folder.
        path: PathBuf,
        /// The names of the part and of the other folder.
        folders: [String; 2],
    },
    /// The data set is one folder further down.
    #[error("{}: holds `{}` and `{}`; give this folder", shown(path), parts[0], parts[1])]
    Nested {
        /// The folder that is the data set.
        path: PathBuf,
        /// Names of its parts.
        parts: [String; 2],
    },
    /// There is one folder only, and it holds folders.
    #[error(
        "{}: only one class ({class:?}) in it; if the classes are the folders in it, give {} or move them up",
        shown(path),
        shown(inner)
    )]
    OneFolder {
        /// The folder.
        path: PathBuf,
        /// The name of the one folder in it.
        class: String,
        /// The one folder in it.
        inner: PathBuf,
    },
    /// Each class has parts of its own.
    #[error(
        "{path}: {class:?} and others hold `{train}` and `{val}`; classes stand in the parts, not parts in the classes: \
         {path}/{train}/{class} and {path}/{val}/{class}", path = shown(path), train = parts[0], val = parts[1]
    )]
    PartsInClasses {
        /// The folder.
        path: PathBuf,
        /// One of the classes.
        class: String,
        /// Names of the parts in it.
        parts: [String; 2],
    },
    /// The folder has classes that the model does not know.
    #[error(
        "{}: the model does not know {}; its classes are {}",
        shown(path),
        listed(unknown),
        listed(classes)
    )]
    UnknownClass {
        /// The folder.
        path: PathBuf,
        /// Classes of the folder that the model does not have.
        unknown: Vec<String>,
        /// The model's classes.
        classes: Vec<String>,
    },
    /// The part to keep for validation is not a fraction.
    #[error("the fraction for validation is {fraction}; it must be at least 0 and below 1")]
    Fraction {
        /// The number given.
        fraction: f64,
    },
    /// There is no picture to work on.
    #[error("{}: no picture in it", shown(path))]
    NoPicture {
        /// The folder.
        path: PathBuf,
    },
    /// There are pictures, and none can be used.
    #[error("{}: no picture in it that can be used; the first: {first}", shown(path))]
    NoUsablePicture {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the first.
        first: PictureError,
    },
    /// A table is not a data set.
    #[error("{}: {source}", shown(path))]
    Table {
        /// The table.
        path: PathBuf,
        /// Why not.
        source: TableError,
    },
    /// A file cannot be used, and that is an error by request (strict).
    #[error(transparent)]
    Picture(#[from] PictureError),
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// "train" is, or "train", "val" are.
fn are(folders: &[String]) -> String {
    format!("{} {}", listed(folders), if folders.len() == 1 { "is" } else { "are" })
}

fn unusable(skipped: &[PictureError]) -> String {
    match skipped {
        [] => "0 unusable".to_owned(),
        [first, ..] => format!("{} unusable; the first: {first}", skipped.len()),
    }
}

/// The first few names, and how many more.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
