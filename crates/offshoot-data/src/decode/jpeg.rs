//! JPEG. Usual files are decoded here, with the samples of libjpeg-turbo (Pillow's and torchvision's decoder) to the bit;
//! `zune-jpeg` reads the header, and decodes what is rarer (CMYK, RGB, odd sampling) or damaged.

mod bits;
mod color;
mod frame;
mod idct;
mod scan;

use std::borrow::Cow;

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::{ZByteReaderTrait, ZCursor};
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::error::Failure;
use super::orientation::Metadata;
use super::picture::{Picture, rotate};
use super::{DecodeError, DecodeOptions, check_size};
use crate::augment::Crop;

/// A scan says something of each block of 8 by 8 pixels, and of one component of the first of them at least a bit.
const MOST_PIXELS_A_BYTE: u64 = 64 * 8;

/// Decoding a scan takes a time that grows with the pixels, however few bytes it has. Of large pictures so many scans are decoded,
const FEW_SCANS: usize = 24;
/// of small ones so many,
const MANY_SCANS: usize = 128;
/// and in between as many as make so many pixels in all.
const SCANNED_PIXELS: usize = 400_000_000;

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

/// The part of a picture that `choose` takes, given its width and height.
pub(super) fn decode(
    bytes: &[u8],
    options: &DecodeOptions,
    choose: impl FnOnce(usize, usize) -> Crop,
) -> Result<Picture, Failure> {
    let outline = Outline::of(bytes);
    let bytes = &*outline.with_plain_colours(bytes);
    let (mut decoder, (width, height)) = header(ZCursor::new(bytes), options)?;
    outline.check_work(width, height)?;
    if !outline.complete || (outline.data as u64).saturating_mul(MOST_PIXELS_A_BYTE) < (width * height) as u64
    {
        // The decoders fill the rest with gray; Pillow refuses it, and gray halves are nothing to learn from.
        return Err(Failure::Truncated);
    }
    let usual = outline.plain_transform() == 1;
    let mut decode = |crop: Crop| {
        let own = usual.then(|| frame::decode(bytes, (width, height), crop)).flatten();
        let picture = match own {
            Some(pixels) => Picture::new(crop.width, crop.height, pixels),
            None => Picture::new(width, height, decoder.decode()?).map(|picture| picture.part(crop)),
        };
        picture.ok_or_else(|| Failure::Damaged("the decoded size is not the header's".to_owned()))
    };
    let orientation = outline.metadata.orientation();
    if !options.exif_rotation || orientation.is_none_or(|it| it == Orientation::NoTransforms) {
        return decode(choose(width, height));
    }
    let picture = rotate(decode(Crop { left: 0, top: 0, width, height })?, orientation, options);
    let crop = choose(picture.width(), picture.height());
    Ok(picture.part(crop))
}

/// What the segments of a JPEG say, without decoding it.
#[derive(Default)]
pub(super) struct Outline {
    /// An end-of-image marker follows the start of the first scan.
    complete: bool,
    /// How many scans there are.
    scans: usize,
    /// The pixels that the last frame header states.
    pixels: usize,
    /// Bytes from the first scan on.
    data: usize,
    /// There is a JFIF segment.
    jfif: bool,
    /// The places of the Adobe segments, and the color transform that the last one states.
    adobe: Vec<usize>,
    transform: Option<u8>,
    /// The names of the components.
    components: Vec<u8>,
    metadata: Metadata,
}

