//! TorchScript archives (`torch.jit.save`), read and written without PyTorch.
//!
//! Such a file is a program: a tree of modules with their tensors, and Python-like code for their methods. What is read
//! here are classifiers of pictures, traced or scripted. The code is parsed and followed from the picture to the
//! logits, and each operator on the way becomes a node of a graph: nothing of it is run. A branch or a loop that
//! constants and the picture's size decide is resolved; any other is an error that names its line.
//!
//! What is written has the hierarchy of modules that the parameters' names spell, so that its state dict has PyTorch's
//! keys.

mod evaluate;
mod lex;
mod operators;
mod parse;
mod place;
mod program;
mod read;
mod sizes;
mod value;

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use offshoot_graph::{Model, Weights};

use crate::error::{FormatError, Problem};

/// The extra file with the model's metadata, one JSON object.
pub const METADATA_FILE: &str = "offshoot.json";

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
    read::read(open(path)?, size).map_err(|problem| problem.at(path))
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

fn open(path: &Path) -> Result<File, FormatError> {
    File::open(path).map_err(|error| Problem::Io { action: "open", error }.at(path))
}
