//! All gradients of a pointwise convolution in one pass over memory: of its input, of its weights, and the sums that the batch
//! norm before it waits for.
//!
//! A task takes a chunk of the pixels, some at a time: it computes their rows of dy and of x in scratch, from which both
//! products read. The input's gradient is stored, and summed while it is in the cache. Chunks depend on the shape alone,
//! so the result is bit-identical for any number of threads.

use std::ops::Range;

use super::ConvShape;
use super::backward::{Gradients, Operands};
use super::batch_norm::Reduction;
use super::conv::{PackedFilter, activations_len, reads_norm, weights_len};
use super::conv_input_grad::phases;
use super::convert::round_area;
use super::element::{Element, Stored};
use super::gather::Cells;
use super::parallel::{self, Shared};
use super::prefetch::Stream;
use super::rows::Area;
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;
use super::source::Source;
use super::tile::{self, DEPTH, MAX_ROWS, RowMajor, STRIDE, StepMajor, Tile, run_tile};

/// Pixels that a task takes at a time.
const PIXELS: usize = 128;

/// Chunks to cut the pixels into, if there are so many.
const CHUNKS: usize = 16;

/// Fewest pixels worth a chunk, for which the workspace grows by the size of the weights.
const LEAST: usize = 256;

/// Floats of a task's scratch: a row of both operands, and of a gradient that is to be rounded, for each of
/// [`PIXELS`].
const SCRATCH: usize = 3 * PIXELS * STRIDE;

/// Whether [`pointwise_backward`] takes `shape` on `E`: with so few channels that the rows of some pixels fit in the cache.
pub fn supports<E: Element>(isa: Isa, shape: &ConvShape) -> bool {
    reads_norm::<E>(isa, shape) && shape.in_c.max(shape.out_c) <= DEPTH
}

/// How the work is cut, by shape alone.
struct Plan {
    pixels: usize,
    chunks: usize,
    /// Columns of the workspace: input channels rounded up to whole vectors.
    width: usize,
    panel: usize,
}

impl Plan {
    fn new(isa: Isa, shape: &ConvShape) -> Plan {
        let pixels = shape.batch * shape.out_h * shape.out_w;
        let chunks = CHUNKS.min(pixels.div_ceil(LEAST)).max(1);
        let (width, panel) = (shape.in_c.next_multiple_of(isa.lanes()), tile::tile_cols(isa));
        Plan { pixels, chunks, width, panel }
    }
}

/// Floats that [`pointwise_backward`] needs as workspace.
///
/// # Panics
/// When the shape does not [fit](ConvShape::fits).
pub fn workspace(isa: Isa, shape: &ConvShape) -> usize {
    shape.check();
    let plan = Plan::new(isa, shape);
    elements([plan.chunks, shape.out_c, plan.width])
}

/// Parts of the sums that [`pointwise_backward`] leaves.
///
/// # Panics
/// When the shape does not [fit](ConvShape::fits).
pub fn sum_parts(isa: Isa, shape: &ConvShape) -> usize {
    shape.check();
    Plan::new(isa, shape).chunks
}

/// The gradients of a convolution that [`supports`] says yes to. The weights are packed by
/// [`PackedFilter::pack_for_input_grad`]. What `workspace` holds before and after means nothing.
///
/// # Panics
/// When a slice has not the size that `shape` says, or `workspace` is shorter than [`workspace`].
pub fn pointwise_backward<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    operands: Operands<'_, E, &PackedFilter>,
    gradients: Gradients<'_, E>,
    workspace: &mut [f32],
) {
    let Operands { dy, x, weights, reduction } = operands;
    let Gradients { dx, dw, sums } = gradients;
    assert!(supports::<E>(isa, shape), "not for {shape:?}");
    assert_eq!([x.len(), dy.len()], activations_len(shape), "input and output of {shape:?}");
    assert_eq!([dx.len(), dw.len()], [x.len(), weights_len(shape)], "gradients of {shape:?}");
    let plan = Plan::new(isa, shape);
    if let Some(reduction) = reduction {
        reduction.check(x.len(), shape.in_c, plan.chunks, sums.len());
    }
    let chunk_len = shape.out_c * plan.width;
    let workspace = &mut workspace[..elements([plan.chunks, shape.out_c, plan.width])];
    if plan.pixels == 0 {
        dw.fill(0.0);
        sums.fill(0.0);
        return;
    }
    let (cells, filter) = weights.get::<E>(isa, shape, &phases(shape));
    assert!(cells == Cells::Floats, "the filter is packed for pairs");
    let (out, products, parts) = (Shared::new(dx), Shared::new(workspace), Shared::new(sums));
    let work = (2 * plan.pixels).saturating_mul(dw.len());
    parallel::for_each_task(plan.chunks, work, |chunk| {
        let pixels = parallel::part(plan.pixels, plan.chunks, chunk);
        // Safety: each chunk has parts of its own, of a workspace that has one for each; the same holds for the sums, which are read
        // and written where there is a reduction, and then have been checked.
        let (products, sums) =
            unsafe { (products.at(chunk * chunk_len), parts.get().wrapping_add(chunk * 2 * shape.in_c)) };
        parallel::with_scratch(SCRATCH, |scratch| {
            let plan = &plan;
            Chunk { isa, shape, plan, dy, x, filter, reduction, pixels, out, products, sums }.run(scratch);
        });
    });
    add_chunks(&plan, workspace, dw);
}

