//! The [safetensors](https://github.com/huggingface/safetensors) format, read and written.
//!
//! A file is the length of a JSON header (u64, little-endian), the header, and the elements of all tensors, without
//! a gap. What we write is the same bytes for the same weights: tensors ordered by element width, then by name, and
//! one JSON string under the metadata key [`METADATA_KEY`].

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use offshoot_graph::{DType, Tensor, Weights};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::atomic::write_atomically;
use crate::content::open_plain;
use crate::elements::{ByteOrder, Stored, write_le};
use crate::error::{FormatError, Problem};

/// The metadata key of the one JSON string that we write.
pub const METADATA_KEY: &str = "offshoot";

/// The largest header that the format allows, in bytes.
pub(crate) const MAX_HEADER: u64 = 100_000_000;

/// What a safetensors file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct SafetensorsFile {
    /// The tensors by name.
    pub weights: Weights,
    /// The strings under `__metadata__`; ours is under [`METADATA_KEY`].
    pub metadata: BTreeMap<String, String>,
}

/// Reads the file at `path`.
///
/// # Errors
/// When the file cannot be read, contradicts itself, or holds an element type that no tensor of ours has
/// (8-bit floats, `u64`, complex numbers). `i16` and `u16` are widened to `i32`, `u32` to `i64`.
pub fn read(path: &Path) -> Result<SafetensorsFile, FormatError> {
    let (file, len) = open(path)?;
    read_from(BufReader::new(file), len).map_err(|problem| problem.at(path))
}

/// The strings under `__metadata__` of the file at `path`. Its tensors are not read.
///
/// # Errors
/// When the file cannot be read, or its header contradicts it.
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>, FormatError> {
    let (file, len) = open(path)?;
    let header = read_header(&mut BufReader::new(file), len).map_err(|problem| problem.at(path))?;
    Ok(header.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect())
}

/// The file and its length.
fn open(path: &Path) -> Result<(File, u64), FormatError> {
    let file = open_plain(path)?;
    let len = file.metadata().map_err(|error| Problem::Io { action: "read", error }.at(path))?.len();
    Ok((file, len))
}

/// Reads a file of `len` bytes from `source`.
///
/// # Errors
/// Those of [`read`].
pub fn read_from(mut source: impl Read, len: u64) -> Result<SafetensorsFile, Problem> {
    let header = read_header(&mut source, len)?;
    let mut weights = Weights::new();
    for name in header.offset_keys() {
        if let Some(info) = header.info(&name) {
            let tensor = read_tensor(&mut source, &name, info)?;
            weights.insert(name, tensor);
        }
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(SafetensorsFile { weights, metadata })
}

/// The header, checked against the length of the file, so that the sizes in it can be trusted.
fn read_header(source: &mut impl Read, len: u64) -> Result<Metadata, Problem> {
    let mut prefix = [0; 8];
    source.read_exact(&mut prefix).map_err(|e| Problem::read("header length", e))?;
    let size = u64::from_le_bytes(prefix);
    if size > MAX_HEADER {
        let what = format!("the header claims {size} bytes");
        return Err(Problem::TooLarge { place: "header length".into(), what, limit: MAX_HEADER });
    }
    let room = len.saturating_sub(8);
    if size > room {
        return Err(Problem::damaged(
            "header length",
            format!("the header claims {size} bytes and {room} are left"),
        ));
    }
    let mut text = vec![0; size as usize];
    source.read_exact(&mut text).map_err(|e| Problem::read("header", e))?;
    let header: Metadata =
        serde_json::from_slice(&text).map_err(|e| Problem::damaged("header", e.to_string()))?;
    let (claimed, held) = (header.data_len() as u64, room - size);
    if claimed != held {
        return Err(Problem::damaged(
            "header",
            format!("its tensors take {claimed} bytes and the file holds {held}"),
        ));
    }
    Ok(header)
}

/// The next tensor of `source`; its size was checked with the header.
fn read_tensor(source: &mut impl Read, name: &str, info: &TensorInfo) -> Result<Tensor, Problem> {
    let place = || format!("tensor `{name}`");
    let stored = stored(info.dtype).ok_or_else(|| {
        let what = format!("its element type {:?} is not supported", info.dtype);
        Problem::unsupported(place(), what, "Convert it to a float or integer type that PyTorch trains with")
    })?;
    let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
    source.read_exact(&mut bytes).map_err(|e| Problem::read(place(), e))?;
    Tensor::new(info.shape.clone(), stored.decode(&bytes, ByteOrder::Little))
        .map_err(|e| Problem::damaged(place(), e.to_string()))
}

fn stored(dtype: Dtype) -> Option<Stored> {
    Some(match dtype {
        Dtype::F32 => Stored::F32,
        Dtype::F64 => Stored::F64,
        Dtype::F16 => Stored::F16,
        Dtype::BF16 => Stored::BF16,
        Dtype::I64 => Stored::I64,
        Dtype::I32 => Stored::I32,
        Dtype::I16 => Stored::I16,
        Dtype::I8 => Stored::I8,
        Dtype::U8 => Stored::U8,
        Dtype::U16 => Stored::U16,
        Dtype::U32 => Stored::U32,
        Dtype::BOOL => Stored::Bool,
        _ => return None,
    })
}

fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

/// Writes `weights` to `path`, whole or not at all. `metadata` is the JSON that goes under [`METADATA_KEY`].
///
/// The same arguments give the same bytes: put no time, path or host name into `metadata`.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, weights: &Weights, metadata: &str) -> Result<(), FormatError> {
    write_atomically(path, |file| write_to(file, weights, metadata))
}

/// Writes the bytes of [`write()`] to `out`.
///
/// # Errors
/// Those of `out`.
pub fn write_to(out: &mut impl Write, weights: &Weights, metadata: &str) -> std::io::Result<()> {
    // The widest elements first keep every tensor aligned, as the reference implementation does.
    let mut order: Vec<(&String, &Tensor)> = weights.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(file_dtype(tensor.dtype())));

    let mut end = 0;
    let infos = order.iter().map(|(name, tensor)| {
        let start = end;
        end += tensor.len() * tensor.dtype().size();
        let (dtype, shape) = (file_dtype(tensor.dtype()), tensor.shape().to_vec());
        ((*name).clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let strings = HashMap::from([(METADATA_KEY.to_owned(), metadata.to_owned())]);
    let header = Metadata::new(Some(strings), infos.collect()).map_err(std::io::Error::other)?;

    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(&text)?;
    order.iter().try_for_each(|(_, tensor)| write_le(tensor.data(), out))
}
