//! Matrix products of row-major matrices: what a linear layer needs forward (`y = x wᵀ + b`) and backward
//! (`dx = dy w`, `dw = dyᵀ x`).
//!
//! `a bᵀ` reads both along rows and is a block of dot products; the others gather blocks of both operands into
//! scratch and run the register tile of the convolutions. An element depends neither on the number of threads
//! nor on how many rows there are beside its own.

pub(crate) mod tiled;

use std::ops::Range;

use super::gather::copy;
use super::parallel::{self, Shared};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;
use super::tile::{self, DEPTH, Layout, RowMajorBlocks, STRIDE, StepMajor, Tile, run_tile};

/// Sizes of `c[m][n] = a[m][k] * b[k][n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmShape {
    /// `a` is stored as its transpose, `[k][m]`.
    pub trans_a: bool,
    /// `b` is stored as its transpose, `[n][k]`.
    pub trans_b: bool,
    /// Rows of `c`.
    pub m: usize,
    /// Columns of `c`.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
}

/// `c = a * b + bias`, with one bias a column.
///
/// # Panics
/// When a slice has not the size that `shape` says.
pub fn gemm(isa: Isa, shape: &GemmShape, a: &[f32], b: &[f32], bias: Option<&[f32]>, c: &mut [f32]) {
    let GemmShape { trans_a, trans_b, m, n, k } = *shape;
    let sizes = [elements([m, k]), elements([k, n]), elements([m, n])];
    assert_eq!([a.len(), b.len(), c.len()], sizes, "operands of {shape:?}");
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias of {shape:?}");
    if c.is_empty() {
        return;
    }
    let c = Shared(c.as_mut_ptr());
    if trans_b && !trans_a {
        let tasks = n.div_ceil(DOT_BLOCK);
        // With few rows, reading `b` takes longer than multiplying.
        parallel::for_each_task(tasks, m.max(READ).saturating_mul(n).saturating_mul(k), |index| {
            let cols = index * DOT_BLOCK..((index + 1) * DOT_BLOCK).min(n);
            dispatch(isa, Dots { shape, a, b, bias, c, cols });
        });
    } else {
        let [height, width] = block(m, n);
        let (row_blocks, col_blocks) = (m.div_ceil(height), n.div_ceil(width));
        parallel::for_each_task(row_blocks * col_blocks, (m * n).saturating_mul(k), |index| {
            let (row, col) = (index / col_blocks * height, index % col_blocks * width);
            let (rows, cols) = (row..(row + height).min(m), col..(col + width).min(n));
            parallel::with_scratch(2 * DEPTH * STRIDE, |scratch| {
                dispatch(isa, Product { shape, a, b, bias, c, rows, cols, scratch });
            });
        });
    }
}

/// `c[i] = a[i] * b[i]` for each of `count` matrices of `shape` one after another.
///
/// # Panics
/// When a slice has not the size that `count` and `shape` say.
pub fn matmul(isa: Isa, count: usize, shape: &GemmShape, a: &[f32], b: &[f32], c: &mut [f32]) {
    let GemmShape { m, n, k, .. } = *shape;
    let sizes = [elements([count, m, k]), elements([count, k, n]), elements([count, m, n])];
    assert_eq!([a.len(), b.len(), c.len()], sizes, "{count} times {shape:?}");
    let shared = Shared(c.as_mut_ptr());
    parallel::for_each_task(count, (count * m * n).saturating_mul(k), |i| {
        let (a, b) = (&a[i * m * k..(i + 1) * m * k], &b[i * k * n..(i + 1) * k * n]);
        // Safety: each task has a matrix of its own, of the `count` in `c`.
        let c = unsafe { std::slice::from_raw_parts_mut(shared.at(i * m * n), m * n) };
        parallel::serially(0, |_| gemm(isa, shape, a, b, None, c));
    });
}

/// Multiply-adds in the time that it takes to read a float of a matrix that is not in the first caches.
const READ: usize = 8;

/// Columns of `c` that a task of dot products owns: a multiple of [`DOT_COLS`].
const DOT_BLOCK: usize = 48;

