//! Vectors of AVX-512 F, BW, DQ and VL.

#![allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller

use super::{Arithmetic, Kernel, Simd, run_avx512, run_avx512_bf16};
#[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
use std::arch::x86_64::*;
use std::mem::transmute;

/// Sixteen lanes of AVX-512.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Avx512;

impl Arithmetic for Avx512 {
    type V = __m512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
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
    unsafe fn scale_by_normal_power(v: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(v, n) }
    }
}

impl Simd for Avx512 {
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
    unsafe fn permute(v: __m512, from: __m512) -> __m512 {
        unsafe { _mm512_permutexvar_ps(_mm512_castps_si512(from), v) }
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
    unsafe fn sum_to_bf16(v: __m512) -> __m256i {
        // Safety: vectors of one size, any bits of which are valid.
        unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
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
