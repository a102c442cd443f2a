//! What `benches/pictures` drives: times one step of preparing a picture, again and again, as it is told on standard input.
//!
//! Each line is `STEP SECONDS FILE`; the answer is the least time of a run in milliseconds, of as many runs as fit into the
//! time (at least three). Steps are `decode`, `resize` (shorter side to 256, middle of 224), `normalize`, `all` (these three)
//! and `crop` (decoding, the middle half of the width and height resized to 224, mirrored, normalized).

#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use offshoot_data::augment::{Crop, flip};
use offshoot_data::{DecodeOptions, Picture, Transform, decode};
use offshoot_graph::Preprocessing;

fn main() -> Result<(), Box<dyn Error>> {
    let transform = Transform::new(&Preprocessing::default())?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().ok_or("a line is STEP SECONDS FILE");
        let (step, seconds, file) = (word()?, word()?.parse()?, Path::new(word()?));
        println!("{}", least_ms(step, seconds, &std::fs::read(file)?, &transform)?);
    }
    Ok(())
}

fn least_ms(step: &str, seconds: f64, bytes: &[u8], transform: &Transform) -> Result<f64, Box<dyn Error>> {
    let decoded = decode(bytes, &DecodeOptions::default())?;
    let small = transform.evaluate(&decoded);
    let mut input = vec![0.0; transform.input_len()];
    let read = || decode(black_box(bytes), &DecodeOptions::default());
    Ok(match step {
        "decode" => least(seconds, || drop(black_box(read()))),
        "resize" => least(seconds, || drop(black_box(transform.evaluate(black_box(&decoded))))),
        "normalize" => least(seconds, || transform.normalize(black_box(&small), &mut input)),
        "all" => least(seconds, || {
            drop(read().map(|picture| transform.normalize(&transform.evaluate(&picture), &mut input)));
        }),
        "crop" => least(seconds, || {
            drop(read().map(|picture| transform.normalize(&middle(transform, &picture), &mut input)));
        }),
        _ => return Err(format!("no step {step}").into()),
    })
}

/// The middle of a picture, mirrored.
fn middle(transform: &Transform, picture: &Picture) -> Vec<u8> {
    let (width, height) = (picture.width(), picture.height());
    let crop = Crop { left: width / 4, top: height / 4, width: width / 2, height: height / 2 };
    let mut pixels = transform.crop(picture, crop);
    flip(&mut pixels, transform.preprocessing().size);
    pixels
}

/// The least time of a run, in milliseconds.
fn least(seconds: f64, mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let (mut runs, mut least) = (0, f64::INFINITY);
    while runs < 3 || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        run();
        least = least.min(1e3 * start.elapsed().as_secs_f64());
        runs += 1;
    }
    least
}
