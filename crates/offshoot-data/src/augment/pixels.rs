//! Changes of colors and places of pixels, with the arithmetic that torchvision's transforms have on Pillow pictures.
//!
//! Sources: Pillow, `src/libImaging` (`Blend.c`, `Convert.c`, `Filter.c`, `Geometry.c`), `ImageEnhance.py`, `ImageOps.py`;
//! torchvision, `transforms/functional.py` and `_functional_pil.py`.

/// One change of a picture. What comes in from outside of it is black, as by default in torchvision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PixelOp {
    /// Rows move sideways by this times their distance from the top (torchvision's `affine` with the corner as center).
    ShearX(f64),
    /// Columns move down by this times their distance from the left.
    ShearY(f64),
    /// Moves to the right by so many pixels.
    TranslateX(i32),
    /// Moves down by so many pixels.
    TranslateY(i32),
    /// Turns counter-clockwise around the middle.
    Rotate {
        /// The angle.
        degrees: f64,
        /// Whether pixels between pixels are interpolated; else the nearest is taken.
        smooth: bool,
    },
    /// Blends with black: 0 is black, 1 changes nothing.
    Brightness(f64),
    /// Blends with the mean gray: 0 is gray, 1 changes nothing.
    Contrast(f64),
    /// Blends with the picture in gray: 0 is gray, 1 changes nothing.
    Saturation(f64),
    /// Blends with the smoothed picture: 0 is smoothed, 1 changes nothing.
    Sharpness(f64),
    /// Turns the wheel of hues by this part of it, -0.5..0.5.
    Hue(f64),
    /// Keeps so many bits of each value, 0 to 8.
    Posterize(u32),
    /// Inverts values from this one on.
    Solarize(f64),
    /// Stretches each channel to 0..255.
    AutoContrast,
    /// Gives each channel a flat histogram.
    Equalize,
}

impl PixelOp {
    /// Changes rows of `width` RGB pixels.
    pub fn apply(self, pixels: &mut [u8], width: usize) {
        if pixels.is_empty() || width == 0 {
            return;
        }
        match self {
            PixelOp::ShearX(slope) => affine(pixels, width, [1.0, slope, 0.0, 0.0, 1.0, 0.0], false),
            PixelOp::ShearY(slope) => affine(pixels, width, [1.0, 0.0, 0.0, slope, 1.0, 0.0], false),
            PixelOp::TranslateX(by) => {
                affine(pixels, width, [1.0, 0.0, -f64::from(by), 0.0, 1.0, 0.0], false)
            }
            PixelOp::TranslateY(by) => {
                affine(pixels, width, [1.0, 0.0, 0.0, 0.0, 1.0, -f64::from(by)], false)
            }
            PixelOp::Rotate { degrees, smooth } => {
                let matrix = rotation(degrees, width, pixels.len() / 3 / width);
                affine(pixels, width, matrix, smooth);
            }
            PixelOp::Brightness(factor) => pixels.iter_mut().for_each(|x| *x = blend(0, *x, factor)),
            PixelOp::Contrast(factor) => {
                let mean = mean_grey(pixels);
                pixels.iter_mut().for_each(|x| *x = blend(mean, *x, factor));
            }
            PixelOp::Saturation(factor) => pixels.chunks_exact_mut(3).for_each(|pixel| {
                let grey = grey(pixel);
                pixel.iter_mut().for_each(|x| *x = blend(grey, *x, factor));
            }),
            PixelOp::Sharpness(factor) => sharpen(pixels, width, factor),
            PixelOp::Hue(turn) => turn_hue(pixels, turn),
            PixelOp::Posterize(bits) => {
                let mask = !((1u32 << (8 - bits.min(8))) - 1) as u8;
                pixels.iter_mut().for_each(|x| *x &= mask);
            }
            PixelOp::Solarize(from) => {
                pixels.iter_mut().for_each(|x| *x = if f64::from(*x) < from { *x } else { 255 - *x });
            }
            PixelOp::AutoContrast => look_up(pixels, stretched),
            PixelOp::Equalize => look_up(pixels, equalized),
        }
    }
}

