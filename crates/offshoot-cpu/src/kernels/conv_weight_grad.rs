//! Gradient of a convolution with respect to its weights.
//!
//! `dw[k][r, c]`, of kernel element r, sums `dy[pixel][k] * x[pixel at r][c]` over all pixels of the batch: a matrix product whose
//! reduction runs over pixels. A task owns a block of the result and, where there are few blocks, one of a fixed
//! number of chunks of the pixels; it copies a few pixels' `dy` and gathered `x` into scratch at a time and adds
//! their product to its part of the workspace. The chunks are then summed in order. The cut depends on the shape
//! alone, so the result is bit-identical for any number of threads.

mod tiled;

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};

use super::ConvShape;
use super::conv::{activations_len, forward, weights_len};
use super::element::{Element, View};
use super::gather::{self, Ahead, Cells, Gather, Run};
use super::grouped::{self, by_groups};
use super::parallel::{self, Shared};
use super::prefetch;
use super::simd::{Isa, Kernel, Simd, dispatch, dispatch_bf16, dispatch_tiles};
use super::size::elements;
use super::tile::{self, DEPTH, Layout, STRIDE, StepMajor, StepMajorPairs, Tile, run_tile};
use super::tiled::join;

/// Pixels, or pairs of pixels, that a task gathers at a time.
const PIXELS: usize = 128;

/// Floats of a task's scratch: a row of both operands for each of [`PIXELS`], and two pixels that are being paired.
const SCRATCH: usize = 2 * PIXELS * STRIDE + STRIDE;

/// Tasks to cut a layer into, if it has the pixels.
const TASKS: usize = 16;

/// Fewest pixels worth a chunk, for which the workspace grows by the size of the weights.
const CHUNK: usize = 512;

/// Chunks of `pixels` for a layer of at least one block.
pub(super) fn chunks(blocks: usize, pixels: usize) -> usize {
    TASKS.div_ceil(blocks).min(pixels.div_ceil(CHUNK)).max(1)
}

/// How the work is cut, by shape alone.
struct Plan {
    gather: Gather,
    runs: Vec<Run>,
    panel: usize,
    chunks: usize,
    row_blocks: usize,
    col_blocks: usize,
    /// Output channels of a group.
    rows: usize,
    /// Columns of the workspace: the reduction rounded up to whole vectors.
    width: usize,
}

impl Plan {
    fn new(isa: Isa, shape: &ConvShape) -> Plan {
        let gather = forward(shape);
        let panel = tile::tile_cols(isa);
        let (rows, cols) = (gather.cols, gather.reduction());
        let (row_blocks, col_blocks) = (rows.div_ceil(DEPTH), cols.div_ceil(DEPTH));
        let blocks = (gather.groups * row_blocks * col_blocks).max(1);
        let chunks = chunks(blocks, gather.pixels());
        let (width, runs) = (cols.next_multiple_of(isa.lanes()), gather.runs());
        Plan { gather, runs, panel, chunks, row_blocks, col_blocks, rows, width }
    }

    fn tasks(&self) -> usize {
        self.chunks * self.gather.groups * self.row_blocks * self.col_blocks
    }

    /// The sums of an area's group in a chunk.
    fn sums(&self, all: Shared, area: &Area, chunk: usize) -> *mut f32 {
        all.get().wrapping_add(chunk * self.chunk_len() + area.group * self.rows * self.width)
    }

    /// Floats of one chunk's sums.
    fn chunk_len(&self) -> usize {
        elements([self.gather.groups, self.rows, self.width])
    }

    /// The area of a task, and its chunk of the pixels.
    fn task(&self, index: usize) -> (Area, usize) {
        let (col_block, rest) = (index % self.col_blocks, index / self.col_blocks);
        let (row_block, rest) = (rest % self.row_blocks, rest / self.row_blocks);
        let (group, chunk) = (rest % self.gather.groups, rest / self.gather.groups);
        let panels = parallel::part(self.width.div_ceil(self.panel), self.col_blocks, col_block);
        let area = Area {
            group,
            rows: parallel::part(self.rows, self.row_blocks, row_block),
            cols: panels.start * self.panel..(panels.end * self.panel).min(self.width),
        };
        (area, chunk)
    }

