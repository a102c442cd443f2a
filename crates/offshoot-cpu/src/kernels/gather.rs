//! Convolution as a matrix product whose left operand is gathered on the way: forward and input gradient alike.
//!
//! A [`Gather`] maps a grid of output pixels to the source pixels that feed them, one for each kernel element. A task takes a
//! block of the flattened `batch * pixels`, copies the rows that it needs into a thread's scratch (padding becomes
//! zeros, a row of kernel elements becomes one contiguous copy) and multiplies them with packed panels of the filter. The
//! scratch stays in L2, and there is never an im2col buffer of the whole picture.

mod ahead;
mod block;
mod copy;
mod pack;
mod plan;
mod store;
mod strip;

use std::marker::PhantomData;
use std::ops::Range;

use offshoot_graph::op::Unary;

use self::block::Block;
pub(super) use self::copy::{Ahead, Inner, copy};
pub(super) use self::pack::{WeightOrder, pack, pack_panel};
use self::plan::{Plan, plan};
pub(super) use self::plan::{moment_blocks, moment_rows};
use super::element::{SharedView, View, ViewMut};
use super::parallel::{self, Shared};
use super::simd::{Isa, dispatch, dispatch_bf16, dispatch_tiles, tiles};
use super::size::elements;
use super::source::ScaleShift;
use super::tile::{Layout, RowMajor, RowMajorPairs, RowMajorTiles};

/// A row or column of the kernel: its index in OIHW weights and the source pixel that it reads, from the pixel that
/// the grid's step leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub(super) index: usize,
    pub(super) offset: isize,
}

/// A convolution from a source picture to a grid of pixels.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    pub(super) batch: usize,
    pub(super) groups: usize,
    /// Height and width of the source.
    pub(super) source: [usize; 2],
    /// Channels of the source in one group.
    pub(super) depth: usize,
    /// Height and width of the grid.
    pub(super) grid: [usize; 2],
    /// Source pixels from one grid pixel to the next.
    pub(super) step: [usize; 2],
    /// Rows and columns of the kernel, offsets ascending.
    pub(super) taps: [Vec<Tap>; 2],
    /// Output channels of one group.
    pub(super) cols: usize,
    /// Where the grid lies in the output.
    pub(super) target: Target,
}

/// Floats from the start of the output to grid pixel (0, 0), and from one to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) base: usize,
    pub(super) image: usize,
    pub(super) row: usize,
    pub(super) col: usize,
}

/// What the floats of gathered rows and of a packed filter hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Cells {
    /// An element of the reduction each.
    #[default]
    Floats,
    /// Two elements each, as bf16 (see [`Simd::dot_bf16`](super::simd::Simd::dot_bf16)). Behind an odd number of them stands a zero.
    Pairs,
    /// As `Pairs`, for products on tiles: zeros fill up the last step.
    Tiles,
}

impl Cells {
    /// Elements that a cell holds.
    pub(super) fn elements(self) -> usize {
        match self {
            Cells::Floats => 1,
            Cells::Pairs | Cells::Tiles => 2,
        }
    }

    /// Cells that a reduction is a multiple of.
    pub(super) fn step(self) -> usize {
        match self {
            Cells::Floats | Cells::Pairs => 1,
            Cells::Tiles => tiles::STEP / size_of::<f32>(),
        }
    }

    /// Cells of so many elements.
    pub(super) fn of(self, elements: usize) -> usize {
        elements.div_ceil(self.elements()).next_multiple_of(self.step())
    }
}

/// A stretch of the reduction that is contiguous in a row of the source, where no border cuts it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    start: usize,
    len: usize,
    y: isize,
    x: isize,
}

/// A grid pixel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pixel {
    pub(super) image: usize,
    pub(super) y: usize,
    pub(super) x: usize,
}

impl Gather {
    /// Pixels of the whole batch.
    pub(super) fn pixels(&self) -> usize {
        self.batch * self.grid[0] * self.grid[1]
    }

    /// Elements of the reduction: kernel elements times channels.
    pub(super) fn reduction(&self) -> usize {
        self.taps[0].len() * self.taps[1].len() * self.depth
    }

    /// Multiply-adds, of pixels that are not worth less than one.
    fn work(&self) -> usize {
        (self.pixels() * self.groups * self.cols).saturating_mul(self.reduction().max(1))
    }

    /// Whether grid pixel i reads source pixel i and nothing else.
    pub(super) fn is_pointwise(&self) -> bool {
        let single = |taps: &[Tap]| matches!(taps, [tap] if tap.offset == 0);
        self.taps.iter().all(|taps| single(taps)) && self.step == [1, 1] && self.grid == self.source
    }

    /// Channels of a source pixel.
    pub(super) fn source_c(&self) -> usize {
        self.depth * self.groups
    }

    /// Floats of one group's packed filter: the columns rounded up to whole vectors.
    pub(super) fn packed_group(&self, isa: Isa, cells: Cells) -> usize {
        self.cols.next_multiple_of(isa.lanes()) * cells.of(self.reduction())
    }

    /// Floats of the packed filter, all groups.
    pub(super) fn packed_len(&self, isa: Isa, cells: Cells) -> usize {
        let cols = self.cols.next_multiple_of(isa.lanes());
        elements([self.groups, cols, cells.of(self.reduction())])
    }

