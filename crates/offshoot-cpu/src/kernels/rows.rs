//! What the kernels over "rows x channels" share: the split into tasks, and maps and column sums over rows.
//!
//! A task's size depends on the shape only, and partial sums are added in task order, so that the number of
//! threads cannot change a bit.

use super::element::Element;
use super::parallel;
pub(super) use super::parallel::Shared;
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;
use std::ops::Range;

/// Elements a task reads: 64 KiB of f32, which stays in the second-level cache.
pub(super) const TASK: usize = 1 << 14;

/// Runs `run` for 0..count, on the thread pool when there is more than one (but not inside of
/// [`parallel::serially`]).
#[inline]
pub(super) fn for_tasks(count: usize, run: impl Fn(usize) + Sync + Send) {
    parallel::for_each_task(count, usize::MAX, run);
}

/// Splits 0..len into chunks of `size` and runs each as a task.
#[inline]
pub(super) fn for_chunks(len: usize, size: usize, run: impl Fn(Range<usize>) + Sync + Send) {
    for_tasks(len.div_ceil(size), |task| run(task * size..len.min((task + 1) * size)));
}

/// Reads a whole vector, or its first `n` lanes.
///
/// # Safety
/// As [`Simd::load`] and [`Simd::load_first`].
#[inline(always)]
pub(super) unsafe fn load<S: Simd, E: Element, const FULL: bool>(from: *const E, n: usize) -> S::V {
    // Safety: the caller's promise.
    unsafe { if FULL { E::load::<S>(from) } else { E::load_first::<S>(from, n) } }
}

/// Reads a vector of each operand. A loop, not a closure: closures do not take on their caller's target features.
///
/// # Safety
/// As [`load`], for each pointer moved by `offset`.
#[inline(always)]
pub(super) unsafe fn load_all<S: Simd, E: Element, const N: usize, const FULL: bool>(
    from: [*const E; N],
    offset: usize,
    n: usize,
) -> [S::V; N] {
    // Safety: the caller's promise.
    unsafe {
        let mut vectors = [S::splat(0.0); N];
        for (vector, from) in vectors.iter_mut().zip(from) {
            *vector = load::<S, E, FULL>(from.add(offset), n);
        }
        vectors
    }
}

/// Writes a whole vector, or its first `n` lanes.
///
/// # Safety
/// As [`Simd::store`] and [`Simd::store_first`].
#[inline(always)]
pub(super) unsafe fn store<S: Simd, E: Element, const FULL: bool>(to: *mut E, n: usize, v: S::V) {
    // Safety: the caller's promise.
    unsafe { if FULL { E::store::<S>(to, v) } else { E::store_first::<S>(to, n, v) } }
}

/// A function of `N` elements and `P` per-channel parameters, for a vector of elements at a time.
pub(super) trait Map<const N: usize, const P: usize>: Copy + Send + Sync {
    /// # Safety
    /// `S` must be available.
    unsafe fn call<S: Simd>(self, x: [S::V; N], p: [S::V; P]) -> S::V;
}

/// Where the inputs of a map are, and where its result goes (which may be the first input).
#[derive(Clone, Copy)]
struct MapRows<E, const N: usize, const P: usize, F> {
    inputs: [*const E; N],
    params: [*const f32; P],
    out: *mut E,
    rows: usize,
    channels: usize,
    map: F,
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> MapRows<E, N, P, F> {
    #[inline(always)]
    unsafe fn block<S: Simd, const FULL: bool>(&self, at: usize, channel: usize, n: usize) {
        // Safety: `run` passes offsets within the rows and the parameters.
        unsafe {
            let x = load_all::<S, E, N, FULL>(self.inputs, at, n);
            let p = load_all::<S, f32, P, FULL>(self.params, channel, n);
            store::<S, E, FULL>(self.out.add(at), n, self.map.call::<S>(x, p));
        }
    }
}

impl<E: Element, const N: usize, const P: usize, F: Map<N, P>> Kernel for MapRows<E, N, P, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.channels - self.channels % S::LANES;
        for row in 0..self.rows {
            let at = row * self.channels;
            for c in (0..whole).step_by(S::LANES) {
                // Safety: c + LANES <= channels.
                unsafe { self.block::<S, true>(at + c, c, S::LANES) };
            }
            if whole < self.channels {
                // Safety: fewer than LANES channels are left.
                unsafe { self.block::<S, false>(at + whole, whole, self.channels - whole) };
            }
        }
    }
}

