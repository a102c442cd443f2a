//! The gradients of attention of bf16 on tiles: the same tasks. Probabilities and the gradients of scores are rounded to bf16 before they are
//! multiplied; sums over queries are f32 and rounded once.

use half::bf16;

use crate::kernels::attention::tiled::{Matrix, Product, block, cut, pitch, right_floats, steps};
use crate::kernels::attention::{AttentionShape, Operands, Stack, exponentials_of};
use crate::kernels::convert::round_area;
use crate::kernels::element::Element;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::rows::Area;
use crate::kernels::simd::tiles::ROWS;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch_tiles};
use crate::kernels::size::elements;
use crate::kernels::softmax::dot;
use crate::kernels::tiled::{self, PITCH, Part, STEP_PAIRS};

/// Keys whose gradients are summed at a time.
const KEYS: usize = 192;

/// [`attention_grad`](super::attention_grad) of sizes that were checked, none of which is 0.
pub(super) fn grad(
    isa: Isa,
    shape: &AttentionShape,
    operands: Operands<'_, bf16>,
    dy: &[bf16],
    grads: [&mut [bf16]; 3],
    stacks: &[Stack; 3],
) {
    let sizes = Sizes::new(shape);
    let grads = grads.map(Shared::new);
    parallel::for_each_task(shape.count, shape.work() / 2, |matrix| {
        let floats = sizes.floats.into_iter().fold(0, usize::saturating_add);
        parallel::with_scratch(floats, |scratch| {
            let places = Places::new(scratch, &sizes);
            dispatch_tiles(
                isa,
                Task { isa, shape, block: sizes.block, operands, dy, matrix, places, grads, stacks },
            );
        });
    });
}

/// How a task goes through its queries, and the floats of each thing in its scratch.
struct Sizes {
    /// Queries whose scores are held at once.
    block: usize,
    floats: [usize; 12],
}

impl Sizes {
    fn new(shape: &AttentionShape) -> Sizes {
        let AttentionShape { queries, keys, depth, width, .. } = *shape;
        let block = block(queries, keys);
        let rows = block.next_multiple_of(ROWS);
        let all_keys = keys.next_multiple_of(ROWS);
        let scores = elements([rows, pitch(keys)]);
        let floats = [
            right_floats(depth, keys),
            right_floats(width, keys),
            right_floats(keys, depth),
            scores,
            scores,
            // (The halves of a row of scores, and a vector.)
            scores,
            scores,
            elements([rows, pitch(depth)]),
            elements([all_keys, pitch(depth)]),
            elements([all_keys, pitch(width)]),
            right_floats(block, depth.max(width)),
            rows.max(KEYS) * PITCH + STEP_PAIRS * PITCH.max(pitch(KEYS)),
        ];
        Sizes { block, floats }
    }
}

/// Where things are in a task's scratch.
#[derive(Clone, Copy)]
struct Places {
    /// Right operands: kᵀ, vᵀ and k.
    packed: [*mut f32; 3],
    /// Scores, and the gradients of probabilities.
    scores: [*mut f32; 2],
    /// Probabilities and gradients of scores, rounded; rows twice [`pitch`] apart.
    rounded: [*mut bf16; 2],
    /// Sums of the gradients of q, k and v.
    sums: [*mut f32; 3],
    /// The queries of a block, or their dy, as a right operand.
    right: *mut f32,
    left: *mut f32,
    /// Rows that are transposed.
    transposing: *mut f32,
}

impl Places {
    fn new(scratch: &mut [f32], sizes: &Sizes) -> Places {
        let [a, b, c, scores, grads, p, ds, dq, dk, dv, right, left] = cut(scratch, sizes.floats);
        let transposing = left.wrapping_add(sizes.block.next_multiple_of(ROWS).max(KEYS) * PITCH);
        Places {
            packed: [a, b, c],
            scores: [scores, grads],
            rounded: [p.cast(), ds.cast()],
            sums: [dq, dk, dv],
            right,
            left,
            transposing,
        }
    }
}

