//! Convolution as a matrix product whose left operand is gathered on the way: forward and input gradient alike.
//!
//! A [`Gather`] maps a grid of output pixels to the source pixels that feed them, one for each kernel element. A task takes a
//! block of the flattened `batch * pixels`, copies the rows that it needs into a thread's scratch (padding becomes
//! zeros, a row of kernel elements becomes one contiguous copy) and multiplies them with packed panels of the filter. The
//! scratch stays in L2, and there is never an im2col buffer of the whole picture.

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};

use super::batch_norm::{Affine, area_moments};
use super::element::{Element, SharedView, View, ViewMut};
use super::parallel::{self, LINE, Shared};
use super::prefetch::{self, Stream};
use super::rows::{Area, load, read_rows};
use super::simd::{Isa, Kernel, Simd, dispatch, dispatch_bf16};
use super::size::elements;
use super::source::ScaleShift;
use super::tile::{
    self, DEPTH, Layout, Matrix, RowMajor, RowMajorPairs, STRIDE, Tile, UNBOUNDED, run_tile, tile_starts,
};

/// Most pixels in a block: a multiple of every path's tile rows.
const BLOCK: usize = 168;

/// Fewest pixels in a block that is cut off for another thread.
const LEAST: usize = 24;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Cells {
    /// An element of the reduction each.
    #[default]
    Floats,
    /// Two elements each, as bf16 (see [`Simd::dot_bf16`]). Behind an odd number of them stands a zero.
    Pairs,
}

impl Cells {
    /// Elements that a cell holds.
    pub(super) fn elements(self) -> usize {
        match self {
            Cells::Floats => 1,
            Cells::Pairs => 2,
        }
    }

