//! Random crops and flips: pure functions of a stream of random numbers, which the loader keys by (seed, epoch,
//! picture, [`Purpose::Augment`](offshoot_graph::random::Purpose::Augment)).

use offshoot_graph::random::Random;

/// The part of the picture's area that a crop covers: torchvision's defaults.
const AREA: (f64, f64) = (0.08, 1.0);
/// Width over height of a crop, at most; at least its inverse: torchvision's defaults.
const MAX_ASPECT: f64 = 4.0 / 3.0;
/// Tries before the fallback to the middle of the picture.
const TRIES: usize = 10;

/// A rectangle of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// The first column.
    pub left: usize,
    /// The first row.
    pub top: usize,
    /// Columns, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
}

/// The rectangle of torchvision's `RandomResizedCrop`: area uniform in 0.08..1 of the picture's, aspect
/// log-uniform in 3/4..4/3, ten tries; then the largest rectangle in the middle with an allowed aspect.
pub fn random_crop(width: usize, height: usize, random: &mut Random) -> Crop {
    let area = width as f64 * height as f64;
    for _ in 0..TRIES {
        let target = area * between(AREA.0, AREA.1, random);
        let aspect = aspect(between(-1.0, 1.0, random));
        let crop_width = (target * aspect).sqrt().round_ties_even() as usize;
        let crop_height = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            let top = random.below(height - crop_height + 1);
            let left = random.below(width - crop_width + 1);
            return Crop { left, top, width: crop_width, height: crop_height };
        }
    }
    middle_crop(width, height)
}

/// The largest rectangle in the middle of a picture whose aspect is within 3/4..4/3.
pub fn middle_crop(width: usize, height: usize) -> Crop {
    let rounded = |side: f64| (side.round_ties_even() as usize).max(1);
    let aspect = width as f64 / height as f64;
    let (crop_width, crop_height) = if aspect < 1.0 / MAX_ASPECT {
        (width, rounded(width as f64 * MAX_ASPECT).min(height))
    } else if aspect > MAX_ASPECT {
        (rounded(height as f64 * MAX_ASPECT).min(width), height)
    } else {
        (width, height)
    };
    let (left, top) = ((width - crop_width) / 2, (height - crop_height) / 2);
    Crop { left, top, width: crop_width, height: crop_height }
}

fn between(low: f64, high: f64, random: &mut Random) -> f64 {
    low + (high - low) * f64::from(random.uniform())
}

/// `MAX_ASPECT` to the power of `exponent` (in -1..1), by its power series: the same bits on every platform, which the
/// mathematical library does not promise.
fn aspect(exponent: f64) -> f64 {
    const LN_MAX_ASPECT: f64 = 0.287_682_072_451_780_9;
    let x = exponent * LN_MAX_ASPECT;
    // The terms from the 13th on are below 0.29^13 / 13!, far below an f64's last bit.
    (1..13).rev().fold(1.0, |sum, n| 1.0 + x / f64::from(n) * sum)
}

/// Whether to flip: one time in two.
pub fn random_flip(random: &mut Random) -> bool {
    random.uniform() < 0.5
}

/// Mirrors rows of `width` RGB pixels, left to right, in place.
pub fn flip(pixels: &mut [u8], width: usize) {
    for row in pixels.chunks_exact_mut(width * 3) {
        for x in 0..width / 2 {
            let mirrored = width - 1 - x;
            for channel in 0..3 {
                row.swap(x * 3 + channel, mirrored * 3 + channel);
            }
        }
    }
}
