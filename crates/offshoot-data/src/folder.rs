//! Folders of pictures: `DATA/train/<class>/*` with `DATA/val/<class>/*`, or `DATA/<class>/*` split by a fraction.
//!
//! Classes are the folder names in byte order (torchvision's order). A class folder is searched to any depth, links
//! are followed, names that begin with a dot are passed over, and pictures are sorted by the bytes of their path. A file
//! counts as a picture if its content looks like one or its name does (`.jpg`, `.png`, ...); what only looks so by name is
//! skipped and named. Anything else (`Thumbs.db`, notes) is passed over.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use offshoot_graph::random::{Purpose, Random};
use rayon::prelude::*;

use crate::decode::{DecodeError, DecodeOptions, PictureError, looks_like_picture, probe};

/// A picture file and its class.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// Index into the list of classes.
    pub label: usize,
}

/// How a folder is read.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderOptions {
    /// For `DATA/<class>/*`: the part of each class that is kept for validation, in 0..1.
    pub val_fraction: f64,
    /// Decides which pictures are kept for validation.
    pub seed: u64,
    /// Whether a file that cannot be used is an error instead of being skipped.
    pub strict: bool,
    /// The limits on a picture's size.
    pub decode: DecodeOptions,
}

impl Default for FolderOptions {
    /// A fifth for validation, seed 0, not strict, the default limits.
    fn default() -> FolderOptions {
        FolderOptions { val_fraction: 0.2, seed: 0, strict: false, decode: DecodeOptions::default() }
    }
}

/// The pictures to train and to validate with.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Class names, in byte order.
    pub classes: Vec<String>,
    /// Pictures to train with, class by class, sorted by path.
    pub train: Vec<Sample>,
    /// Pictures to validate with, class by class, sorted by path.
    pub val: Vec<Sample>,
    /// Files that cannot be used, sorted by path within each folder.
    pub skipped: Vec<PictureError>,
}

/// Pictures whose classes are those of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// The pictures; labels are indices into the model's classes.
    pub samples: Vec<Sample>,
    /// Classes of the model without a folder.
    pub absent: Vec<String>,
    /// Files that cannot be used.
    pub skipped: Vec<PictureError>,
}

/// Pictures without classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// The files: in the order given, the content of a folder sorted by path.
    pub paths: Vec<PathBuf>,
    /// Files that cannot be used.
    pub skipped: Vec<PictureError>,
}

