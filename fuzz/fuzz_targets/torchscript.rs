//! Any bytes are read or refused; what is read and written again is the same file from then on. Bytes that begin no
//! archive are taken as the code of one, since a mutated archive rarely gets past its own directory.
#![no_main]

mod archives;

use std::io::Cursor;
use std::sync::LazyLock;

use archives::Entry;
use libfuzzer_sys::fuzz_target;
use offshoot_formats::torchscript::{Options, read_bytes, write_to};
use offshoot_graph::{Model, Op};

const GOLDEN: &[u8] = include_bytes!("../../crates/offshoot-formats/tests/golden/torchscript/tiny_trace.pt");
const CODE: &str = "model/code/__torch__/offshoot.py";

/// The entries of an archive of ours, without its code and metadata.
static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let bytes =
        written(&read_bytes(GOLDEN, None).expect("a golden file reads").model).expect("and is written");
    archives::entries(&bytes, |name| name != CODE && !name.contains("extra"))
});

fn written(model: &Model) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    write_to(&mut bytes, model, Options::default()).ok().map(|()| bytes.into_inner())
}

fn composites(model: &Model) -> usize {
    model.graph.nodes().iter().filter(|node| matches!(node.op, Op::Composite(_))).count()
}

fuzz_target!(|bytes: &[u8]| {
    let file = match bytes.starts_with(b"PK") {
        true => read_bytes(bytes, None),
        false => read_bytes(&archives::with(&ENTRIES, CODE, bytes), None),
    };
    let Ok(file) = file else { return };
    // A graph may be read and not written: a window that PyTorch cannot say.
    let Some(first) = written(&file.model) else { return };
    let again = read_bytes(&first, None).expect("our own file reads");
    let second = written(&again.model).expect("what was written is written again");
    // What has no name in ATen is what it consists of in the first: from the second writing on then.
    let third = read_bytes(&second, None).expect("our own file reads");
    assert_eq!(written(&third.model).as_ref(), Some(&second));
    if composites(&again.model) == composites(&file.model) {
        assert_eq!(second, first);
    }
});