/// An operand of a map: read only, and never a part of the result other than the element being written.
#[derive(Clone, Copy)]
struct Operand<E>(*const E);

// Safety: a plain address, of memory that outlives the map and is read at the element being written only.
unsafe impl<E: Element> Send for Operand<E> {}
// Safety: as above.
unsafe impl<E: Element> Sync for Operand<E> {}

impl<E: Element> Operand<E> {
    /// # Safety
    /// `offset` must be within the slice this was made from.
    #[inline(always)]
    unsafe fn at(self, offset: usize) -> *const E {
        // Safety: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// Where slices start. (Here and below loops, and not closures over arrays: those are compiled again for each map.)
fn starts<T, const N: usize>(slices: [&[T]; N]) -> [*const T; N] {
    let mut starts = [std::ptr::null(); N];
    for (start, slice) in starts.iter_mut().zip(slices) {
        *start = slice.as_ptr();
    }
    starts
}

/// The operands from `offset` on.
///
/// # Safety
/// As [`Operand::at`], for each.
unsafe fn all_at<E: Element, const N: usize>(operands: [Operand<E>; N], offset: usize) -> [*const E; N] {
    let mut moved = [std::ptr::null(); N];
    for (moved, operand) in moved.iter_mut().zip(operands) {
        // Safety: the caller's promise.
        *moved = unsafe { operand.at(offset) };
    }
    moved
}

/// The operands that are slices.
fn operands<E: Element, const N: usize>(slices: [&[E]; N]) -> [Operand<E>; N] {
    let mut operands = [Operand(std::ptr::null()); N];
    for (operand, slice) in operands.iter_mut().zip(slices) {
        *operand = Operand(slice.as_ptr());
    }
    operands
}

/// # Safety
/// Every input has `len` elements, and is either disjoint from `out` or the same memory.
unsafe fn map_operands<E: Element, const N: usize>(
    isa: Isa,
    inputs: [Operand<E>; N],
    out: Shared<E>,
    len: usize,
    map: impl Map<N, 0>,
) {
    for_chunks(len, TASK, |chunk| {
        // Safety: chunks do not overlap and lie within 0..len.
        let (inputs, out) = unsafe { (all_at(inputs, chunk.start), out.at(chunk.start)) };
        dispatch(isa, MapRows { inputs, params: [], out, rows: 1, channels: chunk.len(), map });
    });
}

/// out[i] = map(inputs[0][i], ..), element by element.
pub(super) fn map<E: Element, const N: usize>(
    isa: Isa,
    inputs: [&[E]; N],
    out: &mut [E],
    map: impl Map<N, 0>,
) {
    assert!(inputs.iter().all(|i| i.len() == out.len()), "the operands of a map differ in length");
    // Safety: lengths are equal, and a mutable slice is disjoint from others.
    unsafe { map_operands(isa, operands(inputs), Shared::new(out), out.len(), map) };
}

/// The operands of an in-place map: `inout`, then `others`. `M` is `N` + 1.
fn in_place<E: Element, const N: usize, const M: usize>(
    inout: &mut [E],
    others: [&[E]; N],
) -> ([Operand<E>; M], Shared<E>) {
    const { assert!(M == N + 1) };
    assert!(others.iter().all(|o| o.len() == inout.len()), "the operands of a map differ in length");
    let out = Shared::new(inout);
    let mut all = [Operand(out.0.cast_const()); M];
    all[1..].copy_from_slice(&operands(others));
    (all, out)
}

/// inout[i] = map(inout[i], others[0][i], ..): a map whose first operand is overwritten.
pub(super) fn map_in_place<E: Element, const N: usize, const M: usize>(
    isa: Isa,
    inout: &mut [E],
    others: [&[E]; N],
    map: impl Map<M, 0>,
) {
    let (inputs, out) = in_place::<E, N, M>(inout, others);
    // Safety: lengths were checked; the first operand is the result itself.
    unsafe { map_operands(isa, inputs, out, inout.len(), map) };
}

/// # Safety
/// As [`map_operands`].
unsafe fn map_rows_operands<E: Element, const N: usize, const P: usize>(
    isa: Isa,
    inputs: [Operand<E>; N],
    params: [&[f32]; P],
    groups: usize,
    (out, len): (Shared<E>, usize),
    map: impl Map<N, P>,
) {
    let width = params[0].len();
    assert!(
        groups > 0 && width > 0 && width.is_multiple_of(groups),
        "{width} parameters for {groups} groups"
    );
    assert!(params.iter().all(|p| p.len() == width), "the parameters of a map differ in length");
    assert!(len.is_multiple_of(width), "{len} elements are no rows of {width} elements");
    let (channels, rows) = (width / groups, len / width);
    let size = rows_per_task(channels);
    let chunks = rows.div_ceil(size);
    for_tasks(groups * chunks, |task| {
        let (group, row) = (task / chunks, task % chunks * size);
        let at = (group * rows + row) * channels;
        let mut of_group = [std::ptr::null(); P];
        for (start, param) in of_group.iter_mut().zip(params) {
            *start = param[group * channels..].as_ptr();
        }
        // Safety: tasks do not overlap, and their rows lie within 0..len.
        let (inputs, out) = unsafe { (all_at(inputs, at), out.at(at)) };
        dispatch(isa, MapRows { inputs, params: of_group, out, rows: size.min(rows - row), channels, map });
    });
}

/// out[row, c] = map(inputs[0][row, c], .., params[0][g, c], ..), where the parameters are `groups` x channels and g is
/// the group of the row: rows are split evenly among the groups (1 for per-channel parameters, the batch size for
/// parameters of each picture).
pub(super) fn map_rows<E: Element, const N: usize, const P: usize>(
    isa: Isa,
    inputs: [&[E]; N],
    params: [&[f32]; P],
    groups: usize,
    out: &mut [E],
    map: impl Map<N, P>,
) {
    assert!(inputs.iter().all(|i| i.len() == out.len()), "the operands of a map differ in length");
    let result = (Shared::new(out), out.len());
    // Safety: lengths are equal, and a mutable slice is disjoint from others.
    unsafe { map_rows_operands(isa, operands(inputs), params, groups, result, map) };
}

/// The first operand of a kernel and where its result goes, of equal lengths.
#[derive(Debug)]
pub enum Place<'a, E = f32> {
    /// The result overwrites the operand.
    Over(&'a mut [E]),
    /// The result goes elsewhere: (operand, result).
    Apart(&'a [E], &'a mut [E]),
}

impl<'a, E> Place<'a, E> {
    /// Of an operand that is in `result` where it is not elsewhere.
    pub(crate) fn new(operand: Option<&'a [E]>, result: &'a mut [E]) -> Place<'a, E> {
        match operand {
            Some(operand) => Place::Apart(operand, result),
            None => Place::Over(result),
        }
    }

    /// The operand.
    pub(super) fn operand(&self) -> &[E] {
        match self {
            Place::Over(inout) => inout,
            Place::Apart(from, _) => from,
        }
    }
}

/// [`map_rows`] with one group, whose first operand and result are at `place`.
pub(super) fn map_rows_to<E: Element, const N: usize, const M: usize, const P: usize>(
    isa: Isa,
    place: Place<'_, E>,
    others: [&[E]; N],
    params: [&[f32]; P],
    map: impl Map<M, P>,
) {
    match place {
        Place::Over(inout) => {
            let (inputs, out) = in_place::<E, N, M>(inout, others);
            // Safety: lengths were checked; the first operand is the result itself.
            unsafe { map_rows_operands(isa, inputs, params, 1, (out, inout.len()), map) };
        }
        Place::Apart(from, out) => {
            let mut inputs = [from; M];
            inputs[1..].copy_from_slice(&others);
            map_rows(isa, inputs, params, 1, out, map);
        }
    }
}

/// Rows of `channels` elements that make a task.
pub(super) fn rows_per_task(channels: usize) -> usize {
    (TASK / channels.max(1)).max(1)
}

/// The sums over rows of `M` functions of `N` elements and `P` per-channel parameters.
pub(super) trait Fold<const N: usize, const P: usize, const M: usize>: Copy + Send + Sync {
    /// # Safety
    /// `S` must be available.
    unsafe fn call<S: Simd>(self, sums: [S::V; M], x: [S::V; N], p: [S::V; P]) -> [S::V; M];
}

/// Rows whose sum is made in registers before it is added to the sums in memory: few enough to read the rows nearly in
/// sequence.
const RUN: usize = 1;

struct FoldRows<'a, E, const N: usize, const P: usize, F> {
    inputs: [*const E; N],
    params: [*const f32; P],
    rows: usize,
    channels: usize,
    /// `M` x channels.
    sums: &'a mut [f32],
    fold: F,
}