    /// Cells of so many elements.
    pub(super) fn of(self, elements: usize) -> usize {
        elements.div_ceil(self.elements())
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
    image: usize,
    y: usize,
    x: usize,
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
    fn source_c(&self) -> usize {
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
    fn target_of(&self, pixel: Pixel) -> usize {
        let Target { base, image, row, col } = self.target;
        base + pixel.image * image + pixel.y * row + pixel.x * col
    }

    /// Copies elements `range` of the reduction of one pixel to `to`.
    ///
    /// # Safety
    /// `source` holds the source pictures, `runs` comes from [`Gather::runs`], and `to` has room for `range` and one
    /// vector more.
    #[inline(always)]
    pub(super) unsafe fn copy<S: Simd, E: CopyTo<T>, T>(
        &self,
        runs: &[Run],
        source: *const E,
        pixel: Pixel,
        group: usize,
        range: Range<usize>,
        to: *mut T,
    ) {
        let [height, width] = self.source;
        let channels = self.source_c();
        let image = pixel.image * height;
        let (y0, x0) = ((pixel.y * self.step[0]) as isize, (pixel.x * self.step[1]) as isize);
        for run in runs {
            let (start, end) = (range.start.max(run.start), range.end.min(run.start + run.len));
            if start >= end {
                continue;
            }
            let len = (end - start) as isize;
            let y = y0 + run.y;
            // Safety: `to` has room; elements `left..right` of the run are within row `y` of the source.
            unsafe {
                let to = to.add(start - range.start);
                if y < 0 || y >= height as isize {
                    E::zero::<S>(to, len as usize);
                    continue;
                }
                let row = source.add((image + y as usize) * width * channels);
                let first =
                    (x0 + run.x) * channels as isize + (group * self.depth + start - run.start) as isize;
                let span = (width * channels) as isize;
                if first >= 0 && first + len <= span {
                    copy::<S, E, T>(row.offset(first), to, len as usize);
                    continue;
                }
                let left = (-first).clamp(0, len);
                let right = (span - first).clamp(left, len);
                E::zero::<S>(to, left as usize);
                let inside = row.wrapping_offset(first + left);
                copy::<S, E, T>(inside, to.offset(left), (right - left) as usize);
                E::zero::<S>(to.offset(right), (len - right) as usize);
            }
        }
    }
}

/// Most stretches that [`Inner`] knows.
const PIECES: usize = 8;

/// A stretch of the reduction: where it goes, how long it is, and where it starts, from the source pixel that the grid's
/// step leads to.
#[derive(Clone, Copy, Default)]
struct Piece {
    to: usize,
    len: usize,
    offset: isize,
}

/// How part of the reduction is gathered for pixels whose windows no border cuts: the same pieces for each of them.
struct Inner<'a> {
    gather: &'a Gather,
    pieces: [Piece; PIECES],
    count: usize,
    /// The rows and columns of these pixels in the grid.
    ranges: [Range<usize>; 2],
}

impl<'a> Inner<'a> {
    /// For elements `depth` of the reduction of `group`, unless they are in too many pieces.
    fn new(gather: &'a Gather, runs: &[Run], group: usize, depth: &Range<usize>) -> Option<Inner<'a>> {
        let channels = gather.source_c() as isize;
        let (mut pieces, mut count) = ([Piece::default(); PIECES], 0);
        for run in runs {
            let (start, end) = (depth.start.max(run.start), depth.end.min(run.start + run.len));
            if start < end {
                let pixel = run.y * gather.source[1] as isize + run.x;
                let offset = pixel * channels + (group * gather.depth + start - run.start) as isize;
                *pieces.get_mut(count)? = Piece { to: start - depth.start, len: end - start, offset };
                count += 1;
            }
        }
        let range = |axis: usize| {
            let offsets = gather.taps[axis].iter().map(|tap| tap.offset);
            let (low, high) = (offsets.clone().min()?, offsets.max()?);
            let step = gather.step[axis];
            let first = low.min(0).unsigned_abs().div_ceil(step);
            let last = (gather.source[axis] as isize - 1).checked_sub(high.max(0)).filter(|&last| last >= 0);
            let end = last.map_or(0, |last| last as usize / step + 1).min(gather.grid[axis]);
            Some(first..end)
        };
        Some(Inner { gather, pieces, count, ranges: [range(0)?, range(1)?] })
    }

    #[inline(always)]
    fn has(&self, pixel: Pixel) -> bool {
        self.ranges[0].contains(&pixel.y) && self.ranges[1].contains(&pixel.x)
    }

    /// As [`Gather::copy`], for a pixel that this has.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn copy<S: Simd, E: Element>(&self, source: *const E, pixel: Pixel, to: *mut f32) {
        let Gather { source: [height, width], step, .. } = *self.gather;
        let row = pixel.image * height + pixel.y * step[0];
        let start = source.wrapping_add((row * width + pixel.x * step[1]) * self.gather.source_c());
        for piece in &self.pieces[..self.count] {
            // Safety: the pieces are within the source, and `to` has room.
            unsafe { copy::<S, E, f32>(start.wrapping_offset(piece.offset), to.add(piece.to), piece.len) };
        }
    }
}

/// Pixels that will be gathered next. Their source rows are asked for in small portions, while tiles are being
/// multiplied, so that the copy does not wait for memory.
pub(super) struct Ahead {
    pub(super) pixels: Range<usize>,
    pub(super) group: usize,
    pub(super) depth: Range<usize>,
    /// Portions to ask in.
    pub(super) portions: usize,
}

impl Gather {
    /// Asks for portion `index` of `ahead`, if the convolution is pointwise: others have so much to do for each
    /// source row that the processor's own prefetching keeps up.
    #[inline(always)]
    pub(super) fn prefetch(&self, source: View<'_>, ahead: &Ahead, index: usize) {
        let [rows, cols] = &self.taps;
        if rows.len() * cols.len() != 1 {
            return;
        }
        let pixels = parallel::part(ahead.pixels.len(), ahead.portions, index);
        let mut pixel = self.pixel(ahead.pixels.start + pixels.start);
        for _ in pixels {
            let y = (pixel.image * self.source[0] + pixel.y * self.step[0]) as isize + rows[0].offset;
            let x = (pixel.x * self.step[1]) as isize + cols[0].offset;
            let first = (y * self.source[1] as isize + x) * self.source_c() as isize;
            let first = first + (ahead.group * self.depth + ahead.depth.start) as isize;
            prefetch::view(source, first, ahead.depth.len());
            pixel = self.next(pixel);
        }
    }
}

/// An element that is copied into scratch as a `T`.
pub(super) trait CopyTo<T>: Element {
    /// Copies a vector.
    ///
    /// # Safety
    /// `from` and `to` are valid for a vector.
    unsafe fn copy<S: Simd>(from: *const Self, to: *mut T);

