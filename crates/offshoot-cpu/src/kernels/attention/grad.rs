//! The gradients of attention.
//!
//! A task takes one matrix of the stack. Of a few queries at a time it computes the scores again, so that the forward pass need not keep
//! them, and from them the parts of all gradients: 5 products and no matrix of scores in memory. With p = softmax(scale q kᵀ + mask) and
//! y = p v: dv = pᵀ dy, dp = dy vᵀ, ds = scale p (dp - rowsum(p dp)), dq = ds k, dk = dsᵀ q.

mod tiled;

use super::super::element::{Element, View, ViewMut};
use super::super::gather::copy;
use super::super::parallel::{self, Shared};
use super::super::simd::{Isa, Kernel, Simd, dispatch};
use super::super::size::elements;
use super::super::softmax::{dot, exponentials, largest, line};
use super::super::tile::{
    DEPTH, MAX_ROWS, RowMajor, STRIDE, StepMajor, Tile, run_tile, tile_cols, tile_starts,
};
use super::{
    AttentionShape, Operands, Stack, check_apart, check_operands, matrix, narrow, pack, scale_and_add,
};

/// Floats of the scores that a task holds, and as many of their gradients: parts of a second-level cache.
const SCORES: usize = 48 * 1024;

/// Most queries whose scores a task holds at once.
const MOST: usize = 168;

/// Writes the gradients of q, k and v to where `stacks` says, where `dy` is that of the result.
///
/// # Panics
/// As [`attention`](super::attention); the gradients lie as q, k and v may.
pub(crate) fn attention_grad<E: Element>(
    isa: Isa,
    shape: &AttentionShape,
    operands: Operands<'_, E>,
    dy: &[E],
    grads: [&mut [E]; 3],
    stacks: &[Stack; 3],
) {
    check_operands(shape, operands, dy);
    let AttentionShape { count, queries, keys, depth, width, .. } = *shape;
    let sizes = [[queries, depth], [keys, depth], [keys, width]];
    for ((grad, stack), size) in grads.iter().zip(stacks).zip(sizes) {
        assert!(stack.fits(count, size, grad.len()), "a gradient of {shape:?}");
    }
    let [q, k, v] = stacks;
    let is_plain = [q.column, k.row.min(k.column), v.column] == [1; 3];
    assert!(is_plain, "rows of the gradients of {shape:?}");
    if [count, queries, keys, depth, width].contains(&0) {
        return grads.into_iter().for_each(|grad| grad.fill(E::zeroed()));
    }
    check_apart(q, sizes[0]);
    match k.column {
        1 => check_apart(k, sizes[1]),
        _ => check_apart(&k.clone().transposed(), [depth, keys]),
    }
    check_apart(v, sizes[2]);
    let Operands { q, k, v, scale, mask } = operands;
    let [dq, dk, dv] = grads;
    match ([q, k, v, dy].map(E::view), [&mut *dq, &mut *dk, &mut *dv].map(E::view_mut)) {
        (
            [View::F32(q), View::F32(k), View::F32(v), View::F32(dy)],
            [ViewMut::F32(dq), ViewMut::F32(dk), ViewMut::F32(dv)],
        ) => grad_f32(isa, shape, Operands { q, k, v, scale, mask }, dy, [dq, dk, dv], stacks),
        (
            [View::Bf16(q), View::Bf16(k), View::Bf16(v), View::Bf16(dy)],
            [ViewMut::Bf16(dq), ViewMut::Bf16(dk), ViewMut::Bf16(dv)],
        ) if isa.has_tiles() => {
            tiled::grad(isa, shape, Operands { q, k, v, scale, mask }, dy, [dq, dk, dv], stacks);
        }
        _ => narrow::grad(isa, shape, operands, dy, [dq, dk, dv], stacks),
    }
}

/// [`attention_grad`] of sizes that were checked.
pub(super) fn grad_f32(
    isa: Isa,
    shape: &AttentionShape,
    operands: Operands<'_>,
    dy: &[f32],
    grads: [&mut [f32]; 3],
    stacks: &[Stack; 3],
) {
    let plan = Plan::new(isa, shape);
    let grads = grads.map(Shared::new);
    parallel::for_each_task(shape.count, shape.work(), |matrix| {
        parallel::with_scratch(plan.scratch(shape), |scratch| {
            dispatch(isa, Task { shape, plan: &plan, operands, dy, matrix, scratch, grads, stacks });
        });
    });
}

