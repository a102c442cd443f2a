//! Resizing with Pillow's arithmetic: antialiased filters in 22-bit fixed point on 8-bit values, first along the
//! rows, then along the columns, rounded to 8 bits in between.
//!
//! One [`Axis`] describes one direction: which input pixels, with which weights, make each output pixel. Only output
//! pixels that are kept are computed, and padding is never stored: its share of each output pixel is one number.
//!
//! Formulas: Pillow, `src/libImaging/Resample.c` (`precompute_coeffs`, `normalize_coeffs_8bpc`) and, for the
//! nearest pixel, `Geometry.c` (`ImagingScaleAffine`).

use std::ops::Range;

use offshoot_graph::Interpolation;

use crate::decode::Picture;

/// Bits after the point of a weight: 32 minus 8 of the value minus 2 for overshoot and sign.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// What one direction of a resize does. The canvas is what gets resized; the picture may overlap it only in
/// part (a crop) or be smaller than it (padding).
pub(crate) struct Span {
    /// Length of the picture, in pixels.
    pub(crate) picture: usize,
    /// Length of the canvas, in pixels.
    pub(crate) canvas: usize,
    /// Where the canvas begins, in pixels of the picture; negative if padding comes first.
    pub(crate) origin: i64,
    /// Length of the resized canvas, in pixels.
    pub(crate) resized: usize,
    /// The part of the resized canvas that is kept.
    pub(crate) keep: Range<usize>,
}

/// The weights of one direction.
pub(crate) struct Axis {
    windows: Vec<Window>,
    weights: Vec<i32>,
}

/// The input pixels of one output pixel.
struct Window {
    /// The first pixel of the picture.
    first: usize,
    /// How many pixels of the picture.
    count: usize,
    /// Where the weights of these pixels begin.
    weights: usize,
    /// The sum of the weights that fall on padding.
    padding: i32,
}

impl Axis {
    pub(crate) fn new(interpolation: Interpolation, span: &Span) -> Axis {
        let mut axis = Axis { windows: Vec::with_capacity(span.keep.len()), weights: Vec::new() };
        match interpolation {
            Interpolation::Nearest => axis.nearest(span),
            Interpolation::Bilinear => axis.filtered(span, 1.0, triangle),
            Interpolation::Bicubic => axis.filtered(span, 2.0, cubic),
            Interpolation::Lanczos => axis.filtered(span, 3.0, lanczos),
        }
        axis
    }

    fn nearest(&mut self, span: &Span) {
        let scale = span.canvas as f64 / span.resized as f64;
        // Pillow adds up instead of multiplying; the last bits can decide which pixel is nearest.
        let mut center = scale * 0.5;
        for x in 0..span.keep.end {
            if span.keep.contains(&x) {
                self.push(span, center as i64, &[1 << PRECISION_BITS]);
            }
            center += scale;
        }
    }

    fn filtered(&mut self, span: &Span, radius: f64, filter: fn(f64) -> f64) {
        let scale = span.canvas as f64 / span.resized as f64;
        let filter_scale = scale.max(1.0);
        let support = radius * filter_scale;
        let mut exact = Vec::new();
        let mut fixed = Vec::new();
        for x in span.keep.clone() {
            let center = (x as f64 + 0.5) * scale;
            let first = ((center - support + 0.5) as i64).max(0);
            let last = ((center + support + 0.5) as i64).min(span.canvas as i64);
            exact.clear();
            exact.extend((first..last).map(|i| filter((i as f64 - center + 0.5) / filter_scale)));
            let sum: f64 = exact.iter().sum();
            fixed.clear();
            fixed.extend(exact.iter().map(|weight| to_fixed(weight / sum)));
            self.push(span, first, &fixed);
        }
    }

    /// Adds the output pixel made from the canvas pixels at `first`.. with these weights.
    fn push(&mut self, span: &Span, first: i64, weights: &[i32]) {
        let first = first + span.origin;
        let inside = |i: i64| i.clamp(0, span.picture as i64);
        let (start, end) = (inside(first), inside(first + weights.len() as i64));
        let used = if start < end { (start - first) as usize..(end - first) as usize } else { 0..0 };
        let padding = weights[..used.start].iter().sum::<i32>() + weights[used.end..].iter().sum::<i32>();
        self.windows.push(Window {
            first: start as usize,
            count: used.len(),
            weights: self.weights.len(),
            padding,
        });
        self.weights.extend_from_slice(&weights[used]);
    }

    fn weights(&self, window: &Window) -> &[i32] {
        &self.weights[window.weights..][..window.count]
    }

    /// The input pixels that any output pixel needs.
    fn needed(&self) -> Range<usize> {
        let used = || self.windows.iter().filter(|window| window.count > 0);
        let start = used().map(|window| window.first).min().unwrap_or(0);
        let end = used().map(|window| window.first + window.count).max().unwrap_or(0);
        start..end
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// Rounds half away from zero.
fn to_fixed(weight: f64) -> i32 {
    (weight * f64::from(1 << PRECISION_BITS)).round() as i32
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes along both directions. Returns RGB rows, as many as `vertical` has output pixels, each as long as
/// `horizontal` has.
pub(crate) fn resample(
    picture: &Picture,
    horizontal: &Axis,
    vertical: &Axis,
    background: [u8; 3],
) -> Vec<u8> {
    let rows = vertical.needed();
    let row_bytes = horizontal.windows.len() * 3;
    let mut narrowed = vec![0; rows.len() * row_bytes];
    for (y, output) in rows.clone().zip(narrowed.chunks_exact_mut(row_bytes)) {
        resample_row(picture.row(y), horizontal, background, output);
    }
    let mut resized = vec![0; vertical.windows.len() * row_bytes];
    let mut sums = vec![0; row_bytes];
    for (window, output) in vertical.windows.iter().zip(resized.chunks_exact_mut(row_bytes)) {
        start_sums(&mut sums, background, window.padding);
        for (y, &weight) in (window.first..).zip(vertical.weights(window)) {
            add_row(&mut sums, &narrowed[(y - rows.start) * row_bytes..][..row_bytes], weight);
        }
        output.iter_mut().zip(&sums).for_each(|(output, &sum)| *output = to_byte(sum));
    }
    resized
}

fn resample_row(row: &[u8], axis: &Axis, background: [u8; 3], output: &mut [u8]) {
    for (window, output) in axis.windows.iter().zip(output.chunks_exact_mut(3)) {
        let mut sums = background.map(|value| HALF + i32::from(value) * window.padding);
        let pixels = &row[window.first * 3..][..window.count * 3];
        for (pixel, &weight) in pixels.chunks_exact(3).zip(axis.weights(window)) {
            sums[0] += i32::from(pixel[0]) * weight;
            sums[1] += i32::from(pixel[1]) * weight;
            sums[2] += i32::from(pixel[2]) * weight;
        }
        output.copy_from_slice(&sums.map(to_byte));
    }
}

fn start_sums(sums: &mut [i32], background: [u8; 3], padding: i32) {
    let start = background.map(|value| HALF + i32::from(value) * padding);
    sums.chunks_exact_mut(3).for_each(|sums| sums.copy_from_slice(&start));
}

fn add_row(sums: &mut [i32], row: &[u8], weight: i32) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum += i32::from(value) * weight;
    }
}
