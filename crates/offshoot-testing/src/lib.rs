//! What the tests of offshoot share: a comparison of numbers that nothing passes which is not a number, and the choice of networks for slow
//! tests.

use std::collections::HashSet;

/// The largest difference between two lists of numbers, relative to the largest magnitude of `wanted`. It is infinite
/// where a number is a NaN, or infinite and not equal, or where `wanted` is all zeros and `found` is not: every
/// comparison with a tolerance fails then.
///
/// # Panics
/// When the lists differ in length.
pub fn difference<A: Copy + Into<f64>, B: Copy + Into<f64>>(found: &[A], wanted: &[B]) -> f64 {
    difference_above(found, wanted, 0.0)
}

/// As [`difference`], relative to `least` where all of `wanted` is smaller.
///
/// # Panics
/// As [`difference`].
pub fn difference_above<A: Copy + Into<f64>, B: Copy + Into<f64>>(
    found: &[A],
    wanted: &[B],
    least: f64,
) -> f64 {
    assert_eq!(found.len(), wanted.len(), "as many numbers as are wanted");
    let mut largest = least;
    let mut worst = 0.0f64;
    for (&found, &wanted) in found.iter().zip(wanted) {
        let (found, wanted): (f64, f64) = (found.into(), wanted.into());
        if found == wanted {
            largest = largest.max(if wanted.is_finite() { wanted.abs() } else { 0.0 });
        } else if (found - wanted).is_finite() {
            largest = largest.max(wanted.abs());
            worst = worst.max((found - wanted).abs());
        } else {
            return f64::INFINITY;
        }
    }
    if worst == 0.0 { 0.0 } else { worst / largest }
}

/// The networks that a slow test takes out of `names`: the first of those whose names differ in numbers only, which are of one kind; or,
/// where the variable OFFSHOOT_GOLDEN is set, those that it names, or `all`. As `scripts/golden/models.py`, which leaves out more.
pub fn chosen<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    choose(names, &std::env::var("OFFSHOOT_GOLDEN").unwrap_or_default())
}

fn choose<'a>(names: impl Iterator<Item = &'a str>, wanted: &str) -> Vec<&'a str> {
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let mut kinds = HashSet::new();
    let is_chosen = |name: &&str| match wanted[..] {
        [] => kinds.insert(name.replace(|c: char| c.is_ascii_digit(), "")),
        ["all"] => true,
        _ => wanted.contains(name),
    };
    names.filter(is_chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_never_passes() {
        let passes = |found: &[f32], wanted: &[f32]| difference(found, wanted) <= 1e30;
        assert!(!passes(&[f32::NAN], &[f32::NAN]));
        assert!(!passes(&[1.0, f32::NAN, 1.0], &[1.0, 1.0, 1.0]));
        assert!(!passes(&[1.0], &[f32::NAN]));
        assert!(!passes(&[f32::INFINITY], &[1.0]));
        assert!(!passes(&[f32::INFINITY], &[f32::NEG_INFINITY]));
        assert!(!passes(&[1.0], &[f32::INFINITY]));
        assert!(!passes(&[1.0, 0.0], &[0.0, 0.0]));
        assert!(passes(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0]));
    }

    #[test]
    fn differences_are_relative_to_the_largest_number() {
        assert_eq!(difference(&[1.0f32, 2.0, -3.5], &[1.0f64, 2.0, -4.0]), 0.125);
        assert_eq!(difference_above(&[0.5f32], &[0.0f32], 2.0), 0.25);
        assert_eq!(difference(&[0.0f32; 3], &[0.0f32; 3]), 0.0);
    }

    #[test]
    #[should_panic(expected = "as many numbers")]
    fn lists_of_other_lengths_do_not_pass() {
        difference(&[1.0f32, 2.0], &[1.0f32]);
    }

    #[test]
    fn one_of_a_kind_is_chosen() {
        let names = ["net18", "net50", "net_v2_t", "net_t", "net_v1_t"];
        let chosen = |wanted| choose(names.into_iter(), wanted);
        assert_eq!(chosen(""), ["net18", "net_v2_t", "net_t"]);
        assert_eq!(chosen("all"), names);
        assert_eq!(chosen("net50 net_t"), ["net50", "net_t"]);
    }
}
