//! Sums of products of bytes without an instruction that adds four of them to 32 bits.
//!
//! The instruction there is (vpmaddubsw) adds two products in 16 bits, and saturates; another one (vpmaddwd) adds pairs of
//! these sums in 32 bits, and takes as long. Most weights are small beside the largest of their channel, so that the sums of
//! several cells of the reduction fit 16 bits whatever the activations are: while the positive weights that a 16-bit sum has
//! taken in add up to at most 128, and the negative ones to at least -128, it stays within 128 * 255 < 2^15. [`Groups`]
//! puts cells together that do, which are then widened once. Weights that exceed it on their own are two cells, a part in each.

use super::simd::{Cells, Tile, Words};

/// Columns of a vector.
const LANES: usize = 8;

/// Rows of a tile: the sums of these, a group's weights, two temporaries and a constant are 16 registers, less one.
const ROWS: usize = 8;

/// Most cells of a group.
const MOST: usize = 4;

/// What the weights of one sign in a 16-bit sum add up to at most.
const LIMIT: u8 = 128;

/// Groups that wait for more cells at a time.
const WAITING: usize = 16;

/// The weights of a vector of columns, and where the activations are that they are multiplied with, group after group:
/// `counts[0]` groups of [`MOST`] cells, then `counts[1]` of one less, and so on.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    weights: Vec<[i32; LANES]>,
    /// Bytes from the start of a row to each cell.
    places: Vec<u32>,
    counts: [usize; MOST],
}

impl Groups {
    /// Groups cells: four weights in 32 bits for each column, and the place of their activations.
    pub(super) fn new(cells: impl Iterator<Item = ([i32; LANES], u32)>) -> Groups {
        let mut waiting: Vec<Group> = Vec::new();
        let mut done: [Vec<Group>; MOST] = Default::default();
        let mut close = |group: Group| done[MOST - group.cells.len()].push(group);
        for (weights, place) in cells {
            for weights in parts(weights) {
                let load = load(&weights);
                let Some(at) = waiting.iter().position(|group| group.takes(&load)) else {
                    if waiting.len() == WAITING {
                        close(waiting.remove(0));
                    }
                    waiting.push(Group { cells: vec![(weights, place)], load });
                    continue;
                };
                waiting[at].push((weights, place), &load);
                if waiting[at].cells.len() == MOST {
                    close(waiting.remove(at));
                }
            }
        }
        waiting.into_iter().for_each(close);
        let counts = done.each_ref().map(Vec::len);
        let total = counts.iter().zip((1..=MOST).rev()).map(|(count, cells)| count * cells).sum();
        let mut groups =
            Groups { weights: Vec::with_capacity(total), places: Vec::with_capacity(total), counts };
        for (weights, place) in done.into_iter().flatten().flat_map(|group| group.cells) {
            groups.weights.push(weights);
            groups.places.push(place);
        }
        groups
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.weights) + size_of_val(&*self.places)
    }
}

/// What the positive and the negative weights in each 16-bit sum add up to, all as positive numbers.
type Load = [u8; 4 * LANES];

/// Cells that share 16-bit sums.
struct Group {
    cells: Vec<([i32; LANES], u32)>,
    load: Load,
}

impl Group {
    fn takes(&self, load: &Load) -> bool {
        // (Without an early end, which would keep this from being a few vector instructions.)
        self.load.iter().zip(load).fold(true, |fits, (&a, &b)| fits & (a.saturating_add(b) <= LIMIT))
    }

    fn push(&mut self, cell: ([i32; LANES], u32), load: &Load) {
        self.cells.push(cell);
        self.load.iter_mut().zip(load).for_each(|(sum, add)| *sum += add);
    }
}

/// The load of a cell within [`LIMIT`].
fn load(weights: &[i32; LANES]) -> Load {
    let mut load = [0; 4 * LANES];
    for (cell, load) in weights.iter().zip(load.as_chunks_mut::<4>().0) {
        let [a, b, c, d] = bytes(*cell);
        let sum = |x: i8, y: i8| x.max(0).unsigned_abs() + y.max(0).unsigned_abs();
        let debt = |x: i8, y: i8| x.min(0).unsigned_abs() + y.min(0).unsigned_abs();
        *load = [sum(a, b), debt(a, b), sum(c, d), debt(c, d)];
    }
    load
}

