//! Arrays from NumPy's `.npz` files.

use std::io::Read;
use std::path::Path;

use zip::ZipArchive;

use offshoot_graph::text::shown;

use crate::error::{Error, Result};

/// The largest array that is read, in bytes: a zip can claim any size.
const MAX_BYTES: u64 = 1 << 29;
/// The most elements: 1 GiB as f32.
const MAX_ELEMENTS: usize = 1 << 28;

/// An array of numbers.
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Numbers,
}

/// Floats as f32, integers of more than a byte as i64: tokens are no floats.
#[derive(Debug, PartialEq)]
pub(crate) enum Numbers {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Numbers::Floats(numbers) => numbers.len(),
            Numbers::Integers(numbers) => numbers.len(),
        }
    }
}

/// The array called `name` in the archive at `path`, or the only one.
///
/// # Errors
/// When there is no such array, or it holds no plain numbers, or is larger than 512 MiB.
pub(crate) fn read(path: &Path, name: &str) -> Result<Array> {
    let refused = |what: String| Error::Input(format!("{}: {what}", shown(path)));
    let file = offshoot_files::open(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        action: "read",
        source,
    })?;
    let way_out = "give a file of numpy.savez";
    let mut archive =
        ZipArchive::new(file).map_err(|e| refused(format!("it is no .npz archive: {e}; {way_out}")))?;
    let names: std::result::Result<Vec<String>, _> =
        archive.file_names().map(|name| name.map(|name| name.into_owned())).collect();
    let names = names.map_err(|e| refused(format!("a name in it cannot be read: {e}")))?;
    let wanted = format!("{name}.npy");
    let chosen = match &names[..] {
        [only] => only,
        _ => names.iter().find(|n| **n == wanted).ok_or_else(|| {
            refused(format!("it holds {} arrays, none of which is called `{name}`", names.len()))
        })?,
    };
    let entry = archive.by_name(chosen).map_err(|e| refused(format!("`{chosen}`: {e}")))?;
    if entry.size() > MAX_BYTES {
        let (size, limit) = (entry.size(), MAX_BYTES);
        return Err(refused(format!(
            "`{chosen}` takes {size} bytes, above the limit of {limit}; give fewer rows"
        )));
    }
    // What an entry holds can be more than what it says.
    let mut bytes = Vec::new();
    entry
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| refused(format!("`{chosen}` is damaged: {e}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refused(format!("`{chosen}` is larger than {MAX_BYTES} bytes; give fewer rows")));
    }
    parse(&bytes).map_err(|what| refused(format!("`{chosen}`: {what}")))
}

/// The array in the bytes of an `.npy` file
/// ([the format](https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)).
fn parse(bytes: &[u8]) -> std::result::Result<Array, String> {
    let (header, elements) = split(bytes).ok_or("it is no array of plain numbers")?;
    let field = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let kind = field("descr").and_then(|text| text.strip_prefix('\'')?.split_once('\''));
    let (kind, _) = kind.ok_or("its header names no type of plain numbers")?;
    let sizes = field("shape").and_then(|text| text.strip_prefix('(')?.split_once(')'));
    let sizes = sizes.map(|(inside, _)| inside.split(',').map(str::trim).filter(|d| !d.is_empty()));
    let shape: Option<Vec<usize>> = sizes.and_then(|sizes| sizes.map(|d| d.parse().ok()).collect());
    let shape = shape.ok_or("its header names no shape")?;
    if field("fortran_order").is_none_or(|text| !text.starts_with("False")) && shape.len() > 1 {
        return Err("it is in Fortran's order; save numpy.ascontiguousarray of it".into());
    }
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if count.is_none_or(|n| n > MAX_ELEMENTS) {
        return Err(format!(
            "its shape {shape:?} is above the limit of {MAX_ELEMENTS} elements; give fewer rows"
        ));
    }
    let data = match kind {
        "<f4" => decode(elements, f32::from_le_bytes).map(Numbers::Floats),
        "<f8" => decode(elements, |b| f64::from_le_bytes(b) as f32).map(Numbers::Floats),
        "<i8" => decode(elements, i64::from_le_bytes).map(Numbers::Integers),
        "<i4" => decode(elements, |b| i32::from_le_bytes(b).into()).map(Numbers::Integers),
        "|u1" => decode(elements, |[b]| f32::from(b)).map(Numbers::Floats),
        other => return Err(format!("its elements are `{other}`; give float32, or int64 for tokens")),
    };
    match data {
        Some(data) if Some(data.len()) == count => Ok(Array { shape, data }),
        _ => Err(format!("its shape {shape:?} does not fit the {} bytes that it holds", elements.len())),
    }
}