    /// Copies the first `n` < LANES elements and zeros the rest of the vector.
    ///
    /// # Safety
    /// `from` is valid for `n` elements, `to` for a vector.
    unsafe fn copy_first<S: Simd>(from: *const Self, to: *mut T, n: usize);

    /// Zeros `n` elements; may write up to the end of a vector.
    ///
    /// # Safety
    /// `to` is valid for `n` elements and one vector more.
    unsafe fn zero<S: Simd>(to: *mut T, n: usize);
}

/// Widened.
impl<E: Element> CopyTo<f32> for E {
    #[inline(always)]
    unsafe fn copy<S: Simd>(from: *const E, to: *mut f32) {
        // Safety: the caller's.
        unsafe { S::store(to, E::load::<S>(from)) }
    }
    #[inline(always)]
    unsafe fn copy_first<S: Simd>(from: *const E, to: *mut f32, n: usize) {
        // Safety: the caller's.
        unsafe { S::store(to, E::load_first::<S>(from, n)) }
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(to: *mut f32, n: usize) {
        for i in (0..n).step_by(S::LANES) {
            // Safety: the caller's.
            unsafe { S::store(to.add(i), S::splat(0.0)) };
        }
    }
}

/// As it is.
impl CopyTo<bf16> for bf16 {
    #[inline(always)]
    unsafe fn copy<S: Simd>(from: *const bf16, to: *mut bf16) {
        // Safety: the caller's; the type has the layout of u16.
        unsafe { S::store_half(to.cast(), S::load_half(from.cast())) }
    }
    #[inline(always)]
    unsafe fn copy_first<S: Simd>(from: *const bf16, to: *mut bf16, n: usize) {
        // Safety: as above.
        unsafe { S::store_half(to.cast(), S::load_half_first(from.cast(), n)) }
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(to: *mut bf16, n: usize) {
        // Safety: the caller's.
        unsafe { to.write_bytes(0, n) };
    }
}

/// Copies `n` elements; may write up to the end of a vector.
///
/// # Safety
/// `from` is valid for `n` elements, `to` for `n` and one vector more.
#[inline(always)]
pub(super) unsafe fn copy<S: Simd, E: CopyTo<T>, T>(from: *const E, to: *mut T, n: usize) {
    let mut i = 0;
    // Safety: the caller's.
    unsafe {
        while i + S::LANES <= n {
            E::copy::<S>(from.add(i), to.add(i));
            i += S::LANES;
        }
        if i < n {
            E::copy_first::<S>(from.add(i), to.add(i), n - i);
        }
    }
}

/// Where the weights of a gather lie in OIHW: floats from a group, an output channel of the gather, and a source
/// channel to the next. A pair of channels has its `kernel_h * kernel_w` weights together.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightOrder {
    pub(super) group: usize,
    pub(super) col: usize,
    pub(super) depth: usize,
}

/// Packs one gather's filter, all groups, as `[group][cols / panel][cells of the reduction][panel]`; the last panel is as wide
/// as whole vectors need, and its spare columns are zeros. Weights that go into pairs have been rounded to bf16.
pub(super) fn pack(
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
            Cells::Pairs => parallel::with_scratch(2 * out.len(), |floats| {
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
pub(super) fn pack_panel(
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
    /// Where the moments of the output go: those of each of [`moment_blocks`], as [`area_moments`] leaves them. For one gather
    /// whose output has nothing but its grid.
    pub(super) moments: Option<Shared>,
}

/// The blocks of a gather's pixels whose moments are taken: cut by the shape alone, unlike other tasks.
pub(super) fn moment_blocks(gather: &Gather) -> usize {
    /// Blocks that a small picture is cut into, for the sake of threads.
    const BLOCKS: usize = 8;
    gather.pixels().div_ceil(BLOCK).max(BLOCKS.min(gather.pixels() / LEAST))
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
                return parallel::with_scratch(BLOCK * STRIDE + plan.stage(out), |scratch| {
                    match operands.cells {
                        Cells::Floats => {
                            dispatch(
                                isa,
                                Block { plan, index, operands, out, scratch, left: PhantomData::<RowMajor> },
                            );
                        }
                        Cells::Pairs => {
                            dispatch_bf16(
                                isa,
                                Block {
                                    plan,
                                    index,
                                    operands,
                                    out,
                                    scratch,
                                    left: PhantomData::<RowMajorPairs>,
                                },
                            );
                        }
                    }
                });
            }
            index -= plan.tasks();
        }
    });
}

/// How a gather is cut into tasks. It does not change the result.
struct Plan<'a> {
    isa: Isa,
    gather: &'a Gather,
    cells: Cells,
    runs: Vec<Run>,
    filter_start: usize,
    packed_group: usize,
    panel: usize,
    lanes: usize,
    pixel_blocks: usize,
    panel_blocks: usize,
    /// Whether one product runs over whole rows of the source, which follow one another as the pixels do.
    whole_rows: bool,
}

