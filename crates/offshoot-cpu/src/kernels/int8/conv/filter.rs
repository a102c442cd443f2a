//! Packed filters.

use super::panels::Panels;
use crate::buffer::Buffer;
use crate::kernels::ConvShape;
use crate::kernels::conv::weights_len;
use crate::kernels::int8::grouped::Groups;
use crate::kernels::int8::simd::{Cells, Integers, Kind, Packing, Tile};
use crate::kernels::simd::Isa;
use crate::kernels::size::elements;

/// A filter in the order that [`conv`](super::conv) reads it, and what makes its sums numbers.
#[derive(Clone, Debug)]
pub struct ByteFilter {
    isa: Isa,
    pub(super) packing: Packing,
    /// Groups, and how the output channels of each lie.
    pub(super) layout: (usize, Panels),
    /// Input channels, and height and width of the kernel.
    sizes: [usize; 3],
    /// `[group][panel][cells of the reduction][columns of the panel]`, where the packing is not [`Kind::Grouped`].
    pub(super) cells: Buffer,
    /// `[group][vector of columns]`, where it is [`Kind::Grouped`].
    pub(super) groups: Vec<Groups>,
    /// The sum of the weights of each column, by group, each rounded up to whole vectors.
    pub(super) sums: Vec<i32>,
    /// What the sum of products starts from.
    pub(super) init: Vec<i32>,
    /// What it is multiplied with.
    pub(super) scale: Vec<f32>,
    pub(super) zero_point: u8,
}

/// The numbers of a filter.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// OIHW.
    pub weights: &'a [i8],
    /// What is added to the sum of products of each output channel, in units of x's scale times the weight's.
    pub bias: &'a [i32],
    /// What the sum of each output channel is multiplied with.
    pub scale: &'a [f32],
    /// The byte of x that stands for 0.
    pub zero_point: u8,
}

impl ByteFilter {
    /// Packs the filter of `shape`.
    ///
    /// # Panics
    /// When a slice has not the size that `shape` says, or the reduction has 2^32 elements.
    pub fn pack(isa: Isa, shape: &ConvShape, numbers: &Numbers<'_>) -> ByteFilter {
        let rows = shape.batch.saturating_mul(shape.out_h).saturating_mul(shape.out_w);
        let reduction = weights_len(shape) / shape.out_c.max(1);
        ByteFilter::pack_as(isa, Packing::for_product(isa, rows, reduction), shape, numbers)
    }

    pub(in crate::kernels::int8) fn pack_as(
        isa: Isa,
        packing: Packing,
        shape: &ConvShape,
        numbers: &Numbers<'_>,
    ) -> ByteFilter {
        assert_eq!(numbers.weights.len(), weights_len(shape), "weights of {shape:?}");
        assert_eq!([numbers.bias.len(), numbers.scale.len()], [shape.out_c; 2], "numbers of {shape:?}");
        let panels = Panels::new(packing, shape);
        let (cols, depth) = (panels.cols, panels.reduction);
        assert!(u32::try_from(depth).is_ok(), "a reduction of {depth}");
        let padded = elements([shape.groups, panels.padded()]);
        let weights = Weights { all: channels_last(numbers.weights, shape), shape, panels };
        let (cells, groups) = match packing.kind() {
            Kind::Grouped => (Buffer::default(), weights.groups()),
            #[cfg(target_arch = "x86_64")]
            Kind::Bytes => (weights.cells(), Vec::new()),
            Kind::Tiles | Kind::EmulatedTiles => (weights.cells(), Vec::new()),
        };
        let (layout, sizes) = ((shape.groups, panels), filter_sizes(shape));
        let (mut sums, mut init, mut scale) = (vec![0i32; padded], vec![0i32; padded], vec![0.0; padded]);
        for channel in 0..shape.out_c {
            let start = channel / cols * panels.padded() + channel % cols;
            sums[start] = numbers.weights[channel * depth..][..depth].iter().map(|&w| i32::from(w)).sum();
            init[start] = numbers.bias[channel].wrapping_sub(sums[start] * i32::from(numbers.zero_point));
            scale[start] = numbers.scale[channel];
        }
        let zero_point = numbers.zero_point;
        ByteFilter { isa, packing, layout, sizes, cells, groups, sums, init, scale, zero_point }
    }

    /// Whether it is packed for `shape` on `isa`: how it lies depends on more of a shape than its weights, such as the width of the
    /// picture.
    pub fn serves(&self, isa: Isa, shape: &ConvShape) -> bool {
        shape.fits()
            && self.isa == isa
            && self.sizes == filter_sizes(shape)
            && self.layout == (shape.groups, Panels::new(self.packing, shape))
    }

    /// What it is packed for.
    pub(in crate::kernels::int8) fn packing(&self) -> Packing {
        self.packing
    }

    /// The reduction in units of 32 bits.
    pub(in crate::kernels::int8) fn depth(&self) -> usize {
        self.layout.1.depth
    }

