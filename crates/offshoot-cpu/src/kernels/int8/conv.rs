//! Dense and grouped convolution of bytes, and with one pixel a picture the product of matrices.
//!
//! A task takes a block of output pixels and multiplies the bytes under their windows with packed panels of the filter,
//! keeping sums in registers over the whole reduction. A window of one pixel is read where it lies. Of larger ones a task
//! copies the lines of the picture into a thread's scratch, padded with the zero point, and each row of a window is read
//! there (a strip); or, where the output's lines are no whole number of tiles, it gathers each window into a row of its own.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::ConvShape;
use super::super::conv::{activations_len, weights_len};
use super::super::parallel;
use super::super::simd::Isa;
use super::products::{MOST_SUMS, PART, STRIDE, Tile, run};
use super::requantize::{Output, Rows, Target};
use super::simd::{Cells, Integers, Packing, Product, dispatch_product};

/// Bytes of scratch that a task's rows may take: half of a second-level cache of 512 KiB.
const ROOM: usize = 192 << 10;

/// Most output pixels of a task, and what it is a multiple of: whole tiles of every path.
const BLOCK: usize = 168;
const STEP: usize = 42;

/// Output pixels of a task that reads its windows from a strip, rounded down to whole lines.
const STRIP: usize = 224;

/// Tasks of a small convolution.
const TASKS: usize = 8;

/// Bytes of a filter that stay in the caches while a tile of pixels is multiplied with all of it.
const SMALL_FILTER: usize = 64 << 10;

/// A filter in the order that [`conv`] reads it, and what makes its sums numbers.
#[derive(Clone, Debug)]
pub struct ByteFilter {
    isa: Isa,
    packing: Packing,
    /// Output channels and the length of the reduction of a group.
    sizes: [usize; 2],
    /// `[group][panel][cells of the reduction][columns of the panel]`
    cells: Vec<i32>,
    /// What the sum of each column starts from, by group, each rounded up to whole vectors.
    init: Vec<i32>,
    /// What its sum is multiplied with.
    scale: Vec<f32>,
    zero_point: u8,
}

/// The numbers of a filter.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// OIHW.
    pub weights: &'a [i8],
    /// What is added to the sum of products of each output channel, in units of x's scale times the weight's.
    pub bias: &'a [i32],
    /// What the sum of each output channel is multiplied with.
    pub scale: &'a [f32],
    /// The byte of x that stands for 0.
    pub zero_point: u8,
}

impl ByteFilter {
    /// Packs the filter of `shape`.
    ///
    /// # Panics
    /// When a slice has not the size that `shape` says.
    pub fn pack(isa: Isa, shape: &ConvShape, numbers: &Numbers<'_>) -> ByteFilter {
        ByteFilter::pack_as(isa, Packing::of(isa, numbers.weights), shape, numbers)
    }

    pub(super) fn pack_as(
        isa: Isa,
        packing: Packing,
        shape: &ConvShape,
        numbers: &Numbers<'_>,
    ) -> ByteFilter {
        assert_eq!(numbers.weights.len(), weights_len(shape), "weights of {shape:?}");
        assert_eq!([numbers.bias.len(), numbers.scale.len()], [shape.out_c; 2], "numbers of {shape:?}");
        let panels = Panels::new(isa, packing, shape);
        let (cols, depth) = (panels.cols, panels.reduction);
        let padded = shape.groups * panels.padded();
        let mut filter = ByteFilter {
            isa,
            packing,
            sizes: [cols, depth],
            cells: vec![0; padded * panels.depth],
            init: vec![0; padded],
            scale: vec![0.0; padded],
            zero_point: numbers.zero_point,
        };
        for channel in 0..shape.out_c {
            let (group, col) = (channel / cols, channel % cols);
            let weights = Weights { all: &numbers.weights[channel * depth..][..depth], shape };
            let start = group * panels.padded() + col;
            filter.scale[start] = numbers.scale[channel];
            filter.init[start] = numbers.bias[channel];
            if packing.keeps_zero_point() {
                let sum: i32 = weights.all.iter().map(|&w| i32::from(w)).sum();
                filter.init[start] = numbers.bias[channel].wrapping_sub(sum * i32::from(numbers.zero_point));
            }
            let (place, width) = panels.column(col);
            let cells = &mut filter.cells[group * panels.group() + place..];
            for step in 0..panels.depth {
                let (run, within) = (step / panels.run_depth(), step % panels.run_depth());
                let first = run * panels.run + within * packing.group();
                let end = (run + 1) * panels.run;
                cells[step * width] = weights.cell(first..end, packing.group());
            }
        }
        filter
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        4 * (self.cells.len() + self.init.len() + self.scale.len())
    }
}

