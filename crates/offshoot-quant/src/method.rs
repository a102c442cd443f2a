//! How the range that the levels of an activation span is chosen from what was seen of it.

use std::fmt;
use std::str::FromStr;

use crate::histogram::{BINS, Histogram};
use crate::range::Range;
use crate::scheme::Activations;

/// How a range is chosen. A narrow one has fine levels and cuts outliers off; a wide one has coarse levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// All that was seen.
    MinMax,
    /// All but one in ten thousand.
    Percentile,
    /// The range whose levels lose the least information: the least Kullback-Leibler divergence from what was seen (Migacz,
    /// "8-bit inference with TensorRT", 2017).
    Entropy,
    /// The least mean squared error.
    #[default]
    Mse,
}

/// The names on the command line.
const NAMES: [(&str, Method); 4] = [
    ("minmax", Method::MinMax),
    ("percentile", Method::Percentile),
    ("entropy", Method::Entropy),
    ("mse", Method::Mse),
];

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Method, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|&(_, method)| method).ok_or_else(|| "give minmax, percentile, entropy or mse".into())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = NAMES.iter().find(|(_, method)| method == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

/// The fraction of the elements that [`Method::Percentile`] keeps.
const KEPT: f64 = 0.9999;

/// Candidates of a bound under [`Method::Mse`]: it is tried at this many places between 0 and what was seen.
const CANDIDATES: usize = 64;

/// Bins between the candidates of [`Method::Entropy`].
const STEP: usize = 8;

impl Method {
    /// The range for what `histogram` saw, which the levels of `activations` will span.
    pub(crate) fn range(self, histogram: &Histogram, activations: Activations) -> Range {
        match self {
            Method::MinMax => histogram.range(),
            Method::Percentile => percentile(histogram),
            Method::Entropy => entropy(histogram, activations),
            Method::Mse => least_error(histogram, activations),
        }
    }
}

fn percentile(histogram: &Histogram) -> Range {
    let Range { low, high } = histogram.range();
    let total = histogram.total();
    // What lies on one side of zero is cut on that side only.
    let sides = if low < 0.0 && high > 0.0 { 2.0 } else { 1.0 };
    let cut = (1.0 - KEPT) * total / sides;
    let edge = |bins: &mut dyn Iterator<Item = (f64, f64)>| {
        let mut seen = 0.0;
        for (middle, count) in bins {
            seen += count;
            if seen > cut {
                return middle as f32;
            }
        }
        0.0
    };
    let half = histogram.width() as f32 / 2.0;
    Range {
        low: if low < 0.0 { edge(&mut histogram.bins()) - half } else { low },
        high: if high > 0.0 { edge(&mut histogram.bins().rev()) + half } else { high },
    }
}

/// The mean squared error of rounding what was seen to levels that span `range`.
fn error(histogram: &Histogram, activations: Activations, range: Range) -> f64 {
    let (affine, bounds) = (activations.affine(range), activations.bounds());
    let part = |(middle, count): (f64, f64)| {
        let off = affine.round(middle, bounds) - middle;
        count * off * off
    };
    histogram.bins().filter(|&(_, count)| count > 0.0).map(part).sum()
}

/// Each bound in turn, the other one held, until neither moves.
fn least_error(histogram: &Histogram, activations: Activations) -> Range {
    let seen = histogram.range();
    let mut best = seen;
    let mut least = error(histogram, activations, best);
    for _ in 0..3 {
        let before = best;
        for step in 1..=CANDIDATES {
            let part = step as f32 / CANDIDATES as f32;
            for high in [true, false] {
                let candidate = match high {
                    true => Range { high: seen.high * part, ..best },
                    false => Range { low: seen.low * part, ..best },
                };
                let off = error(histogram, activations, candidate);
                if off < least {
                    (best, least) = (candidate, off);
                }
            }
        }
        if best == before {
            break;
        }
    }
    best
}

/// The bound on magnitudes whose levels lose the least information.
fn entropy(histogram: &Histogram, activations: Activations) -> Range {
    let Range { low, high } = histogram.range();
    let one_sided = low >= 0.0 || high <= 0.0;
    let levels = if one_sided && activations == Activations::Asymmetric { 256 } else { 128 };
    let most = high.max(-low);
    let mut magnitudes = vec![0.0; BINS];
    for (middle, count) in histogram.bins() {
        let place = (middle.abs() / f64::from(most) * BINS as f64) as usize;
        magnitudes[place.min(BINS - 1)] += count;
    }
    // Activations that are exactly 0, as behind a Relu, are a level of their own under any range.
    magnitudes[0] = magnitudes[1];
    let mut best = (f64::INFINITY, BINS);
    for bins in (levels..=BINS).step_by(STEP) {
        let divergence = divergence(&magnitudes, bins, levels);
        if divergence < best.0 {
            best = (divergence, bins);
        }
    }
    let bound = most * best.1 as f32 / BINS as f32;
    Range { low: low.max(-bound), high: high.min(bound) }
}

/// The Kullback-Leibler divergence of `levels` levels that span the first `bins` bins from what all bins hold, what lies
/// beyond counted in the last.
fn divergence(all: &[f64], bins: usize, levels: usize) -> f64 {
    let beyond: f64 = all[bins..].iter().sum();
    let total: f64 = all.iter().sum();
    let kept: f64 = total - beyond;
    if kept <= 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for level in 0..levels {
        let part = &all[bins * level / levels..bins * (level + 1) / levels];
        let filled = part.iter().filter(|&&count| count > 0.0).count();
        let each = part.iter().sum::<f64>() / filled.max(1) as f64 / kept;
        for (offset, &count) in part.iter().enumerate() {
            let last = bins * level / levels + offset + 1 == bins;
            let wanted = (if last { count + beyond } else { count }) / total;
            if wanted > 0.0 {
                // A level that holds nothing where something is: as good as a thousandth of an element.
                let given = if count > 0.0 { each } else { 1e-3 / total };
                sum += wanted * libm::log(wanted / given);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hump of width 1 and one element far away.
    fn hump(low: f32, far: f32) -> Histogram {
        let mut histogram = Histogram::new(Range { low, high: far });
        for i in 0..100_000 {
            let t = (i as f32 + 0.5) / 100_000.0;
            let x = t * t * (if i % 2 == 0 || low == 0.0 { 1.0 } else { -1.0 });
            histogram.add(&[x.max(low)]);
        }
        histogram.add(&[far]);
        histogram
    }

    #[test]
    fn an_outlier_is_cut_off_but_by_min_and_max() {
        let histogram = hump(0.0, 50.0);
        let high = |method: Method| method.range(&histogram, Activations::Asymmetric).high;
        assert_eq!(high(Method::MinMax), 50.0);
        assert!(high(Method::Percentile) < 1.1, "{}", high(Method::Percentile));
        // As narrow as can be with a bin a level: 256 of 2048 bins.
        assert_eq!(high(Method::Entropy), 50.0 / 8.0);
        // One element of 100 001 is worth a level of twelve times the width, so the error weighs it.
        assert!(high(Method::Mse) < 50.0, "{}", high(Method::Mse));
    }

    #[test]
    fn an_outlier_below_is_cut_off_as_well() {
        let mut histogram = Histogram::new(Range { low: -50.0, high: 0.0 });
        let values: Vec<f32> = (0..100_000).map(|i| -((i as f32 + 0.5) / 100_000.0).powi(2)).collect();
        histogram.add(&values);
        histogram.add(&[-50.0]);
        for method in [Method::Percentile, Method::Entropy, Method::Mse] {
            let range = method.range(&histogram, Activations::Asymmetric);
            assert!(range.low > -50.0 && range.low < -0.9 && range.high == 0.0, "{method}: {range:?}");
        }
    }

    #[test]
    fn mean_squared_error_finds_the_best_of_all_ranges() {
        for (low, activations) in
            [(0.0, Activations::Asymmetric), (-1.0, Activations::Asymmetric), (-1.0, Activations::Symmetric)]
        {
            let histogram = hump(low, 12.0);
            let found = Method::Mse.range(&histogram, activations);
            let least = error(&histogram, activations, found);
            for step in 1..=48 {
                let high = step as f32 * 0.25;
                for low in [low, low / 2.0] {
                    let other = error(&histogram, activations, Range { low, high });
                    assert!(least <= other * 1.001, "{found:?}: {least}, {low}..{high}: {other}");
                }
            }
        }
    }

    #[test]
    fn both_sides_are_cut_on_their_own() {
        let histogram = hump(-1.0, 50.0);
        let range = Method::Percentile.range(&histogram, Activations::Asymmetric);
        assert!(range.low > -1.1 && range.low < -0.9 && range.high < 1.1, "{range:?}");
    }

    #[test]
    fn a_value_that_is_always_zero_has_a_range() {
        let mut histogram = Histogram::new(Range { low: 0.0, high: 0.0 });
        histogram.add(&[0.0; 9]);
        for (_, method) in NAMES {
            let range = method.range(&histogram, Activations::Asymmetric);
            assert_eq!((range.low, range.high), (0.0, 0.0), "{method}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for (name, method) in NAMES {
            assert_eq!((name.parse(), method.to_string().as_str()), (Ok(method), name));
        }
        assert!("max".parse::<Method>().is_err());
    }

    #[test]
    fn entropy_gives_each_sign_half_of_the_levels() {
        let range = |low, activations| Method::Entropy.range(&hump(low, 50.0), activations);
        assert_eq!(range(0.0, Activations::Symmetric), Range { low: 0.0, high: 50.0 / 16.0 });
        assert_eq!(range(-1.0, Activations::Asymmetric), Range { low: -1.0, high: 50.0 / 16.0 });
    }

    #[test]
    fn the_divergence_is_that_of_its_definition() {
        let relative = |p: &[f64], q: &[f64]| -> f64 {
            p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
        };
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        let seen = [4.0, 2.0, 0.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0];
        // Two levels of four bins. What lies beyond is counted in the last; an empty bin stays empty.
        let p = [4.0, 2.0, 0.0, 2.0, 1.0, 1.0, 1.0, 5.0].map(|n| n / 16.0);
        let third = 8.0 / 3.0;
        let q = [third, third, 0.0, third, 1.0, 1.0, 1.0, 1.0].map(|n| n / 12.0);
        near(divergence(&seen, 8, 2), relative(&p, &q));
        // All bins in levels of two.
        let q = [3.0, 3.0, 0.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0].map(|n| n / 16.0);
        near(divergence(&seen, 10, 5), relative(&seen.map(|n| n / 16.0), &q));
        // Nothing in the last bin but what lies beyond.
        near(divergence(&[3.0, 0.0, 1.0], 2, 1), relative(&[0.75, 0.25], &[1.0, 1e-3 / 4.0]));
        assert_eq!(divergence(&[0.0, 0.0, 1.0], 2, 2), f64::INFINITY);
    }

    #[test]
    fn a_percentile_ends_at_the_edge_of_a_bin() {
        let percentile = |low: f32, many: usize, few: &[f32]| {
            let mut histogram = Histogram::new(Range { low, high: low + BINS as f32 });
            histogram.add(&vec![5.5; many]);
            histogram.add(few);
            let Range { low, high } = Method::Percentile.range(&histogram, Activations::Asymmetric);
            (low, high)
        };
        // One in ten thousand of 15 002 is more than one and less than two.
        assert_eq!(percentile(0.0, 15_000, &[2047.5, 1000.5]), (0.0, 1001.0));
        // On two sides half of it each.
        assert_eq!(percentile(-1024.0, 30_000, &[-1023.5, -500.5, 300.5, 1023.5]), (-501.0, 301.0));
    }

    #[test]
    fn a_value_that_is_always_the_same_has_a_range() {
        for value in [5.0, -5.0] {
            let mut histogram = Histogram::new(Range { low: value, high: value });
            histogram.add(&[value; 9]);
            for (_, method) in NAMES {
                let range = method.range(&histogram, Activations::Asymmetric);
                assert_eq!((range.low, range.high), (value, value), "{method}");
            }
        }
    }
}
