//! Windows that are read where they lie, in lines of the source that were copied with their padding: a strip.
//!
//! The rows of a product are then pixels of padded lines, one after the other, also those where no window starts: their sums are not
//! looked at. That is fewer copies than a row for each window, which has most elements several times, and what a tile reads stays in a
//! first-level cache.

use std::ops::Range;
use std::ptr;

use half::bf16;

use super::block::{Block, Place, Rows, Sums};
use super::copy::copy;
use super::{Cells, Gather, Pixel, Tap};
use crate::kernels::element::View;
use crate::kernels::parallel;
use crate::kernels::prefetch::Stream;
use crate::kernels::simd::Simd;
use crate::kernels::simd::tiles::{self, Factors, MOST_ROWS, Product, ROWS, STEP};
use crate::kernels::tile::Layout;

/// Most cells of a part of the reduction. (Sums are loaded and stored again for each: that is why there are few.)
const DEPTH: usize = 384;

/// Most cells of a run that is not cut: of longer ones, what a tile reads is too much for a first-level cache.
const RUN: usize = 192;

/// Most bytes of a strip: a part of a second-level cache of 2 MiB.
const MOST: usize = 512 << 10;

/// Elements of a cache line.
const LINE: usize = 32;

/// How windows are read from strips. It does not change the result.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    /// Height and width of a picture of the source with its padding.
    padded: [usize; 2],
    /// The source's row and column that the padded picture starts with.
    first: [isize; 2],
    /// Channels, and elements from a pixel to the next.
    depth: usize,
    pitch: usize,
    /// Rows of the kernel, runs of elements that follow one another in each, and cells of a run.
    rows: usize,
    runs: usize,
    run_cells: usize,
    /// Most lines of a strip, and most rows of a product.
    lines: usize,
    pub(super) most_rows: usize,
}

impl Strip {
    /// For blocks of at most `pixels` pixels, where it can be done and pays.
    pub(super) fn new(gather: &Gather, cells: Cells, pixels: usize) -> Option<Strip> {
        /// Sums of a pixel that take as long as copying its window.
        const COLUMNS: usize = 80;
        let [rows, cols] = &gather.taps;
        let follow = |taps: &[Tap]| taps.windows(2).all(|pair| pair[1].offset == pair[0].offset + 1);
        let ([height, width], depth) = (gather.grid, gather.depth);
        let dense = gather.groups == 1 && gather.step == [1, 1] && follow(rows) && follow(cols);
        if cells != Cells::Tiles || !dense || rows.len() * cols.len() < 2 || height * width * depth == 0 {
            return None;
        }
        let whole = cells.elements() * cells.step();
        // Pixels an even number of cache lines apart would share few sets of a cache, unless all that lies between them is read too.
        let apart = depth >= 4 * LINE && depth.is_multiple_of(2 * LINE);
        let (runs, run) = if apart { (cols.len(), depth) } else { (1, cols.len() * depth) };
        if !run.is_multiple_of(whole) {
            return None;
        }
        let padded = [height + rows.len() - 1, width + cols.len() - 1];
        // Where a block is more than a picture, the rows between two pictures are computed too.
        let [own, all] = match height * width > pixels {
            true => [width, padded[1]],
            false => [height * width, padded[0].checked_mul(padded[1])?],
        };
        let pictures = (pixels - 1) / (height * width) + 1;
        let lines = (pixels + width - 2) / width + 1 + pictures * (rows.len() - 1);
        let strip = Strip {
            padded,
            first: [rows[0].offset, cols[0].offset],
            depth,
            pitch: if apart { depth + LINE } else { depth },
            rows: rows.len(),
            runs,
            run_cells: cells.of(run),
            lines: lines + rows.len() - 1,
            most_rows: (lines * padded[1]).next_multiple_of(ROWS),
        };
        let pays = (all - own).checked_mul(gather.cols)? < COLUMNS * own;
        (pays && strip.floats() * size_of::<f32>() <= MOST).then_some(strip)
    }

    /// Floats of a strip, with what is read beyond its last pixel.
    pub(super) fn floats(&self) -> usize {
        let pixels = self.lines * self.padded[1] + 2 * ROWS;
        (pixels * self.pitch / 2 + self.run_cells).next_multiple_of(parallel::LINE)
    }

    /// Where a pixel is among those of all padded lines.
    pub(super) fn place(&self, pixel: Pixel) -> usize {
        (pixel.image * self.padded[0] + pixel.y) * self.padded[1] + pixel.x
    }

    /// Runs that a part of the reduction has, or parts of a run.
    fn runs_or_pieces(&self) -> Result<usize, usize> {
        match self.run_cells > RUN {
            true => Err(self.run_cells.div_ceil(RUN)),
            // (Runs of several rows are as far apart as the rows where a row has one.)
            false if self.runs == 1 => Ok((DEPTH / self.run_cells).min(self.rows)),
            false => Ok((DEPTH / self.run_cells).min(self.runs)),
        }
    }

    /// Parts of the reduction.
    pub(super) fn parts(&self) -> usize {
        match self.runs_or_pieces() {
            Err(pieces) => self.rows * self.runs * pieces,
            Ok(runs) if self.runs == 1 => self.rows.div_ceil(runs),
            Ok(runs) => self.rows * self.runs.div_ceil(runs),
        }
    }