/// A block of rows is stored in parts of [`DEPTH`] columns, one part after the other, with rows [`STRIDE`] floats apart.
fn parts(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns).step_by(DEPTH).enumerate().map(move |(part, start)| (part, DEPTH.min(columns - start)))
}

/// How the work is cut and where things are in a task's scratch.
struct Plan {
    /// Queries whose scores are held at once.
    block: usize,
    /// Columns of a whole tile.
    panel: usize,
    /// Columns of the packed keys and values, up to a whole vector: keys and depth.
    columns: [usize; 2],
}

impl Plan {
    fn new(isa: Isa, shape: &AttentionShape) -> Plan {
        let (lanes, panel) = (isa.lanes(), tile_cols(isa));
        assert!(
            DEPTH.is_multiple_of(panel) && STRIDE >= DEPTH + lanes,
            "a panel lies within a part of a block"
        );
        let row = shape.keys.div_ceil(DEPTH) * STRIDE;
        let block = (SCORES / row).clamp(2 * MAX_ROWS, MOST);
        // Blocks of one size, so that the last one is no small rest.
        let blocks = shape.queries.div_ceil(block);
        Plan {
            block: shape.queries.div_ceil(blocks),
            panel,
            columns: [shape.keys.next_multiple_of(lanes), shape.depth.next_multiple_of(lanes)],
        }
    }

    /// Floats of each thing in the scratch.
    fn sizes(&self, shape: &AttentionShape) -> [usize; 7] {
        let AttentionShape { keys, depth, width, .. } = *shape;
        let block = |columns: usize| elements([columns.div_ceil(DEPTH), self.block, STRIDE]);
        let [by_key, by_depth] = self.columns;
        [
            elements([by_key, depth]),
            elements([by_key, width]),
            elements([by_depth, keys]),
            block(keys),
            block(keys),
            block(depth),
            block(width),
        ]
    }

    fn scratch(&self, shape: &AttentionShape) -> usize {
        self.sizes(shape).into_iter().fold(0, usize::saturating_add)
    }
}

/// A matrix of the stack.
struct Task<'a> {
    shape: &'a AttentionShape,
    plan: &'a Plan,
    operands: Operands<'a>,
    dy: &'a [f32],
    matrix: usize,
    scratch: &'a mut [f32],
    grads: [Shared; 3],
    stacks: &'a [Stack; 3],
}

/// What is in a task's scratch: three packed matrices, and four blocks of rows.
struct Places {
    /// kᵀ, vᵀ and k, in panels.
    packed: [*mut f32; 3],
    scores: *mut f32,
    score_grads: *mut f32,
    q: *mut f32,
    dy: *mut f32,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let AttentionShape { queries, keys, depth, width, ref q, ref y, .. } = *self.shape;
        let places = self.place(S::LANES);
        let [keys_packed, values_packed, rows_packed] = places.packed.map(<*mut f32>::cast_const);
        let (q_rows, dy_rows) = (self.operands.q.as_ptr(), self.dy.as_ptr());
        let [to_q, to_k, to_v] = self.stacks;
        for start in (0..queries).step_by(self.plan.block) {
            let rows = self.plan.block.min(queries - start);
            let first = start == 0;
            // Safety: `S` is available; the panels and blocks hold what their sizes say, and the gradients of this matrix are the task's.
            unsafe {
                let q_rows = q_rows.add(q.starts[self.matrix] + start * q.row);
                let dy_rows = dy_rows.add(y.starts[self.matrix] + start * y.row);
                self.copy_block::<S>((q_rows, q.row), [rows, depth], places.q);
                self.copy_block::<S>((dy_rows, y.row), [rows, width], places.dy);
                self.scores::<S>([rows, depth], places.q, keys_packed, places.scores);
                self.scores::<S>([rows, width], places.dy, values_packed, places.score_grads);
                for i in 0..rows {
                    let [scores, grads] = [places.scores, places.score_grads].map(|p| p.add(i * STRIDE));
                    self.probabilities::<S>(start + i, scores);
                    self.score_gradients::<S>(scores, grads);
                }
                let grads = [(0, to_q), (1, to_k), (2, to_v)];
                let [dq, dk, dv] = grads.map(|(i, stack)| self.grads[i].at(stack.starts[self.matrix]));
                let dq = (dq.add(start * to_q.row), to_q.row);
                self.by_rows::<S>(rows, places.score_grads, rows_packed, dq);
                let (q, ds) = (places.q, places.score_grads);
                match to_k.column {
                    1 => self.add::<S>([rows, keys, depth], ds, q, (dk, to_k.row), first),
                    _ => self.add::<S>([rows, depth, keys], q, ds, (dk, to_k.column), first),
                }
                self.add::<S>([rows, keys, width], places.scores, places.dy, (dv, to_v.row), first);
            }
        }
    }
}

