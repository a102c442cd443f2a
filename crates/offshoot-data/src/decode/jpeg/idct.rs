//! The inverse discrete cosine transform of libjpeg's `jidctint.c` ("islow"), to the bit: Loeffler, Ligtenberg and
//! Moschytz in 13-bit fixed point, first along the columns, then along the rows.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;

/// Eight columns, or eight rows.
type Lanes = [i32; 8];

/// Bits that are dropped after the first pass, and after the second. (Two are kept between them; three are the division by 8.)
const FIRST_SHIFT: u32 = 13 - 2;
const SECOND_SHIFT: u32 = 13 + 2 + 3;

/// Writes a block of 8 x 8 samples, the rows of which are `stride` apart.
pub(super) fn block(coefficients: &[i16; 64], table: &[i32; 64], output: &mut [u8], stride: usize) {
    let mut rows = [[0; 8]; 8];
    for (i, value) in rows.as_flattened_mut().iter_mut().enumerate() {
        *value = i32::from(coefficients[i]).wrapping_mul(table[i]);
    }
    let columns = transposed(one_way(rows, FIRST_SHIFT));
    let rows = transposed(one_way(columns, SECOND_SHIFT));
    for (row, values) in output.chunks_mut(stride).zip(rows) {
        row[..8].copy_from_slice(&values.map(to_sample));
    }
}

/// The same where only the first coefficient is not 0.
#[inline]
pub(super) fn plain_block(first: i16, table: &[i32; 64], output: &mut [u8], stride: usize) {
    let value = i32::from(first).wrapping_mul(table[0]).wrapping_shl(2);
    let sample = to_sample(value.wrapping_add(16) >> 5);
    output.chunks_mut(stride).take(8).for_each(|row| row[..8].fill(sample));
}

fn to_sample(value: i32) -> u8 {
    value.wrapping_add(128).clamp(0, 255) as u8
}

fn transposed(rows: [Lanes; 8]) -> [Lanes; 8] {
    std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
}

fn one_way(x: [Lanes; 8], shift: u32) -> [Lanes; 8] {
    let add = |a: Lanes, b: Lanes| std::array::from_fn(|i| a[i].wrapping_add(b[i]));
    let subtract = |a: Lanes, b: Lanes| std::array::from_fn(|i| a[i].wrapping_sub(b[i]));
    let times = |a: Lanes, factor: i32| a.map(|a| a.wrapping_mul(factor));
    pass(x, [1 << (shift - 1); 8], add, subtract, times).map(|sums| sums.map(|sum| sum >> shift))
}

/// One direction: the transform across eight vectors, times 2 to the 13th, plus `half`.
#[inline(always)]
fn pass<V: Copy>(
    x: [V; 8],
    half: V,
    add: impl Fn(V, V) -> V,
    subtract: impl Fn(V, V) -> V,
    times: impl Fn(V, i32) -> V,
) -> [V; 8] {
    let common = times(add(x[2], x[6]), 4433);
    let even2 = add(common, times(x[6], -15137));
    let even3 = add(common, times(x[2], 6270));
    let even0 = add(times(add(x[0], x[4]), 1 << 13), half);
    let even1 = add(times(subtract(x[0], x[4]), 1 << 13), half);
    let even = [add(even0, even3), add(even1, even2), subtract(even1, even2), subtract(even0, even3)];

    let (sum0, sum1) = (add(x[7], x[1]), add(x[5], x[3]));
    let (sum2, sum3) = (add(x[7], x[3]), add(x[5], x[1]));
    let common = times(add(sum2, sum3), 9633);
    let (sum0, sum1) = (times(sum0, -7373), times(sum1, -20995));
    let (sum2, sum3) = (add(times(sum2, -16069), common), add(times(sum3, -3196), common));
    let odd0 = add(times(x[1], 12299), add(sum0, sum3));
    let odd1 = add(times(x[3], 25172), add(sum1, sum2));
    let odd2 = add(times(x[5], 16819), add(sum1, sum3));
    let odd3 = add(times(x[7], 2446), add(sum0, sum2));
    [
        add(even[0], odd0),
        add(even[1], odd1),
        add(even[2], odd2),
        add(even[3], odd3),
        subtract(even[3], odd3),
        subtract(even[2], odd2),
        subtract(even[1], odd1),
        subtract(even[0], odd0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use multiversion::multiversion;
    use multiversion::target::match_target;
    use proptest::prelude::*;

    /// With the best instructions that the processor has.
    #[multiversion(targets("x86_64+avx2"))]
    fn best(coefficients: &[i16; 64], table: &[i32; 64], output: &mut [u8]) {
        match_target! {
            "x86_64+avx2" => avx2::block(coefficients, table, output, 8),
            _ => block(coefficients, table, output, 8),
        }
    }

    proptest! {
        #[test]
        fn instructions_make_no_difference(coefficients in prop::collection::vec(-300i16..300, 64), step in 1..60i32, plain: bool) {
            let mut coefficients: [i16; 64] = coefficients.try_into().expect("64");
            let table = std::array::from_fn(|i| step + i as i32 % 7);
            if plain {
                coefficients[1..].fill(0);
            }
            let (mut ours, mut others, mut short) = ([0; 64], [0; 64], [0; 64]);
            block(&coefficients, &table, &mut ours, 8);
            best(&coefficients, &table, &mut others);
            prop_assert_eq!(ours, others);
            if plain {
                plain_block(coefficients[0], &table, &mut short, 8);
                prop_assert_eq!(ours, short);
            }
        }
    }
}
