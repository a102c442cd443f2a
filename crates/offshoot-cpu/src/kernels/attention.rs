//! Attention: softmax(scale q kᵀ + mask) v for a stack of matrices.
//!
//! A task takes the queries of one matrix, or part of them, and packs the keys and values once. It computes the scores of a few
//! queries at a time, so that these stay in the cache between the two products, and never holds all of them. A row of the result does not
//! depend on the rows beside it.

pub(crate) mod grad;
mod narrow;
mod stack;
mod tiled;

use std::ops::Range;

use super::element::{Element, View, ViewMut};
use super::parallel::{self, Shared};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;
use super::softmax::{exponentials, largest, line};
use super::tile::{self, MAX_ROWS, Matrix, Tile, run_tile, tile_starts};

pub(crate) use self::stack::Stack;

/// Floats of the scores that a task holds: a part of a small second-level cache.
const SCORES: usize = 32 * 1024;

/// Most queries whose scores a task holds at once.
const MOST: usize = 168;

/// Fewest queries worth packing the keys and values again, for another thread.
const QUERIES: usize = 256;

/// Sizes of a stack of attentions, and where their matrices are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    /// Matrices in the stack.
    pub(crate) count: usize,
    /// Rows of `q` and of the result.
    pub(crate) queries: usize,
    /// Rows of `k` and `v`, and scores of a query.
    pub(crate) keys: usize,
    /// Columns of `q` and `k`.
    pub(crate) depth: usize,
    /// Columns of `v` and of the result.
    pub(crate) width: usize,
    /// Those of `q`, whose columns follow one another.
    pub(crate) q: Stack,
    /// Those of `k`, whose columns or rows follow one another.
    pub(crate) k: Stack,
    /// Those of `v`, whose columns follow one another.
    pub(crate) v: Stack,
    /// Those of the mask, where there is one: a row a query and a column a key. Columns follow one another; rows may be the same one.
    pub(crate) mask: Option<Stack>,
    /// Those of the result, or of its gradient. Columns follow one another.
    pub(crate) y: Stack,
}

/// The operands of [`attention`].
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a, E = f32> {
    pub(crate) q: &'a [E],
    pub(crate) k: &'a [E],
    pub(crate) v: &'a [E],
    /// What the scores are multiplied with.
    pub(crate) scale: f32,
    /// Added to the scores then.
    pub(crate) mask: Option<&'a [f32]>,
}

/// Writes `softmax(scale q kᵀ + mask) v` of each matrix of the stack to `y`. Scores and sums are f32; halves are rounded to before the
/// product with `v` where it is one of tiles, and in the end.
///
/// # Panics
/// When the matrices are not within their slices, or do not lie as `shape` says; when two matrices of `y` share elements.
pub(crate) fn attention<E: Element>(
    isa: Isa,
    shape: &AttentionShape,
    operands: Operands<'_, E>,
    y: &mut [E],
) {
    let AttentionShape { count, queries, keys, depth, width, .. } = *shape;
    check_operands(shape, operands, y);
    check_apart(&shape.y, [queries, width]);
    if [count, queries, width].contains(&0) {
        return;
    }
    let Operands { q, k, v, scale, mask } = operands;
    match (E::view(q), E::view(k), E::view(v), E::view_mut(y)) {
        (View::F32(q), View::F32(k), View::F32(v), ViewMut::F32(y)) => {
            attention_f32(isa, shape, Operands { q, k, v, scale, mask }, y);
        }
        (View::Bf16(q), View::Bf16(k), View::Bf16(v), ViewMut::Bf16(y))
            if isa.has_tiles() && ![keys, depth].contains(&0) =>
        {
            tiled::attention(isa, shape, Operands { q, k, v, scale, mask }, y);
        }
        _ => narrow::attention(isa, shape, operands, y),
    }
}

/// [`attention`] of sizes that were checked.
fn attention_f32(isa: Isa, shape: &AttentionShape, operands: Operands<'_>, y: &mut [f32]) {
    let AttentionShape { count, queries, .. } = *shape;
    let plan = Plan::new(isa, shape);
    let out = Shared::new(y);
    parallel::for_each_task(count * plan.parts, shape.work(), |index| {
        let (matrix, part) = (index / plan.parts, index % plan.parts);
        let rows = parallel::part(queries, plan.parts, part);
        parallel::with_scratch(plan.scratch(shape), |scratch| {
            dispatch(isa, Task { shape, plan: &plan, operands, matrix, rows, scratch, out });
        });
    });
}

impl AttentionShape {
    /// Multiply-adds of all matrices.
    fn work(&self) -> usize {
        elements([self.count, self.queries, self.depth + self.width]).saturating_mul(self.keys.max(1))
    }

    /// What is added to the scores of a query.
    #[inline(always)]
    fn mask_of<'a>(&self, mask: Option<&'a [f32]>, matrix: usize, query: usize) -> Option<&'a [f32]> {
        let (mask, stack) = mask.zip(self.mask.as_ref())?;
        Some(&mask[stack.starts[matrix] + query * stack.row..][..self.keys])
    }
}

