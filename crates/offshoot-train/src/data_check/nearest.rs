//! The picture most like another one, among many.
//!
//! A picture of 32 x 32 pixels is a point of 3072 numbers. The means of its blocks of 8 x 8 pixels, turned so that few of them tell most,
//! are a sketch of 48: two sketches are never farther apart than the pictures, so most pictures need not be compared. The sketches stand
//! in a k-d tree, whose regions are looked at in the order of their distance. The work for one picture is bounded: where
//! hundreds are alike, it gets the closest of those that were compared.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Side of the pictures.
pub(super) const SIDE: usize = 32;
/// Blocks in each direction.
const BLOCKS: usize = 4;
/// Side of a block.
const BLOCK: usize = SIDE / BLOCKS;
const CHANNELS: usize = 3;
/// Numbers of a sketch.
const SKETCH: usize = BLOCKS * BLOCKS * CHANNELS;
/// Points of a region that is not divided any more.
const LEAF: usize = 16;
/// The most regions that are looked at for one picture.
const MOST_REGIONS: usize = 1024;
/// The most pictures that one is compared with.
const MOST_COMPARED: usize = 512;
/// Numbers of two pictures that are compared before the next look at their sum: four rows.
const STRETCH: usize = 4 * SIDE * CHANNELS;
/// What rounding may add to the distance of sketches, relative to it.
const ROUNDING: f32 = 1e-4;

/// A sketch, in units in which its squared distances are at most those of the pictures.
type Sketch = [f32; SKETCH];

/// A picture as it is compared.
pub(super) struct Look {
    /// A perceptual hash.
    bits: u64,
    /// Red, green and blue of each pixel.
    small: Vec<u8>,
    sketch: Sketch,
}

impl Look {
    pub(super) fn new(bits: u64, small: Vec<u8>) -> Look {
        let sketch = sketch(&small);
        Look { bits, small, sketch }
    }
}

/// What is near enough.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The most bits in which the hashes differ.
    pub(super) bits: u32,
    /// The largest sum of squared differences.
    pub(super) squares: u32,
}

/// Some of the pictures of a list.
pub(super) struct Tree {
    /// Places in the list.
    places: Vec<usize>,
    /// The hashes of the pictures there, side by side: most pictures are told apart by them.
    bits: Vec<u64>,
    regions: Vec<Region>,
}

/// A part of the places and what their sketches lie between.
struct Region {
    low: Sketch,
    high: Sketch,
    /// The first place in the list.
    first: usize,
    from: usize,
    to: usize,
    /// Two regions with the halves of it.
    halves: Option<[usize; 2]>,
}

/// What has been done for one query.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    pub(super) regions: usize,
    pub(super) compared: usize,
}

impl Tree {
    /// A tree of the pictures of `all` at `places`.
    pub(super) fn new(all: &[Look], places: Vec<usize>) -> Tree {
        let mut tree = Tree { places, bits: Vec::new(), regions: Vec::new() };
        if !tree.places.is_empty() {
            tree.divide(all, 0, tree.places.len());
        }
        tree.bits = tree.places.iter().map(|&place| all[place].bits).collect();
        tree
    }

    /// Makes the region of the places `from..to`, and gives its number.
    fn divide(&mut self, all: &[Look], from: usize, to: usize) -> usize {
        let places = &mut self.places[from..to];
        let (mut low, mut high) = ([f32::INFINITY; SKETCH], [f32::NEG_INFINITY; SKETCH]);
        for &place in places.iter() {
            for (x, (low, high)) in all[place].sketch.iter().zip(low.iter_mut().zip(&mut high)) {
                (*low, *high) = (low.min(*x), high.max(*x));
            }
        }
        let first = places.iter().copied().min().unwrap_or(0);
        let number = self.regions.len();
        self.regions.push(Region { low, high, first, from, to, halves: None });
        if to - from > LEAF {
            let width = |i: &usize| high[*i] - low[*i];
            let widest = (0..SKETCH).max_by(|a, b| width(a).total_cmp(&width(b))).unwrap_or(0);
            let middle = (to - from) / 2;
            let key = |place: usize| all[place].sketch[widest];
            places.select_nth_unstable_by(middle, |&a, &b| key(a).total_cmp(&key(b)).then(a.cmp(&b)));
            let halves = [self.divide(all, from, from + middle), self.divide(all, from + middle, to)];
            self.regions[number].halves = Some(halves);
        }
        number
    }

