//! How much memory decoding takes. It is the process's, so that this test is alone in its binary.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // a test's panic is its failure
#![allow(clippy::disallowed_methods)] // the system's own file

use std::io::Write as _;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use offshoot_data::{DecodeOptions, decode};

const SIDE: u32 = 3000;

/// A PNG of `SIDE` by `SIDE` pixels of RGBA with 16 bits a sample, all 0x1234.
fn png() -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    let row = [&[0][..], &[0x12, 0x34].repeat(4 * SIDE as usize)].concat();
    (0..SIDE).for_each(|_| packed.write_all(&row).unwrap());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        file.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        let content = [kind, data].concat();
        let mut crc = Crc::new();
        crc.update(&content);
        file.extend(&content);
        file.extend(crc.sum().to_be_bytes());
    };
    let side = SIDE.to_be_bytes();
    chunk(b"IHDR", &[&side[..], &side, &[16, 6, 0, 0, 0]].concat());
    chunk(b"IDAT", &packed.finish().unwrap());
    chunk(b"IEND", b"");
    file
}

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn sixteen_bits_a_sample_are_never_all_in_memory() {
    let file = png();
    let before = peak();
    let picture = decode(&file, &DecodeOptions { background: [0; 3], ..DecodeOptions::default() }).unwrap();
    let pixels = u64::from(SIDE) * u64::from(SIDE);
    // Over black: 0x12 * 0x12 / 255, rounded.
    assert!(picture.pixels().len() as u64 == 3 * pixels && picture.pixels().iter().all(|&x| x == 1));
    let taken = (peak() - before) as f64 / pixels as f64;
    assert!(taken < 6.0, "{taken} bytes a pixel");
}