/// The weights of an output channel, OIHW.
struct Weights<'a> {
    all: &'a [i8],
    shape: &'a ConvShape,
}

impl Weights<'_> {
    /// Element `i` of the reduction, which goes over the window's pixels and, for each, over its channels.
    fn at(&self, i: usize) -> i8 {
        let (area, channels) =
            (self.shape.kernel[0] * self.shape.kernel[1], self.shape.in_c / self.shape.groups);
        self.all[i % channels * area + i / channels]
    }

    /// The first elements of `range`, `group` of them in 32 bits; zeros where it ends.
    fn cell(&self, range: Range<usize>, group: usize) -> i32 {
        let at = |i: usize| range.clone().nth(i).map_or(0, |i| self.at(i));
        match group {
            2 => {
                let [low, high] = [0, 1].map(|i| i32::from(at(i)));
                (low & 0xFFFF) | high << 16
            }
            _ => i32::from_le_bytes([0, 1, 2, 3].map(|i| at(i) as u8)),
        }
    }
}

/// How the output channels of a group lie in panels.
#[derive(Clone, Copy)]
struct Panels {
    cols: usize,
    lanes: usize,
    vectors: usize,
    /// Elements of the reduction.
    reduction: usize,
    /// Runs of them that lie together, each from a multiple of 32 bits on: the rows of a window, or one of all.
    runs: usize,
    /// Elements of a run.
    run: usize,
    /// The reduction in units of 32 bits.
    depth: usize,
    /// Whether windows are read from strips.
    strips: bool,
}

impl Panels {
    fn new(isa: Isa, packing: Packing, shape: &ConvShape) -> Panels {
        let [lanes, vectors, rows] = packing.tile(isa);
        let reduction = shape.kernel[0] * shape.kernel[1] * (shape.in_c / shape.groups);
        let strips = fits_strips(shape, rows);
        let runs = if strips { shape.kernel[0] } else { 1 };
        let run = reduction / runs;
        let depth = runs * run.div_ceil(packing.group());
        Panels { cols: shape.out_c / shape.groups, lanes, vectors, reduction, runs, run, depth, strips }
    }

    /// A run in units of 32 bits.
    fn run_depth(&self) -> usize {
        self.depth / self.runs
    }

    fn width(&self) -> usize {
        self.lanes * self.vectors
    }

    fn count(&self) -> usize {
        self.cols.div_ceil(self.width())
    }

    /// Columns with those that fill the last vector.
    fn padded(&self) -> usize {
        self.cols.next_multiple_of(self.lanes)
    }

    /// Cells of a group.
    fn group(&self) -> usize {
        self.padded() * self.depth
    }

    /// Columns of panel `index`, with those that fill the last vector.
    fn width_of(&self, index: usize) -> usize {
        (self.padded() - index * self.width()).min(self.width())
    }

    /// Where column `col` starts in its group, and the width of its panel.
    fn column(&self, col: usize) -> (usize, usize) {
        let (panel, within) = (col / self.width(), col % self.width());
        (panel * self.width() * self.depth + within, self.width_of(panel))
    }
}

