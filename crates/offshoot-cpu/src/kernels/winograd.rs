//! Winograd's F(4x4, 3x3): a 3x3 convolution with stride 1 in a quarter of the multiplications.
//!
//! Each tile of 4x4 outputs reads 6x6 inputs. Tile and filter are evaluated as polynomials at the points 0, ±A, ±B
//! and infinity along both axes; there, the convolution over pixels becomes 36 products, each of which is an
//! ordinary matrix product over channels. (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015,
//! give it for the points ±1 and ±2.)
//!
//! A task takes a block of tiles, transforms their inputs into a thread's scratch, and then, panel by panel of output
//! channels, multiplies and transforms back. The filter is transformed when it is packed.

use std::ops::Range;

use super::ConvShape;
use super::element::{Element, SharedView, View, ViewMut};
use super::gather::{Gather, Operands, WeightOrder, pack_panel};
use super::parallel::{self, Shared};
use super::prefetch::Stream;
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;
use super::tile::{self, DEPTH, RowMajor, STRIDE, Tile, run_tile, tile_starts};

/// The points ±A and ±B. Chosen for small rounding errors, and so that their powers are exact.
const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

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
/// Fewest input and output channels that pay for the transforms.
const MIN_CHANNELS: usize = 64;
/// Channels are multiples of this: of every path's lanes, so that vectors are always whole.
const LANES: usize = 16;
/// Source channels whose filters are packed at once.
const PACKED: usize = 16;

/// Whether Winograd's algorithm is the faster one for `shape` and for the gradient of its input. Only the shape of a
/// picture decides, so that the result of a picture does not depend on its batch.
pub(super) fn by_winograd(shape: &ConvShape) -> bool {
    let &ConvShape { in_h, in_w, in_c, out_h, out_w, out_c, kernel, strides, dilations, groups, .. } = shape;
    let plain = kernel == [3, 3] && strides == [1, 1] && dilations == [1, 1] && groups == 1;
    let enough = |channels: usize| channels >= MIN_CHANNELS && channels.is_multiple_of(LANES);
    let tiles = out_h.div_ceil(OUT) * out_w.div_ceil(OUT);
    // Tiles that reach past the picture must not cost more than half of what the algorithm saves.
    let saves = 2 * POINTS * tiles <= 9 * out_h * out_w;
    plain && [in_h, in_w] == [out_h, out_w] && enough(in_c) && enough(out_c) && saves
}

/// Floats in the packed filter of `gather`.
pub(super) fn packed_len(gather: &Gather) -> usize {
    elements([POINTS, gather.depth, gather.cols])
}

