//! Zip archives that targets take apart and put together again.

use std::io::{Cursor, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// A name and the content.
pub type Entry = (String, Vec<u8>);

/// The entries of an archive whose names `keep` holds for.
pub fn entries(archive: &[u8], keep: impl Fn(&str) -> bool) -> Vec<Entry> {
    let mut archive = ZipArchive::new(Cursor::new(archive)).expect("an archive");
    let mut entries = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).expect("an entry");
        let name = entry.name().expect("a name").into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its bytes");
        if keep(&name) {
            entries.push((name, content));
        }
    }
    entries
}

/// An archive of such entries, and one more.
pub fn with(entries: &[Entry], name: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let entries = entries.iter().map(|(name, content)| (name.as_str(), &content[..]));
    for (name, content) in entries.chain([(name, content)]) {
        zip.start_file(name, options).expect("memory takes every byte");
        zip.write_all(content).expect("memory takes every byte");
    }
    zip.finish().expect("memory takes every byte").into_inner()
}