    /// The picture most like `all[place]` among those of the tree that stand before it in the list, with the sum of squared differences: of
    /// several, the first.
    pub(super) fn nearest(
        &self,
        all: &[Look],
        place: usize,
        limits: Limits,
        work: &mut Work,
    ) -> Option<(u32, usize)> {
        let look = &all[place];
        let mut best: Option<(u32, usize)> = None;
        let mut queue = BinaryHeap::new();
        let reach = |best: Option<(u32, usize)>| best.map_or(limits.squares, |(squares, _)| squares) as f32;
        let offer = |queue: &mut BinaryHeap<Waiting>, number: usize, reach: f32| {
            let found = &self.regions[number];
            let distance = found.distance(&look.sketch);
            if found.first < place && distance <= reach {
                queue.push(Waiting { distance, number });
            }
        };
        if !self.regions.is_empty() {
            offer(&mut queue, 0, reach(best));
        }
        let mut own = Work::default();
        while let Some(Waiting { distance, number }) = queue.pop() {
            if distance > reach(best) || own.regions == MOST_REGIONS || own.compared >= MOST_COMPARED {
                break;
            }
            own.regions += 1;
            if let Some(halves) = self.regions[number].halves {
                halves.into_iter().for_each(|half| offer(&mut queue, half, reach(best)));
                continue;
            }
            let Region { from, to, .. } = self.regions[number];
            for (&other, bits) in self.places[from..to].iter().zip(&self.bits[from..to]) {
                let far = (bits ^ look.bits).count_ones() > limits.bits;
                if far || other >= place {
                    continue;
                }
                let its = &all[other];
                if between(&its.sketch, &look.sketch) > reach(best) {
                    continue;
                }
                own.compared += 1;
                let most = best.map_or(limits.squares, |(squares, _)| squares);
                let squares = squares_up_to(&its.small, &look.small, most);
                if squares <= limits.squares && best.is_none_or(|best| (squares, other) < best) {
                    best = Some((squares, other));
                }
            }
        }
        work.regions += own.regions;
        work.compared += own.compared;
        best
    }
}

impl Region {
    /// The least squared distance of a point from what is in the region.
    fn distance(&self, point: &Sketch) -> f32 {
        sum_of_squares(|i| (self.low[i] - point[i]).max(point[i] - self.high[i]).max(0.0))
    }
}

fn between(a: &Sketch, b: &Sketch) -> f32 {
    sum_of_squares(|i| a[i] - b[i])
}

/// Sums that go on side by side: one after the other would wait for each other.
const LANES: usize = 16;

/// The sum of the squares of a sketch's numbers, but for what rounding may have added.
fn sum_of_squares(number: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    for from in (0..SKETCH).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += number(from + lane).powi(2);
        }
    }
    sums.iter().sum::<f32>() * (1.0 - ROUNDING)
}

/// The sum of squared differences, or a part of it that is above `most` already: few pictures come close to the nearest.
fn squares_up_to(a: &[u8], b: &[u8], most: u32) -> u32 {
    let mut sum = 0;
    for (a, b) in a.chunks(STRETCH).zip(b.chunks(STRETCH)) {
        sum += squares(a, b);
        if sum > most {
            break;
        }
    }
    sum
}

/// The sum of squared differences.
pub(super) fn squares(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum()
}

/// A region that is to be looked at; the nearest first, of several the one made first.
struct Waiting {
    distance: f32,
    number: usize,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> Ordering {
        other.distance.total_cmp(&self.distance).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

/// The means of the blocks, turned by rotations: of the colors, so that brightness comes first, and of rows and columns by a
/// Haar transform, so that the mean of all comes first.
fn sketch(small: &[u8]) -> Sketch {
    let mut sums = [[0u32; BLOCKS * BLOCKS]; CHANNELS];
    for (i, &value) in small.iter().enumerate() {
        let (pixel, channel) = (i / CHANNELS, i % CHANNELS);
        let block = pixel / SIDE / BLOCK * BLOCKS + pixel % SIDE / BLOCK;
        sums[channel][block] += u32::from(value);
    }
    let mut sketch = [0.0; SKETCH];
    for block in 0..BLOCKS * BLOCKS {
        let [r, g, b] = sums.map(|sums| sums[block] as f32 / BLOCK as f32);
        let turned = [(r + g + b) / 3f32.sqrt(), (r - b) / 2f32.sqrt(), (r - 2.0 * g + b) / 6f32.sqrt()];
        for (channel, value) in turned.into_iter().enumerate() {
            sketch[channel * BLOCKS * BLOCKS + block] = value;
        }
    }
    for plane in sketch.chunks_exact_mut(BLOCKS * BLOCKS) {
        for i in 0..BLOCKS {
            haar(plane, i * BLOCKS, 1);
        }
        for i in 0..BLOCKS {
            haar(plane, i, BLOCKS);
        }
    }
    sketch
}

/// Turns the four values from `from` on, `step` apart: their sum, the difference of the halves, and those in the halves.
fn haar(values: &mut [f32], from: usize, step: usize) {
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| values[from + i * step]);
    let turned = [(a + b + c + d) / 2.0, (a + b - c - d) / 2.0, (a - b) / 2f32.sqrt(), (c - d) / 2f32.sqrt()];
    turned.into_iter().enumerate().for_each(|(i, value)| values[from + i * step] = value);
}

#[cfg(test)]
mod tests {
    use offshoot_graph::random::{Purpose, Random};

