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

#[cfg(test)]
mod tests {
    use super::*;
    use offshoot_graph::random::Purpose;
    use proptest::prelude::*;

    fn stream(seed: u64, picture: u64) -> Random {
        Random::new(seed, 0, picture, Purpose::Augment)
    }

    #[test]
    fn the_series_is_the_power() {
        for i in -100..=100 {
            let exponent = f64::from(i) / 100.0;
            let error = aspect(exponent) / MAX_ASPECT.powf(exponent) - 1.0;
            assert!(error.abs() < 1e-15, "{exponent}: {error}");
        }
    }

    #[test]
    fn areas_and_aspects_have_the_moments_of_their_distributions() {
        let (mut areas, mut aspects, mut lefts) = (0.0, 0.0, 0.0);
        let count = 20_000;
        // So large that rounding does not matter, and square so that most first tries fit.
        let side = 100_000;
        for picture in 0..count {
            let crop = random_crop(side, side, &mut stream(3, picture));
            areas += crop.width as f64 * crop.height as f64 / (side * side) as f64;
            aspects += (crop.width as f64 / crop.height as f64).ln();
            lefts += crop.left as f64 / (side - crop.width).max(1) as f64;
        }
        let [area, aspect, left] = [areas, aspects, lefts].map(|sum| sum / count as f64);
        // torchvision 0.29 gives 0.476 for such a picture (20,000 draws): large areas with a long side do not fit.
        assert!((area - 0.476).abs() < 0.007, "{area}");
        assert!(aspect.abs() < 0.005, "{aspect}");
        assert!((left - 0.5).abs() < 0.01, "{left}");
    }

    #[test]
    fn one_flip_in_two() {
        let flips = (0..10_000).filter(|&picture| random_flip(&mut stream(1, picture))).count();
        assert!((4800..5200).contains(&flips), "{flips}");
    }

    proptest! {
        #[test]
        fn crops_lie_within_the_picture(width in 1..5000usize, height in 1..5000usize, seed: u64) {
            let crop = random_crop(width, height, &mut stream(seed, 0));
            prop_assert!(crop.width >= 1 && crop.height >= 1);
            prop_assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
            prop_assert_eq!(crop, random_crop(width, height, &mut stream(seed, 0)));
        }

        #[test]
        fn flipping_twice_changes_nothing(width in 1..20usize, height in 1..20usize, seed: u8) {
            let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i as u8).wrapping_mul(37) ^ seed).collect();
            let mut flipped = pixels.clone();
            flip(&mut flipped, width);
            prop_assert_eq!(&flipped[..3], &pixels[(width - 1) * 3..][..3]);
            flip(&mut flipped, width);
            prop_assert_eq!(flipped, pixels);
        }
    }
}