    /// The sum of the weights of each column, by group, each rounded up to whole vectors.
    pub(in crate::kernels::int8) fn sums(&self) -> &[i32] {
        &self.sums
    }

    /// Sums of `rows` rows, which lie some bytes apart, and a panel of a group, row by row without gaps: `init`, a number for each
    /// column, plus the products.
    ///
    /// # Safety
    /// As [`Cells::sums`]; `C` is what it is packed for.
    #[inline(always)]
    pub(in crate::kernels::int8) unsafe fn sums_of<S: Integers, C: Cells<S>>(
        &self,
        (panel, group): (usize, usize),
        (a, row): (*const u8, usize),
        rows: usize,
        init: *const i32,
        out: *mut i32,
    ) {
        let (_, panels) = &self.layout;
        let width = panels.width_of(panel);
        let channel = group * panels.padded() + panel * panels.width();
        let (b, groups) = match self.packing.kind() {
            Kind::Grouped => (&[][..], &self.groups[channel / panels.lanes..][..width / panels.lanes]),
            #[cfg(target_arch = "x86_64")]
            Kind::Bytes => (self.panel(channel, width), &[][..]),
            Kind::Tiles | Kind::EmulatedTiles => (self.panel(channel, width), &[][..]),
        };
        // Safety: the caller's.
        unsafe {
            C::sums(Tile { a, row, part: panels.part(), b, groups, init }, rows, width / S::LANES, out)
        };
    }

    /// The cells of a panel of `width` columns, whose first one is `channel` among those of all groups.
    #[inline(always)]
    fn panel(&self, channel: usize, width: usize) -> &[i32] {
        let (_, panels) = &self.layout;
        &self.cells.get((channel + width) * panels.depth)[channel * panels.depth..]
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let groups: usize = self.groups.iter().map(Groups::bytes).sum();
        self.cells.bytes() + 4 * 3 * self.scale.len() + groups
    }
}

fn filter_sizes(shape: &ConvShape) -> [usize; 3] {
    [shape.in_c, shape.kernel[0], shape.kernel[1]]
}

/// Weights that are packed.
struct Weights<'a> {
    /// OHWI.
    all: Vec<i8>,
    shape: &'a ConvShape,
    panels: Panels,
}

impl Weights<'_> {
    /// The cells of each vector of columns.
    fn groups(&self) -> Vec<Groups> {
        let Panels { depth, lanes, .. } = self.panels;
        let vectors = self.panels.padded() / lanes;
        let vector = |index: usize| {
            let (group, first) = (index / vectors, index % vectors * lanes);
            let cell = |step: usize| {
                let weights = std::array::from_fn(|lane| self.cell(group, first + lane, step));
                (weights, self.panels.place(step) as u32)
            };
            Groups::new((0..depth).map(cell))
        };
        (0..self.shape.groups * vectors).map(vector).collect()
    }

    /// The cells of each panel.
    fn cells(&self) -> Buffer {
        let Panels { depth, cols, .. } = self.panels;
        let (mut buffer, len) = (Buffer::default(), self.shape.groups * self.panels.group());
        buffer.reserve(len * size_of::<i32>());
        let cells = buffer.get_mut::<i32>(len);
        for channel in 0..self.shape.out_c {
            let (group, col) = (channel / cols, channel % cols);
            let (place, width) = self.panels.column(col);
            let cells = &mut cells[group * self.panels.group() + place..];
            for step in 0..depth {
                cells[step * width] = self.cell(group, col, step);
            }
        }
        buffer
    }

    /// Four weights of column `col` in 32 bits; zeros where a run or the columns end.
    fn cell(&self, group: usize, col: usize, step: usize) -> i32 {
        let Panels { cols, reduction, run, .. } = self.panels;
        let mut cell = [0; 4];
        if col < cols {
            let (index, within) = (step / self.panels.run_depth(), step % self.panels.run_depth() * 4);
            let first = (group * cols + col) * reduction + index * run;
            let weights = &self.all[first + run.min(within)..first + run.min(within + 4)];
            cell[..weights.len()].copy_from_slice(weights);
        }
        i32::from_le_bytes(cell.map(i8::cast_unsigned))
    }
}

/// From OIHW to OHWI: the order that the reduction goes in, over the window's pixels and, for each, over its channels.
fn channels_last(weights: &[i8], shape: &ConvShape) -> Vec<i8> {
    let (area, channels) = (shape.kernel[0] * shape.kernel[1], shape.in_c / shape.groups);
    let mut to = vec![0; weights.len()];
    let column = (area * channels).max(1);
    for (from, to) in weights.chunks_exact(column).zip(to.chunks_exact_mut(column)) {
        for (pixel, to) in to.chunks_exact_mut(channels).enumerate() {
            for (channel, to) in to.iter_mut().enumerate() {
                *to = from[channel * area + pixel];
            }
        }
    }
    to
}