impl<E: Element, const N: usize, const P: usize, F> FoldRows<'_, E, N, P, F> {
    #[inline(always)]
    unsafe fn block<S: Simd, const M: usize, const FULL: bool>(
        &mut self,
        c: usize,
        n: usize,
        rows: Range<usize>,
    ) where
        F: Fold<N, P, M>,
    {
        // Safety: `fold` passes channels and rows within the inputs, the parameters and the sums.
        unsafe {
            let p = load_all::<S, f32, P, FULL>(self.params, c, n);
            let mut sums = [S::splat(0.0); M];
            for row in rows {
                let x = load_all::<S, E, N, FULL>(self.inputs, row * self.channels + c, n);
                sums = self.fold.call::<S>(sums, x, p);
            }
            for (m, sum) in sums.into_iter().enumerate() {
                let to = self.sums.as_mut_ptr().add(m * self.channels + c);
                store::<S, f32, FULL>(to, n, S::add(load::<S, f32, FULL>(to, n), sum));
            }
        }
    }

    #[inline(always)]
    unsafe fn fold<S: Simd, const M: usize>(mut self)
    where
        F: Fold<N, P, M>,
    {
        let whole = self.channels - self.channels % S::LANES;
        for start in (0..self.rows).step_by(RUN) {
            let rows = start..self.rows.min(start + RUN);
            for c in (0..whole).step_by(S::LANES) {
                // Safety: c + LANES <= channels.
                unsafe { self.block::<S, M, true>(c, S::LANES, rows.clone()) };
            }
            if whole < self.channels {
                // Safety: fewer than LANES channels are left.
                unsafe { self.block::<S, M, false>(whole, self.channels - whole, rows.clone()) };
            }
        }
    }
}

