//! Functions and sums of an area: some rows and columns of a tensor.

use super::{Fold, Map, load_all, store};
use crate::kernels::element::Element;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use std::ops::Range;

/// Some neighboring rows of a tensor of `pitch` channels, and some neighboring channels of them.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Area {
    pub(in crate::kernels) rows: usize,
    pub(in crate::kernels) pitch: usize,
    pub(in crate::kernels) cols: usize,
}

/// What [`read_rows`] runs.
struct ReadRows<E, const N: usize, const P: usize, F> {
    inputs: [*const E; N],
    params: [*const f32; P],
    area: Area,
    to: *mut f32,
    stride: usize,
    map: F,
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> ReadRows<E, N, P, F> {
    /// A vector of channels, `n` of them, from `c` on, of the rows `rows`.
    #[inline(always)]
    unsafe fn block<S: Simd, const FULL: bool>(&self, rows: Range<usize>, c: usize, n: usize) {
        // Safety: `run` passes rows and channels within the area.
        unsafe {
            let p = load_all::<S, f32, P, FULL>(self.params, c, n);
            for row in rows {
                let x = load_all::<S, E, N, FULL>(self.inputs, row * self.area.pitch + c, n);
                let to = self.to.add(row * self.stride + c);
                store::<S, f32, FULL>(to, n, self.map.call::<S>(x, p));
            }
        }
    }
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> Kernel for ReadRows<E, N, P, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        /// Rows for which parameters are loaded once.
        const ROWS: usize = 4;
        let Area { rows, cols, .. } = self.area;
        let whole = cols - cols % S::LANES;
        for row in (0..rows).step_by(ROWS) {
            let these = row..rows.min(row + ROWS);
            for c in (0..whole).step_by(S::LANES) {
                // Safety: c + LANES <= cols.
                unsafe { self.block::<S, true>(these.clone(), c, S::LANES) };
            }
            if whole < cols {
                // Safety: fewer than LANES channels are left.
                unsafe { self.block::<S, false>(these, whole, cols - whole) };
            }
        }
    }
}

/// Writes map(inputs[0], .., params[0], ..) of an area to rows of scratch, `stride` floats apart. The inputs point to the area's first
/// element, the parameters to that of its first channel.
///
/// # Safety
/// The area lies within the inputs, and a row of `to` has room for its columns.
pub(in crate::kernels) unsafe fn read_rows<E: Element, const N: usize, const P: usize>(
    isa: Isa,
    inputs: [*const E; N],
    params: [*const f32; P],
    area: Area,
    (to, stride): (*mut f32, usize),
    map: impl Map<N, P>,
) {
    dispatch(isa, ReadRows { inputs, params, area, to, stride, map });
}

/// What [`fold_area`] runs.
struct FoldArea<E, const N: usize, const P: usize, const M: usize, F> {
    inputs: [*const E; N],
    params: [*const f32; P],
    area: Area,
    sums: *mut f32,
    pitch: usize,
    fold: F,
}

impl<E: Element, const N: usize, const P: usize, const M: usize, F: Fold<N, P, M>> FoldArea<E, N, P, M, F> {
    /// `WIDE` vectors of channels from `c` on, or the `n` channels of one that is not whole.
    #[inline(always)]
    unsafe fn columns<S: Simd, const WIDE: usize, const FULL: bool>(&self, c: usize, n: usize) {
        // Safety: `run` passes channels within the area.
        unsafe {
            let mut p = [[S::splat(0.0); P]; WIDE];
            for (v, p) in p.iter_mut().enumerate() {
                *p = load_all::<S, f32, P, FULL>(self.params, c + v * S::LANES, n);
            }
            let mut totals = [[S::splat(0.0); M]; WIDE];
            for row in 0..self.area.rows {
                for (v, total) in totals.iter_mut().enumerate() {
                    let at = row * self.area.pitch + c + v * S::LANES;
                    let x = load_all::<S, E, N, FULL>(self.inputs, at, n);
                    *total = self.fold.call::<S>(*total, x, p[v]);
                }
            }
            for (v, total) in totals.into_iter().enumerate() {
                for (m, sum) in total.into_iter().enumerate() {
                    let to = self.sums.add(m * self.pitch + c + v * S::LANES);
                    store::<S, f32, FULL>(to, n, sum);
                }
            }
        }
    }
}

impl<E: Element, const N: usize, const P: usize, const M: usize, F: Fold<N, P, M>> Kernel
    for FoldArea<E, N, P, M, F>
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        /// Vectors side by side, whose sums do not wait for one another.
        const WIDE: usize = 2;
        let cols = self.area.cols;
        let mut c = 0;
        // Safety: the channels are the area's.
        unsafe {
            while c + WIDE * S::LANES <= cols {
                self.columns::<S, WIDE, true>(c, S::LANES);
                c += WIDE * S::LANES;
            }
            if c + S::LANES <= cols {
                self.columns::<S, 1, true>(c, S::LANES);
                c += S::LANES;
            }
            if c < cols {
                self.columns::<S, 1, false>(c, cols - c);
            }
        }
    }
}

/// Column sums of an area that lies in the cache, `M` functions of it, each `pitch` floats after the other in `sums` (overwritten).
/// Pointers as in [`read_rows`].
///
/// # Safety
/// The area lies within the inputs, and its columns within the parameters and each of the sums.
pub(in crate::kernels) unsafe fn fold_area<E: Element, const N: usize, const P: usize, const M: usize>(
    isa: Isa,
    inputs: [*const E; N],
    params: [*const f32; P],
    area: Area,
    (sums, pitch): (*mut f32, usize),
    fold: impl Fold<N, P, M>,
) {
    dispatch(isa, FoldArea { inputs, params, area, sums, pitch, fold });
}
