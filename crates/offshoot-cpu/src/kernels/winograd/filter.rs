//! The transformed and packed filter.

use super::points::filter_points;
use super::{IN, LANES, POINTS};
use crate::kernels::gather::{Gather, WeightOrder, pack_panel};
use crate::kernels::parallel::{self, Shared};
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::size::elements;
use crate::kernels::tile;

/// Source channels whose filters are packed at once.
const PACKED: usize = 16;

/// Floats in the packed filter of `gather`.
pub(in crate::kernels) fn packed_len(gather: &Gather) -> usize {
    elements([gather.groups, packed_group(gather)])
}

/// Floats of those of a group.
pub(super) fn packed_group(gather: &Gather) -> usize {
    elements([POINTS, gather.depth, gather.cols])
}

/// Transforms and packs a filter as `[group][cols / panel][point][depth][panel]`; the last panel may be narrower.
pub(in crate::kernels) fn pack(
    isa: Isa,
    gather: &Gather,
    kernel_w: usize,
    weights: &[f32],
    order: WeightOrder,
    packed: &mut [f32],
) {
    assert_eq!(packed.len(), packed_len(gather), "the packed filter");
    // Vectors are whole, and a window has nine elements.
    assert!([gather.depth, gather.cols].iter().all(|channels| channels.is_multiple_of(LANES)), "{gather:?}");
    assert!(gather.taps.iter().all(|taps| taps.len() == 3), "{gather:?}");
    let panel = tile::tile_cols(isa);
    let (panels, parts) = (gather.cols.div_ceil(panel), gather.depth.div_ceil(PACKED));
    let out = Shared(packed.as_mut_ptr());
    let taps = gather.tap_indices(kernel_w);
    parallel::for_each_task(gather.groups * panels * parts, packed.len().saturating_mul(8), |task| {
        let (group, task) = (task / (panels * parts), task % (panels * parts));
        let (first, part) = (task / parts * panel, task % parts);
        let channels = part * PACKED..((part + 1) * PACKED).min(gather.depth);
        let width = (gather.cols - first).min(panel);
        let mut plain = [0.0; 9 * PACKED * tile::MAX_COLS];
        let plain = &mut plain[..9 * channels.len() * width];
        let weights = &weights[group * order.group + first * order.col + channels.start * order.depth..];
        pack_panel(weights, &taps, order, [channels.len(), width, width], plain);
        // Safety: every task writes other channels of a panel, all within `packed`.
        let out = unsafe {
            let group = out.get().add(group * packed_group(gather));
            group.add(first * POINTS * gather.depth + channels.start * width)
        };
        let len = channels.len() * width;
        dispatch(isa, FilterTransform { plain, len, out: Shared(out), point: gather.depth * width });
    });
}

/// Transforms `len` filters that lie side by side.
struct FilterTransform<'a> {
    /// `[tap][len]`.
    plain: &'a [f32],
    len: usize,
    out: Shared,
    /// Floats from a point of the output to the next.
    point: usize,
}

impl Kernel for FilterTransform<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (from, to) = (self.plain.as_ptr(), self.out.get());
        for at in (0..self.len).step_by(S::LANES) {
            // Safety: `plain` holds nine times `len`, a multiple of the lanes; the output was checked by `pack`.
            unsafe {
                let mut half = [[S::splat(0.0); 3]; IN];
                for s in 0..3 {
                    let mut column = [S::splat(0.0); 3];
                    for (r, value) in column.iter_mut().enumerate() {
                        *value = S::load(from.add((r * 3 + s) * self.len + at));
                    }
                    for (row, value) in half.iter_mut().zip(filter_points::<S>(column)) {
                        row[s] = value;
                    }
                }
                for (i, row) in half.into_iter().enumerate() {
                    for (j, value) in filter_points::<S>(row).into_iter().enumerate() {
                        S::store(to.add((i * IN + j) * self.point + at), value);
                    }
                }
            }
        }
    }
}
