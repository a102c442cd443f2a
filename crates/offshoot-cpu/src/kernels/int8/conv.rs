//! int8 dense and grouped convolution, and with one pixel a picture the product of matrices.
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
use super::super::size::elements;
use super::grouped::Groups;
use super::requantize::{Output, Rows, Target};
use super::simd::{Cells, Integers, Kind, MOST_SUMS, Packing, Product, Tile, dispatch_product};
use crate::buffer::Buffer;

/// Bytes of scratch that a task's rows may take: half of a second-level cache of 512 KiB.
const ROOM: usize = 192 << 10;

/// Output pixels of a task that reads its windows from rows: at most and at least.
const BLOCK: usize = 168;
const LEAST_BLOCK: usize = 42;

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
    /// Groups, and how the output channels of each lie.
    layout: (usize, Panels),
    /// Input channels, and height and width of the kernel.
    sizes: [usize; 3],
    /// `[group][panel][cells of the reduction][columns of the panel]`, where the packing is [`Kind::Bytes`].
    cells: Buffer,
    /// `[group][vector of columns]`, where it is [`Kind::Grouped`].
    groups: Vec<Groups>,
    /// The sum of the weights of each column, by group, each rounded up to whole vectors.
    sums: Vec<i32>,
    /// What the sum of products starts from.
    init: Vec<i32>,
    /// What it is multiplied with.
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
    /// When a slice has not the size that `shape` says, or the reduction has 2^32 elements.
    pub fn pack(isa: Isa, shape: &ConvShape, numbers: &Numbers<'_>) -> ByteFilter {
        ByteFilter::pack_as(isa, Packing::of(isa), shape, numbers)
    }

    pub(super) fn pack_as(
        isa: Isa,
        packing: Packing,
        shape: &ConvShape,
        numbers: &Numbers<'_>,
    ) -> ByteFilter {
        assert_eq!(numbers.weights.len(), weights_len(shape), "weights of {shape:?}");
        assert_eq!([numbers.bias.len(), numbers.scale.len()], [shape.out_c; 2], "numbers of {shape:?}");
        let panels = Panels::new(packing, shape);
        let (cols, depth) = (panels.cols, panels.reduction);
        assert!(u32::try_from(depth).is_ok(), "a reduction of {depth}");
        let padded = elements([shape.groups, panels.padded()]);
        let weights = Weights { all: channels_last(numbers.weights, shape), shape, panels };
        let (cells, groups) = match packing.kind() {
            Kind::Grouped => (Buffer::default(), weights.groups()),
            #[cfg(target_arch = "x86_64")]
            Kind::Bytes => (weights.cells(), Vec::new()),
        };
        let (layout, sizes) = ((shape.groups, panels), filter_sizes(shape));
        let (mut sums, mut init, mut scale) = (vec![0i32; padded], vec![0i32; padded], vec![0.0; padded]);
        for channel in 0..shape.out_c {
            let start = channel / cols * panels.padded() + channel % cols;
            sums[start] = numbers.weights[channel * depth..][..depth].iter().map(|&w| i32::from(w)).sum();
            init[start] = numbers.bias[channel].wrapping_sub(sums[start] * i32::from(numbers.zero_point));
            scale[start] = numbers.scale[channel];
        }
        let zero_point = numbers.zero_point;
        ByteFilter { isa, packing, layout, sizes, cells, groups, sums, init, scale, zero_point }
    }

    /// Whether it is packed for `shape` on `isa`: how it lies depends on more of a shape than its weights, such as the width of the
    /// picture.
    pub fn serves(&self, isa: Isa, shape: &ConvShape) -> bool {
        shape.fits()
            && self.isa == isa
            && self.sizes == filter_sizes(shape)
            && self.layout == (shape.groups, Panels::new(self.packing, shape))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let groups: usize = self.groups.iter().map(Groups::bytes).sum();
        self.cells.bytes() + 4 * 3 * self.scale.len() + groups
    }
}

fn filter_sizes(shape: &ConvShape) -> [usize; 3] {
    [shape.in_c, shape.kernel[0], shape.kernel[1]]
}

