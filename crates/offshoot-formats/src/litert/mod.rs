//! LiteRT files (`.tflite`), written and read back without Google's tools.
//!
//! What is written is a classifier of pictures: `input` is f32 [batch, height, width, 3], prepared as the model's preprocessing
//! says, and `output` its logits, f32 [batch, classes]. The number of pictures is 1 until a program resizes the input. A model
//! that is quantized computes on int8 between the two. What the program of an app needs to know stands in the file twice: as
//! TensorFlow Lite's metadata (mean, standard deviation, labels), which Android's task library reads, and as ours.
//!
//! What is read back is what is written here; a file of another writer is an error that names what is unknown in it.

mod file;
mod flat;
mod read;
mod schema;
#[cfg(feature = "write")]
mod tasks;
#[cfg(feature = "write")]
mod write;

use std::io::Read as _;
use std::path::Path;

use offshoot_graph::Model;

use crate::error::{FormatError, Problem};
use crate::open::open_plain;

/// The name of the file's metadata that holds the model's, one JSON object.
pub const METADATA_KEY: &str = "offshoot";

const WAY_OUT: &str = "offshoot reads the LiteRT files that it wrote";

/// More than any classifier's file takes, in bytes: offsets in it are of 31 bits.
const MAX_FILE: u64 = 1 << 31;

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How floats are stored.
    pub weights: StoredWeights,
}

/// How the floats of a file are stored. What is computed is f32 in either case, unless a program asks for less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredWeights {
    /// As they are.
    #[default]
    F32,
    /// Half the size; made f32 again when the file is loaded.
    F16,
}

/// The bytes of a file of `model`: the same model gives the same bytes. Dropout and Identity are left out; fold batch norms
/// beforehand.
///
/// # Errors
/// When the graph holds an operator that LiteRT lacks (the message names the node), or a weight is missing or does not fit its
/// type.
#[cfg(feature = "write")]
pub fn write_bytes(model: &Model, options: Options) -> Result<Vec<u8>, Problem> {
    let bytes = write::program(model, options)?;
    tasks::with_labels(bytes, &model.metadata.classes)
}

/// Writes the file `path`, as [`write_bytes`] makes it.
///
/// # Errors
/// Those of [`write_bytes`], and when the file cannot be written.
#[cfg(feature = "write")]
pub fn write(path: &Path, model: &Model, options: Options) -> Result<(), FormatError> {
    use std::io::Write as _;

    let bytes = write_bytes(model, options).map_err(|problem| problem.at(path))?;
    crate::atomic::write_atomically(path, |out| out.write_all(&bytes))
}

/// Reads a file that [`write()`] wrote. Numbers have the values that are stored.
///
/// # Errors
/// When the file cannot be read or is damaged, or it holds what we do not write.
pub fn read(path: &Path) -> Result<Model, FormatError> {
    let read = || -> Result<Model, Problem> {
        let failed = |error| Problem::Io { action: "read", error };
        let mut source = open_plain(path).map_err(|error| error.problem)?;
        let len = source.metadata().map_err(failed)?.len();
        if len > MAX_FILE {
            let what = format!("a file of {len} bytes");
            return Err(Problem::TooLarge { place: "file".into(), what, limit: MAX_FILE });
        }
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).map_err(failed)?;
        read_bytes(&bytes)
    };
    read().map_err(|problem| problem.at(path))
}

/// As [`read()`], of bytes.
///
/// # Errors
/// As [`read()`].
pub fn read_bytes(bytes: &[u8]) -> Result<Model, Problem> {
    read::model(&file::File::parse(bytes)?)
}

/// Whether bytes begin as a file of LiteRT does.
pub(crate) fn begins(head: &[u8]) -> bool {
    head.get(4..8) == Some(schema::IDENTIFIER)
}