/// `y` is the result or its gradient.
fn check_operands<E>(shape: &AttentionShape, operands: Operands<'_, E>, y: &[E]) {
    let AttentionShape { count, queries, keys, depth, width, .. } = *shape;
    let Operands { q, k, v, mask, .. } = operands;
    let fits = shape.q.fits(count, [queries, depth], q.len())
        && shape.k.fits(count, [keys, depth], k.len())
        && shape.v.fits(count, [keys, width], v.len())
        && shape.y.fits(count, [queries, width], y.len())
        && match (&shape.mask, mask) {
            (Some(stack), Some(mask)) => stack.fits(count, [queries, keys], mask.len()),
            (None, None) => true,
            _ => false,
        };
    let rows = [Some(&shape.q), Some(&shape.v), Some(&shape.y), shape.mask.as_ref()];
    let in_rows = rows.into_iter().flatten().all(|stack| stack.column == 1);
    assert!(fits && in_rows && [shape.k.row, shape.k.column].contains(&1), "operands of {shape:?}");
}

/// Panics when two rows of what tasks write share elements.
fn check_apart(stack: &Stack, [rows, columns]: [usize; 2]) {
    let starts = stack.starts.iter().flat_map(|&start| (0..rows).map(move |i| start + i * stack.row));
    let mut starts: Vec<usize> = starts.collect();
    starts.sort_unstable();
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= columns), "rows of {columns} of {stack:?}");
}

/// How the work is cut and where things are in a task's scratch. It does not change the result.
struct Plan {
    /// Tasks that share a matrix.
    parts: usize,
    /// Queries whose scores are held at once.
    block: usize,
    /// Columns of a whole tile.
    panel: usize,
    /// Scores of a query, up to a whole vector.
    scores: usize,
    /// Columns of the result, up to a whole vector.
    columns: usize,
}

impl Plan {
    fn new(isa: Isa, shape: &AttentionShape) -> Plan {
        let wanted = (4 * parallel::threads()).div_ceil(shape.count.max(1));
        let scores = shape.keys.next_multiple_of(isa.lanes());
        Plan {
            parts: wanted.min(shape.queries.div_ceil(QUERIES)).max(1),
            block: (SCORES / scores.max(1)).clamp(2 * MAX_ROWS, MOST),
            panel: tile::tile_cols(isa),
            scores,
            columns: shape.width.next_multiple_of(isa.lanes()),
        }
    }

    /// Floats of the scratch: keys, values and scores.
    fn scratch(&self, shape: &AttentionShape) -> usize {
        let sizes = [[self.scores, shape.depth], [self.columns, shape.keys], [self.block, self.scores]];
        sizes.iter().map(|&[rows, columns]| elements([rows, columns])).fold(0, usize::saturating_add)
    }
}

/// Some queries of a matrix.
struct Task<'a> {
    shape: &'a AttentionShape,
    plan: &'a Plan,
    operands: Operands<'a>,
    matrix: usize,
    rows: Range<usize>,
    scratch: &'a mut [f32],
    out: Shared,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let AttentionShape { keys, depth, width, ref q, y: ref out, .. } = *self.shape;
        let Plan { block, scores: pitch, .. } = *self.plan;
        let [packed_keys, packed_values, scores] = self.pack(S::LANES);
        for start in self.rows.clone().step_by(block) {
            let rows = block.min(self.rows.end - start);
            let mut sums = [0.0; MOST];
            // Safety: `S` is available. The panels hold what they were packed from, `scores` a row for each query of a block, and these
            // rows of the result are this task's.
            unsafe {
                let first = self.operands.q.as_ptr().add(q.starts[self.matrix] + start * q.row);
                self.multiply::<S>([rows, depth, pitch], (first, q.row), packed_keys, (scores, pitch));
                for (i, sum) in sums[..rows].iter_mut().enumerate() {
                    let mask = self.shape.mask_of(self.operands.mask, self.matrix, start + i);
                    *sum = exponentials_of::<S>(self.operands.scale, mask, scores.add(i * pitch), keys);
                }
                let y = self.out.at(out.starts[self.matrix] + start * out.row);
                self.multiply::<S>([rows, keys, width], (scores, pitch), packed_values, (y, out.row));
                for (i, sum) in sums[..rows].iter().enumerate() {
                    let y = y.add(i * out.row);
                    line::<S>(1.0 / sum, y, 0.0, y, width);
                }
            }
        }
    }
}