/// Weights that are packed.
struct Weights<'a> {
    /// OHWI.
    all: Vec<i8>,
    shape: &'a ConvShape,
    panels: Panels,
}

impl Weights<'_> {
    /// The cells of each vector of columns.
    fn groups(&self) -> Vec<Groups> {
        let Panels { depth, lanes, .. } = self.panels;
        let vectors = self.panels.padded() / lanes;
        let vector = |index: usize| {
            let (group, first) = (index / vectors, index % vectors * lanes);
            let cell = |step: usize| {
                let weights = std::array::from_fn(|lane| self.cell(group, first + lane, step));
                (weights, self.panels.place(step) as u32)
            };
            Groups::new((0..depth).map(cell))
        };
        (0..self.shape.groups * vectors).map(vector).collect()
    }

    /// The cells of each panel.
    #[cfg(target_arch = "x86_64")]
    fn cells(&self) -> Buffer {
        let Panels { depth, cols, .. } = self.panels;
        let (mut buffer, len) = (Buffer::default(), self.shape.groups * self.panels.group());
        buffer.reserve(len * size_of::<i32>());
        let cells = buffer.get_mut::<i32>(len);
        for channel in 0..self.shape.out_c {
            let (group, col) = (channel / cols, channel % cols);
            let (place, width) = self.panels.column(col);
            let cells = &mut cells[group * self.panels.group() + place..];
            for step in 0..depth {
                cells[step * width] = self.cell(group, col, step);
            }
        }
        buffer
    }

    /// Four weights of column `col` in 32 bits; zeros where a run or the columns end.
    fn cell(&self, group: usize, col: usize, step: usize) -> i32 {
        let Panels { cols, reduction, run, .. } = self.panels;
        let mut cell = [0; 4];
        if col < cols {
            let (index, within) = (step / self.panels.run_depth(), step % self.panels.run_depth() * 4);
            let first = (group * cols + col) * reduction + index * run;
            let weights = &self.all[first + within..first + run.min(within + 4)];
            cell[..weights.len()].copy_from_slice(weights);
        }
        i32::from_le_bytes(cell.map(i8::cast_unsigned))
    }
}

/// From OIHW to OHWI: the order that the reduction goes in, over the window's pixels and, for each, over its channels.
fn channels_last(weights: &[i8], shape: &ConvShape) -> Vec<i8> {
    let (area, channels) = (shape.kernel[0] * shape.kernel[1], shape.in_c / shape.groups);
    let mut to = vec![0; weights.len()];
    let column = (area * channels).max(1);
    for (from, to) in weights.chunks_exact(column).zip(to.chunks_exact_mut(column)) {
        for (pixel, to) in to.chunks_exact_mut(channels).enumerate() {
            for (channel, to) in to.iter_mut().enumerate() {
                *to = from[channel * area + pixel];
            }
        }
    }
    to
}

/// How the output channels of a group lie in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Bytes of a line of the strips that windows are read from, if they are.
    strip_line: Option<usize>,
}

impl Panels {
    fn new(packing: Packing, shape: &ConvShape) -> Panels {
        let [lanes, vectors, _] = packing.tile();
        let reduction = shape.kernel[0] * shape.kernel[1] * (shape.in_c / shape.groups);
        let strip_line = fits_strips(shape, packing).then(|| strip_line(shape));
        let runs = if strip_line.is_some() { shape.kernel[0] } else { 1 };
        let run = reduction / runs;
        let depth = runs * run.div_ceil(4);
        Panels { cols: shape.out_c / shape.groups, lanes, vectors, reduction, runs, run, depth, strip_line }
    }

    /// A run in units of 32 bits.
    fn run_depth(&self) -> usize {
        self.depth / self.runs
    }

    /// Bytes from the start of a row of the left operand to cell `step` of the reduction.
    fn place(&self, step: usize) -> usize {
        let [cells, bytes] = self.part();
        step / cells * bytes + step % cells * 4
    }

    /// Cells of a part of a row of the left operand, and bytes from one part to the next.
    fn part(&self) -> [usize; 2] {
        [self.run_depth().max(1), self.strip_line.unwrap_or_default()]
    }

