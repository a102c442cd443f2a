//! Attention of bf16 on tiles: the same tasks, with both products on tiles. The exponentials are rounded to bf16 before the second one;
//! their sums are not.

use std::ops::Range;

use half::bf16;

use super::{AttentionShape, Operands, Stack, exponentials_of};
use crate::kernels::convert::round_area;
use crate::kernels::element::Element;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::rows::Area;
use crate::kernels::simd::tiles::ROWS;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch_tiles};
use crate::kernels::size::elements;
use crate::kernels::softmax::line;
use crate::kernels::tiled::{self, PAIRS, PITCH, Part, STEP_PAIRS};

/// Elements of the reduction that are copied at a time.
const DEPTH: usize = 2 * PAIRS;

/// Floats of the scores that a task holds: a part of a second-level cache of 2 MiB.
const SCORES: usize = 64 * 1024;

/// Most queries whose scores a task holds at once.
const MOST: usize = 256;

/// Fewest queries worth packing the keys and values again, for another thread.
const QUERIES: usize = 256;

/// [`attention`](super::attention) of sizes that were checked: there are keys, and depth.
pub(super) fn attention(isa: Isa, shape: &AttentionShape, operands: Operands<'_, bf16>, y: &mut [bf16]) {
    let AttentionShape { count, queries, .. } = *shape;
    let wanted = (4 * parallel::threads()).div_ceil(count);
    let parts = wanted.min(queries.div_ceil(QUERIES)).max(1);
    let out = Shared::new(y);
    parallel::for_each_task(count * parts, shape.work() / 4, |index| {
        let rows = parallel::part(queries, parts, index % parts);
        let sizes = Sizes::new(shape, rows.len());
        parallel::with_scratch(sizes.floats(), |scratch| {
            dispatch_tiles(
                isa,
                Task { isa, shape, operands, matrix: index / parts, rows, sizes, scratch, out },
            );
        });
    });
}

/// How a task goes through its queries, and what it needs in scratch.
struct Sizes {
    /// Queries whose scores are held at once.
    block: usize,
    /// Floats of keys, values, scores and sums, of the left operand, and of rows that are transposed.
    floats: [usize; 6],
}

impl Sizes {
    fn new(shape: &AttentionShape, queries: usize) -> Sizes {
        let AttentionShape { keys, depth, width, .. } = *shape;
        let block = block(queries, keys);
        let rows = block.next_multiple_of(ROWS);
        let floats = [
            right_floats(depth, keys),
            right_floats(keys, width),
            elements([rows, pitch(keys)]),
            elements([rows, pitch(width)]),
            rows * PITCH,
            STEP_PAIRS * PITCH,
        ];
        Sizes { block, floats }
    }

    fn floats(&self) -> usize {
        self.floats.into_iter().fold(0, usize::saturating_add)
    }
}

/// Queries whose scores with `keys` keys are held at once: blocks of one size, so that the last one is no small rest.
pub(super) fn block(queries: usize, keys: usize) -> usize {
    let most = (SCORES / pitch(keys)).clamp(2 * ROWS, MOST);
    queries.div_ceil(queries.div_ceil(most).max(1)).max(1)
}

/// Floats from one row of so many columns to the next: an odd number of cache lines, with room for a vector more.
pub(super) fn pitch(columns: usize) -> usize {
    ((columns.div_ceil(parallel::LINE) + 1) | 1).saturating_mul(parallel::LINE)
}

/// Floats of a right operand: a row for each pair of the reduction, up to a whole step.
pub(super) fn right_floats(reduction: usize, columns: usize) -> usize {
    elements([reduction.div_ceil(2 * STEP_PAIRS), STEP_PAIRS, pitch(columns)])
}

/// The starts and lengths of the parts of a reduction.
pub(super) fn parts(reduction: usize) -> impl Iterator<Item = Range<usize>> {
    (0..reduction).step_by(DEPTH).map(move |start| start..reduction.min(start + DEPTH))
}

/// Steps of so many elements of the reduction.
pub(super) fn steps(len: usize) -> usize {
    len.div_ceil(2 * STEP_PAIRS)
}

/// Cuts scratch into places of so many floats.
pub(super) fn cut<const N: usize>(scratch: &mut [f32], floats: [usize; N]) -> [*mut f32; N] {
    let mut rest = scratch;
    floats.map(|len| {
        let (own, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        own.as_mut_ptr()
    })
}

/// A matrix in memory: from its first element, so many elements to the next row and to the next column, one of which is 1.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) from: *const bf16,
    pub(super) row: usize,
    pub(super) column: usize,
}

impl Matrix {
    #[inline(always)]
    pub(super) fn of(all: &[bf16], stack: &Stack, index: usize) -> Matrix {
        let from = all.as_ptr().wrapping_add(stack.starts[index]);
        Matrix { from, row: stack.row, column: stack.column }
    }

    pub(super) fn transposed(self) -> Matrix {
        Matrix { row: self.column, column: self.row, ..self }
    }

    /// Copies it as a right operand whose reduction is the rows.
    ///
    /// # Safety
    /// `S` is available; the matrix has `reduction` rows and `columns`; `to` has [`right_floats`] and `rows` [`STEP_PAIRS`] rows of [`PITCH`].
    #[inline(always)]
    pub(super) unsafe fn pack<S: Simd>(
        self,
        isa: Isa,
        [reduction, columns]: [usize; 2],
        rows: *mut f32,
        to: *mut f32,
    ) {
        let pitch = pitch(columns);
        for part in parts(reduction) {
            let from = self.from.wrapping_add(part.start * self.row);
            let to = (to.wrapping_add(part.start / 2 * pitch), pitch);
            // Safety: the caller's.
            unsafe {
                if self.column == 1 {
                    let own = Part { from, pitch: self.row, rows: part.len(), cols: columns };
                    own.join_rows::<S>(steps(part.len()), to);
                } else {
                    let own = Part { from, pitch: self.column, rows: columns, cols: part.len() };
                    own.transpose_columns::<S>(isa, steps(part.len()), rows, to);
                }
            }
        }
    }
}

