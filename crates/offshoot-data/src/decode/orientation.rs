//! The orientation of a picture: from Exif, or without that from XMP, as in Pillow's `exif_transpose`.

use std::io::Read as _;

use image::metadata::Orientation;

/// The most bytes of a compressed text that are looked at.
const MOST_TEXT: u64 = 1 << 20;

/// What a file says about itself.
#[derive(Default)]
pub(super) struct Metadata {
    /// A TIFF structure.
    pub(super) exif: Option<Vec<u8>>,
    /// XML.
    pub(super) xmp: Option<Vec<u8>>,
}

impl Metadata {
    pub(super) fn orientation(&self) -> Option<Orientation> {
        let exif = self.exif.as_deref().and_then(of_exif);
        exif.or_else(|| self.xmp.as_deref().and_then(of_xmp)).and_then(Orientation::from_exif)
    }

    /// Of a PNG: its chunks may stand before or after the picture.
    pub(super) fn of_png(bytes: &[u8]) -> Metadata {
        let mut found = Metadata::default();
        let mut raw = None;
        let mut rest = bytes.get(8..).unwrap_or_default();
        while let Some((&[a, b, c, d, ref kind @ ..], content)) = rest.split_first_chunk::<8>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some(data) = content.get(..length) else { break };
            match kind {
                b"eXIf" => found.exif = Some(data.to_vec()),
                b"iTXt" => found.xmp = international_text(data).or(found.xmp),
                b"tEXt" | b"zTXt" => raw = raw_profile(data, kind == b"zTXt").or(raw),
                _ => {}
            }
            rest = content.get(length + 4..).unwrap_or_default();
        }
        found.exif = found.exif.or(raw);
        found
    }

    /// Of a WebP.
    pub(super) fn of_webp(bytes: &[u8]) -> Metadata {
        let mut found = Metadata::default();
        let mut rest = bytes.get(12..).unwrap_or_default();
        while let Some((&[ref kind @ .., a, b, c, d], content)) = rest.split_first_chunk::<8>() {
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            let Some(data) = content.get(..length) else { break };
            match kind {
                b"EXIF" => found.exif = Some(data.to_vec()),
                b"XMP " => found.xmp = Some(data.to_vec()),
                _ => {}
            }
            rest = content.get(length + length % 2..).unwrap_or_default();
        }
        found
    }
}

/// The XMP of an `iTXt` chunk: keyword, 0, whether compressed, method, language, 0, translated keyword, 0, text.
fn international_text(data: &[u8]) -> Option<Vec<u8>> {
    let (&[compressed, _, ..], rest) = (data.strip_prefix(b"XML:com.adobe.xmp\0")?, &data[20..]) else {
        return None;
    };
    let mut parts = rest.splitn(3, |&byte| byte == 0);
    let (_, _, text) = (parts.next()?, parts.next()?, parts.next()?);
    if compressed == 1 { inflated(text) } else { Some(text.to_vec()) }
}

/// The Exif that ImageMagick writes as text: a name, a length, and hexadecimal digits.
fn raw_profile(data: &[u8], compressed: bool) -> Option<Vec<u8>> {
    let rest = data.strip_prefix(b"Raw profile type ")?;
    let rest = rest.strip_prefix(b"exif\0").or_else(|| rest.strip_prefix(b"APP1\0"))?;
    let text = if compressed { inflated(rest.get(1..)?)? } else { rest.to_vec() };
    let text = String::from_utf8(text).ok()?;
    let digits: Vec<u8> = text.split_ascii_whitespace().skip(2).flat_map(str::bytes).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks_exact(2).map(byte).collect()
}

fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(data).take(MOST_TEXT).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The tag Orientation of the first directory.
fn of_exif(exif: &[u8]) -> Option<u8> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let start = long(4)? as usize;
    let entries = (0..usize::from(short(start)?)).map(|i| start + 2 + 12 * i);
    let at = entries.take_while(|&at| short(at).is_some()).find(|&at| short(at) == Some(0x0112))?;
    let value = match short(at + 2)? {
        1 | 6 => u32::from(*tiff.get(at + 8)?),
        3 | 8 => u32::from(short(at + 8)?),
        4 | 9 => long(at + 8)?,
        _ => return None,
    };
    u8::try_from(value).ok()
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6</...`.
pub(super) fn of_xmp(xmp: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let places = xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let mut values = places.filter_map(|(at, _)| match xmp.get(at + NAME.len()..)? {
        [b'=', b'"', digit @ b'0'..=b'9', ..] | [b'>', digit @ b'0'..=b'9', ..] => Some(digit - b'0'),
        _ => None,
    });
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_off_says_nothing() {
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0";
        assert_eq!(of_exif(exif), Some(6));
        for end in 0..exif.len() {
            assert!(of_exif(&exif[..end]).is_none_or(|value| value == 6));
        }
        assert_eq!(of_exif(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(of_xmp(b"<x tiff:Orientation=\"8\"/>"), Some(8));
        assert_eq!(of_xmp(b"<tiff:Orientation>3</tiff:Orientation>"), Some(3));
        assert_eq!(of_xmp(b"<tiff:Orientation>"), None);
    }

    #[test]
    fn the_orientation_may_be_of_any_whole_type_and_byte_order() {
        // After another entry, with a prefix: a byte, a short, a long.
        let entry = |little: bool, kind: u8, value: [u8; 4]| {
            let order =
                |bytes: &[u8]| if little { bytes.iter().rev().copied().collect() } else { bytes.to_vec() };
            let start: &[u8] = if little { b"Exif\0\0II*\0" } else { b"Exif\0\0MM\0*" };
            let other = [order(&[1, 0x0F]), order(&[0, 2]), order(&[0, 0, 0, 1]), vec![9; 4]].concat();
            let own = [order(&[1, 0x12]), order(&[0, kind]), order(&[0, 0, 0, 1]), value.to_vec()].concat();
            of_exif(&[start, &order(&[0, 0, 0, 8]), &order(&[0, 2]), &other, &own].concat())
        };
        for kind in [1, 6] {
            assert_eq!([true, false].map(|little| entry(little, kind, [5, 0, 0, 7])), [Some(5); 2]);
        }
        for (short, long) in [(3, 4), (8, 9)] {
            assert_eq!(
                (entry(true, short, [6, 0, 0, 7]), entry(false, short, [0, 6, 0, 7])),
                (Some(6), Some(6))
            );
            assert_eq!(
                (entry(true, long, [8, 0, 0, 0]), entry(false, long, [0, 0, 0, 8])),
                (Some(8), Some(8))
            );
        }
        // A number of another type, and one that is no orientation.
        assert_eq!((entry(true, 5, [6, 0, 0, 0]), entry(true, 3, [6, 1, 0, 0])), (None, None));
    }
}