/// A folder that is not a data set.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is nothing at this path.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A file stands where a folder is needed.
    #[error("{}: not a folder; a data set is a folder with one folder of pictures for each class", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder cannot be listed.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no class folder.
    #[error(
        "{}: no class in it; put the pictures into one folder for each class: DATA/<class>/*, or DATA/train/<class>/* \
         with DATA/val/<class>/*", path.display()
    )]
    NoClass {
        /// The folder.
        path: PathBuf,
    },
    /// There is one class folder only.
    #[error("{}: only one class ({class:?}) in it; telling classes apart takes at least two", path.display())]
    OneClass {
        /// The folder.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// A class folder has no picture.
    #[error(
        "{}: no picture for class {class:?} ({skipped} unusable); add pictures or remove the folder", path.display()
    )]
    EmptyClass {
        /// The class folder.
        path: PathBuf,
        /// The class.
        class: String,
        /// How many files were there that look like pictures but cannot be used.
        skipped: usize,
    },
    /// A name that is not UTF-8 cannot be stored as a class.
    #[error("{}: the name of a class must be UTF-8; rename the folder", path.display())]
    ClassName {
        /// The class folder.
        path: PathBuf,
    },
    /// `DATA/train` holds classes and there is no `DATA/val`.
    #[error(
        "{}: has `train` but no `val`; add `val` with a folder for each class, or give {} to have a part kept for \
         validation", path.display(), path.join("train").display()
    )]
    NoVal {
        /// The folder.
        path: PathBuf,
    },
    /// `DATA/train` and `DATA/val` have different classes.
    #[error("{}: `train` and `val` must have the same classes; {}", path.display(), difference(missing, extra))]
    ValClasses {
        /// The folder.
        path: PathBuf,
        /// Classes that only `train` has.
        missing: Vec<String>,
        /// Classes that only `val` has.
        extra: Vec<String>,
    },
    /// The folder has classes that the model does not know.
    #[error(
        "{}: the model does not know {}; its classes are {}", path.display(), listed(unknown), listed(classes)
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
    #[error("{}: no picture in it", path.display())]
    NoPicture {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be used, and that is an error by request (strict).
    #[error(transparent)]
    Picture(#[from] PictureError),
}

fn difference(missing: &[String], extra: &[String]) -> String {
    let only = |part: &str, classes: &[String]| match classes {
        [] => None,
        classes => Some(format!("only `{part}` has {}", listed(classes))),
    };
    [only("train", missing), only("val", extra)].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The first few names, and how many more.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

impl Dataset {
    /// Finds the pictures under `root` and checks the header of each.
    ///
    /// Without a `val` folder, `val_fraction` of each class is kept for validation, drawn by `seed`: the nearest
    /// whole number, at least one picture of a class that has two, and never all.
    ///
    /// ```no_run
    /// use offshoot_data::{Dataset, FolderOptions};
    /// let data = Dataset::open("photos".as_ref(), &FolderOptions { seed: 7, ..FolderOptions::default() })?;
    /// println!("{} classes, {} to train with", data.classes.len(), data.train.len());
    /// for skipped in &data.skipped {
    ///     eprintln!("skipped {skipped}");
    /// }
    /// # Ok::<(), offshoot_data::FolderError>(())
    /// ```
    pub fn open(root: &Path, options: &FolderOptions) -> Result<Dataset, FolderError> {
        if !(0.0..1.0).contains(&options.val_fraction) {
            return Err(FolderError::Fraction { fraction: options.val_fraction });
        }
        match Layout::of(root)? {
            Layout::Split { train, val } => split_by_folder(root, train, val, options),
            Layout::Classes(folders) => split_by_seed(root, folders, options),
        }
    }
}

/// The pictures under `root` to evaluate a model with: those of `DATA/val` if there is one, else all of
/// `DATA/<class>`. Each folder must be one of the model's `classes`; not every class needs a folder.
pub fn labelled(root: &Path, classes: &[String], options: &FolderOptions) -> Result<Labelled, FolderError> {
    let folders = match Layout::of(root) {
        Ok(Layout::Split { val, .. }) => val,
        Ok(Layout::Classes(folders)) => folders,
        Err(error) => return Err(error),
    };
    if folders.is_empty() {
        return Err(FolderError::NoClass { path: root.to_owned() });
    }
    let unknown: Vec<_> = folders.keys().filter(|name| !classes.contains(name)).cloned().collect();
    if !unknown.is_empty() {
        return Err(FolderError::UnknownClass { path: root.to_owned(), unknown, classes: classes.to_vec() });
    }
    let absent = classes.iter().filter(|class| !folders.contains_key(*class)).cloned().collect();
    let mut result = Labelled { samples: Vec::new(), absent, skipped: Vec::new() };
    for (label, class) in classes.iter().enumerate() {
        if let Some(folder) = folders.get(class) {
            let paths = class_pictures(class, folder, options, &mut result.skipped)?;
            result.samples.extend(paths.into_iter().map(|path| Sample { path, label }));
        }
    }
    Ok(result)
}

/// The pictures among `paths`, each a file or a folder (searched like a class folder).
pub fn pictures<P: AsRef<Path>>(paths: &[P], options: &FolderOptions) -> Result<Pictures, FolderError> {
    let mut result = Pictures { paths: Vec::new(), skipped: Vec::new() };
    for path in paths.iter().map(AsRef::as_ref) {
        let metadata = metadata(path)?;
        let before = (result.paths.len(), result.skipped.len());
        let found = if metadata.is_dir() {
            find_pictures(path, &options.decode)
        } else {
            vec![check(path.to_owned(), &options.decode)]
        };
        sort_out(found, options.strict, &mut result.paths, &mut result.skipped)?;
        if before == (result.paths.len(), result.skipped.len()) {
            return Err(FolderError::NoPicture { path: path.to_owned() });
        }
    }
    Ok(result)
}

/// Class folders by name; a `BTreeMap` of strings is in byte order.
type ClassFolders = BTreeMap<String, PathBuf>;

enum Layout {
    Split { train: ClassFolders, val: ClassFolders },
    Classes(ClassFolders),
}

impl Layout {
    fn of(root: &Path) -> Result<Layout, FolderError> {
        if !metadata(root)?.is_dir() {
            return Err(FolderError::NotAFolder { path: root.to_owned() });
        }
        let (train, val) = (root.join("train"), root.join("val"));
        let folders_in =
            |path: &Path| if path.is_dir() { class_folders(path) } else { Ok(ClassFolders::new()) };
        let train_folders = folders_in(&train)?;
        if train_folders.is_empty() {
            return Ok(Layout::Classes(class_folders(root)?));
        }
        if val.is_dir() {
            return Ok(Layout::Split { train: train_folders, val: class_folders(&val)? });
        }
        // `train` with folders in it beside other folders may be a class of its own (of railways, say).
        let folders = class_folders(root)?;
        let only_splits =
            folders.keys().all(|name| ["train", "test", "valid", "validation"].contains(&&name[..]));
        if only_splits {
            Err(FolderError::NoVal { path: root.to_owned() })
        } else {
            Ok(Layout::Classes(folders))
        }
    }
}

fn metadata(path: &Path) -> Result<std::fs::Metadata, FolderError> {
    std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => FolderError::NotFound { path: path.to_owned() },
        _ => FolderError::Read { path: path.to_owned(), source },
    })
}

