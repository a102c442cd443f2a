//! How many elements the slices of a kernel must have.

/// The product of some sizes, if it fits an `isize` even without those that are 0: so does every product of a part of them.
pub(crate) fn product<const N: usize>(sizes: [usize; N]) -> Option<usize> {
    let mut most = 1usize;
    for size in sizes {
        most = most.checked_mul(size.max(1))?;
    }
    (most <= isize::MAX as usize).then(|| sizes.iter().product())
}

/// The elements of a tensor of these sizes. What is compared with the length of a slice before pointers into it are made: a
/// product that wraps would be equal to the length of a slice that is far too short.
///
/// # Panics
/// When they are more than memory can hold.
#[track_caller]
pub(super) fn elements<const N: usize>(sizes: [usize; N]) -> usize {
    match product(sizes) {
        Some(elements) => elements,
        None => panic!("a tensor of {sizes:?} elements does not fit into memory"),
    }
}

/// What windows along an axis reach of their input, padding included, and one step more; none where that is no number.
pub(super) fn reach(
    [input, output]: [usize; 2],
    [before, after]: [usize; 2],
    [kernel, stride, dilation]: [usize; 3],
) -> Option<usize> {
    let padded = input.checked_add(before)?.checked_add(after)?;
    let windows = output.checked_mul(stride)?.checked_add(kernel.checked_mul(dilation)?)?;
    padded.checked_add(windows)?.checked_add(stride)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_that_wraps_is_none() {
        assert_eq!(product([3, 4, 5]), Some(60));
        assert_eq!(product([3, 0, 5]), Some(0));
        assert_eq!(product([]), Some(1));
        assert_eq!(product([1 << 32, 1 << 32]), None);
        assert_eq!(product([1 << 32, 0, 1 << 32]), None, "a part of it wraps");
        assert_eq!(product([1 << 63]), None, "no slice is as long");
    }

    #[test]
    #[should_panic(expected = "does not fit into memory")]
    fn elements_of_sizes_that_wrap_panic() {
        elements([usize::MAX / 2 + 1, 2]);
    }

    #[test]
    fn reach_counts_padding_and_windows() {
        assert_eq!(reach([5, 5], [1, 1], [3, 1, 1]), Some(7 + 5 + 3 + 1));
        assert_eq!(reach([usize::MAX, 1], [1, 0], [1, 1, 1]), None);
        assert_eq!(reach([1, 1 << 40], [0, 0], [1, 1 << 40, 1]), None);
    }
}
