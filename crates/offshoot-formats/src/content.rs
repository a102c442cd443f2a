//! The kind of a file, found by its content: the extension or the first bytes alone are not enough.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{FormatError, Problem};
use crate::litert;
use crate::open::open_plain;
use crate::safetensors::MAX_HEADER;

/// The bytes at the start that tell most kinds of files apart.
const HEAD: usize = 512;

/// More fields than the outermost message of an ONNX file has.
const MAX_FIELDS: usize = 1 << 16;

/// A kind of file that holds a model or weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A safetensors file.
    Safetensors,
    /// A zip archive, as `torch.save`, `torch.jit.save` and `torch.export.save` write them: [`crate::torchscript::is_torchscript`]
    /// and [`crate::pt2::is_pt2`] tell them apart.
    Zip,
    /// A pickle, as `torch.save` wrote them before PyTorch 1.6.
    Pickle,
    /// An ONNX model.
    Onnx,
    /// A LiteRT model.
    LiteRt,
}

/// The kind of the file at `path`.
///
/// # Errors
/// When it cannot be read, is no plain file, or is of no kind that is known here.
pub fn of(path: &Path) -> Result<Content, FormatError> {
    open(path).map(|(_, content)| content)
}

/// The file at `path` and its kind.
///
/// # Errors
/// Those of [`of`].
pub(crate) fn open(path: &Path) -> Result<(File, Content), FormatError> {
    let mut file = open_plain(path)?;
    let content = sniff(&mut file, by_name(path)).map_err(|problem| problem.at(path))?;
    Ok((file, content))
}

/// The kind that the name of a file says, for one that is damaged from its first byte on: its reader says what is wrong.
fn by_name(path: &Path) -> Option<Content> {
    match path.extension()?.to_str()? {
        "onnx" => Some(Content::Onnx),
        "safetensors" => Some(Content::Safetensors),
        "tflite" => Some(Content::LiteRt),
        _ => None,
    }
}

/// The kind of `source`, which is at its start then; `otherwise`, where the content is of no kind that is known.
pub(crate) fn sniff(source: &mut (impl Read + Seek), otherwise: Option<Content>) -> Result<Content, Problem> {
    let failed = |error| Problem::Io { action: "read", error };
    let len = source.seek(SeekFrom::End(0)).map_err(failed)?;
    source.rewind().map_err(failed)?;
    let mut head = Vec::with_capacity(HEAD);
    source.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(failed)?;
    let content = match of_head(&head, len) {
        Some(content) => Ok(content),
        None if is_onnx(source, len) => Ok(Content::Onnx),
        None => refuse_foreign(&head).and(otherwise.ok_or_else(|| unrecognised(&head))),
    };
    source.rewind().map_err(failed)?;
    content
}

/// The kind of a file of `len` bytes that begins with `head`, where that tells it. What a safetensors file begins with is a
/// length, so that its first bytes can be those of any other kind: it is looked for first.
fn of_head(head: &[u8], len: u64) -> Option<Content> {
    if is_safetensors(head, len) {
        Some(Content::Safetensors)
    } else if litert::begins(head) {
        Some(Content::LiteRt)
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        Some(Content::Zip)
    } else if head.first() == Some(&0x80) {
        Some(Content::Pickle)
    } else {
        None
    }
}

/// A header length that fits the file and a JSON object after it. A damaged file, whose length does not fit, is one where
/// the length is one that a header can have and a key follows.
fn is_safetensors(head: &[u8], len: u64) -> bool {
    match head.first_chunk::<8>().map(|&size| u64::from_le_bytes(size)) {
        Some(size) if head.get(8) == Some(&b'{') => {
            size <= len.saturating_sub(8) || (size <= MAX_HEADER && head.get(9) == Some(&b'"'))
        }
        _ => false,
    }
}

/// Whether `source` is a message with the fields of ONNX's ModelProto, in any order, of which one is a graph. A file that was
/// cut short shows the version before its end.
fn is_onnx(source: &mut (impl Read + Seek), len: u64) -> bool {
    let mut source = BufReader::new(source);
    if source.rewind().is_err() {
        return false;
    }
    let (mut at, mut has_version, mut has_graph) = (0, false, false);
    for _ in 0..MAX_FIELDS {
        if at == len {
            return has_graph;
        }
        let Some((key, key_len)) = varint(&mut source) else { return has_version };
        let (tag, wire) = (key >> 3, key & 7);
        if !is_field(tag, wire) {
            return false;
        }
        let Some((value, value_len)) = varint(&mut source) else { return has_version };
        has_version |= tag == 1;
        has_graph |= tag == 7;
        let body = if wire == 2 { value } else { 0 };
        at = match (at + key_len + value_len).checked_add(body) {
            Some(end) if end <= len => end,
            _ => return has_version,
        };
        let step = i64::try_from(body).ok().filter(|&step| source.seek_relative(step).is_ok());
        if step.is_none() {
            return false;
        }
    }
    has_graph
}

