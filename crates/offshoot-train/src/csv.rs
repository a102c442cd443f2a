//! Tables of a run directory (RFC 4180). Names of pictures stand in them byte for byte, in UTF-8 or not.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The fields of each line of a CSV file.
pub(crate) fn records(text: &str) -> Vec<Vec<String>> {
    let as_text = |field| String::from_utf8(field).unwrap_or_default();
    let lines = byte_records(text.as_bytes()).into_iter();
    lines.map(|line| line.into_iter().map(as_text).collect()).collect()
}

/// The fields of each line of a CSV file, which may be no text.
pub(crate) fn byte_records(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut records = Vec::new();
    let (mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), false);
    let mut bytes = bytes.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.peek() == Some(&b'"') => {
                bytes.next();
                field.push(b'"');
            }
            b'"' => quoted = !quoted,
            b',' if !quoted => record.push(std::mem::take(&mut field)),
            b'\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            b'\r' if !quoted => {}
            other => field.push(other),
        }
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(field);
        records.push(record);
    }
    records
}

/// A path as a field of a CSV line.
pub(crate) fn path_field(path: &Path) -> Cow<'_, [u8]> {
    // Not Unix: what is no text has no bytes that can be read back.
    #[cfg(not(unix))]
    let bytes: Cow<'_, [u8]> = path.to_string_lossy().into_owned().into_bytes().into();
    #[cfg(unix)]
    let bytes: Cow<'_, [u8]> = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).into();
    if !bytes.iter().any(|byte| b",\"\n\r".contains(byte)) {
        return bytes;
    }
    let doubled = bytes.iter().flat_map(|&byte| std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
    std::iter::once(b'"').chain(doubled).chain([b'"']).collect()
}

/// The path that a field holds.
pub(crate) fn path_of(field: Vec<u8>) -> PathBuf {
    #[cfg(unix)]
    return <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(field).into();
    #[cfg(not(unix))]
    String::from_utf8_lossy(&field).into_owned().into()
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn any_path_comes_back() {
        for name in
            [&b"/x/plain.png"[..], b"\xff.png", b"a,b\xfe\"c\"\n\r.png", "\u{fffd}.png".as_bytes(), b"\\xff"]
        {
            let path = Path::new(OsStr::from_bytes(name));
            let line = [&path_field(path), &b",2\n"[..]].concat();
            let mut records = byte_records(&line);
            assert_eq!(records.len(), 1);
            assert_eq!((path_of(records[0].remove(0)).as_path(), &records[0][0][..]), (path, &b"2"[..]));
        }
    }
}
