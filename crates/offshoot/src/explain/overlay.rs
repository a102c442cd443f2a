//! A map over its picture.

use offshoot_data::{Picture, Transform};
use offshoot_graph::{Fit, Interpolation, Preprocessing};

use super::Heatmap;

/// How much of a pixel is the map's color where the map is smallest, and by how much more that is where it is largest.
const GROUND: f64 = 0.2;
const MORE: f64 = 0.5;

/// The map as gray levels of `size` x `size` pixels: from black, its smallest number or 0 where that is below it, to white, its largest. A map without
/// anything above that is black.
pub fn heatmap_picture(map: &Heatmap, size: usize) -> Picture {
    let pixels = levels(map, size).into_iter().flat_map(|level| [level; 3]).collect();
    Picture::new(size, size, pixels).unwrap_or_else(empty)
}

/// The picture, `size` x `size` RGB pixels, under the map in the colors of matplotlib's `inferno`: the brighter, the more.
///
/// # Panics
/// When `pixels` is shorter.
pub fn overlay(pixels: &[u8], map: &Heatmap, size: usize) -> Picture {
    let mixed = levels(map, size).into_iter().enumerate().flat_map(|(i, level)| {
        let part = f64::from(level) / 255.0;
        let color = colorous::INFERNO.eval_continuous(part);
        let strength = GROUND + MORE * part;
        let mix = |c: usize, color: u8| {
            (f64::from(pixels[3 * i + c]) * (1.0 - strength) + f64::from(color) * strength).round() as u8
        };
        [mix(0, color.r), mix(1, color.g), mix(2, color.b)]
    });
    Picture::new(size, size, mixed.collect()).unwrap_or_else(empty)
}

/// The map resized to `size` x `size` pixels, 0 to 255: bilinear, as OpenCV's and so pytorch-grad-cam's.
fn levels(map: &Heatmap, size: usize) -> Vec<u8> {
    let finite = || map.values.iter().copied().filter(|x| x.is_finite());
    let least = finite().fold(f32::INFINITY, f32::min).max(0.0);
    let most = finite().fold(0.0, f32::max);
    let scale = if most > least { 255.0 / (most - least) } else { 0.0 };
    let gray = |&x: &f32| ((x.max(least) - least) * scale).round() as u8;
    let pixels = map.values.iter().flat_map(|x| [gray(x); 3]).collect();
    let small = Picture::new(map.columns, map.rows, pixels);
    let stretched = Preprocessing {
        size,
        fit: Fit::Stretch,
        interpolation: Interpolation::Bilinear,
        ..Preprocessing::default()
    };
    let resized = small.zip(Transform::new(&stretched).ok()).map(|(small, by)| by.evaluate(&small));
    resized.map_or_else(|| vec![0; size * size], |pixels| pixels.into_iter().step_by(3).collect())
}

/// A picture of one black pixel, in place of one without pixels.
fn empty() -> Picture {
    Picture::new(1, 1, vec![0; 3]).expect("three bytes are a pixel")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(values: [f32; 4]) -> Heatmap {
        Heatmap { rows: 2, columns: 2, values: values.to_vec() }
    }

    #[test]
    fn a_map_goes_from_black_to_white_in_its_place() {
        let gray = |values| heatmap_picture(&map(values), 8).pixels().to_vec();
        let pixels = gray([0.0, 0.0, 3.0, -5.0]);
        let at = |x: usize, y: usize| pixels[(y * 8 + x) * 3];
        assert_eq!((at(0, 0), at(7, 0), at(0, 7), at(7, 7)), (0, 0, 255, 0));
        assert_eq!(gray([0.0; 4]), [0; 192]);
        assert_eq!(gray([2.0; 4]), [0; 192]);
        assert_eq!(gray([f32::NAN, -1.0, -2.0, -3.0]), [0; 192]);
    }

    #[test]
    fn an_overlay_is_brightest_where_the_map_is_largest() {
        let over = overlay(&[100; 192], &map([0.0, 0.0, 1.0, 0.0]), 8);
        let sum = |x: usize, y: usize| {
            over.pixels()[(y * 8 + x) * 3..][..3].iter().map(|&x| u32::from(x)).sum::<u32>()
        };
        assert!(sum(0, 7) > 2 * sum(7, 0), "{} {}", sum(0, 7), sum(7, 0));
        assert_eq!(over.pixels()[..3], [80, 80, 81]);
    }
}
