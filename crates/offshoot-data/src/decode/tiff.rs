//! TIFF and BigTIFF of the kinds that Pillow reads, but for floating point gray, whose range no tag states.

use std::borrow::Cow;
use std::io::{Cursor, Read, Seek};

use image::metadata::Orientation;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::error::Failure;
use super::jpeg::{self, Outline};
use super::orientation::of_xmp;
use super::picture::{Picture, blend, grey_over, high_byte, lay_over, rotate};
use super::{DecodeOptions, check_size};

/// Tags that the library has no name for, or that are looked for in the bytes.
const PHOTOMETRIC: u16 = 262;
const XMP: u16 = 700;
/// The photometric interpretations that need a hand.
const GREY: u16 = 1;
const PALETTE: u16 = 3;
/// The compression that is JPEG.
const JPEG: u16 = 7;
/// Strips may share bytes, where they look alike; so often on the average.
const MOST_SHARED: u64 = 8;

/// A decoder that has read the header, and the size the header states.
pub(super) fn header<R: Read + Seek>(
    reader: R,
    options: &DecodeOptions,
) -> Result<(Decoder<R>, (usize, usize)), Failure> {
    let mut decoder = Decoder::new(reader)?;
    let (width, height) = decoder.dimensions()?;
    check_size(u64::from(width), u64::from(height), options)?;
    Ok((decoder, (width as usize, height as usize)))
}

/// Reads the header as far as to know that the picture can be decoded, and returns its size.
pub(super) fn probe<R: Read + Seek>(reader: R, options: &DecodeOptions) -> Result<(usize, usize), Failure> {
    let (mut decoder, size) = header(reader, options)?;
    if decoder.find_tag_unsigned(Tag::PhotometricInterpretation)? != Some(PALETTE) {
        Kind::of(&mut decoder, false)?;
    }
    Ok(size)
}

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Picture, Failure> {
    let (bytes, has_palette) = palette_as_grey(bytes);
    let bytes = &*bytes;
    let (mut decoder, (width, height)) = header(Cursor::new(bytes), options)?;
    decoder = decoder.with_limits(limits(width, height));
    check_chunks(&mut decoder, bytes, (width, height))?;
    let orientation = orientation(&mut decoder);
    let kind = Kind::of(&mut decoder, has_palette)?;
    let samples = samples(&mut decoder, (width, height), has_palette)?;
    let picture = Picture::new(width, height, kind.rgb(samples, options.background)?)
        .ok_or_else(|| Failure::Damaged("the decoded size is not the header's".to_owned()))?;
    Ok(rotate(picture, orientation, options))
}

/// The file with its palette's indices declared as gray, which the library reads, and whether it has a palette.
fn palette_as_grey(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    match photometric(bytes) {
        Some((at, little)) if bytes.get(at..at + 2) == Some(&as_bytes(PALETTE, little)) => {
            let mut bytes = bytes.to_vec();
            bytes[at..at + 2].copy_from_slice(&as_bytes(GREY, little));
            (Cow::Owned(bytes), true)
        }
        _ => (Cow::Borrowed(bytes), false),
    }
}

fn as_bytes(value: u16, little: bool) -> [u8; 2] {
    if little { value.to_le_bytes() } else { value.to_be_bytes() }
}

/// The place of the photometric interpretation in the first directory, and whether numbers have their low byte first.
fn photometric(bytes: &[u8]) -> Option<(usize, bool)> {
    let little = bytes.starts_with(b"II");
    let number = |at: usize, length: usize| {
        let bytes = bytes.get(at..at.checked_add(length)?)?;
        let join = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    };
    // In BigTIFF places and counts have 8 bytes.
    let (place, count, entry, value) =
        if number(2, 2)? == 43 { ((8, 8), 8, 20, 12) } else { ((4, 4), 2, 12, 8) };
    let start = usize::try_from(number(place.0, place.1)?).ok()?;
    let entries = number(start, count)?.min(1 << 16);
    let first = start.checked_add(count)?;
    let mut places = (0..entries as usize).map_while(|i| first.checked_add(entry * i));
    let at = places.find(|&at| number(at, 2) == Some(u64::from(PHOTOMETRIC)))?;
    Some((at.checked_add(value)?, little))
}

