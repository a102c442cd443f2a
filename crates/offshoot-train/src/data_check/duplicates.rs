//! Pictures that are there more than once.
//!
//! Candidates share most bits of a perceptual hash: the signs of the low frequencies of a small gray picture, about their
//! median (as in Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Whether they are the
//! same picture is then decided by the distance of small color pictures. Those of equal bytes, and of equal small pictures, are found by
//! hashes, the others by a tree ([`nearest`](super::nearest)).

use std::collections::HashMap;
use std::f64::consts::PI;
use std::ops::Range;

use blake3::Hash;
use offshoot_data::{Dataset, DecodeOptions, Picture, PictureError, Transform, with_picture};
use offshoot_graph::{Fit, Preprocessing};
use rayon::prelude::*;
use serde::Serialize;

use super::nearest::{Limits, Look, SIDE, Tree, Work};
use super::{Member, TRAIN, members};

/// Numbers of a small picture.
const NUMBERS: usize = SIDE * SIDE * 3;
/// Frequencies of the hash in each direction.
const FREQUENCIES: usize = 8;
/// The most bits of 64 in which candidates differ.
const BITS: u32 = 14;
/// The largest root mean square distance of the small pictures, in levels of 255, of one picture encoded or resized again. JPEG
/// of quality 30 at half the size comes to 9.9 on photographs with transparency; no two different ones of those are under 18.
const SAME: f64 = 11.0;
/// The same for pictures that are alike: other frames of a scene, other exposures.
const NEAR: f64 = 18.0;

/// How two pictures belong together, the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kinship {
    /// The same bytes.
    Identical,
    /// The same picture, encoded or resized again.
    Reencoded,
    /// Very alike.
    Near,
}

/// Two pictures that are one, or nearly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Duplicate {
    /// How they belong together.
    pub kind: Kinship,
    /// The root mean square distance of the two at 32 x 32 pixels, in levels of 255.
    pub distance: f64,
    /// Whether one is for training and the other for validation.
    pub across_splits: bool,
    /// Whether they have different classes.
    pub labels_differ: bool,
    /// The two.
    pub pictures: [Member; 2],
}

/// What is compared of a picture.
struct Print {
    file: Hash,
    /// Of the small picture.
    pixels: Hash,
    look: Look,
}

/// Two pictures of a list: how they belong together, how far apart they are, and their places.
type Pair = (Kinship, f64, usize, usize);

