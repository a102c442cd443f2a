//! Pictures to files.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _};

use crate::decode::Picture;

impl Picture {
    /// The bytes of a PNG.
    ///
    /// # Errors
    /// When the picture is larger than the format allows.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        self.encode(|out, width, height| {
            PngEncoder::new(out).write_image(self.pixels(), width, height, ExtendedColorType::Rgb8)
        })
    }

    /// The bytes of a JPEG of this quality, 1 to 100.
    ///
    /// # Errors
    /// When the picture is larger than the format allows.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>, String> {
        self.encode(|out, width, height| {
            let encoder = JpegEncoder::new_with_quality(out, quality);
            encoder.write_image(self.pixels(), width, height, ExtendedColorType::Rgb8)
        })
    }

    fn encode(
        &self,
        write: impl FnOnce(&mut Vec<u8>, u32, u32) -> image::ImageResult<()>,
    ) -> Result<Vec<u8>, String> {
        let side = |side: usize| u32::try_from(side).map_err(|_| format!("{side} pixels are too many"));
        let mut out = Vec::new();
        write(&mut out, side(self.width())?, side(self.height())?).map_err(|error| error.to_string())?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{DecodeOptions, decode};

    #[test]
    fn what_is_written_can_be_read() {
        let pixels = (0..40 * 30 * 3).map(|i| (i / 36 * 3) as u8).collect();
        let picture = Picture::new(40, 30, pixels).unwrap();
        let read = |bytes: Vec<u8>| decode(&bytes, &DecodeOptions::default()).unwrap();
        assert_eq!(read(picture.to_png().unwrap()), picture);
        let jpeg = read(picture.to_jpeg(95).unwrap());
        let off =
            jpeg.pixels().iter().zip(picture.pixels()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
        assert!(off / (jpeg.pixels().len() as f64) < 4.0);
    }
}
