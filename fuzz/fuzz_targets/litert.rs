//! Any bytes are read or refused; what is read and written again computes on the same operators from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offshoot_formats::litert::{Options, read_bytes, write_bytes};

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = read_bytes(bytes) else { return };
    // A graph may be read and not written: a number that is not finite.
    let Ok(first) = write_bytes(&model, Options::default()) else { return };
    let again = read_bytes(&first).expect("our own file reads");
    assert_eq!(again.metadata, model.metadata);
    assert!(write_bytes(&again, Options::default()).is_ok(), "what was written is written again");
});