/// The pairs of pictures in a data set that are one picture or nearly, the closest first, and the pictures that cannot be decoded.
/// A picture is paired with the closest of those before it, in its own split and in the other; of more than five hundred that are all near
/// it, with the closest of those that were compared. `done` is told once for each picture that has been read.
pub fn duplicates(data: &Dataset, done: &(dyn Fn() + Sync)) -> (Vec<Duplicate>, Vec<PictureError>) {
    let members = members(data);
    let small = Preprocessing { size: SIDE, resize: SIDE, fit: Fit::Stretch, ..Preprocessing::default() };
    let transform = Transform::new(&small).expect("a small square can be made");
    let cosines = cosines();
    let prints: Vec<Result<Print, PictureError>> = members
        .par_iter()
        .map(|member| {
            let print = print(member, &transform, &cosines);
            done();
            print
        })
        .collect();
    let (mut usable, mut hashes, mut looks) = (Vec::new(), Vec::new(), Vec::new());
    let mut unreadable = Vec::new();
    for (member, print) in members.iter().zip(prints) {
        match print {
            Ok(Print { file, pixels, look }) => {
                usable.push(member);
                hashes.push((file, pixels));
                looks.push(look);
            }
            Err(error) => unreadable.push(error),
        }
    }
    let trained = usable.iter().take_while(|member| member.split == TRAIN).count();
    let parts = [0..trained, trained..usable.len()].map(|places| Part::new(&hashes, &looks, places));
    let mut found: Vec<Pair> = (0..usable.len())
        .into_par_iter()
        .flat_map_iter(|place| {
            parts.iter().filter_map(|part| part.closest(hashes[place], &looks, place)).collect::<Vec<Pair>>()
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then((a.2, a.3).cmp(&(b.2, b.3))));
    let pair = |(kind, distance, a, b): Pair| {
        let pictures = [a, b].map(|place| usable[place].clone());
        Duplicate {
            kind,
            distance,
            across_splits: pictures[0].split != pictures[1].split,
            labels_differ: pictures[0].class != pictures[1].class,
            pictures,
        }
    };
    (found.into_iter().map(pair).collect(), unreadable)
}

/// The pictures of one split, to find the closest relative of another picture among: one of each split, so that a thousand copies make
/// two thousand pairs and not half a million.
struct Part {
    /// The first picture with a file's bytes, and with the pixels of a small picture.
    files: HashMap<Hash, usize>,
    pixels: HashMap<Hash, usize>,
    /// Those that are the first with their pixels.
    tree: Tree,
}

impl Part {
    fn new(prints: &[(Hash, Hash)], looks: &[Look], places: Range<usize>) -> Part {
        let (mut files, mut pixels, mut firsts) = (HashMap::new(), HashMap::new(), Vec::new());
        for place in places {
            let (file, small) = prints[place];
            files.entry(file).or_insert(place);
            pixels.entry(small).or_insert_with(|| {
                firsts.push(place);
                place
            });
        }
        Part { files, pixels, tree: Tree::new(looks, firsts) }
    }

    /// The closest relative of a picture among those that stand before it.
    fn closest(&self, (file, pixels): (Hash, Hash), looks: &[Look], place: usize) -> Option<Pair> {
        let before = |found: Option<&usize>| found.copied().filter(|&other| other < place);
        if let Some(other) = before(self.files.get(&file)) {
            return Some((Kinship::Identical, 0.0, other, place));
        }
        if let Some(other) = before(self.pixels.get(&pixels)) {
            return Some((Kinship::Reencoded, 0.0, other, place));
        }
        let (squares, other) = self.tree.nearest(looks, place, limits(), &mut Work::default())?;
        let distance = root_mean(squares);
        let kind = if distance <= SAME { Kinship::Reencoded } else { Kinship::Near };
        Some((kind, distance, other, place))
    }
}

/// What pictures that are alike do not exceed.
fn limits() -> Limits {
    Limits { bits: BITS, squares: (NEAR * NEAR * NUMBERS as f64) as u32 }
}

/// The root mean square of differences, from the sum of their squares.
fn root_mean(squares: u32) -> f64 {
    (f64::from(squares) / NUMBERS as f64).sqrt()
}

fn print(member: &Member, transform: &Transform, cosines: &[[f64; SIDE]]) -> Result<Print, PictureError> {
    let seen = |picture: Picture, bytes: &[u8]| (transform.evaluate(&picture), blake3::hash(bytes));
    let (small, file) = with_picture(&member.path, &DecodeOptions::default(), seen)?;
    let (pixels, bits) = (blake3::hash(&small), perceptual_hash(&small, cosines));
    Ok(Print { file, pixels, look: Look::new(bits, small) })
}

/// The cosines of the lowest frequencies.
fn cosines() -> Vec<[f64; SIDE]> {
    let row =
        |u: usize| std::array::from_fn(|x| libm::cos(PI * u as f64 * (2 * x + 1) as f64 / (2 * SIDE) as f64));
    (0..FREQUENCIES).map(row).collect()
}

/// A bit for each of the 64 lowest frequencies of the gray picture: whether it is above their median.
fn perceptual_hash(small: &[u8], cosines: &[[f64; SIDE]]) -> u64 {
    let grey: Vec<f64> = small
        .chunks_exact(3)
        .map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]))
        .collect();
    let mut frequencies = Vec::with_capacity(FREQUENCIES * FREQUENCIES);
    // Along the rows first: these sums are the same for all frequencies down.
    let along = |across: &[f64; SIDE]| -> Vec<f64> {
        grey.chunks_exact(SIDE).map(|row| row.iter().zip(across).map(|(g, c)| g * c).sum()).collect()
    };
    let rows: Vec<Vec<f64>> = cosines.iter().map(along).collect();
    for down in cosines {
        frequencies.extend(rows.iter().map(|row| row.iter().zip(down).map(|(r, c)| c * r).sum::<f64>()));
    }
    // The first is the mean brightness, which says nothing of the shape.
    frequencies[0] = 0.0;
    let mut sorted = frequencies.clone();
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[sorted.len() / 2 - 1] + sorted[sorted.len() / 2]) / 2.0;
    frequencies.iter().enumerate().fold(0, |bits, (i, &f)| bits | (u64::from(f > median) << i))
}

#[cfg(test)]
mod tests {
    use super::super::nearest::squares;
    use super::*;

    #[test]
    fn a_hash_stays_under_noise_and_brightness_and_changes_with_the_shape() {
        let scene = |shift: usize, light: i32, noise: usize| -> Vec<u8> {
            let value = |i: usize| {
                let (x, y) = (i / 3 % SIDE, i / 3 / SIDE);
                let shape = if (x + shift) * (x + shift) + y * y < 700 { 170 } else { 60 };
                let noise = (i * 7919 % 13) as i32 * noise as i32 / 4;
                (shape + x as i32 + light + noise).clamp(0, 255) as u8
            };
            (0..SIDE * SIDE * 3).map(value).collect()
        };
        let cosines = cosines();
        let hash = |small: &[u8]| perceptual_hash(small, &cosines);
        let plain = scene(0, 0, 0);
        assert!((hash(&plain) ^ hash(&scene(0, 9, 1))).count_ones() <= 6);
        assert!((hash(&plain) ^ hash(&scene(24, 0, 0))).count_ones() > BITS);
        assert!(root_mean(squares(&plain, &scene(0, 3, 0))) < SAME);
    }
}
