//! Any bytes are read or refused; what is read has tensors.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use offshoot_formats::pth::read_from;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = read_from(Cursor::new(bytes)) {
        assert!(!file.weights.is_empty());
    }
});
