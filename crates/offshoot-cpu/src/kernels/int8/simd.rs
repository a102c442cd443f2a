//! Vectors of 32-bit integers, and products of bytes.

use super::super::simd::{Isa, Path, Portable, Simd};
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
    /// The packed panel, a row of cells for each of the reduction; for [`Kind::Bytes`].
    pub(super) b: &'a [i32],
    /// The panel's vectors; for [`Kind::Grouped`].
    pub(super) groups: &'a [Groups],
    /// A number for each column.
    pub(super) init: *const i32,
}

/// Sums of the largest tile.
pub(super) const MOST_SUMS: usize = 14 * 32;

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
}

impl Packing {
    /// What every path has.
    #[cfg(test)]
    pub(super) const GROUPED: Packing = Packing(Kind::Grouped);

    /// The fastest one on `isa`.
    pub(super) fn of(isa: Isa) -> Packing {
        #[cfg(target_arch = "x86_64")]
        if matches!(isa.path(), Path::Avx512 | Path::Avx512Bf16)
            && std::arch::is_x86_feature_detected!("avx512vnni")
        {
            return Packing(Kind::Bytes);
        }
        let _ = isa;
        Packing(Kind::Grouped)
    }

    pub(super) fn kind(self) -> Kind {
        self.0
    }

