//! Elements as files store them: more types than a [`Tensor`](offshoot_graph::Tensor) holds, in either byte order.

use std::io::{self, Write};

use half::{bf16, f16};
use offshoot_files::allowed_memory;
use offshoot_graph::Data;
use offshoot_graph::remedy::MEMORY_LIMIT;

use crate::error::Problem;

/// An element type that a file can hold and that fits one of ours without loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    F64,
    F16,
    BF16,
    I64,
    I32,
    /// Read as `i32`.
    I16,
    I8,
    U8,
    /// Read as `i32`.
    U16,
    /// Read as `i64`.
    U32,
    Bool,
}

/// More elements than one picture's activations have anywhere (1 GiB as f32).
pub(crate) const MAX_ELEMENTS: usize = 1 << 28;

/// Checks that one picture's activation with these sizes is not larger than [`MAX_ELEMENTS`], or than the memory that somebody
/// has allowed.
pub(crate) fn check_activation(place: &str, sizes: impl Iterator<Item = usize>) -> Result<(), Problem> {
    const F32: u64 = size_of::<f32>() as u64;
    let bytes = sizes.fold(F32, |n, size| n.saturating_mul(size as u64));
    let limit = allowed_memory().max(MAX_ELEMENTS as u64 * F32);
    if bytes <= limit {
        return Ok(());
    }
    let most = if bytes == u64::MAX { " or more" } else { "" };
    let what = format!("its output takes {bytes} bytes{most} for one picture ({MEMORY_LIMIT} allows more)");
    Err(Problem::TooLarge { place: place.into(), what, limit })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Little,
    Big,
}

impl Stored {
    /// Bytes an element takes in the file.
    pub(crate) fn size(self) -> usize {
        match self {
            Stored::F64 | Stored::I64 => 8,
            Stored::F32 | Stored::I32 | Stored::U32 => 4,
            Stored::F16 | Stored::BF16 | Stored::I16 | Stored::U16 => 2,
            Stored::I8 | Stored::U8 | Stored::Bool => 1,
        }
    }

    /// Bytes an element takes in memory, once decoded.
    pub(crate) fn decoded_size(self) -> usize {
        match self {
            Stored::I16 | Stored::U16 => 4,
            Stored::U32 => 8,
            other => other.size(),
        }
    }

    /// The elements in `bytes`. A rest shorter than an element is ignored: callers pass whole ones.
    pub(crate) fn decode(self, bytes: &[u8], order: ByteOrder) -> Data {
        match self {
            Stored::F32 => Data::F32(numbers(bytes, order, f32::from_le_bytes)),
            Stored::F64 => Data::F64(numbers(bytes, order, f64::from_le_bytes)),
            Stored::F16 => Data::F16(numbers(bytes, order, f16::from_le_bytes)),
            Stored::BF16 => Data::BF16(numbers(bytes, order, bf16::from_le_bytes)),
            Stored::I64 => Data::I64(numbers(bytes, order, i64::from_le_bytes)),
            Stored::I32 => Data::I32(numbers(bytes, order, i32::from_le_bytes)),
            Stored::I16 => Data::I32(numbers(bytes, order, |b| i16::from_le_bytes(b).into())),
            Stored::U16 => Data::I32(numbers(bytes, order, |b| u16::from_le_bytes(b).into())),
            Stored::U32 => Data::I64(numbers(bytes, order, |b| u32::from_le_bytes(b).into())),
            Stored::I8 => Data::I8(numbers(bytes, order, i8::from_le_bytes)),
            Stored::U8 => Data::U8(bytes.to_vec()),
            Stored::Bool => Data::Bool(bytes.iter().map(|&b| b != 0).collect()),
        }
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], order: ByteOrder, from_le: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    match order {
        ByteOrder::Little => elements.iter().map(|&e| from_le(e)).collect(),
        ByteOrder::Big => elements
            .iter()
            .map(|&(mut e)| {
                e.reverse();
                from_le(e)
            })
            .collect(),
    }
}

/// Writes the elements of `data`, little-endian.
pub(crate) fn write_le(data: &Data, out: &mut impl Write) -> io::Result<()> {
    match data {
        Data::F32(v) => write_each(v, |x| x.to_le_bytes(), out),
        Data::F64(v) => write_each(v, |x| x.to_le_bytes(), out),
        Data::F16(v) => write_each(v, |x| x.to_le_bytes(), out),
        Data::BF16(v) => write_each(v, |x| x.to_le_bytes(), out),
        Data::I64(v) => write_each(v, |x| x.to_le_bytes(), out),
        Data::I32(v) => write_each(v, |x| x.to_le_bytes(), out),
        Data::I8(v) => write_each(v, |x| x.to_le_bytes(), out),
        Data::U8(v) => out.write_all(v),
        Data::Bool(v) => write_each(v, |&x| [u8::from(x)], out),
    }
}

fn write_each<T, const N: usize>(
    values: &[T],
    to_le: impl Fn(&T) -> [u8; N],
    out: &mut impl Write,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(N * values.len().min(1 << 14));
    for part in values.chunks(1 << 14) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(&to_le));
        out.write_all(&bytes)?;
    }
    Ok(())
}