/// An error for strips or tiles that take far more work than a picture of this size: that hold the same bytes again and again, or
/// JPEG data of other sizes or of many scans.
fn check_chunks<R: Read + Seek>(
    decoder: &mut Decoder<R>,
    bytes: &[u8],
    (width, height): (usize, usize),
) -> Result<(), Failure> {
    let mut numbers = |tags: [Tag; 2]| -> Result<Vec<u64>, Failure> {
        for tag in tags {
            if let Some(numbers) = decoder.find_tag_unsigned_vec(tag)? {
                return Ok(numbers);
            }
        }
        Ok(Vec::new())
    };
    let offsets = numbers([Tag::StripOffsets, Tag::TileOffsets])?;
    let counts = numbers([Tag::StripByteCounts, Tag::TileByteCounts])?;
    let all = counts.iter().fold(0u64, |sum, &count| sum.saturating_add(count));
    if all > (bytes.len() as u64).saturating_mul(MOST_SHARED) {
        return Err(Failure::Damaged("its strips hold more bytes than the file".to_owned()));
    }
    if decoder.find_tag_unsigned::<u16>(Tag::Compression)? != Some(JPEG) {
        return Ok(());
    }
    let tables = decoder.get_tag_u8_vec(Tag::JPEGTables).unwrap_or_default();
    let chunk = |(&offset, &count): (&u64, &u64)| {
        let start = usize::try_from(offset).ok()?;
        bytes.get(start..start.checked_add(usize::try_from(count).ok()?)?)
    };
    let chunks = offsets.iter().zip(&counts).filter_map(chunk);
    let work =
        chunks.chain([&*tables]).fold(0usize, |sum, data| sum.saturating_add(Outline::of(data).work()));
    match work > jpeg::most_work(width, height) {
        true => Err(Failure::Damaged(
            "its JPEG data have too many scans, or pixels outside of the picture".to_owned(),
        )),
        false => Ok(()),
    }
}

/// Sixteen bytes a pixel are RGBA at 32 bits.
fn limits(width: usize, height: usize) -> Limits {
    let bytes = width.saturating_mul(height).saturating_mul(16).saturating_add(16 << 20);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = bytes;
    limits.intermediate_buffer_size = bytes;
    limits.ifd_value_size = 16 << 20;
    limits
}

fn orientation<R: Read + Seek>(decoder: &mut Decoder<R>) -> Option<Orientation> {
    let value = match decoder.find_tag_unsigned::<u8>(Tag::Orientation) {
        Ok(Some(value)) => Some(value),
        _ => decoder.get_tag_u8_vec(Tag::Unknown(XMP)).ok().and_then(|xmp| of_xmp(&xmp)),
    };
    value.and_then(Orientation::from_exif)
}

/// How samples become RGB.
enum Kind {
    Grey,
    /// With alpha, which the gray was multiplied by already or not.
    GreyAlpha {
        premultiplied: bool,
    },
    /// More samples of gray: the first is taken.
    FirstOf(usize),
    Palette(Vec<[u8; 3]>),
    Rgb,
    Rgba {
        premultiplied: bool,
    },
    Cmyk {
        samples: usize,
    },
    YCbCr,
}

impl Kind {
    fn of<R: Read + Seek>(decoder: &mut Decoder<R>, has_palette: bool) -> Result<Kind, Failure> {
        let colour = decoder.colortype()?;
        let extra: Vec<u16> = decoder.find_tag_unsigned_vec(Tag::ExtraSamples)?.unwrap_or_default();
        let premultiplied = extra.first() == Some(&1);
        let has_alpha = premultiplied || extra.first() == Some(&2);
        Ok(match colour {
            ColorType::Gray(1 | 2 | 4 | 8) if has_palette => Kind::Palette(palette(decoder)?),
            _ if has_palette => return Err(unsupported(&format!("a palette with {}", named(colour)))),
            ColorType::Gray(1 | 2 | 4 | 8 | 16) => Kind::Grey,
            ColorType::Multiband { bit_depth: 8 | 16, num_samples: 2 } if has_alpha => {
                Kind::GreyAlpha { premultiplied }
            }
            ColorType::Multiband { bit_depth: 8 | 16, num_samples } if num_samples > 0 && !has_alpha => {
                Kind::FirstOf(num_samples.into())
            }
            ColorType::RGB(8 | 16 | 32) => Kind::Rgb,
            ColorType::RGBA(8 | 16 | 32) => Kind::Rgba { premultiplied },
            ColorType::CMYK(8 | 16) => Kind::Cmyk { samples: 4 },
            ColorType::CMYKA(8 | 16) => Kind::Cmyk { samples: 5 },
            ColorType::YCbCr(8) => Kind::YCbCr,
            colour => return Err(unsupported(&named(colour))),
        })
    }

    fn rgb(self, samples: Vec<u8>, background: [u8; 3]) -> Result<Vec<u8>, Failure> {
        Ok(match self {
            Kind::Grey => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
            Kind::FirstOf(count) => {
                samples.chunks_exact(count.max(1)).flat_map(|pixel| [pixel[0]; 3]).collect()
            }
            Kind::GreyAlpha { premultiplied } => {
                let straight = if premultiplied { divided::<2>(samples) } else { samples };
                grey_over(&straight, background)
            }
            Kind::Palette(colours) => {
                let colour = |index: &u8| colours.get(usize::from(*index)).copied();
                let pixels: Option<Vec<[u8; 3]>> = samples.iter().map(colour).collect();
                pixels.ok_or_else(|| Failure::Damaged("the palette is too short".to_owned()))?.concat()
            }
            Kind::Rgb => samples,
            Kind::Rgba { premultiplied } => {
                lay_over(if premultiplied { divided::<4>(samples) } else { samples }, background)
            }
            Kind::Cmyk { samples: count } => samples
                .chunks_exact(count)
                .flat_map(|pixel| {
                    [pixel[0], pixel[1], pixel[2]]
                        .map(|ink| (255 - pixel[3]).saturating_sub(blend(ink, 0, 255 - pixel[3])))
                })
                .collect(),
            Kind::YCbCr => {
                samples.chunks_exact(3).flat_map(|pixel| of_ycbcr([pixel[0], pixel[1], pixel[2]])).collect()
            }
        })
    }
}

