//! Rows of pictures in scratch, block by block of channels, and where the results of a strip go.

use std::ops::Range;

use super::{BLOCK, Channels};
use crate::kernels::ConvShape;
use crate::kernels::convert::round_area;
use crate::kernels::element::{Element, Stored};
use crate::kernels::prefetch::Stream;
use crate::kernels::rows::{Area, Map, load_all, store};
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::source::{Reader, Source};

/// How the rows of a block of channels lie in scratch.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    /// Pixels of zeros at the left, and pixels of a row in all.
    pub(super) left: usize,
    width: usize,
    /// Rows that there is room for: row `r` of a picture is in place `r % slots`.
    slots: usize,
}

impl Lines {
    /// Those of the input, of which a strip needs at most `rows`, with zeros where windows reach out of it.
    pub(super) fn of_input(shape: &ConvShape, rows: usize) -> Lines {
        let left = shape.pads[1];
        let reached = (shape.out_w.max(1) - 1) * shape.strides[1] + shape.kernel[1];
        Lines { left, width: (shape.in_w + left).max(reached), slots: rows }
    }

    /// Those of the output's gradient, with zeros where input pixels would read outside of it.
    pub(super) fn of_gradient(shape: &ConvShape, rows: usize) -> Lines {
        let ([kernel, stride], pad) = ([shape.kernel[1], shape.strides[1]], shape.pads[1]);
        let left = (kernel - 1).saturating_sub(pad).div_ceil(stride);
        let width = left + shape.out_w.max((shape.in_w + pad).saturating_sub(1) / stride + 1);
        Lines { left, width, slots: rows }
    }

    /// Floats of a block.
    pub(super) fn block(&self) -> usize {
        self.slots * self.width * BLOCK
    }

    /// Where a row of a block starts.
    #[inline(always)]
    fn row(&self, row: usize) -> usize {
        row % self.slots * self.width * BLOCK
    }
}

/// Rows of a picture in scratch.
pub(super) struct Ring<'a, E> {
    source: &'a Source<'a, E>,
    /// Rows and columns of a picture.
    size: [usize; 2],
    channels: usize,
    lines: Lines,
    /// The rows that are there, of all blocks.
    pub(super) held: Range<usize>,
    /// Block by block.
    scratch: &'a mut [f32],
}

impl<'a, E: Element> Ring<'a, E> {
    pub(super) fn new(
        source: &'a Source<'a, E>,
        size: [usize; 2],
        channels: usize,
        lines: Lines,
        scratch: &'a mut [f32],
    ) -> Ring<'a, E> {
        scratch.fill(0.0);
        Ring { source, size, channels, lines, held: 0..0, scratch }
    }

    /// Those of `rows` that are not there yet.
    pub(super) fn missing(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start.max(self.held.end.min(rows.end))..rows.end
    }

    /// Brings a group of `rows` of a picture.
    pub(super) fn bring(&mut self, isa: Isa, image: usize, rows: Range<usize>, group: Channels) {
        let [height, width] = self.size;
        let first = image * height * width;
        let pixels = first + rows.start * width..first + rows.end * width;
        let channels = group.first..group.first + group.n;
        let to = &mut self.scratch[group.first / BLOCK * self.lines.block()..];
        let reader = ReadBlocks { isa, pitch: self.channels, width, rows, n: group.n, lines: self.lines, to };
        // Safety: `visit` checks that these pixels and channels are there, and the reader reads no others; what it writes it takes from
        // a slice, of blocks that have a place for each row.
        unsafe { self.source.visit(self.channels, pixels, channels, reader) };
    }

    /// The rows that are there.
    pub(super) fn held(&self) -> Held<'_> {
        Held { floats: self.scratch, lines: self.lines }
    }

    /// A group's share of the memory of the `count` rows after `held`.
    pub(super) fn next(&self, image: usize, held: usize, count: usize, group: Channels) -> [&'a [u8]; 2] {
        let [height, width] = self.size;
        let rows = held..height.min(held + count);
        let first = image * height * width;
        let pixels = first + rows.start * width..first + rows.end * width;
        self.source.streams(self.channels, &pixels).map(|bytes| {
            let at = |channel: usize| bytes.len() / self.channels * channel;
            &bytes[at(group.first)..at(group.first + group.n)]
        })
    }
}

/// What asks for some memory while a group's channels are worked on, bit by bit.
#[derive(Clone, Copy)]
pub(super) struct Ahead<const N: usize>([Stream; N]);

impl<const N: usize> Ahead<N> {
    #[inline(always)]
    pub(super) fn new(next: [&[u8]; N], steps: usize) -> Ahead<N> {
        let mut streams = [Stream::NOTHING; N];
        for (stream, bytes) in streams.iter_mut().zip(next) {
            *stream = Stream::of_bytes(bytes, steps);
        }
        Ahead(streams)
    }

