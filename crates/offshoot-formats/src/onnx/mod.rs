//! The [ONNX](https://onnx.ai) format, written and read.
//!
//! What we write is plain: the default opset, one input and one output, parameters under their PyTorch keys,
//! nothing that training left behind, and everything needed to use the model as one JSON object under the metadata
//! key [`METADATA_KEY`]. The same model gives the same bytes.
//!
//! What we read is that, and classifiers of pictures from other exporters in opsets 7 to 24. PyTorch's: their
//! Identity and Constant nodes, folded or unfolded batch norms, shape arithmetic. Those of TensorFlow's converters:
//! channels last and a Transpose around each convolution, padding by rule or as a Pad, a mean over axes.

mod array;
mod attributes;
mod dynamic;
mod external;
mod fold;
mod order;
mod preprocess;
mod proto;
mod quantized;
mod read;
mod tensors;
mod translate;
mod wire;
mod write;

use std::io::{Read, Write};
use std::path::Path;

use offshoot_graph::Model;

#[cfg(feature = "write")]
use crate::atomic::write_atomically;
use crate::error::{FormatError, Problem};
use crate::open::open_plain;

pub use dynamic::{DynamicModel, DynamicReport, KeptFloat};
pub use preprocess::Preparer;

/// The metadata key of the one JSON string that we write.
pub const METADATA_KEY: &str = "offshoot";

/// The largest file that Protocol Buffers allow, in bytes. Elements in other files do not count.
const MAX_FILE: u64 = i32::MAX as u64;

/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Room for the graph around the weights, in bytes.
const GRAPH: u64 = 1 << 26;

/// How a model is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The version of the opset, 13 to 21.
    pub opset: i64,
    /// The most bytes of weights that go into the model's own file. More go into a file beside it, called as the
    /// model's with `.data` at the end. Protocol Buffers allow 2 GiB in all.
    pub in_one_file: u64,
    /// Whether the file prepares its pictures itself: its input is `image`, u8 RGB [batch_size, height, width, 3] of any
    /// height and width, and the model's fit, filter, mean and std are nodes before the network. What comes before that
    /// (decoding, EXIF rotation, the background under transparency) stays outside. Needs opset 18, the first whose
    /// Resize is antialiased.
    pub with_preprocess: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { opset: 17, in_one_file: MAX_FILE - GRAPH, with_preprocess: false }
    }
}

/// How a file is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Height and width of the pictures, where the file leaves them open. A file whose padding depends on them
    /// (`auto_pad`) can only be read with it.
    pub size: Option<usize>,
    /// Whether a model may take something else than pictures.
    pub any_input: bool,
}

/// What an ONNX file holds.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    /// The classifier. A Softmax at the end of the file is left out: the output is logits.
    pub model: Model,
    /// Whether the file says nothing about its classes and preprocessing, so that ImageNet's mean and std and the
    /// class indices stand in for them.
    pub assumed_preprocessing: bool,
    /// What a user should know about how the file was read.
    pub warnings: Vec<String>,
}

/// Reads the classifier of pictures at `path`, and the files of tensors beside it that it refers to.
///
/// # Errors
/// Those of [`read_with`].
pub fn read(path: &Path) -> Result<OnnxModel, FormatError> {
    read_with(path, ReadOptions::default())
}

/// Reads the file at `path`, and the files of tensors beside it that it refers to.
///
/// # Errors
/// When the file cannot be read, contradicts itself, or holds something that no classifier of ours has; the message
/// names the node and its operator.
pub fn read_with(path: &Path, options: ReadOptions) -> Result<OnnxModel, FormatError> {
    let bytes = bytes_of(path)?;
    read::read(bytes.into(), Some(path), options).map_err(|problem| problem.at(path))
}

/// What prepares the pictures of the file at `path`, where one of ours does that itself.
///
/// # Errors
/// When the file cannot be read.
pub fn preparer(path: &Path) -> Result<Option<Preparer>, FormatError> {
    preparer_of_bytes(bytes_of(path)?).map_err(|problem| problem.at(path))
}

/// [`preparer`] of the bytes of a file.
///
/// # Errors
/// When they are no ONNX file.
pub fn preparer_of_bytes(bytes: impl Into<Vec<u8>>) -> Result<Option<Preparer>, Problem> {
    Preparer::of(bytes.into().into())
}