/// Rows and columns of `c` whose sums stay in registers together: sixteen registers with their operands.
const DOT_ROWS: usize = 4;
const DOT_COLS: usize = 3;

/// A task of `a * bᵀ`: all rows of `c` by some columns.
struct Dots<'a> {
    shape: &'a GemmShape,
    a: &'a [f32],
    b: &'a [f32],
    bias: Option<&'a [f32]>,
    c: Shared,
    cols: Range<usize>,
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let m = self.shape.m;
        for col in self.cols.clone().step_by(DOT_COLS) {
            for row in (0..m).step_by(DOT_ROWS) {
                // Safety: `S` is available; rows and columns are within the operands.
                unsafe {
                    match m - row {
                        1 => self.tile::<S, 1>(row, col),
                        2 => self.tile::<S, 2>(row, col),
                        3 => self.tile::<S, 3>(row, col),
                        _ => self.tile::<S, DOT_ROWS>(row, col),
                    }
                }
            }
        }
    }
}

impl Dots<'_> {
    /// Dot products of `R` rows of `a` with [`DOT_COLS`] rows of `b`; where `b` ends, its last row again.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(&self, row: usize, col: usize) {
        let GemmShape { n, k, .. } = *self.shape;
        let last = self.cols.end - 1;
        // Safety: every row read is a row of its matrix, and `k` floats long; the columns of `c` are this task's.
        unsafe {
            let a: [*const f32; R] = std::array::from_fn(|i| self.a.as_ptr().add((row + i) * k));
            let b: [*const f32; DOT_COLS] =
                std::array::from_fn(|j| self.b.as_ptr().add((col + j).min(last) * k));
            let mut sums = [[S::splat(0.0); DOT_COLS]; R];
            let mut at = 0;
            while at + S::LANES <= k {
                step::<S, R, true>(&mut sums, &a, &b, at, S::LANES);
                at += S::LANES;
            }
            if at < k {
                step::<S, R, false>(&mut sums, &a, &b, at, k - at);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    if col + j <= last {
                        let bias = self.bias.map_or(0.0, |bias| bias[col + j]);
                        *self.c.get().add((row + i) * n + col + j) = S::sum(sum) + bias;
                    }
                }
            }
        }
    }
}

/// One vector of the dot products, or its first `n` lanes. (No closures: they do not take on target features.)
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const WHOLE: bool>(
    sums: &mut [[S::V; DOT_COLS]; R],
    a: &[*const f32; R],
    b: &[*const f32; DOT_COLS],
    at: usize,
    n: usize,
) {
    // Safety: the caller's rows hold `n` floats from `at`.
    unsafe {
        let mut right = [S::splat(0.0); DOT_COLS];
        for (right, b) in right.iter_mut().zip(b) {
            *right = if WHOLE { S::load(b.add(at)) } else { S::load_first(b.add(at), n) };
        }
        for (sums, a) in sums.iter_mut().zip(a) {
            let left = if WHOLE { S::load(a.add(at)) } else { S::load_first(a.add(at), n) };
            for (sum, &right) in sums.iter_mut().zip(&right) {
                *sum = S::fma(left, right, *sum);
            }
        }
    }
}

/// Most rows and columns of `c` that a task of the other products owns: a row of a block holds them.
const SIDE: usize = 384;

/// Steps of the reduction whose parts of both operands a task holds at once. With [`SIDE`] they fit the second-level cache.
const STEPS: usize = 192;

/// Rows and columns of the blocks that `c` is cut into. Large ones copy fewer operands; where there are too few for all threads they are
/// half as high and wide. It does not change the result.
fn block(m: usize, n: usize) -> [usize; 2] {
    let counts = |side: usize| [m, n].map(|len| len.div_ceil(side));
    let [rows, cols] = match counts(SIDE) {
        [rows, cols] if rows * cols >= 3 * parallel::threads() => [rows, cols],
        _ => counts(SIDE / 2),
    };
    [m.div_ceil(rows), n.div_ceil(cols).next_multiple_of(tile::MAX_COLS)]
}

