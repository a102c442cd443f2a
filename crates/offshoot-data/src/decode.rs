//! Bytes of a file to an RGB picture: JPEG, PNG, WebP, GIF, BMP, TIFF and PNM, told apart by content, never by
//! the file's name. The size in the header is checked before anything is decoded.

mod format;
mod jpeg;
mod limit;
mod orientation;
mod png;
#[cfg(feature = "tiff")]
mod tiff;

use std::io::{BufRead, Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use image::error::{LimitErrorKind, ParameterErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use offshoot_graph::Preprocessing;
use offshoot_graph::remedy::MAX_MEGAPIXELS;
use zune_jpeg::errors::DecodeErrors;

pub(crate) use self::format::kind_by_name;
use self::format::{Format, SIGNATURE_BYTES, is_camera_raw};
pub use self::limit::{DEFAULT_MAX_PIXELS, max_pixels, set_max_pixels};
use self::orientation::Metadata;

/// A decoded picture: 8-bit RGB, rows from top to bottom, no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
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

    /// The RGB values, `height * width * 3` of them.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

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

/// Why bytes are not a picture that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is nothing in the file.
    #[error("the file is empty")]
    Empty,
    /// The file could not be read from disk.
    #[error("the file cannot be read: {0}")]
    Read(String),
    /// What was found wrong with it before, in an earlier session.
    #[error("{0}")]
    Before(String),
    /// The file is larger than [`DecodeOptions::max_file_bytes`].
    #[error(
        "the file has {bytes} bytes, more than the limit of {limit}; shrink the picture or raise the limit"
    )]
    FileTooLarge {
        /// Size of the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The content is not of a known picture format.
    #[error("not a picture: the content is neither JPEG, PNG, WebP, GIF, BMP, TIFF nor PNM")]
    NotAPicture,
    /// The content is a picture, in a format that is not read.
    #[error("{format} pictures are not read; convert it to PNG or JPEG")]
    UnsupportedFormat {
        /// Name of the format.
        format: String,
    },
    /// The format is read, but not with this feature.
    #[error("this kind of {format} is not read ({feature}); convert it to PNG or JPEG")]
    UnsupportedFeature {
        /// Name of the format.
        format: &'static str,
        /// What is not supported.
        feature: String,
    },
    /// More pixels than [`DecodeOptions::max_pixels`].
    #[error(
        "{width}x{height} is {} megapixels, more than the limit of {}; shrink the picture or raise the limit \
         ({MAX_MEGAPIXELS} {})", megapixels(*width, *height), *limit as f64 / 1e6, megapixels(*width, *height).ceil(), MAX_MEGAPIXELS = MAX_MEGAPIXELS)]
    TooLarge {
        /// Width in the header, in pixels.
        width: u64,
        /// Height in the header, in pixels.
        height: u64,
        /// The limit, in pixels.
        limit: u64,
    },
    /// A side is so long that no picture can be meant.
    #[error("{width}x{height}: a side is longer than {limit} pixels; cut the picture into pieces", limit = MAX_SIDE)]
    TooLong {
        /// Width in the header, in pixels.
        width: u64,
        /// Height in the header, in pixels.
        height: u64,
    },
    /// So many scans that decoding them all would take far longer than a picture of this size takes.
    #[error(
        "the JPEG data have {scans} scans, more than the limit of {limit} for {width}x{height}; save it again: a usual progressive \
         JPEG has about 10"
    )]
    TooManyScans {
        /// How many there are.
        scans: usize,
        /// The limit.
        limit: usize,
        /// Width in the header, in pixels.
        width: usize,
        /// Height in the header, in pixels.
        height: usize,
    },
    /// A side has no pixels.
    #[error("the header says {width}x{height}: there are no pixels")]
    NoPixels {
        /// Width in the header, in pixels.
        width: u64,
        /// Height in the header, in pixels.
        height: u64,
    },
    /// A format that this program was built without.
    #[error("{format} is not read: offshoot was built without its feature `{feature}`")]
    LeftOut {
        /// Name of the format.
        format: &'static str,
        /// The cargo feature that reads it.
        feature: &'static str,
    },
    /// The data end before the picture does.
    #[error("the {format} data end too early: the file is truncated")]
    Truncated {
        /// Name of the format.
        format: &'static str,
    },
    /// The data contradict the format's rules.
    #[error("the {format} data are damaged: {reason}")]
    Damaged {
        /// Name of the format.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

/// To two digits after the point.
fn megapixels(width: u64, height: u64) -> f64 {
    (width as f64 * height as f64 / 1e4).ceil() / 100.0
}

/// A file that is not a picture that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {source}", offshoot_graph::text::shown(path))]
pub struct PictureError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub source: DecodeError,
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
    let format = Format::guess(bytes)?;
    guard(format, || match format {
        Format::Jpeg => jpeg::decode(bytes, options),
        #[cfg(feature = "tiff")]
        Format::Tiff => tiff::decode(bytes, options),
        Format::Other(_, format) => decode_other(bytes, format, options),
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
    let read = || {
        let bytes = read_file(path, options)?;
        let format = Format::guess(&bytes)?;
        let (width, height) = size(format, Cursor::new(&bytes), options)?;
        let _turn = limit::turn(width, height);
        Ok(then(decode(&bytes, options)?, &bytes))
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

/// The longest side, in pixels. The work of resizing grows with the sides too, not only with the area.
const MAX_SIDE: u64 = 1 << 18;

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

/// A [`DecodeError`] that does not know the format's name yet.
enum Failure {
    Truncated,
    Unsupported(String),
    Damaged(String),
    Refused(DecodeError),
}

impl Failure {
    fn too_much_memory() -> Failure {
        Failure::Damaged("it asks for far more memory than its size explains".to_owned())
    }

    fn named(self, format: &'static str) -> DecodeError {
        match self {
            Failure::Truncated => DecodeError::Truncated { format },
            Failure::Unsupported(feature) => DecodeError::UnsupportedFeature { format, feature },
            Failure::Damaged(reason) => DecodeError::Damaged { format, reason },
            Failure::Refused(error) => error,
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        let ends_early = |error: &std::io::Error| error.kind() == std::io::ErrorKind::UnexpectedEof;
        match error {
            ImageError::IoError(error) if ends_early(&error) => Failure::Truncated,
            ImageError::Parameter(error) if matches!(error.kind(), ParameterErrorKind::NoMoreData) => {
                Failure::Truncated
            }
            ImageError::Limits(error) if matches!(error.kind(), LimitErrorKind::InsufficientMemory) => {
                Failure::too_much_memory()
            }
            ImageError::Unsupported(error) => Failure::Unsupported(error.to_string()),
            error => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(source) = cause.source() {
                    cause = source;
                    if cause.downcast_ref::<std::io::Error>().is_some_and(ends_early) {
                        return Failure::Truncated;
                    }
                }
                Failure::Damaged(cause.to_string())
            }
        }
    }
}

impl From<DecodeErrors> for Failure {
    fn from(error: DecodeErrors) -> Failure {
        match error {
            DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => Failure::Truncated,
            DecodeErrors::Unsupported(scheme) => Failure::Unsupported(format!("{scheme:?}")),
            error => Failure::Damaged(error.to_string()),
        }
    }
}

fn read_file(path: &Path, options: &DecodeOptions) -> Result<Vec<u8>, DecodeError> {
    let file = open(path, options)?;
    let mut bytes = Vec::new();
    file.take(options.max_file_bytes).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn open(path: &Path, options: &DecodeOptions) -> Result<std::fs::File, DecodeError> {
    if is_camera_raw(path) {
        return Err(DecodeError::UnsupportedFormat {
            format: kind_by_name(path).unwrap_or_default().to_owned(),
        });
    }
    let file = offshoot_files::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > options.max_file_bytes {
        return Err(DecodeError::FileTooLarge { bytes, limit: options.max_file_bytes });
    }
    Ok(file)
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
            let (width, height) = other_header(reader, format, options)?.dimensions();
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

/// A decoder of the `image` crate that has read the header and may allocate what a picture of this size can need.
fn other_header<'a, R: BufRead + Seek + 'a>(
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

fn decode_other(bytes: &[u8], format: ImageFormat, options: &DecodeOptions) -> Result<Picture, Failure> {
    let decoder = other_header(Cursor::new(bytes), format, options)?;
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

/// Any picture as 8-bit RGB over `background`.
fn to_rgb(picture: DynamicImage, background: [u8; 3]) -> Option<Picture> {
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

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

fn high_bytes(values: &[u16]) -> Vec<u8> {
    values.iter().map(|&value| high_byte(value)).collect()
}

/// RGBA over a background, in place: the result takes the first three quarters of the same allocation.
fn lay_over(mut pixels: Vec<u8>, background: [u8; 3]) -> Vec<u8> {
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

fn grey_over(pixels: &[u8], background: [u8; 3]) -> Vec<u8> {
    pixels
        .chunks_exact(2)
        .flat_map(|pixel| background.map(|under| blend(pixel[0], under, pixel[1])))
        .collect()
}

/// `(over * alpha + under * (255 - alpha)) / 255`, rounded to nearest (as Pillow's `paste` with a mask does).
fn blend(over: u8, under: u8, alpha: u8) -> u8 {
    let sum = u32::from(over) * u32::from(alpha) + u32::from(under) * u32::from(255 - alpha) + 128;
    ((sum + (sum >> 8)) >> 8) as u8
}

fn rotate(picture: Picture, orientation: Option<Orientation>, options: &DecodeOptions) -> Picture {
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