/// The header of an `.npy` file, and its elements.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (start, length): (usize, usize) = match bytes {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => (10, u16::from_le_bytes([*a, *b]).into()),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d, ..] => {
            (12, u32::from_le_bytes([*a, *b, *c, *d]).try_into().ok()?)
        }
        _ => return None,
    };
    let (header, elements) = bytes.get(start..)?.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, elements))
}

/// Elements of `N` bytes each; `None` when a part of one is left over.
fn decode<const N: usize, T>(bytes: &[u8], number: fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (whole, rest) = bytes.as_chunks::<N>();
    rest.is_empty().then(|| whole.iter().map(|&chunk| number(chunk)).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn npy(header: &str, elements: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), elements].concat()
    }

    fn archive(entries: &[(&str, Vec<u8>)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut zip = zip::ZipWriter::new(file.reopen().expect("it opens"));
        for (name, bytes) in entries {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).expect("an entry");
            zip.write_all(bytes).expect("its bytes");
        }
        zip.finish().expect("an archive");
        file
    }

    fn error(entries: &[(&str, Vec<u8>)]) -> String {
        read(archive(entries).path(), "input").err().map(|e| e.to_string()).unwrap_or_default()
    }

    const HEADER: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }";

    #[test]
    fn an_array_is_found_by_name_or_alone() {
        let elements = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
        let array = npy(HEADER, &elements);
        for entries in [
            vec![("x.npy", array.clone())],
            vec![("input.npy", array.clone()), ("labels.npy", npy(HEADER, &[0; 8]))],
        ] {
            let read = read(archive(&entries).path(), "input").expect("it is read");
            assert_eq!((read.shape, read.data), (vec![2, 1], Numbers::Floats(vec![1.5, -2.0])));
        }
        let two = [("a.npy", array.clone()), ("b.npy", array)];
        assert!(error(&two).contains("2 arrays, none of which is called `input`"));
        let bytes = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", &[7, 255]);
        assert_eq!(
            read(archive(&[("x.npy", bytes)]).path(), "input").expect("it is read").data,
            Numbers::Floats(vec![7.0, 255.0])
        );
        // More than a float holds exactly.
        let tokens = [16_777_217i64.to_le_bytes(), (-1i64).to_le_bytes()].concat();
        let tokens = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", &tokens);
        let read = read(archive(&[("x.npy", tokens)]).path(), "input").expect("it is read");
        assert_eq!(read.data, Numbers::Integers(vec![16_777_217, -1]));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut zip = zip::ZipWriter::new(file.reopen().expect("it opens"));
        let options = zip::write::SimpleFileOptions::default().compression_level(Some(1));
        zip.start_file("input.npy", options).expect("an entry");
        let zeros = vec![0; 1 << 20];
        (0..513).for_each(|_| zip.write_all(&zeros).expect("its bytes"));
        zip.finish().expect("an archive");
        assert!(file.as_file().metadata().expect("its size").len() < 8 << 20);
        let message = read(file.path(), "input").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("above the limit"), "{message}");
    }

    #[test]
    fn what_is_no_array_is_one_error() {
        assert!(error(&[("x.npy", b"hello".to_vec())]).contains("no array"));
        assert!(error(&[("x.npy", npy(&"(".repeat(60_000), &[]))]).contains("no type"));
        for (shape, part) in [
            ("(4611686018427387904, 4)", "above the limit"),
            ("(99999999999999999999999,)", "no shape"),
            ("(-1, 2)", "no shape"),
            ("(3, 1)", "does not fit"),
            ("(2, 1", "no shape"),
        ] {
            let message = error(&[("x.npy", npy(&HEADER.replace("(2, 1)", shape), &[0; 8]))]);
            assert!(message.contains(part), "{message}");
        }
        assert!(error(&[("x.npy", npy(HEADER, &[0; 7]))]).contains("does not fit"));
        assert!(error(&[("x.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec())]).contains("no array"));
        let object = HEADER.replace("<f4", "|O");
        assert!(error(&[("x.npy", npy(&object, &[0; 8]))]).contains("`|O`"));
        let fortran = HEADER.replace("False", "True");
        assert!(error(&[("x.npy", npy(&fortran, &[0; 8]))]).contains("Fortran"));
        let text = tempfile::NamedTempFile::new().expect("a file");
        assert!(read(text.path(), "input").is_err());
    }
}
