//! Files that lie, break off or are something else: one clear error each, never a panic.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use offshoot_data::{DecodeError, DecodeOptions, decode, probe, read_picture};
use offshoot_graph::Preprocessing;
use proptest::prelude::*;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(golden_path(name)).unwrap()
}

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn error_of(bytes: &[u8]) -> DecodeError {
    decode(bytes, &DecodeOptions::default()).expect_err("this is not a good picture")
}

/// One of each kind of decoder.
const KINDS: [&str; 33] = [
    "baseline_420.jpg",
    "baseline_444.jpg",
    "progressive.jpg",
    "restart.jpg",
    "cmyk.jpg",
    "exif_6.jpg",
    "rgb.png",
    "palette_alpha.png",
    "grey_alpha16.png",
    "lossless.webp",
    "lossy_alpha.webp",
    "animated.webp",
    "transparent.gif",
    "palette.bmp",
    "rgbx.bmp",
    "rgba_lzw.tif",
    "grey_deflate.tif",
    "cmyk.tif",
    "kinds/palette.tif",
    "kinds/palette4.tif",
    "kinds/big.tif",
    "kinds/ycbcr_jpeg.tif",
    "kinds/group4.tif",
    "kinds/rgb.ppm",
    "kinds/text.pgm",
    "kinds/rgb_names.jpg",
    "kinds/profile_packed.png",
    "rasters/rgb.tga",
    "rasters/palette_rle.tga",
    "rasters/rgba.qoi",
    "rasters/png.ico",
    "rasters/bmp.ico",
    "rasters/sizes.ico",
];

#[test]
fn what_is_no_picture_is_named() {
    assert_eq!(error_of(b""), DecodeError::Empty);
    assert_eq!(error_of(b"Dear diary"), DecodeError::NotAPicture);
    assert_eq!(error_of(&[0; 5000]), DecodeError::NotAPicture);
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    assert_eq!(error_of(heic), DecodeError::UnsupportedFormat { format: "HEIC".to_owned() });
}

#[test]
fn formats_that_are_not_read_are_named() {
    let contents: [(&[u8], &str); 7] = [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0", "HEIC"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"\0\0\x02\0\x01\0", "Windows cursor"),
        (b"\x0a\x05\x01\x08\0", "PCX"),
    ];
    for (bytes, format) in contents {
        assert_eq!(error_of(bytes), DecodeError::UnsupportedFormat { format: format.to_owned() });
    }
    // A film is no picture, nor is a text that starts like one.
    for bytes in [&b"\0\0\0\x20ftypisom\0\0\x02\0"[..], b"P3riod", b"P1"] {
        assert_eq!(error_of(bytes), DecodeError::NotAPicture);
    }
    // The content is TIFF, and what TIFF shows of such a file is its preview.
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("a.NEF", "Camera raw"), ("b.dcm", "DICOM")] {
        let path = folder.path().join(name);
        std::fs::write(&path, if format == "DICOM" { vec![0; 100] } else { golden("rgb.tif") }).unwrap();
        let error = probe(&path, &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.source, DecodeError::UnsupportedFormat { format: format.to_owned() });
    }
    // What a wrong name has is read all the same.
    let path = folder.path().join("c.jp2");
    std::fs::write(&path, golden("rgb.png")).unwrap();
    assert!(read_picture(&path, &DecodeOptions::default()).is_ok());
}

#[test]
fn a_truncated_file_is_refused() {
    for (name, format) in [
        ("baseline_420.jpg", "JPEG"),
        ("baseline_422.jpg", "JPEG"),
        ("progressive.jpg", "JPEG"),
        ("rgb.png", "PNG"),
        ("lossless.webp", "WebP"),
        ("rgb.bmp", "BMP"),
        ("rgb.tif", "TIFF"),
    ] {
        let bytes = golden(name);
        for kept in [bytes.len() * 2 / 3, bytes.len() * 9 / 10] {
            let error = error_of(&bytes[..kept]);
            assert_eq!(error, DecodeError::Truncated { format }, "{name} cut to {kept} of {}", bytes.len());
        }
    }
}

#[test]
fn a_truncated_gif_is_refused() {
    // Its decoder does not tell a truncated file from a damaged one by type.
    let bytes = golden("palette.gif");
    let error = error_of(&bytes[..bytes.len() / 2]);
    assert_eq!(error.to_string(), "the GIF data are damaged: Unexpected End of File");
}

