//! Any bytes are read or refused; what is read and written again is the same file from then on. Bytes that begin no
//! archive are taken as the program of one, since a mutated archive rarely gets past its own directory.
#![no_main]

use std::io::{Cursor, Read, Write};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use offshoot_formats::pt2::{read_bytes, write_to};
use offshoot_graph::Model;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

const GOLDEN: &[u8] = include_bytes!("../../crates/offshoot-formats/tests/golden/pt2/tiny_static.pt2");
const PROGRAM: &str = "tiny_static/models/model.json";

/// The entries of an archive of PyTorch, without its program.
static ENTRIES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let mut archive = ZipArchive::new(Cursor::new(GOLDEN)).expect("an archive");
    let mut entries = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).expect("an entry");
        let name = entry.name().expect("a name").into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its bytes");
        if name != PROGRAM {
            entries.push((name, content));
        }
    }
    entries
});

fn with_program(program: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let program = [(PROGRAM.to_owned(), program.to_vec())];
    for (name, content) in ENTRIES.iter().chain(&program) {
        zip.start_file(name, options).expect("memory takes every byte");
        zip.write_all(content).expect("memory takes every byte");
    }
    zip.finish().expect("memory takes every byte").into_inner()
}

fn written(model: &Model) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    write_to(&mut bytes, model).ok().map(|()| bytes.into_inner())
}

fuzz_target!(|bytes: &[u8]| {
    let file = match bytes.starts_with(b"PK") {
        true => read_bytes(bytes, None),
        false => read_bytes(&with_program(bytes), None),
    };
    let Ok(file) = file else { return };
    // A graph may be read and not written: a window that PyTorch cannot say.
    let Some(first) = written(&file.model) else { return };
    let again = read_bytes(&first, None).expect("our own file reads");
    let second = written(&again.model).expect("what was written is written again");
    // What has no name in ATen is what it consists of in the first: from the second writing on then.
    let third = read_bytes(&second, None).expect("our own file reads");
    assert_eq!(written(&third.model).as_ref(), Some(&second));
});
