//! The one inner loop under convolutions and matrix products: a tile of the output held in registers.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::prefetch::Stream;
use super::simd::{Isa, Kernel, Simd, tiles};

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

/// Most rows of a tile.
pub(super) const fn most_rows<S: Simd, L: Layout>() -> usize {
    if L::TILES { tiles::MOST_ROWS } else { S::TILE_ROWS }
}

/// Columns of a whole tile of `isa`.
pub(super) fn tile_cols(isa: Isa) -> usize {
    isa.lanes() * isa.tile_vectors()
}

/// Where the tiles of `rows` > 0 rows start, as few of at most `most` rows as there can be, and where the last one ends: in `starts`,
/// which has room for one more than there are rows. (Divisions take as long as a few steps of a tile.)
#[inline(always)]
pub(super) fn tile_starts(rows: usize, most: usize, starts: &mut [usize]) -> &[usize] {
    let tiles = rows.div_ceil(most);
    for (i, start) in starts[..=tiles].iter_mut().enumerate() {
        *start = rows * i / tiles;
    }
    &starts[..=tiles]
}

/// How the operands lie in memory. Their distances are constants, so that they become displacements, except in [`Matrix`].
pub(super) trait Layout {
    /// Whether each float of both operands is a pair of bf16, two steps of the reduction.
    const PAIRS: bool = false;
    /// Whether products run on the tiles of a matrix unit ([`tiles`](super::simd::tiles)). Both operands then hold pairs of bf16, in steps of whole tiles.
    const TILES: bool = false;
    /// Whether the vectors of the right operand follow one another. Otherwise [`STRIDE`] floats lie between two steps of the
    /// reduction.
    const PACKED: bool;
    /// Floats of the left operand from a row of the tile to the next; those of [`Tile::pitch`] otherwise.
    const ROW: Option<usize>;
    /// Floats of the left operand from a step of the reduction to the next.
    const STEP: usize;
    /// Whether the steps of the left operand are at [`Tile::offsets`] instead.
    const OFFSETS: bool = false;
}

/// Rows of a gathered block are rows of the tile.
pub(super) struct RowMajor;
impl Layout for RowMajor {
    const PACKED: bool = true;
    const ROW: Option<usize> = Some(STRIDE);
    const STEP: usize = 1;
}

/// As [`RowMajor`], of rows that lie as far from one another as [`Tile::pitch`] says.
pub(super) struct Matrix;
impl Layout for Matrix {
    const PACKED: bool = true;
    const ROW: Option<usize> = None;
    const STEP: usize = 1;
}

/// Windows of a picture that start as far from one another as [`Tile::pitch`] says, each with its elements at [`Tile::offsets`].
pub(super) struct Windows;
impl Layout for Windows {
    const PACKED: bool = true;
    const ROW: Option<usize> = None;
    const STEP: usize = 0;
    const OFFSETS: bool = true;
}

/// As [`RowMajor`], with a block on the right too.
pub(super) struct RowMajorBlocks;
impl Layout for RowMajorBlocks {
    const PACKED: bool = false;
    const ROW: Option<usize> = Some(STRIDE);
    const STEP: usize = 1;
}

/// Rows of a gathered block are steps of the reduction.
pub(super) struct StepMajor;
impl Layout for StepMajor {
    const PACKED: bool = false;
    const ROW: Option<usize> = Some(1);
    const STEP: usize = STRIDE;
}

/// As [`RowMajor`], of pairs of bf16.
pub(super) struct RowMajorPairs;
impl Layout for RowMajorPairs {
    const PAIRS: bool = true;
    const PACKED: bool = true;
    const ROW: Option<usize> = Some(STRIDE);
    const STEP: usize = 1;
}

/// As [`RowMajorPairs`], on tiles.
pub(super) struct RowMajorTiles;
impl Layout for RowMajorTiles {
    const PAIRS: bool = true;
    const TILES: bool = true;
    const PACKED: bool = true;
    const ROW: Option<usize> = Some(STRIDE);
    const STEP: usize = 1;
}

/// As [`StepMajor`], of pairs of bf16.
pub(super) struct StepMajorPairs;
impl Layout for StepMajorPairs {
    const PAIRS: bool = true;
    const PACKED: bool = false;
    const ROW: Option<usize> = Some(1);
    const STEP: usize = STRIDE;
}

/// One tile: `out[i][j] = clip(bias[j] + add[i][j] + sum over k < depth of a[i][k] * b[k][j])`.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Steps of the reduction.
    pub(super) depth: usize,
    /// The left operand, laid out as [`Layout`] says.
    pub(super) a: *const f32,
    /// Floats from a row of the left operand to the next, where its layout leaves that open.
    pub(super) pitch: usize,
    /// Where the left operand of each step of the reduction is, in floats past a row's start, where its layout has them.
    pub(super) offsets: *const isize,
    /// The right operand: whole vectors must be readable, also past `cols`.
    pub(super) b: *const f32,
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
    /// What it asks for meanwhile.
    pub(super) ahead: [Stream; 2],
}

/// The bias of a tile that has none.
pub(super) const ZEROS: &[f32; MAX_COLS] = &[0.0; MAX_COLS];

/// The bounds of a tile that clips nothing.
pub(super) const UNBOUNDED: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