    #[inline(always)]
    pub(super) fn advance(&mut self, steps: usize) {
        for stream in &mut self.0 {
            stream.advance(steps);
        }
    }
}

/// Into the blocks of a ring.
struct ReadBlocks<'a> {
    isa: Isa,
    /// Elements from a pixel to the next.
    pitch: usize,
    /// Pixels of a row.
    width: usize,
    rows: Range<usize>,
    /// Channels.
    n: usize,
    lines: Lines,
    /// From the first block on.
    to: &'a mut [f32],
}

impl<E: Element> Reader<E> for ReadBlocks<'_> {
    unsafe fn read<const N: usize, const P: usize>(
        self,
        inputs: [*const E; N],
        params: [*const f32; P],
        map: impl Map<N, P>,
    ) {
        dispatch(self.isa, ReadBlocksWith { blocks: self, inputs, params, map });
    }
}

/// What [`ReadBlocks`] runs.
struct ReadBlocksWith<'a, E, const N: usize, const P: usize, F> {
    blocks: ReadBlocks<'a>,
    inputs: [*const E; N],
    params: [*const f32; P],
    map: F,
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> Kernel for ReadBlocksWith<'_, E, N, P, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let n = self.blocks.n;
        for c in (0..n).step_by(S::LANES) {
            // Safety: the channels are the group's.
            unsafe {
                match n - c < S::LANES {
                    false => self.channels::<S, true>(c, S::LANES),
                    true => self.channels::<S, false>(c, n - c),
                }
            }
        }
    }
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> ReadBlocksWith<'_, E, N, P, F> {
    /// A vector of channels, `n` of them, from `c` on.
    #[inline(always)]
    unsafe fn channels<S: Simd, const FULL: bool>(&mut self, c: usize, n: usize) {
        let ReadBlocks { pitch, width, ref rows, lines, ref mut to, .. } = self.blocks;
        let to = &mut to[c / BLOCK * lines.block()..][..lines.block()];
        // Safety: the caller's; a row of the block has as many pixels behind the zeros at its left.
        unsafe {
            let p = load_all::<S, f32, P, FULL>(self.params, c, n);
            for (i, row) in rows.clone().enumerate() {
                let to = to.as_mut_ptr().add(lines.row(row) + lines.left * BLOCK + c % BLOCK);
                for pixel in 0..width {
                    let x = load_all::<S, E, N, FULL>(self.inputs, (i * width + pixel) * pitch + c, n);
                    store::<S, f32, FULL>(to.add(pixel * BLOCK), n, self.map.call::<S>(x, p));
                }
            }
        }
    }
}

/// The rows of a picture in scratch, to be read.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    floats: &'a [f32],
    pub(super) lines: Lines,
}

impl Held<'_> {
    /// A channel of a pixel, the first of a vector; columns count from the first of the zeros at the left.
    ///
    /// # Safety
    /// There is such a row, with such a column.
    #[inline(always)]
    pub(super) unsafe fn at(&self, row: usize, column: usize, channel: usize) -> *const f32 {
        let block = channel / BLOCK * self.lines.block();
        // Safety: the caller's.
        unsafe { self.floats.as_ptr().add(block + self.lines.row(row) + column * BLOCK + channel % BLOCK) }
    }
}

/// Where the results of a strip go: to memory, or to scratch where they are rounded when they are done.
pub(super) struct Results<'a, E> {
    /// The first of the strip's pixels of the tensor, and channels of that.
    pub(super) out: *mut E,
    pub(super) pitch: usize,
    pub(super) stage: &'a mut [f32],
}

impl<E: Element> Results<'_, E> {
    /// The first channel of the first pixel, and floats from a pixel to the next.
    pub(super) fn floats(&mut self) -> (*mut f32, usize) {
        let pitch = self.pitch;
        if E::DTYPE == f32::DTYPE { (self.out.cast(), pitch) } else { (self.stage.as_mut_ptr(), pitch) }
    }

    /// Rounds a group of what was stored there, `pixels` of them.
    ///
    /// # Safety
    /// The tensor has as many from the first on, and so has the stage.
    pub(super) unsafe fn done(&self, isa: Isa, pixels: usize, group: Channels) {
        if E::DTYPE != f32::DTYPE {
            let area = Area { rows: pixels, pitch: self.pitch, cols: group.n };
            let from = self.stage[group.first..].as_ptr();
            // Safety: the caller's.
            unsafe { round_area(isa, (from, self.pitch), self.out.add(group.first), area) };
        }
    }
}

/// Floats of a stage for so many results.
pub(super) fn stage_len<E: Element>(results: usize) -> usize {
    if E::DTYPE == f32::DTYPE { 0 } else { results }
}