/// The file at `path`, and the files of tensors beside it that it refers to, in dynamic int8: whatever it computes, products
/// with stored matrices and LSTMs do it with bytes, and everything else is as it was.
///
/// # Errors
/// When a file cannot be read or contradicts itself, when it is of an opset before 11, when nothing in it can be
/// quantized, and when the result would be larger than 2 GiB.
pub fn quantize_dynamic(path: &Path) -> Result<DynamicModel, FormatError> {
    let bytes = bytes_of(path)?;
    dynamic::quantize(bytes.into(), Some(path)).map_err(|problem| problem.at(path))
}

/// [`quantize_dynamic`] of the bytes of a file that refers to no other.
///
/// # Errors
/// Those of [`quantize_dynamic`].
pub fn quantize_dynamic_bytes(bytes: impl Into<Vec<u8>>) -> Result<DynamicModel, Problem> {
    dynamic::quantize(bytes.into().into(), None)
}

/// Writes the bytes of a [`DynamicModel`] to `path`, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
#[cfg(feature = "write")]
pub fn write_quantized(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    write_atomically(path, |file| file.write_all(bytes))
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, FormatError> {
    let read = |error| Problem::Io { action: "read", error }.at(path);
    let mut file = open_plain(path)?;
    let meta = file.metadata().map_err(read)?;
    if meta.len() > MAX_FILE {
        let what = format!("a file of {} bytes", meta.len());
        let place = "ONNX file".into();
        return Err(Problem::TooLarge { place, what, limit: MAX_FILE }.at(path));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize); // at most MAX_FILE
    file.read_to_end(&mut bytes).map_err(read)?;
    Ok(bytes)
}

/// Reads the bytes of a file that refers to no other.
///
/// # Errors
/// Those of [`read_with`].
pub fn read_bytes(bytes: impl Into<Vec<u8>>) -> Result<OnnxModel, Problem> {
    read_bytes_with(bytes, ReadOptions::default())
}

/// Reads the bytes of a file that refers to no other.
///
/// # Errors
/// Those of [`read_with`].
pub fn read_bytes_with(bytes: impl Into<Vec<u8>>, options: ReadOptions) -> Result<OnnxModel, Problem> {
    read::read(bytes.into().into(), None, options)
}

/// Writes `model` to `path`, whole or not at all, and weights of more than [`Options::in_one_file`] bytes to a file beside
/// it. The name of that one is taken first: a crash between the two leaves the old model with new weights.
///
/// # Errors
/// Those of [`write_bytes`], when a file cannot be written, and when one is in the way that is a link.
#[cfg(feature = "write")]
pub fn write(path: &Path, model: &Model, options: Options) -> Result<(), FormatError> {
    let name = path.file_name().and_then(|n| n.to_str()).map(|name| format!("{name}.data"));
    let written = write::write(model, options, name).map_err(|problem| problem.at(path))?;
    if let Some(side) = &written.side {
        let beside = external::beside(path, side.location()).map_err(|p| p.at(path))?;
        write_atomically(&beside, |file| side.write_to(file))?;
    }
    write_atomically(path, |file| file.write_all(&written.bytes))
}

/// The bytes of an ONNX file that computes what `model` does. Dropout and Identity are left out; fold batch norms
/// beforehand for a file that runs fast everywhere.
///
/// # Errors
/// When the graph holds an operator of training, a weight is missing or has another shape, or the file would be
/// larger than 2 GiB: `write` can put weights beside it.
pub fn write_bytes(model: &Model, options: Options) -> Result<Vec<u8>, Problem> {
    Ok(write::write(model, options, None)?.bytes)
}

/// 1 - x of the decimals that x is written with: ONNX's momentum of a batch norm from PyTorch's, and back. The decimals
/// that people write (0.1, 0.003) come back as they were, others to a rounding.
fn complement(x: f32) -> f32 {
    x.to_string().parse().map_or(1.0 - x, |x: f64| (1.0 - x) as f32)
}

#[cfg(test)]
mod tests {
    use super::complement;

    #[test]
    fn a_momentum_survives_the_way_there_and_back() {
        assert_eq!(complement(0.1), 0.9);
        for momentum in [0.1, 0.01, 0.003, 0.9, 0.0, 1.0] {
            assert_eq!(complement(complement(momentum)), momentum);
        }
        let third: f32 = 1.0 / 3.0;
        assert!((complement(complement(third)) - third).abs() <= f32::EPSILON / 2.0);
    }
}
