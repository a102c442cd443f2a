//! Copies of source pixels into scratch, and prefetching of those that come next.

use std::ops::Range;

use half::bf16;

use super::{Gather, Pixel, Run};
use crate::kernels::element::{Element, View};
use crate::kernels::parallel;
use crate::kernels::prefetch;
use crate::kernels::simd::Simd;

impl Gather {
    /// Copies elements `range` of the reduction of one pixel to `to`.
    ///
    /// # Safety
    /// `source` holds the source pictures, `runs` comes from [`Gather::runs`], and `to` has room for `range` and one
    /// vector more.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn copy<S: Simd, E: CopyTo<T>, T>(
        &self,
        runs: &[Run],
        source: *const E,
        pixel: Pixel,
        group: usize,
        range: Range<usize>,
        to: *mut T,
    ) {
        let [height, width] = self.source;
        let channels = self.source_c();
        let image = pixel.image * height;
        let (y0, x0) = ((pixel.y * self.step[0]) as isize, (pixel.x * self.step[1]) as isize);
        for run in runs {
            let (start, end) = (range.start.max(run.start), range.end.min(run.start + run.len));
            if start >= end {
                continue;
            }
            let len = (end - start) as isize;
            let y = y0 + run.y;
            // Safety: `to` has room; elements `left..right` of the run are within row `y` of the source.
            unsafe {
                let to = to.add(start - range.start);
                if y < 0 || y >= height as isize {
                    E::zero::<S>(to, len as usize);
                    continue;
                }
                let row = source.add((image + y as usize) * width * channels);
                let first =
                    (x0 + run.x) * channels as isize + (group * self.depth + start - run.start) as isize;
                let span = (width * channels) as isize;
                if first >= 0 && first + len <= span {
                    copy::<S, E, T>(row.offset(first), to, len as usize);
                    continue;
                }
                let left = (-first).clamp(0, len);
                let right = (span - first).clamp(left, len);
                E::zero::<S>(to, left as usize);
                let inside = row.wrapping_offset(first + left);
                copy::<S, E, T>(inside, to.offset(left), (right - left) as usize);
                E::zero::<S>(to.offset(right), (len - right) as usize);
            }
        }
    }
}

/// Most stretches that [`Inner`] knows.
const PIECES: usize = 8;

/// A stretch of the reduction: where it goes, how long it is, and where it starts, from the source pixel that the grid's
/// step leads to.
#[derive(Clone, Copy, Default)]
pub(in crate::kernels) struct Piece {
    pub(in crate::kernels) to: usize,
    pub(in crate::kernels) len: usize,
    pub(in crate::kernels) offset: isize,
}

/// How part of the reduction is gathered for pixels whose windows no border cuts: the same pieces for each of them.
pub(in crate::kernels) struct Inner<'a> {
    gather: &'a Gather,
    pieces: [Piece; PIECES],
    count: usize,
    /// The rows and columns of these pixels in the grid.
    ranges: [Range<usize>; 2],
}

impl<'a> Inner<'a> {
    /// For elements `depth` of the reduction of `group`, unless they are in too many pieces.
    pub(in crate::kernels) fn new(
        gather: &'a Gather,
        runs: &[Run],
        group: usize,
        depth: &Range<usize>,
    ) -> Option<Inner<'a>> {
        let channels = gather.source_c() as isize;
        let (mut pieces, mut count) = ([Piece::default(); PIECES], 0);
        for run in runs {
            let (start, end) = (depth.start.max(run.start), depth.end.min(run.start + run.len));
            if start < end {
                let pixel = run.y * gather.source[1] as isize + run.x;
                let offset = pixel * channels + (group * gather.depth + start - run.start) as isize;
                *pieces.get_mut(count)? = Piece { to: start - depth.start, len: end - start, offset };
                count += 1;
            }
        }
        Some(Inner { gather, pieces, count, ranges: [gather.inner(0)?, gather.inner(1)?] })
    }

    #[inline(always)]
    pub(in crate::kernels) fn has(&self, pixel: Pixel) -> bool {
        self.ranges[0].contains(&pixel.y) && self.ranges[1].contains(&pixel.x)
    }

    /// As [`Gather::copy`], for a pixel that this has.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn copy<S: Simd, E: CopyTo<T>, T>(&self, source: *const E, pixel: Pixel, to: *mut T) {
        let start = self.start(source, pixel);
        for piece in self.pieces() {
            // Safety: the pieces are within the source, and `to` has room.
            unsafe { copy::<S, E, T>(start.wrapping_offset(piece.offset), to.add(piece.to), piece.len) };
        }
    }

    /// The source pixel that the grid's step leads to from `pixel`.
    #[inline(always)]
    pub(in crate::kernels) fn start<E>(&self, source: *const E, pixel: Pixel) -> *const E {
        let Gather { source: [height, width], step, .. } = *self.gather;
        let row = pixel.image * height + pixel.y * step[0];
        source.wrapping_add((row * width + pixel.x * step[1]) * self.gather.source_c())
    }

    /// What is gathered of each pixel.
    #[inline(always)]
    pub(in crate::kernels) fn pieces(&self) -> &[Piece] {
        &self.pieces[..self.count]
    }
}