/// `from + factor * (to - from)`, cut off towards zero (Blend.c).
fn blend(from: u8, to: u8, factor: f64) -> u8 {
    let (from, to, factor) = (f32::from(from), f32::from(to), factor as f32);
    // A cast to u8 cuts off and saturates.
    (from + factor * (to - from)) as u8
}

/// ITU-R 601's luma in 16-bit fixed point (Convert.c).
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// The mean of the picture in gray, rounded.
fn mean_grey(pixels: &[u8]) -> u8 {
    let sum: u64 = pixels.chunks_exact(3).map(|pixel| u64::from(grey(pixel))).sum();
    (sum as f64 / (pixels.len() / 3) as f64 + 0.5) as u8
}

/// Blends with the mean over 3 x 3 pixels in which the middle one counts five times; the border stays.
fn sharpen(pixels: &mut [u8], width: usize, factor: f64) {
    let (before, stride) = (pixels.to_vec(), width * 3);
    let height = pixels.len() / stride;
    for y in 1..height.saturating_sub(1) {
        for at in y * stride + 3..(y + 1) * stride - 3 {
            let row = |at: usize| [at - 3, at, at + 3].iter().map(|&i| u32::from(before[i])).sum::<u32>();
            let sum = row(at - stride) + row(at) + row(at + stride) + 4 * u32::from(before[at]);
            let smooth = (sum as f32 / 13.0 + 0.5) as u8;
            pixels[at] = blend(smooth, before[at], factor);
        }
    }
}

/// To 8-bit hue, saturation and value, the hue turned, and back (Convert.c).
fn turn_hue(pixels: &mut [u8], turn: f64) {
    let by = (turn * 255.0) as i32 as u8;
    for pixel in pixels.chunks_exact_mut(3) {
        let [h, s, v] = to_hsv(pixel[0], pixel[1], pixel[2]);
        pixel.copy_from_slice(&to_rgb(h.wrapping_add(by), s, v));
    }
}

fn to_hsv(r: u8, g: u8, b: u8) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let from_most = |x: u8| f32::from(most - x) / range;
    let (rc, gc, bc) = (from_most(r), from_most(g), from_most(b));
    let sixths = if r == most {
        bc - gc
    } else if g == most {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    // In double precision, kept in single.
    let hue = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(range / f32::from(most)) * 255.0) as u8, most]
}

fn to_rgb(h: u8, s: u8, v: u8) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixths = f64::from(h) * 6.0 / 255.0;
    let sector = sixths.floor();
    let (part, saturation) = (f64::from((sixths - sector) as f32), f64::from(f32::from(s) / 255.0));
    let value = f64::from(v);
    let p = (value * (1.0 - saturation)).round() as u8;
    let q = (value * (1.0 - saturation * part)).round() as u8;
    let t = (value * (1.0 - saturation * (1.0 - part))).round() as u8;
    match sector as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Replaces each channel's values by the table that `table` makes of its histogram.
fn look_up(pixels: &mut [u8], table: impl Fn(&[usize; 256]) -> Option<[u8; 256]>) {
    for channel in 0..3 {
        let mut histogram = [0; 256];
        pixels.iter().skip(channel).step_by(3).for_each(|&x| histogram[usize::from(x)] += 1);
        if let Some(table) = table(&histogram) {
            pixels.iter_mut().skip(channel).step_by(3).for_each(|x| *x = table[usize::from(*x)]);
        }
    }
}

fn stretched(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    let low = histogram.iter().position(|&n| n > 0)?;
    let high = histogram.iter().rposition(|&n| n > 0)?;
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    (high > low).then(|| std::array::from_fn(|i| (i as f64 * scale + offset) as u8))
}