/// Transforms and packs a filter as `[cols / panel][point][depth][panel]`; the last panel may be narrower.
pub(super) fn pack(
    isa: Isa,
    gather: &Gather,
    kernel_w: usize,
    weights: &[f32],
    order: WeightOrder,
    packed: &mut [f32],
) {
    assert_eq!(packed.len(), packed_len(gather), "the packed filter");
    // Vectors are whole, and a window has nine taps.
    assert!([gather.depth, gather.cols].iter().all(|channels| channels.is_multiple_of(LANES)), "{gather:?}");
    assert!(gather.taps.iter().all(|taps| taps.len() == 3), "{gather:?}");
    let panel = tile::tile_cols(isa);
    let (panels, parts) = (gather.cols.div_ceil(panel), gather.depth.div_ceil(PACKED));
    let out = Shared(packed.as_mut_ptr());
    let taps = gather.tap_indices(kernel_w);
    parallel::for_each_task(panels * parts, packed.len().saturating_mul(8), |task| {
        let (first, part) = (task / parts * panel, task % parts);
        let channels = part * PACKED..((part + 1) * PACKED).min(gather.depth);
        let width = (gather.cols - first).min(panel);
        let mut plain = [0.0; 9 * PACKED * tile::MAX_COLS];
        let plain = &mut plain[..9 * channels.len() * width];
        let weights = &weights[first * order.col + channels.start * order.depth..];
        pack_panel(weights, &taps, order, [channels.len(), width, width], plain);
        // Safety: every task writes other channels of a panel, all within `packed`.
        let out = unsafe { out.get().add((first * POINTS * gather.depth) + channels.start * width) };
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

/// The polynomial with coefficients `g` at the six points, each divided by the product of its distances to the other
/// finite points: the rows (1, p, p^2) / N(p) of G.
#[inline(always)]
unsafe fn filter_points<S: Simd>(g: [S::V; 3]) -> [S::V; IN] {
    const AT_ZERO: f32 = 1.0 / (A2 * B2);
    const AT_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
    const AT_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));
    // Safety: the caller's.
    unsafe {
        let even_a = S::mul(S::splat(AT_A), S::fma(S::splat(A2), g[2], g[0]));
        let even_b = S::mul(S::splat(AT_B), S::fma(S::splat(B2), g[2], g[0]));
        [
            S::mul(S::splat(AT_ZERO), g[0]),
            S::fma(S::splat(AT_A * A), g[1], even_a),
            S::fma(S::splat(-AT_A * A), g[1], even_a),
            S::fma(S::splat(AT_B * B), g[1], even_b),
            S::fma(S::splat(-AT_B * B), g[1], even_b),
            g[2],
        ]
    }
}

/// Six inputs to six points. Row p of B^T has the coefficients of the product of (x - q) over the other finite points.
#[inline(always)]
unsafe fn input_points<S: Simd>(d: [S::V; IN]) -> [S::V; IN] {
    // Safety: the caller's.
    unsafe {
        let (a2, b2) = (S::splat(-A2), S::splat(-B2));
        let even_a = S::fma(b2, d[2], d[4]);
        let odd_a = S::fma(b2, d[1], d[3]);
        let even_b = S::fma(a2, d[2], d[4]);
        let odd_b = S::fma(a2, d[1], d[3]);
        let (product, sum) = (S::splat(A2 * B2), S::splat(-(A2 + B2)));
        [
            S::fma(product, d[0], S::fma(sum, d[2], d[4])),
            S::fma(S::splat(A), odd_a, even_a),
            S::fma(S::splat(-A), odd_a, even_a),
            S::fma(S::splat(B), odd_b, even_b),
            S::fma(S::splat(-B), odd_b, even_b),
            S::fma(product, d[1], S::fma(sum, d[3], d[5])),
        ]
    }
}

/// Six points to four outputs: row i of A^T has the points' i-th powers, and infinity counts for the last.
#[inline(always)]
unsafe fn outputs<S: Simd>(m: [S::V; IN]) -> [S::V; OUT] {
    // Safety: the caller's.
    unsafe {
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(even_a, even_b)),
            S::fma(S::splat(B), odd_b, S::mul(S::splat(A), odd_a)),
            S::fma(S::splat(B2), even_b, S::mul(S::splat(A2), even_a)),
            S::add(m[5], S::fma(S::splat(B2 * B), odd_b, S::mul(S::splat(A2 * A), odd_a))),
        ]
    }
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
    let work = (plan.tiles() * POINTS).saturating_mul(gather.depth).saturating_mul(gather.cols);
    let out = out.shared();
    parallel::for_each_task(plan.tile_blocks * plan.panel_blocks, work, |index| {
        parallel::with_scratch(plan.scratch(), |scratch| {
            dispatch(isa, Block { plan: &plan, index, operands, out, scratch });
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
        let wanted = 2 * parallel::threads();
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
    fn group(&self) -> usize {
        (PRODUCTS / self.products()).clamp(1, self.panels())
    }

    /// Floats of scratch: zeros for the pixels around the picture, the transformed inputs of a block, and the
    /// products of a block and a group of panels.
    fn scratch(&self) -> usize {
        self.gather.depth + POINTS * self.block() * self.parts * STRIDE + self.group() * self.products()
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

/// One task: a block of tiles by a range of panels.
struct Block<'a> {
    plan: &'a Plan<'a>,
    index: usize,
    operands: Operands<'a>,
    out: SharedView,
    scratch: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let plan = self.plan;
        let panels = parallel::part(plan.panels(), plan.panel_blocks, self.index % plan.panel_blocks);
        let tiles = parallel::part(plan.tiles(), plan.tile_blocks, self.index / plan.panel_blocks);
        let (zeros, rest) = self.scratch.split_at_mut(plan.gather.depth);
        let (inputs, products) = rest.split_at_mut(POINTS * plan.block() * plan.parts * STRIDE);
        zeros.fill(0.0);
        // Safety: `S` is available; the parts of the scratch have the sizes that these ask for.
        unsafe {
            let to = inputs.as_mut_ptr();
            match self.operands.source {
                View::F32(source) => transform_inputs::<S, _>(plan, source, tiles.clone(), zeros, to),
                View::Bf16(source) => transform_inputs::<S, _>(plan, source, tiles.clone(), zeros, to),
                View::F16(source) => transform_inputs::<S, _>(plan, source, tiles.clone(), zeros, to),
            }
            let operands = &self.operands;
            for first in panels.clone().step_by(plan.group()) {
                let group = first..(first + plan.group()).min(panels.end);
                multiply::<S>(
                    plan,
                    operands,
                    group.clone(),
                    tiles.len(),
                    inputs.as_ptr(),
                    products.as_mut_ptr(),
                );
                for panel in group {
                    let from = products[(panel - first) * plan.products()..].as_ptr();
                    match self.out {
                        SharedView::F32(out) => {
                            transform_outputs::<S, _>(plan, operands, panel, tiles.clone(), from, out);
                        }
                        SharedView::Bf16(out) => {
                            transform_outputs::<S, _>(plan, operands, panel, tiles.clone(), from, out);
                        }
                        SharedView::F16(out) => {
                            transform_outputs::<S, _>(plan, operands, panel, tiles.clone(), from, out);
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the inputs of `tiles`; `zeros` are as many as a pixel has channels.
#[inline(always)]
unsafe fn transform_inputs<S: Simd, E: Element>(
    plan: &Plan<'_>,
    source: &[E],
    tiles: Range<usize>,
    zeros: &[f32],
    to: *mut f32,
) {
    for (i, tile) in tiles.enumerate() {
        let pixels = pixels(plan, source, tile, bytemuck::cast_slice(zeros));
        // Safety: the caller's.
        unsafe { transform_input::<S, E>(plan, &pixels, to.add(i * STRIDE)) };
    }
}

/// The 36 pixels that a tile reads; `zeros` stands for those outside the picture.
#[inline(always)]
fn pixels<E: Element>(plan: &Plan<'_>, source: &[E], tile: usize, zeros: &[E]) -> [*const E; POINTS] {
    let Gather { source: [height, width], taps, depth, .. } = plan.gather;
    let [image, row, col] = plan.tile(tile);
    let (first_y, first_x) = (row as isize + taps[0][0].offset, col as isize + taps[1][0].offset);
    let mut pixels = [zeros.as_ptr(); POINTS];
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let (y, x) = (first_y + (i / IN) as isize, first_x + (i % IN) as isize);
        if (0..*height as isize).contains(&y) && (0..*width as isize).contains(&x) {
            *pixel = source[((image * height + y as usize) * width + x as usize) * depth..].as_ptr();
        }
    }
    pixels
}

/// Transforms the inputs of one tile to `[part][point][tile][STRIDE]`.
#[inline(always)]
unsafe fn transform_input<S: Simd, E: Element>(plan: &Plan<'_>, pixels: &[*const E; POINTS], to: *mut f32) {
    let point = plan.block() * STRIDE;
    for part in 0..plan.parts {
        let depth = depth_part(plan, part);
        for c in (0..depth.len()).step_by(S::LANES) {
            // Safety: each pixel has `gather.depth` floats; the scratch has a row for every point and tile.
            unsafe {
                let to = to.add(part * POINTS * point + c);
                let mut half = [[S::splat(0.0); IN]; IN];
                for j in 0..IN {
                    let mut column = [S::splat(0.0); IN];
                    for (i, value) in column.iter_mut().enumerate() {
                        *value = E::load::<S>(pixels[i * IN + j].add(depth.start + c));
                    }
                    for (row, value) in half.iter_mut().zip(input_points::<S>(column)) {
                        row[j] = value;
                    }
                }
                for (i, row) in half.into_iter().enumerate() {
                    let points = input_points::<S>(row);
                    for (j, value) in points.into_iter().enumerate() {
                        S::store(to.add((i * IN + j) * point), value);
                    }
                }
            }
        }
    }
}

/// Channels of part `index`, in whole vectors of any path.
#[inline(always)]
fn depth_part(plan: &Plan<'_>, index: usize) -> Range<usize> {
    let part = parallel::part(plan.gather.depth / LANES, plan.parts, index);
    part.start * LANES..part.end * LANES
}

/// Multiplies the transformed inputs of `tiles` tiles with a group of panels, to `[panel][point][tile][column]`.
#[inline(always)]
unsafe fn multiply<S: Simd>(
    plan: &Plan<'_>,
    operands: &Operands<'_>,
    panels: Range<usize>,
    tiles: usize,
    inputs: *const f32,
    products: *mut f32,
) {
    let (gather, block) = (plan.gather, plan.block());
    let mut rows = [0; BLOCK];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = i * plan.panel;
    }
    let mut starts = [0; BLOCK + 1];
    let starts = tile_starts(tiles, S::TILE_ROWS, &mut starts);
    let calls = starts.len() - 1;
    let cols = |panel: usize| (gather.cols - panel * plan.panel).min(plan.panel);
    let filter = |point: usize, panel: usize| {
        let start = (panel * plan.panel * POINTS + point * cols(panel)) * gather.depth;
        operands.filter.as_ptr().wrapping_add(start)
    };
    for point in 0..POINTS {
        for panel in panels.clone() {
            let cols = cols(panel);
            let next = if panel + 1 < panels.end { [point, panel + 1] } else { [point + 1, panels.start] };
            let (now, next) = (filter(point, panel), filter(next[0], next[1]));
            let out =
                products.wrapping_add((panel - panels.start) * plan.products() + point * block * plan.panel);
            for part in 0..plan.parts {
                let depth = depth_part(plan, part);
                let next = next.wrapping_add(depth.start * cols);
                for (i, tile) in starts.windows(2).enumerate() {
                    // Safety: the scratch and the packed filter hold what the tile reads and writes.
                    unsafe {
                        run_tile::<S, RowMajor>(Tile {
                            depth: depth.len(),
                            a: inputs.add(((part * POINTS + point) * block + tile[0]) * STRIDE),
                            b: now.add(depth.start * cols),
                            add: if part > 0 { Some(out.cast_const()) } else { None },
                            out,
                            rows: &rows[tile[0]..tile[1]],
                            cols,
                            ahead: [Stream::of_panel(next, [depth.len(), cols], i, calls), Stream::NOTHING],
                            ..Tile::PRODUCT
                        });
                    }
                }
            }
        }
    }
}

/// Transforms the products of `tiles` and one panel back.
#[inline(always)]
unsafe fn transform_outputs<S: Simd, E: Element>(
    plan: &Plan<'_>,
    operands: &Operands<'_>,
    panel: usize,
    tiles: Range<usize>,
    products: *const f32,
    out: Shared<E>,
) {
    for (i, tile) in tiles.enumerate() {
        // Safety: the caller's.
        unsafe {
            let products = products.add(i * plan.panel);
            transform_output::<S, E>(plan, operands, panel, tile, products, out.get());
        }
    }
}

/// Transforms the products of one tile and panel back, and stores the outputs that are inside the picture.
#[inline(always)]
unsafe fn transform_output<S: Simd, E: Element>(
    plan: &Plan<'_>,
    operands: &Operands<'_>,
    panel: usize,
    tile: usize,
    products: *const f32,
    out: *mut E,
) {
    let gather = plan.gather;
    let first_col = panel * plan.panel;
    let cols = (gather.cols - first_col).min(plan.panel);
    let point = plan.block() * plan.panel;
    let [image, row, col] = plan.tile(tile);
    let (height, width) = ((gather.grid[0] - row).min(OUT), (gather.grid[1] - col).min(OUT));
    let target = &gather.target;
    let start = target.base + image * target.image + row * target.row + col * target.col + first_col;
    for v in (0..cols).step_by(S::LANES) {
        // Safety: the products of the tile are in the scratch; targets are within the output and the residual, and
        // bias has a float for every column.
        unsafe {
            let (low, high) = (S::splat(operands.bounds.0), S::splat(operands.bounds.1));
            let mut bias = S::splat(0.0);
            if let Some(all) = operands.bias {
                bias = S::load(all.as_ptr().add(first_col + v));
            }
            let mut half = [[S::splat(0.0); IN]; OUT];
            for j in 0..IN {
                let mut column = [S::splat(0.0); IN];
                for (i, value) in column.iter_mut().enumerate() {
                    *value = S::load(products.add((i * IN + j) * point + v));
                }
                for (row, value) in half.iter_mut().zip(outputs::<S>(column)) {
                    row[j] = value;
                }
            }
            for (i, row) in half.into_iter().enumerate() {
                if i == height {
                    break;
                }
                for (j, value) in outputs::<S>(row).into_iter().enumerate() {
                    if j == width {
                        break;
                    }
                    let at = start + i * target.row + j * target.col + v;
                    let mut y = S::add(value, bias);
                    if let Some(residual) = operands.residual.and_then(E::of) {
                        y = S::add(y, E::load::<S>(residual.as_ptr().add(at)));
                    }
                    E::store::<S>(out.add(at), S::at_most(S::at_least(y, low), high));
                }
            }
        }
    }
}
