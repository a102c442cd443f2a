//! What the commands do, without flags and without printing: the command line and the Python module are made of these.

mod destination;
mod evaluate;
mod explain;
mod export;
mod quantize;
mod train;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use offshoot_data::{
    Columns, DecodeError, DecodeOptions, FolderOptions, PictureError, Tta, View, picture_ending,
};
use offshoot_graph::remedy::{DATA, LAST, OUT, RESUME};
use offshoot_graph::text::shown;
use offshoot_graph::{Fit, Metadata, Model, Task};
use offshoot_train::Standing;
use offshoot_train::run::{AVERAGE_FILE, BEST_FILE, LAST_FILE, PICTURES_FILE};

use crate::compare::Inputs;
use crate::error::{Error, Result};
use crate::labels::labelled;
use crate::manifest::Manifest;
use crate::memory::check_memory;
pub use crate::quantize::Measured;
use crate::source::{Loaded, ModelSource, Overrides, word};
use crate::{Dataset, Recipe, RunPictures, Transform};
use offshoot_formats::coreml::is_package;

pub use destination::{Destination, mention_others, writable_file, writable_folder};
pub use evaluate::{
    ClassEvaluation, ClassFigures, EvaluateJob, Evaluation, LabelEvaluation, RejectionFigures,
    TargetEvaluation,
};
pub use explain::{Explained, class_named, explain, explain_run};
pub use export::{Batches, EXPORT_FORMATS, ExportJob, ExportOptions, ExportReport, ExportedFile};
pub use offshoot_infer::Accepted;
pub use offshoot_infer::labels::LabelFigures;
pub use offshoot_infer::targets::TargetFigures;
pub use quantize::{CalibrationOptions, Int8File, QuantizeJob, QuantizeMode};
pub use train::{TrainJob, shared_cache};
pub use verify::{Verdict, VerifyJob};

/// Who hears what a job says while it goes on.
pub trait Listener {
    /// Something that may spoil the result, in a line.
    fn warning(&mut self, text: &str);

    /// Something that the user should know, in one line or several.
    fn note(&mut self, text: &str);

    /// How many pictures of how many have been seen.
    fn progress(&mut self, _done: u64, _total: u64) {}

    /// A model was read from this file or folder: what its network cannot do is told with this name.
    fn loaded(&mut self, _path: &Path) {}
}

/// How a table of pictures is read, where DATA is one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Which column holds what.
    pub columns: Columns,
    /// The folder that paths are relative to, in place of the table's own.
    pub root: Option<PathBuf>,
}

impl Table {
    /// How pictures that `decode` decodes are found, in a table or a folder, for a model that says this of itself.
    pub fn options(&self, decode: DecodeOptions, model: &Metadata) -> FolderOptions {
        let columns = match model.task {
            Task::Single | Task::Multi => self.columns.clone(),
            Task::Regression => self.columns.clone().or_targets(&model.classes),
        };
        let (root, task) = (self.root.clone(), model.task);
        FolderOptions { decode, columns, root, task, ..FolderOptions::default() }
    }
}

/// Reads a model, checks it against its manifest and the limit of memory, and says what was assumed.
///
/// # Errors
/// When it cannot be read, is not what its manifest says, or takes too much memory.
pub fn open(source: &ModelSource, overrides: &Overrides, listener: &mut dyn Listener) -> Result<Loaded> {
    if let ModelSource::Path(path) = source {
        Manifest::check_intact(path)?;
    }
    open_as_it_is(source, overrides, listener)
}

/// [`open`] of a file that may be another than its manifest describes.
///
/// # Errors
/// When it cannot be read, or takes too much memory.
pub fn open_as_it_is(
    source: &ModelSource,
    overrides: &Overrides,
    listener: &mut dyn Listener,
) -> Result<Loaded> {
    let loaded = source.load(overrides)?;
    check_memory(&loaded.model, source.path())?;
    listener.loaded(source.path());
    if let ModelSource::Path(path) = source {
        unfinished(path).iter().for_each(|text| listener.warning(text));
    }
    loaded.warnings.iter().for_each(|text| listener.warning(text));
    Ok(loaded)
}

/// What to say where `path` is a run that has not come to its end.
pub fn unfinished(path: &Path) -> Option<String> {
    let standing = Some(path).filter(|path| path.join(BEST_FILE).is_file()).and_then(Standing::read);
    let Standing { done, epochs, .. } = standing.filter(|standing| !standing.finished)?;
    Some(format!(
        "{}: this run is not finished ({done} of {epochs} epochs), and this is its best model so far; \
         `offshoot train {RESUME} {OUT} {}` goes on with it",
        shown(path),
        word(path)
    ))
}

/// The run directory that `source` names.
pub fn run_directory(source: &ModelSource) -> Option<&Path> {
    match source {
        ModelSource::Path(path) => Some(path.as_path()).filter(|path| path.is_dir() && !is_package(path)),
        ModelSource::Pretrained { .. } => None,
    }
}