fn class_folders(root: &Path) -> Result<ClassFolders, FolderError> {
    let unreadable = |source| FolderError::Read { path: root.to_owned(), source };
    let mut folders = ClassFolders::new();
    for entry in std::fs::read_dir(root).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().filter(|name| !is_hidden(name)) else { continue };
        if path.is_dir() {
            let name = name.to_str().ok_or_else(|| FolderError::ClassName { path: path.clone() })?.to_owned();
            folders.insert(name, path);
        }
    }
    Ok(folders)
}

fn check_classes(root: &Path, folders: &ClassFolders) -> Result<Vec<String>, FolderError> {
    let classes: Vec<String> = folders.keys().cloned().collect();
    match &classes[..] {
        [] => Err(FolderError::NoClass { path: root.to_owned() }),
        [class] => Err(FolderError::OneClass { path: root.to_owned(), class: class.clone() }),
        _ => Ok(classes),
    }
}

fn split_by_folder(
    root: &Path,
    train: ClassFolders,
    val: ClassFolders,
    options: &FolderOptions,
) -> Result<Dataset, FolderError> {
    let classes = check_classes(&root.join("train"), &train)?;
    let only_in = |some: &ClassFolders, others: &ClassFolders| -> Vec<String> {
        some.keys().filter(|name| !others.contains_key(*name)).cloned().collect()
    };
    let (missing, extra) = (only_in(&train, &val), only_in(&val, &train));
    if !missing.is_empty() || !extra.is_empty() {
        return Err(FolderError::ValClasses { path: root.to_owned(), missing, extra });
    }
    let mut skipped = Vec::new();
    let train = all_samples(&train, options, &mut skipped)?.concat();
    let val = all_samples(&val, options, &mut skipped)?.concat();
    Ok(Dataset { classes, train, val, skipped })
}