impl Plan<'_> {
    fn tasks(&self) -> usize {
        self.gather.groups * self.pixel_blocks * self.panel_blocks
    }

    fn panels(&self) -> usize {
        self.gather.cols.div_ceil(self.panel)
    }

    /// Parts of the reduction, each of which one product runs over.
    fn parts(&self) -> usize {
        self.cells.of(self.gather.reduction()).div_ceil(DEPTH).max(1)
    }

    /// Columns of the sums that a task keeps apart where its output is no f32: those of one panel, unless all panels'
    /// sums must outlast a part of the reduction.
    fn stage_cols(&self) -> usize {
        if self.parts() == 1 { self.panel } else { self.panels().div_ceil(self.panel_blocks) * self.panel }
    }

    /// Floats of such sums.
    fn stage(&self, out: SharedView) -> usize {
        match out {
            SharedView::F32(_) => 0,
            SharedView::Bf16(_) | SharedView::F16(_) => BLOCK * self.stage_cols(),
        }
    }
}

/// Cuts pixels into blocks, and panels too where that leaves threads without work.
fn plan<'a>(isa: Isa, gathers: &'a [Gather], operands: &Operands<'_>) -> Vec<Plan<'a>> {
    let cells = operands.cells;
    let panel = tile::tile_cols(isa);
    let wanted = 4 * parallel::threads();
    let mut filter_start = 0;
    let cut = |gather: &'a Gather| {
        let Gather { groups, cols, .. } = gather;
        // Pixels first: the next convolution then finds its part of them in the cache of the same core.
        let least = parallel::threads().min(gather.pixels() / LEAST);
        let pixel_blocks = match operands.moments {
            Some(_) => moment_blocks(gather),
            None => gather.pixels().div_ceil(BLOCK).max(least),
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
            whole_rows: gather.is_pointwise() && gather.groups == 1 && cells.of(gather.depth) <= DEPTH,
        }
    };
    gathers.iter().map(cut).collect()
}

/// One task: a block of pixels by a range of panels.
struct Block<'a, L> {
    plan: &'a Plan<'a>,
    index: usize,
    operands: Operands<'a>,
    out: SharedView,
    /// A row of [`STRIDE`] floats for every pixel of the largest block, and the sums of [`Plan::stage`].
    scratch: &'a mut [f32],
    /// How the gathered rows lie.
    left: PhantomData<L>,
}