impl Outline {
    pub(super) fn of(bytes: &[u8]) -> Outline {
        let mut outline = Outline::default();
        let mut at = 2;
        while let Some(&[byte, marker]) = bytes.get(at..at + 2) {
            match (byte, marker) {
                // Start of scan. Inside its data 0xFF is escaped, so that a marker is a marker.
                (0xFF, 0xDA) => {
                    let rest = &bytes[at..];
                    outline.complete = rest.windows(2).rev().any(|pair| pair == [0xFF, 0xD9]);
                    outline.scans = scans(rest);
                    outline.data = rest.len();
                    return outline;
                }
                // Fill bytes, and markers without a length.
                (0xFF, 0xFF) => at += 1,
                (0xFF, 0x01 | 0xD0..=0xD8) => at += 2,
                (0xFF, _) => {
                    let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return outline };
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    outline.segment(marker, at, bytes.get(at + 4..at + 2 + length).unwrap_or_default());
                    at += 2 + length;
                }
                // Stray bytes between segments.
                _ => at += 1,
            }
        }
        outline
    }

    /// An error for more scans than a picture of this size can have.
    pub(super) fn check_work(&self, width: usize, height: usize) -> Result<(), Failure> {
        let limit = (most_work(width, height) / width.saturating_mul(height).max(1)).min(MANY_SCANS);
        match self.scans > limit {
            true => {
                Err(Failure::Refused(DecodeError::TooManyScans { scans: self.scans, limit, width, height }))
            }
            false => Ok(()),
        }
    }

    /// The pixels of all scans.
    #[cfg(feature = "tiff")]
    pub(super) fn work(&self) -> usize {
        self.scans.saturating_mul(self.pixels)
    }

    fn segment(&mut self, marker: u8, at: usize, content: &[u8]) {
        match (marker, content) {
            (0xC0..=0xC2, frame) => {
                if let [_, a, b, c, d, ..] = *frame {
                    let [height, width] = [[a, b], [c, d]].map(|side| usize::from(u16::from_be_bytes(side)));
                    self.pixels = width * height;
                }
                let components = frame.get(6..).unwrap_or_default();
                self.components = components.chunks_exact(3).map(|component| component[0]).collect();
            }
            (0xE0, [b'J', b'F', b'I', b'F', 0, ..]) => self.jfif = true,
            (0xEE, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) => {
                self.adobe.push(at);
                self.transform = Some(*transform);
            }
            (0xE1, content) => {
                if let Some(exif) = content.strip_prefix(b"Exif\0\0") {
                    self.metadata.exif.get_or_insert_with(|| exif.to_vec());
                } else if let Some(xmp) = content.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                    self.metadata.xmp.get_or_insert_with(|| xmp.to_vec());
                }
            }
            _ => {}
        }
    }

    /// The color transform of Adobe's segment that says what libjpeg makes of the file: JFIF is always YCbCr, then Adobe's
    /// segment decides, then the names of the components.
    fn plain_transform(&self) -> u8 {
        match (&self.components[..], self.transform) {
            ([_, _, _], _) if self.jfif => 1,
            ([_, _, _], Some(0)) => 0,
            ([b'R', b'G', b'B'], None) => 0,
            ([_, _, _, _], None | Some(0)) => 0,
            ([_, _, _, _], _) => 2,
            _ => 1,
        }
    }

    /// The file with segments that no decoder can misunderstand: one of Adobe, and no JFIF, where they are not as usual.
    fn with_plain_colours<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let transform = self.plain_transform();
        let usual = match self.transform {
            Some(stated) => stated == transform,
            None => transform == 1,
        };
        if usual || self.components.len() < 3 {
            return Cow::Borrowed(bytes);
        }
        let mut plain =
            [&bytes[..2], b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0", &[transform], &bytes[2..]].concat();
        for at in &self.adobe {
            // A comment in its place.
            plain[16 + at + 1] = 0xFE;
        }
        Cow::Owned(plain)
    }
}

/// The most pixels that the scans of a picture may have in all.
pub(super) fn most_work(width: usize, height: usize) -> usize {
    width.saturating_mul(height).saturating_mul(FEW_SCANS).max(SCANNED_PIXELS)
}

/// The scans of a file, of which `rest` begins with the first, up to the end of the picture.
fn scans(rest: &[u8]) -> usize {
    let (mut count, mut at) = (0, 0);
    while let Some(&[byte, marker]) = rest.get(at..at + 2) {
        let length = || rest.get(at + 2..at + 4).map_or(0, |n| usize::from(u16::from_be_bytes([n[0], n[1]])));
        match (byte, marker) {
            (0xFF, 0xD9) => break,
            (0xFF, 0xDA) => {
                count += 1;
                at += 2 + length();
            }
            // Data, fill bytes, and markers without a length.
            (0xFF, 0x00..=0x01 | 0xD0..=0xD8 | 0xFF) => at += 1,
            (0xFF, _) => at += 2 + length(),
            _ => at += rest[at..].iter().position(|&byte| byte == 0xFF).unwrap_or(rest.len()),
        }
    }
    count
}