    /// The reduction's contiguous stretches, in order.
    pub(super) fn runs(&self) -> Vec<Run> {
        let [rows, cols] = &self.taps;
        let side_by_side = cols.windows(2).all(|pair| pair[1].offset == pair[0].offset + 1);
        let merged = if self.groups == 1 && side_by_side { cols.len().max(1) } else { 1 };
        let len = merged * self.depth;
        let starts = rows.iter().flat_map(|row| cols.iter().step_by(merged).map(move |col| (row, col)));
        starts
            .enumerate()
            .map(|(i, (row, col))| Run { start: i * len, len, y: row.offset, x: col.offset })
            .collect()
    }

    /// The rows or columns of the grid whose windows no border cuts; none where there are no kernel elements.
    pub(super) fn inner(&self, axis: usize) -> Option<Range<usize>> {
        let offsets = self.taps[axis].iter().map(|tap| tap.offset);
        let (low, high) = (offsets.clone().min()?, offsets.max()?);
        let step = self.step[axis];
        let last = (self.source[axis] as isize - 1).checked_sub(high.max(0)).filter(|&last| last >= 0);
        let end = last.map_or(0, |last| last as usize / step + 1).min(self.grid[axis]);
        let first = low.min(0).unsigned_abs().div_ceil(step);
        Some(first..end)
    }

    /// Where each kernel element lies among the `kernel_h * kernel_w` weights of a pair of channels.
    pub(super) fn tap_indices(&self, kernel_w: usize) -> Vec<usize> {
        let [rows, cols] = &self.taps;
        rows.iter().flat_map(|r| cols.iter().map(|s| r.index * kernel_w + s.index)).collect()
    }

    /// The grid pixel at `index` of the flattened batch.
    pub(super) fn pixel(&self, index: usize) -> Pixel {
        let [h, w] = self.grid;
        Pixel { image: index / (h * w), y: index / w % h, x: index % w }
    }

    /// The grid pixel after `pixel`.
    #[inline(always)]
    pub(super) fn next(&self, pixel: Pixel) -> Pixel {
        let Pixel { image, y, x } = pixel;
        if x + 1 < self.grid[1] {
            Pixel { image, y, x: x + 1 }
        } else if y + 1 < self.grid[0] {
            Pixel { image, y: y + 1, x: 0 }
        } else {
            Pixel { image: image + 1, y: 0, x: 0 }
        }
    }

    /// Where `pixel` lies in the output.
    #[inline(always)]
    pub(super) fn target_of(&self, pixel: Pixel) -> usize {
        let Target { base, image, row, col } = self.target;
        base + pixel.image * image + pixel.y * row + pixel.x * col
    }
}

/// What one run of gathers reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) source: View<'a>,
    /// The packed filters of all gathers, one after the other.
    pub(super) filter: &'a [f32],
    /// What the filters were packed as. For pairs, the source is bf16.
    pub(super) cells: Cells,
    /// One float an output channel.
    pub(super) bias: Option<&'a [f32]>,
    /// As large as the output, and of its type.
    pub(super) residual: Option<View<'a>>,
    pub(super) bounds: (f32, f32),
    /// The scale and shift of each channel and the activation that the source is read through. For a
    /// [pointwise](Gather::is_pointwise) gather of floats.
    pub(super) norm: Option<ScaleShift<'a>>,
    /// Where the moments of the output go: those of each of [`moment_blocks`], as [`area_moments`](super::batch_norm::area_moments) leaves them. For one gather
    /// whose output has nothing but its grid.
    pub(super) moments: Option<Shared>,
    /// Applied to floats that are stored, last.
    pub(super) then: Option<Unary>,
}

/// Runs `gathers` over the same operands into `out`.
///
/// # Safety
/// Source, filter, bias, residual and moments have the sizes and types that the gathers and [`Operands`] say, and the gathers' targets
/// are disjoint places of `out`. The gathers are those of a shape that [fits](super::ConvShape::fits).
pub(super) unsafe fn run(isa: Isa, gathers: &[Gather], operands: Operands<'_>, out: ViewMut<'_>) {
    let out = out.shared();
    let plans = plan(isa, gathers, &operands);
    let work = gathers.iter().map(Gather::work).fold(0, usize::saturating_add);
    let tasks = plans.iter().map(|plan| plan.tasks()).sum();
    parallel::for_each_task(tasks, work, |mut index| {
        for plan in &plans {
            if index < plan.tasks() {
                let len = plan.left() + plan.stage(out);
                return parallel::with_scratch(len, |scratch| match operands.cells {
                    Cells::Floats => dispatch(isa, block::<RowMajor>(plan, index, operands, out, scratch)),
                    Cells::Pairs => {
                        dispatch_bf16(isa, block::<RowMajorPairs>(plan, index, operands, out, scratch));
                    }
                    Cells::Tiles => {
                        dispatch_tiles(isa, block::<RowMajorTiles>(plan, index, operands, out, scratch));
                    }
                });
            }
            index -= plan.tasks();
        }
    });
}

/// Task `index` of a plan, whose rows lie as `L` says.
fn block<'a, L: Layout>(
    plan: &'a Plan<'a>,
    index: usize,
    operands: Operands<'a>,
    out: SharedView,
    scratch: &'a mut [f32],
) -> Block<'a, L> {
    Block { plan, index, operands, out, scratch, left: PhantomData }
}