    /// Bytes from one gathered row to the next: an odd number of cache lines, so that rows spread over all cache sets, and
    /// room for copies that end with a whole vector.
    fn row(&self) -> usize {
        64 * (((4 * self.depth).div_ceil(64) + 1) | 1)
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
pub fn conv(isa: Isa, shape: &ConvShape, x: &[u8], filter: &ByteFilter, output: Output<'_>) {
    let columns = Columns { init: &filter.init, scale: &filter.scale };
    convolve(isa, shape, x, filter, columns, output);
}

/// Bytes that stand for (byte - zero point) * scale.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// What a step is worth.
    pub scale: f32,
    /// What stands for 0.
    pub zero_point: u8,
}

/// y \[m, n\] = x \[m, k\] times the transposed weights \[n, k\] that `filter` was packed from, as a
/// [convolution](ConvShape::of_matrices), each row of which stands for a `scale` times its bytes.
///
/// # Panics
/// When a slice has not the size that the others say, or `filter` is packed for another path.
pub fn product(isa: Isa, x: Quantized<'_>, filter: &ByteFilter, scale: &[f32], y: &mut [f32]) {
    let (_, Panels { cols: n, reduction: k, .. }) = filter.layout;
    assert_eq!(scale.len(), n, "scales of {n} columns");
    let shape = ConvShape::of_matrices(y.len().checked_div(n).unwrap_or(0), k, n);
    let init: Vec<i32> = filter.sums.iter().map(|sum| sum.wrapping_mul(-i32::from(x.zero_point))).collect();
    let mut scale: Vec<f32> = scale.iter().map(|scale| x.scale * scale).collect();
    scale.resize(init.len(), 0.0);
    let bounds = (f32::NEG_INFINITY, f32::INFINITY);
    let columns = Columns { init: &init, scale: &scale };
    convolve(isa, &shape, x.bytes, filter, columns, Output::Floats { y, bounds });
}

/// What the sums of the columns start from and are multiplied with, rounded up to whole vectors.
#[derive(Clone, Copy)]
struct Columns<'a> {
    init: &'a [i32],
    scale: &'a [f32],
}

