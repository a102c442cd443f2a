//! The inverse discrete cosine transform of libjpeg's `jidctint.c` ("islow"), to the bit: Loeffler, Ligtenberg and
//! Moschytz in 13-bit fixed point, first along the columns, then along the rows.

/// Eight columns, or eight rows.
type Lanes = [i32; 8];

const CONST_BITS: u32 = 13;
/// Bits that are kept between the passes.
const PASS_BITS: u32 = 2;

/// Writes a block of 8 x 8 samples, the rows of which are `stride` apart. `last` is the place in zigzag order behind which all
/// coefficients are 0.
#[inline(always)]
pub(super) fn block(
    coefficients: &[i16; 64],
    last: usize,
    table: &[i32; 64],
    output: &mut [u8],
    stride: usize,
) {
    if last == 0 {
        let sample = i32::from(coefficients[0]).wrapping_mul(table[0]).wrapping_shl(PASS_BITS);
        let sample = to_sample(sample.wrapping_add(1 << (PASS_BITS + 2)) >> (PASS_BITS + 3));
        for row in output.chunks_mut(stride).take(8) {
            row[..8].fill(sample);
        }
        return;
    }
    let mut rows = [[0; 8]; 8];
    for (i, value) in rows.as_flattened_mut().iter_mut().enumerate() {
        *value = i32::from(coefficients[i]).wrapping_mul(table[i]);
    }
    let columns = transposed(pass::<{ CONST_BITS - PASS_BITS }>(rows));
    let rows = transposed(pass::<{ CONST_BITS + PASS_BITS + 3 }>(columns));
    for (row, values) in output.chunks_mut(stride).zip(rows) {
        for (sample, value) in row[..8].iter_mut().zip(values) {
            *sample = to_sample(value);
        }
    }
}

#[inline(always)]
fn to_sample(value: i32) -> u8 {
    value.wrapping_add(128).clamp(0, 255) as u8
}

#[inline(always)]
fn transposed(rows: [Lanes; 8]) -> [Lanes; 8] {
    let mut columns = [[0; 8]; 8];
    for i in 0..8 {
        for j in 0..8 {
            columns[i][j] = rows[j][i];
        }
    }
    columns
}

// Loops, because the compiler makes vectors of them, which it does not of `array::from_fn`.

#[inline(always)]
fn add(mut a: Lanes, b: Lanes) -> Lanes {
    for i in 0..8 {
        a[i] = a[i].wrapping_add(b[i]);
    }
    a
}

#[inline(always)]
fn subtract(mut a: Lanes, b: Lanes) -> Lanes {
    for i in 0..8 {
        a[i] = a[i].wrapping_sub(b[i]);
    }
    a
}

#[inline(always)]
fn times(mut a: Lanes, factor: i32) -> Lanes {
    for a in &mut a {
        *a = a.wrapping_mul(factor);
    }
    a
}

/// The value, of which `shift` bits will be dropped, with half of what they count.
#[inline(always)]
fn widened(mut a: Lanes, shift: u32) -> Lanes {
    for a in &mut a {
        *a = a.wrapping_shl(CONST_BITS).wrapping_add(1 << (shift - 1));
    }
    a
}

/// One direction: the transform across the eight vectors, rounded and divided by a power of two.
#[inline(always)]
fn pass<const SHIFT: u32>(x: [Lanes; 8]) -> [Lanes; 8] {
    let common = times(add(x[2], x[6]), 4433);
    let even2 = add(common, times(x[6], -15137));
    let even3 = add(common, times(x[2], 6270));
    let (even0, even1) = (widened(add(x[0], x[4]), SHIFT), widened(subtract(x[0], x[4]), SHIFT));
    let even = [add(even0, even3), add(even1, even2), subtract(even1, even2), subtract(even0, even3)];

    let (sum0, sum1) = (add(x[7], x[1]), add(x[5], x[3]));
    let (sum2, sum3) = (add(x[7], x[3]), add(x[5], x[1]));
    let common = times(add(sum2, sum3), 9633);
    let (sum0, sum1) = (times(sum0, -7373), times(sum1, -20995));
    let (sum2, sum3) = (add(times(sum2, -16069), common), add(times(sum3, -3196), common));
    let odd = [
        add(times(x[1], 12299), add(sum0, sum3)),
        add(times(x[3], 25172), add(sum1, sum2)),
        add(times(x[5], 16819), add(sum1, sum3)),
        add(times(x[7], 2446), add(sum0, sum2)),
    ];
    let mut sums = [[0; 8]; 8];
    for i in 0..4 {
        (sums[i], sums[7 - i]) = (add(even[i], odd[i]), subtract(even[i], odd[i]));
    }
    for sum in sums.as_flattened_mut() {
        *sum >>= SHIFT;
    }
    sums
}
