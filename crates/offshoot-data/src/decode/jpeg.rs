//! JPEG. Two decoders share it, by which is nearer to libjpeg-turbo 3.2 (Pillow's). With chroma at half the width
//! and height (4:2:0) that is `jpeg-decoder`: on photographs the mean difference is 0.02 to 0.11 of 255, and 99.96 %
//! of the values are within 2; `zune-jpeg`, 1.3 times as fast, rounds chroma up there (0.02 to 0.36, 99.92 %). With
//! any other sampling, and for CMYK and grey, it is `zune-jpeg` (4:2:2: 0.16 and 99.97 % against 0.20 and 99.91 %).

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::{ZByteReaderTrait, ZCursor};
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{DecodeOptions, Failure, Picture, check_size, rotate};

/// A JPEG decoder that has read the header, and the size the header states.
pub(super) fn header<R: ZByteReaderTrait>(
    reader: R,
    options: &DecodeOptions,
) -> Result<(JpegDecoder<R>, (usize, usize)), Failure> {
    let settings = DecoderOptions::default()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(reader, settings);
    decoder.decode_headers()?;
    let (width, height) =
        decoder.dimensions().ok_or_else(|| Failure::Damaged("the header states no size".to_owned()))?;
    check_size(width as u64, height as u64, options)?;
    Ok((decoder, (width, height)))
}

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Picture, Failure> {
    let (mut decoder, (width, height)) = header(ZCursor::new(bytes), options)?;
    let outline = Outline::of(bytes);
    if !outline.complete {
        // The decoders fill the rest with grey; Pillow refuses it, and grey halves are nothing to learn from.
        return Err(Failure::Truncated);
    }
    let pixels = match outline.chroma_420.then(|| decode_420(bytes, options)).flatten() {
        Some(pixels) => pixels,
        None => decoder.decode()?,
    };
    let picture = Picture::new(width, height, pixels)
        .ok_or_else(|| Failure::Damaged("the decoded size is not the header's".to_owned()))?;
    let orientation = decoder.exif().and_then(|chunk| Orientation::from_exif_chunk(chunk));
    Ok(rotate(picture, orientation, options))
}

/// RGB by `jpeg-decoder`; `None` for what it refuses and the more tolerant `zune-jpeg` may still decode.
fn decode_420(bytes: &[u8], options: &DecodeOptions) -> Option<Vec<u8>> {
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(usize::try_from(options.max_pixels.saturating_mul(3)).ok()?);
    let pixels = decoder.decode().ok()?;
    (decoder.info()?.pixel_format == jpeg_decoder::PixelFormat::RGB24).then_some(pixels)
}

/// What the segments of a JPEG say, without decoding it.
#[derive(Default)]
struct Outline {
    /// Chroma at half the width and half the height.
    chroma_420: bool,
    /// An end-of-image marker follows the start of the first scan.
    complete: bool,
}

impl Outline {
    fn of(bytes: &[u8]) -> Outline {
        let mut outline = Outline::default();
        let mut at = 2;
        while let Some(&[byte, marker]) = bytes.get(at..at + 2) {
            match (byte, marker) {
                // Start of scan. Inside its data 0xFF is escaped, so that a marker is a marker.
                (0xFF, 0xDA) => {
                    outline.complete = bytes[at..].windows(2).rev().any(|pair| pair == [0xFF, 0xD9]);
                    return outline;
                }
                // Fill bytes, and markers without a length.
                (0xFF, 0xFF) => at += 1,
                (0xFF, 0x01 | 0xD0..=0xD8) => at += 2,
                (0xFF, _) => {
                    let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return outline };
                    if (0xC0..=0xC2).contains(&marker) {
                        outline.chroma_420 = is_420(&bytes[at + 4..]);
                    }
                    at += 2 + usize::from(u16::from_be_bytes([high, low]));
                }
                // Stray bytes between segments.
                _ => at += 1,
            }
        }
        outline
    }
}

/// Whether a frame header (precision, height, width, then a count of components of three bytes each: name,
/// sampling factors, table) has three components, the first twice as dense as the others both ways.
fn is_420(frame: &[u8]) -> bool {
    matches!(frame, [_, _, _, _, _, 3, _, 0x22, _, _, 0x11, _, _, 0x11, ..])
}