impl Tile<'_> {
    /// A product and nothing more, of no operands yet.
    pub(super) const PRODUCT: Tile<'static> = Tile {
        depth: 0,
        a: std::ptr::null(),
        pitch: 0,
        offsets: std::ptr::null(),
        b: std::ptr::null(),
        bias: ZEROS.as_ptr(),
        add: None,
        out: std::ptr::null_mut(),
        rows: &[],
        cols: 0,
        bounds: UNBOUNDED,
        ahead: [Stream::NOTHING; 2],
    };
}

/// Computes `tile`. Every element is summed in order of k, whatever the size of the tile.
///
/// # Safety
/// `S` must be available and the pointers valid for what [`Tile`] says of them.
#[inline(always)]
pub(super) unsafe fn run_tile<S: Simd, L: Layout>(tile: Tile<'_>) {
    let call = Call { tile, layout: PhantomData::<L> };
    // Safety: the caller's.
    unsafe { if L::PAIRS { S::apart_bf16(call) } else { S::apart(call) } }
}

/// A tile as a function of its own: it is long, and many kernels call it.
struct Call<'a, L> {
    tile: Tile<'a>,
    layout: PhantomData<L>,
}

impl<L: Layout> Kernel for Call<'_, L> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let tile = self.tile;
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
unsafe fn run_rows<S: Simd, L: Layout>(tile: Tile<'_>, vectors: usize) {
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
unsafe fn run_vectors<S: Simd, L: Layout, const ROWS: usize>(tile: Tile<'_>, vectors: usize) {
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
unsafe fn run_registers<S: Simd, L: Layout, const ROWS: usize, const VECTORS: usize>(tile: Tile<'_>) {
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
        let b_step = if L::PACKED { VECTORS * S::LANES } else { STRIDE };
        let mut left = Left::new::<L>(&tile);
        let (mut b, mut ahead) = (tile.b, tile.ahead);
        let unroll = const { if 6 * ROWS >= 5 * S::TILE_ROWS { UNROLL } else { 1 } };
        for _ in 0..tile.depth / unroll {
            for step in 0..unroll {
                add_step::<S, L, ROWS, VECTORS>(&mut sums, &left, step, b.add(step * b_step));
            }
            left.advance::<L>(unroll);
            b = b.wrapping_add(unroll * b_step);
            ahead[0].advance(unroll);
            ahead[1].advance(unroll);
        }
        for _ in 0..tile.depth % unroll {
            add_step::<S, L, ROWS, VECTORS>(&mut sums, &left, 0, b);
            left.advance::<L>(1);
            b = b.wrapping_add(b_step);
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

/// Where the rows of the left operand are. Where their distance is no constant, every third has a pointer of its own: the processor adds
/// once or twice the distance for the others.
struct Left {
    rows: [*const f32; MAX_ROWS.div_ceil(3)],
    pitch: usize,
    /// Those of the steps to come.
    offsets: *const isize,
}

impl Left {
    #[inline(always)]
    fn new<L: Layout>(tile: &Tile<'_>) -> Left {
        let (a, pitch) = (tile.a, L::ROW.unwrap_or(tile.pitch));
        Left { rows: std::array::from_fn(|i| a.wrapping_add(3 * i * pitch)), pitch, offsets: tile.offsets }
    }

    /// # Safety
    /// Where the layout has offsets, there is one for the step.
    #[inline(always)]
    unsafe fn at<L: Layout>(&self, group: usize, within: usize, step: usize) -> *const f32 {
        if L::OFFSETS {
            // Safety: the caller's.
            let offset = unsafe { *self.offsets.add(step) };
            return self.rows[group].wrapping_offset(offset).wrapping_add(within * self.pitch);
        }
        let at = match L::ROW {
            Some(distance) => self.rows[0].wrapping_add((3 * group + within) * distance),
            None => self.rows[group].wrapping_add(within * self.pitch),
        };
        at.wrapping_add(step * L::STEP)
    }

    /// Goes on by so many steps of the reduction.
    #[inline(always)]
    fn advance<L: Layout>(&mut self, steps: usize) {
        if L::OFFSETS {
            self.offsets = self.offsets.wrapping_add(steps);
            return;
        }
        for row in &mut self.rows {
            *row = row.wrapping_add(steps * L::STEP);
        }
    }
}

/// Steps of the reduction between two jumps in tiles that are whole or nearly so. (Others are rare, and code takes time to
/// compile.)
const UNROLL: usize = 4;

/// Adds a step of the reduction to the sums.
#[inline(always)]
unsafe fn add_step<S: Simd, L: Layout, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[S::V; VECTORS]; ROWS],
    left: &Left,
    step: usize,
    b: *const f32,
) {
    // Safety: the caller's promises about the pointers.
    unsafe {
        let mut right = [S::splat(0.0); VECTORS];
        for (v, right) in right.iter_mut().enumerate() {
            *right = S::load(b.add(v * S::LANES));
        }
        // Rows by threes, as their pointers are: a loop that divides is not unrolled.
        for group in 0..const { ROWS.div_ceil(3) } {
            for within in 0..3 {
                if 3 * group + within == ROWS {
                    break;
                }
                let left = S::splat(*left.at::<L>(group, within, step));
                for (v, sum) in sums[3 * group + within].iter_mut().enumerate() {
                    *sum = if L::PAIRS {
                        S::dot_bf16(left, right[v], *sum)
                    } else {
                        S::fma(left, right[v], *sum)
                    };
                }
            }
        }
    }
}