    /// Lanes, and the vectors and rows of the tile, of the path that runs it.
    pub(super) fn tile(self) -> [usize; 3] {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Bytes => tile::<super::super::simd::x86::Avx512, Bytes>(),
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
        // Safety: there is an `Isa` of these paths only where there is AVX2.
        (Kind::Grouped, Path::Avx2 | Path::Avx512 | Path::Avx512Bf16) => unsafe {
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
        Path::Avx512 | Path::Avx512Bf16 => unsafe { x86::integers_avx512(kernel) },
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

/// Copies `n` < 64 bytes in few steps, some of them twice.
#[inline(always)]
unsafe fn copy_few(from: *const u8, to: *mut u8, n: usize) {
    // Safety: each step stays within `n` of both, which the caller vouches for.
    unsafe {
        match n {
            32.. => copy_ends::<[u8; 32]>(from, to, n),
            16.. => copy_ends::<[u8; 16]>(from, to, n),
            8.. => copy_ends::<[u8; 8]>(from, to, n),
            4.. => copy_ends::<[u8; 4]>(from, to, n),
            2.. => copy_ends::<[u8; 2]>(from, to, n),
            1 => *to = *from,
            0 => {}
        }
    }
}

/// Copies the first and the last bytes of `n`, as many as a `T` has, at most `n`.
#[inline(always)]
unsafe fn copy_ends<T: Copy>(from: *const u8, to: *mut u8, n: usize) {
    let last = n - size_of::<T>();
    // Safety: the caller's.
    unsafe {
        let (head, tail) = (from.cast::<T>().read_unaligned(), from.add(last).cast::<T>().read_unaligned());
        to.cast::<T>().write_unaligned(head);
        to.add(last).cast::<T>().write_unaligned(tail);
    }
}

#[allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller
impl Integers for Portable {
    type I = [i32; 8];

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> [i32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> [i32; 8] {
        unsafe { from.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_i32(to: *mut i32, v: [i32; 8]) {
        unsafe { to.cast::<[i32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add_i32(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn to_floats(v: [i32; 8]) -> [f32; 8] {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn to_integers(v: [f32; 8]) -> [i32; 8] {
        v.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [i32; 8] {
        unsafe { from.cast::<[u8; 8]>().read_unaligned().map(i32::from) }
    }
    #[inline(always)]
    unsafe fn load_bytes_first(from: *const u8, n: usize) -> [i32; 8] {
        let mut bytes = [0u8; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), n) };
        bytes.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: [i32; 8]) {
        unsafe { to.cast::<[u8; 8]>().write_unaligned(v.map(|x| x as u8)) }
    }
    #[inline(always)]
    unsafe fn store_bytes_first(to: *mut u8, n: usize, v: [i32; 8]) {
        unsafe { std::ptr::copy_nonoverlapping(v.map(|x| x as u8).as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn store_requantized(to: [*mut u8; 2], y: [[f32; 8]; 2], zero_point: u8, [low, high]: [u8; 2]) {
        let byte =
            |y: f32| (y.round_ties_even() + f32::from(zero_point)).max(low.into()).min(high.into()) as u8;
        for (to, y) in to.into_iter().zip(y) {
            unsafe { to.cast::<[u8; 8]>().write_unaligned(y.map(byte)) };
        }
    }
    #[inline(always)]
    unsafe fn copy_bytes(from: *const u8, _: usize, to: *mut u8, n: usize) {
        unsafe { std::ptr::copy_nonoverlapping(from, to, n) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller
impl Words for Portable {
    #[inline(always)]
    unsafe fn add_cells<const CELLS: usize>(
        sum: [i32; 8],
        a: [*const u8; CELLS],
        offset: usize,
        b: [[i32; 8]; CELLS],
    ) -> [i32; 8] {
        let mut words = [[0i16; 2]; 8];
        for (a, b) in a.into_iter().zip(b) {
            // The even and the odd bytes: those of `a` without, those of `b` with their sign.
            let a = unsafe { a.add(offset).cast::<i32>().read_unaligned() };
            let [even, odd] = [halves(a & 0x00FF_00FF), halves((a >> 8) & 0x00FF_00FF)];
            for (words, b) in words.iter_mut().zip(b) {
                for (half, b) in halves(b).into_iter().enumerate() {
                    words[half] += even[half] * (b << 8 >> 8) + odd[half] * (b >> 8);
                }
            }
        }
        std::array::from_fn(|i| sum[i].wrapping_add(i32::from(words[i][0]) + i32::from(words[i][1])))
    }
}

/// The lower and the upper 16 bits.
#[inline(always)]
fn halves(x: i32) -> [i16; 2] {
    [x as i16, (x >> 16) as i16]
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks)] // the traits state what each method asks of its caller
mod x86 {
    use super::super::super::simd::Simd;
    use super::super::super::simd::x86::{Avx2, Avx512};
    use super::super::grouped::Grouped;
    use super::super::products;
    use super::{Bytes, Cells, IntegerKernel, Integers, Product, QuadKernel, Quads, Tile, Words, copy_few};
    use std::arch::asm;
    #[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn product_vnni<P: Product>(product: P) {
        unsafe { product.run::<Avx512, Bytes>() }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn product_avx2<P: Product>(product: P) {
        unsafe { product.run::<Avx2, Grouped>() }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn integers_avx2<K: IntegerKernel>(kernel: K) {
        unsafe { kernel.run::<Avx2>() }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn integers_avx512<K: IntegerKernel>(kernel: K) {
        unsafe { kernel.run::<Avx512>() }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
    pub(super) unsafe fn quads_vnni<K: QuadKernel>(kernel: K) {
        unsafe { kernel.run_quads::<Avx512>() }
    }

    /// From four rows of 16 bytes to four bytes, one of each row, for each of 16 channels.
    const PLACES: [u8; 64] = {
        let mut places = [0; 64];
        let mut i = 0;
        while i < 64 {
            places[i] = (i % 4 * 16 + i / 4) as u8;
            i += 1;
        }
        places
    };

    /// A row of 16 bytes, of which there are `n`.
    #[inline(always)]
    unsafe fn row(from: *const u8, n: usize) -> __m128i {
        unsafe {
            if n == 16 {
                _mm_loadu_si128(from.cast())
            } else {
                _mm_maskz_loadu_epi8(((1u32 << n) - 1) as __mmask16, from.cast())
            }
        }
    }

    /// Conversion to an integer gives the smallest one for what is too large: numbers are cut there before.
    const FAR: f32 = 1e9;

    impl Quads for Avx512 {
        #[inline(always)]
        unsafe fn load_rows<const R: usize>(rows: [*const u8; R], n: usize) -> __m512i {
            unsafe {
                let mut all = _mm512_zextsi128_si512(row(rows[0], n));
                if const { R > 1 } {
                    all = _mm512_inserti32x4::<1>(all, row(rows[1], n));
                }
                if const { R > 2 } {
                    all = _mm512_inserti32x4::<2>(all, row(rows[2], n));
                }
                if const { R > 3 } {
                    all = _mm512_inserti32x4::<3>(all, row(rows[3], n));
                }
                _mm512_permutexvar_epi8(_mm512_loadu_si512(PLACES.as_ptr().cast()), all)
            }
        }
        #[inline(always)]
        unsafe fn dot_quads(sum: __m512i, bytes: __m512i, weights: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, bytes, weights) }
        }
    }

    impl Integers for Avx2 {
        type I = __m256i;

        #[inline(always)]
        unsafe fn splat_i32(x: i32) -> __m256i {
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_i32(from: *const i32) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_i32(to: *mut i32, v: __m256i) {
            unsafe { _mm256_storeu_si256(to.cast(), v) }
        }
        #[inline(always)]
        unsafe fn add_i32(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn to_floats(v: __m256i) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(v) }
        }
        #[inline(always)]
        unsafe fn to_integers(v: __m256) -> __m256i {
            unsafe { _mm256_cvtps_epi32(v) }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> __m256i {
            unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bytes_first(from: *const u8, n: usize) -> __m256i {
            let mut bytes = [0u8; 8];
            unsafe {
                copy_few(from, bytes.as_mut_ptr(), n);
                Self::load_bytes(bytes.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(to: *mut u8, v: __m256i) {
            unsafe {
                let words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
                _mm_storel_epi64(to.cast(), _mm_packus_epi16(words, words));
            }
        }
        #[inline(always)]
        unsafe fn store_bytes_first(to: *mut u8, n: usize, v: __m256i) {
            let mut bytes = [0u8; 8];
            unsafe {
                Self::store_bytes(bytes.as_mut_ptr(), v);
                copy_few(bytes.as_ptr(), to, n);
            }
        }
        #[inline(always)]
        unsafe fn store_requantized(to: [*mut u8; 2], y: [__m256; 2], zero_point: u8, [low, high]: [u8; 2]) {
            unsafe {
                // (In this order a NaN stays one.)
                let far = _mm256_set1_ps(FAR);
                let [a, b] = [_mm256_min_ps(far, y[0]), _mm256_min_ps(far, y[1])];
                let words = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
                let words = _mm256_adds_epi16(words, _mm256_set1_epi16(zero_point.into()));
                let bytes = _mm256_packus_epi16(words, words);
                // A lane has four bytes of each vector, twice.
                let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
                let bytes = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order));
                let bytes = _mm_max_epu8(bytes, _mm_set1_epi8(low as i8));
                let bytes = _mm_min_epu8(bytes, _mm_set1_epi8(high as i8));
                _mm_storel_epi64(to[0].cast(), bytes);
                _mm_storeh_pd(to[1].cast(), _mm_castsi128_pd(bytes));
            }
        }
        #[inline(always)]
        unsafe fn copy_bytes(from: *const u8, readable: usize, to: *mut u8, n: usize) {
            let mut i = 0;
            unsafe {
                while i + 32 <= n || (i < n && i + 32 <= readable) {
                    _mm256_storeu_si256(to.add(i).cast(), _mm256_loadu_si256(from.add(i).cast()));
                    i += 32;
                }
                if i < n {
                    copy_few(from.add(i), to.add(i), n - i);
                }
            }
        }
    }

    impl Words for Avx2 {
        #[inline(always)]
        unsafe fn add_cells<const CELLS: usize>(
            sum: __m256i,
            a: [*const u8; CELLS],
            offset: usize,
            b: [__m256i; CELLS],
        ) -> __m256i {
            unsafe {
                let mut words = multiply(a[0], offset, b[0]);
                for cell in 1..CELLS {
                    words = multiply_add(words, a[cell], offset, b[cell]);
                }
                _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))
            }
        }
    }

    /// In 16 bits, the products of the four bytes `offset` after `from` with four weights in each lane, those of two added.
    // In assembly, as the compiler otherwise moves the loads of all rows of a tile together, for which there are no
    // registers. (`inline(always)` does not go with a feature, which assembly needs.)
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn multiply(from: *const u8, offset: usize, weights: __m256i) -> __m256i {
        let words;
        unsafe {
            asm!(
                "vpbroadcastd {words}, [{from} + {offset}]",
                "vpmaddubsw {words}, {words}, {weights}",
                from = in(reg) from, offset = in(reg) offset, weights = in(ymm_reg) weights,
                words = out(ymm_reg) words,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        words
    }

    /// `words`, and [those](multiply).
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn multiply_add(mut words: __m256i, from: *const u8, offset: usize, weights: __m256i) -> __m256i {
        unsafe {
            asm!(
                "vpbroadcastd {x}, [{from} + {offset}]",
                "vpmaddubsw {x}, {x}, {weights}",
                "vpaddw {words}, {words}, {x}",
                from = in(reg) from, offset = in(reg) offset, weights = in(ymm_reg) weights,
                words = inout(ymm_reg) words, x = out(ymm_reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        words
    }

    impl Integers for Avx512 {
        type I = __m512i;

        #[inline(always)]
        unsafe fn splat_i32(x: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_i32(from: *const i32) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_i32(to: *mut i32, v: __m512i) {
            unsafe { _mm512_storeu_si512(to.cast(), v) }
        }
        #[inline(always)]
        unsafe fn add_i32(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn to_floats(v: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(v) }
        }
        #[inline(always)]
        unsafe fn to_integers(v: __m512) -> __m512i {
            unsafe { _mm512_cvtps_epi32(v) }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> __m512i {
            unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bytes_first(from: *const u8, n: usize) -> __m512i {
            unsafe { _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(((1u32 << n) - 1) as __mmask16, from.cast())) }
        }
        #[inline(always)]
        unsafe fn store_bytes(to: *mut u8, v: __m512i) {
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(v)) }
        }
        #[inline(always)]
        unsafe fn store_bytes_first(to: *mut u8, n: usize, v: __m512i) {
            unsafe {
                _mm_mask_storeu_epi8(to.cast(), ((1u32 << n) - 1) as __mmask16, _mm512_cvtepi32_epi8(v));
            }
        }
        #[inline(always)]
        unsafe fn store_requantized(to: [*mut u8; 2], y: [__m512; 2], zero_point: u8, [low, high]: [u8; 2]) {
            unsafe {
                // (In this order a NaN stays one.)
                let far = _mm512_set1_ps(FAR);
                let [a, b] = [_mm512_min_ps(far, y[0]), _mm512_min_ps(far, y[1])];
                let words = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
                let words = _mm512_adds_epi16(words, _mm512_set1_epi16(zero_point.into()));
                let words = _mm512_max_epi16(words, _mm512_set1_epi16(low.into()));
                let words = _mm512_min_epi16(words, _mm512_set1_epi16(high.into()));
                // A lane has four bytes of each vector.
                let order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
                let bytes = _mm256_permutevar8x32_epi32(_mm512_cvtepi16_epi8(words), order);
                _mm_storeu_si128(to[0].cast(), _mm256_castsi256_si128(bytes));
                _mm_storeu_si128(to[1].cast(), _mm256_extracti128_si256::<1>(bytes));
            }
        }
        #[inline(always)]
        unsafe fn copy_bytes(from: *const u8, readable: usize, to: *mut u8, n: usize) {
            let mut i = 0;
            unsafe {
                while i + 64 <= n || (i < n && i + 64 <= readable) {
                    _mm512_storeu_si512(to.add(i).cast(), _mm512_loadu_si512(from.add(i).cast()));
                    i += 64;
                }
                if i < n {
                    let last = _mm512_maskz_loadu_epi8((1u64 << (n - i)) - 1, from.add(i).cast());
                    _mm512_storeu_si512(to.add(i).cast(), last);
                }
            }
        }
    }

    impl Cells<Avx512> for Bytes {
        const ROWS: usize = <Avx512 as Simd>::TILE_ROWS;
        const VECTORS: usize = <Avx512 as Simd>::TILE_VECTORS;

        #[inline(always)]
        unsafe fn sums(tile: Tile<'_>, rows: usize, vectors: usize, out: *mut i32) {
            unsafe { products::sums::<Avx512>(tile, rows, vectors, out) }
        }
    }
}
