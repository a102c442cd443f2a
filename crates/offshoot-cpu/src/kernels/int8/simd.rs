//! Vectors of 32-bit integers, and products of bytes.

mod portable;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::super::simd::{Isa, Path, Portable, Simd, tiles as unit};
use super::grouped::{Grouped, Groups};

/// Lanes of 32-bit integers beside those of f32. Everything is `#[inline(always)]`.
///
/// # Safety
/// As [`Simd`].
#[allow(clippy::missing_safety_doc)] // the trait's own section speaks for each method
pub(super) trait Integers: Simd {
    /// As many integers as there are lanes.
    type I: Copy;
    unsafe fn splat_i32(x: i32) -> Self::I;
    unsafe fn load_i32(from: *const i32) -> Self::I;
    unsafe fn store_i32(to: *mut i32, v: Self::I);
    unsafe fn add_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn to_floats(v: Self::I) -> Self::V;
    /// The nearest integers, ties to even. |x| must be below 2^31.
    unsafe fn to_integers(v: Self::V) -> Self::I;
    /// Reads a vector of bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::I;
    /// Reads `n` < LANES bytes and zeros the rest.
    unsafe fn load_bytes_first(from: *const u8, n: usize) -> Self::I;
    /// Writes a vector of numbers that are bytes.
    unsafe fn store_bytes(to: *mut u8, v: Self::I);
    /// Writes the first `n` < LANES of them.
    unsafe fn store_bytes_first(to: *mut u8, n: usize, v: Self::I);
    /// Rounds two vectors (ties to even), adds `zero_point`, cuts at the bounds and writes the bytes of each. A NaN becomes the
    /// smallest one.
    unsafe fn store_requantized(to: [*mut u8; 2], y: [Self::V; 2], zero_point: u8, bounds: [u8; 2]);
    /// Copies `n` bytes of the `readable` >= n at `from`; may write up to 64 bytes more, whatever they are.
    unsafe fn copy_bytes(from: *const u8, readable: usize, to: *mut u8, n: usize);
}

/// Paths that sum products of bytes in 16 bits.
pub(super) trait Words: Integers {
    /// sum + the products of four bytes at each of `a`, `offset` bytes on, with four weights in each lane of `b`. Those of the
    /// first, and of the last, two bytes of all `CELLS` <= 4 are summed in 16 bits first, which must hold them.
    ///
    /// # Safety
    /// As [`Simd`]; the bytes can be read.
    unsafe fn add_cells<const CELLS: usize>(
        sum: Self::I,
        a: [*const u8; CELLS],
        offset: usize,
        b: [Self::I; CELLS],
    ) -> Self::I;
}

/// A tile of sums: init\[j\] + the products of row i of the left operand and column j of a panel. Four elements of the
/// reduction lie side by side in 32 bits, a cell.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Rows of the left operand.
    pub(super) a: *const u8,
    /// Bytes from one row to the next.
    pub(super) row: usize,
    /// The reduction's cells in a part of the rows, and the bytes from one part to the next.
    pub(super) part: [usize; 2],
    /// The packed panel, a row of cells for each of the reduction; for [`Kind::Bytes`] and [`Kind::Tiles`].
    pub(super) b: &'a [i32],
    /// The panel's vectors; for [`Kind::Grouped`].
    pub(super) groups: &'a [Groups],
    /// A number for each column.
    pub(super) init: *const i32,
}

/// Sums of the largest tile.
pub(super) const MOST_SUMS: usize = 32 * 32;

/// How products of cells are summed.
pub(super) trait Cells<S: Integers> {
    /// Rows of a tile.
    const ROWS: usize;
    /// Vectors of columns of a tile.
    const VECTORS: usize;

    /// Computes a tile of `rows` rows and `vectors` vectors of columns into `out`, row by row without gaps.
    ///
    /// # Safety
    /// `S` is available, and what else the cells need; the pointers are valid for what they are said to be, and the panel's
    /// cells are in the rows; `rows` and `vectors` are at most those of a tile, and `out` holds [`MOST_SUMS`].
    unsafe fn sums(tile: Tile<'_>, rows: usize, vectors: usize, out: *mut i32);
}

/// By an instruction that sums four products in 32 bits (VNNI).
#[cfg(target_arch = "x86_64")]
pub(super) struct Bytes;

/// By tiles of a matrix unit.
pub(super) struct Tiles<const EMULATED: bool>;

/// The [`Cells`] that a filter is packed for. As an [`Isa`], one that needs instructions comes from [`Packing::of`] alone, which
/// asks the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packing(Kind);

/// Which cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Grouped,
    #[cfg(target_arch = "x86_64")]
    Bytes,
    Tiles,
    EmulatedTiles,
}

/// Fewest rows and elements of the reduction of a product that runs on tiles: a step of theirs is as deep.
const TILED_ROWS: usize = 8;
const TILED_REDUCTION: usize = unit::STEP;

impl Packing {
    /// What every path has.
    #[cfg(test)]
    pub(super) const GROUPED: Packing = Packing(Kind::Grouped);

    /// The fastest one on `isa`.
    pub(super) fn of(isa: Isa) -> Packing {
        #[cfg(target_arch = "x86_64")]
        if matches!(isa.path(), Path::Avx512 | Path::Avx512Bf16 | Path::Amx)
            && std::arch::is_x86_feature_detected!("avx512vnni")
        {
            return Packing(Kind::Bytes);
        }
        let _ = isa;
        Packing(Kind::Grouped)
    }