fn unsupported(what: &str) -> Failure {
    Failure::Unsupported(what.to_owned())
}

/// In words, for messages.
fn named(colour: ColorType) -> String {
    match colour {
        ColorType::Gray(32 | 64) => format!("gray at {} bits, whose range is not stated", colour.bit_depth()),
        ColorType::Gray(bits) => format!("gray at {bits} bits"),
        ColorType::Multiband { bit_depth, num_samples } => {
            format!("{num_samples} samples of {bit_depth} bits")
        }
        colour => format!("{colour:?}"),
    }
}

/// The colors of a palette: all reds, then all greens, then all blues, at 16 bits.
fn palette<R: Read + Seek>(decoder: &mut Decoder<R>) -> Result<Vec<[u8; 3]>, Failure> {
    let values = decoder.get_tag_u16_vec(Tag::ColorMap)?;
    let count = values.len() / 3;
    Ok((0..count).map(|i| [0, 1, 2].map(|c| high_byte(values[c * count + i]))).collect())
}

/// Straight alpha, which is the last of `N` samples, from colors that were multiplied by it; rounded down, as in Pillow.
fn divided<const N: usize>(mut samples: Vec<u8>) -> Vec<u8> {
    for pixel in samples.chunks_exact_mut(N) {
        let alpha = u32::from(pixel[N - 1]);
        for colour in &mut pixel[..N - 1] {
            *colour = (u32::from(*colour) * 255).checked_div(alpha).unwrap_or(0).min(255) as u8;
        }
    }
    samples
}

/// The conversion of JPEG (ITU-R BT.601, full range), which TIFF has by default.
fn of_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
        .map(|x| (x + 0.5).clamp(0.0, 255.0) as u8)
}

/// All samples at 8 bits, pixel by pixel.
fn samples<R: Read + Seek>(
    decoder: &mut Decoder<R>,
    (width, height): (usize, usize),
    has_palette: bool,
) -> Result<Vec<u8>, Failure> {
    let bits = decoder.colortype()?.bit_depth();
    let mut buffer = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut buffer)?;
    if buffer.as_buffer(0).byte_len() < layout.complete_len {
        return Err(unsupported("planes that are larger than the picture"));
    }
    let unit = |x: f32| (x.clamp(0.0, 1.0) * 255.0).round() as u8;
    let samples = match buffer {
        DecodingResult::U8(samples) if bits < 8 => {
            // Indices stay as they are, gray is spread over all of 0..255.
            let factor = if has_palette { 1 } else { 255 / ((1 << bits) - 1) };
            unpacked(&samples, (width, height), usize::from(bits), factor)?
        }
        DecodingResult::U8(samples) => samples,
        DecodingResult::U16(samples) => samples.into_iter().map(high_byte).collect(),
        DecodingResult::F32(samples) => samples.into_iter().map(unit).collect(),
        _ => {
            return Err(unsupported(
                "samples that are neither unsigned numbers nor floating point at 32 bits",
            ));
        }
    };
    Ok(if layout.planes > 1 { interleaved(&samples, layout.planes) } else { samples })
}

/// Samples of fewer than 8 bits, whose rows are filled up to whole bytes.
fn unpacked(
    packed: &[u8],
    (width, height): (usize, usize),
    bits: usize,
    factor: u8,
) -> Result<Vec<u8>, Failure> {
    let row_bytes = (width * bits).div_ceil(8);
    if packed.len() < row_bytes * height {
        return Err(Failure::Truncated);
    }
    let sample = |row: &[u8], x: usize| {
        let shift = 8 - bits - x * bits % 8;
        (row[x * bits / 8] >> shift & ((1 << bits) - 1) as u8) * factor
    };
    let rows = packed.chunks_exact(row_bytes).take(height);
    Ok(rows.flat_map(|row| (0..width).map(move |x| sample(row, x))).collect())
}

fn interleaved(planes: &[u8], count: usize) -> Vec<u8> {
    let length = planes.len() / count;
    (0..length).flat_map(|i| (0..count).map(move |plane| planes[plane * length + i])).collect()
}

impl From<TiffError> for Failure {
    fn from(error: TiffError) -> Failure {
        match error {
            TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Failure::Truncated
            }
            TiffError::UnsupportedError(what) => Failure::Unsupported(what.to_string()),
            TiffError::LimitsExceeded => {
                Failure::Damaged("it asks for far more memory than its size explains".to_owned())
            }
            error => Failure::Damaged(error.to_string()),
        }
    }
}