/// The weights as cells within [`LIMIT`]: one, or two of a part each where they exceed it; none where all are 0.
fn parts(weights: [i32; LANES]) -> impl Iterator<Item = [i32; LANES]> {
    let mut parts = [[0; LANES]; 2];
    for (lane, &cell) in weights.iter().enumerate() {
        let [a, b, c, d] = bytes(cell);
        let ([a, e], [c, g]) = (split(a, b), split(c, d));
        parts[0][lane] = i32::from_le_bytes([a, b, c, d].map(i8::cast_unsigned));
        parts[1][lane] = i32::from_le_bytes([e, 0, g, 0].map(i8::cast_unsigned));
    }
    parts.into_iter().filter(|part| *part != [0; LANES])
}

/// `first` in two parts, of which `second` and one are within [`LIMIT`], and the other one is too.
fn split(first: i8, second: i8) -> [i8; 2] {
    let limit = i16::from(LIMIT);
    let sum = i16::from(first) + i16::from(second);
    // (What a sum of one sign has beyond 128 is at most either number.)
    let over = if (first < 0) == (second < 0) { sum - sum.clamp(-limit, limit) } else { 0 };
    [(i16::from(first) - over) as i8, over as i8]
}

fn bytes(cell: i32) -> [i8; 4] {
    cell.to_le_bytes().map(u8::cast_signed)
}

/// Four bytes times four weights, in [`Groups`].
pub(super) struct Grouped;

impl<S: Words> Cells<S> for Grouped {
    const ROWS: usize = ROWS;
    const VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn sums(tile: Tile<'_>, rows: usize, vectors: usize, out: *mut i32) {
        // Safety: the caller's.
        unsafe {
            match rows {
                1 => columns::<S, 1>(tile, vectors, out),
                2 => columns::<S, 2>(tile, vectors, out),
                3 => columns::<S, 3>(tile, vectors, out),
                4 => columns::<S, 4>(tile, vectors, out),
                5 => columns::<S, 5>(tile, vectors, out),
                6 => columns::<S, 6>(tile, vectors, out),
                7 => columns::<S, 7>(tile, vectors, out),
                8 => columns::<S, 8>(tile, vectors, out),
                _ => unreachable!("a tile has at most {ROWS} rows"),
            }
        }
    }
}

/// The sums of some vectors of columns, one after the other.
#[inline(always)]
unsafe fn columns<S: Words, const N: usize>(tile: Tile<'_>, vectors: usize, out: *mut i32) {
    const { assert!(S::LANES == LANES) };
    for (v, groups) in tile.groups.iter().enumerate().take(vectors) {
        // Safety: the caller's; there are numbers for each column. The groups have as many cells as they say, which are
        // those of the row.
        unsafe {
            let mut sums = [S::load_i32(tile.init.add(v * LANES)); N];
            let mut at = Cursor { weights: groups.weights.as_ptr(), places: groups.places.as_ptr() };
            add_groups::<S, N, 4>(&mut sums, &tile, &mut at, groups.counts[0]);
            add_groups::<S, N, 3>(&mut sums, &tile, &mut at, groups.counts[1]);
            add_groups::<S, N, 2>(&mut sums, &tile, &mut at, groups.counts[2]);
            add_groups::<S, N, 1>(&mut sums, &tile, &mut at, groups.counts[3]);
            for (i, &sum) in sums.iter().enumerate() {
                S::store_i32(out.add((i * vectors + v) * LANES), sum);
            }
        }
    }
}

/// The next cell.
struct Cursor {
    weights: *const [i32; LANES],
    places: *const u32,
}

/// Adds `count` groups of `CELLS` cells. Loops over rows and cells have constant bounds and are unrolled; the sums and a
/// group's weights stay in registers.
#[inline(always)]
unsafe fn add_groups<S: Words, const N: usize, const CELLS: usize>(
    sums: &mut [S::I; N],
    tile: &Tile<'_>,
    at: &mut Cursor,
    count: usize,
) {
    // Safety: the caller's.
    unsafe {
        for _ in 0..count {
            let mut a = [tile.a; CELLS];
            let mut b = [S::splat_i32(0); CELLS];
            for (i, (a, b)) in a.iter_mut().zip(&mut b).enumerate() {
                *a = a.add(*at.places.add(i) as usize);
                *b = S::load_i32(at.weights.add(i).cast());
            }
            for (i, sum) in sums.iter_mut().enumerate() {
                if i == 4 {
                    a = a.map(|a| a.wrapping_add(4 * tile.row));
                }
                *sum = S::add_cells(*sum, a, i % 4 * tile.row, b);
            }
            at.weights = at.weights.add(CELLS);
            at.places = at.places.add(CELLS);
        }
    }
}