/// A matrix of the stack.
struct Task<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    block: usize,
    operands: Operands<'a, bf16>,
    dy: &'a [bf16],
    matrix: usize,
    places: Places,
    grads: [Shared<bf16>; 3],
    stacks: &'a [Stack; 3],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let AttentionShape { queries, keys, depth, width, ref q, ref k, ref v, ref y, .. } = *self.shape;
        let (isa, matrix) = (self.isa, self.matrix);
        let Places {
            packed: [keys_right, values_right, rows_right],
            scores,
            rounded,
            sums,
            left,
            transposing,
            ..
        } = self.places;
        let k = Matrix::of(self.operands.k, k, matrix);
        let v = Matrix::of(self.operands.v, v, matrix);
        let [q_all, dy_all] = [Matrix::of(self.operands.q, q, matrix), Matrix::of(self.dy, y, matrix)];
        let product = |right, out, reduction, columns| Product { isa, left, right, out, reduction, columns };
        let to_scores = product(keys_right, scores[0], depth, keys);
        let to_grads = product(values_right, scores[1], width, keys);
        let to_queries = product(rows_right, sums[0], keys, depth);
        // Safety: `S` and tiles are available; the scratch has what `Sizes` says, and the gradients of this matrix are the task's.
        unsafe {
            k.transposed().pack::<S>(isa, [depth, keys], transposing, keys_right);
            v.transposed().pack::<S>(isa, [width, keys], transposing, values_right);
            k.pack::<S>(isa, [keys, depth], transposing, rows_right);
            for start in (0..queries).step_by(self.block) {
                let rows = self.block.min(queries - start);
                let (q_rows, dy_rows) = (q_all.from.add(start * q.row), dy_all.from.add(start * y.row));
                to_scores.of_rows::<S>(rows, (q_rows, q.row));
                to_grads.of_rows::<S>(rows, (dy_rows, y.row));
                for i in 0..rows {
                    self.round_row::<S>(start + i, i);
                }
                let [p, ds] = rounded.map(|rows| (rows.cast_const(), 2 * pitch(keys)));
                to_queries.of_rows::<S>(rows, ds);
                let dq = &self.stacks[0];
                let to = self.grads[0].at(dq.starts[matrix] + start * dq.row);
                round_area(isa, (sums[0], pitch(depth)), to, Area { rows, pitch: dq.row, cols: depth });
                let first = start == 0;
                self.add::<S>((ds, rows), (Matrix { from: q_rows, ..q_all }, depth), sums[1], first);
                self.add::<S>((p, rows), (Matrix { from: dy_rows, ..dy_all }, width), sums[2], first);
            }
            self.write(1, depth);
            self.write(2, width);
        }
    }
}

impl Task<'_> {
    /// The probabilities of a query, the block's `i`-th, and the gradients of its scores, rounded.
    ///
    /// # Safety
    /// `S` is available, and the scores and the gradients of probabilities are computed.
    #[inline(always)]
    unsafe fn round_row<S: Simd>(&self, query: usize, i: usize) {
        let keys = self.shape.keys;
        let Operands { scale, mask, .. } = self.operands;
        let mask = self.shape.mask_of(mask, self.matrix, query);
        let [scores, grads] = self.places.scores.map(|rows| rows.wrapping_add(i * pitch(keys)));
        let [p, ds] = self.places.rounded.map(|rows| rows.wrapping_add(i * 2 * pitch(keys)));
        // Safety: the caller's; rows have room for a vector more.
        unsafe {
            let sum = exponentials_of::<S>(scale, mask, scores, keys);
            let [e, dp] = [scores, grads].map(|row| std::slice::from_raw_parts(row.cast_const(), keys));
            let mean = S::splat(dot::<S>(e, dp) / sum);
            let (one, scale) = (S::splat(1.0 / sum), S::splat(scale));
            for at in (0..keys).step_by(S::LANES) {
                let probability = S::mul(one, S::load(scores.add(at)));
                bf16::store_sum::<S>(p.add(at), probability);
                let centered = S::sub(S::load(grads.add(at)), mean);
                bf16::store_sum::<S>(ds.add(at), S::mul(S::mul(scale, probability), centered));
            }
        }
    }

    /// Adds the product of the transpose of `rows` rounded rows with a matrix of as many rows and `columns` to `sums`, or writes it if it is
    /// the `first`.
    ///
    /// # Safety
    /// `S` and tiles are available, and the operands have these sizes.
    #[inline(always)]
    unsafe fn add<S: Simd>(
        &self,
        ((from, row), rows): ((*const bf16, usize), usize),
        (matrix, columns): (Matrix, usize),
        sums: *mut f32,
        first: bool,
    ) {
        let Places { right, left, transposing, .. } = self.places;
        let (isa, keys) = (self.isa, self.shape.keys);
        // Safety: the caller's; a block is one part of the reduction.
        unsafe {
            matrix.pack::<S>(isa, [rows, columns], transposing, right);
            for start in (0..keys).step_by(KEYS) {
                let cols = KEYS.min(keys - start);
                let own = Part { from: from.add(start), pitch: row, rows, cols };
                own.transpose_rows::<S>(isa, steps(rows), (transposing, pitch(KEYS)), left);
                let block = tiled::Block {
                    isa,
                    left,
                    right: (right, pitch(columns)),
                    sums: (sums.add(start * pitch(columns)), pitch(columns)),
                    rows: cols.next_multiple_of(ROWS),
                    cols: columns,
                };
                block.multiply(steps(rows), first);
            }
        }
    }

    /// Writes the sums of the gradient of k or v.
    ///
    /// # Safety
    /// The gradient is the task's.
    #[inline(always)]
    unsafe fn write(&self, index: usize, columns: usize) {
        let (stack, from, keys) = (&self.stacks[index], self.places.sums[index], self.shape.keys);
        // Safety: the caller's; it has a row for each key.
        unsafe {
            let to = self.grads[index].at(stack.starts[self.matrix]);
            if stack.column == 1 {
                let area = Area { rows: keys, pitch: stack.row, cols: columns };
                return round_area(self.isa, (from, pitch(columns)), to, area);
            }
            for column in 0..columns {
                for key in 0..keys {
                    let sum = *from.add(key * pitch(columns) + column);
                    to.add(key * stack.row + column * stack.column).write(bf16::from_f32(sum));
                }
            }
        }
    }
}
