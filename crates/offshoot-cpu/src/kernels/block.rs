//! An inverted residual block in one pass: a convolution that expands, a depthwise one and a pointwise one.
//!
//! The tensors between them are several times as large as what goes in and comes out. A task owns a band of output
//! rows of one picture and goes through it in strips so low that both tensors stay in its core's second-level cache;
//! rows that two strips of a band share are kept. The convolutions are the kernels that would run one after the
//! other, on pictures of a few rows, so that the result is bit-identical to theirs, however the work is split.

use std::ops::Range;

use super::conv::{Epilogue, PackedFilter, activations_len, conv};
use super::element::Element;
use super::parallel::{self, LINE, Shared};
use super::simd::Isa;
use super::{Activation, ConvShape, depthwise};

/// Elements of the tensors between, for a strip: 400 KiB in f32, which leaves room in a second-level cache of 1 MiB for what
/// the convolutions themselves gather.
const STRIP: usize = 100 << 10;

/// Of the rows of the expanded tensor, bands may share one in this many, which is computed twice.
const SHARED: usize = 8;

/// A dense convolution of a block.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    /// Its shape on whole pictures.
    pub shape: ConvShape,
    /// Packed for `shape`.
    pub filter: &'a PackedFilter,
    /// One float an output channel.
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// The depthwise convolution of a block.
#[derive(Clone, Copy, Debug)]
pub struct Depthwise<'a> {
    /// Its shape on whole pictures.
    pub shape: ConvShape,
    /// Packed by [`depthwise::pack`].
    pub weights: &'a [f32],
    /// One float a channel.
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// Convolutions that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Makes the input of the depthwise convolution, if that is not the block's own input.
    pub expand: Option<Dense<'a>>,
    /// Comes second.
    pub depthwise: Depthwise<'a>,
    /// Comes last; its windows are one row high.
    pub project: Dense<'a>,
}

/// The shapes of a block's convolutions.
#[derive(Clone, Copy, Debug)]
pub struct BlockShape {
    /// That of [`Block::expand`].
    pub expand: Option<ConvShape>,
    /// That of [`Block::depthwise`].
    pub depthwise: ConvShape,
    /// That of [`Block::project`].
    pub project: ConvShape,
}

/// How a block is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Bands of a picture.
    bands: usize,
    /// Output rows of a strip.
    strip: usize,
}

impl BlockShape {
    /// Elements of a row of the expanded tensor (none if it is the block's input), and of one of the depthwise output.
    fn widths(&self) -> [usize; 2] {
        let expanded = self.expand.map_or(0, |shape| shape.out_w * shape.out_c);
        [expanded, self.depthwise.out_w * self.depthwise.out_c]
    }

    /// Rows of the expanded tensor under `rows` output rows.
    fn expanded_rows(&self, rows: usize) -> usize {
        let shape = &self.depthwise;
        ((rows - 1) * shape.strides[0] + window(shape)).min(shape.in_h)
    }

    /// Elements of the tensors between, for a strip of `rows` output rows.
    fn strip_len(&self, rows: usize) -> usize {
        let [expanded, middle] = self.widths();
        self.expanded_rows(rows) * expanded + rows * middle
    }

    /// Whether the convolutions make a block, and it is faster than they are one after the other.
    pub fn pays(&self) -> bool {
        let BlockShape { expand, depthwise, project } = self;
        let dense = expand.iter().chain([project]).all(|shape| shape.groups == 1);
        // Dense convolutions with larger windows may add up in an order that depends on where their rows start.
        let plain =
            expand.is_none_or(|expand| expand.kernel == [1, 1] || expand.strides.iter().all(|&s| s > 1));
        dense
            && plain
            && depthwise::supports(depthwise)
            && follow(self)
            && self.saves()
            && self.fills_threads()
    }

    /// Whether what stays in the cache outweighs the filters, which are read again for every picture.
    fn saves(&self) -> bool {
        let [expanded, middle] = self.widths();
        let between = expanded * self.depthwise.in_h + middle * self.depthwise.out_h;
        let filter = |shape: &ConvShape| shape.in_c * shape.out_c * shape.kernel[0] * shape.kernel[1];
        between > filter(&self.project) + self.expand.as_ref().map_or(0, filter)
    }