/// A product with a packed right operand, for which `left` has room.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) isa: Isa,
    pub(super) left: *mut f32,
    pub(super) right: *const f32,
    /// Rows [`pitch`] floats apart.
    pub(super) out: *mut f32,
    /// Elements of the reduction, and columns of the right operand.
    pub(super) reduction: usize,
    pub(super) columns: usize,
}

impl Product {
    /// Multiplies `rows` rows of bf16 that lie as far apart as `from` says.
    ///
    /// # Safety
    /// `S` and tiles are available, and all has room for whole tiles of rows.
    #[inline(always)]
    pub(super) unsafe fn of_rows<S: Simd>(&self, rows: usize, (from, row): (*const bf16, usize)) {
        for part in parts(self.reduction) {
            // Safety: the caller's.
            unsafe {
                let own = Part { from: from.add(part.start), pitch: row, rows, cols: part.len() };
                own.copy_rows::<S>(steps(part.len()), self.left);
                self.multiply(rows, &part);
            }
        }
    }

    /// Multiplies `rows` rows of floats, rounded to bf16.
    ///
    /// # Safety
    /// As [`Product::of_rows`]; a vector beyond the reduction is readable.
    #[inline(always)]
    unsafe fn of_floats<S: Simd>(&self, rows: usize, (from, row): (*const f32, usize)) {
        for part in parts(self.reduction) {
            // Safety: the caller's.
            unsafe {
                for i in 0..rows {
                    let (from, to) = (from.add(i * row + part.start), self.left.add(i * PITCH).cast());
                    round_row::<S>(from, part.len(), 2 * STEP_PAIRS * steps(part.len()), to);
                }
                self.multiply(rows, &part);
            }
        }
    }

    /// # Safety
    /// As [`Product::of_rows`], with the part's rows in `left`.
    #[inline(always)]
    unsafe fn multiply(&self, rows: usize, part: &Range<usize>) {
        let pitch = pitch(self.columns);
        let block = tiled::Block {
            isa: self.isa,
            left: self.left,
            right: (self.right.wrapping_add(part.start / 2 * pitch), pitch),
            sums: (self.out, pitch),
            // Whole tiles, as others have to be configured. What the rows beyond hold is not looked at.
            rows: rows.next_multiple_of(ROWS),
            cols: self.columns,
        };
        // Safety: the caller's.
        unsafe { block.multiply(steps(part.len()), part.start == 0) };
    }
}

/// Rounds `len` floats, and writes zeros from there to `whole`.
///
/// # Safety
/// `S` is available, `from` is readable and `to` writable for a vector more.
#[inline(always)]
pub(super) unsafe fn round_row<S: Simd>(from: *const f32, len: usize, whole: usize, to: *mut bf16) {
    for at in (0..len).step_by(S::LANES) {
        // Safety: the caller's.
        unsafe { bf16::store_sum::<S>(to.add(at), S::load(from.add(at))) };
    }
    // Safety: the caller's.
    unsafe { to.add(len).write_bytes(0, whole - len) };
}

/// Some queries of a matrix.
struct Task<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    operands: Operands<'a, bf16>,
    matrix: usize,
    rows: Range<usize>,
    sizes: Sizes,
    scratch: &'a mut [f32],
    out: Shared<bf16>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let AttentionShape { keys, depth, width, ref q, ref k, ref v, y: ref out, .. } = *self.shape;
        let Operands { scale, mask, .. } = self.operands;
        let [right_keys, right_values, scores, results, left, transposing] =
            cut(self.scratch, self.sizes.floats);
        let (isa, matrix) = (self.isa, self.matrix);
        let [to_scores, to_results] =
            [(right_keys, scores, depth, keys), (right_values, results, keys, width)].map(
                |(right, out, reduction, columns)| Product { isa, left, right, out, reduction, columns },
            );
        // Safety: `S` and tiles are available; the scratch has what `Sizes` says, and these rows of the result are this task's.
        unsafe {
            let k = Matrix::of(self.operands.k, k, matrix).transposed();
            k.pack::<S>(isa, [depth, keys], transposing, right_keys);
            let v = Matrix::of(self.operands.v, v, matrix);
            v.pack::<S>(isa, [keys, width], transposing, right_values);
            for start in self.rows.clone().step_by(self.sizes.block) {
                let rows = self.sizes.block.min(self.rows.end - start);
                let mut sums = [0.0; MOST];
                let first = self.operands.q.as_ptr().add(q.starts[matrix] + start * q.row);
                to_scores.of_rows::<S>(rows, (first, q.row));
                for (i, sum) in sums[..rows].iter_mut().enumerate() {
                    let mask = self.shape.mask_of(mask, matrix, start + i);
                    *sum = exponentials_of::<S>(scale, mask, scores.add(i * pitch(keys)), keys);
                }
                to_results.of_floats::<S>(rows, (scores, pitch(keys)));
                for (i, sum) in sums[..rows].iter().enumerate() {
                    let y = results.add(i * pitch(width));
                    line::<S>(1.0 / sum, y, 0.0, y, width);
                }
                let y = self.out.at(out.starts[matrix] + start * out.row);
                round_area(isa, (results, pitch(width)), y, Area { rows, pitch: out.row, cols: width });
            }
        }
    }
}
