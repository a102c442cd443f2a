//! Bytes of a file to an RGB picture: JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, TGA, ICO and QOI, told apart by content, never by
//! the file's name. The size in the header is checked before anything is decoded.

mod error;
mod format;
mod jpeg;
mod limit;
mod orientation;
mod other;
mod picture;
mod png;
#[cfg(feature = "tiff")]
mod tiff;

use std::io::{BufRead, Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::ImageDecoder;
use offshoot_graph::Preprocessing;

use crate::augment::Crop;
use crate::stored::{PictureReader, open_picture};

pub use self::error::{DecodeError, PictureError};
use self::error::{Failure, MAX_SIDE};
pub(crate) use self::format::kind_by_name;
use self::format::{Format, SIGNATURE_BYTES, is_camera_raw};
pub use self::limit::{DEFAULT_MAX_PIXELS, max_pixels, set_max_pixels};
pub use self::picture::{Picture, Pixels};

/// What to decode to, and what to refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// RGB under transparent pixels.
    pub background: [u8; 3],
    /// Whether the EXIF orientation is applied.
    pub exif_rotation: bool,
    /// The most pixels (width times height) a picture may have.
    pub max_pixels: u64,
    /// The most bytes a file may have.
    pub max_file_bytes: u64,
}

impl Default for DecodeOptions {
    /// White background, EXIF rotation, at most [`max_pixels`] pixels and 1 GiB.
    fn default() -> DecodeOptions {
        DecodeOptions {
            background: [255; 3],
            exif_rotation: true,
            max_pixels: max_pixels(),
            max_file_bytes: 1 << 30,
        }
    }
}

impl From<&Preprocessing> for DecodeOptions {
    fn from(preprocessing: &Preprocessing) -> DecodeOptions {
        DecodeOptions {
            background: preprocessing.background,
            exif_rotation: preprocessing.exif_rotation,
            ..DecodeOptions::default()
        }
    }
}

/// Decodes the bytes of a picture file: rotated by EXIF and laid over the background, if so asked.
///
/// Samples of 16 bits keep their high byte (as Pillow does for RGB). Of an animation the first frame is taken.
/// Color profiles and gamma are ignored, as Pillow and torchvision ignore them.
///
/// ```
/// use offshoot_data::{DecodeError, DecodeOptions, decode};
/// assert_eq!(decode(b"GIF, I would say", &DecodeOptions::default()), Err(DecodeError::NotAPicture));
/// ```
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Picture, DecodeError> {
    decode_part(bytes, options, |width, height| Crop { left: 0, top: 0, width, height })
}

/// [`decode`] for threads that decode what others send: of very large pictures there is only one at a time in memory, as with
/// [`with_picture`].
pub fn with_decoded<T>(
    bytes: &[u8],
    options: &DecodeOptions,
    then: impl FnOnce(Picture) -> T,
) -> Result<T, DecodeError> {
    let (width, height) = size(Format::guess(bytes)?, Cursor::new(bytes), options)?;
    let _turn = limit::turn(width, height);
    Ok(then(decode(bytes, options)?))
}

/// The rectangle of a picture that `choose` takes, given its width and height. Of a JPEG only that is made RGB.
fn decode_part(
    bytes: &[u8],
    options: &DecodeOptions,
    choose: impl FnOnce(usize, usize) -> Crop,
) -> Result<Picture, DecodeError> {
    let format = Format::guess(bytes)?;
    guard(format, || {
        let picture = match format {
            Format::Jpeg => return jpeg::decode(bytes, options, choose),
            #[cfg(feature = "tiff")]
            Format::Tiff => tiff::decode(bytes, options)?,
            Format::Other(_, format) => other::decode(bytes, format, options)?,
        };
        let crop = choose(picture.width(), picture.height());
        Ok(picture.part(crop))
    })
}

/// Reads and decodes one file; see [`decode`].
pub fn read_picture(path: &Path, options: &DecodeOptions) -> Result<Picture, PictureError> {
    with_picture(path, options, |picture, _| picture)
}

/// Reads and decodes one file and hands it over with the bytes of the file. Of very large pictures there is only one at a time
/// in memory, however many threads do this: `then` must not wait for another thread that may do it too.
pub fn with_picture<T>(
    path: &Path,
    options: &DecodeOptions,
    then: impl FnOnce(Picture, &[u8]) -> T,
) -> Result<T, PictureError> {
    with_part(path, options, |width, height| Crop { left: 0, top: 0, width, height }, then)
}

