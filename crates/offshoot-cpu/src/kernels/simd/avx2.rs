//! Vectors of AVX2, with FMA and F16C.

#![allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller

use super::{Arithmetic, Kernel, Simd, run_avx2};
#[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
use std::arch::x86_64::*;

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

/// 2^n for n in [-126, 128], that of 128 as infinity.
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

impl Arithmetic for Avx2 {
    type V = __m256;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
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
    unsafe fn scale_by_normal_power(v: __m256, n: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(v, power_of_two_8(_mm256_cvtps_epi32(n))) }
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
        unsafe { run_avx2(kernel) }
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
    unsafe fn permute(v: __m256, from: __m256) -> __m256 {
        unsafe { _mm256_permutevar8x32_ps(v, _mm256_castps_si256(from)) }
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
