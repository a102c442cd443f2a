//! Weights and biases as integers.

use offshoot_graph::{Data, Tensor};
use rayon::prelude::*;

use crate::scheme::WeightBits;

/// A weight matrix or filter as integers, with a scale for each output channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IntegerWeight {
    /// i8, in the order of the floats.
    pub(crate) integers: Tensor,
    /// One for each place of the axis.
    pub(crate) scales: Vec<f32>,
}

/// Candidates of a scale: each channel takes that with the least squared error.
const CANDIDATES: usize = 16;
/// The smallest candidate, relative to the scale at which nothing is cut off.
const SMALLEST: f32 = 0.7;

/// The largest bias as an integer: far enough from i32's bounds that a sum of products fits beside it.
const MOST_BIAS: f32 = (1u32 << 29) as f32;

/// Which of `channels` element `i` belongs to, when the channels are an axis of which `inner` elements stand at one place.
fn channel(i: usize, inner: usize, channels: usize) -> usize {
    i / inner % channels
}

/// Rounds `weight`, whose `channels` go along an axis with `inner` elements at each place. No scale is smaller than that of
/// `least`, one for each channel.
pub(crate) fn round_weight(
    weight: &Tensor,
    axis: usize,
    bits: WeightBits,
    least: &[f32],
) -> Option<IntegerWeight> {
    let floats = weight.as_f32()?;
    let channels = *weight.shape().get(axis)?;
    let inner: usize = weight.shape()[axis + 1..].iter().product();
    let scales: Vec<f32> = (0..channels)
        .into_par_iter()
        .map(|k| {
            let of_channel = |&i: &usize| channel(i, inner, channels) == k;
            let own: Vec<f32> = if axis == 0 {
                floats[k * inner..(k + 1) * inner].to_vec()
            } else {
                (0..floats.len()).filter(of_channel).map(|i| floats[i]).collect()
            };
            best_scale(&own, bits).max(least.get(k).copied().unwrap_or(0.0))
        })
        .collect();
    let largest = bits.largest();
    let integer = |(i, &w): (usize, &f32)| {
        (w / scales[channel(i, inner, channels)]).round_ties_even().clamp(-largest, largest) as i8
    };
    let integers = floats.par_iter().enumerate().map(integer).collect();
    let integers = Tensor::new(weight.shape(), Data::I8(integers)).ok()?;
    Some(IntegerWeight { integers, scales })
}

fn best_scale(weights: &[f32], bits: WeightBits) -> f32 {
    let largest = bits.largest();
    let full = weights.iter().fold(0.0f32, |m, w| m.max(w.abs())) / largest;
    if !full.is_normal() {
        return 1.0;
    }
    let error = |scale: f32| -> f64 {
        let part = |&w: &f32| {
            let off = (w / scale).round_ties_even().clamp(-largest, largest) * scale - w;
            f64::from(off) * f64::from(off)
        };
        weights.iter().map(part).sum()
    };
    let candidate = |i: usize| full * (1.0 - (1.0 - SMALLEST) * i as f32 / CANDIDATES as f32);
    let (mut best, mut least) = (full, error(full));
    for scale in (1..=CANDIDATES).map(candidate) {
        let off = error(scale);
        if off < least {
            (best, least) = (scale, off);
        }
    }
    best
}

/// The scales of a weight below which a bias under an activation of scale `activation` would not fit an i32.
pub(crate) fn least_scales(bias: &[f32], activation: f32) -> Vec<f32> {
    bias.iter().map(|b| b.abs() / MOST_BIAS / activation).collect()
}

/// A bias as i32, and its scales: that of the activation times those of the weight.
pub(crate) fn round_bias(bias: &[f32], activation: f32, weight: &[f32]) -> (Vec<i32>, Vec<f32>) {
    // Where the product is too small for a float, so is all that it scales.
    let scale = |w: &f32| (activation * w).max(f32::MIN_POSITIVE);
    let scales: Vec<f32> = weight.iter().map(scale).collect();
    let integer = |(&b, &s): (&f32, &f32)| (f64::from(b) / f64::from(s)).round_ties_even() as i32;
    (bias.iter().zip(&scales).map(integer).collect(), scales)
}

