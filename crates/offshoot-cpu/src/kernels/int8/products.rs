//! The inner loop of convolutions and matrix products of bytes where an instruction sums four products in 32 bits: a tile
//! of sums held in registers.

use super::simd::{Quads, Tile};

/// Computes a tile of `rows` rows and `vectors` vectors of columns into `out`, row by row without gaps.
///
/// # Safety
/// As [`Cells::sums`](super::simd::Cells::sums), where `S` needs VNNI only.
#[inline(always)]
pub(super) unsafe fn sums<S: Quads>(tile: Tile<'_>, rows: usize, vectors: usize, out: *mut i32) {
    // Safety: the caller's.
    unsafe {
        match rows {
            1 => with_rows::<S, 1>(tile, vectors, out),
            2 => with_rows::<S, 2>(tile, vectors, out),
            3 => with_rows::<S, 3>(tile, vectors, out),
            4 => with_rows::<S, 4>(tile, vectors, out),
            5 => with_rows::<S, 5>(tile, vectors, out),
            6 => with_rows::<S, 6>(tile, vectors, out),
            7 => with_rows::<S, 7>(tile, vectors, out),
            8 => with_rows::<S, 8>(tile, vectors, out),
            9 => with_rows::<S, 9>(tile, vectors, out),
            10 => with_rows::<S, 10>(tile, vectors, out),
            11 => with_rows::<S, 11>(tile, vectors, out),
            12 => with_rows::<S, 12>(tile, vectors, out),
            13 => with_rows::<S, 13>(tile, vectors, out),
            14 => with_rows::<S, 14>(tile, vectors, out),
            _ => unreachable!("a tile has at most 14 rows"),
        }
    }
}

/// Calls the tile compiled for this number of vectors; a path has only the tiles that fit its registers.
#[inline(always)]
unsafe fn with_rows<S: Quads, const ROWS: usize>(tile: Tile<'_>, vectors: usize, out: *mut i32) {
    if const { ROWS > S::TILE_ROWS } {
        return;
    }
    // Safety: the caller's.
    unsafe {
        match vectors {
            1 => registers::<S, ROWS, 1>(tile, out),
            2 if const { S::TILE_VECTORS >= 2 } => registers::<S, ROWS, 2>(tile, out),
            _ => {}
        }
    }
}

/// The tile itself. Loops over rows and vectors have constant bounds and are unrolled; the sums stay in registers.
/// (Loops, not closures: these do not take on target features.)
#[inline(always)]
unsafe fn registers<S: Quads, const ROWS: usize, const VECTORS: usize>(tile: Tile<'_>, out: *mut i32) {
    // Safety: the caller's.
    unsafe {
        let mut init = [S::splat_i32(0); VECTORS];
        for (v, init) in init.iter_mut().enumerate() {
            *init = S::load_i32(tile.init.add(v * S::LANES));
        }
        let mut sums = [init; ROWS];
        let (mut part, mut b, mut left) = (tile.a, tile.b.as_ptr(), tile.b.len() / (VECTORS * S::LANES));
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
                        *sum = S::dot_quads(*sum, x, right[v]);
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