/// [`FoldRows`] with its number of sums, which a trait without type parameters cannot carry.
struct FoldInto<'a, E, const N: usize, const P: usize, const M: usize, F>(FoldRows<'a, E, N, P, F>);

impl<E: Element, const N: usize, const P: usize, const M: usize, F: Fold<N, P, M>> Kernel
    for FoldInto<'_, E, N, P, M, F>
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Safety: passed on.
        unsafe { self.0.fold::<S, M>() }
    }
}

/// Column sums of the rows `rows` of the inputs into `sums` (`M` x channels, overwritten).
pub(super) fn fold_rows<E: Element, const N: usize, const P: usize, const M: usize>(
    isa: Isa,
    inputs: [&[E]; N],
    params: [&[f32]; P],
    rows: Range<usize>,
    sums: &mut [f32],
    fold: impl Fold<N, P, M>,
) {
    let channels = sums.len() / M;
    assert!(params.iter().all(|p| p.len() == channels) && sums.len() == M * channels);
    sums.fill(0.0);
    let range = elements([rows.start, channels])..elements([rows.end, channels]);
    // (The rows are within each input, which the kernel reads no more of.)
    let mut rows_of = [std::ptr::null(); N];
    for (start, input) in rows_of.iter_mut().zip(inputs) {
        *start = input[range.clone()].as_ptr();
    }
    let (inputs, params) = (rows_of, starts(params));
    dispatch(
        isa,
        FoldInto::<E, N, P, M, _>(FoldRows { inputs, params, rows: rows.len(), channels, sums, fold }),
    );
}