    use super::*;

    const LIMITS: Limits = Limits { bits: 14, squares: 995_328 };

    fn bytes(seed: u64, index: u64, count: usize) -> Vec<u8> {
        let mut random = Random::new(seed, 0, index, Purpose::Split);
        (0..count).map(|_| random.below(256) as u8).collect()
    }

    /// Pictures of a few scenes with a little noise, so that many are near another.
    fn scenes(count: usize, scenes: u64, noise: u8) -> Vec<Look> {
        let look = |i: usize| {
            let scene = bytes(1, i as u64 % scenes, SIDE * SIDE * CHANNELS);
            let noise = bytes(2, i as u64, scene.len()).into_iter().map(|x| x % noise.max(1));
            let small = scene.iter().zip(noise).map(|(&x, noise)| x.saturating_add(noise)).collect();
            Look::new((i as u64 % 5) * 0x0101_0101, small)
        };
        (0..count).map(look).collect()
    }

    fn one_by_one(all: &[Look], place: usize) -> Option<(u32, usize)> {
        let near = |other: &usize| (all[*other].bits ^ all[place].bits).count_ones() <= LIMITS.bits;
        let squares = |other: usize| (squares(&all[other].small, &all[place].small), other);
        (0..place).filter(near).map(squares).filter(|(squares, _)| *squares <= LIMITS.squares).min()
    }

    #[test]
    fn the_nearest_is_the_one_that_comparing_all_finds() {
        for (count, kinds, noise) in [(300, 40, 20), (200, 200, 1), (120, 1, 30)] {
            let all = scenes(count, kinds, noise);
            let tree = Tree::new(&all, (0..count).collect());
            for place in 0..count {
                let found = tree.nearest(&all, place, LIMITS, &mut Work::default());
                assert_eq!(found, one_by_one(&all, place), "{place} of {count}");
            }
        }
        let all = scenes(1, 1, 1);
        assert_eq!(Tree::new(&all, vec![]).nearest(&all, 0, LIMITS, &mut Work::default()), None);
    }

    #[test]
    fn sketches_are_never_farther_apart_than_pictures() {
        let all = scenes(40, 20, 200);
        for (a, b) in (0..39).map(|i| (&all[i], &all[i + 1])) {
            assert!(between(&a.sketch, &b.sketch) <= squares(&a.small, &b.small) as f32);
            assert_eq!(between(&a.sketch, &a.sketch), 0.0);
        }
        // Of pictures of one color they are just as far apart.
        let flat = |value: u8| Look::new(0, vec![value; SIDE * SIDE * CHANNELS]);
        let distance = between(&flat(10).sketch, &flat(12).sketch);
        assert!((distance / (4.0 * 3072.0) - 1.0).abs() < 1e-3, "{distance}");
    }

    #[test]
    fn a_crowd_takes_bounded_work_for_each_picture() {
        // All of one color or another; all of one scene with noise, which are all near each other.
        let flat = |i: usize| {
            let colour = [i % 16 * 16, i / 16 % 16 * 16, i / 256 * 16].map(|x| x as u8);
            Look::new(0, colour.repeat(SIDE * SIDE))
        };
        let crowds: [(Vec<Look>, usize); 2] =
            [((0..3000).map(flat).collect(), 60), (scenes(3000, 1, 30), MOST_COMPARED + LEAF)];
        for (all, most) in crowds {
            let tree = Tree::new(&all, (0..all.len()).collect());
            let mut work = Work::default();
            let found =
                (0..all.len()).filter(|&i| tree.nearest(&all, i, LIMITS, &mut work).is_some()).count();
            assert!(found >= all.len() - 1, "{found}");
            assert!(work.compared <= all.len() * most && work.regions <= all.len() * 400, "{work:?}");
        }
    }
}
