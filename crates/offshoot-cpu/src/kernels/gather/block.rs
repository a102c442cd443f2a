//! A task of a gather: a block of pixels times some panels of the filter.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr;

use half::{bf16, f16};

use super::Operands;
use super::ahead::Ahead;
use super::copy::Inner;
use super::plan::{BLOCK, Order, Plan};
use crate::kernels::batch_norm::Affine;
use crate::kernels::element::{Element, SharedView, View};
use crate::kernels::elementwise::InPlace;
use crate::kernels::parallel::{self, LINE};
use crate::kernels::prefetch::{self, Stream};
use crate::kernels::rows::{Area, read_rows};
use crate::kernels::simd::tiles::{self, Factors, Product, STEP};
use crate::kernels::simd::{Kernel, Simd};
use crate::kernels::tile::{self, Layout, Matrix, STRIDE, Tile, UNBOUNDED, run_tile, tile_starts};

/// One task: a block of pixels by a range of panels.
pub(super) struct Block<'a, L> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) index: usize,
    pub(super) operands: Operands<'a>,
    pub(super) out: SharedView,
    /// A row of [`STRIDE`] floats for every pixel of the largest block, or a strip, and the sums of [`Plan::stage`].
    pub(super) scratch: &'a mut [f32],
    /// How the gathered rows lie.
    pub(super) left: PhantomData<L>,
}

impl<L: Layout> Kernel for Block<'_, L> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (plan, gather) = (self.plan, self.plan.gather);
        let panels = parallel::part(plan.panels(), plan.panel_blocks, self.index % plan.panel_blocks);
        let rest = self.index / plan.panel_blocks;
        let pixels = plan.pixels(rest % plan.pixel_blocks);
        let group = rest / plan.pixel_blocks;
        let mut targets = [0; BLOCK];
        let mut pixel = gather.pixel(pixels.start);
        for target in &mut targets[..pixels.len()] {
            *target = gather.target_of(pixel) + group * gather.cols;
            pixel = gather.next(pixel);
        }
        let targets = &targets[..pixels.len()];
        let mut starts = [0; BLOCK + 1];
        let starts = tile_starts(targets.len(), tile::most_rows::<S, L>(), &mut starts);
        let mut stage_rows = [0; BLOCK];
        let stage_cols = plan.stage_cols();
        let places = plan.strip.as_ref().map_or(0..0, |strip| {
            let place = |index| strip.place(gather.pixel(index));
            place(pixels.start)..place(pixels.end - 1) + 1
        });
        let mut pixel = gather.pixel(pixels.start);
        for (i, row) in stage_rows[..pixels.len()].iter_mut().enumerate() {
            let place = plan.strip.as_ref().map_or(i, |strip| strip.place(pixel) - places.start);
            *row = place * stage_cols;
            pixel = gather.next(pixel);
        }
        let stage = self.scratch.as_mut_ptr().wrapping_add(plan.left());
        let stage_rows = &stage_rows[..targets.len()];
        let rows = Rows { targets, starts, stage, stage_cols, stage_rows, places };
        let parts = plan.parts();
        let (source, following) = (self.rows_in_place(pixels.start), self.following(&pixels));
        let order = if L::TILES { plan.order() } else { Order::Parts };
        let tiles = starts.len() - 1;
        let [outer, inner] = match order {
            Order::Parts => [parts, panels.len()],
            Order::Panels => [panels.len(), parts],
            Order::Rows => [tiles, panels.len()],
        };
        let place = |part: usize| {
            let (depth, first) = (plan.part(part), part == 0);
            let unread = source.filter(|_| first).map(|source| (source, plan.source_pitch()));
            let ahead = Ahead::new(unread, following, panels.len() * tiles, depth.len());
            let (last, panels) = (part + 1 == parts, panels.clone());
            Place { part, group, first, last, depth, panels, source, ahead, panel: 0, tiles: 0..tiles }
        };
        // (Not made again for each tile: it takes a few divisions.)
        let mut now = place(0);
        let mut waiting: Option<Place> = None;
        for i in 0..outer {
            for j in 0..inner {
                let (part, panel) = match order {
                    Order::Parts => (i, j),
                    Order::Panels => (j, i),
                    Order::Rows => (0, j),
                };
                if part != now.part {
                    now = place(part);
                }
                now.panel = panels.start + panel;
                if order == Order::Rows {
                    now.tiles = i..i + 1;
                }
                let gathers = j == 0 && (i == 0 || order == Order::Parts);
                // Safety: `S` is available; the rows are gathered before they are multiplied, and the scratch has STRIDE floats for each.
                unsafe {
                    match &plan.strip {
                        Some(strip) if gathers => self.copy_strip::<S>(strip, rows.places.clone()),
                        None if gathers && source.is_none() => {
                            self.gather_rows::<S>(pixels.clone(), group, now.depth.clone());
                        }
                        _ => {}
                    }
                    self.multiply::<S>(&now, &self.sums(&now, &rows), &rows);
                    // The unit multiplies one panel while vectors store the one before.
                    let finished = match order {
                        Order::Rows => waiting.replace(now.clone()),
                        Order::Parts | Order::Panels => now.last.then(|| now.clone()),
                    };
                    if let Some(place) = finished {
                        self.finish::<S>(&place, &rows);
                    }
                }
            }
        }
        if let Some(place) = waiting.filter(|_| L::TILES) {
            // Safety: `S` is available, and the sums of the last panel are finished.
            unsafe { self.finish::<S>(&place, &rows) };
        }
    }
}

