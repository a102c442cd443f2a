//! The report of a run whose recipe and tables are any bytes. The input is the files of [`FILES`] in order, with [`BETWEEN`]
//! between them.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use offshoot_train::{Settings, report};

const FILES: [&str; 8] = [
    "recipe.toml",
    "results.csv",
    "health.csv",
    "predictions.csv",
    "pictures.csv",
    "groups.csv",
    "log.csv",
    "formats.json",
];
/// ASCII's file separator.
const BETWEEN: u8 = 0x1c;

/// A folder of this process.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let run = std::env::temp_dir().join(format!("offshoot-fuzz-run-{}", std::process::id()));
    fs::create_dir_all(&run).expect("a folder for temporary files");
    run
});

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|&byte| byte == BETWEEN);
    for file in FILES {
        fs::write(RUN.join(file), parts.next().unwrap_or_default()).expect("room for temporary files");
    }
    let _ = Settings::read(&RUN.join("recipe.toml"));
    report::write(&RUN, "cpu").expect("a report of whatever is there");
});