    /// Whether no thread waits long for the others.
    fn fills_threads(&self) -> bool {
        let (tasks, threads) = (self.depthwise.batch * self.cut().bands, rayon::current_num_threads());
        4 * tasks >= 3 * tasks.next_multiple_of(threads)
    }

    /// Bands enough for every thread, as far as they share few rows, and strips that fit.
    fn cut(&self) -> Cut {
        let ConvShape { batch, in_h, out_h, strides, .. } = self.depthwise;
        let shared = window(&self.depthwise).saturating_sub(strides[0]);
        let most = 1 + if self.expand.is_some() { in_h / (SHARED * shared).max(1) } else { out_h / SHARED };
        let wanted = (4 * rayon::current_num_threads()).div_ceil(batch.max(1));
        let bands = wanted.min(most).min(out_h.max(1));
        let rows = out_h.div_ceil(bands).max(1);
        let fit = (1..=rows).rev().find(|&rows| self.strip_len(rows) <= STRIP).unwrap_or(1);
        Cut { bands, strip: rows.div_ceil(rows.div_ceil(fit)) }
    }
}

/// Rows of the input under an output row.
fn window(shape: &ConvShape) -> usize {
    shape.kernel[0].saturating_sub(1) * shape.dilations[0] + 1
}

/// The convolution that makes the output rows `rows` of one picture, and the input rows that it reads.
fn strip(shape: &ConvShape, rows: &Range<usize>) -> (ConvShape, Range<usize>) {
    let [top, left, _, right] = shape.pads;
    let first = rows.start * shape.strides[0];
    let last = rows.end.saturating_sub(1) * shape.strides[0] + window(shape);
    let start = first.saturating_sub(top).min(shape.in_h);
    let end = last.saturating_sub(top).clamp(start, shape.in_h);
    let pads = [top.saturating_sub(first), left, last.saturating_sub(top + end), right];
    (ConvShape { batch: 1, in_h: end - start, out_h: rows.len(), pads, ..*shape }, start..end)
}

/// Rows `rows` of `picture` in a tensor of rows of `width` elements.
fn part(picture: usize, height: usize, rows: &Range<usize>, width: usize) -> Range<usize> {
    (picture * height + rows.start) * width..(picture * height + rows.end) * width
}

impl Block<'_> {
    fn shape(&self) -> BlockShape {
        BlockShape {
            expand: self.expand.map(|expand| expand.shape),
            depthwise: self.depthwise.shape,
            project: self.project.shape,
        }
    }
}

/// What the tasks of a block share.
struct Task<'a, E> {
    isa: Isa,
    block: &'a Block<'a>,
    strip: usize,
    x: &'a [E],
    residual: Option<&'a [E]>,
}

