//! Why a file is not a picture that can be used.

use std::path::PathBuf;

use image::ImageError;
use image::error::{LimitErrorKind, ParameterErrorKind};
use offshoot_graph::remedy::MAX_MEGAPIXELS;
use zune_jpeg::errors::DecodeErrors;

/// The longest side, in pixels. The work of resizing grows with the sides too, not only with the area.
pub(super) const MAX_SIDE: u64 = 1 << 18;

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
    /// A row of a table that names no picture.
    #[error("line {line}: {reason}")]
    Row {
        /// Its line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A picture in an archive that lacks what belongs to it.
    #[error("{0}")]
    Member(String),
    /// A picture that a table names.
    #[error("{source} ({}, line {line})", offshoot_graph::text::shown(table))]
    Listed {
        /// The table.
        table: PathBuf,
        /// The line that names it, from 1.
        line: u64,
        /// What is wrong with the picture.
        source: Box<DecodeError>,
    },
    /// The file is larger than [`super::DecodeOptions::max_file_bytes`].
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
    #[error("not a picture: the content is neither JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, TGA, ICO nor QOI")]
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
    /// More pixels than [`super::DecodeOptions::max_pixels`].
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

impl DecodeError {
    /// What is wrong with a picture itself, whatever names it.
    pub fn cause(&self) -> &DecodeError {
        match self {
            DecodeError::Listed { source, .. } => source,
            other => other,
        }
    }
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

/// A [`DecodeError`] that does not know the format's name yet.
pub(super) enum Failure {
    Truncated,
    Unsupported(String),
    Damaged(String),
    Refused(DecodeError),
}

impl Failure {
    pub(super) fn too_much_memory() -> Failure {
        Failure::Damaged("it asks for far more memory than its size explains".to_owned())
    }

    pub(super) fn named(self, format: &'static str) -> DecodeError {
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