/// Pixels that will be gathered next. Their source rows are asked for in small portions, while tiles are being
/// multiplied, so that the copy does not wait for memory.
pub(in crate::kernels) struct Ahead {
    pub(in crate::kernels) pixels: Range<usize>,
    pub(in crate::kernels) group: usize,
    pub(in crate::kernels) depth: Range<usize>,
    /// Portions to ask in.
    pub(in crate::kernels) portions: usize,
}

impl Gather {
    /// Asks for portion `index` of `ahead`, if the convolution is pointwise: others have so much to do for each
    /// source row that the processor's own prefetching keeps up.
    #[inline(always)]
    pub(in crate::kernels) fn prefetch(&self, source: View<'_>, ahead: &Ahead, index: usize) {
        let [rows, cols] = &self.taps;
        if rows.len() * cols.len() != 1 {
            return;
        }
        let pixels = parallel::part(ahead.pixels.len(), ahead.portions, index);
        let mut pixel = self.pixel(ahead.pixels.start + pixels.start);
        for _ in pixels {
            let y = (pixel.image * self.source[0] + pixel.y * self.step[0]) as isize + rows[0].offset;
            let x = (pixel.x * self.step[1]) as isize + cols[0].offset;
            let first = (y * self.source[1] as isize + x) * self.source_c() as isize;
            let first = first + (ahead.group * self.depth + ahead.depth.start) as isize;
            prefetch::view(source, first, ahead.depth.len());
            pixel = self.next(pixel);
        }
    }
}

/// An element that is copied into scratch as a `T`.
pub(in crate::kernels) trait CopyTo<T>: Element {
    /// Copies a vector.
    ///
    /// # Safety
    /// `from` and `to` are valid for a vector.
    unsafe fn copy<S: Simd>(from: *const Self, to: *mut T);

    /// Copies two vectors.
    ///
    /// # Safety
    /// `from` and `to` are valid for two vectors.
    #[inline(always)]
    unsafe fn copy_two<S: Simd>(from: *const Self, to: *mut T) {
        // Safety: the caller's.
        unsafe {
            Self::copy::<S>(from, to);
            Self::copy::<S>(from.add(S::LANES), to.add(S::LANES));
        }
    }

    /// Copies the first `n` < LANES elements and zeros the rest of the vector.
    ///
    /// # Safety
    /// `from` is valid for `n` elements, `to` for a vector.
    unsafe fn copy_first<S: Simd>(from: *const Self, to: *mut T, n: usize);

    /// Zeros `n` elements; may write up to the end of a vector.
    ///
    /// # Safety
    /// `to` is valid for `n` elements and one vector more.
    unsafe fn zero<S: Simd>(to: *mut T, n: usize);
}

/// Widened.
impl<E: Element> CopyTo<f32> for E {
    #[inline(always)]
    unsafe fn copy<S: Simd>(from: *const E, to: *mut f32) {
        // Safety: the caller's.
        unsafe { S::store(to, E::load::<S>(from)) }
    }
    #[inline(always)]
    unsafe fn copy_first<S: Simd>(from: *const E, to: *mut f32, n: usize) {
        // Safety: the caller's.
        unsafe { S::store(to, E::load_first::<S>(from, n)) }
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(to: *mut f32, n: usize) {
        for i in (0..n).step_by(S::LANES) {
            // Safety: the caller's.
            unsafe { S::store(to.add(i), S::splat(0.0)) };
        }
    }
}

/// As it is.
impl CopyTo<bf16> for bf16 {
    #[inline(always)]
    unsafe fn copy<S: Simd>(from: *const bf16, to: *mut bf16) {
        // Safety: the caller's; the type has the layout of u16.
        unsafe { S::store_half(to.cast(), S::load_half(from.cast())) }
    }
    #[inline(always)]
    unsafe fn copy_two<S: Simd>(from: *const bf16, to: *mut bf16) {
        // Safety: the caller's; a vector of floats has the bytes of two of halves.
        unsafe { S::store(to.cast(), S::load(from.cast())) }
    }
    #[inline(always)]
    unsafe fn copy_first<S: Simd>(from: *const bf16, to: *mut bf16, n: usize) {
        // Safety: as above.
        unsafe { S::store_half(to.cast(), S::load_half_first(from.cast(), n)) }
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(to: *mut bf16, n: usize) {
        // Safety: the caller's.
        unsafe { to.write_bytes(0, n) };
    }
}

/// Copies `n` elements; may write up to the end of a vector.
///
/// # Safety
/// `from` is valid for `n` elements, `to` for `n` and one vector more.
#[inline(always)]
pub(in crate::kernels) unsafe fn copy<S: Simd, E: CopyTo<T>, T>(from: *const E, to: *mut T, n: usize) {
    let mut i = 0;
    // Safety: the caller's.
    unsafe {
        while i + 2 * S::LANES <= n {
            E::copy_two::<S>(from.add(i), to.add(i));
            i += 2 * S::LANES;
        }
        while i + S::LANES <= n {
            E::copy::<S>(from.add(i), to.add(i));
            i += S::LANES;
        }
        if i < n {
            E::copy_first::<S>(from.add(i), to.add(i), n - i);
        }
    }
}
