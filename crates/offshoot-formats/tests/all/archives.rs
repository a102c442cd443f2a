//! Zip archives that tests take apart, change, and put together again.

use std::io::{Cursor, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Names and contents.
pub(crate) type Entries = Vec<(String, Vec<u8>)>;

/// The entries of an archive under `model/`, without metadata.
pub(crate) fn entries(archive: &[u8]) -> Entries {
    let mut archive = ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut entries = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let name = entry.name().unwrap().strip_prefix("model/").unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        entries.push((name, content));
    }
    entries.retain(|(name, _)| !name.starts_with("extra/"));
    entries
}

/// The archive of such entries.
pub(crate) fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, content) in entries {
        zip.start_file(format!("model/{name}"), options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}