/// Adds the chunks' products, in order.
fn add_chunks(plan: &Plan, chunks: &[f32], dw: &mut [f32]) {
    let depth = dw.len() / (chunks.len() / plan.chunks / plan.width);
    let chunk_len = chunks.len() / plan.chunks;
    for (row, dw) in dw.chunks_exact_mut(depth).enumerate() {
        dw.copy_from_slice(&chunks[row * plan.width..][..depth]);
        for chunk in chunks.chunks_exact(chunk_len).skip(1) {
            dw.iter_mut().zip(&chunk[row * plan.width..]).for_each(|(sum, product)| *sum += product);
        }
    }
}

/// One task: a chunk of the pixels.
struct Chunk<'a, E> {
    isa: Isa,
    shape: &'a ConvShape,
    plan: &'a Plan,
    dy: &'a Source<'a, E>,
    x: &'a Source<'a, E>,
    filter: &'a [f32],
    reduction: Option<Reduction<'a, E>>,
    pixels: Range<usize>,
    /// The gradient of the input, all of it.
    out: Shared<E>,
    /// This chunk's: output channels x [`Plan::width`].
    products: *mut f32,
    /// This chunk's: two rows of input channels, if there is a reduction.
    sums: *mut f32,
}

impl<E: Element> Chunk<'_, E> {
    /// `scratch` has [`SCRATCH`] floats.
    fn run(&self, scratch: &mut [f32]) {
        let (isa, ConvShape { in_c, out_c, .. }) = (self.isa, *self.shape);
        let (left, rest) = scratch.split_at_mut(PIXELS * STRIDE);
        let (right, stage) = rest.split_at_mut(PIXELS * STRIDE);
        for start in self.pixels.clone().step_by(PIXELS) {
            let pixels = start..(start + PIXELS).min(self.pixels.end);
            let next = pixels.end..(pixels.end + PIXELS).min(self.pixels.end);
            self.dy.read(isa, out_c, pixels.clone(), 0..out_c, (left, STRIDE));
            self.x.read(isa, in_c, pixels.clone(), 0..in_c, (right, STRIDE));
            let ([a, b], [c, d]) = (self.dy.streams(out_c, &next), self.x.streams(in_c, &next));
            let [first, second] = Next([a, b, c, d]).halves();
            self.input(&pixels, left, stage, first);
            self.reduce(&pixels);
            dispatch(
                isa,
                WeightProduct {
                    sizes: [out_c, pixels.len(), self.plan.width],
                    panel: self.plan.panel,
                    first: start == self.pixels.start,
                    left: left.as_ptr(),
                    right: right.as_ptr(),
                    to: self.products,
                    next: second,
                },
            );
        }
    }

    /// dx of `pixels`: the rows of dy at `left` times the filter.
    fn input(&self, pixels: &Range<usize>, left: &[f32], stage: &mut [f32], next: Next<'_>) {
        let (isa, ConvShape { in_c, out_c, .. }) = (self.isa, *self.shape);
        // Safety: this task's pixels of the output.
        let out = unsafe { self.out.at(pixels.start * in_c) };
        let direct = E::DTYPE == f32::DTYPE;
        let (to, pitch) = if direct { (out.cast::<f32>(), in_c) } else { (stage.as_mut_ptr(), STRIDE) };
        let (filter, panel) = (self.filter, self.plan.panel);
        let sizes = [pixels.len(), out_c, in_c];
        dispatch(isa, InputProduct { sizes, panel, left: left.as_ptr(), filter, to, pitch, next });
        if !direct {
            let area = Area { rows: pixels.len(), pitch: in_c, cols: in_c };
            // Safety: as above; the stage has as many rows.
            unsafe { round_area(isa, (stage.as_ptr(), STRIDE), out, area) };
        }
    }

    /// Adds what the norm waits for of `pixels`, whose gradient has just been stored.
    fn reduce(&self, pixels: &Range<usize>) {
        let Some(reduction) = &self.reduction else { return };
        let in_c = self.shape.in_c;
        let mut sums = [0.0; 2 * DEPTH];
        // Safety: there are at most DEPTH channels; the sums are this task's.
        unsafe {
            let dz = self.out.at(pixels.start * in_c).cast_const();
            reduction.add(self.isa, dz, pixels.clone(), 0..in_c, sums.as_mut_ptr());
            let total = std::slice::from_raw_parts_mut(self.sums, 2 * in_c);
            if pixels.start == self.pixels.start {
                total.fill(0.0);
            }
            total.iter_mut().zip(&sums).for_each(|(total, sum)| *total += sum);
        }
    }
}