fn equalized(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    let last = histogram.iter().rposition(|&n| n > 0)?;
    let step = (histogram.iter().sum::<usize>() - histogram[last]) / 255;
    if step == 0 {
        return None;
    }
    let mut sum = step / 2;
    Some(std::array::from_fn(|i| {
        let value = (sum / step).min(255) as u8;
        sum += histogram[i];
        value
    }))
}

/// The matrix from a place after turning to the place before (`Image.rotate`).
fn rotation(degrees: f64, width: usize, height: usize) -> [f64; 6] {
    let angle = -degrees.to_radians();
    // Pillow rounds to 15 digits, so that a quarter turn is exact.
    let rounded = |x: f64| (x * 1e15).round() / 1e15;
    let (sin, cos) = (rounded(libm::sin(angle)), rounded(libm::cos(angle)));
    let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
    [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]
}

/// Each pixel takes the value at `(a x + b y + c, d x + e y + f)`, at pixels' middles; black from outside (Geometry.c).
fn affine(pixels: &mut [u8], width: usize, matrix: [f64; 6], smooth: bool) {
    let source = Source { pixels: pixels.to_vec(), width, height: pixels.len() / 3 / width };
    match smooth {
        true => affine_smooth(pixels, &source, matrix),
        false => affine_nearest(pixels, &source, matrix),
    }
}

struct Source {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Source {
    /// The pixel at a place, which may lie outside.
    fn at(&self, x: i64, y: i64) -> Option<&[u8]> {
        let x = usize::try_from(x).ok().filter(|&x| x < self.width)?;
        let y = usize::try_from(y).ok().filter(|&y| y < self.height)?;
        Some(&self.pixels[(y * self.width + x) * 3..][..3])
    }

    /// The value of a channel at the pixel nearest to a place.
    fn clamped(&self, x: i64, y: i64, channel: usize) -> f64 {
        let within = |i: i64, len: usize| i.clamp(0, len as i64 - 1) as usize;
        let (x, y) = (within(x, self.width), within(y, self.height));
        f64::from(self.pixels[(y * self.width + x) * 3 + channel])
    }
}

/// In 16-bit fixed point, as Pillow.
fn affine_nearest(pixels: &mut [u8], source: &Source, [a, b, c, d, e, f]: [f64; 6]) {
    let fixed = |x: f64| (x * 65536.0 + 0.5).floor() as i64;
    let (step_x, step_y) = ([fixed(a), fixed(d)], [fixed(b), fixed(e)]);
    let mut start = [fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5)];
    for row in pixels.chunks_exact_mut(source.width * 3) {
        let [mut x, mut y] = start;
        for pixel in row.chunks_exact_mut(3) {
            pixel.copy_from_slice(source.at(x >> 16, y >> 16).unwrap_or(&[0; 3]));
            x += step_x[0];
            y += step_x[1];
        }
        start = [start[0] + step_y[0], start[1] + step_y[1]];
    }
}

fn affine_smooth(pixels: &mut [u8], source: &Source, [a, b, c, d, e, f]: [f64; 6]) {
    for (row, line) in pixels.chunks_exact_mut(source.width * 3).enumerate() {
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            let inside = (0.0..source.width as f64).contains(&x) && (0.0..source.height as f64).contains(&y);
            for (channel, value) in pixel.iter_mut().enumerate() {
                *value = if inside { between_pixels(source, x - 0.5, y - 0.5, channel) } else { 0 };
            }
        }
    }
}

fn between_pixels(source: &Source, x: f64, y: f64, channel: usize) -> u8 {
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let row = |y: i64| {
        let [a, b] = [0, 1].map(|i| source.clamped(left as i64 + i, y, channel));
        a + (b - a) * dx
    };
    let [above, below] = [0, 1].map(|i| row(top as i64 + i));
    (above + (below - above) * dy) as u8
}
