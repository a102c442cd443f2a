//! Winograd's F(4x4, 3x3): a 3x3 convolution with stride 1 in a quarter of the multiplications.
//!
//! Each tile of 4x4 outputs reads 6x6 inputs. Tile and filter are evaluated as polynomials at the points 0, ±A, ±B
//! and infinity along both axes; there, the convolution over pixels becomes 36 products, each of which is an
//! ordinary matrix product over channels. (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015,
//! give it for the points ±1 and ±2.)
//!
//! A task takes a block of tiles, transforms their inputs into a thread's scratch, and then, panel by panel of output
//! channels, multiplies and transforms back. The filter is transformed when it is packed.

mod block;
mod filter;
mod points;

use self::block::Block;
pub(super) use self::filter::{pack, packed_len};
use super::ConvShape;
use super::element::ViewMut;
use super::gather::{Gather, Operands};
use super::parallel;
use super::simd::{Isa, dispatch};
use super::tile::{self, DEPTH, STRIDE};

/// Outputs along an edge of a tile.
const OUT: usize = 4;
/// Inputs along an edge of a tile: the points too.
const IN: usize = 6;
/// Points of the plane.
const POINTS: usize = IN * IN;

/// Most tiles in a block.
const BLOCK: usize = 56;
/// Fewest tiles in a block that is cut off for another thread.
const LEAST: usize = 16;
/// Floats of products that are kept before they are transformed back: a part of L2.
const PRODUCTS: usize = 1 << 15;
/// The channels of a group, input and output, are multiples of this: of every path's lanes, so that vectors are always whole. As few pay for
/// the transforms: a tile takes 144 multiplications for each pair of channels otherwise, 36 by the algorithm, and the transforms take
/// about as long as 400 for an input and 250 for an output channel.
const LANES: usize = 16;

/// Whether Winograd's algorithm is the faster one for `shape` and for the gradient of its input. Only the shape of a
/// picture decides, so that the result of a picture does not depend on its batch.
pub(super) fn by_winograd(shape: &ConvShape) -> bool {
    let &ConvShape { in_h, in_w, in_c, out_h, out_w, out_c, kernel, strides, dilations, groups, .. } = shape;
    let plain = kernel == [3, 3] && strides == [1, 1] && dilations == [1, 1] && groups > 0;
    let whole = |channels: usize| channels >= groups && (channels / groups).is_multiple_of(LANES);
    let tiles = out_h.div_ceil(OUT) * out_w.div_ceil(OUT);
    // Tiles that reach past the picture must not cost more than half of what the algorithm saves.
    let saves = 2 * POINTS * tiles <= 9 * out_h * out_w;
    plain && [in_h, in_w] == [out_h, out_w] && whole(in_c) && whole(out_c) && saves
}

/// Runs `gather`, of a shape that [`by_winograd`] agrees to, into `out`.
///
/// # Safety
/// Source, filter, bias and residual have the sizes and types that the gather says, which is that of such a shape.
pub(super) unsafe fn run(isa: Isa, gather: &Gather, operands: Operands<'_>, out: ViewMut<'_>) {
    let plan = Plan::new(isa, gather);
    if plan.tiles() == 0 {
        return;
    }
    let work =
        (plan.tiles() * POINTS).saturating_mul(gather.depth).saturating_mul(gather.cols * gather.groups);
    let out = out.shared();
    let tasks = plan.tile_blocks * plan.panel_blocks;
    parallel::for_each_task(gather.groups * tasks, work, |index| {
        let (group, index) = (index / tasks, index % tasks);
        parallel::with_scratch(plan.scratch(), |scratch| {
            dispatch(isa, Block { plan: &plan, group, index, operands, out, scratch });
        });
    });
}

/// How a convolution is cut into tasks. It does not change the result.
struct Plan<'a> {
    gather: &'a Gather,
    /// Rows and columns of tiles in a picture.
    grid: [usize; 2],
    panel: usize,
    /// Parts of the depth, each of which one product runs over.
    parts: usize,
    tile_blocks: usize,
    panel_blocks: usize,
}

impl<'a> Plan<'a> {
    fn new(isa: Isa, gather: &'a Gather) -> Plan<'a> {
        let panel = tile::tile_cols(isa);
        let grid = gather.grid.map(|pixels| pixels.div_ceil(OUT));
        let parts = gather.depth.div_ceil(DEPTH);
        let mut plan = Plan { gather, grid, panel, parts, tile_blocks: 1, panel_blocks: 1 };
        let wanted = (2 * parallel::threads()).div_ceil(gather.groups.max(1));
        let most = block_tiles(gather.depth);
        // Tiles first: tasks that share a block of tiles each transform all of its inputs. But every block reads all of the
        // filter, which takes longer than to multiply it with a few tiles.
        let blocks = |of: usize| plan.tiles().div_ceil(of).max(1);
        let least = blocks(most);
        plan.tile_blocks = wanted.clamp(least, blocks(most / 2).min(plan.tiles() / LEAST).max(least));
        plan.panel_blocks = wanted.div_ceil(plan.tile_blocks).min(plan.panels());
        plan
    }

    fn tiles(&self) -> usize {
        self.gather.batch * self.grid[0] * self.grid[1]
    }

    fn panels(&self) -> usize {
        self.gather.cols.div_ceil(self.panel)
    }

    /// Tiles of the largest block.
    fn block(&self) -> usize {
        self.tiles().div_ceil(self.tile_blocks)
    }

    /// Floats of the products of a block and a panel.
    fn products(&self) -> usize {
        POINTS * self.block() * self.panel
    }

    /// Panels that are multiplied before their products are transformed back: the inputs of a point are read once for all of
    /// them.
    fn together(&self) -> usize {
        (PRODUCTS / self.products()).clamp(1, self.panels())
    }

    /// Floats of scratch: zeros for the pixels around the picture, the transformed inputs of a block, and the
    /// products of a block and a group of panels.
    fn scratch(&self) -> usize {
        self.gather.depth + POINTS * self.block() * self.parts * STRIDE + self.together() * self.products()
    }

    /// Where a tile is: its picture, and its first output row and column.
    fn tile(&self, index: usize) -> [usize; 3] {
        let [rows, cols] = self.grid;
        [index / (rows * cols), index / cols % rows * OUT, index % cols * OUT]
    }
}

/// Tiles in a block: their transformed inputs should stay in L2.
fn block_tiles(depth: usize) -> usize {
    (BLOCK * 128 / depth).clamp(BLOCK / 2, BLOCK)
}
