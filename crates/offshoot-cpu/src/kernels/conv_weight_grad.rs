//! Gradient of a convolution with respect to its weights.
//!
//! `dw[k][tap, c]` sums `dy[pixel][k] * x[pixel at tap][c]` over all pixels of the batch: a matrix product whose
//! reduction runs over pixels. A task owns a block of the result and, where there are few blocks, one of a fixed
//! number of chunks of the pixels; it copies a few pixels' `dy` and gathered `x` into scratch at a time and adds
//! their product to its part of the workspace. The chunks are then summed in order. The cut depends on the shape
//! alone, so the result is the same bits for any number of threads.

use std::ops::Range;

use half::{bf16, f16};

use super::ConvShape;
use super::conv::{activations_len, forward, weights_len};
use super::element::{Element, View};
use super::gather::{self, Ahead, Gather, Run};
use super::parallel::{self, Shared};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::tile::{self, DEPTH, STRIDE, StepMajor, Tile, run_tile};

/// Pixels that a task gathers at a time.
const PIXELS: usize = 128;

/// Tasks to cut a layer into, if it has the pixels.
const TASKS: usize = 16;

/// Fewest pixels worth a chunk, for which the workspace grows by the size of the weights.
const CHUNK: usize = 512;

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
        let chunks = TASKS.div_ceil(blocks).min(gather.pixels().div_ceil(CHUNK)).max(1);
        let (width, runs) = (cols.next_multiple_of(isa.lanes()), gather.runs());
        Plan { gather, runs, panel, chunks, row_blocks, col_blocks, rows, width }
    }

    fn tasks(&self) -> usize {
        self.chunks * self.gather.groups * self.row_blocks * self.col_blocks
    }

    /// Floats of one chunk's sums.
    fn chunk_len(&self) -> usize {
        self.gather.groups * self.rows * self.width
    }
}

/// Floats that [`conv_weight_grad`] needs as workspace.
pub fn conv_weight_grad_workspace(isa: Isa, shape: &ConvShape) -> usize {
    let plan = Plan::new(isa, shape);
    plan.chunks * plan.chunk_len()
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
    let plan = Plan::new(isa, shape);
    let workspace = &mut workspace[..plan.chunks * plan.chunk_len()];
    if x.is_empty() || dy.is_empty() {
        dw.fill(0.0);
        return;
    }
    let (x, dy) = (E::view(x), E::view(dy));
    let sums = Shared(workspace.as_mut_ptr());
    let work = plan.gather.pixels() * dw.len();
    parallel::for_each_task(plan.tasks(), work, |index| {
        parallel::with_scratch(2 * PIXELS * STRIDE, |scratch| {
            dispatch(isa, Block { plan: &plan, index, x, dy, sums, scratch });
        });
    });
    sum_chunks(&plan, shape, workspace, dw);
}

/// Adds the chunks, in order, and puts the taps last.
fn sum_chunks(plan: &Plan, shape: &ConvShape, sums: &[f32], dw: &mut [f32]) {
    let (depth, area) = (plan.gather.depth, shape.kernel[0] * shape.kernel[1]);
    let filter = depth * area;
    let out = Shared(dw.as_mut_ptr());
    parallel::for_each_task(shape.out_c, dw.len() * plan.chunks, |row| {
        // Safety: each output channel's weights are a part of their own.
        let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(row * filter), filter) };
        for chunk in 0..plan.chunks {
            let sums = &sums[chunk * plan.chunk_len() + row * plan.width..][..filter];
            for tap in 0..area {
                let (to, from) = (out[tap..].iter_mut().step_by(area), &sums[tap * depth..][..depth]);
                for (to, from) in to.zip(from) {
                    *to = if chunk == 0 { *from } else { *to + from };
                }
            }
        }
    });
}

/// One task: a block of a group's rows and columns over a chunk of the pixels.
struct Block<'a> {
    plan: &'a Plan,
    index: usize,
    x: View<'a>,
    dy: View<'a>,
    sums: Shared,
    /// Two rows of [`STRIDE`] floats for each of [`PIXELS`].
    scratch: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let plan = self.plan;
        let (col_block, rest) = (self.index % plan.col_blocks, self.index / plan.col_blocks);
        let (row_block, rest) = (rest % plan.row_blocks, rest / plan.row_blocks);
        let (group, chunk) = (rest % plan.gather.groups, rest / plan.gather.groups);
        let panels = parallel::part(plan.width.div_ceil(plan.panel), plan.col_blocks, col_block);
        let area = Area {
            group,
            rows: parallel::part(plan.rows, plan.row_blocks, row_block),
            cols: panels.start * plan.panel..(panels.end * plan.panel).min(plan.width),
        };
        let pixels = parallel::part(plan.gather.pixels(), plan.chunks, chunk);
        let sums = self.sums.get().wrapping_add(chunk * plan.chunk_len() + group * plan.rows * plan.width);
        let left = self.scratch.as_mut_ptr();
        let right = left.wrapping_add(PIXELS * STRIDE);
        for start in pixels.clone().step_by(PIXELS) {
            let these = start..(start + PIXELS).min(pixels.end);
            // Safety: the scratch has a row of STRIDE floats for every pixel and operand; `sums` is this task's.
            unsafe {
                match self.dy {
                    View::F32(dy) => self.copy_dy::<S, f32>(dy, &area, these.clone(), left),
                    View::Bf16(dy) => self.copy_dy::<S, bf16>(dy, &area, these.clone(), left),
                    View::F16(dy) => self.copy_dy::<S, f16>(dy, &area, these.clone(), left),
                }
                match self.x {
                    View::F32(x) => self.gather_x::<S, f32>(x, &area, these.clone(), right),
                    View::Bf16(x) => self.gather_x::<S, bf16>(x, &area, these.clone(), right),
                    View::F16(x) => self.gather_x::<S, f16>(x, &area, these.clone(), right),
                }
                let next = these.end..(these.end + PIXELS).min(pixels.end);
                let next =
                    Ahead { pixels: next, group, depth: area.cols.clone(), portions: area.tiles::<S>() };
                let step = Step { depth: these.len(), first: start == pixels.start, next };
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

impl Block<'_> {
    /// Copies the area's output channels of `pixels`.
    #[inline(always)]
    unsafe fn copy_dy<S: Simd, E: Element>(&self, dy: &[E], area: &Area, pixels: Range<usize>, to: *mut f32) {
        let plan = self.plan;
        let channels = plan.rows * plan.gather.groups;
        for (i, pixel) in pixels.enumerate() {
            let from = &dy[pixel * channels + area.group * plan.rows..][area.rows.clone()];
            // Safety: a row of `to` has room for DEPTH floats and a vector.
            unsafe { gather::copy::<S, E>(from.as_ptr(), to.add(i * STRIDE), from.len()) };
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
            unsafe { gather.copy::<S, E>(runs, x, pixel, area.group, cols, to) };
            pixel = gather.next(pixel);
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
            gather::prefetch(self.dy, from as isize, area.rows.len());
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
        const ZEROS: [f32; tile::MAX_COLS] = [0.0; tile::MAX_COLS];
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
                    run_tile::<S, StepMajor>(Tile {
                        depth: step.depth,
                        a: left.add(rows.start),
                        b: right.add(col - area.cols.start),
                        b_step: STRIDE,
                        bias: ZEROS.as_ptr(),
                        add: if step.first { None } else { Some(out.cast_const()) },
                        out,
                        rows: &offsets[..rows.len()],
                        cols: (area.cols.end - col).min(plan.panel),
                        bounds: (f32::NEG_INFINITY, f32::INFINITY),
                    });
                }
            }
        }
    }
}
