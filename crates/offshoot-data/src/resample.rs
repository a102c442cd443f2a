//! Resizing with Pillow's arithmetic: antialiased filters in 22-bit fixed point on 8-bit values, first along the
//! rows, then along the columns (or the other way round), rounded to 8 bits in between.
//!
//! One [`Axis`] describes one direction: which input pixels, with which weights, make each output pixel. Only output
//! pixels that are kept are computed, and padding is never stored: its share of each output pixel is one number.
//!
//! Formulas: Pillow, `src/libImaging/Resample.c` (`precompute_coeffs`, `normalize_coeffs_8bpc`) and, for the
//! nearest pixel, `Geometry.c` (`ImagingScaleAffine`).

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use multiversion::multiversion;
use multiversion::target::match_target;
use offshoot_graph::Interpolation;

use crate::decode::Pixels;

/// Bits after the point of a weight: 32 minus 8 of the value minus 2 for overshoot and sign.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// What one direction of a resize does. The canvas is what gets resized; the picture may overlap it only in
/// part (a crop) or be smaller than it (padding).
#[derive(Debug)]
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
    /// The first pixel of the picture; 0 if there is none.
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
        let start = if used.is_empty() { 0 } else { start };
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

    /// The input pixels that any output pixel needs; at least one, so that there is a picture to go on with.
    fn needed(&self) -> Range<usize> {
        let used = || self.windows.iter().filter(|window| window.count > 0);
        let start = used().map(|window| window.first).min().unwrap_or(0);
        let end = used().map(|window| window.first + window.count).max().unwrap_or(1);
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

/// Resizes along both directions. Returns RGB rows, as many as `vertical` keeps, each as long as `horizontal` keeps.
pub(crate) fn resample(
    picture: Pixels<'_>,
    interpolation: Interpolation,
    (horizontal, vertical): (&Span, &Span),
    background: [u8; 3],
) -> Vec<u8> {
    let columns = Axis::new(interpolation, horizontal);
    let rows = Axis::new(interpolation, vertical);
    let width = picture.width();
    if columns_first(horizontal, vertical) {
        let used = columns.needed();
        let squeezed = along_columns(picture.rgb(), width, used.clone(), &rows, 0, background);
        along_rows(&squeezed, used.len(), &columns, used.start, background)
    } else {
        let used = rows.needed();
        let pixels = &picture.rgb()[used.start * width * 3..used.end * width * 3];
        let squeezed = along_rows(pixels, width, &columns, 0, background);
        let width = columns.windows.len();
        along_columns(&squeezed, width, 0..width, &rows, used.start, background)
    }
}

/// Which direction Pillow 13 resizes first; as values are rounded in between, the order shows. Found by
/// comparing its results with both orders at thousands of sizes.
fn columns_first(horizontal: &Span, vertical: &Span) -> bool {
    let shrinks = |span: &Span| span.canvas as i64 - span.resized as i64;
    vertical.resized < vertical.canvas && 2 * shrinks(horizontal) < shrinks(vertical)
}

/// Bytes of a row that are resized together: their sums stay in registers. A multiple of three channels.
const BYTES: usize = 48;

/// Resizes each row. `pixels` are rows of `width` RGB pixels, the first of which is pixel `start` of the axis.
fn along_rows(pixels: &[u8], width: usize, axis: &Axis, start: usize, background: [u8; 3]) -> Vec<u8> {
    let (stride, row_bytes) = (width * 3, axis.windows.len() * 3);
    let mut output = vec![0; pixels.len() / stride * row_bytes];
    let done = many_rows(pixels, stride, (axis, start), background, &mut output);
    let left = pixels[done * stride..].chunks_exact(stride);
    for (row, output) in left.zip(output[done * row_bytes..].chunks_exact_mut(row_bytes)) {
        for (window, output) in axis.windows.iter().zip(output.chunks_exact_mut(3)) {
            let pixels = &row[window.first.saturating_sub(start) * 3..][..window.count * 3];
            let sums = weigh(pixels, axis.weights(window), start_sum(background, window.padding));
            output.copy_from_slice(&sums.map(to_byte));
        }
    }
    output
}

/// Resizes the first rows, as many as the processor has better instructions for. Returns how many.
#[multiversion(targets("x86_64+avx2"))]
fn many_rows(
    pixels: &[u8],
    stride: usize,
    (axis, start): (&Axis, usize),
    background: [u8; 3],
    output: &mut [u8],
) -> usize {
    match_target! {
        "x86_64+avx2" => {
            let Some(steps) = avx2::Steps::new(axis, start, background) else { return 0 };
            let rows = steps.rows(pixels.len(), stride).min(pixels.len() / stride);
            avx2::along_rows(pixels, stride, &steps, &mut output[..rows * 3 * axis.windows.len()]);
            rows
        },
        _ => {
            let _ = (pixels, stride, axis, start, background, output);
            0
        },
    }
}

fn start_sum(background: [u8; 3], padding: i32) -> [i32; 3] {
    background.map(|value| HALF + i32::from(value) * padding)
}

#[inline]
fn weigh(pixels: &[u8], weights: &[i32], mut sums: [i32; 3]) -> [i32; 3] {
    for (pixel, &weight) in pixels.chunks_exact(3).zip(weights) {
        sums[0] += i32::from(pixel[0]) * weight;
        sums[1] += i32::from(pixel[1]) * weight;
        sums[2] += i32::from(pixel[2]) * weight;
    }
    sums
}

/// Resizes each column of `columns`. `pixels` are rows of `width` RGB pixels, the first of which is row `start` of the axis.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn along_columns(
    pixels: &[u8],
    width: usize,
    columns: Range<usize>,
    axis: &Axis,
    start: usize,
    background: [u8; 3],
) -> Vec<u8> {
    let row_bytes = columns.len() * 3;
    let mut output = vec![0; axis.windows.len() * row_bytes];
    for (window, output) in axis.windows.iter().zip(output.chunks_exact_mut(row_bytes)) {
        let start_sum = start_sum(background, window.padding);
        let first = (window.first.saturating_sub(start) * width + columns.start) * 3;
        let rows = || axis.weights(window).iter().zip(pixels[first.min(pixels.len())..].chunks(width * 3));
        for (n, output) in output.chunks_mut(BYTES).enumerate() {
            let (at, end) = (n * BYTES, n * BYTES + output.len());
            let mut sums: [i32; BYTES] = std::array::from_fn(|i| start_sum[i % 3]);
            if output.len() == BYTES {
                rows().for_each(|(&weight, row)| add(&mut sums, &row[at..at + BYTES], weight));
            } else {
                rows().for_each(|(&weight, row)| add(&mut sums[..end - at], &row[at..end], weight));
            }
            output.iter_mut().zip(sums).for_each(|(output, sum)| *output = to_byte(sum));
        }
    }
    output
}