fn convolve(
    isa: Isa,
    shape: &ConvShape,
    x: &[u8],
    filter: &ByteFilter,
    columns: Columns<'_>,
    mut output: Output<'_>,
) {
    let output_len = output.len();
    assert_eq!([x.len(), output_len], activations_len(shape), "input and output of {shape:?}");
    assert!(filter.serves(isa, shape), "the filter is packed for another shape or path than {shape:?}");
    let (_, panels) = filter.layout;
    let padded = elements([shape.groups, panels.padded()]);
    assert_eq!([columns.init.len(), columns.scale.len()], [padded; 2], "numbers of {shape:?}");
    let blocks = Blocks::new(shape, &panels);
    let col_blocks = TASKS.div_ceil(blocks.count.max(1) * shape.groups).min(panels.count());
    let target = output.shared();
    let work = output_len.saturating_mul(panels.reduction) / 4;
    parallel::for_each_task(shape.groups * blocks.count * col_blocks, work, |index| {
        let (rest, col_block) = (index / col_blocks, index % col_blocks);
        let (group, row_block) = (rest / blocks.count, rest % blocks.count);
        let rows = blocks.rows(shape, row_block);
        let block = parallel::part(panels.count(), col_blocks, col_block);
        parallel::with_scratch(blocks.scratch.div_ceil(4), |scratch| {
            let scratch = scratch.as_mut_ptr().cast();
            let task = Task { shape, x, filter, columns, panels, target, group, rows, block, scratch };
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
    fn new(shape: &ConvShape, panels: &Panels) -> Blocks {
        let &ConvShape { batch, out_h, out_w, .. } = shape;
        if let Some(line) = panels.strip_line {
            let lines = |out: usize| (out - 1) * shape.strides[0] + shape.kernel[0];
            let fits = (ROOM / line).saturating_sub(shape.kernel[0]) / shape.strides[0] + 1;
            let of_picture = out_h.div_ceil((STRIP / out_w).clamp(1, fits));
            let scratch = lines(out_h.div_ceil(of_picture)) * line;
            return Blocks { count: batch * of_picture, of_picture: Some(of_picture), scratch };
        }
        let pixels = batch * out_h * out_w;
        let block = (ROOM / panels.row()).clamp(LEAST_BLOCK, BLOCK);
        let count = pixels.div_ceil(block);
        let scratch = pixels.div_ceil(count.max(1)) * panels.row();
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

/// Whether windows are rows of neighboring elements of some lines of the padded picture, and worth reading there: tiles
/// of pixels fill the output's lines, all but a ninth, as gathering windows costs about as much as that.
fn fits_strips(shape: &ConvShape, packing: Packing) -> bool {
    let ConvShape { kernel, strides, dilations, pads, groups, in_w, out_h, out_w, .. } = *shape;
    let some = kernel.iter().all(|&n| n > 0) && out_h > 0 && out_w > 0;
    let worth = match packing.kind() {
        // (Here tiles of fewer rows take less time.)
        Kind::Grouped => out_w >= 4,
        #[cfg(target_arch = "x86_64")]
        Kind::Bytes => 9 * out_w >= 8 * out_w.next_multiple_of(packing.tile()[2]),
    };
    // (Places within a window are of 32 bits.)
    let small = u32::try_from(kernel[0].saturating_mul(strip_line(shape))).is_ok();
    some && small && kernel != [1, 1] && worth && dilations == [1, 1] && groups == 1
        // (No picture has windows beyond its padding, but a shape may say so.)
        && (out_w - 1) * strides[1] + kernel[1] <= in_w + pads[1] + pads[3]
}

/// Bytes of a line of a strip: the padded picture's, and room for what is written or read in whole vectors and cells behind it.
fn strip_line(shape: &ConvShape) -> usize {
    ((shape.in_w + shape.pads[1] + shape.pads[3]) * shape.in_c).next_multiple_of(64) + 64
}

struct Task<'a> {
    shape: &'a ConvShape,
    x: &'a [u8],
    filter: &'a ByteFilter,
    columns: Columns<'a>,
    panels: Panels,
    target: Target<'a>,
    group: usize,
    /// Output pixels of the flattened batch.
    rows: Range<usize>,
    /// Panels.
    block: Range<usize>,
    /// Lines of a strip, or gathered rows.
    scratch: *mut u8,
}

impl Product for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers, C: Cells<S>>(self) {
        // Safety: `S` and what `C` needs are available; rows and columns are those of the shape.
        unsafe {
            let left = if rows_as_they_are(self.shape) {
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
        let Panels { cols, lanes, .. } = self.panels;
        let mut sums = MaybeUninit::<[i32; MOST_SUMS]>::uninit();
        let sums = sums.as_mut_ptr().cast::<i32>();
        let first = panel * self.panels.width();
        let (width, n) = (self.panels.width_of(panel), (cols - first).min(self.panels.width()));
        let channel = self.group * self.panels.padded() + first;
        let (b, groups) = match self.filter.packing.kind() {
            Kind::Grouped => (&[][..], &self.filter.groups[channel / lanes..][..width / lanes]),
            #[cfg(target_arch = "x86_64")]
            Kind::Bytes => {
                let depth = self.panels.depth;
                (&self.filter.cells.get((channel + width) * depth)[channel * depth..], &[][..])
            }
        };
        // Safety: the rows have been gathered; the panel, its numbers and the outputs are those of the shape.
        unsafe {
            let init = self.columns.init.as_ptr().add(channel);
            let tile = Tile { a: left.from, row: left.row, part: self.panels.part(), b, groups, init };
            C::sums(tile, rows.len(), width / S::LANES, sums);
            let (count, step) = (rows.len(), self.shape.out_c);
            let at = (self.rows.start + rows.start) * step + self.group * cols + first;
            let scale = self.columns.scale.as_ptr().add(channel);
            self.target.store_rows::<S>(Rows { sums, count, width, at, step }, n, scale);
        }
    }
}
