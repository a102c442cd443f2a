//! A task: the windows of a block of output pixels times some panels of the filter.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::Columns;
use super::filter::ByteFilter;
use super::panels::Panels;
use crate::kernels::ConvShape;
use crate::kernels::int8::requantize::{Rows, Target};
use crate::kernels::int8::simd::{Cells, Integers, MOST_SUMS, Product};
use crate::kernels::parallel;

/// Bytes of a filter that stay in the caches while a tile of pixels is multiplied with all of it.
const SMALL_FILTER: usize = 64 << 10;

pub(super) struct Task<'a> {
    pub(super) shape: &'a ConvShape,
    pub(super) x: &'a [u8],
    pub(super) filter: &'a ByteFilter,
    pub(super) columns: Columns<'a>,
    pub(super) panels: Panels,
    pub(super) target: Target<'a>,
    pub(super) group: usize,
    /// Output pixels of the flattened batch.
    pub(super) rows: Range<usize>,
    /// Panels.
    pub(super) block: Range<usize>,
    /// Lines of a strip, or gathered rows.
    pub(super) scratch: *mut u8,
}

impl Product for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers, C: Cells<S>>(self) {
        // Safety: `S` and what `C` needs are available; rows and columns are those of the shape.
        unsafe {
            let left = if rows_as_they_are(self.shape) && self.ends_within_x() {
                let row = self.shape.in_c;
                let from = self.x.as_ptr().add(self.rows.start * row);
                Left { from, row, line: [self.rows.len(), 0] }
            } else if let Some(line) = self.panels.strip_line {
                self.copy_strip::<S>(line)
            } else {
                self.gather_rows::<S>()
            };
            let small = 4 * self.block.len() * self.panels.width() * self.panels.depth <= SMALL_FILTER;
            let step = if small { self.block.len() } else { 1 };
            for panels in self.block.clone().step_by(step) {
                self.multiply::<S, C>(panels..panels + step, left);
            }
        }
    }
}

/// Whether each output pixel's window is one pixel, one after the other, of whole cells of four bytes.
fn rows_as_they_are(shape: &ConvShape) -> bool {
    let ConvShape { kernel, strides, pads, groups, in_c, in_h, in_w, out_h, out_w, .. } = *shape;
    let plain = kernel == [1, 1] && strides == [1, 1] && pads == [0; 4] && groups == 1;
    // (There are as many windows as pixels, unless the shape is none that an input has.)
    plain && in_c.is_multiple_of(4) && [in_h, in_w] == [out_h, out_w]
}

/// The left operand of a task.
#[derive(Clone, Copy)]
struct Left {
    /// The first row.
    from: *const u8,
    /// Bytes from one row to the next.
    row: usize,
    /// Rows of a line, and bytes from one line to the next.
    line: [usize; 2],
}

/// Copies `n` elements: those of `x` from `from` on, or some that stand for 0; may write up to 64 bytes more, whatever they
/// are. Returns where the next ones go.
#[inline(always)]
unsafe fn push<S: Integers>(to: *mut u8, x: &[u8], from: Option<usize>, n: usize, zero_point: u8) -> *mut u8 {
    // Safety: the caller's.
    unsafe {
        match from {
            Some(from) => S::copy_bytes(x.as_ptr().add(from), x.len() - from, to, n),
            None => to.write_bytes(zero_point, n),
        }
        to.add(n)
    }
}

