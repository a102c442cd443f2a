//! The packed filter of a gather.

use super::{Cells, Gather};
use crate::kernels::parallel::{self, Shared};
use crate::kernels::simd::Isa;
use crate::kernels::tile;

/// Where the weights of a gather lie in OIHW: floats from a group, an output channel of the gather, and a source
/// channel to the next. A pair of channels has its `kernel_h * kernel_w` weights together.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct WeightOrder {
    pub(in crate::kernels) group: usize,
    pub(in crate::kernels) col: usize,
    pub(in crate::kernels) depth: usize,
}

/// Packs one gather's filter, all groups, as `[group][cols / panel][cells of the reduction][panel]`; the last panel is as wide
/// as whole vectors need, and its spare columns are zeros. Weights that go into pairs have been rounded to bf16.
pub(in crate::kernels) fn pack(
    isa: Isa,
    gather: &Gather,
    kernel_w: usize,
    weights: &[f32],
    order: WeightOrder,
    (cells, packed): (Cells, &mut [f32]),
) {
    assert_eq!(packed.len(), gather.packed_len(isa, cells), "the packed filter");
    let panel = tile::tile_cols(isa);
    let panels = gather.cols.div_ceil(panel);
    let reduction = gather.reduction();
    let out = Shared(packed.as_mut_ptr());
    let taps = gather.tap_indices(kernel_w);
    parallel::for_each_task(gather.groups * panels, packed.len().saturating_mul(16), |task| {
        let (group, first) = (task / panels, task % panels * panel);
        let width = (gather.cols.next_multiple_of(isa.lanes()) - first).min(panel);
        let rows = cells.of(reduction);
        let start = group * gather.packed_group(isa, cells) + first * rows;
        // Safety: panels are disjoint parts of `packed`, whose length was compared with what they take together.
        let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(start), width * rows) };
        let cols = (gather.cols - first).min(panel);
        let weights = &weights[group * order.group + first * order.col..];
        if cols < width {
            out.fill(0.0);
        }
        let sizes = [gather.depth, cols, width];
        match cells {
            Cells::Floats => pack_panel(weights, &taps, order, sizes, out),
            Cells::Pairs | Cells::Tiles => parallel::with_scratch(2 * out.len(), |floats| {
                floats.fill(0.0);
                pack_panel(weights, &taps, order, sizes, &mut floats[..width * reduction]);
                pair_rows(floats, width, out);
            }),
        }
    });
}

/// Joins two rows of `width` floats, numbers that bf16 has, to one of pairs.
fn pair_rows(floats: &[f32], width: usize, out: &mut [f32]) {
    for (pair, out) in floats.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (low, high) = pair.split_at(width);
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = f32::from_bits(low.to_bits() >> 16 | (high.to_bits() & !0xFFFF));
        }
    }
}

/// Packs a panel. A few source channels at a time, so that what all kernel elements read stays in L1.
pub(in crate::kernels) fn pack_panel(
    weights: &[f32],
    taps: &[usize],
    order: WeightOrder,
    [depth, cols, width]: [usize; 3],
    out: &mut [f32],
) {
    const CHANNELS: usize = 16;
    for first in (0..depth).step_by(CHANNELS) {
        let channels = CHANNELS.min(depth - first);
        for (i, tap) in taps.iter().enumerate() {
            let out = &mut out[(i * depth + first) * width..][..channels * width];
            let from = &weights[first * order.depth + tap..];
            // The inner loop runs along the axis that is closer together in the weights.
            if order.depth < order.col {
                for col in 0..cols {
                    let from = from[col * order.col..].iter().step_by(order.depth);
                    out[col..].iter_mut().step_by(width).zip(from).for_each(|(to, from)| *to = *from);
                }
            } else {
                for (channel, out) in out.chunks_exact_mut(width).enumerate() {
                    let from = from[channel * order.depth..].iter().step_by(order.col);
                    out[..cols].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
}
