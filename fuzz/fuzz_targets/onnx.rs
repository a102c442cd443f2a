//! Any bytes are read or refused; what is read and written again is the same file from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offshoot_formats::onnx::{Options, read_bytes, write_bytes};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = read_bytes(bytes) else { return };
    // A graph may be read and not written: a window of a pooling that ONNX cannot say.
    let Ok(first) = write_bytes(&file.model, Options::default()) else { return };
    let again = read_bytes(first.as_slice()).expect("our own file reads");
    let second = write_bytes(&again.model, Options::default()).expect("what was written is written again");
    assert_eq!(second, first);
});
