//! Functions of one byte, as tables of what each byte becomes.

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;

use super::super::parallel;
use super::super::simd::{Isa, Path};

/// Bytes of a task.
const TASK: usize = 1 << 16;

/// y = the table's byte for each byte of x.
///
/// # Panics
/// When the slices differ in length.
pub fn table(isa: Isa, x: &[u8], table: &[u8; 256], y: &mut [u8]) {
    assert_eq!(x.len(), y.len(), "elements in and out");
    let (len, y) = (y.len(), parallel::Shared::new(y));
    parallel::for_each_task(len.div_ceil(TASK), len, |i| {
        let range = i * TASK..len.min((i + 1) * TASK);
        // Safety: tasks have elements of their own.
        let y = unsafe { std::slice::from_raw_parts_mut(y.at(range.start), range.len()) };
        look_up(isa, &x[range], table, y);
    });
}

fn look_up(isa: Isa, x: &[u8], table: &[u8; 256], y: &mut [u8]) {
    match isa.path() {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 | Path::Avx512Bf16 | Path::Amx if is_x86_feature_detected!("avx512vbmi") => {
            // Safety: there is an `Isa` of these paths only where there is AVX-512; the rest was asked for.
            unsafe { x86::vbmi(x, table, y) }
        }
        #[cfg(target_arch = "x86_64")]
        // Safety: there is an `Isa` of these paths only where there is AVX2.
        Path::Avx2 | Path::Avx512 | Path::Avx512Bf16 | Path::Amx => unsafe { x86::avx2(x, table, y) },
        #[cfg(target_arch = "aarch64")]
        Path::Neon => one_by_one(x, table, y),
        Path::Portable | Path::EmulatedTiles => one_by_one(x, table, y),
    }
}

fn one_by_one(x: &[u8], table: &[u8; 256], y: &mut [u8]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = table[usize::from(x)];
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor must have these instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub(super) unsafe fn vbmi(x: &[u8], table: &[u8; 256], y: &mut [u8]) {
        let len = x.len().min(y.len());
        // Safety: the quarters lie within the table, and the elements within the slices.
        unsafe {
            let mut quarters = [_mm512_setzero_si512(); 4];
            for (i, quarter) in quarters.iter_mut().enumerate() {
                *quarter = _mm512_loadu_si512(table.as_ptr().add(64 * i).cast());
            }
            let whole = len - len % 64;
            for at in (0..whole).step_by(64) {
                let x = _mm512_loadu_si512(x.as_ptr().add(at).cast());
                _mm512_storeu_si512(y.as_mut_ptr().add(at).cast(), found(quarters, x));
            }
            if whole < len {
                let mask = (1u64 << (len - whole)) - 1;
                let x = _mm512_maskz_loadu_epi8(mask, x.as_ptr().add(whole).cast());
                _mm512_mask_storeu_epi8(y.as_mut_ptr().add(whole).cast(), mask, found(quarters, x));
            }
        }
    }

    /// The bytes of a table in quarters.
    ///
    /// # Safety
    /// As [`vbmi`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn found([a, b, c, d]: [__m512i; 4], x: __m512i) -> __m512i {
        // (The permutations go by the lowest seven bits.)
        let (low, high) = (_mm512_permutex2var_epi8(a, x, b), _mm512_permutex2var_epi8(c, x, d));
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high)
    }

    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2(x: &[u8], table: &[u8; 256], y: &mut [u8]) {
        let whole = x.len().min(y.len()) / 32 * 32;
        // Safety: the rows of 16 lie within the table, and the elements within the slices.
        unsafe {
            let mut rows = [_mm256_setzero_si256(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().add(16 * i).cast()));
            }
            for at in (0..whole).step_by(32) {
                let bytes = _mm256_loadu_si256(x.as_ptr().add(at).cast());
                let mut found = _mm256_setzero_si256();
                for (i, &row) in rows.iter().enumerate() {
                    // Of a byte in this row, its place and 0x70; of others, at least 0x80, for which the shuffle gives 0.
                    let place = _mm256_xor_si256(bytes, _mm256_set1_epi8((i << 4) as i8));
                    let place = _mm256_adds_epu8(place, _mm256_set1_epi8(0x70));
                    found = _mm256_or_si256(found, _mm256_shuffle_epi8(row, place));
                }
                _mm256_storeu_si256(y.as_mut_ptr().add(at).cast(), found);
            }
        }
        super::one_by_one(&x[whole..], table, &mut y[whole..]);
    }
}
