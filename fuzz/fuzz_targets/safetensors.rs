//! Any bytes are read or refused; what is read and written again is the same file from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offshoot_formats::safetensors::{SafetensorsFile, read_from, write_to};

fn written(file: &SafetensorsFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, &file.weights, "{}").expect("memory takes every byte");
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = read_from(bytes, bytes.len() as u64) else { return };
    let first = written(&file);
    let again = read_from(first.as_slice(), first.len() as u64).expect("our own file reads");
    assert_eq!(written(&again), first);
});