/// A task of the other products: a block of `c`.
struct Product<'a> {
    shape: &'a GemmShape,
    a: &'a [f32],
    b: &'a [f32],
    bias: Option<&'a [f32]>,
    c: Shared,
    rows: Range<usize>,
    cols: Range<usize>,
    /// Two blocks of [`DEPTH`] rows of [`STRIDE`] floats.
    scratch: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // Safety: `S` is available.
        unsafe {
            if self.shape.trans_a {
                self.run_parts::<S, StepMajor>();
            } else {
                self.run_parts::<S, RowMajorBlocks>();
            }
        }
    }
}

impl Product<'_> {
    /// Runs over the parts of the sums.
    #[inline(always)]
    unsafe fn run_parts<S: Simd, L: Layout>(&mut self) {
        let GemmShape { trans_a, trans_b, m, n, k } = *self.shape;
        let parts = k.div_ceil(STEPS).max(1);
        let left = self.scratch.as_mut_ptr();
        let right = left.wrapping_add(DEPTH * STRIDE);
        for i in 0..parts {
            let depth = parallel::part(k, parts, i);
            let (rows, cols) = (self.rows.clone(), self.cols.clone());
            // Safety: a block has at most DEPTH rows of as many floats, as SIDE and STEPS are no more, and rows have room for a vector more.
            unsafe {
                let (a_rows, a_cols, a_width) =
                    if trans_a { (depth.clone(), rows, m) } else { (rows, depth.clone(), k) };
                copy_block::<S>(self.a, a_width, a_rows, a_cols, left);
                if trans_b {
                    transpose_block(self.b, k, cols, depth.clone(), right);
                } else {
                    copy_block::<S>(self.b, n, depth.clone(), cols, right);
                }
                self.multiply::<S, L>(depth.len(), i == 0, left, right);
            }
        }
    }

    /// Multiplies the gathered blocks into `c`.
    #[inline(always)]
    unsafe fn multiply<S: Simd, L: Layout>(
        &self,
        depth: usize,
        first: bool,
        left: *const f32,
        right: *const f32,
    ) {
        let n = self.shape.n;
        let panel = S::LANES * S::TILE_VECTORS;
        let offsets: [usize; tile::MAX_ROWS] = std::array::from_fn(|i| i * n);
        let tiles = self.rows.len().div_ceil(S::TILE_ROWS);
        for col in self.cols.clone().step_by(panel) {
            let bias = match self.bias {
                Some(bias) if first => bias[col..].as_ptr(),
                _ => tile::ZEROS.as_ptr(),
            };
            for i in 0..tiles {
                let rows = parallel::part(self.rows.len(), tiles, i);
                // Safety: the tile lies within this task's block of `c`.
                unsafe {
                    let out = self.c.get().add((self.rows.start + rows.start) * n + col);
                    run_tile::<S, L>(Tile {
                        depth,
                        a: left.add(
                            rows.start * const { L::ROW.expect("rows of a block are a constant apart") },
                        ),
                        b: right.add(col - self.cols.start),
                        bias,
                        add: if first { None } else { Some(out.cast_const()) },
                        out,
                        rows: &offsets[..rows.len()],
                        cols: (self.cols.end - col).min(panel),
                        ..Tile::PRODUCT
                    });
                }
            }
        }
    }
}

/// Copies a block of a matrix with rows of `width` floats.
#[inline(always)]
unsafe fn copy_block<S: Simd>(
    from: &[f32],
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    to: *mut f32,
) {
    for (i, row) in rows.enumerate() {
        let from = &from[row * width..][cols.clone()];
        // Safety: a row of `to` has room for `cols` and a vector.
        unsafe { copy::<S, f32, f32>(from.as_ptr(), to.add(i * STRIDE), from.len()) };
    }
}

/// Copies the transpose of a block of a matrix with rows of `width` floats.
#[inline(always)]
unsafe fn transpose_block(from: &[f32], width: usize, rows: Range<usize>, cols: Range<usize>, to: *mut f32) {
    for (i, row) in rows.enumerate() {
        for (j, &value) in from[row * width..][cols.clone()].iter().enumerate() {
            // Safety: `to` has a row for each of `cols`, with room for `rows`.
            unsafe { *to.add(j * STRIDE + i) = value };
        }
    }
}