/// The rows of a block.
pub(super) struct Rows<'a> {
    /// Where each row of the output begins.
    pub(super) targets: &'a [usize],
    /// Where tiles start, and the last one ends.
    starts: &'a [usize],
    /// Sums whose output is no f32, how many columns of them there are, and where each row begins.
    stage: *mut f32,
    pub(super) stage_cols: usize,
    stage_rows: &'a [usize],
    /// The places of a strip that the rows of a product are; none without one.
    pub(super) places: Range<usize>,
}

/// Where the sums of a panel go.
pub(super) struct Sums<'a> {
    /// The panel's first column: in the output or, where that is no f32, in scratch.
    pub(super) out: *mut f32,
    /// Where each pixel's begin, in floats past `out`.
    pub(super) rows: &'a [usize],
    /// Added; at the same places as `out`.
    pub(super) residual: Option<*const f32>,
    /// What is clipped to.
    pub(super) bounds: (f32, f32),
}

/// Which part of the reduction, in cells, of which panels of which group.
#[derive(Clone)]
pub(super) struct Place {
    part: usize,
    group: usize,
    panels: Range<usize>,
    pub(super) depth: Range<usize>,
    pub(super) first: bool,
    pub(super) last: bool,
    /// The first pixel's row, where rows are read in place.
    source: Option<*const f32>,
    /// What its tiles ask for.
    ahead: Ahead,
    /// The panel and the tiles that are multiplied.
    pub(super) panel: usize,
    tiles: Range<usize>,
}

