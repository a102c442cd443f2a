//! The paths of x86-64: AVX2, AVX-512 and its instructions for products of bytes.

#![allow(clippy::undocumented_unsafe_blocks)] // the traits state what each method asks of its caller

use super::{Bytes, Cells, IntegerKernel, Integers, Product, QuadKernel, Quads, Tile, Tiles, Words};
use crate::kernels::int8::grouped::Grouped;
use crate::kernels::int8::products;
use crate::kernels::simd::{Avx2, Avx512, Simd, tiles};
use std::arch::asm;
#[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn product_vnni<P: Product>(product: P) {
    unsafe { product.run::<Avx512, Bytes>() }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn product_tiles<P: Product>(product: P) {
    unsafe { product.run::<Avx512, Tiles<false>>() }
    tiles::release();
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
