//! Any bytes are a picture of the size that its header says, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offshoot_data::{DecodeOptions, decode};

fuzz_target!(|bytes: &[u8]| {
    // So few pixels that what is slow or large is the decoder's fault.
    let options = DecodeOptions { max_pixels: 1 << 16, ..DecodeOptions::default() };
    if let Ok(picture) = decode(bytes, &options) {
        assert_eq!(picture.pixels().len(), 3 * picture.width() * picture.height());
    }
});