    /// Floats of the workspace.
    fn workspace(&self) -> usize {
        elements([self.chunks, self.gather.groups, self.rows, self.width])
    }
}

/// Floats that [`conv_weight_grad`] needs as workspace.
///
/// # Panics
/// When the shape does not [fit](ConvShape::fits).
pub fn conv_weight_grad_workspace(isa: Isa, shape: &ConvShape) -> usize {
    shape.check();
    match by_groups(isa, shape) {
        true => grouped::weight_grad_workspace(isa, shape),
        false => Plan::new(isa, shape).workspace(),
    }
}

/// `dw`, OIHW, from `x` and `dy`, NHWC. What `workspace` holds before and after means nothing.
///
/// # Panics
/// When a slice has not the size that `shape` says, or `workspace` is shorter than [`conv_weight_grad_workspace`].
pub fn conv_weight_grad<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &[E],
    dy: &[E],
    dw: &mut [f32],
    workspace: &mut [f32],
) {
    assert_eq!([x.len(), dy.len()], activations_len(shape), "input and output of {shape:?}");
    assert_eq!(dw.len(), weights_len(shape), "weights of {shape:?}");
    if x.is_empty() || dy.is_empty() {
        dw.fill(0.0);
        return;
    }
    if by_groups(isa, shape) {
        return grouped::weight_grad(isa, shape, x, dy, dw, workspace);
    }
    let plan = Plan::new(isa, shape);
    let workspace = &mut workspace[..plan.workspace()];
    let (x, dy) = (E::view(x), E::view(dy));
    let sums = Shared(workspace.as_mut_ptr());
    let work = plan.gather.pixels().saturating_mul(dw.len());
    parallel::for_each_task(plan.tasks(), work, |index| {
        parallel::with_scratch(SCRATCH.max(tiled::SCRATCH), |scratch| match (dy, x) {
            (View::Bf16(dy), View::Bf16(x)) if isa.has_tiles() => {
                dispatch_tiles(isa, tiled::Block { isa, plan: &plan, index, x, dy, sums, scratch });
            }
            (View::Bf16(_), _) if isa.multiplies_bf16() => {
                dispatch_bf16(
                    isa,
                    Block { plan: &plan, index, x, dy, sums, scratch, left: PhantomData::<StepMajorPairs> },
                );
            }
            (View::F32(_) | View::Bf16(_) | View::F16(_), _) => {
                dispatch(
                    isa,
                    Block { plan: &plan, index, x, dy, sums, scratch, left: PhantomData::<StepMajor> },
                );
            }
        });
    });
    sum_chunks(&plan, shape, workspace, dw);
}

/// Adds the chunks, in order, to the first one, and puts the kernel elements last.
fn sum_chunks(plan: &Plan, shape: &ConvShape, sums: &mut [f32], dw: &mut [f32]) {
    let (depth, area) = (plan.gather.depth, shape.kernel[0] * shape.kernel[1]);
    let filter = depth * area;
    assert_eq!(dw.len(), elements([shape.out_c, depth, area]), "weights of {shape:?}");
    assert_eq!(sums.len(), plan.workspace(), "sums of {shape:?}");
    let (out, sums) = (Shared(dw.as_mut_ptr()), Shared(sums.as_mut_ptr()));
    parallel::for_each_task(shape.out_c, dw.len() * plan.chunks, |row| {
        // Safety: each output channel's weights are a part of their own, and so are its sums in each chunk; there are those of all.
        let (out, total) = unsafe {
            let total = sums.at(row * plan.width);
            for chunk in 1..plan.chunks {
                let part = std::slice::from_raw_parts(total.add(chunk * plan.chunk_len()), filter);
                let total = std::slice::from_raw_parts_mut(total, filter);
                total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
            }
            let out = std::slice::from_raw_parts_mut(out.get().add(row * filter), filter);
            (out, std::slice::from_raw_parts(total, filter))
        };
        if area == 1 {
            return out.copy_from_slice(total);
        }
        for (tap, total) in total.chunks_exact(depth.max(1)).enumerate() {
            out[tap..].iter_mut().step_by(area).zip(total).for_each(|(to, from)| *to = *from);
        }
    });
}

