//! TorchScript archives (`torch.jit.save`), read and written without PyTorch.
//!
//! Such a file is a program: a tree of modules with their tensors, and Python-like code for their methods. What is read
//! here are classifiers of pictures, traced or scripted. The code is parsed and followed from the picture to the
//! logits, and each operator on the way becomes a node of a graph: nothing of it is run. A branch or a loop that
//! constants and the picture's size decide is resolved; any other is an error that names its line.
//!
//! What is written has the hierarchy of modules that the parameters' names give, so that its state dict has PyTorch's
//! keys.

mod evaluate;
mod lex;
mod parse;
mod pickle;
mod place;
mod print;
mod program;
mod read;
mod recurrent;
mod script;
mod tensors;
mod tree;
#[cfg(feature = "write")]
mod write;

use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;

use offshoot_graph::{Model, Weights};

#[cfg(feature = "write")]
use crate::atomic::AtomicFile;
use crate::error::{FormatError, Problem};
use crate::open::open_plain;

/// The extra file with the model's metadata, one JSON object.
pub const METADATA_FILE: &str = "offshoot.json";

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the file takes.
    pub form: Form,
}

/// What a file takes and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As from `torch.jit.trace`: `forward` takes normalized f32 pictures [n, 3, size, size] and gives logits.
    #[default]
    Traced,
    /// As from `torch.jit.script`: `forward` takes pictures of any size, [3, height, width] or [n, 3, height, width],
    /// uint8 from 0 to 255 or floats from 0 to 1, prepares them and gives logits. `classify` gives the best label of
    /// each picture and the probabilities of all, [n, classes]; `preprocess` and `logits` are its two halves. Its
    /// resizing rounds to whole levels once, Pillow's and ours after each direction: a level differs by one at most (on
    /// photographs 0.07 of 255 on average, and the logits by 1 % of the largest). Transparency and EXIF rotation are the
    /// caller's.
    Scripted,
}

/// What a TorchScript archive holds.
#[derive(Clone, Debug)]
pub struct TorchScriptModel {
    /// The classifier. A softmax at the end of the program is left out: the output is logits.
    pub model: Model,
    /// Whether the file says nothing about its classes and preprocessing, so that ImageNet's mean and std and the
    /// class indices stand in for them.
    pub assumed_preprocessing: bool,
    /// What a user should know about how the file was read.
    pub warnings: Vec<String>,
}

/// Reads the archive at `path`, as a classifier of pictures of `size` pixels a side. Without a size it is the one the
/// file names, in our metadata or by the picture it was traced with, else 224.
///
/// # Errors
/// When the file cannot be read, contradicts itself, or holds something that no classifier of ours has; the message
/// names the file of code in the archive, and the line.
pub fn read(path: &Path, size: Option<usize>) -> Result<TorchScriptModel, FormatError> {
    read::read(open_plain(path)?, size).map_err(|problem| problem.at(path))
}

/// Reads the bytes of an archive.
///
/// # Errors
/// Those of [`read`].
pub fn read_bytes(bytes: &[u8], size: Option<usize>) -> Result<TorchScriptModel, Problem> {
    read::read(Cursor::new(bytes), size)
}

/// The parameters and buffers of the archive in `source` by their state-dict keys, whatever its code does.
///
/// # Errors
/// When it cannot be read or contradicts itself.
pub fn state_dict(source: impl Read + Seek) -> Result<Weights, Problem> {
    read::state_dict(source)
}

/// Whether `source` is a TorchScript archive, and not for example a zip archive of `torch.save`.
pub fn is_torchscript(source: impl Read + Seek) -> bool {
    read::is_torchscript(source)
}

/// Writes `model` to `path`, whole or not at all.
///
/// # Errors
/// Those of [`write_to`].
#[cfg(feature = "write")]
pub fn write(path: &Path, model: &Model, options: Options) -> Result<(), FormatError> {
    let mut file = AtomicFile::create(path)?;
    write_to(&mut file, model, options).map_err(|problem| problem.at(path))?;
    file.commit()
}

/// Writes an archive that computes what `model` does. Dropout and Identity are left out; batch norms stay, so that the
/// state dict has PyTorch's keys (`torch.jit.freeze` folds them). The same model gives the same bytes.
///
/// # Errors
/// When the graph holds an operator of training or one that PyTorch cannot say, a weight is missing or has another
/// shape, or the file cannot be written.
#[cfg(feature = "write")]
pub fn write_to(out: &mut (impl Write + Seek), model: &Model, options: Options) -> Result<(), Problem> {
    write::write(out, model, options)
}
