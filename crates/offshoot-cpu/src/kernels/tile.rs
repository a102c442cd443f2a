//! The one inner loop under convolutions and matrix products: a tile of the output held in registers.

use std::mem::MaybeUninit;

use super::simd::{Isa, Simd};

/// Largest depth (elements of the reduction) that one tile call runs over. A panel of the filter this deep stays
/// in L1 or L2 while the tiles of a block pass over it.
pub(super) const DEPTH: usize = 384;

/// Floats between two rows of a gathered block: an odd number of cache lines, so that rows spread over all cache
/// sets, and at least a vector more than [`DEPTH`], so that copies may end with a whole vector.
pub(super) const STRIDE: usize = DEPTH + 16;

/// Most rows of any path's tile.
pub(super) const MAX_ROWS: usize = 14;

/// Most columns of any path's tile.
pub(super) const MAX_COLS: usize = 32;

/// Columns of a whole tile of `isa`.
pub(super) fn tile_cols(isa: Isa) -> usize {
    isa.lanes() * isa.tile_vectors()
}

/// How the left operand lies in memory. Its distances are constants, so that they become displacements.
pub(super) trait Left {
    /// Whether each float of both operands is a pair of bf16, two steps of the reduction.
    const PAIRS: bool = false;
    /// Floats from a row of the tile to the next.
    const ROW: usize;
    /// Floats from a step of the reduction to the next.
    const STEP: usize;
}

/// Rows of a gathered block are rows of the tile.
pub(super) struct RowMajor;
impl Left for RowMajor {
    const ROW: usize = STRIDE;
    const STEP: usize = 1;
}

/// Rows of a gathered block are steps of the reduction.
pub(super) struct StepMajor;
impl Left for StepMajor {
    const ROW: usize = 1;
    const STEP: usize = STRIDE;
}

/// As [`RowMajor`], of pairs of bf16.
pub(super) struct RowMajorPairs;
impl Left for RowMajorPairs {
    const PAIRS: bool = true;
    const ROW: usize = STRIDE;
    const STEP: usize = 1;
}

/// As [`StepMajor`], of pairs of bf16.
pub(super) struct StepMajorPairs;
impl Left for StepMajorPairs {
    const PAIRS: bool = true;
    const ROW: usize = 1;
    const STEP: usize = STRIDE;
}

/// One tile: `out[i][j] = clip(bias[j] + add[i][j] + sum over k < depth of a[i][k] * b[k][j])`.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Steps of the reduction.
    pub(super) depth: usize,
    /// The left operand, laid out as [`Left`] says.
    pub(super) a: *const f32,
    /// The right operand: whole vectors must be readable, also past `cols`.
    pub(super) b: *const f32,
    /// Floats from a step of `b` to the next.
    pub(super) b_step: usize,
    /// `cols` floats.
    pub(super) bias: *const f32,
    /// Same places as `out`; may be `out` itself.
    pub(super) add: Option<*const f32>,
    /// Where the tile goes.
    pub(super) out: *mut f32,
    /// Where each row of the tile begins, in floats past `out` and `add`; at most `S::TILE_ROWS`.
    pub(super) rows: &'a [usize],
    /// Columns, at most `S::TILE_VECTORS * S::LANES`.
    pub(super) cols: usize,
    /// Clip to these.
    pub(super) bounds: (f32, f32),
}

/// Computes `tile`. Every element is summed in order of k, whatever the size of the tile.
///
/// # Safety
/// `S` must be available and the pointers valid for what [`Tile`] says of them.
#[inline(always)]
pub(super) unsafe fn run_tile<S: Simd, L: Left>(tile: Tile<'_>) {
    let vectors = tile.cols.div_ceil(S::LANES);
    let whole = vectors * S::LANES;
    let mut staged_bias = [0.0f32; MAX_COLS];
    let mut staged_out = MaybeUninit::<[f32; MAX_ROWS * MAX_COLS]>::uninit();
    let staged_rows: [usize; MAX_ROWS] = std::array::from_fn(|i| i * MAX_COLS);
    let mut inner = tile;
    // Safety: the stage holds the largest tile; the rest is the caller's promise.
    unsafe {
        if whole != tile.cols {
            let stage = staged_out.as_mut_ptr().cast::<f32>();
            copy_cols::<S>(tile.bias, staged_bias.as_mut_ptr(), tile.cols);
            if let Some(add) = tile.add {
                for (i, &row) in tile.rows.iter().enumerate() {
                    copy_cols::<S>(add.add(row), stage.add(i * MAX_COLS), tile.cols);
                }
                inner.add = Some(stage);
            }
            inner.bias = staged_bias.as_ptr();
            inner.out = stage;
            inner.rows = &staged_rows[..tile.rows.len()];
        }
        run_rows::<S, L>(inner, vectors);
        if whole != tile.cols {
            for (i, &row) in tile.rows.iter().enumerate() {
                copy_cols_exact::<S>(inner.out.add(i * MAX_COLS), tile.out.add(row), tile.cols);
            }
        }
    }
}

