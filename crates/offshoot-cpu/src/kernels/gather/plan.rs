//! How a gather is cut into tasks.

use std::ops::Range;

use super::strip::Strip;
use super::{Cells, Gather, Operands, Run};
use crate::kernels::element::SharedView;
use crate::kernels::parallel;
use crate::kernels::simd::{Isa, tiles};
use crate::kernels::tile::{self, DEPTH, STRIDE};

/// Most pixels in a block: a multiple of every path's tile rows.
pub(super) const BLOCK: usize = 168;

/// Most cells of a part of the reduction on tiles: a panel of the filter this deep, and what it is multiplied with, stay in a first-level
/// cache.
const TILED_DEPTH: usize = 288;

/// Fewest pixels in a block that is cut off for another thread.
const LEAST: usize = 24;

/// Pixels that blocks are cut in multiples of, and the most in one. (Another number of rows in a tile takes as long as some products.)
fn block_sizes(cells: Cells) -> [usize; 2] {
    match cells {
        Cells::Floats | Cells::Pairs => [1, BLOCK],
        Cells::Tiles => [tiles::MOST_ROWS, BLOCK - BLOCK % tiles::MOST_ROWS],
    }
}

/// Blocks of a gather's pixels: at least `wanted`, where they are large enough.
fn blocks(gather: &Gather, cells: Cells, wanted: usize) -> usize {
    let ([unit, most], pixels) = (block_sizes(cells), gather.pixels());
    pixels.div_ceil(most).max(wanted.min(pixels / LEAST)).min(pixels.div_ceil(unit))
}

/// The pixels of block `index` of `count`.
fn block(gather: &Gather, cells: Cells, count: usize, index: usize) -> Range<usize> {
    let ([unit, _], pixels) = (block_sizes(cells), gather.pixels());
    let units = parallel::part(pixels.div_ceil(unit), count, index);
    units.start * unit..(units.end * unit).min(pixels)
}

/// The blocks of a gather's pixels whose moments are taken: cut by the shape and the kernel alone, unlike other tasks.
pub(in crate::kernels) fn moment_blocks(gather: &Gather, cells: Cells) -> usize {
    /// Blocks that a small picture is cut into, for the sake of threads.
    const BLOCKS: usize = 8;
    blocks(gather, cells, BLOCKS)
}

/// The pixels of each of these blocks.
pub(in crate::kernels) fn moment_rows(gather: &Gather, cells: Cells) -> Vec<usize> {
    let count = moment_blocks(gather, cells);
    (0..count).map(|index| block(gather, cells, count, index).len()).collect()
}

/// How a gather is cut into tasks. It does not change the result.
pub(super) struct Plan<'a> {
    pub(super) isa: Isa,
    pub(super) gather: &'a Gather,
    pub(super) cells: Cells,
    pub(super) runs: Vec<Run>,
    pub(super) filter_start: usize,
    pub(super) packed_group: usize,
    pub(super) panel: usize,
    pub(super) lanes: usize,
    pub(super) pixel_blocks: usize,
    pub(super) panel_blocks: usize,
    /// Whether one product runs over whole rows of the source, which follow one another as the pixels do.
    pub(super) whole_rows: bool,
    /// How windows are read from copied lines, where they are.
    pub(super) strip: Option<Strip>,
}

/// What of a task comes first. It does not change the result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// All panels of the filter over a part of the reduction, for which the rows are gathered.
    Parts,
    /// All parts of the reduction for a panel: its sums stay in a first-level cache.
    Panels,
    /// All panels for the rows of a tile: whole rows of the output are written at once. The reduction has one part.
    Rows,
}

