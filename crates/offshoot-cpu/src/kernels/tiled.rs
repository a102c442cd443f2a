//! Operands of products of bf16 on tiles, copied into scratch in the form that tiles have: rows of pairs of the reduction on the left,
//! a row for each pair on the right. What is beyond the reduction, up to a whole step, is zeros.

use std::ptr;

use half::bf16;

use super::gather::copy;
use super::parallel;
use super::simd::tiles::{self, Factors, Product, STEP};
use super::simd::{Isa, Simd};
use super::tile;

/// Pairs in a step of the reduction.
pub(super) const STEP_PAIRS: usize = STEP / 4;

/// Pairs of the reduction that are copied at a time.
pub(super) const PAIRS: usize = 256;

/// Floats from a row of the left operand to the next: an odd number of cache lines.
pub(super) const PITCH: usize = PAIRS + STEP_PAIRS;

/// A part of a matrix: so many rows of so many columns, `pitch` elements apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) from: *const bf16,
    pub(super) pitch: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Part {
    fn row(&self, index: usize) -> *const bf16 {
        self.from.wrapping_add(index * self.pitch)
    }

    /// Joins rows `2 i` and `2 i + 1`, or zeros where there is none.
    ///
    /// # Safety
    /// `S` and the part are valid; `to` has room for a float a column and one vector more.
    #[inline(always)]
    unsafe fn join_two<S: Simd>(&self, i: usize, to: *mut f32) {
        // Safety: the caller's.
        unsafe {
            if 2 * i < self.rows {
                let second = (2 * i + 1 < self.rows).then(|| self.row(2 * i + 1));
                join::<S>(self.row(2 * i), second, self.cols, to);
            } else {
                to.write_bytes(0, self.cols);
            }
        }
    }

    /// The right operand from a matrix whose rows are the reduction: `steps` times [`STEP_PAIRS`] rows.
    ///
    /// # Safety
    /// `S` and the part are valid; `to` has as many rows of `pitch` floats, at least a vector more than there are columns.
    #[inline(always)]
    pub(super) unsafe fn join_rows<S: Simd>(&self, steps: usize, (to, pitch): (*mut f32, usize)) {
        for i in 0..steps * STEP_PAIRS {
            // Safety: the caller's.
            unsafe { self.join_two::<S>(i, to.add(i * pitch)) };
        }
    }

    /// The left operand from a matrix whose rows are the reduction: a row of [`PITCH`] floats for each column, of `steps` steps.
    ///
    /// # Safety
    /// `S` and the part are valid; `rows` has [`STEP_PAIRS`] rows of `pitch` floats, at least a vector more than there are columns.
    #[inline(always)]
    pub(super) unsafe fn transpose_rows<S: Simd>(
        &self,
        isa: Isa,
        steps: usize,
        (rows, pitch): (*mut f32, usize),
        to: *mut f32,
    ) {
        for step in 0..steps {
            // Safety: the caller's.
            unsafe {
                for i in 0..STEP_PAIRS {
                    self.join_two::<S>(step * STEP_PAIRS + i, rows.add(i * pitch));
                }
                for col in (0..self.cols).step_by(STEP_PAIRS) {
                    let to = to.add(col * PITCH + step * STEP_PAIRS);
                    let count = STEP_PAIRS.min(self.cols - col);
                    tiles::transpose(isa, (rows.add(col), pitch), count, (to, PITCH));
                }
            }
        }
    }

    /// The left operand from a matrix whose columns are the reduction: its rows, of [`PITCH`] floats.
    ///
    /// # Safety
    /// `S` and the part are valid; `to` has as many rows.
    #[inline(always)]
    pub(super) unsafe fn copy_rows<S: Simd>(&self, steps: usize, to: *mut f32) {
        for i in 0..self.rows {
            // Safety: the caller's.
            unsafe { self.copy_row::<S>(i, steps, to.add(i * PITCH)) };
        }
    }

    #[inline(always)]
    unsafe fn copy_row<S: Simd>(&self, index: usize, steps: usize, to: *mut f32) {
        let to = to.cast::<bf16>();
        // Safety: the caller's.
        unsafe {
            copy::<S, bf16, bf16>(self.row(index), to, self.cols);
            for at in self.cols..2 * steps * STEP_PAIRS {
                to.add(at).write(bf16::ZERO);
            }
        }
    }

    /// The right operand from a matrix whose columns are the reduction: a row of `pitch` floats for each pair of columns.
    ///
    /// # Safety
    /// `S` and the part are valid; `rows` has [`STEP_PAIRS`] rows of [`PITCH`] floats, and `to` as many as `steps` have pairs, each with
    /// room for [`STEP_PAIRS`] more than there are rows in the part.
    #[inline(always)]
    pub(super) unsafe fn transpose_columns<S: Simd>(
        &self,
        isa: Isa,
        steps: usize,
        rows: *mut f32,
        (to, pitch): (*mut f32, usize),
    ) {
        for first in (0..self.rows).step_by(STEP_PAIRS) {
            // Safety: the caller's.
            unsafe {
                for i in 0..STEP_PAIRS.min(self.rows - first) {
                    self.copy_row::<S>(first + i, steps, rows.add(i * PITCH));
                }
                for step in 0..steps {
                    let to = to.add(step * STEP_PAIRS * pitch + first);
                    tiles::transpose(isa, (rows.add(step * STEP_PAIRS), PITCH), STEP_PAIRS, (to, pitch));
                }
            }
        }
    }
}