/// [`with_picture`] of the rectangle that `choose` takes, given the width and height of the picture.
pub(crate) fn with_part<T>(
    path: &Path,
    options: &DecodeOptions,
    choose: impl FnOnce(usize, usize) -> Crop,
    then: impl FnOnce(Picture, &[u8]) -> T,
) -> Result<T, PictureError> {
    let read = || {
        let bytes = read_file(path, options)?;
        let format = Format::guess(&bytes)?;
        let (width, height) = size(format, Cursor::new(&bytes), options)?;
        let _turn = limit::turn(width, height);
        Ok(then(decode_part(&bytes, options, choose)?, &bytes))
    };
    read().map_err(|source| PictureError { path: path.to_owned(), source })
}

/// Checks the header of one file and returns the width and height it states (before EXIF rotation), in pixels.
/// Nothing is decoded, so damage further down is not seen.
pub fn probe(path: &Path, options: &DecodeOptions) -> Result<(usize, usize), PictureError> {
    probe_file(path, options).map_err(|source| PictureError { path: path.to_owned(), source })
}

/// Whether a file starts like a picture; `false` too if it cannot be read.
#[cfg(feature = "folders")]
pub(crate) fn looks_like_picture(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = offshoot_files::open(path).and_then(|file| file.take(SIGNATURE_BYTES).read_to_end(&mut start));
    read.is_ok() && Format::guess(&start).is_ok()
}

/// Runs a decoder of another library. A panic in it costs one picture, not the training run.
fn guard<T>(format: Format, decode: impl FnOnce() -> Result<T, Failure>) -> Result<T, DecodeError> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(result) => result.map_err(|failure| failure.named(format.name())),
        Err(_) => Err(DecodeError::Damaged {
            format: format.name(),
            reason: "the decoder stopped at an inconsistency".to_owned(),
        }),
    }
}

fn read_file(path: &Path, options: &DecodeOptions) -> Result<Vec<u8>, DecodeError> {
    let reader = open(path, options)?;
    let mut bytes = Vec::new();
    reader.take(options.max_file_bytes).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn open(path: &Path, options: &DecodeOptions) -> Result<PictureReader, DecodeError> {
    if is_camera_raw(path) {
        return Err(DecodeError::UnsupportedFormat {
            format: kind_by_name(path).unwrap_or_default().to_owned(),
        });
    }
    let reader = open_picture(path).map_err(unreadable)?;
    let bytes = reader.size();
    if bytes > options.max_file_bytes {
        return Err(DecodeError::FileTooLarge { bytes, limit: options.max_file_bytes });
    }
    Ok(reader)
}

fn unreadable(error: std::io::Error) -> DecodeError {
    DecodeError::Read(error.to_string())
}

fn probe_file(path: &Path, options: &DecodeOptions) -> Result<(usize, usize), DecodeError> {
    let mut reader = std::io::BufReader::new(open(path, options)?);
    let mut start = Vec::new();
    reader.by_ref().take(SIGNATURE_BYTES).read_to_end(&mut start).map_err(unreadable)?;
    reader.rewind().map_err(unreadable)?;
    let format = Format::guess(&start).map_err(|error| match (error, kind_by_name(path)) {
        (DecodeError::NotAPicture, Some(kind)) => DecodeError::UnsupportedFormat { format: kind.to_owned() },
        (error, _) => error,
    })?;
    size(format, reader, options)
}

/// The width and height that the header states.
fn size<R: BufRead + Seek>(
    format: Format,
    reader: R,
    options: &DecodeOptions,
) -> Result<(usize, usize), DecodeError> {
    guard(format, || match format {
        Format::Jpeg => Ok(jpeg::header(reader, options)?.1),
        #[cfg(feature = "tiff")]
        Format::Tiff => tiff::probe(reader, options),
        Format::Other(_, format) => {
            let (width, height) = other::header(reader, format, options)?.dimensions();
            Ok((width as usize, height as usize))
        }
    })
}

fn check_size(width: u64, height: u64, options: &DecodeOptions) -> Result<(), Failure> {
    let limit = options.max_pixels;
    if width == 0 || height == 0 {
        return Err(Failure::Refused(DecodeError::NoPixels { width, height }));
    }
    if width.max(height) > MAX_SIDE {
        return Err(Failure::Refused(DecodeError::TooLong { width, height }));
    }
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limit => Ok(()),
        _ => Err(Failure::Refused(DecodeError::TooLarge { width, height, limit })),
    }
}