#[test]
fn a_picture_in_the_metadata_does_not_hide_truncation() {
    // A thumbnail with an end-of-image marker of its own, in an APP1 segment.
    let (picture, thumbnail) = (golden("baseline_420.jpg"), golden("exif_1.jpg"));
    let length = u16::try_from(thumbnail.len() + 2).unwrap().to_be_bytes();
    let mut bytes = [&picture[..2], &[0xFF, 0xE1], &length, &thumbnail, &picture[2..]].concat();
    assert!(decode(&bytes, &DecodeOptions::default()).is_ok());
    bytes.truncate(bytes.len() - 200);
    assert_eq!(error_of(&bytes), DecodeError::Truncated { format: "JPEG" });
}

/// A PNG whose header states this size.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let mut png = golden("rgb.png");
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn the_size_is_checked_before_anything_is_decoded() {
    // Headers that promise 4 gigapixels, and hardly any data.
    let mut jpeg = golden("baseline_420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xFF);
    let mut bmp = golden("rgb.bmp");
    bmp[18..26].copy_from_slice(&[0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0, 0]);
    for bytes in [png_of_size(65535, 65535), jpeg, bmp] {
        let too_large = DecodeError::TooLarge { width: 65535, height: 65535, limit: 256_000_000 };
        assert_eq!(error_of(&bytes), too_large);
    }
    let too_long = DecodeError::TooLong { width: 1 << 20, height: 1 };
    assert_eq!(error_of(&png_of_size(1 << 20, 1)), too_long);

    let small = DecodeOptions { max_pixels: 100, ..DecodeOptions::default() };
    for name in KINDS {
        let error = decode(&golden(name), &small).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { limit: 100, .. }), "{name}: {error}");
        let error = probe(&golden_path(name), &small).unwrap_err();
        assert!(matches!(error.source, DecodeError::TooLarge { limit: 100, .. }), "{name}: {error}");
    }
}

#[test]
fn a_file_beyond_the_limit_is_not_read() {
    let options = DecodeOptions { max_file_bytes: 50, ..DecodeOptions::default() };
    let error = read_picture(&golden_path("rgb.png"), &options).unwrap_err();
    assert!(matches!(error.source, DecodeError::FileTooLarge { limit: 50, .. }));
    assert!(error.to_string().contains("rgb.png: the file has"), "{error}");
}

#[test]
fn a_path_that_is_no_file_is_an_error() {
    let options = DecodeOptions::default();
    for path in [golden_path(""), golden_path("absent.png")] {
        let error = read_picture(&path, &options).unwrap_err();
        assert!(matches!(error.source, DecodeError::Read(_)), "{error}");
        assert_eq!(probe(&path, &options).unwrap_err(), error);
    }
}

#[test]
fn the_header_states_the_size_before_rotation() {
    let options = DecodeOptions::default();
    assert_eq!(probe(&golden_path("exif_6.jpg"), &options), Ok((24, 17)));
    let rotated = read_picture(&golden_path("exif_6.jpg"), &options).unwrap();
    assert_eq!((rotated.width(), rotated.height()), (17, 24));
    let kept = DecodeOptions::from(&Preprocessing { exif_rotation: false, ..Preprocessing::default() });
    let as_stored = read_picture(&golden_path("exif_6.jpg"), &kept).unwrap();
    assert_eq!((as_stored.width(), as_stored.height()), (24, 17));
}

/// Limits that keep a lying header from costing the test much time or memory.
fn modest() -> DecodeOptions {
    DecodeOptions { max_pixels: 1 << 20, ..DecodeOptions::default() }
}

