//! One vector type an instruction set, and the choice between them at run time.
//!
//! A kernel is written once, generic over [`Simd`], as an `#[inline(always)]` function, and run through
//! `dispatch`, which compiles it once for every instruction set. Lanes differ between sets, and with them the
//! order of a reduction: results are bit-identical for any number of threads, not for any instruction set.

mod arithmetic;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub(super) mod tiles;

use std::fmt;

pub use self::arithmetic::Arithmetic;
pub(super) use self::arithmetic::Several;

#[cfg(target_arch = "x86_64")]
pub(super) use self::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use self::neon::Neon;
pub use self::portable::Portable;

/// A SIMD path that this machine can run: one that needs instructions comes from [`Isa::available`] alone, which asks the
/// processor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Path);

/// The paths, slowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// Plain Rust on arrays of eight.
    Portable,
    /// The same, with tiles in plain Rust.
    EmulatedTiles,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same and AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// As `Avx512`, with instructions that multiply pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// As `Avx512Bf16`, with tiles that multiply bf16 and bytes, and instructions that multiply four bytes.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// Plain Rust, which runs anywhere and is what the tests compare the others with.
    pub const PORTABLE: Isa = Isa(Path::Portable);

    /// [`PORTABLE`](Self::PORTABLE) with tiles that are emulated: tests compare it with the others where there is no matrix unit.
    pub const EMULATED_TILES: Isa = Isa(Path::EmulatedTiles);

    /// Every path that is worth running on this machine, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            let narrow = std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
                && std::arch::is_x86_feature_detected!("f16c");
            if narrow {
                all.push(Isa(Path::Avx2));
                let wide = std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl");
                if wide {
                    all.push(Isa(Path::Avx512));
                    if std::arch::is_x86_feature_detected!("avx512bf16") {
                        all.push(Isa(Path::Avx512Bf16));
                        if std::arch::is_x86_feature_detected!("avx512vnni") && tiles::are_available() {
                            all.push(Isa(Path::Amx));
                        }
                    }
                }
            }
        }
        // (Every AArch64 target that Rust's standard library supports has NEON.)
        #[cfg(target_arch = "aarch64")]
        all.push(Isa(Path::Neon));
        all
    }

    /// The fastest path this machine can run.
    pub fn best() -> Isa {
        Isa::available().last().copied().unwrap_or(Isa::PORTABLE)
    }

    /// The path called `name`, if this machine can run it.
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// What it is called: `portable`, `avx2`, `avx512`, `avx512bf16`, `amx` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Path::Portable => "portable",
            Path::EmulatedTiles => "emulated tiles",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Path::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Path::Neon => "neon",
        }
    }

    /// f32 lanes in a vector of this path.
    pub fn lanes(self) -> usize {
        match self.0 {
            Path::Portable | Path::EmulatedTiles => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 | Path::Amx => Avx512::LANES,
            #[cfg(target_arch = "aarch64")]
            Path::Neon => Neon::LANES,
        }
    }

    /// Which one it is. The processor has the path's instructions.
    pub(super) fn path(self) -> Path {
        self.0
    }

    /// Whether products of bf16 have instructions of their own ([`Simd::dot_bf16`]).
    pub(super) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Path::Avx512Bf16 | Path::Amx);
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether products of bf16 and of bytes run on the tiles of a matrix unit, which makes them several times as fast as those of f32.
    pub fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Path::Amx | Path::EmulatedTiles);
        #[cfg(not(target_arch = "x86_64"))]
        return self.0 == Path::EmulatedTiles;
    }

    /// Whether these tiles are [emulated](Self::EMULATED_TILES).
    pub(super) fn emulates_tiles(self) -> bool {
        self.0 == Path::EmulatedTiles
    }

    /// Vectors in a row of the register tile ([`Simd::TILE_VECTORS`]).
    pub(super) fn tile_vectors(self) -> usize {
        match self.0 {
            Path::Portable | Path::EmulatedTiles => Portable::TILE_VECTORS,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Avx2::TILE_VECTORS,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 | Path::Amx => Avx512::TILE_VECTORS,
            #[cfg(target_arch = "aarch64")]
            Path::Neon => Neon::TILE_VECTORS,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A vector of f32. Everything is `#[inline(always)]`, so that it takes on the target features of its caller.
///
/// # Safety
/// Every method may only be called where the instruction set is available: inside `dispatch`. Pointers must be
/// valid for the lanes read or written; they need no alignment.
#[allow(clippy::missing_safety_doc, missing_docs)] // the trait's own section speaks for each method
pub trait Simd: Arithmetic + Send + Sync + 'static {
    const LANES: usize;
    /// Rows and vectors of the register tile of a matrix product: as many sums as the registers hold.
    const TILE_ROWS: usize;
    const TILE_VECTORS: usize;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Reads the first `n` < LANES elements and zeros the rest; memory past `n` is not touched.
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V;
    /// Writes the first `n` < LANES elements; memory past `n` is not touched.
    unsafe fn store_first(to: *mut f32, n: usize, v: Self::V);
    /// In each lane the lane of `v` whose number the bits of `from` are: below LANES.
    unsafe fn permute(v: Self::V, from: Self::V) -> Self::V;
    /// The sum of the lanes, as a tree.
    unsafe fn sum(v: Self::V) -> f32;
    /// As many 16-bit elements as there are lanes.
    type Half: Copy;
    unsafe fn load_half(from: *const u16) -> Self::Half;
    unsafe fn store_half(to: *mut u16, v: Self::Half);
    /// As `load_first`, for 16-bit elements.
    unsafe fn load_half_first(from: *const u16, n: usize) -> Self::Half;
    /// As `store_first`, for 16-bit elements.
    unsafe fn store_half_first(to: *mut u16, n: usize, v: Self::Half);
    unsafe fn from_bf16(v: Self::Half) -> Self::V;
    /// Rounds to nearest even; a NaN stays a NaN.
    unsafe fn to_bf16(v: Self::V) -> Self::Half;
    /// As [`Simd::to_bf16`], from inside of `dispatch_bf16` or `dispatch_tiles`; numbers below 2^-126 may become zeros.
    unsafe fn sum_to_bf16(v: Self::V) -> Self::Half {
        // Safety: the caller's.
        unsafe { Self::to_bf16(v) }
    }
    unsafe fn from_f16(v: Self::Half) -> Self::V;
    /// Rounds to nearest even; a NaN stays a NaN, what is too large becomes infinite.
    unsafe fn to_f16(v: Self::V) -> Self::Half;
    /// The bits of `a` and of `b` in the lower and the upper half of each lane: pairs for [`Simd::dot_bf16`].
    unsafe fn pair(a: Self::Half, b: Self::Half) -> Self::V;
    /// a0 * b0 + a1 * b1 + c in each lane, where `a` and `b` hold pairs of bf16.
    unsafe fn dot_bf16(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Runs `kernel` on this path as a function of its own, which all who call it share: where it would be too much to compile it into
    /// each of them.
    unsafe fn apart<K: Kernel>(kernel: K) -> K::Output;
    /// As [`Simd::apart`], from inside of `dispatch_bf16`.
    unsafe fn apart_bf16<K: Kernel>(kernel: K) -> K::Output {
        // Safety: the caller's.
        unsafe { Self::apart(kernel) }
    }
}

/// A computation that `dispatch` runs on one instruction set. Mark `run` `#[inline(always)]`.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it with the vectors of `S`.
    ///
    /// # Safety
    /// `S`'s instruction set must be available.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `kernel` compiled for `isa`.
pub(super) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.path() {
        // Safety: `Portable` is plain Rust.
        Path::Portable | Path::EmulatedTiles => unsafe { kernel.run::<Portable>() },
        #[cfg(target_arch = "x86_64")]
        // Safety: there is an `Isa` of this path only where `Isa::available` found its instructions.
        Path::Avx2 => unsafe { run_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // Safety: as above.
        Path::Avx512 | Path::Avx512Bf16 | Path::Amx => unsafe { run_avx512(kernel) },
        #[cfg(target_arch = "aarch64")]
        // Safety: as above.
        Path::Neon => unsafe { kernel.run::<Neon>() },
    }
}

/// `dispatch` for a kernel that multiplies pairs of bf16.
///
/// # Panics
/// When `isa` has no instructions for it ([`Isa::multiplies_bf16`]).
pub(super) fn dispatch_bf16<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.multiplies_bf16(), "the {isa} path has no products of bf16");
    #[cfg(target_arch = "x86_64")]
    // Safety: as in `dispatch`; the path is the one with AVX512_BF16.
    unsafe {
        run_avx512_bf16(kernel)
    }
    #[cfg(not(target_arch = "x86_64"))]
    dispatch(isa, kernel)
}

/// `dispatch` for a kernel that multiplies on tiles.
///
/// # Panics
/// When `isa` has none ([`Isa::has_tiles`]).
pub(super) fn dispatch_tiles<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.has_tiles(), "the {isa} path has no tiles");
    let output = match isa.path() {
        #[cfg(target_arch = "x86_64")]
        // Safety: there is an `Isa` of this path only where there is AVX512_BF16.
        Path::Amx => unsafe { run_avx512_bf16(kernel) },
        _ => dispatch(isa, kernel),
    };
    tiles::release();
    output
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // Safety: the caller has AVX2, FMA and F16C.
    unsafe { kernel.run::<Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // Safety: the caller has AVX-512 F, BW, DQ and VL.
    unsafe { kernel.run::<Avx512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    // Safety: the caller has AVX-512 F, BW, DQ, VL and BF16.
    unsafe { kernel.run::<Avx512>() }
}