/// y = the convolution of x with `filter`, as `output` says.
///
/// # Panics
/// When a slice has not the size that `shape` says, or `filter` is packed for another shape or path.
pub fn conv(isa: Isa, shape: &ConvShape, x: &[u8], filter: &ByteFilter, mut output: Output<'_>) {
    assert_eq!([x.len(), output.len()], activations_len(shape), "input and output of {shape:?}");
    let panels = Panels::new(isa, filter.packing, shape);
    assert!(filter.isa == isa && filter.sizes == [panels.cols, panels.reduction], "filter of {shape:?}");
    assert_eq!(filter.init.len(), shape.groups * panels.padded(), "filter of {shape:?}");
    assert!(shape.strides.iter().all(|&step| step > 0), "a step of 0 in {shape:?}");
    let blocks = Blocks::new(shape, &panels, filter.packing);
    let col_blocks = TASKS.div_ceil(blocks.count.max(1) * shape.groups).min(panels.count());
    let target = output.shared();
    let work = shape.batch * shape.out_h * shape.out_w * shape.out_c * panels.reduction / 4;
    parallel::for_each_task(shape.groups * blocks.count * col_blocks, work, |index| {
        let (rest, col_block) = (index / col_blocks, index % col_blocks);
        let (group, row_block) = (rest / blocks.count, rest % blocks.count);
        let rows = blocks.rows(shape, row_block);
        let columns = parallel::part(panels.count(), col_blocks, col_block);
        parallel::with_scratch(blocks.scratch.div_ceil(4), |scratch| {
            let scratch = scratch.as_mut_ptr().cast();
            let task = Task { shape, x, filter, panels, target, group, rows, columns, scratch };
            dispatch_product(isa, filter.packing, task);
        });
    });
}

/// The output pixels of a convolution in blocks.
struct Blocks {
    count: usize,
    /// Blocks of a picture, where each is of whole lines of one.
    of_picture: Option<usize>,
    /// Bytes of scratch that one takes.
    scratch: usize,
}

impl Blocks {
    fn new(shape: &ConvShape, panels: &Panels, packing: Packing) -> Blocks {
        let &ConvShape { batch, out_h, out_w, .. } = shape;
        if panels.strips {
            let line = strip_line(shape, 4 / packing.group());
            let lines = |out: usize| (out - 1) * shape.strides[0] + shape.kernel[0];
            let fits = (ROOM / line).saturating_sub(shape.kernel[0]) / shape.strides[0] + 1;
            let of_picture = out_h.div_ceil((STRIP / out_w).clamp(1, fits));
            let scratch = lines(out_h.div_ceil(of_picture)) * line;
            return Blocks { count: batch * of_picture, of_picture: Some(of_picture), scratch };
        }
        let pixels = batch * out_h * out_w;
        let row_parts = (4 * panels.depth).div_ceil(PART).max(1);
        let block = (ROOM / (row_parts * STRIDE) / STEP * STEP).clamp(STEP, BLOCK);
        let count = pixels.div_ceil(block);
        let scratch = row_parts * pixels.div_ceil(count.max(1)) * STRIDE;
        Blocks { count, of_picture: None, scratch }
    }

    /// The pixels of block `index`.
    fn rows(&self, shape: &ConvShape, index: usize) -> Range<usize> {
        let &ConvShape { batch, out_h, out_w, .. } = shape;
        let Some(of_picture) = self.of_picture else {
            return parallel::part(batch * out_h * out_w, self.count, index);
        };
        let first = index / of_picture * out_h;
        let lines = parallel::part(out_h, of_picture, index % of_picture);
        (first + lines.start) * out_w..(first + lines.end) * out_w
    }
}

/// Whether windows are rows of neighbouring elements of some lines of the padded picture, and tiles of `rows` pixels fill the
/// output's lines, all but a ninth: gathering windows costs about as much as that.
fn fits_strips(shape: &ConvShape, rows: usize) -> bool {
    let ConvShape { kernel, strides, dilations, pads, groups, in_w, out_h, out_w, .. } = *shape;
    let some = kernel.iter().all(|&n| n > 0) && out_h > 0 && out_w > 0;
    let filled = 9 * out_w >= 8 * out_w.next_multiple_of(rows);
    some && kernel != [1, 1] && filled && dilations == [1, 1] && groups == 1
        // (No picture has windows beyond its padding, but a shape may say so.)
        && (out_w - 1) * strides[1] + kernel[1] <= in_w + pads[1] + pads[3]
}

/// Bytes of a line of a strip of elements of `size` bytes: the padded picture's, and room for what is written or read in
/// whole vectors and cells behind it.
fn strip_line(shape: &ConvShape, size: usize) -> usize {
    ((shape.in_w + shape.pads[1] + shape.pads[3]) * shape.in_c * size).next_multiple_of(64) + 64
}

