//! Attention: softmax(scale q kᵀ + mask) v for a stack of matrices.
//!
//! A task takes the queries of one matrix, or part of them, and packs the keys and values once. It computes the scores of a few
//! queries at a time, so that these stay in the cache between the two products, and never holds all of them. A row of the result does not
//! depend on the rows beside it.

pub(crate) mod grad;
mod stack;

use std::ops::Range;

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
pub(crate) struct Operands<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    /// What the scores are multiplied with.
    pub(crate) scale: f32,
    /// Added to the scores then.
    pub(crate) mask: Option<&'a [f32]>,
}

/// Writes `softmax(scale q kᵀ + mask) v` of each matrix of the stack to `y`.
///
/// # Panics
/// When the matrices are not within their slices, or do not lie as `shape` says; when two matrices of `y` share elements.
pub(crate) fn attention(isa: Isa, shape: &AttentionShape, operands: Operands<'_>, y: &mut [f32]) {
    let AttentionShape { count, queries, keys, depth, width, .. } = *shape;
    check_operands(shape, operands, y);
    check_apart(&shape.y, [queries, width]);
    if [count, queries, width].contains(&0) {
        return;
    }
    let plan = Plan::new(isa, shape);
    let out = Shared::new(y);
    let work = elements([count, queries, depth + width]).saturating_mul(keys.max(1));
    parallel::for_each_task(count * plan.parts, work, |index| {
        let (matrix, part) = (index / plan.parts, index % plan.parts);
        let rows = parallel::part(queries, plan.parts, part);
        parallel::with_scratch(plan.scratch(shape), |scratch| {
            dispatch(isa, Task { shape, plan: &plan, operands, matrix, rows, scratch, out });
        });
    });
}

