//! What a file is, by its first bytes: extensions lie.

use crate::error::Problem;

/// The bytes that [`sniff`] wants to see, or all of a shorter file.
pub(crate) const HEAD: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Safetensors,
    Zip,
    Pickle,
}

/// The kind of a file of `len` bytes that begins with `head`.
pub(crate) fn sniff(head: &[u8], len: u64) -> Result<Content, Problem> {
    if looks_like_safetensors(head, len) {
        return Ok(Content::Safetensors);
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Ok(Content::Zip);
    }
    if head.first() == Some(&0x80) {
        return Ok(Content::Pickle);
    }
    if head.get(257..262) == Some(b"ustar") {
        let way_out = "Load it in PyTorch and save `model.state_dict()` again with torch.save";
        return Err(Problem::unsupported("the file", "a tar archive, the layout of PyTorch 0.1", way_out));
    }
    Err(Problem::Unrecognised { found: guess(head) })
}

/// A header length that fits the file, or at least a JSON object after it: a damaged file is still one.
fn looks_like_safetensors(head: &[u8], len: u64) -> bool {
    match head.first_chunk::<8>() {
        Some(size) if head.get(8) == Some(&b'{') => {
            u64::from_le_bytes(*size) <= len || head.get(9) == Some(&b'"')
        }
        _ => false,
    }
}

fn guess(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let start = text.trim_start().to_ascii_lowercase();
    if head.is_empty() {
        "it is empty".into()
    } else if start.starts_with("version https://git-lfs") {
        "a Git LFS pointer, whose content is fetched with `git lfs pull`".into()
    } else if start.starts_with("<!doctype") || start.starts_with("<html") {
        "a web page, so the download went wrong".into()
    } else if head.starts_with(b"\x89HDF") {
        "an HDF5 file of Keras".into()
    } else {
        let bytes: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
        format!("it begins with the bytes {}", bytes.join(" "))
    }
}