/// A block of sums, and the operands in scratch that are multiplied for it.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) isa: Isa,
    /// Rows of [`PITCH`] floats.
    pub(super) left: *const f32,
    /// The first row, and floats from one to the next.
    pub(super) right: (*const f32, usize),
    /// As `right`, with room for whole vectors of columns.
    pub(super) sums: (*mut f32, usize),
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Block {
    /// Adds the product of `steps` steps to the sums, or stores it if it is the `first`.
    ///
    /// # Safety
    /// `isa` has tiles, and the operands and sums are as large as the block says.
    #[inline(always)]
    pub(super) unsafe fn multiply(&self, steps: usize, first: bool) {
        let Block { isa, left, right: (right, right_row), sums: (sums, sums_row), rows, cols } = *self;
        let (panel, count) = (tile::tile_cols(isa), rows.div_ceil(tiles::MOST_ROWS));
        for col in (0..cols).step_by(panel) {
            for i in 0..count {
                // Where there are whole tiles only, all have one size: another would have to be configured.
                let rows = match rows % tiles::ROWS {
                    0 => i * tiles::MOST_ROWS..rows.min((i + 1) * tiles::MOST_ROWS),
                    _ => parallel::part(rows, count, i),
                };
                // Safety: the caller's.
                unsafe {
                    let out: *mut u8 = sums.add(rows.start * sums_row + col).cast();
                    let (start, start_row) =
                        if first { (ptr::null(), 0) } else { (out.cast_const(), 4 * sums_row) };
                    let product = Product {
                        a: left.add(rows.start * PITCH).cast(),
                        a_row: 4 * PITCH,
                        parts: 1,
                        steps,
                        gap: 0,
                        b: right.add(col).cast(),
                        b_row: 4 * right_row,
                        start,
                        start_row,
                        out,
                        out_row: 4 * sums_row,
                        rows: rows.len(),
                        columns: (cols - col).next_multiple_of(isa.lanes()).min(panel),
                    };
                    tiles::multiply(isa.emulates_tiles(), Factors::Bf16, &product);
                }
            }
        }
    }
}

/// Joins `n` elements of two rows to pairs; zero stands for a second that there is not. May write up to the end of a
/// vector.
///
/// # Safety
/// Both are valid for `n` elements, `to` for `n` floats and one vector more.
#[inline(always)]
pub(super) unsafe fn join<S: Simd>(first: *const bf16, second: Option<*const bf16>, n: usize, to: *mut f32) {
    const ZEROS: [u16; 16] = [0; 16];
    let first = first.cast::<u16>();
    for i in (0..n).step_by(S::LANES) {
        let len = S::LANES.min(n - i);
        // Safety: the caller's; a vector has at most 16 lanes.
        unsafe {
            let second = second.map_or(ZEROS.as_ptr(), |second| second.cast::<u16>().add(i));
            let pair = if len == S::LANES {
                S::pair(S::load_half(first.add(i)), S::load_half(second))
            } else {
                S::pair(S::load_half_first(first.add(i), len), S::load_half_first(second, len))
            };
            S::store(to.add(i), pair);
        }
    }
}
