//! The [safetensors](https://github.com/huggingface/safetensors) format, read and written.
//!
//! A file is the length of a JSON header (u64, little-endian), the header, and the elements of all tensors, without
//! a gap. What we write is the same bytes for the same weights: tensors ordered by element width, then by name, one
//! JSON string under the metadata key [`METADATA_KEY`], and a hash of all that under [`HASH_KEY`], which finds a damaged file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use offshoot_graph::text::quoted;
use offshoot_graph::{DType, Tensor, Weights};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use sha2::{Digest as _, Sha256};

#[cfg(feature = "write")]
use crate::atomic::write_atomically;
use crate::elements::{ByteOrder, Stored, write_le};
use crate::error::{FormatError, Problem};
use crate::open::open_plain;

/// The metadata key of the one JSON string that we write.
pub const METADATA_KEY: &str = "offshoot";

/// The metadata key of the hash of what a file holds, which we write beside that and check. Files from before, and of others, have none.
pub const HASH_KEY: &str = "offshoot_sha256";

/// The largest header that the format allows, in bytes.
pub(crate) const MAX_HEADER: u64 = 100_000_000;

/// What a safetensors file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct SafetensorsFile {
    /// The tensors by name.
    pub weights: Weights,
    /// The strings under `__metadata__`; ours is under [`METADATA_KEY`].
    pub metadata: BTreeMap<String, String>,
    /// Whether a hash of all that stands in the file, and was compared with it.
    pub hashed: bool,
}

impl SafetensorsFile {
    /// What to say of a file of ours that holds no hash; `None` of others, and where it has been checked.
    pub fn unchecked(&self) -> Option<&'static str> {
        let ours = self.metadata.contains_key(METADATA_KEY);
        (ours && !self.hashed).then_some(UNCHECKED)
    }
}

/// In words.
const UNCHECKED: &str = "it holds no SHA-256 of its content, so that nobody knows whether it is as it was written: files of offshoot from \
                         before there was one hold none";

/// Reads the file at `path`.
///
/// # Errors
/// When the file cannot be read, contradicts itself, does not have the hash that stands in it, or holds an element type that no tensor of ours has
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
    let mut metadata = strings(&header);
    metadata.remove(HASH_KEY);
    Ok(metadata)
}

fn strings(header: &Metadata) -> BTreeMap<String, String> {
    header.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect()
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
    let mut metadata = strings(&header);
    let stated = metadata.remove(HASH_KEY);
    if stated.is_none() {
        check_keys(&metadata)?;
    }
    let mut hash = stated.is_some().then(ContentHash::default);
    if let Some(hash) = &mut hash {
        hash.strings(metadata.iter().map(|(key, text)| (key.as_str(), text.as_str())));
    }
    let mut weights = Weights::new();
    for name in header.offset_keys() {
        if let Some(info) = header.info(&name) {
            let tensor = read_tensor(&mut source, &name, info, hash.as_mut())?;
            weights.insert(name, tensor);
        }
    }
    match (stated, hash.map(ContentHash::finish)) {
        (Some(stated), Some(found)) if stated != found => Err(Problem::Hash { key: HASH_KEY }),
        (stated, _) => Ok(SafetensorsFile { weights, metadata, hashed: stated.is_some() }),
    }
}