/// One task: a block of a group's rows and columns over a chunk of the pixels.
struct Block<'a, L> {
    plan: &'a Plan,
    index: usize,
    x: View<'a>,
    dy: View<'a>,
    sums: Shared,
    /// [`SCRATCH`] floats.
    scratch: &'a mut [f32],
    /// How the gathered rows lie.
    left: PhantomData<L>,
}

impl<L: Layout> Kernel for Block<'_, L> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let plan = self.plan;
        let (area, chunk) = plan.task(self.index);
        let pixels = parallel::part(plan.gather.pixels(), plan.chunks, chunk);
        let sums = plan.sums(self.sums, &area, chunk);
        let left = self.scratch.as_mut_ptr();
        let right = left.wrapping_add(PIXELS * STRIDE);
        let pair = right.wrapping_add(PIXELS * STRIDE).cast::<bf16>();
        let cells = if L::PAIRS { Cells::Pairs } else { Cells::Floats };
        let most = PIXELS * cells.elements();
        for start in pixels.clone().step_by(most) {
            let these = start..(start + most).min(pixels.end);
            // Safety: the scratch has a row of STRIDE floats for every pixel and operand; `sums` is this task's.
            unsafe {
                match self.dy {
                    View::Bf16(dy) if L::PAIRS => self.pair_dy::<S>(dy, &area, these.clone(), left),
                    View::F32(dy) => self.copy_dy::<S, f32>(dy, &area, these.clone(), left),
                    View::Bf16(dy) => self.copy_dy::<S, bf16>(dy, &area, these.clone(), left),
                    View::F16(dy) => self.copy_dy::<S, f16>(dy, &area, these.clone(), left),
                }
                match self.x {
                    View::Bf16(x) if L::PAIRS => self.pair_x::<S>(x, &area, these.clone(), (right, pair)),
                    View::F32(x) => self.gather_x::<S, f32>(x, &area, these.clone(), right),
                    View::Bf16(x) => self.gather_x::<S, bf16>(x, &area, these.clone(), right),
                    View::F16(x) => self.gather_x::<S, f16>(x, &area, these.clone(), right),
                }
                let next = these.end..(these.end + most).min(pixels.end);
                let next = Ahead {
                    pixels: next,
                    group: area.group,
                    depth: area.cols.clone(),
                    portions: area.tiles::<S>(),
                };
                let step = Step { depth: cells.of(these.len()), first: start == pixels.start, next };
                self.multiply::<S>(&area, &step, (left, right), sums);
            }
        }
    }
}

/// A block of a group's part of the result.
struct Area {
    group: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Area {
    /// Tiles of the area.
    #[inline(always)]
    fn tiles<S: Simd>(&self) -> usize {
        self.rows.len().div_ceil(S::TILE_ROWS) * self.cols.len().div_ceil(S::LANES * S::TILE_VECTORS)
    }
}

/// A step of the reduction: some pixels, and those that come next.
struct Step {
    depth: usize,
    first: bool,
    next: Ahead,
}

impl<L: Layout> Block<'_, L> {
    /// Copies the area's output channels of `pixels`.
    #[inline(always)]
    unsafe fn copy_dy<S: Simd, E: Element>(&self, dy: &[E], area: &Area, pixels: Range<usize>, to: *mut f32) {
        let plan = self.plan;
        let channels = plan.rows * plan.gather.groups;
        for (i, pixel) in pixels.enumerate() {
            let from = &dy[pixel * channels + area.group * plan.rows..][area.rows.clone()];
            // Safety: a row of `to` has room for DEPTH floats and a vector.
            unsafe { gather::copy::<S, E, f32>(from.as_ptr(), to.add(i * STRIDE), from.len()) };
        }
    }

    /// Gathers the area's columns of the input of `pixels`.
    #[inline(always)]
    unsafe fn gather_x<S: Simd, E: Element>(&self, x: &[E], area: &Area, pixels: Range<usize>, to: *mut f32) {
        let Plan { gather, runs, .. } = self.plan;
        let mut pixel = gather.pixel(pixels.start);
        for i in 0..pixels.len() {
            let (x, to, cols) = (x.as_ptr(), to.wrapping_add(i * STRIDE), area.cols.clone());
            // Safety: a row of `to` has room for DEPTH floats and a vector.
            unsafe { gather.copy::<S, E, f32>(runs, x, pixel, area.group, cols, to) };
            pixel = gather.next(pixel);
        }
    }

