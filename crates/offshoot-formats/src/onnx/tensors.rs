//! Tensors of an ONNX file: elements in the file itself, in typed fields, or in a file beside it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use offshoot_files::allowed_memory;
use offshoot_graph::remedy::MEMORY_LIMIT;
use offshoot_graph::{Data, Tensor};
use prost::bytes::Bytes;

use super::external::{refusal, resolve};
use super::proto::{EXTERNAL, TensorProto};
use crate::elements::{ByteOrder, Stored};
use crate::error::Problem;

/// Decoded elements may take this many times the bytes of the files they come from (a byte can become eight when a
/// small integer is stored as a varint), and [`SLACK`] bytes more.
const EXPANSION: u64 = 8;
const SLACK: u64 = 1 << 20;

/// Decodes tensors within a budget of memory that follows from the size of the files.
pub(super) struct TensorReader {
    /// The file that holds the model.
    model: Option<PathBuf>,
    files: HashMap<PathBuf, File>,
    budget: u64,
}

impl TensorReader {
    /// For the file `model` of `len` bytes; without a path, elements in other files are an error.
    pub(super) fn new(len: u64, model: Option<&Path>) -> TensorReader {
        let budget = len.saturating_mul(EXPANSION).saturating_add(SLACK).saturating_add(allowed_memory());
        TensorReader { model: model.map(Path::to_owned), files: HashMap::new(), budget }
    }

    /// Takes the memory of a further copy of `tensor`'s elements as f32 from the budget.
    pub(super) fn charge(&mut self, place: &str, elements: usize, size: usize) -> Result<(), Problem> {
        let bytes = elements as u64 * size as u64;
        let left = self.budget.checked_sub(bytes).ok_or_else(|| Problem::TooLarge {
            place: place.into(),
            what: format!("it takes {bytes} bytes in memory ({MEMORY_LIMIT} allows more)"),
            limit: self.budget,
        })?;
        self.budget = left;
        Ok(())
    }

    /// Gives back what was charged for elements that are gone.
    pub(super) fn release(&mut self, elements: usize, size: usize) {
        self.budget = self.budget.saturating_add(elements as u64 * size as u64);
    }

    /// The tensor that `proto` describes.
    pub(super) fn read(&mut self, proto: &TensorProto) -> Result<Tensor, Problem> {
        let place = format!("tensor `{}`", proto.name);
        let stored = element_type(&place, proto.data_type.unwrap_or_default())?;
        let shape = shape(&place, &proto.dims)?;
        let elements = count(&shape).ok_or_else(|| Problem::damaged(&place, "its dims are too large"))?;
        let data = if proto.data_location == Some(EXTERNAL) {
            let bytes = self.read_external(&place, proto, elements, stored.size())?;
            self.charge(&place, elements, stored.decoded_size())?;
            stored.decode(&bytes, ByteOrder::Little)
        } else if let Some(raw) = &proto.raw_data {
            check_len(&place, elements.checked_mul(stored.size()), raw.len(), "bytes")?;
            self.charge(&place, elements, stored.decoded_size())?;
            stored.decode(raw, ByteOrder::Little)
        } else {
            check_len(&place, Some(elements), typed_len(stored, proto), "elements")?;
            self.charge(&place, elements, stored.decoded_size())?;
            typed(stored, proto)
        };
        Tensor::new(shape, data).map_err(|e| Problem::damaged(&place, e.to_string()))
    }

    /// The bytes of the elements of `proto`, which are in another file.
    pub(super) fn external_bytes(&mut self, proto: &TensorProto) -> Result<Bytes, Problem> {
        let place = format!("tensor `{}`", proto.name);
        let size = element_type(&place, proto.data_type.unwrap_or_default())?.size();
        let elements = count(&shape(&place, &proto.dims)?);
        let elements = elements.ok_or_else(|| Problem::damaged(&place, "its dims are too large"))?;
        self.read_external(&place, proto, elements, size)
    }