struct Task<'a> {
    shape: &'a ConvShape,
    x: &'a [u8],
    filter: &'a ByteFilter,
    panels: Panels,
    target: Target<'a>,
    group: usize,
    /// Output pixels of the flattened batch.
    rows: Range<usize>,
    /// Panels.
    columns: Range<usize>,
    /// [`STRIDE`] bytes for each part of each row.
    scratch: *mut u8,
}

impl Product for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers, C: Cells<S>>(self) {
        // Safety: `S` and what `C` needs are available; rows and columns are those of the shape.
        unsafe {
            let left = if C::GROUP == 4 && rows_as_they_are(self.shape) {
                let row = self.shape.in_c;
                let from = self.x.as_ptr().add(self.rows.start * row);
                Left { from, row, part: [row / 4, 0], line: [self.rows.len(), 0] }
            } else if self.panels.strips {
                self.copy_strip::<S, C>()
            } else {
                self.gather_rows::<S, C>()
            };
            let small = 4 * self.columns.len() * self.panels.width() * self.panels.depth <= SMALL_FILTER;
            let step = if small { self.columns.len() } else { 1 };
            for panels in self.columns.clone().step_by(step) {
                self.multiply::<S, C>(panels..panels + step, left);
            }
        }
    }
}

/// Whether each output pixel's window is one pixel, one after the other, of whole cells of four bytes.
fn rows_as_they_are(shape: &ConvShape) -> bool {
    let ConvShape { kernel, strides, pads, groups, in_c, .. } = *shape;
    kernel == [1, 1] && strides == [1, 1] && pads == [0; 4] && groups == 1 && in_c.is_multiple_of(4)
}

/// The left operand of a task.
#[derive(Clone, Copy)]
struct Left {
    /// The first row.
    from: *const u8,
    /// Bytes from one row to the next.
    row: usize,
    /// 32 bits of the reduction in a part, and bytes from one part to the next.
    part: [usize; 2],
    /// Rows of a line, and bytes from one line to the next.
    line: [usize; 2],
}

/// A row of cells that is being filled.
struct Row {
    to: *mut u8,
    /// Bytes from one part to the next.
    part: usize,
    /// The next element.
    at: usize,
}

impl Row {
    /// Appends `n` elements: those of `x` from `from` on, or some that stand for 0.
    #[inline(always)]
    unsafe fn push<S: Integers, C: Cells<S>>(
        &mut self,
        x: &[u8],
        from: Option<usize>,
        n: usize,
        zero_point: u8,
    ) {
        let size = 4 / C::GROUP;
        let whole = PART / size;
        let mut done = 0;
        while done < n {
            let (part, within) = (self.at / whole, self.at % whole);
            let len = (n - done).min(whole - within);
            // Safety: the caller's; a part has 64 bytes more than its elements.
            unsafe {
                let to = self.to.add(part * self.part + within * size);
                match from {
                    Some(from) => {
                        let from = from + done;
                        C::copy(x.as_ptr().add(from), x.len() - from, len, zero_point, to);
                    }
                    None => C::pad(len, zero_point, to),
                }
            }
            self.at += len;
            done += len;
        }
    }
}