/// Whether ModelProto has a field `tag` of the wire type `wire`, 0 for a number and 2 for bytes and messages.
fn is_field(tag: u64, wire: u64) -> bool {
    match tag {
        1 | 5 => wire == 0,
        2..=4 | 6..=8 | 14 | 20 | 25 | 26 => wire == 2,
        // What later versions may add.
        9..=64 => wire == 0 || wire == 2,
        _ => false,
    }
}

/// The next number of `source` and how many bytes it takes.
fn varint(source: &mut impl BufRead) -> Option<(u64, u64)> {
    let mut value = 0;
    for index in 0..10 {
        let mut byte = [0];
        source.read_exact(&mut byte).ok()?;
        let [byte] = byte;
        value |= u64::from(byte & 0x7f).checked_shl(7 * index)?;
        if byte < 0x80 {
            return Some((value, u64::from(index) + 1));
        }
    }
    None
}

/// An error for what people give for a model and is something else.
fn refuse_foreign(head: &[u8]) -> Result<(), Problem> {
    let text = String::from_utf8_lossy(head);
    let start = text.trim_start().to_ascii_lowercase();
    let found = if head.is_empty() {
        "it is empty"
    } else if start.starts_with("version https://git-lfs") {
        "a Git LFS pointer, whose content is fetched with `git lfs pull`"
    } else if start.starts_with("<!doctype") || start.starts_with("<html") {
        "a web page, so the download went wrong"
    } else if head.starts_with(b"\x89HDF") {
        "an HDF5 file of Keras"
    } else if head.get(257..262) == Some(b"ustar") {
        let way_out = "Load it in PyTorch and save `model.state_dict()` again with torch.save";
        return Err(Problem::unsupported("the file", "a tar archive, the layout of PyTorch 0.1", way_out));
    } else {
        return Ok(());
    };
    Err(Problem::Unrecognised { found: found.into() })
}

fn unrecognised(head: &[u8]) -> Problem {
    let bytes: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
    Problem::Unrecognised { found: format!("it begins with the bytes {}", bytes.join(" ")) }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn sniffed(bytes: &[u8]) -> Option<Content> {
        sniff(&mut Cursor::new(bytes), None).ok()
    }

    /// A safetensors file without tensors whose header has `size` bytes.
    fn safetensors(size: usize) -> Vec<u8> {
        let mut bytes = (size as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        bytes.resize(8 + size, b' ');
        bytes
    }

    #[test]
    fn a_safetensors_file_is_one_whatever_the_length_of_its_header() {
        let lengths = (2..2 + 4 * 256).chain((0..256).map(|high| 0x4b50 | high << 16)).chain([0x0403_4b50]);
        for size in lengths {
            let bytes = safetensors(size);
            assert_eq!(sniffed(&bytes), Some(Content::Safetensors), "header of {size} bytes");
            assert!(crate::safetensors::read_from(&bytes[..], bytes.len() as u64).is_ok(), "{size}");
        }
    }

    /// The fields of a model: version, producer, a graph of some bytes, an opset.
    const FIELDS: [&[u8]; 4] =
        [&[0x08, 0x08], b"\x12\x07pytorch", b"\x3a\x05\x12\x03abc", &[0x42, 0x02, 0x10, 0x11]];

    #[test]
    fn an_onnx_file_may_have_its_fields_in_any_order() {
        for first in 0..4 {
            for second in (0..4).filter(|&i| i != first) {
                let rest = (0..4).filter(|&i| i != first && i != second);
                let order: Vec<usize> = [first, second].into_iter().chain(rest).collect();
                let bytes: Vec<u8> = order.iter().flat_map(|&i| FIELDS[i]).copied().collect();
                assert_eq!(sniffed(&bytes), Some(Content::Onnx), "{order:?}");
            }
        }
        let whole = FIELDS.concat();
        // Cut short after the version, it is still one.
        assert_eq!(sniffed(&whole[..whole.len() - 6]), Some(Content::Onnx));
        // JSON in the metadata at the place where a safetensors file has its header.
        let metadata = b"\x72\x0c\x0a\x02ab\x12\x06{\"a\":1";
        assert_eq!(metadata[8..10], *b"{\"");
        assert_eq!(sniffed(&[&metadata[..], &whole].concat()), Some(Content::Onnx));
    }

    #[test]
    fn what_is_no_model_is_none() {
        let texts: [&[u8]; 7] = [
            b"",
            b"Better not\n",
            b":-) a text that begins with the byte of a graph's field\n",
            b"path,label\na.png,cat\n",
            b"\x89PNG\r\n\x1a\n0000",
            b"\x08\x01\x12\x02ab",
            b"<!DOCTYPE html><html>",
        ];
        for text in texts {
            assert_eq!(sniffed(text), None, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_number_of_too_many_bytes_is_none() {
        assert_eq!(varint(&mut &[0xff; 12][..]), None);
        assert_eq!(varint(&mut &[0x96, 0x01][..]), Some((150, 2)));
    }
}