impl Task<'_> {
    /// Whether all that is read of the last row of this task's pixels as it is, which may be more than the row, lies in `x`.
    fn ends_within_x(&self) -> bool {
        let row = self.shape.in_c;
        (self.rows.end - 1) * row + row.max(4 * self.panels.depth) <= self.x.len()
    }

    /// Fills the scratch with what is under the windows of the task's pixels.
    #[inline(always)]
    unsafe fn gather_rows<S: Integers>(&self) -> Left {
        let row = self.panels.row();
        let ConvShape { out_h, out_w, .. } = *self.shape;
        let (line, mut ox) = (self.rows.start / out_w, self.rows.start % out_w);
        let (mut image, mut oy) = (line / out_h, line % out_h);
        for i in 0..self.rows.len() {
            // Safety: the caller's; the scratch has these rows.
            unsafe { self.gather::<S>([image, oy, ox], self.scratch.add(i * row)) };
            ox += 1;
            if ox == out_w {
                (ox, oy) = (0, oy + 1);
            }
            if oy == out_h {
                (oy, image) = (0, image + 1);
            }
        }
        Left { from: self.scratch, row, line: [self.rows.len(), 0] }
    }

    /// Fills the scratch with the lines of the picture, of `line` bytes, that are under the windows of the task's pixels.
    #[inline(always)]
    unsafe fn copy_strip<S: Integers>(&self, line: usize) -> Left {
        let shape = self.shape;
        let &ConvShape { in_h, in_w, in_c, out_h, out_w, kernel, strides, pads, .. } = shape;
        let zero_point = self.filter.zero_point;
        let (first, count) = (self.rows.start / out_w, self.rows.len() / out_w);
        let (image, oy) = (first / out_h, first % out_h);
        for i in 0..(count - 1) * strides[0] + kernel[0] {
            let y = (oy * strides[0] + i).wrapping_sub(pads[0]);
            // Safety: the caller's; the scratch has these lines, the picture has line `y`, and what is written behind an
            // element is overwritten by those that come there, or is in the room behind the line.
            unsafe {
                let to = self.scratch.add(i * line);
                if y >= in_h {
                    to.write_bytes(zero_point, (pads[1] + in_w + pads[3]) * in_c);
                    continue;
                }
                let to = push::<S>(to, self.x, None, pads[1] * in_c, zero_point);
                let from = (image * in_h + y) * in_w * in_c;
                let to = push::<S>(to, self.x, Some(from), in_w * in_c, zero_point);
                to.write_bytes(zero_point, pads[3] * in_c);
            }
        }
        Left { from: self.scratch, row: strides[1] * in_c, line: [out_w, strides[0] * line] }
    }

    /// Multiplies all rows with some panels.
    #[inline(always)]
    unsafe fn multiply<S: Integers, C: Cells<S>>(&self, panels: Range<usize>, left: Left) {
        let [width, bytes] = left.line;
        let tiles = width.div_ceil(C::ROWS);
        for line in 0..self.rows.len() / width {
            for i in 0..tiles {
                let rows = parallel::part(width, tiles, i);
                for panel in panels.clone() {
                    // Safety: the caller's; the left operand has these lines and rows.
                    unsafe {
                        let from = left.from.add(line * bytes + rows.start * left.row);
                        let rows = line * width + rows.start..line * width + rows.end;
                        self.tile::<S, C>(panel, rows, Left { from, ..left });
                    }
                }
            }
        }
    }

    /// Fills a row with what is under the window of the output pixel in column `ox` of row `oy`.
    #[inline(always)]
    unsafe fn gather<S: Integers>(&self, [image, oy, ox]: [usize; 3], mut to: *mut u8) {
        let shape = self.shape;
        let (depth, zero_point) = (shape.in_c / shape.groups, self.filter.zero_point);
        let [kernel_h, kernel_w] = shape.kernel;
        let x0 = (ox * shape.strides[1]) as isize - shape.pads[1] as isize;
        let together = shape.dilations[1] == 1 && shape.groups == 1;
        // Safety: what is copied lies within row `y` of the picture.
        unsafe {
            for r in 0..kernel_h {
                let y = (oy * shape.strides[0] + r * shape.dilations[0]).wrapping_sub(shape.pads[0]);
                if y >= shape.in_h {
                    to = push::<S>(to, self.x, None, kernel_w * depth, zero_point);
                    continue;
                }
                let line = (image * shape.in_h + y) * shape.in_w * shape.in_c;
                if together && x0 >= 0 && x0 + kernel_w as isize <= shape.in_w as isize {
                    to =
                        push::<S>(to, self.x, Some(line + x0 as usize * depth), kernel_w * depth, zero_point);
                    continue;
                }
                if together {
                    // (Also of a window beside the picture: then nothing is copied, from one of the line's ends.)
                    let [first, end] =
                        [x0, x0 + kernel_w as isize].map(|x| x.clamp(0, shape.in_w as isize) as usize);
                    let left = (-x0).clamp(0, kernel_w as isize) as usize;
                    let right = kernel_w - left - (end - first);
                    to = push::<S>(to, self.x, None, left * depth, zero_point);
                    let from = line + first * depth;
                    to = push::<S>(to, self.x, Some(from), (end - first) * depth, zero_point);
                    to = push::<S>(to, self.x, None, right * depth, zero_point);
                    continue;
                }
                for s in 0..kernel_w {
                    let x = x0.wrapping_add_unsigned(s * shape.dilations[1]) as usize;
                    let from = line.wrapping_add(x.wrapping_mul(shape.in_c) + self.group * depth);
                    to = push::<S>(to, self.x, (x < shape.in_w).then_some(from), depth, zero_point);
                }
            }
        }
    }

    /// Multiplies some of the rows, which `left` starts with, with a panel.
    #[inline(always)]
    unsafe fn tile<S: Integers, C: Cells<S>>(&self, panel: usize, rows: Range<usize>, left: Left) {
        let Panels { cols, .. } = self.panels;
        let mut sums = MaybeUninit::<[i32; MOST_SUMS]>::uninit();
        let sums = sums.as_mut_ptr().cast::<i32>();
        let first = panel * self.panels.width();
        let (width, n) = (self.panels.width_of(panel), (cols - first).min(self.panels.width()));
        let channel = self.group * self.panels.padded() + first;
        // Safety: the rows have been gathered; the panel, its numbers and the outputs are those of the shape.
        unsafe {
            let init = self.columns.init.as_ptr().add(channel);
            let left = (left.from, left.row);
            self.filter.sums_of::<S, C>((panel, self.group), left, rows.len(), init, sums);
            let (count, step) = (rows.len(), self.shape.out_c);
            let at = (self.rows.start + rows.start) * step + self.group * cols + first;
            let scale = self.columns.scale.as_ptr().add(channel);
            let bias = self.columns.bias.map(|bias| bias.as_ptr().wrapping_add(channel));
            self.target.store_rows::<S>(Rows { sums, count, width, at, step, bias }, n, scale);
        }
    }
}
