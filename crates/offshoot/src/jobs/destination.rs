//! Where files go. Each place is tried before the work for what is to stand there.

use std::path::{Path, PathBuf};

use offshoot_files::{check_file, check_folder, stem};
use offshoot_graph::remedy::{FORMAT, OUT};
use offshoot_graph::text::{escaped, shown};

use super::{Listener, run_directory};
use crate::error::{Error, Result};
use crate::manifest::exports_of_others;
use crate::source::ModelSource;
use crate::staging::MadeFolders;
use offshoot_formats::coreml::is_package;

/// An error where no file can be written at `path`.
///
/// # Errors
/// That.
pub fn writable_file(path: &Path) -> Result<()> {
    check_file(path).map_err(|error| unwritable(path, error))
}

/// An error where no files can be written into the folder `path`, which is made later where it is missing.
///
/// # Errors
/// That, and where `path` is called as a model file.
pub fn writable_folder(path: &Path) -> Result<()> {
    if is_model_file(path) && !path.is_dir() {
        return Err(Error::advice(format_args!(
            "{}: it has the extension of a model file, and {OUT} must be a folder here; give another {OUT}",
            shown(path)
        )));
    }
    check_folder(path).map_err(|error| unwritable(path, error))
}

fn unwritable(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), action: "write", source }
}

/// Where files of a model go.
pub struct Destination {
    folder: PathBuf,
    /// Their names without the extension.
    stem: String,
    /// The one file that `out` names.
    file: Option<PathBuf>,
    /// The file that is read, which is not written over.
    source: Option<PathBuf>,
    /// Whether it is the folder of a run's own exports.
    of_run: bool,
    _made: Option<MadeFolders>,
}

/// Extensions of model files: an `out` with one of them is a file, and otherwise a folder.
const MODEL_ENDINGS: [&str; 12] = [
    "onnx",
    "pt",
    "pth",
    "pt2",
    "ts",
    "mlpackage",
    "mlmodel",
    "safetensors",
    "engine",
    "plan",
    "tflite",
    "trt",
];

impl Destination {
    /// Into the folder `out` where that is given, else the run's `exports`, else the folder of the model file. Where `out` has
    /// the extension of a model file it is the file itself, for the one of `formats` (names, and extensions where they have one)
    /// that is written. Nothing is made yet.
    ///
    /// # Errors
    /// When nothing can be written there, or `out` is called as another format's file.
    pub fn new(
        source: &ModelSource,
        out: Option<&Path>,
        formats: &[(&str, Option<&str>)],
    ) -> Result<Destination> {
        let path = match source {
            ModelSource::Path(path) => Some(path.as_path()),
            ModelSource::Pretrained { .. } => None,
        };
        let file = out.filter(|out| is_model_file(out));
        if let Some(file) = file {
            check_out(file, formats)?;
        }
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        let run = run_directory(source);
        let of_run = out.is_none() && run.is_some();
        let folder = match (file, out, run) {
            (Some(file), _, _) => parent(file).unwrap_or_default(),
            (None, Some(out), _) => out.to_owned(),
            (None, None, Some(run)) => run.join("exports"),
            (None, None, None) => path.and_then(parent).unwrap_or_default(),
        };
        check_folder(&folder).map_err(|error| unwritable(file.unwrap_or(folder.as_path()), error))?;
        if let Some(file) = file.filter(|file| file.symlink_metadata().is_ok() && !is_package(file)) {
            writable_file(file)?;
        }
        let named = || path?.file_stem()?.to_str().map(stem);
        let stem = named().unwrap_or_else(|| stem(""));
        let source = path.filter(|_| run.is_none()).map(Path::to_owned);
        Ok(Destination { folder, stem, file: file.map(Path::to_owned), source, of_run, _made: None })
    }

    /// Makes the folder where it is missing. Files are called by `architecture`, which a model file names, or else by the
    /// model file's name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(self, architecture: Option<&str>) -> Result<Destination> {
        let _made = Some(MadeFolders::new(&self.folder)?);
        let stem = architecture.map(stem).unwrap_or(self.stem);
        Ok(Destination { stem, _made, ..self })
    }

    /// [`mention_others`] of this folder. In that of a run's own exports, others are of the run at another time.
    pub fn mention_others(&self, model: &Path, sha256: &str, listener: &mut dyn Listener) {
        if !self.of_run {
            mention_others(&self.folder, model, sha256).iter().for_each(|text| listener.warning(text));
        }
    }

    /// The names of files without the extension.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// The file with this extension.
    ///
    /// # Errors
    /// When it is the model that is read.
    pub fn path(&self, ending: &str) -> Result<PathBuf> {
        let path = self.file.clone().unwrap_or_else(|| self.folder.join(format!("{}{ending}", self.stem)));
        let same = |source: &PathBuf| {
            source.canonicalize().ok().zip(path.canonicalize().ok()).is_some_and(|(a, b)| a == b)
        };
        if self.source.as_ref().is_some_and(same) {
            return Err(Error::advice(format_args!(
                "{}: this is the model that is read; write elsewhere with {OUT}",
                shown(&path)
            )));
        }
        Ok(path)
    }
}

/// What to say where `folder` has exports of another model than `model`, whose checkpoint has this SHA-256: it would be hard to tell what
/// is of which.
pub fn mention_others(folder: &Path, model: &Path, sha256: &str) -> Option<String> {
    let others = exports_of_others(folder, sha256);
    let (other, source) = others.first()?;
    let start = |sha256: &str| escaped(&sha256.chars().take(SHA256_START).collect::<String>());
    let more = match others.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(format!(
        "{}{more} was exported from another checkpoint (SHA-256 {}..) than {} ({}..), whose files go into the same folder and \
         replace those of the same names; {OUT} gives them a folder of their own",
        shown(other),
        start(source),
        shown(model),
        start(sha256)
    ))
}

/// Digits of a SHA-256 that tell two apart.
const SHA256_START: usize = 12;

fn ending(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

fn is_model_file(path: &Path) -> bool {
    MODEL_ENDINGS.contains(&&*ending(path))
}

/// An error where `file` cannot be what the one of `formats` writes.
fn check_out(file: &Path, formats: &[(&str, Option<&str>)]) -> Result<()> {
    let wrong = |text: std::fmt::Arguments<'_>| Err(Error::advice(format_args!("{}: {text}", shown(file))));
    match formats {
        [(_, Some(wanted))] if ending(file) == *wanted => match file.is_dir() && *wanted != "mlpackage" {
            true => {
                wrong(format_args!("a folder of that name is in the way; move it, or give another {OUT}"))
            }
            false => Ok(()),
        },
        [(format, Some(wanted))] => wrong(format_args!(
            "{FORMAT} {format} writes a file that ends in .{wanted}, not .{}; give {OUT} that extension, or a folder",
            ending(file)
        )),
        [(format, None)] => {
            wrong(format_args!("{FORMAT} {format} writes a folder, and {OUT} names a file; give a folder"))
        }
        all => wrong(format_args!(
            "{OUT} names one file, and {} formats are asked for; give a folder",
            all.len()
        )),
    }
}