impl<L: Layout> Block<'_, L> {
    /// The rows of as many pixels after `pixels`, which the block after this one reads; in floats, whatever their elements are. None if
    /// it does not read [whole rows](Plan::whole_rows).
    #[inline(always)]
    fn following(&self, pixels: &Range<usize>) -> (*const f32, usize) {
        let gather = self.plan.gather;
        let rows = if self.plan.whole_rows { pixels.len().min(gather.pixels() - pixels.end) } else { 0 };
        let (start, size) = self.operands.source.bytes();
        let row = gather.source_c() * size;
        (start.wrapping_add(pixels.end * row).cast(), rows * row / size_of::<f32>())
    }

    /// The row of `pixel` in the source, where tiles may read it there: [whole rows](Plan::whole_rows) of cells as they are.
    #[inline(always)]
    fn rows_in_place(&self, pixel: usize) -> Option<*const f32> {
        match self.operands.source {
            View::Bf16(source) if self.plan.whole_rows && L::TILES => {
                Some(source[pixel * self.plan.gather.source_c()..].as_ptr().cast())
            }
            View::F32(source) if self.plan.whole_rows && self.operands.norm.is_none() => {
                Some(source[pixel * self.plan.gather.source_c()..].as_ptr())
            }
            _ => None,
        }
    }

    /// Where the sums of a panel go.
    #[inline(always)]
    fn sums<'r>(&self, place: &Place, rows: &Rows<'r>) -> Sums<'r> {
        let first_col = place.panel * self.plan.panel;
        match self.out {
            SharedView::F32(out) => {
                let residual = self.operands.residual.and_then(f32::of);
                let residual = residual.map(|residual| residual.as_ptr().wrapping_add(first_col));
                let out = out.get().wrapping_add(first_col);
                Sums { out, rows: rows.targets, residual, bounds: self.operands.bounds }
            }
            SharedView::Bf16(_) | SharedView::F16(_) => {
                // One panel after the other has its own columns, as far as there are some.
                let mut at = (place.panel - place.panels.start) * self.plan.panel;
                if at >= rows.stage_cols {
                    at %= rows.stage_cols;
                }
                let out = rows.stage.wrapping_add(at);
                Sums { out, rows: rows.stage_rows, residual: None, bounds: UNBOUNDED }
            }
        }
    }

    /// Stores finished sums.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, place: &Place, rows: &Rows<'_>) {
        let (plan, sums) = (self.plan, self.sums(place, rows));
        let Place { group, panel, ref tiles, .. } = *place;
        let these = rows.starts[tiles.start]..rows.starts[tiles.end];
        let (targets, of_these) = (rows.targets, &rows.targets[these.clone()]);
        let sums = Sums { rows: &sums.rows[these], ..sums };
        let ends = tiles.end + 1 == rows.starts.len();
        let block = (self.index / plan.panel_blocks % plan.pixel_blocks, group, panel);
        // Safety: `S` is available; targets lie within the output.
        unsafe {
            match self.out {
                SharedView::F32(out) => {
                    if let Some(op) = self.operands.then {
                        let cols = (plan.gather.cols - panel * plan.panel).min(plan.panel);
                        S::apart(InPlace { op, x: sums.out, rows: of_these, cols });
                    }
                    self.moments(block, out, targets);
                }
                SharedView::Bf16(out) => {
                    self.store::<S, _>(group, panel, &sums, out, of_these);
                    if ends {
                        self.moments(block, out, targets);
                    }
                }
                SharedView::F16(out) => {
                    self.store::<S, _>(group, panel, &sums, out, of_these);
                    if ends {
                        self.moments(block, out, targets);
                    }
                }
            }
        }
    }

    /// Gathers part `depth` of the rows of `pixels`.
    #[inline(always)]
    unsafe fn gather_rows<S: Simd>(&mut self, pixels: Range<usize>, group: usize, depth: Range<usize>) {
        // Safety: the caller's.
        unsafe {
            match self.operands.source {
                View::F32(source) => self.gather_rows_of::<S, f32>(source, pixels, group, depth),
                View::Bf16(source) if L::PAIRS => self.gather_pairs::<S>(source, pixels, group, depth),
                View::Bf16(source) => self.gather_rows_of::<S, bf16>(source, pixels, group, depth),
                View::F16(source) => self.gather_rows_of::<S, f16>(source, pixels, group, depth),
            }
        }
    }

    #[inline(always)]
    unsafe fn gather_rows_of<S: Simd, E: Element>(
        &mut self,
        source: &[E],
        pixels: Range<usize>,
        group: usize,
        depth: Range<usize>,
    ) {
        let to = self.scratch.as_mut_ptr();
        let (gather, runs, source) = (self.plan.gather, &self.plan.runs, source.as_ptr());
        if let Some((scale, shift, activation)) = self.operands.norm {
            let cols = group * gather.depth + depth.start..group * gather.depth + depth.end;
            let area = Area { rows: pixels.len(), pitch: gather.source_c(), cols: cols.len() };
            let params = [scale[cols.clone()].as_ptr(), shift[cols.clone()].as_ptr()];
            // Safety: a pointwise gather reads pixels in order; a row has room for DEPTH floats and a vector.
            return unsafe {
                let source = source.add(pixels.start * area.pitch + cols.start);
                read_rows(self.plan.isa, [source], params, area, (to, STRIDE), Affine(activation));
            };
        }
        let inner = Inner::new(gather, runs, group, &depth);
        let mut pixel = gather.pixel(pixels.start);
        for i in 0..pixels.len() {
            let to = to.wrapping_add(i * STRIDE);
            // Safety: a row has room for DEPTH floats and a vector.
            unsafe {
                match &inner {
                    Some(inner) if inner.has(pixel) => inner.copy::<S, E, f32>(source, pixel, to),
                    _ => gather.copy::<S, E, f32>(runs, source, pixel, group, depth.clone(), to),
                }
            };
            pixel = gather.next(pixel);
        }
    }

    /// Gathers rows of pairs.
    #[inline(always)]
    unsafe fn gather_pairs<S: Simd>(
        &mut self,
        source: &[bf16],
        pixels: Range<usize>,
        group: usize,
        depth: Range<usize>,
    ) {
        let to = self.scratch.as_mut_ptr().cast::<bf16>();
        let (gather, runs, source) = (self.plan.gather, &self.plan.runs, source.as_ptr());
        let range = 2 * depth.start..(2 * depth.end).min(gather.reduction());
        let inner = Inner::new(gather, runs, group, &range);
        let mut pixel = gather.pixel(pixels.start);
        for i in 0..pixels.len() {
            // Safety: a row has room for DEPTH pairs and a vector.
            unsafe {
                let to = to.add(i * 2 * STRIDE);
                match &inner {
                    Some(inner) if inner.has(pixel) => inner.copy::<S, bf16, bf16>(source, pixel, to),
                    _ => gather.copy::<S, bf16, bf16>(runs, source, pixel, group, range.clone(), to),
                }
                // (A copy may have ended with a whole vector of what comes next.)
                for at in range.len()..2 * depth.len() {
                    to.add(at).write(bf16::ZERO);
                }
            }
            pixel = gather.next(pixel);
        }
    }

    /// Asks for what the epilogue reads and writes of rows that begin at `targets`.
    #[inline(always)]
    pub(super) fn ask_for_target(&self, first_col: usize, targets: &[usize]) {
        let residual = self.operands.residual.map(|residual| residual.bytes());
        let (out, size) = self.out.bytes();
        for &target in targets {
            let at = (target + first_col) * size;
            prefetch::soon(out.wrapping_add(at));
            if let Some((residual, _)) = residual {
                prefetch::soon(residual.wrapping_add(at));
            }
        }
    }

    /// Multiplies the gathered rows with one panel of so many columns, on tiles.
    #[inline(always)]
    unsafe fn multiply_tiles(
        &self,
        place: &Place,
        (filter, columns): (*const f32, usize),
        sums: &Sums<'_>,
        rows: &Rows<'_>,
    ) {
        let (emulated, out_row, panel) = (self.plan.isa.emulates_tiles(), 4 * rows.stage_cols, place.panel);
        // Safety: rows of sums follow one another in the stage, and those of the left operand in the
        // source or in the scratch, filled up to whole steps as the panel is.
        unsafe {
            let (left, pitch) = match place.source {
                Some(source) => (source.add(place.depth.start), self.plan.source_pitch()),
                None => (self.scratch.as_ptr(), STRIDE),
            };
            let (depth, starts) = (place.depth.len(), rows.starts);
            let next = filter.wrapping_add(depth * columns);
            for i in place.tiles.clone() {
                let part = [starts[i], starts[i + 1]];
                if place.last {
                    self.ask_for_target(panel * self.plan.panel, &rows.targets[part[0]..part[1]]);
                }
                Stream::of_panel(next, [depth, columns], i, starts.len() - 1).advance(depth);
                let out = sums.out.add(sums.rows[part[0]]);
                let start = if place.first { ptr::null() } else { out.cast_const() };
                let product = Product {
                    a: left.add(part[0] * pitch).cast(),
                    a_row: 4 * pitch,
                    parts: 1,
                    steps: 4 * depth / STEP,
                    gap: 0,
                    b: filter.cast(),
                    b_row: 4 * columns,
                    start: start.cast(),
                    start_row: out_row,
                    out: out.cast(),
                    out_row,
                    rows: part[1] - part[0],
                    columns,
                };
                tiles::multiply(emulated, Factors::Bf16, &product);
            }
        }
    }

    /// Multiplies the gathered rows with one panel.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&self, place: &Place, sums: &Sums<'_>, of: &Rows<'_>) {
        let (panel, starts) = (place.panel, of.starts);
        let (plan, gather, operands) = (self.plan, self.plan.gather, &self.operands);
        let first_col = panel * plan.panel;
        let cols = (gather.cols - first_col).min(plan.panel);
        let b_step = cols.next_multiple_of(plan.lanes);
        let bias = match operands.bias {
            Some(bias) if place.first && !L::TILES => bias[place.group * gather.cols + first_col..].as_ptr(),
            _ => tile::ZEROS.as_ptr(),
        };
        let reduction = plan.cells.of(gather.reduction());
        let group = plan.filter_start + place.group * plan.packed_group;
        let filter = operands.filter[group + first_col * reduction + place.depth.start * b_step..].as_ptr();
        let (next_panel, step) = if panel + 1 < place.panels.end {
            (panel + 1, place.depth.start)
        } else {
            (place.panels.start, place.depth.end)
        };
        let next = group + next_panel * plan.panel * reduction + step * b_step;
        let next = operands.filter.as_ptr().wrapping_add(next);
        if L::TILES {
            // Safety: as below.
            return unsafe {
                match &plan.strip {
                    Some(strip) => self.multiply_strip(strip, place, (filter, b_step), sums, of),
                    None => self.multiply_tiles(place, (filter, b_step), sums, of),
                }
            };
        }
        // Safety: pointers stay within the output, the residual and the packed filter, whose sizes were checked.
        unsafe {
            let Sums { out, rows, residual, bounds } = *sums;
            let add = if place.first { residual } else { Some(out.cast_const()) };
            let bounds = if place.last { bounds } else { UNBOUNDED };
            let (depth, tiles, pitch) = (place.depth.len(), starts.len() - 1, gather.source_c());
            for (i, part) in starts.windows(2).enumerate() {
                // What comes next is asked for now, or each tile would wait for the memory of its sums.
                let (after, col) = match starts.get(i + 2) {
                    Some(&end) => (part[1]..end, 0),
                    None => (0..starts[1], plan.panel),
                };
                for &row in &rows[after] {
                    for col in (col..col + cols).step_by(LINE) {
                        if let Some(add) = add {
                            prefetch::soon(add.wrapping_add(row + col));
                        }
                        prefetch::soon(out.wrapping_add(row + col));
                    }
                }
                let a = match place.source {
                    Some(source) => source.add(part[0] * pitch + place.depth.start),
                    None => self.scratch.as_ptr().add(part[0] * STRIDE),
                };
                let tile = Tile {
                    depth,
                    a,
                    pitch,
                    b: filter,
                    bias,
                    add,
                    out,
                    rows: &rows[part[0]..part[1]],
                    cols,
                    bounds,
                    ahead: [
                        Stream::of_panel(next, [depth, b_step], i, tiles),
                        place.ahead.rows(panel - place.panels.start, starts, i),
                    ],
                    ..Tile::PRODUCT
                };
                match place.source {
                    Some(_) => run_tile::<S, Matrix>(tile),
                    None => run_tile::<S, L>(tile),
                }
            }
        }
    }
}
