//! Any bytes are read or refused; what is read and written again is the same file from then on. Bytes that begin no
//! archive are taken as the program of one, since a mutated archive rarely gets past its own directory.
#![no_main]

mod archives;

use std::io::Cursor;
use std::sync::LazyLock;

use archives::Entry;
use libfuzzer_sys::fuzz_target;
use offshoot_formats::pt2::{read_bytes, write_to};
use offshoot_graph::Model;

const GOLDEN: &[u8] = include_bytes!("../../crates/offshoot-formats/tests/golden/pt2/tiny_static.pt2");
const PROGRAM: &str = "tiny_static/models/model.json";

/// The entries of an archive of PyTorch, without its program.
static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| archives::entries(GOLDEN, |name| name != PROGRAM));

fn written(model: &Model) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    write_to(&mut bytes, model).ok().map(|()| bytes.into_inner())
}

fuzz_target!(|bytes: &[u8]| {
    let file = match bytes.starts_with(b"PK") {
        true => read_bytes(bytes, None),
        false => read_bytes(&archives::with(&ENTRIES, PROGRAM, bytes), None),
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
