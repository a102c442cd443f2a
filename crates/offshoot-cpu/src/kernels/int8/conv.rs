//! int8 dense and grouped convolution, and with one pixel a picture the product of matrices.
//!
//! A task takes a block of output pixels and multiplies the bytes under their windows with packed panels of the filter,
//! keeping sums in registers over the whole reduction. A window of one pixel is read where it lies. Of larger ones a task
//! copies the lines of the picture into a thread's scratch, padded with the zero point, and each row of a window is read
//! there (a strip); or, where the output's lines are no whole number of tiles, it gathers each window into a row of its own.

mod filter;
mod panels;
mod task;

use std::ops::Range;

pub use self::filter::{ByteFilter, Numbers};
use self::panels::Panels;
use self::task::Task;
use super::super::ConvShape;
use super::super::conv::activations_len;
use super::super::parallel;
use super::super::simd::Isa;
use super::super::size::elements;
use super::requantize::Output;
use super::simd::dispatch_product;

/// Bytes of scratch that a task's rows may take: half of a second-level cache of 512 KiB.
const ROOM: usize = 192 << 10;

/// Output pixels of a task that reads its windows from rows: at most and at least.
const BLOCK: usize = 168;
const LEAST_BLOCK: usize = 42;

/// Output pixels of a task that reads its windows from a strip, rounded down to whole lines.
const STRIP: usize = 224;

/// Tasks of a small convolution.
const TASKS: usize = 8;

/// y = the convolution of x with `filter`, as `output` says.
///
/// # Panics
/// When a slice has not the size that `shape` says, or `filter` is packed for another shape or path.
pub fn conv(isa: Isa, shape: &ConvShape, x: &[u8], filter: &ByteFilter, output: Output<'_>) {
    let columns = Columns { init: &filter.init, scale: &filter.scale, bias: None };
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
/// [convolution](ConvShape::of_matrices), each row of which stands for a `scale` times its bytes; plus a bias for each of these rows.
///
/// # Panics
/// When a slice has not the size that the others say, or `filter` is packed for another path.
pub fn product(
    isa: Isa,
    x: Quantized<'_>,
    filter: &ByteFilter,
    scale: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let (_, Panels { cols: n, reduction: k, .. }) = filter.layout;
    assert_eq!(scale.len(), n, "scales of {n} columns");
    let shape = ConvShape::of_matrices(y.len().checked_div(n).unwrap_or(0), k, n);
    let init: Vec<i32> = filter.sums.iter().map(|sum| sum.wrapping_mul(-i32::from(x.zero_point))).collect();
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias of {n} columns");
    let padded = |row: &[f32], times: f32| {
        let mut row: Vec<f32> = row.iter().map(|x| times * x).collect();
        row.resize(init.len(), 0.0);
        row
    };
    let (scale, bias) = (padded(scale, x.scale), bias.map(|bias| padded(bias, 1.0)));
    let bounds = (f32::NEG_INFINITY, f32::INFINITY);
    let columns = Columns { init: &init, scale: &scale, bias: bias.as_deref() };
    convolve(isa, &shape, x.bytes, filter, columns, Output::Floats { y, bounds });
}

/// What the sums of the columns start from and are multiplied with, and what is added then, rounded up to whole vectors.
#[derive(Clone, Copy)]
struct Columns<'a> {
    init: &'a [i32],
    scale: &'a [f32],
    bias: Option<&'a [f32]>,
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
    assert!(columns.bias.is_none_or(|bias| bias.len() == padded), "bias of {shape:?}");
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