impl Task<'_> {
    /// Packs the keys and the values of the matrix; behind them is the place for scores.
    #[inline(always)]
    fn pack(&mut self, lanes: usize) -> [*mut f32; 3] {
        let AttentionShape { keys, depth, width, ref k, ref v, .. } = *self.shape;
        let Plan { panel, scores, columns, .. } = *self.plan;
        let [key, column, value] = [k.row, k.column, v.row];
        let (k, v) = (matrix(self.operands.k, k, self.matrix), matrix(self.operands.v, v, self.matrix));
        let (packed_keys, rest) = self.scratch.split_at_mut(scores * depth);
        let (packed_values, rest) = rest.split_at_mut(columns * keys);
        pack(k, [depth, keys], [column, key], [panel, lanes], packed_keys);
        pack(v, [keys, width], [value, 1], [panel, lanes], packed_values);
        [packed_keys.as_mut_ptr(), packed_values.as_mut_ptr(), rest.as_mut_ptr()]
    }

    /// The product of `rows` rows of `depth` floats, which lie as far apart as `a` says, with packed panels of `cols` columns.
    ///
    /// # Safety
    /// `S` must be available, and the pointers valid for these sizes.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(
        &self,
        [rows, depth, cols]: [usize; 3],
        (a, pitch): (*const f32, usize),
        packed: *const f32,
        (out, out_pitch): (*mut f32, usize),
    ) {
        let panel = self.plan.panel;
        let offsets: [usize; MAX_ROWS] = std::array::from_fn(|i| i * out_pitch);
        let mut starts = [0; MOST + 1];
        let starts = tile_starts(rows, S::TILE_ROWS, &mut starts);
        for col in (0..cols).step_by(panel) {
            for part in starts.windows(2) {
                // Safety: the caller's; a panel's columns start where those before it end.
                unsafe {
                    run_tile::<S, Matrix>(Tile {
                        depth,
                        a: a.add(part[0] * pitch),
                        pitch,
                        b: packed.add(col * depth),
                        out: out.add(part[0] * out_pitch + col),
                        rows: &offsets[..part[1] - part[0]],
                        cols: panel.min(cols - col),
                        ..Tile::PRODUCT
                    });
                }
            }
        }
    }
}

/// Replaces the scores of a query with the exponentials of `scale scores + mask`, and gives the sum of these. (All are divided by that of the largest.)
///
/// # Safety
/// `S` must be available, `scores` valid for `keys` floats, and the mask have as many.
#[inline(always)]
unsafe fn exponentials_of<S: Simd>(scale: f32, mask: Option<&[f32]>, scores: *mut f32, keys: usize) -> f32 {
    // Safety: the caller's.
    unsafe {
        match mask {
            Some(mask) => scale_and_add::<S>(scale, scores, mask.as_ptr(), keys),
            None if scale != 1.0 => line::<S>(scale, scores, 0.0, scores, keys),
            None => {}
        }
        exponentials::<S>(scores, keys, largest::<S>(scores, keys), scores)
    }
}

/// The elements from a matrix on; none where it has none.
#[inline(always)]
fn matrix<'a>(all: &'a [f32], stack: &Stack, index: usize) -> &'a [f32] {
    all.get(stack.starts[index]..).unwrap_or_default()
}

/// scores = scale scores + mask.
///
/// # Safety
/// `S` must be available; both have `len` floats.
#[inline(always)]
unsafe fn scale_and_add<S: Simd>(scale: f32, scores: *mut f32, mask: *const f32, len: usize) {
    let whole = len - len % S::LANES;
    let n = len - whole;
    // Safety: the vectors lie within `len` floats.
    unsafe {
        let scale = S::splat(scale);
        for at in (0..whole).step_by(S::LANES) {
            let scaled = S::mul(scale, S::load(scores.add(at)));
            S::store(scores.add(at), S::add(scaled, S::load(mask.add(at))));
        }
        if n > 0 {
            let scaled = S::mul(scale, S::load_first(scores.add(whole), n));
            S::store_first(scores.add(whole), n, S::add(scaled, S::load_first(mask.add(whole), n)));
        }
    }
}

/// Packs a matrix of `rows` and `cols`, where `steps` lead to the next of each, as `[cols / panel][rows][panel]`. The last panel is as
/// wide as whole vectors need; what it has beyond the columns are zeros.
fn pack(
    from: &[f32],
    [rows, cols]: [usize; 2],
    steps: [usize; 2],
    [panel, lanes]: [usize; 2],
    to: &mut [f32],
) {
    let mut rest = to;
    for first in (0..cols).step_by(panel) {
        let columns = panel.min(cols - first);
        let width = columns.next_multiple_of(lanes);
        let (part, after) = rest.split_at_mut(width * rows);
        rest = after;
        if steps[1] == 1 {
            for (row, to) in part.chunks_exact_mut(width).enumerate() {
                to[..columns].copy_from_slice(&from[row * steps[0] + first..][..columns]);
                to[columns..].fill(0.0);
            }
            continue;
        }
        if columns < width {
            part.fill(0.0);
        }
        for column in 0..columns {
            let from = &from[(first + column) * steps[1]..][..rows];
            part[column..].iter_mut().step_by(width).zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

#[cfg(test)]
mod tests;