/// The memory that a task reads next: two streams of dy and two of x.
#[derive(Clone, Copy)]
struct Next<'a>([&'a [u8]; 4]);

impl<'a> Next<'a> {
    /// The first half of each stream, and the second.
    fn halves(self) -> [Next<'a>; 2] {
        let halves = self.0.map(|stream| stream.split_at(stream.len() / 2));
        [Next(halves.map(|(first, _)| first)), Next(halves.map(|(_, second)| second))]
    }

    /// What tile `index` of `tiles`, of so many `steps`, asks for: the first half of them the first stream of dy and of x, the other
    /// half the second.
    #[inline(always)]
    fn of_tile(&self, index: usize, tiles: usize, steps: usize) -> [Stream; 2] {
        let half = tiles.div_ceil(2);
        let mut ahead = [Stream::NOTHING; 2];
        for (operand, ahead) in ahead.iter_mut().enumerate() {
            let stream = self.0[2 * operand + index / half];
            *ahead = Stream::of_bytes(&stream[parallel::part(stream.len(), half, index % half)], steps);
        }
        ahead
    }
}

/// Rows of scratch times a packed filter: `sizes` are pixels, output and input channels. Meanwhile asks for what comes next.
struct InputProduct<'a> {
    sizes: [usize; 3],
    panel: usize,
    left: *const f32,
    filter: &'a [f32],
    to: *mut f32,
    pitch: usize,
    next: Next<'a>,
}

impl Kernel for InputProduct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [pixels, out_c, in_c] = self.sizes;
        let offsets: [usize; MAX_ROWS] = std::array::from_fn(|i| i * self.pitch);
        let tiles = pixels.div_ceil(S::TILE_ROWS);
        let panels = in_c.div_ceil(self.panel);
        for (done, first) in (0..in_c).step_by(self.panel).enumerate() {
            let cols = (in_c - first).min(self.panel);
            for i in 0..tiles {
                let ahead = self.next.of_tile(done * tiles + i, panels * tiles, out_c);
                let rows = parallel::part(pixels, tiles, i);
                // Safety: the rows are this task's, and the scratch has a row of STRIDE floats for every pixel.
                unsafe {
                    run_tile::<S, RowMajor>(Tile {
                        depth: out_c,
                        a: self.left.add(rows.start * STRIDE),
                        b: self.filter[first * out_c..].as_ptr(),
                        out: self.to.add(rows.start * self.pitch + first),
                        rows: &offsets[..rows.len()],
                        cols,
                        ahead,
                        ..Tile::PRODUCT
                    });
                }
            }
        }
    }
}

/// Adds the product of the rows of dy at `left`, transposed, and those of x at `right`, or stores it if it is the `first`. `sizes` are
/// output channels, pixels, and columns of the result. Meanwhile asks for what comes next.
struct WeightProduct<'a> {
    sizes: [usize; 3],
    panel: usize,
    first: bool,
    left: *const f32,
    right: *const f32,
    to: *mut f32,
    next: Next<'a>,
}

impl Kernel for WeightProduct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [out_c, pixels, width] = self.sizes;
        let offsets: [usize; MAX_ROWS] = std::array::from_fn(|i| i * width);
        let tiles = out_c.div_ceil(S::TILE_ROWS);
        let panels = width.div_ceil(self.panel);
        for (done, col) in (0..width).step_by(self.panel).enumerate() {
            for i in 0..tiles {
                let ahead = self.next.of_tile(done * tiles + i, panels * tiles, pixels);
                let rows = parallel::part(out_c, tiles, i);
                // Safety: the tile lies within this task's products, the operands within the scratch.
                unsafe {
                    let out = self.to.add(rows.start * width + col);
                    run_tile::<S, StepMajor>(Tile {
                        depth: pixels,
                        a: self.left.add(rows.start),
                        b: self.right.add(col),
                        add: if self.first { None } else { Some(out.cast_const()) },
                        out,
                        rows: &offsets[..rows.len()],
                        cols: (width - col).min(self.panel),
                        ahead,
                        ..Tile::PRODUCT
                    });
                }
            }
        }
    }
}