/// Whatever comes back is a picture within the limits or an error that says something.
fn survives(bytes: &[u8]) {
    match decode(bytes, &modest()) {
        Ok(picture) => {
            assert!(picture.width() * picture.height() <= 1 << 20);
            assert_eq!(picture.pixels().len(), picture.width() * picture.height() * 3);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn damaged_files_never_panic(
        kind in 0..KINDS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        kept in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = golden(KINDS[kind]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(kept) = kept {
            bytes.truncate(kept.index(bytes.len()));
        }
        survives(&bytes);
    }

    #[test]
    fn damaged_headers_never_panic(
        kind in 0..KINDS.len(),
        changes in prop::collection::vec((0..220usize, any::<u8>()), 1..4),
    ) {
        let mut bytes = golden(KINDS[kind]);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn noise_after_a_signature_never_panics(
        kind in 0..KINDS.len(),
        kept in 2..32usize,
        noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = golden(KINDS[kind]);
        bytes.truncate(kept);
        bytes.extend(noise);
        survives(&bytes);
    }
}

/// A JPEG whose last scan stands there `more` times more.
fn with_scans(jpeg: &[u8], more: usize) -> Vec<u8> {
    let scan = jpeg.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).unwrap();
    let (start, end) = jpeg.split_at(jpeg.len() - 2);
    [start, &start[scan..].repeat(more), end].concat()
}

#[test]
fn a_jpeg_of_very_many_scans_is_refused() {
    let jpeg = golden("progressive.jpg");
    let picture = decode(&jpeg, &DecodeOptions::default()).unwrap();
    let scans = jpeg.windows(2).filter(|pair| *pair == [0xFF, 0xDA]).count();
    let usual = with_scans(&jpeg, 128 - scans);
    // The last scan says the last bit of coefficients: again, it says nothing new or damages them, and is decoded.
    assert!(!matches!(decode(&usual, &DecodeOptions::default()), Err(DecodeError::TooManyScans { .. })));
    let error = error_of(&with_scans(&jpeg, 129 - scans));
    assert!(matches!(error, DecodeError::TooManyScans { scans: 129, .. }), "{error}");
    let error = error_of(&with_scans(&jpeg, 400));
    let (width, height) = (picture.width(), picture.height());
    assert_eq!(error, DecodeError::TooManyScans { scans: scans + 400, limit: 128, width, height });
    // Scans of a baseline file count too.
    let error = error_of(&with_scans(&golden("baseline_444.jpg"), 200));
    assert!(matches!(error, DecodeError::TooManyScans { .. }), "{error}");
}

#[test]
fn a_jpeg_of_too_few_bytes_for_its_pixels_is_cut_short() {
    let mut jpeg = golden("grey.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x3E, 0x80, 0x3E, 0x80]);
    assert_eq!(error_of(&jpeg), DecodeError::Truncated { format: "JPEG" });
}

/// A TIFF in RGB of `strips` strips of one row, all of which are the bytes `data`, in the compression `compression`.
fn tiff_of_strips(width: u32, strips: u32, compression: u32, data: &[u8]) -> Vec<u8> {
    let place = 8 + data.len() as u32;
    let (entries, after) = (9u16, place + 2 + 9 * 12 + 4);
    let longs = 4 * strips;
    let mut file = [&b"II*\0"[..], &place.to_le_bytes(), data, &entries.to_le_bytes()].concat();
    for (tag, kind, count, value) in [
        (256u16, 4u16, 1, width),
        (257, 4, 1, strips),
        (258, 3, 3, after),
        (259, 4, 1, compression),
        (262, 4, 1, 2),
        (273, 4, strips, after + 6),
        (277, 4, 1, 3),
        (278, 4, 1, 1),
        (279, 4, strips, after + 6 + longs),
    ] {
        let (tag, kind) = (tag.to_le_bytes(), kind.to_le_bytes());
        file.extend([&tag[..], &kind, &u32::to_le_bytes(count), &u32::to_le_bytes(value)].concat());
    }
    file.extend([0; 4]);
    file.extend([8, 0].repeat(3));
    file.extend(8u32.to_le_bytes().repeat(strips as usize));
    file.extend((data.len() as u32).to_le_bytes().repeat(strips as usize));
    file
}

#[test]
fn strips_of_a_tiff_do_not_ask_for_the_same_work_again_and_again() {
    let row = [10, 20, 30].repeat(2);
    let few = tiff_of_strips(2, 4, 1, &row);
    assert_eq!(decode(&few, &DecodeOptions::default()).unwrap().pixels(), row.repeat(4));
    // Of 24 by 1 pixels each, 200 hold eight times the bytes of the file, and 201 more than that.
    let [most, more] = [200, 201].map(|strips| tiff_of_strips(24, strips, 1, &[7; 72]));
    assert_eq!(most.len() * 8, 72 * 200);
    assert!(decode(&most, &DecodeOptions::default()).is_ok());
    assert!(error_of(&more).to_string().contains("more bytes than the file"));
    // Four thousand strips that are all the whole of a file of kilobytes.
    let error = error_of(&tiff_of_strips(2, 4000, 1, &[7; 100_000])).to_string();
    assert!(error.contains("more bytes than the file"), "{error}");
    // A JPEG of another size than the picture, whose scans make more pixels than any picture of that size needs.
    let mut jpeg = with_scans(&golden("progressive.jpg"), 100);
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC2]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x0F, 0xA0, 0x0F, 0xA0]);
    let error = error_of(&tiff_of_strips(31, 2, 7, &jpeg)).to_string();
    assert!(error.contains("too many scans"), "{error}");
}

#[test]
fn sizes_are_said_in_megapixels_rounded_up() {
    let error = DecodeError::TooLarge { width: 1234, height: 5678, limit: 5_500_000 };
    assert_eq!(
        error.to_string(),
        "1234x5678 is 7.01 megapixels, more than the limit of 5.5; shrink the picture or raise the limit \
         (`max_megapixels` 8)"
    );
}
