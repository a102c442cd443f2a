//! Pictures as they are decoded to: 8-bit RGB, over a background, upright.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::DecodeOptions;
use crate::augment::Crop;

/// A decoded picture: 8-bit RGB, rows from top to bottom, no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// The pixels of a picture that somebody else holds: 8-bit RGB, rows from top to bottom, no padding.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    width: usize,
    height: usize,
    rgb: &'a [u8],
}

impl<'a> Pixels<'a> {
    /// `height` rows of `width` RGB pixels; `None` if a side is 0 or the length does not fit.
    pub fn new(width: usize, height: usize, rgb: &'a [u8]) -> Option<Pixels<'a>> {
        let length = width.checked_mul(height)?.checked_mul(3)?;
        (length > 0 && length == rgb.len()).then_some(Pixels { width, height, rgb })
    }

    pub(crate) fn width(self) -> usize {
        self.width
    }

    pub(crate) fn height(self) -> usize {
        self.height
    }

    pub(crate) fn rgb(self) -> &'a [u8] {
        self.rgb
    }
}

impl<'a> From<&'a Picture> for Pixels<'a> {
    fn from(picture: &'a Picture) -> Pixels<'a> {
        Pixels { width: picture.width, height: picture.height, rgb: &picture.pixels }
    }
}

impl Picture {
    /// A picture from `height` rows of `width` RGB pixels; `None` if a side is 0 or the length does not fit.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Picture> {
        let length = width.checked_mul(height)?.checked_mul(3)?;
        (length > 0 && length == pixels.len()).then_some(Picture { width, height, pixels })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// A rectangle of the picture, which must lie within it.
    pub(crate) fn part(self, crop: Crop) -> Picture {
        let Crop { left, top, width, height } = crop;
        if (width, height) == (self.width, self.height) {
            return self;
        }
        let rows = self.pixels.chunks_exact(3 * self.width).skip(top).take(height);
        let pixels = rows.flat_map(|row| &row[3 * left..3 * (left + width)]).copied().collect();
        Picture { width, height, pixels }
    }

    /// The RGB values, `height * width * 3` of them.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

/// Any picture as 8-bit RGB over `background`.
pub(super) fn to_rgb(picture: DynamicImage, background: [u8; 3]) -> Option<Picture> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let pixels = match picture {
        DynamicImage::ImageRgb8(picture) => picture.into_raw(),
        DynamicImage::ImageRgba8(picture) => lay_over(picture.into_raw(), background),
        DynamicImage::ImageLuma8(picture) => picture.as_raw().iter().flat_map(|&grey| [grey; 3]).collect(),
        DynamicImage::ImageLumaA8(picture) => grey_over(picture.as_raw(), background),
        DynamicImage::ImageLuma16(picture) => {
            picture.as_raw().iter().flat_map(|&grey| [high_byte(grey); 3]).collect()
        }
        DynamicImage::ImageLumaA16(picture) => grey_over(&high_bytes(picture.as_raw()), background),
        DynamicImage::ImageRgb16(picture) => high_bytes(picture.as_raw()),
        DynamicImage::ImageRgba16(picture) => lay_over(high_bytes(picture.as_raw()), background),
        picture => picture.to_rgb8().into_raw(),
    };
    Picture::new(width, height, pixels)
}

pub(super) fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

fn high_bytes(values: &[u16]) -> Vec<u8> {
    values.iter().map(|&value| high_byte(value)).collect()
}

/// RGBA over a background, in place: the result takes the first three quarters of the same allocation.
pub(super) fn lay_over(mut pixels: Vec<u8>, background: [u8; 3]) -> Vec<u8> {
    let count = pixels.len() / 4;
    for i in 0..count {
        let [r, g, b, alpha] = [0, 1, 2, 3].map(|c| pixels[4 * i + c]);
        pixels[3 * i] = blend(r, background[0], alpha);
        pixels[3 * i + 1] = blend(g, background[1], alpha);
        pixels[3 * i + 2] = blend(b, background[2], alpha);
    }
    pixels.truncate(3 * count);
    pixels
}

pub(super) fn grey_over(pixels: &[u8], background: [u8; 3]) -> Vec<u8> {
    pixels
        .chunks_exact(2)
        .flat_map(|pixel| background.map(|under| blend(pixel[0], under, pixel[1])))
        .collect()
}

/// `(over * alpha + under * (255 - alpha)) / 255`, rounded to nearest (as Pillow's `paste` with a mask does).
pub(super) fn blend(over: u8, under: u8, alpha: u8) -> u8 {
    let sum = u32::from(over) * u32::from(alpha) + u32::from(under) * u32::from(255 - alpha) + 128;
    ((sum + (sum >> 8)) >> 8) as u8
}

pub(super) fn rotate(picture: Picture, orientation: Option<Orientation>, options: &DecodeOptions) -> Picture {
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    if !options.exif_rotation || orientation == Orientation::NoTransforms {
        return picture;
    }
    let (width, height) = (picture.width as u32, picture.height as u32);
    let Some(buffer) = RgbImage::from_raw(width, height, picture.pixels) else {
        unreachable!("a picture's length is checked when it is made");
    };
    let mut rotated = DynamicImage::ImageRgb8(buffer);
    rotated.apply_orientation(orientation);
    let (width, height) = (rotated.width() as usize, rotated.height() as usize);
    Picture { width, height, pixels: rotated.into_rgb8().into_raw() }
}
