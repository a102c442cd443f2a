//! Data sets on disk. Folders of pictures: `DATA/train/<class>/*` with `DATA/val/<class>/*`, or `DATA/<class>/*` split by a fraction.
//!
//! Other spellings of `train` and `val` are known too (`Training`, `val2017`, `test_set`), see [`Dataset::open`].
//!
//! Classes are the folder names in byte order (torchvision's order). A class folder is searched to any depth, links
//! are followed, names that begin with a dot and what tools leave behind (`__MACOSX`) are passed over, and pictures are
//! sorted by the bytes of their path. A file counts as a picture if its content looks like one or its name does (`.jpg`,
//! `.png`, ..., also of kinds that are not read, such as `.jp2`); what cannot be used is skipped and named. Anything else
//! (`Thumbs.db`, notes) is counted by its file extension.
//!
//! [`table`] reads data sets in tables.

mod error;
mod files;
mod layout;
mod parts;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use offshoot_graph::Task;
use offshoot_graph::text::shown;

use offshoot_graph::random::{Purpose, Random};

pub use self::error::FolderError;
use self::error::listed;
pub use self::files::picture_ending;
use self::files::{check, find};
use self::layout::{ClassFolders, Kind, Layout, class_folders};
pub use self::table::{Columns, ColumnsError, TableError, data_exists, is_table, picture_folder};
use crate::decode::{DecodeOptions, PictureError};
use crate::loader::Sample;

/// How a folder or a table is read.
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
    /// For a table: names of columns that are not the usual ones.
    pub columns: Columns,
    /// For a table: the folder that its paths are relative to, in place of its own.
    pub root: Option<PathBuf>,
    /// Whether a picture has one class, any number of them, or numbers.
    pub task: Task,
}

impl Default for FolderOptions {
    /// A fifth for validation, seed 0, not strict, the default limits, the usual columns, one class a picture.
    fn default() -> FolderOptions {
        FolderOptions {
            val_fraction: 0.2,
            seed: 0,
            strict: false,
            decode: DecodeOptions::default(),
            columns: Columns::default(),
            root: None,
            task: Task::Single,
        }
    }
}

/// The pictures to train and to validate with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Class names, in byte order; of [`Task::Regression`], the names of the targets, in the order given.
    pub classes: Vec<String>,
    /// Pictures to train with, class by class, sorted by path.
    pub train: Vec<Sample>,
    /// Pictures to validate with, class by class, sorted by path.
    pub val: Vec<Sample>,
    /// What the loss of each picture to train with is multiplied by; empty where nothing says so.
    pub weights: Vec<f32>,
    /// Files that cannot be used, sorted by path within each folder. Rows of a table, by line.
    pub skipped: Vec<PictureError>,
    /// What is worth knowing about how the folder was read, a sentence each.
    pub notes: Vec<String>,
    /// How many files are no pictures, by file extension.
    pub others: BTreeMap<String, usize>,
}

/// Pictures whose classes are those of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labelled {
    /// The pictures; labels are indices into the model's classes.
    pub samples: Vec<Sample>,
    /// Classes of the model without a picture.
    pub absent: Vec<String>,
    /// Files that cannot be used.
    pub skipped: Vec<PictureError>,
    /// What is worth knowing about how the folder was read, a sentence each.
    pub notes: Vec<String>,
}

/// Pictures without classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// The files: in the order given, the content of a folder sorted by path.
    pub paths: Vec<PathBuf>,
    /// Files that cannot be used.
    pub skipped: Vec<PictureError>,
}

