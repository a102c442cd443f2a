//! A task: a block of tiles times some panels of the filter.

use std::ops::Range;

use super::filter::packed_group;
use super::points::{input_points, outputs};
use super::{BLOCK, IN, LANES, OUT, POINTS, Plan};
use crate::kernels::element::{Element, SharedView, View};
use crate::kernels::gather::{Gather, Operands};
use crate::kernels::parallel::{self, Shared};
use crate::kernels::prefetch::Stream;
use crate::kernels::simd::{Kernel, Simd};
use crate::kernels::tile::{RowMajor, STRIDE, Tile, run_tile, tile_starts};

/// One task: a block of tiles by a range of panels.
pub(super) struct Block<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) group: usize,
    pub(super) index: usize,
    pub(super) operands: Operands<'a>,
    pub(super) out: SharedView,
    pub(super) scratch: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (plan, group) = (self.plan, self.group);
        let panels = parallel::part(plan.panels(), plan.panel_blocks, self.index % plan.panel_blocks);
        let tiles = parallel::part(plan.tiles(), plan.tile_blocks, self.index / plan.panel_blocks);
        let (zeros, rest) = self.scratch.split_at_mut(plan.gather.depth);
        let (inputs, products) = rest.split_at_mut(POINTS * plan.block() * plan.parts * STRIDE);
        zeros.fill(0.0);
        // Safety: `S` is available; the parts of the scratch have the sizes that these ask for.
        unsafe {
            let to = inputs.as_mut_ptr();
            match self.operands.source {
                View::F32(source) => {
                    transform_inputs::<S, _>(plan, (source, group), tiles.clone(), zeros, to)
                }
                View::Bf16(source) => {
                    transform_inputs::<S, _>(plan, (source, group), tiles.clone(), zeros, to)
                }
                View::F16(source) => {
                    transform_inputs::<S, _>(plan, (source, group), tiles.clone(), zeros, to)
                }
            }
            let operands = (&self.operands, group);
            for first in panels.clone().step_by(plan.together()) {
                let panels = first..(first + plan.together()).min(panels.end);
                multiply::<S>(
                    plan,
                    operands,
                    panels.clone(),
                    tiles.len(),
                    inputs.as_ptr(),
                    products.as_mut_ptr(),
                );
                for panel in panels {
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

/// Transforms the inputs of `tiles`, of a group of the source's channels; `zeros` are as many as a pixel has channels.
#[inline(always)]
unsafe fn transform_inputs<S: Simd, E: Element>(
    plan: &Plan<'_>,
    source: (&[E], usize),
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
fn pixels<E: Element>(
    plan: &Plan<'_>,
    (source, group): (&[E], usize),
    tile: usize,
    zeros: &[E],
) -> [*const E; POINTS] {
    let Gather { source: [height, width], taps, depth, .. } = plan.gather;
    let channels = plan.gather.source_c();
    let [image, row, col] = plan.tile(tile);
    let (first_y, first_x) = (row as isize + taps[0][0].offset, col as isize + taps[1][0].offset);
    let mut pixels = [zeros.as_ptr(); POINTS];
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let (y, x) = (first_y + (i / IN) as isize, first_x + (i % IN) as isize);
        if (0..*height as isize).contains(&y) && (0..*width as isize).contains(&x) {
            let at = (image * height + y as usize) * width + x as usize;
            *pixel = source[at * channels + group * depth..].as_ptr();
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
    (operands, group): (&Operands<'_>, usize),
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
        let start =
            group * packed_group(gather) + (panel * plan.panel * POINTS + point * cols(panel)) * gather.depth;
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
    (operands, group): (&Operands<'_>, usize),
    panel: usize,
    tiles: Range<usize>,
    products: *const f32,
    out: Shared<E>,
) {
    for (i, tile) in tiles.enumerate() {
        // Safety: the caller's.
        unsafe {
            let products = products.add(i * plan.panel);
            transform_output::<S, E>(plan, (operands, group), panel, tile, products, out.get());
        }
    }
}

/// Transforms the products of one tile and panel back, and stores the outputs that are inside the picture.
#[inline(always)]
unsafe fn transform_output<S: Simd, E: Element>(
    plan: &Plan<'_>,
    (operands, group): (&Operands<'_>, usize),
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
    let first_col = group * gather.cols + first_col;
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