/// The last checkpoint of the run directory that `source` names, where `last` asks for it, else `source`.
///
/// # Errors
/// When it is no run directory, or has no checkpoint.
pub fn checkpoint_of(source: &ModelSource, last: bool) -> Result<ModelSource> {
    if !last {
        return Ok(source.clone());
    }
    let path = source.path();
    let file = path.join(LAST_FILE);
    match run_directory(source) {
        Some(_) if file.is_file() => Ok(ModelSource::Path(file)),
        Some(_) => Err(Error::Input(format!("{}: no {LAST_FILE} in this folder", shown(path)))),
        None => Err(Error::advice(format_args!("{}: {LAST} is for a run directory", shown(path)))),
    }
}

/// The run directory of a model: the folder itself, or the one that a file of its weights is in.
pub fn run_of(source: &ModelSource) -> Option<PathBuf> {
    let ModelSource::Path(path) = source else { return None };
    let weights = [BEST_FILE, LAST_FILE, AVERAGE_FILE].map(Some);
    let folder = match path.is_dir() {
        true => path.clone(),
        false => {
            path.parent().filter(|_| weights.contains(&path.file_name().and_then(|n| n.to_str())))?.to_owned()
        }
    };
    folder.join(PICTURES_FILE).is_file().then_some(folder)
}

/// The views that test-time augmentation makes of a model's pictures.
///
/// # Errors
/// When the pictures of the model have no corners to cut off.
pub fn views(tta: Tta, metadata: &Metadata) -> Result<Vec<View>> {
    if tta == Tta::Ten && metadata.preprocessing.fit != Fit::Crop {
        return Err(Error::option(
            "tta",
            format_args!(
                "ten: corners are cut off with the fit `crop` only, and the model has another; give flip"
            ),
        ));
    }
    Ok(tta.views())
}

/// What to say where `known` of the `all` pictures in `data` are those that a run was trained with.
pub fn familiar(known: usize, data: &Path, all: usize) -> Option<String> {
    (known > 0).then(|| {
        format!(
            "{}: the model was trained with {known} of these {all} pictures, so its accuracy on them says little about new pictures",
            shown(data)
        )
    })
}

/// What to say where validation pictures of a run are no longer what they were.
pub fn changed(pictures: &RunPictures) -> Option<String> {
    Some(format!("{}; the figures are not those of the run", pictures.changed_validation()?))
}

/// Pictures to compare on: those asked for, the run's validation pictures, or the built-in ones.
///
/// # Errors
/// When the pictures in `data` cannot be used.
pub fn proof_inputs(
    model: &Model,
    run: Option<&Path>,
    (data, table): (Option<&Path>, &Table),
    listener: &mut dyn Listener,
) -> Result<Inputs> {
    let preprocessing = &model.metadata.preprocessing;
    let decode = Transform::new(preprocessing)?.decode_options();
    if let Some(data) = data {
        let found = labelled(data, &model.metadata.classes, &table.options(decode, &model.metadata))?;
        found.notes.iter().for_each(|note| listener.warning(note));
        skipped(&found.skipped).iter().for_each(|line| listener.warning(line));
        return Inputs::from_samples(found.samples, preprocessing);
    }
    let recipe = run.and_then(|run| Recipe::read(run).ok());
    // The pictures may have moved since; the built-in ones are always there.
    let samples = recipe.and_then(|r| Dataset::open(&r.data, &r.folder_options()).ok()).map(|d| d.val);
    match samples.filter(|s| !s.is_empty()) {
        Some(samples) => Inputs::from_samples(samples, preprocessing),
        None => {
            listener
                .note(&format!("comparing on the built-in pictures; give {DATA} DIR to compare on your own"));
            Inputs::built_in(preprocessing)
        }
    }
}

/// What to say of pictures that were left out, a line each: those of kinds that are not read by kind, the others by name, and how
/// many.
pub fn skipped(pictures: &[PictureError]) -> Vec<String> {
    let of_kind =
        |picture: &&PictureError| matches!(picture.source.cause(), DecodeError::UnsupportedFormat { .. });
    let named = pictures.iter().filter(|picture| !of_kind(picture));
    let mut lines: Vec<String> = named.map(|picture| format!("skipped {picture}")).collect();
    let unread: Vec<&PictureError> = pictures.iter().filter(of_kind).collect();
    match &unread[..] {
        [] => {}
        [one] => lines.push(format!("skipped {one}")),
        [first, ..] => {
            let kinds = kinds(unread.iter().map(|picture| picture_ending(&picture.path)));
            lines.push(format!(
                "skipped {} files of kinds that are not read: {kinds}; the first: {first}",
                unread.len()
            ));
        }
    }
    lines.extend(skipped_count(pictures.len()));
    lines
}

/// How many pictures were left out, where any was.
pub fn skipped_count(n: usize) -> Option<String> {
    match n {
        0 => None,
        1 => Some("1 picture skipped".into()),
        n => Some(format!("{n} pictures skipped")),
    }
}

/// How many files of each kind there are, in words.
fn kinds(endings: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    endings.for_each(|ending| *counts.entry(ending).or_default() += 1);
    counted(&counts)
}

/// Counts of kinds of files in words: `.jp2 3, .pcx 1`.
pub fn counted(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().map(|(kind, n)| format!("{kind} {n}")).collect::<Vec<_>>().join(", ")
}