impl Task<'_> {
    /// Packs the keys and values of the matrix, and says where all is.
    #[inline(always)]
    fn place(&mut self, lanes: usize) -> Places {
        let AttentionShape { keys, depth, width, ref k, ref v, .. } = *self.shape;
        let panel = [self.plan.panel, lanes];
        let [key, column, value] = [k.row, k.column, v.row];
        let (k, v) = (matrix(self.operands.k, k, self.matrix), matrix(self.operands.v, v, self.matrix));
        let mut rest = &mut *self.scratch;
        let mut places = [std::ptr::null_mut(); 7];
        for (i, (place, size)) in places.iter_mut().zip(self.plan.sizes(self.shape)).enumerate() {
            let (own, after) = rest.split_at_mut(size);
            rest = after;
            match i {
                0 => pack(k, [depth, keys], [column, key], panel, own),
                1 => pack(v, [width, keys], [1, value], panel, own),
                2 => pack(k, [keys, depth], [key, column], panel, own),
                _ => {}
            }
            *place = own.as_mut_ptr();
        }
        let [a, b, c, scores, score_grads, q, dy] = places;
        Places { packed: [a, b, c], scores, score_grads, q, dy }
    }

    /// Copies rows that lie as far apart as `from` says to a block.
    ///
    /// # Safety
    /// `S` must be available, and the pointers valid for these sizes.
    #[inline(always)]
    unsafe fn copy_block<S: Simd>(
        &self,
        (from, pitch): (*const f32, usize),
        [rows, columns]: [usize; 2],
        to: *mut f32,
    ) {
        for (part, len) in parts(columns) {
            for i in 0..rows {
                // Safety: the caller's; a row of a block has room for a vector more.
                unsafe {
                    let from = from.add(i * pitch + part * DEPTH);
                    copy::<S, f32, f32>(from, to.add((part * self.plan.block + i) * STRIDE), len);
                }
            }
        }
    }

    /// The products of the rows of a block with all keys (or values), as a block.
    ///
    /// # Safety
    /// `S` must be available, and the pointers valid for these sizes.
    #[inline(always)]
    unsafe fn scores<S: Simd>(
        &self,
        [rows, depth]: [usize; 2],
        a: *const f32,
        packed: *const f32,
        out: *mut f32,
    ) {
        let columns = self.plan.columns[0];
        for col in (0..columns).step_by(self.plan.panel) {
            let out = out.wrapping_add(col / DEPTH * self.plan.block * STRIDE + col % DEPTH);
            // Safety: the caller's; a panel lies within a part.
            unsafe { self.panel::<S>([rows, depth], a, packed, [col, columns], (out, STRIDE)) };
        }
    }

    /// The products of the rows of a block with the columns of k: rows of the gradient of q.
    ///
    /// # Safety
    /// As [`Task::scores`].
    #[inline(always)]
    unsafe fn by_rows<S: Simd>(
        &self,
        rows: usize,
        a: *const f32,
        packed: *const f32,
        (out, pitch): (*mut f32, usize),
    ) {
        let AttentionShape { keys, depth, .. } = *self.shape;
        for col in (0..depth).step_by(self.plan.panel) {
            let out = (out.wrapping_add(col), pitch);
            // Safety: the caller's.
            unsafe { self.panel::<S>([rows, keys], a, packed, [col, depth], out) };
        }
    }

    /// A panel of columns from `col` of the product of a block with a packed matrix of `columns` columns.
    ///
    /// # Safety
    /// As [`Task::scores`].
    #[inline(always)]
    unsafe fn panel<S: Simd>(
        &self,
        [rows, depth]: [usize; 2],
        a: *const f32,
        packed: *const f32,
        [col, columns]: [usize; 2],
        (out, pitch): (*mut f32, usize),
    ) {
        let cols = self.plan.panel.min(columns - col);
        let offsets: [usize; MAX_ROWS] = std::array::from_fn(|i| i * pitch);
        let mut starts = [0; MOST + 1];
        let starts = tile_starts(rows, S::TILE_ROWS, &mut starts);
        for (part, len) in parts(depth) {
            let a = a.wrapping_add(part * self.plan.block * STRIDE);
            let step = cols.next_multiple_of(S::LANES);
            let b = packed.wrapping_add(col * depth + part * DEPTH * step);
            for rows in starts.windows(2) {
                // Safety: the caller's; a panel's columns start where those before it end.
                unsafe {
                    let out = out.add(rows[0] * pitch);
                    run_tile::<S, RowMajor>(Tile {
                        depth: len,
                        a: a.add(rows[0] * STRIDE),
                        b,
                        add: (part > 0).then_some(out.cast_const()),
                        out,
                        rows: &offsets[..rows[1] - rows[0]],
                        cols,
                        ..Tile::PRODUCT
                    });
                }
            }
        }
    }

    /// Adds the product of the transpose of a block with another block to `out`, a matrix of `m` rows and `n` columns whose rows lie as far
    /// apart as it says; with `first` it writes.
    ///
    /// # Safety
    /// As [`Task::scores`].
    #[inline(always)]
    unsafe fn add<S: Simd>(
        &self,
        [rows, m, n]: [usize; 3],
        a: *const f32,
        b: *const f32,
        (out, pitch): (*mut f32, usize),
        first: bool,
    ) {
        let (block, panel) = (self.plan.block, self.plan.panel);
        let offsets: [usize; MAX_ROWS] = std::array::from_fn(|i| i * pitch);
        for (part, len) in parts(m) {
            let mut starts = [0; DEPTH + 1];
            let starts = tile_starts(len, S::TILE_ROWS, &mut starts);
            for col in (0..n).step_by(panel) {
                for own in starts.windows(2) {
                    // Safety: the caller's; a panel lies within a part.
                    unsafe {
                        let out = out.add((part * DEPTH + own[0]) * pitch + col);
                        run_tile::<S, StepMajor>(Tile {
                            depth: rows,
                            a: a.add(part * block * STRIDE + own[0]),
                            b: b.add(col / DEPTH * block * STRIDE + col % DEPTH),
                            add: (!first).then_some(out.cast_const()),
                            out,
                            rows: &offsets[..own[1] - own[0]],
                            cols: panel.min(n - col),
                            ..Tile::PRODUCT
                        });
                    }
                }
            }
        }
    }

    /// Replaces the scores of a query with their softmax.
    ///
    /// # Safety
    /// `S` must be available, and `row` that of a block of scores.
    #[inline(always)]
    unsafe fn probabilities<S: Simd>(&self, query: usize, row: *mut f32) {
        let (keys, distance) = (self.shape.keys, self.plan.block * STRIDE);
        let scale = self.operands.scale;
        let mut most = f32::NEG_INFINITY;
        let mut sum = 0.0;
        // Safety: the caller's; the mask has a row for each query.
        unsafe {
            for (part, len) in parts(keys) {
                let row = row.add(part * distance);
                if let Some(mask) = self.shape.mask_of(self.operands.mask, self.matrix, query) {
                    let mask = &mask[part * DEPTH..][..len];
                    scale_and_add::<S>(scale, row, mask.as_ptr(), len);
                } else if scale != 1.0 {
                    line::<S>(scale, row, 0.0, row, len);
                }
                most = most.max(largest::<S>(row, len));
            }
            for (part, len) in parts(keys) {
                let row = row.add(part * distance);
                sum += exponentials::<S>(row, len, most, row);
            }
            for (part, len) in parts(keys) {
                let row = row.add(part * distance);
                line::<S>(1.0 / sum, row, 0.0, row, len);
            }
        }
    }

    /// Replaces the gradients of a query's probabilities with those of its products q kᵀ.
    ///
    /// # Safety
    /// `S` must be available, and both be rows of a block of scores.
    #[inline(always)]
    unsafe fn score_gradients<S: Simd>(&self, probabilities: *const f32, grads: *mut f32) {
        let (keys, distance) = (self.shape.keys, self.plan.block * STRIDE);
        let scale = self.operands.scale;
        let mut mean = 0.0;
        // Safety: the caller's.
        unsafe {
            for (part, len) in parts(keys) {
                let [p, dp] = [probabilities, grads.cast_const()].map(|row| row.add(part * distance));
                mean += dot::<S>(std::slice::from_raw_parts(p, len), std::slice::from_raw_parts(dp, len));
            }
            for (part, len) in parts(keys) {
                let (p, dp) = (probabilities.add(part * distance), grads.add(part * distance));
                let p = std::slice::from_raw_parts(p, len);
                let dp = std::slice::from_raw_parts_mut(dp, len);
                for (dp, p) in dp.iter_mut().zip(p) {
                    *dp = scale * p * (*dp - mean);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