impl<L: Layout> Kernel for Block<'_, L> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (plan, gather) = (self.plan, self.plan.gather);
        let panels = parallel::part(plan.panels(), plan.panel_blocks, self.index % plan.panel_blocks);
        let rest = self.index / plan.panel_blocks;
        let pixels = parallel::part(gather.pixels(), plan.pixel_blocks, rest % plan.pixel_blocks);
        let group = rest / plan.pixel_blocks;
        let mut targets = [0; BLOCK];
        let mut pixel = gather.pixel(pixels.start);
        for target in &mut targets[..pixels.len()] {
            *target = gather.target_of(pixel) + group * gather.cols;
            pixel = gather.next(pixel);
        }
        let targets = &targets[..pixels.len()];
        let mut starts = [0; BLOCK + 1];
        let starts = tile_starts(targets.len(), S::TILE_ROWS, &mut starts);
        let mut stage_rows = [0; BLOCK];
        stage_rows.iter_mut().enumerate().for_each(|(i, row)| *row = i * plan.stage_cols());
        let stage = self.scratch.as_mut_ptr().wrapping_add(BLOCK * STRIDE);
        let reduction = plan.cells.of(gather.reduction());
        let parts = plan.parts();
        let (source, following) = (self.rows_in_place(pixels.start), self.following(&pixels));
        for i in 0..parts {
            let depth = parallel::part(reduction, parts, i);
            if source.is_none() {
                // Safety: the scratch has a row of STRIDE floats for every pixel.
                unsafe { self.gather_rows::<S>(pixels.clone(), group, depth.clone()) };
            }
            let panels = panels.clone();
            let place =
                Place { group, first: i == 0, last: i + 1 == parts, depth, panels, source, following };
            for panel in place.panels.clone() {
                let first_col = panel * plan.panel;
                // Safety: `S` is available; the rows have been gathered; targets lie within the output.
                unsafe {
                    let sums = match self.out {
                        SharedView::F32(out) => {
                            let residual = self.operands.residual.and_then(f32::of);
                            let residual = residual.map(|r| r.as_ptr().add(first_col));
                            let out = out.get().add(first_col);
                            Sums { out, rows: targets, residual, bounds: self.operands.bounds }
                        }
                        SharedView::Bf16(_) | SharedView::F16(_) => {
                            let at = if parts == 1 { 0 } else { (panel - place.panels.start) * plan.panel };
                            let (out, rows) = (stage.wrapping_add(at), &stage_rows[..targets.len()]);
                            Sums { out, rows, residual: None, bounds: UNBOUNDED }
                        }
                    };
                    self.multiply::<S>(&place, panel, &sums, starts);
                    if !place.last {
                        continue;
                    }
                    let block = (rest % plan.pixel_blocks, group, panel);
                    match self.out {
                        SharedView::F32(out) => self.moments(block, out, targets),
                        SharedView::Bf16(out) => {
                            self.store::<S, _>(panel, &sums, out, targets);
                            self.moments(block, out, targets);
                        }
                        SharedView::F16(out) => {
                            self.store::<S, _>(panel, &sums, out, targets);
                            self.moments(block, out, targets);
                        }
                    }
                }
            }
        }
    }
}

/// Where the sums of a panel go.
struct Sums<'a> {
    /// The panel's first column: in the output or, where that is no f32, in scratch.
    out: *mut f32,
    /// Where each pixel's begin, in floats past `out`.
    rows: &'a [usize],
    /// Added; at the same places as `out`.
    residual: Option<*const f32>,
    /// What is clipped to.
    bounds: (f32, f32),
}

/// Which part of the reduction, in cells, of which panels of which group.
struct Place {
    group: usize,
    panels: Range<usize>,
    depth: Range<usize>,
    first: bool,
    last: bool,
    /// The first pixel's row, where rows are read in place.
    source: Option<*const f32>,
    /// The rows of the pixels after the block's, in floats, whatever their elements are.
    following: (*const f32, usize),
}

impl Place {
    /// The rows that tile `i` of a panel asks for: while tiles read their rows in place for the first time, those of the next one; else a
    /// portion of those of the next block.
    #[inline(always)]
    fn rows_ahead(&self, panel: usize, starts: &[usize], i: usize, pitch: usize) -> Stream {
        let (depth, tiles, panel) = (self.depth.len(), starts.len() - 1, panel - self.panels.start);
        let (following, floats) = self.following;
        match self.source {
            Some(source) if panel == 0 && (i + 1 < tiles || floats > 0) => {
                let after = source.wrapping_add(starts[i + 1] * pitch);
                Stream::of_floats(after, (starts[i + 1] - starts[i]) * pitch, depth)
            }
            _ => {
                let portion = parallel::part(floats, self.panels.len() * tiles, panel * tiles + i);
                Stream::of_floats(following.wrapping_add(portion.start), portion.len(), depth)
            }
        }
    }
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