/// `y` is the result or its gradient.
fn check_operands(shape: &AttentionShape, operands: Operands<'_>, y: &[f32]) {
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
                    *sum = self.exponentials::<S>(start + i, scores.add(i * pitch));
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

    /// Replaces the scores of a query with their exponentials, and gives the sum of these.
    ///
    /// # Safety
    /// `S` must be available, and `scores` valid for a float a key.
    #[inline(always)]
    unsafe fn exponentials<S: Simd>(&self, query: usize, scores: *mut f32) -> f32 {
        let keys = self.shape.keys;
        // Safety: the caller's; the mask has a row for each query.
        unsafe {
            match self.operands.mask.zip(self.shape.mask.as_ref()) {
                Some((mask, stack)) => {
                    let mask = mask[stack.starts[self.matrix] + query * stack.row..][..keys].as_ptr();
                    scale_and_add::<S>(self.operands.scale, scores, mask, keys);
                }
                None if self.operands.scale != 1.0 => {
                    line::<S>(self.operands.scale, scores, 0.0, scores, keys)
                }
                None => {}
            }
            exponentials::<S>(scores, keys, largest::<S>(scores, keys), scores)
        }
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
mod tests {
    use super::super::strided::{Strided, copy_strided};
    use super::*;
    use crate::kernels::testing::{assert_close, assert_same_on_any_threads, normals};

    /// Two matrices of each size, with operands and a mask.
    pub(super) struct Case {
        pub(super) shape: AttentionShape,
        pub(super) q: Vec<f32>,
        pub(super) k: Vec<f32>,
        pub(super) v: Vec<f32>,
        pub(super) mask: Vec<f32>,
        /// `k` with each matrix as its transpose.
        pub(super) transposed: Vec<f32>,
    }

    /// Matrices one after another.
    pub(super) fn stack(sizes: [usize; 3]) -> Stack {
        Stack::new(&Strided::dense(sizes.to_vec())).expect("matrices")
    }

    /// A stack of attentions whose operands and result are one matrix after another, without a mask.
    pub(super) fn dense([count, queries, keys, depth, width]: [usize; 5]) -> AttentionShape {
        AttentionShape {
            count,
            queries,
            keys,
            depth,
            width,
            q: stack([count, queries, depth]),
            k: stack([count, keys, depth]),
            v: stack([count, keys, width]),
            mask: None,
            y: stack([count, queries, width]),
        }
    }

    impl AttentionShape {
        /// With a mask for each matrix, one after another.
        pub(super) fn masked(&self) -> AttentionShape {
            AttentionShape { mask: Some(stack([self.count, self.queries, self.keys])), ..self.clone() }
        }

        /// With keys as columns.
        pub(super) fn by_columns(&self) -> AttentionShape {
            AttentionShape { k: stack([self.count, self.depth, self.keys]).transposed(), ..self.clone() }
        }
    }

    /// Each matrix of `rows` and `columns` of a stack as its transpose.
    pub(super) fn transpose(stack: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
        let matrices = stack.chunks_exact(rows * columns);
        let places = || (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j));
        matrices.flat_map(|matrix| places().map(|at| matrix[at])).collect()
    }

    pub(super) fn cases() -> impl Iterator<Item = Case> {
        // (Heads wider than a part of a block, and more keys than that.)
        let sizes = [
            (1, 1, 1, 1),
            (5, 3, 4, 7),
            (49, 49, 32, 32),
            (300, 197, 24, 40),
            (9, 20, 391, 400),
            (60, 800, 17, 5),
        ];
        sizes.into_iter().map(|(queries, keys, depth, width)| {
            let count = 2;
            let len = [queries * depth, keys * depth, keys * width, queries * keys].map(|n| n * count);
            let [q, k, v, mask] = [0, 1, 2, 3].map(|i| normals(i as u64, len[i]));
            let shape = dense([count, queries, keys, depth, width]);
            let transposed = transpose(&k, [keys, depth]);
            Case { shape, q, k, v, mask, transposed }
        })
    }

    /// softmax(scale q kᵀ + mask) v of one query, in f64.
    fn expected(q: &[f32], k: &[f32], v: &[f32], scale: f32, mask: &[f32], width: usize) -> Vec<f64> {
        let scores: Vec<f64> = k
            .chunks_exact(q.len())
            .enumerate()
            .map(|(i, k)| {
                let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                dot * f64::from(scale) + mask.get(i).map_or(0.0, |m| f64::from(*m))
            })
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let column = |j| {
            weights.iter().zip(v.chunks_exact(width)).map(|(w, v)| w * f64::from(v[j])).sum::<f64>() / sum
        };
        (0..width).map(column).collect()
    }

    #[test]
    fn attention_is_what_its_formula_says_on_every_path() {
        for Case { shape: first, q, k, v, mask, transposed } in cases() {
            let AttentionShape { count, queries, keys, depth, width, .. } = first;
            for mask in [None, Some(&mask[..])] {
                let first = if mask.is_some() { first.masked() } else { first.clone() };
                let last = first.by_columns();
                let row = |row: usize| {
                    let matrix = row / queries;
                    let [k, v] = [(&k, depth), (&v, width)].map(|(x, n)| &x[matrix * keys * n..][..keys * n]);
                    let mask = mask.map_or(&[][..], |mask| &mask[row * keys..][..keys]);
                    expected(&q[row * depth..][..depth], k, v, 0.7, mask, width)
                };
                let wanted: Vec<f64> = (0..count * queries).flat_map(row).collect();
                for isa in Isa::available() {
                    for (shape, k) in [(&first, &k), (&last, &transposed)] {
                        let run = || {
                            let mut y = vec![f32::NAN; count * queries * width];
                            attention(isa, shape, Operands { q: &q, k, v: &v, scale: 0.7, mask }, &mut y);
                            y
                        };
                        let what = format!("{isa} {queries} {keys} {depth} {width} {:?}", mask.is_some());
                        assert_close(&what, &run(), &wanted, 1e-5);
                        assert_same_on_any_threads(&what, run);
                    }
                }
            }
        }
    }

    #[test]
    fn operands_may_lie_between_each_other() {
        // q, k and v as parts of each token's row, head by head, and the result token by token.
        let [pictures, heads, tokens, depth, width] = [2, 3, 9, 4, 5];
        let row = heads * (2 * depth + width);
        let x = normals(3, pictures * tokens * row);
        let part = |start: usize, size: usize| Strided {
            start: start * heads,
            shape: vec![pictures, heads, tokens, size],
            strides: vec![tokens * row, size, row, 1],
        };
        let places = [part(0, depth), part(depth, depth), part(2 * depth, width)];
        let out = Strided {
            start: 0,
            shape: vec![pictures, heads, tokens, width],
            strides: vec![tokens * heads * width, width, heads * width, 1],
        };
        let dense = dense([pictures * heads, tokens, tokens, depth, width]);
        let [q, k, v] = places.each_ref().map(|places| {
            let mut part = vec![0.0; places.len()];
            copy_strided(&x, places, &mut part);
            part
        });
        for isa in Isa::available() {
            let mut wanted = vec![0.0; dense.count * tokens * width];
            attention(isa, &dense, Operands { q: &q, k: &k, v: &v, scale: 0.5, mask: None }, &mut wanted);
            let [of_q, of_k, of_v, of_y] =
                [&places[0], &places[1], &places[2], &out].map(|p| Stack::new(p).expect("matrices"));
            let shape = AttentionShape { q: of_q, k: of_k, v: of_v, y: of_y, ..dense.clone() };
            let mut y = vec![0.0; wanted.len()];
            attention(isa, &shape, Operands { q: &x, k: &x, v: &x, scale: 0.5, mask: None }, &mut y);
            let mut found = vec![0.0; y.len()];
            copy_strided(&y, &out, &mut found);
            assert_eq!(found, wanted, "{isa}");
        }
    }

    #[test]
    fn a_nan_stays_in_its_row() {
        let shape = dense([1, 2, 20, 3, 5]);
        let (mut q, k, v) = (normals(0, 6), normals(1, 60), normals(2, 100));
        q[0] = f32::NAN;
        for isa in Isa::available() {
            let mut y = vec![0.0; 10];
            attention(isa, &shape, Operands { q: &q, k: &k, v: &v, scale: 1.0, mask: None }, &mut y);
            assert!(y[..5].iter().all(|y| y.is_nan()) && y[5..].iter().all(|y| y.is_finite()), "{isa} {y:?}");
        }
    }
}
