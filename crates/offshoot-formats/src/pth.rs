//! PyTorch's `torch.save` files, read without running the pickle in them.
//!
//! A `.pth` file is a pickle that describes an object, with the elements of its tensors beside it. A pickle is a
//! program: it can name any Python function and ask for a call of it. Nothing here can call anything. A small
//! machine builds inert values, and knows three kinds of calls:
//!
//! - those that describe tensors, quantized ones too, and dictionaries (`torch._utils._rebuild_tensor_v2`,
//!   `_rebuild_qtensor`, `collections.OrderedDict`, ...) are understood;
//! - those of a fixed list of plain values that checkpoints hold beside the weights (`numpy` scalars,
//!   `argparse.Namespace`, `torch.device`, ...), and instances that are made without a call (`NEWOBJ`), become
//!   placeholders that keep the name of their class only;
//! - any other call (`posix.system`, `builtins.eval`, a function of the user's) is an error that names it.
//!
//! Sizes are checked before memory is taken: what a pickle may build is limited by [`MAX_PICKLE_STEPS`], and all
//! tensors together by [`MEMORY_FACTOR`] times the size of the file, whatever strides or compression claim.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::Path;

use offshoot_graph::Weights;

use crate::error::{FormatError, Problem};
use crate::open::open_plain;

mod archive;
mod calls;
pub(crate) mod container;
mod input;
pub(crate) mod opcodes;
mod packed;
pub(crate) mod pickle;
mod quantized;
mod state_dict;
pub(crate) mod storage;
pub(crate) mod values;

pub use quantized::QuantizedTensor;

/// The most instructions of a pickle that are followed. A large checkpoint with its optimizer has some 100,000.
pub const MAX_PICKLE_STEPS: u64 = 8_000_000;

/// The largest `data.pkl` of a zip archive, in bytes.
pub const MAX_PICKLE_BYTES: u64 = 128 << 20;

/// The tensors that are read may take this many times the size of the file, and [`MEMORY_FLOOR`] bytes more.
/// Weights do not compress and overlap little, so a normal file stays near 1.
pub const MEMORY_FACTOR: u64 = 8;

/// See [`MEMORY_FACTOR`].
pub const MEMORY_FLOOR: u64 = 64 << 20;

/// How `torch.save` laid the file out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A zip archive, PyTorch 1.6 and later.
    Zip,
    /// Pickles and storages one after the other, PyTorch 1.5 and earlier, or
    /// `_use_new_zipfile_serialization=False`.
    Legacy,
}

/// The state dict of a `torch.save` file.
#[derive(Clone, Debug, PartialEq)]
pub struct PthFile {
    /// The tensors by key, as the file spells the keys. Those of integers that stand for floats are floats here, and the
    /// packed weights of quantized layers (`fc._packed_params._packed_params`, `rnn._all_weight_values.0.param`) stand under the
    /// names of the float layer (`fc.weight`, `rnn.weight_ih_l0`).
    pub weights: Weights,
    /// The integers of those that were quantized.
    pub quantized: BTreeMap<String, QuantizedTensor>,
    /// The keys under which the state dict was found, outermost first: `["state_dict"]`. Empty at the root.
    pub wrappers: Vec<String>,
    /// The keys of the state dict whose value is no tensor, with the type of the value.
    pub skipped: Vec<(String, String)>,
    /// Those of them that hold tensors, which are not read.
    pub unread: Vec<(String, String)>,
    /// The layout of the file.
    pub layout: Layout,
}

/// Reads the state dict in the file at `path`.
///
/// The state dict is the dictionary at the root, or the one under `state_dict`, `model_state_dict`, `model`,
/// `net`, `network`, `module`, `weights` or `params`, and if none of these is there, under `model_ema`,
/// `state_dict_ema`, `ema_state_dict` or `ema`; up to four levels deep.
///
/// # Errors
/// When the file cannot be read, contradicts itself, asks for a call that is not known to be harmless, or holds no
/// state dict.
pub fn read(path: &Path) -> Result<PthFile, FormatError> {
    read_from(open_plain(path)?).map_err(|problem| problem.at(path))
}

/// Reads the state dict from `source`.
///
/// # Errors
/// Those of [`read`].
pub fn read_from(source: impl Read + Seek) -> Result<PthFile, Problem> {
    let (mut container, pickled) = container::open(source)?;
    let layout = container.layout();
    let found = state_dict::find(&pickled)?;
    let (limit, order) = (container.limit, container.order);
    let source = storage::Source { bytes: &mut |storage| container.bytes(storage), limit, order };
    let (weights, quantized) = quantized::load(&pickled.heap, found.tensors, &found.quantized, source)?;
    let state_dict::Found { wrappers, skipped, unread, .. } = found;
    Ok(PthFile { weights, quantized, wrappers, skipped, unread, layout })
}