/// Computes partial results of `width` f32 for each chunk of rows, in parallel: `part(rows, partial)`.
pub(super) fn partials(
    rows: usize,
    rows_per_part: usize,
    width: usize,
    part: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let mut all = vec![0.0; elements([rows.div_ceil(rows_per_part), width])];
    let shared = Shared::new(&mut all);
    for_chunks(rows, rows_per_part, |rows| {
        // Safety: each chunk has its own `width` elements of `all`.
        let partial =
            unsafe { std::slice::from_raw_parts_mut(shared.at(rows.start / rows_per_part * width), width) };
        part(rows, partial);
    });
    all
}

/// The sums of `partials` (chunks of `out.len()`), in f64 and in order.
pub(super) fn add_partials(partials: &[f32], out: &mut [f32]) {
    let width = out.len();
    let shared = Shared::new(out);
    for_chunks(width, COLUMNS, |columns| {
        let mut sums = [0.0f64; COLUMNS];
        for partial in partials.chunks_exact(width) {
            for (sum, &x) in sums.iter_mut().zip(&partial[columns.clone()]) {
                *sum += f64::from(x);
            }
        }
        for (column, sum) in columns.zip(sums) {
            // Safety: `column` is within `out`, and in one chunk only.
            unsafe { *shared.at(column) = sum as f32 };
        }
    });
}

/// Columns a task of [`add_partials`] adds.
const COLUMNS: usize = 512;

/// Rows that make a part of a sum over rows of `channels` elements: enough that the partial sums are few, and so few that
/// rounding errors stay small.
pub(super) fn rows_per_part(channels: usize) -> usize {
    (TASK / 2 / channels.max(1)).clamp(32, 128)
}

/// out[m][c] = the sum over all rows of the fold's m-th function.
pub(super) fn sum_rows<E: Element, const N: usize, const P: usize, const M: usize>(
    isa: Isa,
    inputs: [&[E]; N],
    params: [&[f32]; P],
    out: &mut [f32],
    fold: impl Fold<N, P, M>,
) {
    let channels = out.len() / M;
    if channels == 0 {
        return;
    }
    let len = inputs.first().map_or(0, |i| i.len());
    assert!(
        inputs.iter().all(|i| i.len() == len) && len.is_multiple_of(channels),
        "{len} elements, {channels} channels"
    );
    let parts = partials(len / channels, rows_per_part(channels), M * channels, |rows, partial| {
        fold_rows(isa, inputs, params, rows, partial, fold);
    });
    add_partials(&parts, out);
}

/// Some neighboring rows of a tensor of `pitch` channels, and some neighboring channels of them.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub(super) rows: usize,
    pub(super) pitch: usize,
    pub(super) cols: usize,
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
pub(super) unsafe fn read_rows<E: Element, const N: usize, const P: usize>(
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
pub(super) unsafe fn fold_area<E: Element, const N: usize, const P: usize, const M: usize>(
    isa: Isa,
    inputs: [*const E; N],
    params: [*const f32; P],
    area: Area,
    (sums, pitch): (*mut f32, usize),
    fold: impl Fold<N, P, M>,
) {
    dispatch(isa, FoldArea { inputs, params, area, sums, pitch, fold });
}