fn split_by_seed(
    root: &Path,
    folders: ClassFolders,
    options: &FolderOptions,
) -> Result<Dataset, FolderError> {
    let classes = check_classes(root, &folders)?;
    let mut data = Dataset { classes, train: Vec::new(), val: Vec::new(), skipped: Vec::new() };
    for samples in all_samples(&folders, options, &mut data.skipped)? {
        let kept = kept_for_val(samples.len(), samples[0].label, options);
        for (sample, is_val) in samples.into_iter().zip(kept) {
            if is_val { data.val.push(sample) } else { data.train.push(sample) }
        }
    }
    Ok(data)
}

/// For each of `count` pictures of a class, whether it is kept for validation.
fn kept_for_val(count: usize, label: usize, options: &FolderOptions) -> Vec<bool> {
    let wanted = (count as f64 * options.val_fraction).round() as usize;
    let least = usize::from(options.val_fraction > 0.0 && count >= 2);
    let kept = wanted.clamp(least, (count - 1).max(least));
    let mut order: Vec<usize> = (0..count).collect();
    Random::new(options.seed, 0, label as u64, Purpose::Split).shuffle(&mut order);
    let mut is_val = vec![false; count];
    order[..kept].iter().for_each(|&i| is_val[i] = true);
    is_val
}

/// The pictures of each class; none of the lists is empty.
fn all_samples(
    folders: &ClassFolders,
    options: &FolderOptions,
    skipped: &mut Vec<PictureError>,
) -> Result<Vec<Vec<Sample>>, FolderError> {
    let mut result = Vec::with_capacity(folders.len());
    for (label, (class, folder)) in folders.iter().enumerate() {
        let paths = class_pictures(class, folder, options, skipped)?;
        result.push(paths.into_iter().map(|path| Sample { path, label }).collect());
    }
    Ok(result)
}

fn class_pictures(
    class: &str,
    folder: &Path,
    options: &FolderOptions,
    skipped: &mut Vec<PictureError>,
) -> Result<Vec<PathBuf>, FolderError> {
    let (mut paths, before) = (Vec::new(), skipped.len());
    sort_out(find_pictures(folder, &options.decode), options.strict, &mut paths, skipped)?;
    if paths.is_empty() {
        let skipped = skipped.len() - before;
        return Err(FolderError::EmptyClass { path: folder.to_owned(), class: class.to_owned(), skipped });
    }
    Ok(paths)
}

fn sort_out(
    found: Vec<Result<PathBuf, PictureError>>,
    strict: bool,
    paths: &mut Vec<PathBuf>,
    skipped: &mut Vec<PictureError>,
) -> Result<(), FolderError> {
    for result in found {
        match result {
            Ok(path) => paths.push(path),
            Err(error) if strict => return Err(error.into()),
            Err(error) => skipped.push(error),
        }
    }
    Ok(())
}

/// Everything in a folder that is or claims to be a picture, sorted by the bytes of the path.
fn find_pictures(folder: &Path, decode: &DecodeOptions) -> Vec<Result<PathBuf, PictureError>> {
    let walk = walkdir::WalkDir::new(folder).follow_links(true).min_depth(1);
    let visible = walk.into_iter().filter_entry(|entry| !is_hidden(entry.file_name()));
    let mut entries: Vec<Result<PathBuf, PictureError>> = visible
        .filter_map(|entry| match entry {
            Ok(entry) => (!entry.file_type().is_dir()).then(|| Ok(entry.into_path())),
            Err(error) => Some(Err(unwalkable(folder, &error))),
        })
        .collect();
    entries.sort_by(|a, b| path_bytes(a).cmp(path_bytes(b)));
    let checked = entries.into_par_iter().filter_map(|entry| match entry {
        Ok(path) if has_picture_name(&path) || looks_like_picture(&path) => Some(check(path, decode)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    checked.collect()
}

fn check(path: PathBuf, decode: &DecodeOptions) -> Result<PathBuf, PictureError> {
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

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn has_picture_name(path: &Path) -> bool {
    const EXTENSIONS: [&str; 14] = [
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "heic", "heif",
        "avif",
    ];
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}
