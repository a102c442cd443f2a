//! PyTorch's exported programs (`torch.export.save`), read and written without PyTorch.
//!
//! Such a file, a `.pt2`, is a zip archive: the graph as JSON, each tensor as its bytes. What is read here are classifiers of
//! pictures, as `torch.export.export` makes them and after `run_decompositions()`. Each node calls an operator of PyTorch,
//! which becomes nodes of our graph. Nothing is run, and no pickle is read: a tensor that is stored as one is refused.
//!
//! What is written is the program of an inference graph with PyTorch's state-dict keys, for `torch.export.load`. It holds no
//! pickle, no traces of the code that made it, and no paths.

mod archive;
mod follow;
#[cfg(feature = "write")]
mod names;
#[cfg(feature = "write")]
mod print;
mod read;
mod schema;
#[cfg(feature = "write")]
mod write;

use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;

use offshoot_graph::{Model, Weights};

#[cfg(feature = "write")]
use crate::atomic::AtomicFile;
use crate::error::{FormatError, Problem};
use crate::open::open_plain;

/// The extra file with the model's metadata, one JSON object. `torch.export.load` gives it to who asks for it by `extra_files`.
pub const METADATA_FILE: &str = "offshoot.json";

/// The version of the schema that is written, and whose major number is read.
const SCHEMA: (u64, u64) = (8, 20);

/// What an archive holds.
#[derive(Clone, Debug)]
pub struct Pt2Model {
    /// The classifier. A softmax at the end of the program is left out: the output is logits.
    pub model: Model,
    /// Whether the file says nothing about its classes and preprocessing, so that ImageNet's mean and std and the
    /// class indices stand in for them.
    pub assumed_preprocessing: bool,
    /// What a user should know about how the file was read.
    pub warnings: Vec<String>,
}

/// Reads the program at `path`, as a classifier of pictures of `size` pixels a side. Without a size it is the one the file names,
/// in our metadata or by the picture it was exported with, else 224.
///
/// # Errors
/// When the file cannot be read, contradicts itself, or holds something that no classifier of ours has; the message names the
/// node.
pub fn read(path: &Path, size: Option<usize>) -> Result<Pt2Model, FormatError> {
    read::read(open_plain(path)?, size).map_err(|problem| problem.at(path))
}

/// Reads the bytes of an archive.
///
/// # Errors
/// Those of [`read`].
pub fn read_bytes(bytes: &[u8], size: Option<usize>) -> Result<Pt2Model, Problem> {
    read::read(Cursor::new(bytes), size)
}

/// The parameters and buffers of the archive in `source` by their state-dict keys, whatever its graph does.
///
/// # Errors
/// When it cannot be read or contradicts itself.
pub fn state_dict(source: impl Read + Seek) -> Result<Weights, Problem> {
    read::state_dict(source)
}

/// Whether `source` is an archive of `torch.export`, and not for example one of `torch.save`.
pub fn is_pt2(source: impl Read + Seek) -> bool {
    archive::is_pt2(source)
}

/// Writes `model` to `path`, whole or not at all.
///
/// # Errors
/// Those of [`write_to`].
#[cfg(feature = "write")]
pub fn write(path: &Path, model: &Model) -> Result<(), FormatError> {
    let mut file = AtomicFile::create(path)?;
    write_to(&mut file, model).map_err(|problem| problem.at(path))?;
    file.commit()
}

/// Writes a program that computes what `model` does. Dropout and Identity are left out; batch norms stay, so that the state dict has
/// PyTorch's keys. The batch is dynamic. The same model gives the same bytes.
///
/// # Errors
/// When the graph holds an operator of training or one that PyTorch cannot say, a weight is missing or has another
/// shape, or the file cannot be written.
#[cfg(feature = "write")]
pub fn write_to(out: &mut (impl Write + Seek), model: &Model) -> Result<(), Problem> {
    write::write(out, model)
}