impl<E: Element> Task<'_, E> {
    /// Makes the output rows `rows` of `picture`.
    fn band(&self, picture: usize, rows: Range<usize>, scratch: &mut [E], y: &mut [E]) {
        let [width, middle_width] = self.block.shape().widths();
        let (depthwise, project) = (&self.block.depthwise, &self.block.project);
        let expanded = self.block.shape().expanded_rows(self.strip) * width;
        let (expanded, middle) = scratch.split_at_mut(expanded.next_multiple_of(LINE));
        let mut held = 0..0;
        for start in rows.clone().step_by(self.strip) {
            let out = start..rows.end.min(start + self.strip);
            let (shape, needed) = strip(&depthwise.shape, &out);
            let source = match &self.block.expand {
                Some(expand) => {
                    self.expand(expand, picture, &held, &needed, expanded);
                    &expanded[..needed.len() * width]
                }
                None => {
                    let width = depthwise.shape.in_w * depthwise.shape.in_c;
                    &self.x[part(picture, depthwise.shape.in_h, &needed, width)]
                }
            };
            let middle = &mut middle[..out.len() * middle_width];
            let Depthwise { weights, bias, activation, .. } = *depthwise;
            depthwise::forward(self.isa, &shape, source, weights, bias, (activation, None), middle);
            held = needed;

            let (shape, _) = strip(&project.shape, &out);
            let width = shape.out_w * shape.out_c;
            let residual = self.residual.map(|r| &r[part(picture, project.shape.out_h, &out, width)]);
            let epilogue =
                Epilogue { bias: project.bias, residual, activation: project.activation, then: None };
            let y = &mut y[(out.start - rows.start) * width..(out.end - rows.start) * width];
            conv(self.isa, &shape, middle, project.filter, &epilogue, y);
        }
    }

    /// Makes the rows `needed` of the expanded tensor, of which `to` holds the rows `held` of the strip above.
    fn expand(
        &self,
        expand: &Dense<'_>,
        picture: usize,
        held: &Range<usize>,
        needed: &Range<usize>,
        to: &mut [E],
    ) {
        let width = expand.shape.out_w * expand.shape.out_c;
        let new = held.end.clamp(needed.start, needed.end)..needed.end;
        let kept = new.start - needed.start;
        if kept > 0 {
            let from = (needed.start - held.start) * width;
            to.copy_within(from..from + kept * width, 0);
        }
        if new.is_empty() {
            return;
        }
        let (shape, reads) = strip(&expand.shape, &new);
        let x = part(picture, expand.shape.in_h, &reads, expand.shape.in_w * expand.shape.in_c);
        let epilogue =
            Epilogue { bias: expand.bias, residual: None, activation: expand.activation, then: None };
        let to = &mut to[kept * width..needed.len() * width];
        conv(self.isa, &shape, &self.x[x], expand.filter, &epilogue, to);
    }
}

/// `y = project(depthwise(expand(x)))`, NHWC, where `residual`, as large as `y`, is added before the last activation.
///
/// # Panics
/// When the shapes do not follow each other, a slice has not the size that they say, or a filter is packed for other elements.
pub fn block<E: Element>(isa: Isa, block: &Block<'_>, x: &[E], residual: Option<&[E]>, y: &mut [E]) {
    let shape = block.shape();
    let first = shape.expand.unwrap_or(shape.depthwise);
    let ([input, _], [_, output]) = (activations_len(&first), activations_len(&shape.project));
    shape.depthwise.check();
    assert!(follow(&shape), "{shape:?} do not follow each other");
    assert_eq!([x.len(), y.len()], [input, output], "input and output of {shape:?}");
    assert!(residual.is_none_or(|residual| residual.len() == y.len()), "residual of {shape:?}");

    let ConvShape { batch, out_h, .. } = shape.project;
    let width = shape.project.out_w * shape.project.out_c;
    let Cut { bands, strip } = shape.cut();
    let len = shape.strip_len(strip) + LINE;
    let task = Task { isa, block, strip, x, residual };
    let out = Shared(y.as_mut_ptr());
    parallel::for_each_task(batch * bands, usize::MAX, |index| {
        let (picture, band) = (index / bands, index % bands);
        let rows = parallel::part(out_h, bands, band);
        let place = part(picture, out_h, &rows, width);
        // Safety: the bands of all pictures are disjoint, and lie within `y`.
        let y = unsafe { std::slice::from_raw_parts_mut(out.get().add(place.start), place.len()) };
        // (The scratch is one of floats, none of which is smaller than an element.)
        parallel::serially(len, |scratch| task.band(picture, rows, bytemuck::cast_slice_mut(scratch), y));
    });
}

/// Whether each convolution makes the input of the next, and the last has windows of one row.
fn follow(shape: &BlockShape) -> bool {
    let output = |s: &ConvShape| [s.batch, s.out_h, s.out_w, s.out_c];
    let input = |s: &ConvShape| [s.batch, s.in_h, s.in_w, s.in_c];
    let BlockShape { expand, depthwise, project } = shape;
    let row_by_row = project.kernel[0] == 1 && project.strides[0] == 1 && project.pads[0] == 0;
    row_by_row
        && project.in_h == project.out_h
        && expand.is_none_or(|expand| output(&expand) == input(depthwise))
        && output(depthwise) == input(project)
}
