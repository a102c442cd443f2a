//! The tables of a run directory: CSV (RFC 4180) that a spreadsheet computes nothing of.
//!
//! A text that a spreadsheet would take for a formula has a `'` before it, which makes it a text there. Reading takes it away
//! again, so that any text comes back as it was. Names of pictures stand in them byte for byte, in UTF-8 or not.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// What marks a text.
const MARK: char = '\'';

/// A text as a field of a line.
pub(crate) fn quoted(text: &str) -> Cow<'_, str> {
    let marked = match is_like_a_formula(text) && !is_number(text) {
        true => Cow::Owned(format!("{MARK}{text}")),
        false => Cow::Borrowed(text),
    };
    match marked.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", marked.replace('"', "\"\"")).into(),
        false => marked,
    }
}

/// Whether a text begins, after any marks, as a formula does. Tabs and ends of lines before one are left out by spreadsheets,
/// and some take the wide forms of East Asian scripts for the same.
fn is_like_a_formula(text: &str) -> bool {
    text.trim_start_matches(MARK).starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

/// Whether a text is a plain number, as in `-0.5` and `+1e-3`.
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) && text.parse::<f64>().is_ok()
}

/// The bytes that were written as a field.
fn unmarked(mut field: Vec<u8>) -> Vec<u8> {
    if field.starts_with(&[MARK as u8]) && is_like_a_formula(&String::from_utf8_lossy(&field)) {
        field.remove(0);
    }
    field
}

/// The fields of each line of a table.
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
            b',' if !quoted => record.push(unmarked(std::mem::take(&mut field))),
            b'\n' if !quoted => {
                record.push(unmarked(std::mem::take(&mut field)));
                records.push(std::mem::take(&mut record));
            }
            b'\r' if !quoted => {}
            other => field.push(other),
        }
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(unmarked(field));
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
    if let Ok(text) = std::str::from_utf8(&bytes) {
        return quoted(text).into_owned().into_bytes().into();
    }
    let bytes = match is_like_a_formula(&String::from_utf8_lossy(&bytes)) {
        true => [&[MARK as u8], &bytes[..]].concat().into(),
        false => bytes,
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_formula_and_each_comes_back() {
        let plain = ["", "a", "a=b", "-0.5", "+1e-3", "-1", "'", "''a", "it's", "2024-01-01", "'a=b"];
        for text in plain {
            assert_eq!(quoted(text), text);
        }
        let marked = [
            "=1+1",
            "+cmd|x",
            "-2+3",
            "@SUM(A1)",
            "\t=1",
            "\r\n=1",
            "-",
            "--1",
            "-inf",
            "+nan",
            "'=1",
            "''@x",
            "'-1",
            "＝1",
            "=HYPERLINK(\"http://x,y\")",
        ];
        for text in marked {
            assert!(quoted(text).trim_start_matches('"').starts_with(MARK), "{text:?}");
        }
        let all: Vec<&str> = plain.into_iter().chain(marked).collect();
        let line = all.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(",");
        assert_eq!(records(&format!("{line}\n{line}")), [&all[..], &all]);
    }

    #[cfg(unix)]
    #[test]
    fn any_path_comes_back() {
        use std::os::unix::ffi::OsStrExt as _;
        for name in [
            &b"/x/plain.png"[..],
            b"\xff.png",
            b"a,b\xfe\"c\"\n\r.png",
            "\u{fffd}.png".as_bytes(),
            b"\\xff",
            b"=1",
            b"-\xff",
            b"'=\xff",
        ] {
            let path = Path::new(std::ffi::OsStr::from_bytes(name));
            let line = [&path_field(path), &b",2\n"[..]].concat();
            let mut records = byte_records(&line);
            assert_eq!(records.len(), 1);
            assert_eq!((path_of(records[0].remove(0)).as_path(), &records[0][0][..]), (path, &b"2"[..]));
        }
    }
}