/// An error where one of ours and a hash stand under keys that are not those that they were written under.
fn check_keys(metadata: &BTreeMap<String, String>) -> Result<(), Problem> {
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let damaged = |(key, text): &(&String, &String)| *key != METADATA_KEY && is_hash(text);
    match metadata.iter().find(damaged) {
        Some((key, _)) if metadata.contains_key(METADATA_KEY) => {
            let what = format!("the hash of the content stands under `{}`, not `{HASH_KEY}`", quoted(key));
            Err(Problem::damaged("metadata", what))
        }
        _ => Ok(()),
    }
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
fn read_tensor(
    source: &mut impl Read,
    name: &str,
    info: &TensorInfo,
    hash: Option<&mut ContentHash>,
) -> Result<Tensor, Problem> {
    let place = || format!("tensor `{name}`");
    let stored = stored(info.dtype).ok_or_else(|| {
        let what = format!("its element type {:?} is not supported", info.dtype);
        Problem::unsupported(place(), what, "Convert it to a float or integer type that PyTorch trains with")
    })?;
    let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
    source.read_exact(&mut bytes).map_err(|e| Problem::read(place(), e))?;
    if let Some(hash) = hash {
        hash.tensor(name, info);
        hash.0.update(&bytes);
    }
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

/// Writes `weights` to `path`, whole or not at all. `metadata` is the JSON that goes under [`METADATA_KEY`]; beside it stands a hash of
/// all that the file holds, which [`read()`] checks.
///
/// The same arguments give the same bytes: put no time, path or host name into `metadata`.
///
/// # Errors
/// When the file cannot be written.
#[cfg(feature = "write")]
pub fn write(path: &Path, weights: &Weights, metadata: &str) -> Result<(), FormatError> {
    write_atomically(path, |file| {
        let header = Header::of(weights, metadata);
        let mut hash = ContentHash::default();
        hash.strings(header.metadata.iter().map(|(key, text)| (*key, *text)));
        for ((name, info), tensor) in header.tensors.iter().zip(header.data.iter()) {
            hash.tensor(name, info);
            write_le(tensor.data(), &mut hash)?;
        }
        let hash = hash.finish();
        let mut header = header;
        header.metadata.insert(HASH_KEY, &hash);
        header.write(file)
    })
}

/// Writes the bytes of `write` to `out`, without the hash.
///
/// # Errors
/// Those of `out`.
pub fn write_to(out: &mut impl Write, weights: &Weights, metadata: &str) -> std::io::Result<()> {
    Header::of(weights, metadata).write(out)
}

/// A header with the tensors that it is of.
struct Header<'w> {
    metadata: BTreeMap<&'w str, &'w str>,
    /// In the order of the file.
    tensors: Vec<(&'w str, TensorInfo)>,
    data: Vec<&'w Tensor>,
}

impl<'w> Header<'w> {
    fn of(weights: &'w Weights, metadata: &'w str) -> Header<'w> {
        // The widest elements first keep every tensor aligned, as the reference implementation does.
        let mut order: Vec<(&String, &Tensor)> = weights.iter().collect();
        order.sort_by_key(|(_, tensor)| std::cmp::Reverse(file_dtype(tensor.dtype())));
        let mut end = 0;
        let infos = order.iter().map(|(name, tensor)| {
            let start = end;
            end += tensor.len() * tensor.dtype().size();
            let (dtype, shape) = (file_dtype(tensor.dtype()), tensor.shape().to_vec());
            (name.as_str(), TensorInfo { dtype, shape, data_offsets: (start, end) })
        });
        let tensors = infos.collect();
        let data = order.into_iter().map(|(_, tensor)| tensor).collect();
        Header { metadata: BTreeMap::from([(METADATA_KEY, metadata)]), tensors, data }
    }

    /// The length, this header and the elements of its tensors.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(&text)?;
        self.data.iter().try_for_each(|tensor| write_le(tensor.data(), out))
    }
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.tensors.len() + 1))?;
        map.serialize_entry("__metadata__", &self.metadata)?;
        self.tensors.iter().try_for_each(|(name, info)| map.serialize_entry(name, info))?;
        map.end()
    }
}

/// SHA-256 of what a file holds: the strings of its metadata but for the hash, by key, and then name, type, shape and bytes of each
/// tensor in the order of the file. Lengths stand before strings and bytes.
#[derive(Default)]
struct ContentHash(Sha256);

impl ContentHash {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn strings<'s>(&mut self, strings: impl Iterator<Item = (&'s str, &'s str)>) {
        for (key, text) in strings.filter(|(key, _)| *key != HASH_KEY) {
            self.field(key.as_bytes());
            self.field(text.as_bytes());
        }
    }

    /// What comes before the bytes of a tensor.
    fn tensor(&mut self, name: &str, info: &TensorInfo) {
        self.field(name.as_bytes());
        self.field(format!("{:?} {:?}", info.dtype, info.shape).as_bytes());
        self.0.update(((info.data_offsets.1 - info.data_offsets.0) as u64).to_le_bytes());
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Write for ContentHash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
