//! The same with AVX2: a row of a block is a vector.

use std::arch::x86_64::{
    __m128i, __m256i, _mm256_add_epi32, _mm256_adds_epi16, _mm256_cvtepi16_epi32, _mm256_mullo_epi32,
    _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permute2x128_si256, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_shuffle_epi8, _mm256_srai_epi32, _mm256_sub_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use super::{FIRST_SHIFT, SECOND_SHIFT, pass};

/// In each half of a vector the transpose of four by four bytes.
const QUARTERS: [[u8; 16]; 2] = [[0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]; 2];

/// See [`super::block`].
#[target_feature(enable = "avx2")]
#[inline]
pub(in super::super) fn block(coefficients: &[i16; 64], table: &[i32; 64], output: &mut [u8], stride: usize) {
    let coefficients: &[[i16; 8]; 8] = bytemuck::cast_ref(coefficients);
    let table: &[[i32; 8]; 8] = bytemuck::cast_ref(table);
    let row = |i: usize| {
        let values = _mm256_cvtepi16_epi32(bytemuck::cast::<_, __m128i>(coefficients[i]));
        _mm256_mullo_epi32(values, bytemuck::cast(table[i]))
    };
    let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
    let columns = transposed(one_way::<{ FIRST_SHIFT as i32 }>(rows));
    let samples = bytes(one_way::<{ SECOND_SHIFT as i32 }>(columns));
    for (row, samples) in output.chunks_mut(stride).zip(samples) {
        row[..8].copy_from_slice(&samples);
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn one_way<const SHIFT: i32>(x: [__m256i; 8]) -> [__m256i; 8] {
    let half = _mm256_set1_epi32(1 << (SHIFT - 1));
    let sums = pass(
        x,
        half,
        |a, b| _mm256_add_epi32(a, b),
        |a, b| _mm256_sub_epi32(a, b),
        |a, factor| _mm256_mullo_epi32(a, _mm256_set1_epi32(factor)),
    );
    let shifted = |i: usize| _mm256_srai_epi32::<SHIFT>(sums[i]);
    [shifted(0), shifted(1), shifted(2), shifted(3), shifted(4), shifted(5), shifted(6), shifted(7)]
}

#[target_feature(enable = "avx2")]
#[inline]
fn transposed(x: [__m256i; 8]) -> [__m256i; 8] {
    let low = |a: usize| _mm256_unpacklo_epi32(x[a], x[a + 1]);
    let high = |a: usize| _mm256_unpackhi_epi32(x[a], x[a + 1]);
    let pairs = [low(0), high(0), low(2), high(2), low(4), high(4), low(6), high(6)];
    // Columns 0 and 4, 1 and 5, and so on, of the rows from `a / 4 * 4` on.
    let low = |a: usize| _mm256_unpacklo_epi64(pairs[a], pairs[a + 2]);
    let high = |a: usize| _mm256_unpackhi_epi64(pairs[a], pairs[a + 2]);
    let quads = [low(0), high(0), low(1), high(1), low(4), high(4), low(5), high(5)];
    let low = |a: usize| _mm256_permute2x128_si256::<0x20>(quads[a], quads[a + 4]);
    let high = |a: usize| _mm256_permute2x128_si256::<0x31>(quads[a], quads[a + 4]);
    [low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3)]
}

/// Rows of samples, from columns of values around 0.
#[target_feature(enable = "avx2")]
#[inline]
fn bytes(columns: [__m256i; 8]) -> [[u8; 8]; 8] {
    let middle = _mm256_set1_epi16(128);
    let pair = |a: usize| _mm256_adds_epi16(_mm256_packs_epi32(columns[a], columns[a + 1]), middle);
    // Four columns: in the lower half the first four rows, in the upper half the others.
    let quad = |a: usize| {
        let bytes = _mm256_packus_epi16(pair(a), pair(a + 2));
        _mm256_shuffle_epi8(bytes, bytemuck::cast(QUARTERS))
    };
    let (left, right) = (quad(0), quad(4));
    let [row0, row1, row4, row5]: [[u8; 8]; 4] = bytemuck::cast(_mm256_unpacklo_epi32(left, right));
    let [row2, row3, row6, row7]: [[u8; 8]; 4] = bytemuck::cast(_mm256_unpackhi_epi32(left, right));
    [row0, row1, row2, row3, row4, row5, row6, row7]
}
