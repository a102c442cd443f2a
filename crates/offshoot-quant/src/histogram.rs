//! How often an activation took which value.

use crate::range::Range;

/// Bins between the smallest and the largest value.
pub(crate) const BINS: usize = 2048;

/// Counts of values in bins of equal width.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    range: Range,
    counts: Vec<u64>,
}

impl Histogram {
    /// For values within `range`.
    pub(crate) fn new(range: Range) -> Histogram {
        Histogram { range, counts: vec![0; BINS] }
    }

    /// Counts `values`.
    pub(crate) fn add(&mut self, values: &[f32]) {
        let per_bin = BINS as f32 / (self.range.high - self.range.low);
        // A value that is always the same has no width.
        let per_bin = if per_bin.is_finite() { per_bin } else { 0.0 };
        for &value in values {
            let bin = ((value - self.range.low) * per_bin) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }

    /// The smallest and the largest value.
    pub(crate) fn range(&self) -> Range {
        self.range
    }

    /// The width of a bin.
    pub(crate) fn width(&self) -> f64 {
        (f64::from(self.range.high) - f64::from(self.range.low)) / BINS as f64
    }

    /// All that was counted.
    pub(crate) fn total(&self) -> f64 {
        self.counts.iter().sum::<u64>() as f64
    }

    /// The middle of each bin, by rising value, and its count.
    pub(crate) fn bins(&self) -> impl DoubleEndedIterator<Item = (f64, f64)> {
        let (low, width) = (f64::from(self.range.low), self.width());
        self.counts.iter().enumerate().map(move |(i, &count)| (low + (i as f64 + 0.5) * width, count as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_their_bins() {
        let mut histogram = Histogram::new(Range { low: -1.0, high: 1.0 });
        histogram.add(&[-1.0, -0.9999, 0.0, 1.0]);
        assert_eq!((histogram.counts[0], histogram.counts[BINS / 2], histogram.counts[BINS - 1]), (2, 1, 1));
        assert_eq!(histogram.total(), 4.0);
        let (first, _) = histogram.bins().next().expect("there are bins");
        assert!((first + 1.0 - histogram.width() / 2.0).abs() < 1e-12);
    }

    #[test]
    fn bins_have_one_width_from_end_to_end() {
        let histogram = Histogram::new(Range { low: -1.0, high: 3.0 });
        assert_eq!(histogram.width(), 1.0 / 512.0);
        let middles: Vec<f64> = histogram.bins().map(|(middle, _)| middle).collect();
        assert_eq!(middles.len(), BINS);
        assert_eq!((middles[0], middles[BINS - 1]), (-1.0 + 1.0 / 1024.0, 3.0 - 1.0 / 1024.0));
    }
}