impl Dataset {
    /// Finds the pictures under `root` and checks the header of each.
    ///
    /// `root` has a folder for each class, or folders for its parts that have them. Parts are known by their names, in upper
    /// or lower case and with words such as `set` or `images` (`train`, `training`; `val`, `valid`, `validation`, `dev`;
    /// `test`, `testing`, `eval`, `holdout`), and by holding folders. Where there is `val`, `test` is left out; where there
    /// is not, `test` is validated with; [`Dataset::notes`] say so. Names of parts on folders that cannot be such are an
    /// error, unless other class folders stand beside them.
    ///
    /// Without parts, `val_fraction` of each class is kept for validation, drawn by `seed`: the nearest
    /// whole number, at least one picture of a class that has two, and never all.
    ///
    /// `root` may be a table too (`.csv`, `.tsv`, `.jsonl`, or WebDataset's `.tar`, also as `name-{000..015}.tar`), with a row for each picture: its columns are `path`, `image` or `file_name`,
    /// relative to the table, and `label` (for [`Task::Multi`] `labels`, or one column of 0 and 1 for each class; for [`Task::Regression`] `target`, or the columns that
    /// [`FolderOptions::columns`] names); and `split`, `group` (rows of a group stay on one side of the split) and `weight`, where there
    /// are such.
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
        if is_table(root) {
            return table::dataset(root, options);
        }
        check_task(root, options.task)?;
        let Layout { kind, notes } = Layout::of(root)?;
        let mut data = Dataset { notes, ..Dataset::default() };
        let path = || root.to_owned();
        match kind {
            Kind::Split { train: Some(train), val: Some(val) } => {
                data.split_by_folder(&train, &val, options)?
            }
            Kind::Split { train: Some(train), val: None } => {
                return Err(FolderError::NoVal { path: path(), train });
            }
            Kind::Split { train: None, val } => {
                return Err(FolderError::NoTrain { path: path(), val: val.unwrap_or_else(path) });
            }
            Kind::Classes(folders) => data.split_by_seed(root, &folders, options)?,
        }
        for sample in data.train.iter_mut().chain(&mut data.val) {
            of_task(sample, options.task);
        }
        Ok(data)
    }

    fn split_by_folder(
        &mut self,
        train: &Path,
        val: &Path,
        options: &FolderOptions,
    ) -> Result<(), FolderError> {
        let folders = class_folders(train, &mut self.notes)?;
        self.classes = check_classes(train, &folders)?;
        let val_folders = class_folders(val, &mut self.notes)?;
        let extra: Vec<_> = val_folders.keys().filter(|name| !folders.contains_key(*name)).cloned().collect();
        if !extra.is_empty() {
            return Err(FolderError::ValClasses { train: train.to_owned(), val: val.to_owned(), extra });
        }
        let mut absent = Vec::new();
        for (label, class) in self.classes.clone().into_iter().enumerate() {
            let samples = self.samples(&class, label, &folders[&class], options)?;
            self.train.extend(samples);
            let before = self.skipped.len();
            let found = match val_folders.get(&class) {
                Some(folder) => self.pictures(folder, options)?,
                None => Vec::new(),
            };
            let is_empty = found.is_empty();
            self.val.extend(found.into_iter().map(|path| Sample::new(path, label)));
            match (is_empty, val_folders.get(&class)) {
                (false, _) => {}
                // There were some: losing them all is not the same as having none.
                (true, Some(folder)) if self.skipped.len() > before => {
                    let (path, skipped) = (folder.clone(), self.skipped[before..].to_vec());
                    return Err(FolderError::EmptyClass { path, class, skipped });
                }
                (true, _) => absent.push(class),
            }
        }
        if self.val.is_empty() {
            return Err(FolderError::NoPicture { path: val.to_owned() });
        }
        if !absent.is_empty() {
            let (val, few) = (shown(val), listed(&absent));
            self.notes
                .push(format!("{val}: no picture of {few}; the validation figures say nothing of that"));
        }
        Ok(())
    }

    fn split_by_seed(
        &mut self,
        root: &Path,
        folders: &ClassFolders,
        options: &FolderOptions,
    ) -> Result<(), FolderError> {
        self.classes = check_classes(root, folders)?;
        for (label, (class, folder)) in folders.iter().enumerate() {
            let samples = self.samples(class, label, folder, options)?;
            let kept = kept_for_val(samples.len(), label, options);
            for (sample, is_val) in samples.into_iter().zip(kept) {
                if is_val { self.val.push(sample) } else { self.train.push(sample) }
            }
        }
        Ok(())
    }

    /// The pictures of a class, at least one.
    fn samples(
        &mut self,
        class: &str,
        label: usize,
        folder: &Path,
        options: &FolderOptions,
    ) -> Result<Vec<Sample>, FolderError> {
        let before = self.skipped.len();
        let paths = self.pictures(folder, options)?;
        if paths.is_empty() {
            let (path, class, skipped) =
                (folder.to_owned(), class.to_owned(), self.skipped[before..].to_vec());
            return Err(FolderError::EmptyClass { path, class, skipped });
        }
        Ok(paths.into_iter().map(|path| Sample::new(path, label)).collect())
    }

    fn pictures(&mut self, folder: &Path, options: &FolderOptions) -> Result<Vec<PathBuf>, FolderError> {
        let (found, mut paths) = (find(folder, &options.decode), Vec::new());
        found.others.into_iter().for_each(|(ending, n)| *self.others.entry(ending).or_default() += n);
        sort_out(found.pictures, options.strict, &mut paths, &mut self.skipped)?;
        Ok(paths)
    }
}