    /// The row of `pixel` in the source, where tiles may read it there: [whole rows](Plan::whole_rows) of floats as they are.
    #[inline(always)]
    fn rows_in_place(&self, pixel: usize) -> Option<*const f32> {
        match self.operands.source {
            View::F32(source) if self.plan.whole_rows && self.operands.norm.is_none() => {
                Some(source[pixel * self.plan.gather.source_c()..].as_ptr())
            }
            _ => None,
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
                    Some(inner) if inner.has(pixel) => inner.copy::<S, E>(source, pixel, to),
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
        let mut pixel = gather.pixel(pixels.start);
        for i in 0..pixels.len() {
            // Safety: a row has room for DEPTH pairs and a vector.
            unsafe {
                let to = to.add(i * 2 * STRIDE);
                gather.copy::<S, bf16, bf16>(runs, source, pixel, group, range.clone(), to);
                if range.len() % 2 == 1 {
                    to.add(range.len()).write(bf16::ZERO);
                }
            }
            pixel = gather.next(pixel);
        }
    }

    /// Leaves the moments of a panel's columns over the pixels of block `block`.
    unsafe fn moments<E: Element>(
        &self,
        (block, group, panel): (usize, usize, usize),
        out: Shared<E>,
        targets: &[usize],
    ) {
        let (Some(moments), Some(&first)) = (self.operands.moments, targets.first()) else { return };
        let (plan, gather) = (self.plan, self.plan.gather);
        let pitch = gather.cols * gather.groups;
        let first_col = panel * plan.panel;
        let cols = (gather.cols - first_col).min(plan.panel);
        let area = Area { rows: targets.len(), pitch, cols };
        // Safety: the grid is all of the output, so that its pixels follow one another; this task alone has these columns of the
        // block, and its part of the moments is two rows of the output's channels.
        unsafe {
            let to = moments.at(2 * block * pitch + group * gather.cols + first_col);
            area_moments(plan.isa, out.at(first + first_col).cast_const(), area, (to, pitch));
        }
    }

    /// Adds the residual to finished sums, clips them, and stores them rounded.
    #[inline(always)]
    unsafe fn store<S: Simd, E: Element>(
        &self,
        panel: usize,
        sums: &Sums<'_>,
        out: Shared<E>,
        targets: &[usize],
    ) {
        let (plan, operands) = (self.plan, &self.operands);
        let first_col = panel * plan.panel;
        let cols = (plan.gather.cols - first_col).min(plan.panel);
        let whole = cols - cols % S::LANES;
        let residual = operands.residual.and_then(E::of).map(|residual| residual.as_ptr());
        for (&row, &target) in sums.rows.iter().zip(targets) {
            let (from, at) = (sums.out.wrapping_add(row).cast_const(), target + first_col);
            // Safety: `cols` columns from `at` on are within the output and the residual, and from `from` on in the stage.
            unsafe {
                let (to, residual) = (out.at(at), residual.map(|residual| residual.add(at)));
                for v in (0..whole).step_by(S::LANES) {
                    let residual = residual.map(|residual| residual.add(v));
                    let y = finish::<S, E, true>(from.add(v), residual, operands.bounds, S::LANES);
                    E::store::<S>(to.add(v), y);
                }
                if whole < cols {
                    let residual = residual.map(|residual| residual.add(whole));
                    let y = finish::<S, E, false>(from.add(whole), residual, operands.bounds, cols - whole);
                    E::store_first::<S>(to.add(whole), cols - whole, y);
                }
            }
        }
    }

    /// Multiplies the gathered rows with one panel.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&self, place: &Place, panel: usize, sums: &Sums<'_>, starts: &[usize]) {
        let (plan, gather, operands) = (self.plan, self.plan.gather, &self.operands);
        let first_col = panel * plan.panel;
        let cols = (gather.cols - first_col).min(plan.panel);
        let b_step = cols.next_multiple_of(plan.lanes);
        let bias = match operands.bias {
            Some(bias) if place.first => bias[place.group * gather.cols + first_col..].as_ptr(),
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
                    Some(source) => source.add(part[0] * pitch),
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
                        place.rows_ahead(panel, starts, i, pitch),
                    ],
                };
                match place.source {
                    Some(_) => run_tile::<S, Matrix>(tile),
                    None => run_tile::<S, L>(tile),
                }
            }
        }
    }
}

/// Up to a vector of sums, with the residual, clipped.
#[inline(always)]
unsafe fn finish<S: Simd, E: Element, const FULL: bool>(
    sums: *const f32,
    residual: Option<*const E>,
    (low, high): (f32, f32),
    n: usize,
) -> S::V {
    // Safety: the caller's.
    unsafe {
        let mut y = load::<S, f32, FULL>(sums, n);
        if let Some(residual) = residual {
            y = S::add(y, load::<S, E, FULL>(residual, n));
        }
        S::at_most(S::at_least(y, S::splat(low)), S::splat(high))
    }
}
