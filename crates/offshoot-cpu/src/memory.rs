//! Which buffer each value lives in: values whose lifetimes do not overlap share one.

/// A value that needs memory from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Bytes.
    pub(crate) len: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// The slot of each value, and the length of each slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) slots: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
}

/// Places the largest values first, each in the smallest slot that is free for its whole life ("greedy by size",
/// Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020).
pub(crate) fn place(values: &[Lifetime]) -> Placement {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(values[i].len), i));
    let mut slots = vec![0; values.len()];
    let mut tenants: Vec<Vec<usize>> = Vec::new();
    for i in order {
        let free = |tenants: &Vec<usize>| tenants.iter().all(|&t| !overlap(values[i], values[t]));
        // Slots were opened in order of falling size, so the last free one is the smallest.
        let slot = tenants.iter().rposition(free).unwrap_or(tenants.len());
        if slot == tenants.len() {
            tenants.push(Vec::new());
        }
        tenants[slot].push(i);
        slots[i] = slot;
    }
    let sizes = tenants.iter().map(|t| values[t[0]].len).collect();
    Placement { slots, sizes }
}

fn overlap(a: Lifetime, b: Lifetime) -> bool {
    a.first <= b.last && b.first <= a.last
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Lifetime> = (0..5).map(|i| Lifetime { len: 10, first: i, last: i + 1 }).collect();
        assert_eq!(place(&chain).sizes, [10, 10]);
    }

    proptest! {
        #[test]
        fn living_values_never_share(raw in prop::collection::vec((1usize..100, 0usize..20, 0usize..6), 1..40)) {
            let values: Vec<Lifetime> =
                raw.iter().map(|&(len, first, life)| Lifetime { len, first, last: first + life }).collect();
            let placement = place(&values);
            for (i, a) in values.iter().enumerate() {
                prop_assert!(a.len <= placement.sizes[placement.slots[i]]);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    prop_assert!(placement.slots[i] != placement.slots[j] || !overlap(*a, *b));
                }
            }
        }
    }
}