/// What the rounding of `weight` adds to each output channel on average, for inputs with the means `means`: the sum over
/// the input's channels of mean times the change of the weights that read it. `weight` is [K, C / group, ..] with the output
/// channels along `axis` 0, or a matrix [C, K] with them along axis 1.
pub(crate) fn mean_shift(
    weight: &Tensor,
    rounded: &IntegerWeight,
    axis: usize,
    group: usize,
    means: &[f32],
) -> Vec<f64> {
    let (Some(floats), Data::I8(integers)) = (weight.as_f32(), rounded.integers.data()) else {
        return Vec::new();
    };
    let shape = weight.shape();
    let outputs = rounded.scales.len();
    let mut shift = vec![0.0; outputs];
    let taps: usize = shape[2..].iter().product();
    let inputs = floats.len() / outputs.max(1) / taps.max(1);
    for (i, (&w, &q)) in floats.iter().zip(integers).enumerate() {
        let (k, c) = match axis {
            0 => (i / (inputs * taps), i / taps % inputs),
            _ => (i % outputs, i / outputs),
        };
        let first = k / (outputs / group.max(1)).max(1) * inputs;
        let mean = means.get(first + c).copied().unwrap_or(0.0);
        shift[k] += f64::from(mean) * (f64::from(q) * f64::from(rounded.scales[k]) - f64::from(w));
    }
    shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(w: &IntegerWeight, inner: usize) -> Vec<f32> {
        let Data::I8(q) = w.integers.data() else { panic!("i8") };
        let channels = w.scales.len();
        q.iter().enumerate().map(|(i, &q)| f32::from(q) * w.scales[channel(i, inner, channels)]).collect()
    }

    #[test]
    fn each_channel_has_its_own_scale_along_either_axis() {
        let weight = Tensor::f32([2, 3], vec![0.1, -0.2, 0.05, 10.0, 20.0, -5.0]);
        let rows = round_weight(&weight, 0, WeightBits::Eight, &[]).expect("it is f32");
        assert!(rows.scales[1] > 50.0 * rows.scales[0]);
        let columns = round_weight(&weight, 1, WeightBits::Eight, &[]).expect("it is f32");
        assert_eq!(columns.scales.len(), 3);
        for (w, found) in [(floats(&rows, 3), 0.01), (floats(&columns, 1), 0.1)] {
            for (a, b) in w.iter().zip(weight.as_f32().expect("it is f32")) {
                assert!((a - b).abs() <= found * b.abs().max(1.0), "{a} for {b}");
            }
        }
    }

    #[test]
    fn seven_bits_stay_within_63() {
        let weight = Tensor::f32([1, 64], (0..64).map(|i| i as f32 - 40.0).collect::<Vec<f32>>());
        let w = round_weight(&weight, 0, WeightBits::Seven, &[]).expect("it is f32");
        let Data::I8(q) = w.integers.data() else { panic!("i8") };
        assert!(q.iter().all(|q| (-63..=63).contains(q)) && q.iter().any(|q| q.abs() > 55));
    }

    #[test]
    fn a_bias_far_larger_than_the_weights_fits() {
        let bias = [1000.0, 0.5];
        let least = least_scales(&bias, 1e-6);
        let weight = Tensor::f32([2, 1], vec![1e-9, 1.0]);
        let w = round_weight(&weight, 0, WeightBits::Eight, &least).expect("it is f32");
        let (q, scales) = round_bias(&bias, 1e-6, &w.scales);
        for ((q, s), b) in q.iter().zip(scales).zip(bias) {
            assert!(q.abs() <= 1 << 29 && (*q as f32 * s - b).abs() <= 1e-5 * b, "{q} x {s} for {b}");
        }
    }

    #[test]
    fn the_shift_is_what_the_rounding_adds_for_the_mean_input() {
        // Two groups of two inputs, one kernel element each: [4, 2, 1, 1].
        let weight = Tensor::f32([4, 2, 1, 1], vec![0.31, -0.77, 0.5, 0.9, -0.123, 0.456, 0.789, -0.321]);
        let w = round_weight(&weight, 0, WeightBits::Seven, &[]).expect("it is f32");
        let means = [1.0, -2.0, 3.0, 0.5];
        let rounded = floats(&w, 2);
        let exact = weight.as_f32().expect("it is f32");
        let shift = mean_shift(&weight, &w, 0, 2, &means);
        for k in 0..4 {
            let inputs = &means[k / 2 * 2..k / 2 * 2 + 2];
            let wanted: f32 = (0..2).map(|c| (rounded[2 * k + c] - exact[2 * k + c]) * inputs[c]).sum();
            assert!((shift[k] - f64::from(wanted)).abs() < 1e-6, "{k}");
        }
    }

    #[test]
    fn a_scale_cuts_a_few_weights_off_where_it_fits_the_many() {
        // Whole numbers, which only a scale of 1 leaves as they are, and one weight beyond the 63 levels of that scale.
        for most in [63.0, 64.203_82, 69.517_24, 79.370_08, 90.0] {
            let mut weights = [20.0, -7.0, 33.0, 11.0, -50.0, 3.0, -28.0, 45.0].repeat(2000);
            weights.push(most);
            let scale = best_scale(&weights, WeightBits::Seven);
            assert!((scale - 1.0).abs() < 1e-5, "{most}: {scale}");
        }
        assert_eq!(best_scale(&[0.0, -0.0], WeightBits::Seven), 1.0);
    }

    #[test]
    fn multiples_of_a_scale_become_their_factors() {
        let rounded = |shape: [usize; 2], axis, weight: [f32; 6]| {
            let w = round_weight(&Tensor::f32(shape, weight.to_vec()), axis, WeightBits::Seven, &[]);
            let IntegerWeight { integers, scales } = w.expect("it is f32");
            assert_eq!((integers.shape(), &scales[..]), (&shape[..], &[1.0, 2.0][..]));
            integers.data().clone()
        };
        let rows = rounded([2, 3], 0, [63.0, -21.0, 7.0, 126.0, 42.0, -84.0]);
        assert_eq!(rows, Data::I8(vec![63, -21, 7, 63, 21, -42]));
        let columns = rounded([3, 2], 1, [63.0, 126.0, -21.0, 42.0, 7.0, -84.0]);
        assert_eq!(columns, Data::I8(vec![63, 63, -21, 21, 7, -42]));
    }

    #[test]
    fn a_bias_has_the_scale_of_the_sums() {
        let half = (1u32 << 28) as f32;
        assert_eq!(least_scales(&[6.0 * half, -half], 0.5), [6.0, 1.0]);
        let (integers, scales) = round_bias(&[1.0, -0.74, 5.0], 0.5, &[0.5, 0.25, 0.0]);
        assert_eq!(integers, [4, -6, i32::MAX]);
        assert_eq!(scales, [0.25, 0.125, f32::MIN_POSITIVE]);
    }

    #[test]
    fn the_shift_sums_over_taps_and_goes_along_either_axis() {
        let shift = |shape: &[usize], axis, scales: &[f32]| {
            let weight = Tensor::f32(shape, vec![0.4, 1.1, 1.4, 2.2]);
            let integers = Tensor::new(shape, Data::I8(vec![1, 2, 3, 4])).expect("four elements");
            let rounded = IntegerWeight { integers, scales: scales.to_vec() };
            mean_shift(&weight, &rounded, axis, 1, &[10.0, 100.0])
        };
        let near = |found: Vec<f64>, wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len());
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {wanted:?}");
        };
        // One output of two inputs of two kernel elements: 10 (0.1 - 0.1) + 100 (0.1 - 0.2).
        near(shift(&[1, 2, 1, 2], 0, &[0.5]), &[-10.0]);
        // Two outputs in columns: 10 (0.1) + 100 (0.1), 10 (-0.6) + 100 (-1.2).
        near(shift(&[2, 2], 1, &[0.5, 0.25]), &[11.0, -126.0]);
    }
}
