//! The file of weights beside a program: MIL's blob storage, version 2.
//! [`StorageFormat.hpp`](https://github.com/apple/coremltools/blob/main/mlmodel/src/MILBlob/Blob/StorageFormat.hpp)
//!
//! A header of 64 bytes with the number of blobs; then for each blob 64 bytes that say what it is and where its data begins,
//! and the data. Both begin at multiples of 64.

use super::proto::data_type;
use crate::error::Problem;

const ALIGNMENT: usize = 64;
const VERSION: u32 = 2;
const SENTINEL: u32 = 0xDEAD_BEEF;

/// A file of weights that grows.
pub(super) struct BlobWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl BlobWriter {
    pub(super) fn new() -> BlobWriter {
        BlobWriter { bytes: vec![0; ALIGNMENT], count: 0 }
    }

    /// Adds a blob of `data_type` elements and returns the offset by which a program refers to it.
    pub(super) fn add(&mut self, data_type: i32, data: &[u8]) -> u64 {
        self.align();
        let place = self.bytes.len();
        let fields = [
            u64::from(SENTINEL) | u64::from(stored_type(data_type)) << 32,
            data.len() as u64,
            (place + ALIGNMENT) as u64,
        ];
        fields.iter().for_each(|field| self.bytes.extend(field.to_le_bytes()));
        self.bytes.resize(place + ALIGNMENT, 0);
        self.bytes.extend_from_slice(data);
        self.count += 1;
        place as u64
    }

    /// The file.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        self.bytes
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// The number of a type in the file (`BlobDataType.hpp`). The writer stores no others.
fn stored_type(data_type: i32) -> u32 {
    match data_type {
        data_type::FLOAT16 => 1,
        data_type::FLOAT32 => 2,
        data_type::INT8 => 4,
        _ => 0,
    }
}

/// The data of the blob that a program refers to by `offset`, which must be `len` bytes of `data_type` elements.
pub(super) fn read(file: &[u8], offset: u64, data_type: i32, len: usize) -> Result<&[u8], Problem> {
    let damaged = |what: &str| Problem::damaged(format!("weight.bin, blob at {offset}"), what);
    let number = |at: usize, size: usize| {
        let bytes = file.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b)))
    };
    if number(4, 4) != Some(VERSION.into()) {
        return Err(damaged("the file is not of version 2"));
    }
    let place = usize::try_from(offset).ok().filter(|p| p % ALIGNMENT == 0 && *p < file.len());
    let place = place.ok_or_else(|| damaged("no blob begins there"))?;
    if number(place, 4) != Some(SENTINEL.into()) {
        return Err(damaged("no blob begins there"));
    }
    if number(place + 4, 4) != Some(stored_type(data_type).into()) || number(place + 8, 8) != Some(len as u64)
    {
        return Err(damaged("its type or size is not what the program says"));
    }
    let begin = number(place + 16, 8).and_then(|n| usize::try_from(n).ok()).filter(|n| n % ALIGNMENT == 0);
    let data = begin.and_then(|begin| file.get(begin..begin.checked_add(len)?));
    data.ok_or_else(|| damaged("its data lies outside of the file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_aligned_and_read_back() {
        let mut writer = BlobWriter::new();
        let first = writer.add(data_type::INT8, &[1; 70]);
        let second = writer.add(data_type::FLOAT16, &[2; 8]);
        let file = writer.finish();
        assert_eq!((first, second), (64, 256));
        assert_eq!(read(&file, first, data_type::INT8, 70).unwrap(), [1; 70]);
        assert_eq!(read(&file, second, data_type::FLOAT16, 8).unwrap(), [2; 8]);
        assert_eq!(file[0], 2);
    }

    #[test]
    fn a_reference_that_does_not_fit_is_an_error() {
        let mut writer = BlobWriter::new();
        let offset = writer.add(data_type::FLOAT32, &[3; 16]);
        let file = writer.finish();
        for (offset, data_type, len) in [
            (offset + 1, data_type::FLOAT32, 16),
            (offset + 64, data_type::FLOAT32, 16),
            (1 << 40, data_type::FLOAT32, 16),
            (offset, data_type::FLOAT16, 16),
            (offset, data_type::FLOAT32, 12),
        ] {
            assert!(read(&file, offset, data_type, len).is_err());
        }
        assert!(read(&file[..140], offset, data_type::FLOAT32, 16).is_err());
    }
}
