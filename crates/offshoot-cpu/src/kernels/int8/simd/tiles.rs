//! Products of bytes on tiles of the matrix unit.

use super::{Cells, Integers, Tile, Tiles};
use crate::kernels::simd::tiles::{self, Factors, Product, STEP};

impl<S: Integers, const EMULATED: bool> Cells<S> for Tiles<EMULATED> {
    const ROWS: usize = tiles::MOST_ROWS;
    const VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn sums(tile: Tile<'_>, rows: usize, vectors: usize, out: *mut i32) {
        let width = vectors * S::LANES;
        let [cells, next] = tile.part;
        let parts = tile.b.len() / width / cells;
        let product = Product {
            a: tile.a,
            a_row: tile.row,
            parts,
            steps: 4 * cells / STEP,
            gap: next as isize - (4 * cells) as isize,
            b: tile.b.as_ptr().cast(),
            b_row: 4 * width,
            start: tile.init.cast(),
            start_row: 0,
            out: out.cast(),
            out_row: 4 * width,
            rows,
            columns: width,
        };
        // Safety: the caller's; runs of a filter that is packed for tiles are a whole number of steps.
        unsafe { tiles::multiply(EMULATED, Factors::Bytes, &product) };
    }
}
