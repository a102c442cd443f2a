//! Where in the arena each value lives: values whose lifetimes do not overlap share memory.

use std::ops::Range;

/// Every region starts at a multiple of this many bytes: a cache line, and a vector of AVX-512.
pub(crate) const ALIGN: usize = 64;

/// A value that needs memory from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) bytes: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Lifetime {
    /// Bytes rounded up to whole lines.
    fn room(&self) -> usize {
        self.bytes.next_multiple_of(ALIGN)
    }

    fn overlaps(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The offset of each value in the arena and the arena's size, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) offsets: Vec<usize>,
    pub(crate) bytes: usize,
}

/// Places the largest values first, each in the smallest gap between those that live at the same time ("greedy by
/// size for offset calculation", Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020).
pub(crate) fn place(values: &[Lifetime]) -> Placement {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(values[i].bytes), i));
    let mut offsets = vec![0; values.len()];
    // What has been placed, by rising offset.
    let mut placed: Vec<usize> = Vec::with_capacity(values.len());
    for i in order {
        let taken = placed.iter().filter(|&&p| values[p].overlaps(&values[i]));
        let taken = taken.map(|&p| offsets[p]..offsets[p] + values[p].room());
        offsets[i] = best_gap(taken, values[i].room());
        placed.insert(placed.partition_point(|&p| offsets[p] < offsets[i]), i);
    }
    let bytes = values.iter().zip(&offsets).map(|(v, offset)| offset + v.room()).max().unwrap_or(0);
    Placement { offsets, bytes }
}

/// The start of the smallest gap of at least `bytes` between the ranges `taken`, which come by rising start; behind them
/// all if there is none.
fn best_gap(taken: impl Iterator<Item = Range<usize>>, bytes: usize) -> usize {
    let (mut end, mut best) = (0, None::<(usize, usize)>);
    for range in taken {
        let gap = range.start.saturating_sub(end);
        if gap >= bytes && best.is_none_or(|(smallest, _)| gap < smallest) {
            best = Some((gap, end));
        }
        end = end.max(range.end);
    }
    best.map_or(end, |(_, start)| start)
}

/// The most bytes that live at one step: no placement can do with less.
#[cfg(test)]
pub(crate) fn lower_bound(values: &[Lifetime]) -> usize {
    let at =
        |step: usize| values.iter().filter(|v| v.first <= step && step <= v.last).map(Lifetime::room).sum();
    values.iter().map(|v| at(v.first)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Lifetime> = (0..5).map(|i| Lifetime { bytes: 640, first: i, last: i + 1 }).collect();
        assert_eq!(place(&chain).bytes, 1280);
    }

    #[test]
    fn small_values_share_what_a_large_one_left() {
        let life = |bytes, first, last| Lifetime { bytes, first, last };
        let values = [life(1280, 0, 1), life(640, 2, 3), life(640, 2, 3)];
        assert_eq!(place(&values).bytes, 1280);
    }

    /// Activations kept from the forward pass to the backward pass, as in training.
    #[test]
    fn a_training_step_comes_close_to_the_lower_bound() {
        let n = 40;
        let bytes = |i: usize| 64 * (1 + (i * 37 + 11) % 97);
        let kept = (0..n).map(|i| Lifetime { bytes: bytes(i), first: i, last: 2 * n - i });
        let gradients = (0..n).map(|i| Lifetime { bytes: bytes(i), first: 2 * n - i, last: 2 * n - i + 1 });
        let values: Vec<Lifetime> = kept.chain(gradients).collect();
        let (found, least) = (place(&values).bytes, lower_bound(&values));
        assert!(found <= least + least / 10, "{found} bytes, {least} at least");
    }

    proptest! {
        #[test]
        fn living_values_never_share(raw in prop::collection::vec((1usize..1000, 0usize..20, 0usize..6), 1..40)) {
            let values: Vec<Lifetime> =
                raw.iter().map(|&(bytes, first, life)| Lifetime { bytes, first, last: first + life }).collect();
            let Placement { offsets, bytes } = place(&values);
            prop_assert!(bytes >= lower_bound(&values));
            for (i, a) in values.iter().enumerate() {
                prop_assert!(offsets[i].is_multiple_of(ALIGN) && offsets[i] + a.bytes <= bytes);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(apart || !a.overlaps(b));
                }
            }
        }
    }
}
