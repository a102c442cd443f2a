//! The formats that the `image` crate decodes: PNG, WebP, GIF, BMP, PNM, TGA, ICO and QOI.

use std::io::{BufRead, Cursor, Seek};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::error::Failure;
use super::orientation::Metadata;
use super::picture::{Picture, rotate, to_rgb};
use super::{DecodeOptions, check_size, png};

/// A decoder of the `image` crate that has read the header and may allocate what a picture of this size can need.
pub(super) fn header<'a, R: BufRead + Seek + 'a>(
    reader: R,
    format: ImageFormat,
    options: &DecodeOptions,
) -> Result<impl ImageDecoder + 'a, Failure> {
    let mut reader = ImageReader::with_format(reader, format);
    // What stands before the pixels, such as a color profile, takes no more whatever it unpacks to.
    reader.limits(memory_limits(HEADER_PIXELS));
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(u64::from(width), u64::from(height), options)?;
    decoder.set_limits(memory_limits(u64::from(width) * u64::from(height)))?;
    Ok(decoder)
}

/// The memory of a picture of so many pixels is enough for all that a header needs.
const HEADER_PIXELS: u64 = 1 << 22;

/// Eight bytes a pixel are RGBA at 16 bits; as much again for the decoder's buffers, and room for its tables.
fn memory_limits(pixels: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(pixels.saturating_mul(16).saturating_add(16 << 20));
    limits
}

pub(super) fn decode(bytes: &[u8], format: ImageFormat, options: &DecodeOptions) -> Result<Picture, Failure> {
    let decoder = header(Cursor::new(bytes), format, options)?;
    if format == ImageFormat::WebP && !webp_is_complete(bytes) {
        return Err(Failure::Truncated);
    }
    let metadata = match format {
        ImageFormat::Png => Metadata::of_png(bytes),
        ImageFormat::WebP => Metadata::of_webp(bytes),
        _ => Metadata::default(),
    };
    let decoded = match format {
        ImageFormat::Png if png::is_wide(decoder.color_type()) => {
            let (width, height) = decoder.dimensions();
            png::decode(bytes, &memory_limits(u64::from(width) * u64::from(height)))?
        }
        _ => DynamicImage::from_decoder(decoder)?,
    };
    let picture = to_rgb(decoded, options.background)
        .ok_or_else(|| Failure::Damaged("the decoded size is not the header's".to_owned()))?;
    Ok(rotate(picture, metadata.orientation(), options))
}

/// Whether all the bytes are there that the container (`RIFF`, length, ...) announces. The decoder would speak of
/// damaged data.
fn webp_is_complete(bytes: &[u8]) -> bool {
    match bytes {
        [b'R', b'I', b'F', b'F', a, b, c, d, content @ ..] => {
            content.len() as u64 >= u64::from(u32::from_le_bytes([*a, *b, *c, *d]))
        }
        _ => false,
    }
}
