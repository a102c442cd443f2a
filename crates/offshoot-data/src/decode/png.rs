//! PNG with 16 bits a sample. Only the high bytes are kept, a row at a time, so that the others are never all in memory.

use std::io::Cursor;

use image::{ColorType, DynamicImage, ImageBuffer, Limits};
use png::{DecodingError, Transformations};

use super::error::Failure;

/// Whether a PNG decoder of the `image` crate would give 16 bits a sample.
pub(super) fn is_wide(colour: ColorType) -> bool {
    matches!(colour, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16)
}

/// The picture with the high byte of each sample. Its header was checked before.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<DynamicImage, Failure> {
    let most = limits.max_alloc.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: most });
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info()?;
    let size = reader.output_buffer_size().filter(|&size| size <= most);
    let mut samples = vec![0; size.ok_or(DecodingError::LimitsExceeded)?];
    reader.next_frame(&mut samples)?;
    let ((width, height), (colour, _)) = (reader.info().size(), reader.output_color_type());
    let picture = match colour {
        png::ColorType::Grayscale => {
            ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageLuma8)
        }
        png::ColorType::GrayscaleAlpha => {
            ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageLumaA8)
        }
        png::ColorType::Rgb => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgb8),
        png::ColorType::Rgba => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgba8),
        png::ColorType::Indexed => None,
    };
    picture.ok_or_else(|| Failure::Damaged("the decoded size is not the header's".to_owned()))
}

impl From<DecodingError> for Failure {
    fn from(error: DecodingError) -> Failure {
        match error {
            DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Failure::Truncated
            }
            DecodingError::LimitsExceeded => Failure::too_much_memory(),
            error => Failure::Damaged(error.to_string()),
        }
    }
}
