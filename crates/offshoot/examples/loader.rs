//! The loader alone: how fast it decodes and augments the pictures of a folder, and how much memory that takes. Prints JSON.
//!
//!     cargo run --release -p offshoot --example loader -- FOLDER [THREADS]
//!
//! One epoch of `FOLDER/<class>/*` as `train` sees it at 224 x 224 with random crops and flips; nothing is done with the batches.
//! The time starts before the folder is read.

#![allow(clippy::print_stdout)] // what it prints is what it is for

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use offshoot::{Dataset, Loader, LoaderOptions, Preprocessing, Transform};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder?")?);
    let threads = arguments.next().map_or(Ok(0), |n| n.to_string_lossy().parse())?;
    let start = Instant::now();
    let data = Dataset::open(&folder, &Default::default())?;
    let transform = Transform::new(&Preprocessing::default())?;
    let options = LoaderOptions { threads, ..LoaderOptions::training(&transform, 16, 0) };
    let loader = Loader::new(data.train.into_iter().chain(data.val).collect(), transform, options);
    let mut pictures = 0;
    for batch in loader.epoch(0) {
        pictures += batch?.len();
    }
    let seconds = start.elapsed().as_secs_f64();
    let line = serde_json::json!({
        "pictures": pictures,
        "seconds": seconds,
        "images_per_second": pictures as f64 / seconds,
        "peak_mib": offshoot_train::peak_mib(),
    });
    println!("{line}");
    Ok(())
}