    /// The cells of part `index`, a multiple of `step`.
    pub(super) fn part(&self, index: usize, step: usize) -> Range<usize> {
        let cells = self.run_cells;
        let of_runs =
            |first: usize, runs: Range<usize>| (first + runs.start) * cells..(first + runs.end) * cells;
        match self.runs_or_pieces() {
            Err(pieces) => {
                let part = parallel::part(cells / step, pieces, index % pieces);
                let first = index / pieces * cells;
                first + part.start * step..first + part.end * step
            }
            Ok(_) if self.runs == 1 => of_runs(0, parallel::part(self.rows, self.parts(), index)),
            Ok(runs) => {
                let of_row = self.runs.div_ceil(runs);
                of_runs(index / of_row * self.runs, parallel::part(self.runs, of_row, index % of_row))
            }
        }
    }

    /// Copies the lines that are read from the pixels at `places`.
    ///
    /// # Safety
    /// `S` is available, `source` has the pictures of `gather`, and `to` has [`Strip::floats`].
    #[inline(always)]
    pub(super) unsafe fn copy<S: Simd>(
        &self,
        gather: &Gather,
        source: *const bf16,
        places: Range<usize>,
        to: *mut bf16,
    ) {
        let ([height, width], [padded_h, padded_w], depth) = (gather.source, self.padded, self.depth);
        let lines = places.start / padded_w..(places.end - 1) / padded_w + self.rows;
        let left = (-self.first[1]).clamp(0, padded_w as isize) as usize;
        let from = self.first[1].max(0) as usize;
        let inside = width.saturating_sub(from).min(padded_w - left);
        for (i, line) in lines.enumerate() {
            let (image, y) = (line / padded_h, (line % padded_h) as isize + self.first[0]);
            // Safety: the caller's; what a copy writes behind a pixel or a line comes before the next one, or is in the room behind the last.
            unsafe {
                let to = to.add(i * padded_w * self.pitch);
                if y < 0 || y >= height as isize {
                    to.write_bytes(0, padded_w * self.pitch);
                    continue;
                }
                to.write_bytes(0, left * self.pitch);
                let row = source.wrapping_add(((image * height + y as usize) * width + from) * depth);
                if self.pitch == depth {
                    copy::<S, bf16, bf16>(row, to.add(left * depth), inside * depth);
                } else {
                    for x in 0..inside {
                        copy::<S, bf16, bf16>(row.add(x * depth), to.add((left + x) * self.pitch), depth);
                    }
                }
                let end = left + inside;
                to.add(end * self.pitch).write_bytes(0, (padded_w - end) * self.pitch);
            }
        }
    }

    /// Where the windows of the pixels at `places` are in the strip that was copied for them, from cell `cell` of the reduction on; in floats.
    pub(super) fn start(&self, places: &Range<usize>, cell: usize) -> usize {
        let run = cell / self.run_cells;
        let pixel = places.start % self.padded[1] + run / self.runs * self.padded[1] + run % self.runs;
        pixel * self.pitch / 2 + cell % self.run_cells
    }

    /// Runs in a part of so many cells, the cells of each, and bytes from the end of one to the next.
    pub(super) fn runs_of(&self, cells: usize) -> (usize, usize, isize) {
        let len = cells.min(self.run_cells);
        let pixels = if self.runs == 1 { self.padded[1] } else { 1 };
        let gap = (pixels * self.pitch_bytes()) as isize - (len * size_of::<f32>()) as isize;
        (cells / len, len, gap)
    }

    /// Bytes from the window of a pixel to the next.
    pub(super) fn pitch_bytes(&self) -> usize {
        self.pitch * size_of::<bf16>()
    }
}

impl<L: Layout> Block<'_, L> {
    /// Copies the strip of a block.
    #[inline(always)]
    pub(super) unsafe fn copy_strip<S: Simd>(&mut self, strip: &Strip, places: Range<usize>) {
        if let View::Bf16(source) = self.operands.source {
            let to = self.scratch.as_mut_ptr().cast();
            // Safety: the caller's; the source has the pictures of the gather.
            unsafe { strip.copy::<S>(self.plan.gather, source.as_ptr(), places, to) };
        }
    }

    /// Multiplies the windows in the strip with one panel of so many columns, on tiles.
    #[inline(always)]
    pub(super) unsafe fn multiply_strip(
        &self,
        strip: &Strip,
        place: &Place,
        (filter, columns): (*const f32, usize),
        sums: &Sums<'_>,
        rows: &Rows<'_>,
    ) {
        let (plan, depth) = (self.plan, &place.depth);
        let (parts, cells, gap) = strip.runs_of(depth.len());
        let left = self.scratch.as_ptr().wrapping_add(strip.start(&rows.places, depth.start));
        let next = filter.wrapping_add(depth.len() * columns);
        let out_row = 4 * rows.stage_cols;
        // Whole tiles: others have to be configured.
        let all = rows.places.len().next_multiple_of(ROWS);
        let count = all.div_ceil(MOST_ROWS);
        for i in 0..count {
            let first = i * MOST_ROWS;
            // Safety: the strip and the stage have room for these rows.
            unsafe {
                if place.last {
                    let targets = parallel::part(rows.targets.len(), count, i);
                    self.ask_for_target(place.panel * plan.panel, &rows.targets[targets]);
                }
                Stream::of_panel(next, [depth.len(), columns], i, count).advance(depth.len());
                let out = sums.out.add(first * rows.stage_cols);
                let start = if place.first { ptr::null() } else { out.cast_const() };
                let product = Product {
                    a: left.cast::<u8>().add(first * strip.pitch_bytes()),
                    a_row: strip.pitch_bytes(),
                    parts,
                    steps: 4 * cells / STEP,
                    gap,
                    b: filter.cast(),
                    b_row: 4 * columns,
                    start: start.cast(),
                    start_row: out_row,
                    out: out.cast(),
                    out_row,
                    rows: MOST_ROWS.min(all - first),
                    columns,
                };
                tiles::multiply(plan.isa.emulates_tiles(), Factors::Bf16, &product);
            }
        }
    }
}
