//! Weights as signed bytes.
//!
//! Symmetric, with one scale for each output channel, and of seven bits: from -64 to 64. Instructions of AVX2 that multiply
//! bytes add two products in sixteen bits, which holds 2 * 255 * 64 and not 2 * 255 * 127; with seven bits every runtime on
//! every machine computes the same sums.

/// The largest weight.
pub const LEVELS: f32 = 64.0;

/// The scale of a channel with these weights: the largest of them becomes [`LEVELS`]. `None` when one is not finite.
pub fn scale(weights: impl IntoIterator<Item = f32>) -> Option<f32> {
    let mut largest = 0.0f32;
    for weight in weights {
        if !weight.is_finite() {
            return None;
        }
        largest = largest.max(weight.abs());
    }
    let scale = largest / LEVELS;
    // Of zeros, and of numbers so small that their scale would be none.
    Some(if scale.is_normal() { scale } else { 1.0 })
}

/// The byte that stands for a weight of a channel with this scale.
pub fn quantize(weight: f32, scale: f32) -> i8 {
    (weight / scale).round_ties_even().clamp(-LEVELS, LEVELS) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_weight_takes_the_last_level_and_all_are_within_half_a_step() {
        let weights = [0.3, -1.25, 0.0, 0.77];
        let scale = scale(weights).unwrap();
        assert_eq!(weights.map(|w| quantize(w, scale)), [15, -64, 0, 39]);
        assert!(weights.iter().all(|&w| (f32::from(quantize(w, scale)) * scale - w).abs() <= scale / 2.0));
    }

    #[test]
    fn zeros_have_a_scale_and_what_is_not_finite_has_none() {
        assert_eq!(scale([0.0, -0.0]), Some(1.0));
        assert_eq!(scale([f32::MIN_POSITIVE, 0.0]), Some(1.0));
        assert_eq!(quantize(f32::MIN_POSITIVE, 1.0), 0);
        assert_eq!(scale([1.0, f32::NAN]), None);
        assert_eq!(scale([f32::INFINITY]), None);
        let large = scale([f32::MAX]).unwrap();
        assert_eq!(quantize(-f32::MAX, large), -64);
    }
}