    /// The fastest one on `isa` for a product of so many rows and elements of the reduction.
    pub(super) fn for_product(isa: Isa, rows: usize, reduction: usize) -> Packing {
        match isa.has_tiles() && rows >= TILED_ROWS && reduction >= TILED_REDUCTION {
            true if isa.emulates_tiles() => Packing(Kind::EmulatedTiles),
            true => Packing(Kind::Tiles),
            false => Packing::of(isa),
        }
    }

    pub(super) fn kind(self) -> Kind {
        self.0
    }

    /// Units of 32 bits that a run of the reduction is a multiple of: zeros fill it up.
    pub(super) fn step(self) -> usize {
        match self.0 {
            Kind::Tiles | Kind::EmulatedTiles => unit::STEP / 4,
            #[cfg(target_arch = "x86_64")]
            Kind::Bytes => 1,
            Kind::Grouped => 1,
        }
    }

    /// Lanes, and the vectors and rows of the tile, of the path that runs it.
    pub(super) fn tile(self) -> [usize; 3] {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Bytes => tile::<super::super::simd::Avx512, Bytes>(),
            #[cfg(target_arch = "x86_64")]
            Kind::Tiles => tile::<super::super::simd::Avx512, Tiles<false>>(),
            #[cfg(not(target_arch = "x86_64"))]
            Kind::Tiles => tile::<Portable, Tiles<true>>(),
            Kind::EmulatedTiles => tile::<Portable, Tiles<true>>(),
            Kind::Grouped => tile::<Portable, Grouped>(),
        }
    }
}

fn tile<S: Integers, C: Cells<S>>() -> [usize; 3] {
    [S::LANES, C::VECTORS, C::ROWS]
}

/// A computation on cells. Mark `run` `#[inline(always)]`.
pub(super) trait Product {
    /// # Safety
    /// `S`'s instruction set and the instructions that `C` needs must be available.
    unsafe fn run<S: Integers, C: Cells<S>>(self);
}

/// Runs `product` compiled for `packing` on `isa`.
pub(super) fn dispatch_product<P: Product>(isa: Isa, packing: Packing, product: P) {
    match (packing.kind(), isa.path()) {
        #[cfg(target_arch = "x86_64")]
        // Safety: there is this packing only where `Packing::of` was given an `Isa` with AVX-512 and found VNNI.
        (Kind::Bytes, _) => unsafe { x86::product_vnni(product) },
        #[cfg(target_arch = "x86_64")]
        // Safety: there is this packing only where `Packing::for_product` was given an `Isa` with tiles, which has AVX-512 and VNNI.
        (Kind::Tiles, _) => unsafe { x86::product_tiles(product) },
        #[cfg(not(target_arch = "x86_64"))]
        // Safety: `Portable` is plain Rust, and so are tiles here.
        (Kind::Tiles, _) => unsafe { product.run::<Portable, Tiles<true>>() },
        // Safety: as above.
        (Kind::EmulatedTiles, _) => unsafe { product.run::<Portable, Tiles<true>>() },
        #[cfg(target_arch = "x86_64")]
        // Safety: there is an `Isa` of these paths only where there is AVX2.
        (Kind::Grouped, Path::Avx2 | Path::Avx512 | Path::Avx512Bf16 | Path::Amx) => unsafe {
            x86::product_avx2(product)
        },
        // Safety: `Portable` is plain Rust.
        (Kind::Grouped, _) => unsafe { product.run::<Portable, Grouped>() },
    }
}

/// A computation on vectors of integers. Mark `run` `#[inline(always)]`.
pub(super) trait IntegerKernel {
    /// # Safety
    /// `S`'s instruction set must be available.
    unsafe fn run<S: Integers>(self);
}

/// Runs `kernel` compiled for `isa`.
pub(super) fn dispatch_integers<K: IntegerKernel>(isa: Isa, kernel: K) {
    match isa.path() {
        #[cfg(target_arch = "x86_64")]
        // Safety: there is an `Isa` of this path only where there is AVX2.
        Path::Avx2 => unsafe { x86::integers_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // Safety: as above, of AVX-512.
        Path::Avx512 | Path::Avx512Bf16 | Path::Amx => unsafe { x86::integers_avx512(kernel) },
        // Safety: `Portable` is plain Rust.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

/// Paths that sum four products of bytes and weights in 32 bits (VNNI), and permute bytes across lanes (VBMI).
pub(super) trait Quads: Integers {
    /// The first `n` <= LANES bytes of `R` <= 4 rows: four rows' bytes in each lane, zeros where there is no row.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn load_rows<const R: usize>(rows: [*const u8; R], n: usize) -> Self::I;

    /// sum + four products in each lane.
    ///
    /// # Safety
    /// As [`Simd`]; of the instructions it needs VNNI only.
    unsafe fn dot_quads(sum: Self::I, bytes: Self::I, weights: Self::I) -> Self::I;
}

/// A computation on four bytes a lane. Mark `run_quads` `#[inline(always)]`.
pub(super) trait QuadKernel {
    /// # Safety
    /// `S`'s instruction set must be available, with VNNI and VBMI.
    unsafe fn run_quads<S: Quads>(self);
}

/// Whether `isa` has [`Quads`] on this machine.
pub(super) fn has_quads(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512vbmi") {
        return Packing::of(isa).kind() == Kind::Bytes;
    }
    let _ = isa;
    false
}

/// Runs `kernel`.
///
/// # Panics
/// When this machine cannot run it (see [`has_quads`]).
pub(super) fn dispatch_quads<K: QuadKernel>(isa: Isa, kernel: K) {
    assert!(has_quads(isa), "the {isa} path has no products of four bytes");
    #[cfg(target_arch = "x86_64")]
    // Safety: `has_quads` asked the processor for VNNI and VBMI, and `isa` has AVX-512.
    unsafe {
        x86::quads_vnni(kernel);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = kernel;
}
