//! Which format bytes are of.

use std::ffi::OsStr;
use std::path::Path;

use image::ImageFormat;

use super::DecodeError;

/// The most bytes that any format's signature needs.
pub(super) const SIGNATURE_BYTES: u64 = 64;

/// A format that is read.
#[derive(Clone, Copy)]
pub(super) enum Format {
    Jpeg,
    #[cfg(feature = "tiff")]
    Tiff,
    Other(&'static str, ImageFormat),
}

/// A format of pictures that is not read: its name, how its files start, and how their names end.
struct Unread(&'static str, &'static [&'static [u8]], &'static [&'static str]);

const CAMERA_RAW: &str = "Camera raw";

const UNREAD: [Unread; 24] = [
    Unread(
        "JPEG 2000",
        &[b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"],
        &["jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "jpm"],
    ),
    Unread("JPEG XL", &[b"\xff\x0a", b"\0\0\0\x0cJXL "], &["jxl"]),
    Unread("JPEG XR", &[b"II\xbc"], &["jxr", "wdp", "hdp"]),
    Unread("AVIF", &[], &["avif", "avifs"]),
    Unread("HEIC", &[], &["heic", "heics", "heif", "heifs", "hif"]),
    Unread("Photoshop", &[b"8BPS"], &["psd", "psb"]),
    Unread("GIMP", &[b"gimp xcf"], &["xcf"]),
    Unread("Windows cursor", &[b"\0\0\x02\0\x01\0"], &["cur"]),
    Unread("Apple icon", &[b"icns"], &["icns"]),
    Unread("PCX", &[b"\x0a\x05\x01\x08", b"\x0a\x05\x01\x01"], &["pcx", "dcx"]),
    Unread("OpenEXR", &[b"\x76\x2f\x31\x01"], &["exr"]),
    Unread("Radiance HDR", &[b"#?RADIANCE", b"#?RGBE"], &["hdr", "rgbe"]),
    Unread("PFM", &[b"PF\n", b"Pf\n"], &["pfm"]),
    Unread("DDS", &[b"DDS "], &["dds"]),
    Unread("Farbfeld", &[b"farbfeld"], &["ff", "farbfeld"]),
    Unread("SGI", &[b"\x01\xda\0\x01", b"\x01\xda\x01\x01"], &["sgi"]),
    Unread("Sun raster", &[b"\x59\xa6\x6a\x95"], &["ras"]),
    Unread("BPG", &[b"BPG\xfb"], &["bpg"]),
    Unread("DjVu", &[b"AT&TFORM"], &["djvu", "djv"]),
    Unread("SVG", &[b"<svg"], &["svg", "svgz"]),
    Unread("PostScript", &[b"%!PS"], &["eps"]),
    Unread("Metafile", &[], &["wmf", "emf"]),
    Unread("DICOM", &[], &["dcm", "dicom"]),
    // Most are TIFF inside, with a small preview where TIFF has the picture.
    Unread(
        CAMERA_RAW,
        &[],
        &[
            "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "dng", "orf", "rw2", "raf", "pef", "srw",
            "3fr", "erf", "kdc", "mrw", "x3f", "iiq", "rwl", "gpr",
        ],
    ),
];

impl Format {
    pub(super) fn guess(bytes: &[u8]) -> Result<Format, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty);
        }
        match bytes {
            // The two kinds of TIFF, of either byte order.
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => {
                #[cfg(feature = "tiff")]
                return Ok(Format::Tiff);
                #[cfg(not(feature = "tiff"))]
                return Err(DecodeError::LeftOut { format: "TIFF", feature: "tiff" });
            }
            // What starts with such letters may as well be a text.
            [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..] => {
                return Ok(Format::Other("PNM", ImageFormat::Pnm));
            }
            _ => {}
        }
        match image::guess_format(bytes) {
            Ok(ImageFormat::WebP) if !cfg!(feature = "webp") => {
                Err(DecodeError::LeftOut { format: "WebP", feature: "webp" })
            }
            Ok(ImageFormat::Gif) if !cfg!(feature = "gif") => {
                Err(DecodeError::LeftOut { format: "GIF", feature: "gif" })
            }
            Ok(ImageFormat::Qoi) if !cfg!(feature = "qoi") => {
                Err(DecodeError::LeftOut { format: "QOI", feature: "qoi" })
            }
            Ok(ImageFormat::Jpeg) => Ok(Format::Jpeg),
            Ok(format @ ImageFormat::Png) => Ok(Format::Other("PNG", format)),
            Ok(format @ ImageFormat::WebP) => Ok(Format::Other("WebP", format)),
            Ok(format @ ImageFormat::Gif) => Ok(Format::Other("GIF", format)),
            Ok(format @ ImageFormat::Bmp) => Ok(Format::Other("BMP", format)),
            Ok(format @ ImageFormat::Ico) => Ok(Format::Other("ICO", format)),
            Ok(format @ ImageFormat::Qoi) => Ok(Format::Other("QOI", format)),
            _ => match unread(bytes) {
                Some(format) => Err(DecodeError::UnsupportedFormat { format: format.to_owned() }),
                None if is_tga(bytes) => Ok(Format::Other("TGA", ImageFormat::Tga)),
                None => Err(DecodeError::NotAPicture),
            },
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            #[cfg(feature = "tiff")]
            Format::Tiff => "TIFF",
            Format::Other(name, _) => name,
        }
    }
}

/// Whether bytes are the header of a TGA file, which has no signature: each field of it must be one that occurs.
fn is_tga(bytes: &[u8]) -> bool {
    let Some(&[_, map, kind, _, _, length_low, length_high, depth_of_map, ..]) = bytes.first_chunk::<18>()
    else {
        return false;
    };
    let word = |place: usize| u16::from_le_bytes([bytes[place], bytes[place + 1]]);
    let (width, height, depth, descriptor) = (word(12), word(14), bytes[16], bytes[17]);
    let length = u16::from_le_bytes([length_low, length_high]);
    let fits = match (map, kind) {
        (1, 1 | 9) => length > 0 && matches!(depth_of_map, 15 | 16 | 24 | 32) && matches!(depth, 8 | 16),
        (0, 2 | 10) => length == 0 && matches!(depth, 15 | 16 | 24 | 32),
        (0, 3 | 11) => length == 0 && matches!(depth, 8 | 16),
        _ => false,
    };
    // The last two bits are for pictures whose rows are in another order.
    fits && width > 0 && height > 0 && descriptor & 0xc0 == 0
}

/// The name of the format that bytes are of, of those that are not read.
fn unread(bytes: &[u8]) -> Option<&'static str> {
    if let Some(brand) = bytes.get(8..12).filter(|_| &bytes[4..8] == b"ftyp") {
        return match brand {
            b"avif" | b"avis" => Some("AVIF"),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => Some("HEIC"),
            b"crx " => Some(CAMERA_RAW),
            _ => None,
        };
    }
    UNREAD
        .iter()
        .find(|Unread(_, starts, _)| starts.iter().any(|start| bytes.starts_with(start)))
        .map(|u| u.0)
}

/// The name of the format that a file's name speaks of, of those that are not read.
pub(crate) fn kind_by_name(path: &Path) -> Option<&'static str> {
    let ending = path.extension().and_then(OsStr::to_str)?;
    let has =
        |Unread(_, _, endings): &&Unread| endings.iter().any(|known| ending.eq_ignore_ascii_case(known));
    UNREAD.iter().find(has).map(|unread| unread.0)
}

/// Whether a file's name says that it is from a camera, unprocessed. The content of such files looks like TIFF.
pub(super) fn is_camera_raw(path: &Path) -> bool {
    kind_by_name(path) == Some(CAMERA_RAW)
}
