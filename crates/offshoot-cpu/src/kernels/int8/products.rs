//! The inner loop of convolutions and matrix products: a tile of sums held in registers.

use super::simd::{Cells, Integers};

/// Bytes of a row of cells that lie together. More of the reduction lies in further parts.
pub(super) const PART: usize = 1024;

/// Bytes from one row to the next: an odd number of cache lines, so that rows spread over all cache sets, and room for
/// copies that end with a whole vector.
pub(super) const STRIDE: usize = PART + 64;

/// Sums of the largest tile.
pub(super) const MOST_SUMS: usize = 14 * 32;

/// A tile of sums: init\[j\] + the products of row i of `a` and column j of `b`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Rows of the left operand.
    pub(super) a: *const u8,
    /// Bytes from one row to the next.
    pub(super) row: usize,
    /// The reduction's 32 bits in a part of the rows, and the bytes from one part to the next.
    pub(super) part: [usize; 2],
    /// The packed panel, a row of cells for each 32 bits of the reduction.
    pub(super) b: *const i32,
    /// The reduction in units of 32 bits.
    pub(super) depth: usize,
    /// A number for each column.
    pub(super) init: *const i32,
}

/// Computes a tile of `rows` rows and `vectors` vectors of columns into `out`, row by row without gaps.
///
/// # Safety
/// `S` and what `C` needs are available; the pointers are valid for what they are said to be; `rows` and `vectors` are
/// at most those of `S`'s tile, and `out` holds [`MOST_SUMS`].
#[inline(always)]
pub(super) unsafe fn run<S: Integers, C: Cells<S>>(tile: Tile, rows: usize, vectors: usize, out: *mut i32) {
    // Safety: the caller's.
    unsafe {
        match rows {
            1 => with_rows::<S, C, 1>(tile, vectors, out),
            2 => with_rows::<S, C, 2>(tile, vectors, out),
            3 => with_rows::<S, C, 3>(tile, vectors, out),
            4 => with_rows::<S, C, 4>(tile, vectors, out),
            5 => with_rows::<S, C, 5>(tile, vectors, out),
            6 => with_rows::<S, C, 6>(tile, vectors, out),
            7 => with_rows::<S, C, 7>(tile, vectors, out),
            8 => with_rows::<S, C, 8>(tile, vectors, out),
            9 => with_rows::<S, C, 9>(tile, vectors, out),
            10 => with_rows::<S, C, 10>(tile, vectors, out),
            11 => with_rows::<S, C, 11>(tile, vectors, out),
            12 => with_rows::<S, C, 12>(tile, vectors, out),
            13 => with_rows::<S, C, 13>(tile, vectors, out),
            14 => with_rows::<S, C, 14>(tile, vectors, out),
            _ => unreachable!("a tile has at most 14 rows"),
        }
    }
}

/// Calls the tile compiled for this number of vectors; a path has only the tiles that fit its registers.
#[inline(always)]
unsafe fn with_rows<S: Integers, C: Cells<S>, const ROWS: usize>(tile: Tile, vectors: usize, out: *mut i32) {
    if const { ROWS > S::TILE_ROWS } {
        return;
    }
    // Safety: the caller's.
    unsafe {
        match vectors {
            1 => registers::<S, C, ROWS, 1>(tile, out),
            2 if const { S::TILE_VECTORS >= 2 } => registers::<S, C, ROWS, 2>(tile, out),
            _ => {}
        }
    }
}

/// The tile itself. Loops over rows and vectors have constant bounds and are unrolled; the sums stay in registers.
/// (Loops, not closures: these do not take on target features.)
#[inline(always)]
unsafe fn registers<S: Integers, C: Cells<S>, const ROWS: usize, const VECTORS: usize>(
    tile: Tile,
    out: *mut i32,
) {
    // Safety: the caller's.
    unsafe {
        let mut init = [S::splat_i32(0); VECTORS];
        for (v, init) in init.iter_mut().enumerate() {
            *init = S::load_i32(tile.init.add(v * S::LANES));
        }
        let mut sums = [init; ROWS];
        let (mut part, mut b, mut left) = (tile.a, tile.b, tile.depth);
        while left > 0 {
            let steps = left.min(tile.part[0]);
            let mut a = part.cast::<i32>();
            for _ in 0..steps {
                let mut right = [S::splat_i32(0); VECTORS];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = S::load_i32(b.add(v * S::LANES));
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = S::splat_i32(a.byte_add(i * tile.row).read_unaligned());
                    for (v, sum) in row.iter_mut().enumerate() {
                        *sum = C::dot(*sum, x, right[v]);
                    }
                }
                a = a.add(1);
                b = b.add(VECTORS * S::LANES);
            }
            part = part.wrapping_add(tile.part[1]);
            left -= steps;
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                S::store_i32(out.add((i * VECTORS + v) * S::LANES), sum);
            }
        }
    }
}
