//! Functions of elements, one by one or by rows with parameters for each channel.

use super::{Shared, TASK, for_chunks, for_tasks, load_all, rows_per_task, store};
use crate::kernels::element::Element;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};

/// A function of `N` elements and `P` per-channel parameters, for a vector of elements at a time.
pub(in crate::kernels) trait Map<const N: usize, const P: usize>:
    Copy + Send + Sync
{
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

/// The operands from `offset` on. (Here and below loops, and not closures over arrays: those are compiled again for each map.)
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
pub(in crate::kernels) fn map<E: Element, const N: usize>(
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
pub(in crate::kernels) fn map_in_place<E: Element, const N: usize, const M: usize>(
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
pub(in crate::kernels) fn map_rows<E: Element, const N: usize, const P: usize>(
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
    pub(in crate::kernels) fn operand(&self) -> &[E] {
        match self {
            Place::Over(inout) => inout,
            Place::Apart(from, _) => from,
        }
    }
}

/// [`map_rows`] with one group, whose first operand and result are at `place`.
pub(in crate::kernels) fn map_rows_to<E: Element, const N: usize, const M: usize, const P: usize>(
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
