//! One vector type an instruction set, and the choice between them at run time.
//!
//! A kernel is written once, generic over [`Simd`], as an `#[inline(always)]` function, and run through
//! [`dispatch`], which compiles it once for every instruction set. Lanes differ between sets, and with them the
//! order of a reduction: results are bit-identical for any number of threads, not for any instruction set.

use std::fmt;

use half::{bf16, f16};

/// A SIMD path that this machine can run: one that needs instructions comes from [`Isa::available`] alone, which asks the
/// processor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Path);

/// The paths, slowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// Plain Rust on arrays of eight.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same and AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// As `Avx512`, with instructions that multiply pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// Plain Rust, which runs anywhere and is what the tests compare the others with.
    pub const PORTABLE: Isa = Isa(Path::Portable);

    /// Every path this machine can run, slowest first.
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

    /// What it is called: `portable`, `avx2`, `avx512`, `avx512bf16` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Path::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "aarch64")]
            Path::Neon => "neon",
        }
    }

    /// f32 lanes in a vector of this path.
    pub fn lanes(self) -> usize {
        match self.0 {
            Path::Portable => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => x86::Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 => x86::Avx512::LANES,
            #[cfg(target_arch = "aarch64")]
            Path::Neon => neon::Neon::LANES,
        }
    }

    /// Which one it is. The processor has the path's instructions.
    pub(super) fn path(self) -> Path {
        self.0
    }

    /// Whether products of bf16 have instructions of their own ([`Simd::dot_bf16`]).
    pub(super) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Path::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Vectors in a row of the register tile ([`Simd::TILE_VECTORS`]).
    pub(super) fn tile_vectors(self) -> usize {
        match self.0 {
            Path::Portable => Portable::TILE_VECTORS,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => x86::Avx2::TILE_VECTORS,
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 => x86::Avx512::TILE_VECTORS,
            #[cfg(target_arch = "aarch64")]
            Path::Neon => neon::Neon::TILE_VECTORS,
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
/// Every method may only be called where the instruction set is available: inside [`dispatch`]. Pointers must be
/// valid for the lanes read or written; they need no alignment.
#[allow(clippy::missing_safety_doc, missing_docs)] // the trait's own section speaks for each method
pub trait Simd: Copy + Send + Sync + 'static {
    type V: Copy;
    const LANES: usize;
    /// Rows and vectors of the register tile of a matrix product: as many sums as the registers hold.
    const TILE_ROWS: usize;
    const TILE_VECTORS: usize;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Reads the first `n` < LANES elements and zeros the rest; memory past `n` is not touched.
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V;
    /// Writes the first `n` < LANES elements; memory past `n` is not touched.
    unsafe fn store_first(to: *mut f32, n: usize, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// max(bound, x); a NaN in `x` stays a NaN, as in PyTorch.
    unsafe fn at_least(x: Self::V, bound: Self::V) -> Self::V;
    /// min(bound, x); a NaN in `x` stays a NaN, as in PyTorch.
    unsafe fn at_most(x: Self::V, bound: Self::V) -> Self::V;
    /// `v` where a > b, else zero (also where either is a NaN).
    unsafe fn where_gt(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// Zero where a >= b, else `v` (also where either is a NaN).
    unsafe fn zero_where_ge(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// `v` where a == b, else zero.
    unsafe fn where_eq(a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// `yes` where a > b, else `no` (also where either is a NaN).
    unsafe fn select_gt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `yes` where `x` is a NaN, else `no`.
    unsafe fn select_nan(x: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The nearest whole number, ties to even. |x| must be below 2^31.
    unsafe fn round(x: Self::V) -> Self::V;
    /// v * 2^n for whole `n` in [-252, 254]; underflow is gradual, overflow gives infinity.
    unsafe fn scale_by_power(v: Self::V, n: Self::V) -> Self::V;
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
    /// As [`Simd::apart`], from inside of [`dispatch_bf16`].
    unsafe fn apart_bf16<K: Kernel>(kernel: K) -> K::Output {
        // Safety: the caller's.
        unsafe { Self::apart(kernel) }
    }
}

/// A computation that [`dispatch`] runs on one instruction set. Mark `run` `#[inline(always)]`.
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
        Path::Portable => unsafe { kernel.run::<Portable>() },
        #[cfg(target_arch = "x86_64")]
        // Safety: there is an `Isa` of this path only where `Isa::available` found its instructions.
        Path::Avx2 => unsafe { run_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // Safety: as above.
        Path::Avx512 | Path::Avx512Bf16 => unsafe { run_avx512(kernel) },
        #[cfg(target_arch = "aarch64")]
        // Safety: as above.
        Path::Neon => unsafe { kernel.run::<neon::Neon>() },
    }
}

/// [`dispatch`] for a kernel that multiplies pairs of bf16.
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // Safety: the caller has AVX2, FMA and F16C.
    unsafe { kernel.run::<x86::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // Safety: the caller has AVX-512 F, BW, DQ and VL.
    unsafe { kernel.run::<x86::Avx512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    // Safety: the caller has AVX-512 F, BW, DQ, VL and BF16.
    unsafe { kernel.run::<x86::Avx512>() }
}

/// 2^n for n in [-126, 127].
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// Arrays of eight, in plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

#[allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller
impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;

    #[inline(never)]
    unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
        unsafe { kernel.run::<Portable>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 8]) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> [f32; 8] {
        let mut v = [0.0; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), n) };
        v
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, n: usize, v: [f32; 8]) {
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Multiply then add: a fused `mul_add` is a library call where the target has no FMA.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn at_least(x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if bound[i] > x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    unsafe fn at_most(x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if bound[i] < x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    unsafe fn where_gt(a: [f32; 8], b: [f32; 8], v: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn zero_where_ge(a: [f32; 8], b: [f32; 8], v: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] >= b[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    unsafe fn where_eq(a: [f32; 8], b: [f32; 8], v: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] == b[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn select_gt(a: [f32; 8], b: [f32; 8], yes: [f32; 8], no: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn select_nan(x: [f32; 8], yes: [f32; 8], no: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if x[i].is_nan() { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn round(x: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| x[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn scale_by_power(v: [f32; 8], n: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| {
            let half = n[i] as i32 >> 1;
            v[i] * power_of_two(half) * power_of_two(n[i] as i32 - half)
        })
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; 8]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    type Half = [u16; 8];

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> [u16; 8] {
        unsafe { from.cast::<[u16; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_half(to: *mut u16, v: [u16; 8]) {
        unsafe { to.cast::<[u16; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_half_first(from: *const u16, n: usize) -> [u16; 8] {
        let mut v = [0; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), n) };
        v
    }
    #[inline(always)]
    unsafe fn store_half_first(to: *mut u16, n: usize, v: [u16; 8]) {
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn from_bf16(v: [u16; 8]) -> [f32; 8] {
        std::array::from_fn(|i| bf16::from_bits(v[i]).to_f32())
    }
    #[inline(always)]
    unsafe fn to_bf16(v: [f32; 8]) -> [u16; 8] {
        std::array::from_fn(|i| bf16::from_f32(v[i]).to_bits())
    }
    #[inline(always)]
    unsafe fn from_f16(v: [u16; 8]) -> [f32; 8] {
        std::array::from_fn(|i| f16::from_bits(v[i]).to_f32_const())
    }
    #[inline(always)]
    unsafe fn to_f16(v: [f32; 8]) -> [u16; 8] {
        std::array::from_fn(|i| f16::from_f32_const(v[i]).to_bits())
    }
    #[inline(always)]
    unsafe fn pair(a: [u16; 8], b: [u16; 8]) -> [f32; 8] {
        std::array::from_fn(|i| f32::from_bits(u32::from(a[i]) | u32::from(b[i]) << 16))
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        let [low, high] =
            [|x: f32| f32::from_bits(x.to_bits() << 16), |x: f32| f32::from_bits(x.to_bits() & !0xFFFF)];
        std::array::from_fn(|i| c[i] + low(a[i]) * low(b[i]) + high(a[i]) * high(b[i]))
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller
pub(super) mod x86 {
    use super::{Kernel, Simd, run_avx2, run_avx512, run_avx512_bf16};
    #[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// Eight lanes of AVX2.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::kernels) struct Avx2;

    /// A mask whose first `n` of eight lanes are set.
    #[inline(always)]
    unsafe fn first_of_8(n: usize) -> __m256i {
        const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        debug_assert!(n <= 8);
        unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(8 - n).cast()) }
    }

    /// 2^n for n in [-126, 127].
    #[inline(always)]
    unsafe fn power_of_two_8(n: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
    }

    /// The lower and the upper bf16 of each lane as f32.
    #[inline(always)]
    unsafe fn unpaired_8(v: __m256) -> [__m256; 2] {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let high = _mm256_and_si256(bits, _mm256_set1_epi32(!0xFFFF));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)), _mm256_castsi256_ps(high)]
        }
    }

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const TILE_ROWS: usize = 6;
        const TILE_VECTORS: usize = 2;

        #[inline(always)]
        unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
            unsafe { run_avx2(kernel) }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, n: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(from, first_of_8(n)) }
        }
        #[inline(always)]
        unsafe fn store_first(to: *mut f32, n: usize, v: __m256) {
            unsafe { _mm256_maskstore_ps(to, first_of_8(n), v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn at_least(x: __m256, bound: __m256) -> __m256 {
            // MAXPS returns its second operand when either is a NaN.
            unsafe { _mm256_max_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn at_most(x: __m256, bound: __m256) -> __m256 {
            unsafe { _mm256_min_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn where_gt(a: __m256, b: __m256, v: __m256) -> __m256 {
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b), v) }
        }
        #[inline(always)]
        unsafe fn zero_where_ge(a: __m256, b: __m256, v: __m256) -> __m256 {
            unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b), v) }
        }
        #[inline(always)]
        unsafe fn where_eq(a: __m256, b: __m256, v: __m256) -> __m256 {
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b), v) }
        }
        #[inline(always)]
        unsafe fn select_gt(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
        }
        #[inline(always)]
        unsafe fn select_nan(x: __m256, yes: __m256, no: __m256) -> __m256 {
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)) }
        }
        #[inline(always)]
        unsafe fn round(x: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }
        #[inline(always)]
        unsafe fn scale_by_power(v: __m256, n: __m256) -> __m256 {
            unsafe {
                let n = _mm256_cvtps_epi32(n);
                let half = _mm256_srai_epi32::<1>(n);
                let v = _mm256_mul_ps(v, power_of_two_8(half));
                _mm256_mul_ps(v, power_of_two_8(_mm256_sub_epi32(n, half)))
            }
        }
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }

        type Half = __m128i;

        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> __m128i {
            unsafe { _mm_loadu_si128(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_half(to: *mut u16, v: __m128i) {
            unsafe { _mm_storeu_si128(to.cast(), v) }
        }
        #[inline(always)]
        unsafe fn load_half_first(from: *const u16, n: usize) -> __m128i {
            let mut lanes = [0u16; 8];
            unsafe {
                std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
                _mm_loadu_si128(lanes.as_ptr().cast())
            }
        }
        #[inline(always)]
        unsafe fn store_half_first(to: *mut u16, n: usize, v: __m128i) {
            let mut lanes = [0u16; 8];
            unsafe {
                _mm_storeu_si128(lanes.as_mut_ptr().cast(), v);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
            }
        }
        #[inline(always)]
        unsafe fn from_bf16(v: __m128i) -> __m256 {
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v))) }
        }
        #[inline(always)]
        unsafe fn to_bf16(v: __m256) -> __m128i {
            unsafe {
                let bits = _mm256_castps_si256(v);
                // Half a unit of what is kept, less one bit where that is even.
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                let kept = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
                let packed = _mm256_packus_epi32(kept, kept);
                _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
            }
        }
        #[inline(always)]
        unsafe fn from_f16(v: __m128i) -> __m256 {
            unsafe { _mm256_cvtph_ps(v) }
        }
        #[inline(always)]
        unsafe fn to_f16(v: __m256) -> __m128i {
            unsafe { _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v) }
        }
        #[inline(always)]
        unsafe fn pair(a: __m128i, b: __m128i) -> __m256 {
            unsafe {
                let high = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(b));
                _mm256_castsi256_ps(_mm256_or_si256(_mm256_cvtepu16_epi32(a), high))
            }
        }
        #[inline(always)]
        unsafe fn dot_bf16(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe {
                let ([a_low, a_high], [b_low, b_high]) = (unpaired_8(a), unpaired_8(b));
                _mm256_fmadd_ps(a_high, b_high, _mm256_fmadd_ps(a_low, b_low, c))
            }
        }
    }

    /// Sixteen lanes of AVX-512.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::kernels) struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const TILE_ROWS: usize = 14;
        const TILE_VECTORS: usize = 2;

        #[inline(always)]
        unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
            unsafe { run_avx512(kernel) }
        }

        #[inline(always)]
        unsafe fn apart_bf16<K: Kernel>(kernel: K) -> K::Output {
            unsafe { run_avx512_bf16(kernel) }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, n: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, from) }
        }
        #[inline(always)]
        unsafe fn store_first(to: *mut f32, n: usize, v: __m512) {
            unsafe { _mm512_mask_storeu_ps(to, ((1u32 << n) - 1) as __mmask16, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn at_least(x: __m512, bound: __m512) -> __m512 {
            unsafe { _mm512_max_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn at_most(x: __m512, bound: __m512) -> __m512 {
            unsafe { _mm512_min_ps(bound, x) }
        }
        #[inline(always)]
        unsafe fn where_gt(a: __m512, b: __m512, v: __m512) -> __m512 {
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), v) }
        }
        #[inline(always)]
        unsafe fn zero_where_ge(a: __m512, b: __m512, v: __m512) -> __m512 {
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NGE_UQ>(a, b), v) }
        }
        #[inline(always)]
        unsafe fn where_eq(a: __m512, b: __m512, v: __m512) -> __m512 {
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), v) }
        }
        #[inline(always)]
        unsafe fn select_gt(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes) }
        }
        #[inline(always)]
        unsafe fn select_nan(x: __m512, yes: __m512, no: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), no, yes) }
        }
        #[inline(always)]
        unsafe fn round(x: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }
        #[inline(always)]
        unsafe fn scale_by_power(v: __m512, n: __m512) -> __m512 {
            unsafe { _mm512_scalef_ps(v, n) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(v) }
        }

        type Half = __m256i;

        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_half(to: *mut u16, v: __m256i) {
            unsafe { _mm256_storeu_si256(to.cast(), v) }
        }
        #[inline(always)]
        unsafe fn load_half_first(from: *const u16, n: usize) -> __m256i {
            unsafe { _mm256_maskz_loadu_epi16(((1u32 << n) - 1) as __mmask16, from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_half_first(to: *mut u16, n: usize, v: __m256i) {
            unsafe { _mm256_mask_storeu_epi16(to.cast(), ((1u32 << n) - 1) as __mmask16, v) }
        }
        #[inline(always)]
        unsafe fn from_bf16(v: __m256i) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
        }
        #[inline(always)]
        unsafe fn to_bf16(v: __m512) -> __m256i {
            unsafe {
                let bits = _mm512_castps_si512(v);
                // Half a unit of what is kept, less one bit where that is even.
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
                let kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
                _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept))
            }
        }
        #[inline(always)]
        unsafe fn from_f16(v: __m256i) -> __m512 {
            unsafe { _mm512_cvtph_ps(v) }
        }
        #[inline(always)]
        unsafe fn to_f16(v: __m512) -> __m256i {
            unsafe { _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v) }
        }
        #[inline(always)]
        unsafe fn pair(a: __m256i, b: __m256i) -> __m512 {
            unsafe {
                let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(b));
                _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(a), high))
            }
        }
        /// Only to be used inside of `dispatch_bf16`: it takes AVX512_BF16.
        #[inline(always)]
        unsafe fn dot_bf16(a: __m512, b: __m512, c: __m512) -> __m512 {
            // Safety: vectors of one size, any bits of which are valid.
            unsafe { _mm512_dpbf16_ps(c, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
#[allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller
mod neon {
    use super::{Kernel, Simd};
    use half::f16;
    #[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
    use std::arch::aarch64::*;

    /// Four lanes of NEON.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Neon;

    /// 2^n for n in [-126, 127].
    #[inline(always)]
    unsafe fn power_of_two_4(n: int32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))) }
    }

    /// The lower and the upper bf16 of each lane as f32.
    #[inline(always)]
    unsafe fn unpaired_4(v: float32x4_t) -> [float32x4_t; 2] {
        unsafe {
            let bits = vreinterpretq_u32_f32(v);
            let high = vandq_u32(bits, vdupq_n_u32(!0xFFFF));
            [vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits)), vreinterpretq_f32_u32(high)]
        }
    }

    impl Simd for Neon {
        type V = float32x4_t;
        const LANES: usize = 4;
        const TILE_ROWS: usize = 6;
        const TILE_VECTORS: usize = 4;

        #[inline(never)]
        unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
            unsafe { kernel.run::<Neon>() }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> float32x4_t {
            unsafe { vdupq_n_f32(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: float32x4_t) {
            unsafe { vst1q_f32(to, v) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, n: usize) -> float32x4_t {
            let mut v = [0.0f32; 4];
            unsafe {
                std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), n);
                vld1q_f32(v.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_first(to: *mut f32, n: usize, v: float32x4_t) {
            let mut lanes = [0.0f32; 4];
            unsafe {
                vst1q_f32(lanes.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
            }
        }
        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vsubq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vmulq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vdivq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn at_least(x: float32x4_t, bound: float32x4_t) -> float32x4_t {
            unsafe { vmaxq_f32(bound, x) }
        }
        #[inline(always)]
        unsafe fn at_most(x: float32x4_t, bound: float32x4_t) -> float32x4_t {
            unsafe { vminq_f32(bound, x) }
        }
        #[inline(always)]
        unsafe fn where_gt(a: float32x4_t, b: float32x4_t, v: float32x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(a, b), vreinterpretq_u32_f32(v))) }
        }
        #[inline(always)]
        unsafe fn zero_where_ge(a: float32x4_t, b: float32x4_t, v: float32x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcgeq_f32(a, b))) }
        }
        #[inline(always)]
        unsafe fn where_eq(a: float32x4_t, b: float32x4_t, v: float32x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vandq_u32(vceqq_f32(a, b), vreinterpretq_u32_f32(v))) }
        }
        #[inline(always)]
        unsafe fn select_gt(
            a: float32x4_t,
            b: float32x4_t,
            yes: float32x4_t,
            no: float32x4_t,
        ) -> float32x4_t {
            unsafe { vbslq_f32(vcgtq_f32(a, b), yes, no) }
        }
        #[inline(always)]
        unsafe fn select_nan(x: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
            unsafe { vbslq_f32(vceqq_f32(x, x), no, yes) }
        }
        #[inline(always)]
        unsafe fn round(x: float32x4_t) -> float32x4_t {
            unsafe { vrndnq_f32(x) }
        }
        #[inline(always)]
        unsafe fn scale_by_power(v: float32x4_t, n: float32x4_t) -> float32x4_t {
            unsafe {
                let n = vcvtq_s32_f32(n);
                let half = vshrq_n_s32::<1>(n);
                let v = vmulq_f32(v, power_of_two_4(half));
                vmulq_f32(v, power_of_two_4(vsubq_s32(n, half)))
            }
        }
        #[inline(always)]
        unsafe fn sum(v: float32x4_t) -> f32 {
            unsafe { vaddvq_f32(v) }
        }

        type Half = uint16x4_t;

        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> uint16x4_t {
            unsafe { vld1_u16(from) }
        }
        #[inline(always)]
        unsafe fn store_half(to: *mut u16, v: uint16x4_t) {
            unsafe { vst1_u16(to, v) }
        }
        #[inline(always)]
        unsafe fn load_half_first(from: *const u16, n: usize) -> uint16x4_t {
            let mut lanes = [0u16; 4];
            unsafe {
                std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
                vld1_u16(lanes.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_half_first(to: *mut u16, n: usize, v: uint16x4_t) {
            let mut lanes = [0u16; 4];
            unsafe {
                vst1_u16(lanes.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
            }
        }
        #[inline(always)]
        unsafe fn from_bf16(v: uint16x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(v)) }
        }
        #[inline(always)]
        unsafe fn to_bf16(v: float32x4_t) -> uint16x4_t {
            unsafe {
                let bits = vreinterpretq_u32_f32(v);
                // Half a unit of what is kept, less one bit where that is even.
                let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
                let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
                let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
                vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(v, v), rounded, quiet))
            }
        }
        #[inline(always)]
        unsafe fn from_f16(v: uint16x4_t) -> float32x4_t {
            let (mut halves, mut lanes) = ([0u16; 4], [0.0f32; 4]);
            unsafe {
                vst1_u16(halves.as_mut_ptr(), v);
                for (lane, half) in lanes.iter_mut().zip(halves) {
                    *lane = f16::from_bits(half).to_f32_const();
                }
                vld1q_f32(lanes.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn to_f16(v: float32x4_t) -> uint16x4_t {
            let (mut halves, mut lanes) = ([0u16; 4], [0.0f32; 4]);
            unsafe {
                vst1q_f32(lanes.as_mut_ptr(), v);
                for (half, lane) in halves.iter_mut().zip(lanes) {
                    *half = f16::from_f32_const(lane).to_bits();
                }
                vld1_u16(halves.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn pair(a: uint16x4_t, b: uint16x4_t) -> float32x4_t {
            unsafe { vreinterpretq_f32_u32(vorrq_u32(vmovl_u16(a), vshll_n_u16::<16>(b))) }
        }
        #[inline(always)]
        unsafe fn dot_bf16(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe {
                let ([a_low, a_high], [b_low, b_high]) = (unpaired_4(a), unpaired_4(b));
                vfmaq_f32(vfmaq_f32(c, a_low, b_low), a_high, b_high)
            }
        }
    }
}
