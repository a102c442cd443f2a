//! Any bytes are read or refused; what is read and written again is the same file from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offshoot_formats::onnx::{
    Options, ReadOptions, quantize_dynamic_bytes, read_bytes, read_bytes_with, write_bytes,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = quantize_dynamic_bytes(bytes) {
        let _ = read_bytes(file.bytes);
    }
    let _ = read_bytes_with(bytes, ReadOptions { size: None, any_input: true });
    let Ok(file) = read_bytes_with(bytes, ReadOptions { size: Some(32), any_input: false }) else { return };
    // A graph may be read and not written: a window of a pooling that ONNX cannot say.
    let Ok(first) = write_bytes(&file.model, Options::default()) else { return };
    let again = read_bytes(first.as_slice()).expect("our own file reads");
    let second = write_bytes(&again.model, Options::default()).expect("what was written is written again");
    assert_eq!(second, first);
    let preparing = Options { opset: 18, with_preprocess: true, ..Options::default() };
    if let Ok(prepared) = write_bytes(&again.model, preparing) {
        read_bytes(prepared).expect("our own file that prepares its pictures reads");
    }
});