impl Plan<'_> {
    pub(super) fn tasks(&self) -> usize {
        self.gather.groups * self.pixel_blocks * self.panel_blocks
    }

    /// The pixels of a block.
    pub(super) fn pixels(&self, index: usize) -> Range<usize> {
        block(self.gather, self.cells, self.pixel_blocks, index)
    }

    pub(super) fn panels(&self) -> usize {
        self.gather.cols.div_ceil(self.panel)
    }

    /// Parts of the reduction, each of which one product runs over.
    pub(super) fn parts(&self) -> usize {
        if let Some(strip) = &self.strip {
            return strip.parts();
        }
        self.cells.of(self.gather.reduction()).div_ceil(most_depth(self.cells)).max(1)
    }

    /// The cells of part `index`.
    pub(super) fn part(&self, index: usize) -> Range<usize> {
        let step = self.cells.step();
        if let Some(strip) = &self.strip {
            return strip.part(index, step);
        }
        let steps = self.cells.of(self.gather.reduction()) / step;
        let part = parallel::part(steps, self.parts(), index);
        part.start * step..part.end * step
    }

    /// Cells of a pixel of the source, where [whole rows](Self::whole_rows) are read.
    pub(super) fn source_pitch(&self) -> usize {
        self.gather.source_c() / self.cells.elements()
    }

    /// In which order a task on tiles computes.
    pub(super) fn order(&self) -> Order {
        /// Most cells of a filter that stays in a first-level cache beside what it is multiplied with.
        const FEW: usize = 4 << 10;
        if self.strip.is_none() && self.packed_group <= FEW && self.parts() == 1 {
            Order::Rows
        } else if self.whole_rows || self.strip.is_some() {
            Order::Panels
        } else {
            Order::Parts
        }
    }

    /// Columns of the sums that a task keeps apart where its output is no f32: those of one panel, or of two where one is multiplied
    /// while the other is stored, unless all panels' sums must outlast a part of the reduction.
    pub(super) fn stage_cols(&self) -> usize {
        match (self.cells, self.order()) {
            (Cells::Tiles, Order::Rows) => 2 * self.panel,
            (Cells::Tiles, Order::Panels) => self.panel,
            _ if self.parts() == 1 => self.panel,
            _ => self.panels().div_ceil(self.panel_blocks) * self.panel,
        }
    }

    /// Floats of such sums.
    pub(super) fn stage(&self, out: SharedView) -> usize {
        match out {
            SharedView::F32(_) => 0,
            SharedView::Bf16(_) | SharedView::F16(_) => {
                let rows = self.strip.as_ref().map_or(BLOCK, |strip| strip.most_rows);
                rows * self.stage_cols()
            }
        }
    }

    /// Floats of the gathered rows, or of a strip.
    pub(super) fn left(&self) -> usize {
        self.strip.as_ref().map_or(BLOCK * STRIDE, Strip::floats)
    }
}

/// Most cells of a part.
fn most_depth(cells: Cells) -> usize {
    match cells {
        Cells::Floats | Cells::Pairs => DEPTH,
        Cells::Tiles => TILED_DEPTH,
    }
}

/// Whether products may read the rows of a source in place, as far as its channels matter.
fn allows_whole_rows(gather: &Gather, cells: Cells) -> bool {
    match cells {
        Cells::Floats => true,
        Cells::Pairs => cells.of(gather.depth) <= DEPTH,
        // (There are no zeros behind the last channel of a pixel.)
        Cells::Tiles => gather.depth.is_multiple_of(cells.elements() * cells.step()),
    }
}

/// Cuts pixels into blocks, and panels too where that leaves threads without work.
pub(super) fn plan<'a>(isa: Isa, gathers: &'a [Gather], operands: &Operands<'_>) -> Vec<Plan<'a>> {
    let cells = operands.cells;
    let panel = tile::tile_cols(isa);
    let wanted = 4 * parallel::threads();
    let mut filter_start = 0;
    let cut = |gather: &'a Gather| {
        let Gather { groups, cols, .. } = gather;
        // Pixels first: the next convolution then finds its part of them in the cache of the same core.
        let pixel_blocks = match operands.moments {
            Some(_) => moment_blocks(gather, cells),
            None => blocks(gather, cells, parallel::threads()),
        };
        let panels = cols.div_ceil(panel);
        let panel_blocks = wanted.div_ceil((groups * pixel_blocks).max(1)).min(panels).max(1);
        let packed_group = gather.packed_group(isa, cells);
        let start = filter_start;
        filter_start += groups * packed_group;
        let (runs, lanes) = (gather.runs(), isa.lanes());
        Plan {
            isa,
            gather,
            cells,
            runs,
            filter_start: start,
            packed_group,
            panel,
            lanes,
            pixel_blocks,
            panel_blocks,
            strip: Strip::new(gather, cells, block_sizes(cells)[1]),
            whole_rows: gather.is_pointwise() && gather.groups == 1 && allows_whole_rows(gather, cells),
        }
    };
    gathers.iter().map(cut).collect()
}