    /// As `copy_dy`, two pixels to a row.
    #[inline(always)]
    unsafe fn pair_dy<S: Simd>(&self, dy: &[bf16], area: &Area, pixels: Range<usize>, to: *mut f32) {
        let plan = self.plan;
        let channels = plan.rows * plan.gather.groups;
        let row = |pixel: usize| &dy[pixel * channels + area.group * plan.rows..][area.rows.clone()];
        for (i, pixel) in pixels.clone().step_by(2).enumerate() {
            let second = (pixel + 1 < pixels.end).then(|| row(pixel + 1).as_ptr());
            // Safety: a row of `to` has room for DEPTH floats and a vector.
            unsafe { join::<S>(row(pixel).as_ptr(), second, area.rows.len(), to.add(i * STRIDE)) };
        }
    }

    /// As `gather_x`, two pixels to a row. `pair` has room for a row of two pixels.
    #[inline(always)]
    unsafe fn pair_x<S: Simd>(
        &self,
        x: &[bf16],
        area: &Area,
        pixels: Range<usize>,
        (to, pair): (*mut f32, *mut bf16),
    ) {
        let Plan { gather, runs, .. } = self.plan;
        let (first, second) = (pair, pair.wrapping_add(STRIDE));
        let mut pixel = gather.pixel(pixels.start);
        for i in (0..pixels.len()).step_by(2) {
            // Safety: a row of `to` has room for DEPTH floats and a vector, and so has each half of `pair`.
            unsafe {
                let (x, cols) = (x.as_ptr(), area.cols.clone());
                gather.copy::<S, bf16, bf16>(runs, x, pixel, area.group, cols.clone(), first);
                pixel = gather.next(pixel);
                let both = i + 1 < pixels.len();
                if both {
                    gather.copy::<S, bf16, bf16>(runs, x, pixel, area.group, cols.clone(), second);
                    pixel = gather.next(pixel);
                }
                let second = both.then_some(second.cast_const());
                join::<S>(first, second, cols.len(), to.add(i / 2 * STRIDE));
            }
        }
    }

    /// Asks for a portion of what comes next.
    #[inline(always)]
    fn prefetch(&self, area: &Area, next: &Ahead, portion: usize) {
        let plan = self.plan;
        plan.gather.prefetch(self.x, next, portion);
        let pixels = parallel::part(next.pixels.len(), next.portions, portion);
        for pixel in next.pixels.start + pixels.start..next.pixels.start + pixels.end {
            let from = (pixel * plan.gather.groups + next.group) * plan.rows + area.rows.start;
            prefetch::view(self.dy, from as isize, area.rows.len());
        }
    }

    /// Adds the product of what has been gathered to `sums`, or stores it if it is the `first`.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(
        &self,
        area: &Area,
        step: &Step,
        (left, right): (*mut f32, *mut f32),
        sums: *mut f32,
    ) {
        let plan = self.plan;
        let offsets: [usize; tile::MAX_ROWS] = std::array::from_fn(|i| i * plan.width);
        let tiles = area.rows.len().div_ceil(S::TILE_ROWS);
        for (done, col) in area.cols.clone().step_by(plan.panel).enumerate() {
            for i in 0..tiles {
                self.prefetch(area, &step.next, done * tiles + i);
                let rows = parallel::part(area.rows.len(), tiles, i);
                // Safety: the tile lies within this task's area of `sums`.
                unsafe {
                    let out = sums.add((area.rows.start + rows.start) * plan.width + col);
                    run_tile::<S, L>(Tile {
                        depth: step.depth,
                        a: left.add(rows.start),
                        b: right.add(col - area.cols.start),
                        add: if step.first { None } else { Some(out.cast_const()) },
                        out,
                        rows: &offsets[..rows.len()],
                        cols: (area.cols.end - col).min(plan.panel),
                        ..Tile::PRODUCT
                    });
                }
            }
        }
    }
}
