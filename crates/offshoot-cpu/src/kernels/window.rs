//! Which elements of a kernel's window lie within the picture.

use std::ops::Range;

/// The kernel elements k of output position `out` whose input position, out stride + k dilation - pad, is in 0..len.
#[inline(always)]
pub(super) fn inside(
    out: usize,
    stride: usize,
    pad: usize,
    dilation: usize,
    kernel: usize,
    len: usize,
) -> Range<usize> {
    let start = out * stride;
    let first = pad.saturating_sub(start).div_ceil(dilation).min(kernel);
    let end = (len + pad).saturating_sub(start).div_ceil(dilation).min(kernel);
    first..end.max(first)
}

#[cfg(test)]
mod tests {
    use super::inside;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_the_positions_in_the_picture(
            out in 0usize..20, stride in 1usize..4, pad in 0usize..5, dilation in 1usize..4, kernel in 1usize..8,
            len in 1usize..20,
        ) {
            let range = inside(out, stride, pad, dilation, kernel, len);
            for k in 0..kernel {
                let at = (out * stride + k * dilation) as i64 - pad as i64;
                prop_assert_eq!(range.contains(&k), (0..len as i64).contains(&at));
            }
        }
    }
}