    fn read_external(
        &mut self,
        place: &str,
        proto: &TensorProto,
        elements: usize,
        size: usize,
    ) -> Result<Bytes, Problem> {
        let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let location = entry("location")
            .ok_or_else(|| Problem::damaged(place, "its elements are in another file that is not named"))?;
        let number = |key: &str| match entry(key).map(str::parse::<u64>) {
            None => Ok(None),
            Some(Ok(n)) => Ok(Some(n)),
            Some(Err(_)) => Err(Problem::damaged(place, format!("the {key} of its elements is no number"))),
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let wanted = (elements as u64).checked_mul(size as u64);
        if length.is_some() && length != wanted {
            let what = format!("its dims ask for {} bytes, the file gives {}", show(wanted), show(length));
            return Err(Problem::damaged(place, what));
        }
        let wanted = wanted.ok_or_else(|| Problem::damaged(place, "its dims are too large"))?;
        let file = self.open(place, location)?;
        let in_file = format!("{place} in `{location}`");
        let held = file.metadata().map_err(|e| Problem::read(&in_file, e))?.len();
        if offset.checked_add(wanted).is_none_or(|end| end > held) {
            let what = format!("bytes {offset} to {offset}+{wanted} of a file of {held}");
            return Err(Problem::damaged(in_file, what));
        }
        file.seek(SeekFrom::Start(offset)).map_err(|e| Problem::read(&in_file, e))?;
        // A file with holes can claim more than there is memory.
        let mut bytes = Vec::new();
        let reserved = usize::try_from(wanted).ok().filter(|&n| bytes.try_reserve_exact(n).is_ok());
        let wanted = reserved.ok_or_else(|| {
            let what = format!("{wanted} bytes, which this machine does not give");
            Problem::unsupported(&in_file, what, "Read the model on a machine with more memory")
        })?;
        file.take(wanted as u64).read_to_end(&mut bytes).map_err(|e| Problem::read(&in_file, e))?;
        if bytes.len() != wanted {
            return Err(Problem::damaged(in_file, "the file ends here"));
        }
        Ok(bytes.into())
    }

    /// The file of tensors called `location`.
    fn open(&mut self, place: &str, location: &str) -> Result<&mut File, Problem> {
        let refused = |what: &str| refusal(place, location, what);
        let model =
            self.model.as_ref().ok_or_else(|| refused("and only the bytes of one file were given"))?;
        let path = resolve(place, model, location)?;
        if !self.files.contains_key(&path) {
            let failed = |e| refused(&format!("which cannot be opened: {e}"));
            let file = offshoot_files::open(&path).map_err(failed)?;
            let len = file.metadata().map_err(failed)?.len();
            self.budget = self.budget.saturating_add(len.saturating_mul(EXPANSION));
            self.files.insert(path.clone(), file);
        }
        self.files.get_mut(&path).ok_or_else(|| refused("which cannot be opened"))
    }
}

fn show(bytes: Option<u64>) -> String {
    bytes.map_or("too many".into(), |n| n.to_string())
}

fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= isize::MAX as usize / 8)
}

fn shape(place: &str, dims: &[i64]) -> Result<Vec<usize>, Problem> {
    dims.iter()
        .map(|&d| usize::try_from(d).map_err(|_| Problem::damaged(place, format!("it has the dim {d}"))))
        .collect()
}

fn check_len(place: &str, wanted: Option<usize>, held: usize, unit: &str) -> Result<(), Problem> {
    if wanted == Some(held) {
        return Ok(());
    }
    let wanted = wanted.map_or("too many".into(), |n| n.to_string());
    Err(Problem::damaged(place, format!("its dims ask for {wanted} {unit}, the file has {held}")))
}

/// Whether the elements of `proto` are of a type that is read.
pub(super) fn is_read(proto: &TensorProto) -> bool {
    element_type("", proto.data_type.unwrap_or_default()).is_ok()
}

/// Bytes that the elements of `proto` take, as far as its words say.
pub(super) fn claimed_bytes(proto: &TensorProto) -> u64 {
    let size = element_type("", proto.data_type.unwrap_or_default()).map_or(1, Stored::size);
    let count = proto.dims.iter().fold(1u64, |n, &d| n.saturating_mul(u64::try_from(d).unwrap_or(0)));
    count.saturating_mul(size as u64)
}

fn element_type(place: &str, data_type: i32) -> Result<Stored, Problem> {
    Ok(match data_type {
        1 => Stored::F32,
        2 => Stored::U8,
        3 => Stored::I8,
        4 => Stored::U16,
        5 => Stored::I16,
        6 => Stored::I32,
        7 => Stored::I64,
        9 => Stored::Bool,
        10 => Stored::F16,
        11 => Stored::F64,
        12 => Stored::U32,
        16 => Stored::BF16,
        other => {
            let what = format!("ONNX element type {other} is not read");
            return Err(Problem::unsupported(place, what, "Export the model in float32"));
        }
    })
}

/// The number of elements in the typed field that holds `stored`.
fn typed_len(stored: Stored, proto: &TensorProto) -> usize {
    match stored {
        Stored::F32 => proto.float_data.len(),
        Stored::F64 => proto.double_data.len(),
        Stored::I64 => proto.int64_data.len(),
        Stored::U32 => proto.uint64_data.len(),
        Stored::F16
        | Stored::BF16
        | Stored::I32
        | Stored::I16
        | Stored::I8
        | Stored::U8
        | Stored::U16
        | Stored::Bool => proto.int32_data.len(),
    }
}

/// The elements of a typed field. ONNX keeps types of 32 bits and less in the low bits of an int32, halves as their bits.
fn typed(stored: Stored, proto: &TensorProto) -> Data {
    let ints = proto.int32_data.iter();
    match stored {
        Stored::F32 => Data::F32(proto.float_data.clone()),
        Stored::F64 => Data::F64(proto.double_data.clone()),
        Stored::I64 => Data::I64(proto.int64_data.clone()),
        Stored::U32 => Data::I64(proto.uint64_data.iter().map(|&x| i64::from(x as u32)).collect()),
        Stored::F16 => Data::F16(ints.map(|&x| f16::from_bits(x as u16)).collect()),
        Stored::BF16 => Data::BF16(ints.map(|&x| bf16::from_bits(x as u16)).collect()),
        Stored::I32 => Data::I32(proto.int32_data.clone()),
        Stored::I16 => Data::I32(ints.map(|&x| i32::from(x as i16)).collect()),
        Stored::U16 => Data::I32(ints.map(|&x| i32::from(x as u16)).collect()),
        Stored::I8 => Data::I8(ints.map(|&x| x as i8).collect()),
        Stored::U8 => Data::U8(ints.map(|&x| x as u8).collect()),
        Stored::Bool => Data::Bool(ints.map(|&x| x != 0).collect()),
    }
}
