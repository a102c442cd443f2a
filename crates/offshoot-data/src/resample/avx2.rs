//! Rows resized with AVX2, four input pixels at a time. A weight has more than 16 bits: it is split in two, each of which
//! is multiplied in 16 bits and added up in 32, so that the sums are the same to the bit.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_packus_epi16, _mm_packus_epi32, _mm_srai_epi32,
    _mm256_add_epi32, _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_madd_epi16, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32,
};

use super::{Axis, PRECISION_BITS, start_sum};

/// Bits of the lower part of a weight.
const LOW_BITS: u32 = 11;
/// Input pixels of a step, and the bytes that are read for them.
const PIXELS: usize = 4;
const READ: usize = 16;

/// Bytes of four RGB pixels as pairs of 16 bits: of the first two pixels red, green, blue and nothing, then of the others.
const PAIRS: [i8; 32] = [
    0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
    6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
];

/// An axis in the form that is multiplied.
pub(super) struct Steps {
    /// For each output pixel the first byte, how many steps, and what the sums start with.
    windows: Vec<(usize, usize, [i32; 4])>,
    /// For each step the lower and the higher parts of the weights, as [`PAIRS`] orders the pixels.
    weights: Vec<[[i16; 16]; 2]>,
}

impl Steps {
    /// `None` if a weight is too large.
    pub(super) fn new(axis: &Axis, start: usize, background: [u8; 3]) -> Option<Steps> {
        let mut steps = Steps { windows: Vec::with_capacity(axis.windows.len()), weights: Vec::new() };
        for window in &axis.windows {
            let [red, green, blue] = start_sum(background, window.padding);
            let first = 3 * window.first.saturating_sub(start);
            steps.windows.push((first, window.count.div_ceil(PIXELS), [red, green, blue, 0]));
            for weights in axis.weights(window).chunks(PIXELS) {
                let mut parts = [[0; 16]; 2];
                for (pixel, &weight) in weights.iter().enumerate() {
                    let low = (weight & ((1 << LOW_BITS) - 1)) as i16;
                    let high = i16::try_from(weight >> LOW_BITS).ok()?;
                    for channel in 0..3 {
                        let lane = 8 * (pixel / 2) + 2 * channel + pixel % 2;
                        (parts[0][lane], parts[1][lane]) = (low, high);
                    }
                }
                steps.weights.push(parts);
            }
        }
        Some(steps)
    }

    /// How many of the rows, from the first on, have behind them what is read too much.
    pub(super) fn rows(&self, bytes: usize, stride: usize) -> usize {
        let end = |&(first, steps, _): &(usize, usize, _)| first + 3 * PIXELS * steps + READ - 3 * PIXELS;
        let most = self.windows.iter().map(end).max().unwrap_or(0);
        bytes.checked_sub(most).map_or(0, |room| room / stride + 1)
    }
}

/// Resizes rows, `stride` bytes apart in `pixels`, as many as `output` has.
#[target_feature(enable = "avx2")]
pub(super) fn along_rows(pixels: &[u8], stride: usize, steps: &Steps, output: &mut [u8]) {
    let pairs: __m256i = bytemuck::cast(PAIRS);
    for (row, output) in output.chunks_exact_mut(3 * steps.windows.len()).enumerate() {
        let row = &pixels[row * stride..];
        let mut weights = steps.weights.iter();
        for (&(first, count, start), output) in steps.windows.iter().zip(output.chunks_exact_mut(3)) {
            let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            let mut at = first;
            for parts in weights.by_ref().take(count) {
                let Some(bytes) = row.get(at..).and_then(|rest| rest.first_chunk::<READ>()) else { return };
                let bytes = _mm256_broadcastsi128_si256(bytemuck::cast::<_, __m128i>(*bytes));
                let values = _mm256_shuffle_epi8(bytes, pairs);
                low = _mm256_add_epi32(low, _mm256_madd_epi16(values, bytemuck::cast(parts[0])));
                high = _mm256_add_epi32(high, _mm256_madd_epi16(values, bytemuck::cast(parts[1])));
                at += 3 * PIXELS;
            }
            let sums = _mm256_add_epi32(low, _mm256_slli_epi32::<{ LOW_BITS as i32 }>(high));
            let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let sums = _mm_add_epi32(sums, bytemuck::cast(start));
            let values = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(sums);
            let values = _mm_packus_epi32(values, values);
            let bytes = _mm_cvtsi128_si32(_mm_packus_epi16(values, values)).to_le_bytes();
            output.copy_from_slice(&bytes[..3]);
        }
    }
}