impl Task<'_> {
    /// Fills the scratch with what is under the windows of the task's pixels.
    #[inline(always)]
    unsafe fn gather_rows<S: Integers, C: Cells<S>>(&self) -> Left {
        let part = self.rows.len() * STRIDE;
        let ConvShape { out_h, out_w, .. } = *self.shape;
        let (line, mut ox) = (self.rows.start / out_w, self.rows.start % out_w);
        let (mut image, mut oy) = (line / out_h, line % out_h);
        for i in 0..self.rows.len() {
            // Safety: the caller's; the scratch has these rows.
            unsafe {
                let to = self.scratch.add(i * STRIDE);
                self.gather::<S, C>([image, oy, ox], Row { to, part, at: 0 });
            }
            ox += 1;
            if ox == out_w {
                (ox, oy) = (0, oy + 1);
            }
            if oy == out_h {
                (oy, image) = (0, image + 1);
            }
        }
        Left { from: self.scratch, row: STRIDE, part: [PART / 4, part], line: [self.rows.len(), 0] }
    }

    /// Fills the scratch with the lines of the picture that are under the windows of the task's pixels, padded.
    #[inline(always)]
    unsafe fn copy_strip<S: Integers, C: Cells<S>>(&self) -> Left {
        let shape = self.shape;
        let &ConvShape { in_h, in_w, in_c, out_h, out_w, kernel, strides, pads, .. } = shape;
        let (size, zero_point) = (4 / C::GROUP, self.filter.zero_point);
        let line = strip_line(shape, size);
        let (first, count) = (self.rows.start / out_w, self.rows.len() / out_w);
        let (image, oy) = (first / out_h, first % out_h);
        for i in 0..(count - 1) * strides[0] + kernel[0] {
            let y = (oy * strides[0] + i).wrapping_sub(pads[0]);
            // Safety: the caller's; the scratch has these lines, the picture has line `y`, and what is written behind an
            // element is overwritten by those that come there, or is in the room behind the line.
            unsafe {
                let mut to = self.scratch.add(i * line);
                if y >= in_h {
                    C::pad((pads[1] + in_w + pads[3]) * in_c, zero_point, to);
                    continue;
                }
                let from = (image * in_h + y) * in_w * in_c;
                C::pad(pads[1] * in_c, zero_point, to);
                to = to.add(pads[1] * in_c * size);
                C::copy(self.x.as_ptr().add(from), self.x.len() - from, in_w * in_c, zero_point, to);
                C::pad(pads[3] * in_c, zero_point, to.add(in_w * in_c * size));
            }
        }
        let part = [self.panels.run_depth(), line];
        Left { from: self.scratch, row: strides[1] * in_c * size, part, line: [out_w, strides[0] * line] }
    }

    /// Multiplies all rows with some panels.
    #[inline(always)]
    unsafe fn multiply<S: Integers, C: Cells<S>>(&self, panels: Range<usize>, left: Left) {
        let [width, bytes] = left.line;
        let tiles = width.div_ceil(S::TILE_ROWS);
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
    unsafe fn gather<S: Integers, C: Cells<S>>(&self, [image, oy, ox]: [usize; 3], mut row: Row) {
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
                    row.push::<S, C>(self.x, None, kernel_w * depth, zero_point);
                    continue;
                }
                let line = (image * shape.in_h + y) * shape.in_w * shape.in_c;
                if together && x0 >= 0 && x0 + kernel_w as isize <= shape.in_w as isize {
                    row.push::<S, C>(self.x, Some(line + x0 as usize * depth), kernel_w * depth, zero_point);
                    continue;
                }
                if together {
                    let width = shape.in_w as isize;
                    let left = (-x0).clamp(0, kernel_w as isize);
                    let right = (width - x0).clamp(left, kernel_w as isize);
                    row.push::<S, C>(self.x, None, left as usize * depth, zero_point);
                    let from = line.wrapping_add_signed((x0 + left) * depth as isize);
                    row.push::<S, C>(self.x, Some(from), (right - left) as usize * depth, zero_point);
                    row.push::<S, C>(self.x, None, (kernel_w as isize - right) as usize * depth, zero_point);
                    continue;
                }
                for s in 0..kernel_w {
                    let x = x0.wrapping_add_unsigned(s * shape.dilations[1]) as usize;
                    let from = line.wrapping_add(x.wrapping_mul(shape.in_c) + self.group * depth);
                    row.push::<S, C>(self.x, (x < shape.in_w).then_some(from), depth, zero_point);
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
        let cells = self.group * self.panels.group() + first * self.panels.depth;
        // Safety: the rows have been gathered; the panel, its numbers and the outputs are those of the shape.
        unsafe {
            let tile = Tile {
                a: left.from,
                row: left.row,
                part: left.part,
                b: self.filter.cells.as_ptr().add(cells),
                depth: self.panels.depth,
                init: self.filter.init.as_ptr().add(channel),
            };
            run::<S, C>(tile, rows.len(), width / S::LANES, sums);
            let (count, step) = (rows.len(), self.shape.out_c);
            let at = (self.rows.start + rows.start) * step + self.group * cols + first;
            let scale = self.filter.scale.as_ptr().add(channel);
            self.target.store_rows::<S>(Rows { sums, count, width, at, step }, n, scale);
        }
    }
}
