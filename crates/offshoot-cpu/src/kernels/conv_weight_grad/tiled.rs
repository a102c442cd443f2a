//! The gradient on tiles: rows of dy are transposed, so that the pixels of a channel follow one another, and pixels of x are joined to pairs.

use std::ops::Range;

use half::bf16;

use super::{Area, DEPTH, Plan};
use crate::kernels::gather::Inner;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::simd::{Isa, Kernel, Simd};
use crate::kernels::tile::STRIDE;
use crate::kernels::tiled::{self, PAIRS, PITCH, Part, STEP_PAIRS, join};

/// Floats of a task's scratch: channels of dy, pairs of x, a step's pairs of dy, and two pixels that are being joined.
pub(super) const SCRATCH: usize = DEPTH * PITCH + (PAIRS + STEP_PAIRS + 1) * STRIDE;

/// One task: a block of a group's rows and columns over a chunk of the pixels.
pub(super) struct Block<'a> {
    pub(super) isa: Isa,
    pub(super) plan: &'a Plan,
    pub(super) index: usize,
    pub(super) x: &'a [bf16],
    pub(super) dy: &'a [bf16],
    pub(super) sums: Shared,
    /// [`SCRATCH`] floats.
    pub(super) scratch: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let plan = self.plan;
        let (area, chunk) = plan.task(self.index);
        let pixels = parallel::part(plan.gather.pixels(), plan.chunks, chunk);
        let sums = plan.sums(self.sums, &area, chunk);
        let left = self.scratch.as_mut_ptr();
        let right = left.wrapping_add(DEPTH * PITCH);
        let pairs = right.wrapping_add(PAIRS * STRIDE);
        let pixel = pairs.wrapping_add(STEP_PAIRS * STRIDE).cast::<bf16>();
        let block = tiled::Block {
            isa: self.isa,
            left,
            right: (right, STRIDE),
            sums: (sums.wrapping_add(area.rows.start * plan.width + area.cols.start), plan.width),
            rows: area.rows.len(),
            cols: area.cols.len(),
        };
        for start in pixels.clone().step_by(2 * PAIRS) {
            let these = start..(start + 2 * PAIRS).min(pixels.end);
            let steps = these.len().div_ceil(2 * STEP_PAIRS);
            // Safety: the scratch has the rows that these need; `sums` is this task's.
            unsafe {
                self.rows_of_dy(&area, &these).transpose_rows::<S>(self.isa, steps, (pairs, STRIDE), left);
                self.pair_x::<S>(&area, these, steps, (right, pixel));
                block.multiply(steps, start == pixels.start);
            }
        }
    }
}

impl Block<'_> {
    /// The area's channels of some pixels of dy.
    fn rows_of_dy(&self, area: &Area, pixels: &Range<usize>) -> Part {
        let channels = self.plan.rows * self.plan.gather.groups;
        let first = pixels.start * channels + area.group * self.plan.rows + area.rows.start;
        let from = self.dy[first..].as_ptr();
        Part { from, pitch: channels, rows: pixels.len(), cols: area.rows.len() }
    }

    /// Gathers the area's columns of the input, two pixels to a row, with rows of zeros up to the last of `steps`.
    #[inline(always)]
    unsafe fn pair_x<S: Simd>(
        &self,
        area: &Area,
        pixels: Range<usize>,
        steps: usize,
        (to, first): (*mut f32, *mut bf16),
    ) {
        let Plan { gather, runs, .. } = self.plan;
        let (x, second) = (self.x.as_ptr(), first.wrapping_add(STRIDE));
        let inner = Inner::new(gather, runs, area.group, &area.cols);
        let mut pixel = gather.pixel(pixels.start);
        for i in 0..steps * STEP_PAIRS {
            let left = pixels.len().saturating_sub(2 * i);
            // Safety: a row of `to` has room for DEPTH floats and a vector, and so has each half of the pair.
            unsafe {
                let to = to.add(i * STRIDE);
                if left == 0 {
                    to.write_bytes(0, area.cols.len());
                    continue;
                }
                let next = gather.next(pixel);
                if let Some(inner) =
                    inner.as_ref().filter(|inner| left > 1 && inner.has(pixel) && inner.has(next))
                {
                    let (first, second) = (inner.start(x, pixel), inner.start(x, next));
                    for piece in inner.pieces() {
                        let [first, second] =
                            [first, second].map(|pixel| pixel.wrapping_offset(piece.offset));
                        join::<S>(first, Some(second), piece.len, to.add(piece.to));
                    }
                    pixel = gather.next(next);
                    continue;
                }
                gather.copy::<S, bf16, bf16>(runs, x, pixel, area.group, area.cols.clone(), first);
                pixel = gather.next(pixel);
                if left > 1 {
                    gather.copy::<S, bf16, bf16>(runs, x, pixel, area.group, area.cols.clone(), second);
                    pixel = gather.next(pixel);
                }
                join::<S>(first, (left > 1).then_some(second.cast_const()), area.cols.len(), to);
            }
        }
    }
}