/// The pictures under `root` to evaluate a model with: those of `DATA/val` if there is one (else `DATA/test`), else all of
/// `DATA/<class>`; in the same way, those of a table. Each folder must be one of the model's `classes`; not every class needs a picture.
pub fn labelled(root: &Path, classes: &[String], options: &FolderOptions) -> Result<Labelled, FolderError> {
    if is_table(root) {
        return table::labelled(root, classes, options);
    }
    check_task(root, options.task)?;
    let Layout { kind, mut notes } = Layout::of(root)?;
    let (root, folders) = match kind {
        Kind::Split { val: Some(val), .. } => {
            let folders = class_folders(&val, &mut notes)?;
            (val, folders)
        }
        Kind::Split { train, val: None } => {
            let path = root.to_owned();
            return Err(FolderError::NoVal { train: train.unwrap_or_else(|| path.clone()), path });
        }
        Kind::Classes(folders) => (root.to_owned(), folders),
    };
    if folders.is_empty() {
        return Err(FolderError::NoClass { path: root });
    }
    let known: HashSet<&String> = classes.iter().collect();
    let unknown: Vec<_> = folders.keys().filter(|name| !known.contains(name)).cloned().collect();
    if !unknown.is_empty() {
        return Err(FolderError::UnknownClass { path: root, unknown, classes: classes.to_vec() });
    }
    let mut result = Labelled { notes, ..Labelled::default() };
    for (label, class) in classes.iter().enumerate() {
        let before = result.samples.len();
        if let Some(folder) = folders.get(class) {
            let mut paths = Vec::new();
            let found = find(folder, &options.decode).pictures;
            sort_out(found, options.strict, &mut paths, &mut result.skipped)?;
            result.samples.extend(paths.into_iter().map(|path| Sample::new(path, label)));
        }
        if result.samples.len() == before {
            result.absent.push(class.clone());
        }
    }
    if result.samples.is_empty() {
        return Err(match result.skipped.into_iter().next() {
            Some(first) => FolderError::NoUsablePicture { path: root, first },
            None => FolderError::NoPicture { path: root },
        });
    }
    result.samples.iter_mut().for_each(|sample| of_task(sample, options.task));
    Ok(result)
}

/// An error where numbers are to be predicted: a folder has none. What is not there at all is told otherwise.
fn check_task(root: &Path, task: Task) -> Result<(), FolderError> {
    match task {
        Task::Regression if root.exists() => Err(FolderError::NoTargets { path: root.to_owned() }),
        Task::Single | Task::Multi | Task::Regression => Ok(()),
    }
}

/// A picture in the folder of a class has that class alone, where pictures may have several.
fn of_task(sample: &mut Sample, task: Task) {
    match task {
        Task::Single | Task::Regression => {}
        Task::Multi => *sample = Sample::several(std::mem::take(&mut sample.path), [sample.label]),
    }
}

/// The folder of training pictures in `root` where it has parts, else `root` itself.
pub fn training_folder(root: &Path) -> Result<PathBuf, FolderError> {
    Ok(match Layout::of(root)?.kind {
        Kind::Split { train: Some(train), .. } => train,
        _ => root.to_owned(),
    })
}

/// The pictures of a model's `classes` to train with: all of a data set without parts.
pub fn training(root: &Path, classes: &[String], options: &FolderOptions) -> Result<Labelled, FolderError> {
    match is_table(root) {
        true => table::training(root, classes, options),
        false => labelled(&training_folder(root)?, classes, options),
    }
}

/// The pictures among `paths`, each a file or a folder (searched like a class folder).
pub fn pictures<P: AsRef<Path>>(paths: &[P], options: &FolderOptions) -> Result<Pictures, FolderError> {
    let mut result = Pictures { paths: Vec::new(), skipped: Vec::new() };
    for path in paths.iter().map(AsRef::as_ref) {
        let metadata = metadata(path)?;
        let before = (result.paths.len(), result.skipped.len());
        let found = if metadata.is_dir() {
            find(path, &options.decode).pictures
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

fn metadata(path: &Path) -> Result<std::fs::Metadata, FolderError> {
    std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => FolderError::NotFound { path: path.to_owned() },
        _ => FolderError::Read { path: path.to_owned(), source },
    })
}

fn check_classes(root: &Path, folders: &ClassFolders) -> Result<Vec<String>, FolderError> {
    let classes: Vec<String> = folders.keys().cloned().collect();
    match &classes[..] {
        [] => Err(FolderError::NoClass { path: root.to_owned() }),
        [class] => Err(FolderError::OneClass { path: root.to_owned(), class: class.clone() }),
        _ => Ok(classes),
    }
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