#[inline(always)]
fn add(sums: &mut [i32], bytes: &[u8], weight: i32) {
    for (sum, &value) in sums.iter_mut().zip(bytes) {
        *sum = sum.wrapping_add(i32::from(value).wrapping_mul(weight));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Picture;
    use proptest::prelude::*;

    const FILTERS: [Interpolation; 4] =
        [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos];

    fn noise(width: usize, height: usize, seed: u64) -> Picture {
        let value = |i: usize| (offshoot_graph::random::mix(seed ^ i as u64) >> 56) as u8;
        Picture::new(width, height, (0..width * height * 3).map(value).collect()).unwrap()
    }

    fn whole(picture: usize, resized: usize) -> Span {
        Span { picture, canvas: picture, origin: 0, resized, keep: 0..resized }
    }

    /// The canvas as a picture of its own: RGB of the picture where it overlaps, else the background.
    fn drawn(picture: &Picture, horizontal: &Span, vertical: &Span, background: [u8; 3]) -> Picture {
        let mut pixels = Vec::new();
        for y in (0..vertical.canvas).map(|y| y as i64 + vertical.origin) {
            for x in (0..horizontal.canvas).map(|x| x as i64 + horizontal.origin) {
                let inside =
                    (0..picture.width() as i64).contains(&x) && (0..picture.height() as i64).contains(&y);
                let at = (y * picture.width() as i64 + x) * 3;
                pixels.extend(if inside { &picture.pixels()[at as usize..][..3] } else { &background });
            }
        }
        Picture::new(horizontal.canvas, vertical.canvas, pixels).unwrap()
    }

    /// A direction: a canvas that may begin before the picture or in it and end anywhere, and a part to keep.
    fn spans() -> impl Strategy<Value = Span> {
        (1..40usize, 1..60usize, -30..30i64, 1..50usize, any::<(u16, u16)>()).prop_map(
            |(picture, canvas, origin, resized, (a, b))| {
                let (a, b) = (usize::from(a) % resized, usize::from(b) % resized);
                Span { picture, canvas, origin, resized, keep: a.min(b)..a.max(b) + 1 }
            },
        )
    }

    proptest! {
        #[test]
        fn padding_and_cropping_need_no_copy(
            horizontal in spans(), vertical in spans(), filter in 0..4usize, seed: u64, background: [u8; 3],
        ) {
            let picture = noise(horizontal.picture, vertical.picture, seed);
            let canvas = drawn(&picture, &horizontal, &vertical, background);
            let spans = (&whole(canvas.width(), horizontal.resized), &whole(canvas.height(), vertical.resized));
            let complete = resample((&canvas).into(), FILTERS[filter], spans, background);
            let kept: Vec<u8> = vertical.keep.clone().flat_map(|y| {
                let row = &complete[y * horizontal.resized * 3..];
                row[horizontal.keep.start * 3..horizontal.keep.end * 3].to_vec()
            }).collect();
            prop_assert_eq!(kept, resample((&picture).into(), FILTERS[filter], (&horizontal, &vertical), background));
        }

        /// Rows that have others behind them may be resized with better instructions than the last one.
        #[test]
        fn a_row_is_resized_the_same_wherever_it_is(width in 1..90usize, height in 2..9usize, size in 1..70usize, filter in 0..4usize, seed: u64) {
            let picture = noise(width, height, seed);
            let axis = Axis::new(FILTERS[filter], &whole(width, size));
            let together = along_rows(picture.pixels(), width, &axis, 0, [0; 3]);
            let alone: Vec<u8> =
                picture.pixels().chunks(3 * width).flat_map(|row| along_rows(row, width, &axis, 0, [0; 3])).collect();
            prop_assert_eq!(together, alone);
        }

        #[test]
        fn a_plain_colour_stays(width in 1..300usize, height in 1..300usize, size in 1..40usize, colour: [u8; 3]) {
            let pixels = colour.repeat(width * height);
            let picture = Picture::new(width, height, pixels).unwrap();
            for filter in FILTERS {
                let resized = resample((&picture).into(), filter, (&whole(width, size), &whole(height, size)), [0; 3]);
                prop_assert!(resized.chunks_exact(3).all(|pixel| pixel == colour));
            }
        }
    }
}
