//! Agreement with torchvision's transforms. `golden/augment` was written by `scripts/golden/augment.py`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use offshoot_data::augment::{PixelOp, Policy};
use offshoot_data::{DecodeOptions, read_picture};

/// The part of `wide.png` that was changed: left, top, right, bottom.
const BOX: [usize; 4] = [20, 10, 63, 41];
/// The size of picture that RandAugment's magnitudes were asked for.
const SIZE: usize = 331;

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn cases(kind: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(golden("augment/cases.txt")).unwrap();
    let words = text.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let found: Vec<_> = words.filter(|words| words[0] == kind).map(|words| words[1..].to_vec()).collect();
    assert!(found.len() > 40);
    found
}

fn operation(words: &[String]) -> PixelOp {
    let number = || words[1].parse::<f64>().unwrap();
    match words[0].as_str() {
        "Brightness" => PixelOp::Brightness(number()),
        "Contrast" => PixelOp::Contrast(number()),
        "Saturation" => PixelOp::Saturation(number()),
        "Sharpness" => PixelOp::Sharpness(number()),
        "Hue" => PixelOp::Hue(number()),
        "Posterize" => PixelOp::Posterize(number() as u32),
        "Solarize" => PixelOp::Solarize(number()),
        "AutoContrast" => PixelOp::AutoContrast,
        "Equalize" => PixelOp::Equalize,
        "ShearX" => PixelOp::ShearX(number()),
        "ShearY" => PixelOp::ShearY(number()),
        "TranslateX" => PixelOp::TranslateX(number() as i32),
        "TranslateY" => PixelOp::TranslateY(number() as i32),
        "Rotate" => PixelOp::Rotate { degrees: number(), smooth: words[2] == "smooth" },
        other => panic!("{other}"),
    }
}

#[test]
fn every_operation_gives_the_pixels_of_torchvision_within_one_level() {
    let picture = read_picture(&golden("wide.png"), &DecodeOptions::default()).unwrap();
    let [left, top, right, bottom] = BOX;
    let (width, stride) = (right - left, picture.width() * 3);
    let rows = (top..bottom).map(|y| &picture.pixels()[y * stride + left * 3..y * stride + right * 3]);
    let before: Vec<u8> = rows.flatten().copied().collect();
    let expected = std::fs::read(golden("augment/expected.rgb")).unwrap();
    let cases = cases("op");
    let each = expected.len() / cases.len();
    let mut exact = 0;
    for (case, theirs) in cases.iter().zip(expected.chunks_exact(each)) {
        let mut pixels = before.clone();
        operation(case).apply(&mut pixels, width);
        let rows = pixels.chunks_exact(width * 3).step_by(2);
        let ours: Vec<u8> = rows.flat_map(|row| row.chunks_exact(3).step_by(2).flatten()).copied().collect();
        assert_eq!(ours.len(), theirs.len());
        let most = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 1, "{case:?}: {most}");
        exact += usize::from(most == 0);
    }
    assert!(exact * 10 >= cases.len() * 9, "{exact} of {} are exact", cases.len());
}

#[test]
fn magnitudes_are_those_of_torchvision() {
    for case in cases("magnitude") {
        let policy: Policy = case[0].parse().unwrap();
        let (bin, value) = (case[2].parse().unwrap(), case[3].parse::<f64>().unwrap());
        let signed = case[4] == "1";
        for negative in [false, true] {
            let value = if signed && negative { -value } else { value };
            let ours = match policy.operation(&case[1], bin, negative, SIZE) {
                None => {
                    assert_eq!(case[1], "Identity");
                    continue;
                }
                Some(
                    PixelOp::Brightness(x)
                    | PixelOp::Contrast(x)
                    | PixelOp::Saturation(x)
                    | PixelOp::Sharpness(x),
                ) => x - 1.0,
                Some(PixelOp::ShearX(x) | PixelOp::ShearY(x) | PixelOp::Solarize(x) | PixelOp::Hue(x)) => x,
                Some(PixelOp::Rotate { degrees, .. }) => degrees,
                Some(PixelOp::TranslateX(x) | PixelOp::TranslateY(x)) => {
                    // torchvision cuts the magnitude off when it is applied; 16 may be 15.999999 there.
                    let off = value.abs() - f64::from(x).abs();
                    assert!((-1e-4..1.0).contains(&off) && f64::from(x) * value >= 0.0, "{case:?}");
                    continue;
                }
                Some(PixelOp::Posterize(bits)) => f64::from(bits),
                Some(PixelOp::AutoContrast | PixelOp::Equalize) => 0.0,
            };
            assert!((ours - value).abs() < 1e-4, "{case:?}: {ours} {value}");
        }
    }
}

/// What `ImageOps.equalize` and `ImageOps.autocontrast` of Pillow make of a picture of few levels.
#[test]
fn levels_are_spread_as_by_pillow() {
    let spread = |op: PixelOp, levels: &[(u8, usize)]| {
        let mut pixels: Vec<u8> = levels.iter().flat_map(|&(level, count)| vec![level; 3 * count]).collect();
        let width = pixels.len() / 3;
        op.apply(&mut pixels, width);
        pixels.dedup();
        pixels
    };
    let three = [(10, 300), (20, 300), (200, 400)];
    assert_eq!(spread(PixelOp::Equalize, &three), [0, 150, 255]);
    assert_eq!(spread(PixelOp::AutoContrast, &three), [0, 13, 255]);
    assert_eq!(spread(PixelOp::Equalize, &[(0, 100), (1, 100), (2, 55), (3, 300)]), [0, 100, 200, 255]);
    assert_eq!(spread(PixelOp::Equalize, &[(5, 100), (9, 100), (30, 64), (77, 600)]), [0, 100, 200, 255]);
    // Too few pixels below the last level, and one level only: nothing changes.
    assert_eq!(spread(PixelOp::Equalize, &[(0, 100), (1, 100), (2, 54), (3, 300)]), [0, 1, 2, 3]);
    assert_eq!(spread(PixelOp::AutoContrast, &[(7, 9)]), [7]);
}