/// Copies `n` floats and zeros the destination up to a whole vector.
#[inline(always)]
unsafe fn copy_cols<S: Simd>(from: *const f32, to: *mut f32, n: usize) {
    let mut i = 0;
    while i + S::LANES <= n {
        // Safety: within `n`.
        unsafe { S::store(to.add(i), S::load(from.add(i))) };
        i += S::LANES;
    }
    if i < n {
        // Safety: reads within `n`; the caller gives room for a whole vector.
        unsafe { S::store(to.add(i), S::load_first(from.add(i), n - i)) };
    }
}

/// Copies `n` floats and nothing more.
#[inline(always)]
unsafe fn copy_cols_exact<S: Simd>(from: *const f32, to: *mut f32, n: usize) {
    let mut i = 0;
    while i + S::LANES <= n {
        // Safety: within `n`.
        unsafe { S::store(to.add(i), S::load(from.add(i))) };
        i += S::LANES;
    }
    if i < n {
        // Safety: within `n`; the stage holds whole vectors.
        unsafe { S::store_first(to.add(i), n - i, S::load(from.add(i))) };
    }
}

/// Calls the tile compiled for this number of rows.
#[inline(always)]
unsafe fn run_rows<S: Simd, L: Left>(tile: Tile<'_>, vectors: usize) {
    // Safety: the caller's.
    unsafe {
        match tile.rows.len() {
            1 => run_vectors::<S, L, 1>(tile, vectors),
            2 => run_vectors::<S, L, 2>(tile, vectors),
            3 => run_vectors::<S, L, 3>(tile, vectors),
            4 => run_vectors::<S, L, 4>(tile, vectors),
            5 => run_vectors::<S, L, 5>(tile, vectors),
            6 => run_vectors::<S, L, 6>(tile, vectors),
            7 => run_vectors::<S, L, 7>(tile, vectors),
            8 => run_vectors::<S, L, 8>(tile, vectors),
            9 => run_vectors::<S, L, 9>(tile, vectors),
            10 => run_vectors::<S, L, 10>(tile, vectors),
            11 => run_vectors::<S, L, 11>(tile, vectors),
            12 => run_vectors::<S, L, 12>(tile, vectors),
            13 => run_vectors::<S, L, 13>(tile, vectors),
            14 => run_vectors::<S, L, 14>(tile, vectors),
            _ => {}
        }
    }
}

/// Calls the tile compiled for this number of vectors a row; a path has only the tiles that fit its registers.
#[inline(always)]
unsafe fn run_vectors<S: Simd, L: Left, const ROWS: usize>(tile: Tile<'_>, vectors: usize) {
    if const { ROWS > S::TILE_ROWS } {
        return;
    }
    // Safety: the caller's.
    unsafe {
        match vectors {
            1 => run_registers::<S, L, ROWS, 1>(tile),
            2 if const { S::TILE_VECTORS >= 2 } => run_registers::<S, L, ROWS, 2>(tile),
            3 if const { S::TILE_VECTORS >= 3 } => run_registers::<S, L, ROWS, 3>(tile),
            4 if const { S::TILE_VECTORS >= 4 } => run_registers::<S, L, ROWS, 4>(tile),
            _ => {}
        }
    }
}

/// The tile itself. Loops over rows and vectors have constant bounds and are unrolled; the sums stay in registers.
#[inline(always)]
unsafe fn run_registers<S: Simd, L: Left, const ROWS: usize, const VECTORS: usize>(tile: Tile<'_>) {
    // Safety: the caller's promises about the pointers; `rows` has ROWS elements.
    unsafe {
        let rows = tile.rows.as_ptr();
        // Loops, not closures: a closure does not take on the target features of the function that it is in.
        let mut bias = [S::splat(0.0); VECTORS];
        for (v, bias) in bias.iter_mut().enumerate() {
            *bias = S::load(tile.bias.add(v * S::LANES));
        }
        let mut sums = [bias; ROWS];
        if let Some(add) = tile.add {
            for (i, row) in sums.iter_mut().enumerate() {
                let add = add.add(*rows.add(i));
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = S::add(*sum, S::load(add.add(v * S::LANES)));
                }
            }
        }
        let (mut a, mut b) = (tile.a, tile.b);
        for _ in 0..tile.depth {
            let mut right = [S::splat(0.0); VECTORS];
            for (v, right) in right.iter_mut().enumerate() {
                *right = S::load(b.add(v * S::LANES));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let left = S::splat(*a.add(i * L::ROW));
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = if L::PAIRS {
                        S::dot_bf16(left, right[v], *sum)
                    } else {
                        S::fma(left, right[v], *sum)
                    };
                }
            }
            a = a.wrapping_add(L::STEP);
            b = b.wrapping_add(tile.b_step);
        }
        let (low, high) = (S::splat(tile.bounds.0), S::splat(tile.bounds.1));
        for (i, row) in sums.iter().enumerate() {
            let out = tile.out.add(*rows.add(i));
            for (v, &sum) in row.iter().enumerate() {
                S::store(out.add(v * S::LANES), S::at_most(S::at_least(sum, low), high));
            }
        }
    }
}
