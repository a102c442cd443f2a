//! Functions of one element or of two, their gradients, broadcasting, and sums over rows.

mod binary;
mod broadcast;
mod unary;

use offshoot_graph::op::{Binary, Unary};

use self::binary::slope;
pub use self::broadcast::broadcast_binary;
use self::unary::{Gelu, Gradient, Long, Silu};
use super::Activation;
use super::element::Element;
use super::rows::{Fold, Map, load, map, map_in_place, map_rows, store, sum_rows};
use super::simd::{Isa, Kernel, Several, Simd};

/// x clamped to [low, high]; a NaN stays a NaN.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn clamp<S: Simd>(x: S::V, low: f32, high: f32) -> S::V {
    // Safety: the caller's promise.
    unsafe { S::at_most(S::at_least(x, S::splat(low)), S::splat(high)) }
}

/// `dy` where low < x < high, else zero; a bound that is a NaN never blocks (see [`Activation::gate`]).
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn gate<S: Simd>(x: S::V, (low, high): (f32, f32), dy: S::V) -> S::V {
    // Safety: the caller's promise.
    unsafe { S::zero_where_ge(x, S::splat(high), S::zero_where_ge(S::splat(low), x, dy)) }
}

/// The largest number of lanes.
const MOST_LANES: usize = 16;

/// `f` of each lane: for functions that have no instructions.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn per_lane<S: Simd>(x: S::V, f: impl Fn(f32) -> f32) -> S::V {
    const { assert!(S::LANES <= MOST_LANES) }
    let mut lanes = [0.0; MOST_LANES];
    // Safety: the caller's promise; `lanes` holds at least as many as the vector.
    unsafe {
        S::store(lanes.as_mut_ptr(), x);
        lanes[..S::LANES].iter_mut().for_each(|x| *x = f(*x));
        S::load(lanes.as_ptr())
    }
}

/// `f` of each pair of lanes.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn per_lane_pair<S: Simd>(a: S::V, b: S::V, f: impl Fn(f32, f32) -> f32) -> S::V {
    const { assert!(S::LANES <= MOST_LANES) }
    let (mut lanes, mut others) = ([0.0; MOST_LANES], [0.0; MOST_LANES]);
    // Safety: the caller's promise; each array holds at least as many as the vector.
    unsafe {
        S::store(lanes.as_mut_ptr(), a);
        S::store(others.as_mut_ptr(), b);
        lanes[..S::LANES].iter_mut().zip(others).for_each(|(a, b)| *a = f(*a, b));
        S::load(lanes.as_ptr())
    }
}

/// out = op(x). The slices have one length.
pub fn unary<E: Element>(isa: Isa, op: Unary, x: &[E], out: &mut [E]) {
    map(isa, [x], out, op);
}

/// x = op(x).
pub fn unary_in_place<E: Element>(isa: Isa, op: Unary, x: &mut [E]) {
    map_in_place(isa, x, [], op);
}

/// x = op(x) for some columns of some rows, on this thread: what a kernel has just stored is still in a cache.
pub(super) struct InPlace<'a, E> {
    pub(super) op: Unary,
    /// The first column.
    pub(super) x: *mut E,
    /// Where each row starts, in elements past `x`.
    pub(super) rows: &'a [usize],
    pub(super) cols: usize,
}

/// Vectors of a long function that [`InPlace`] computes side by side.
const STEP: usize = 4;

impl<E: Element> InPlace<'_, E> {
    /// `op` of a row's columns from `first` on.
    #[inline(always)]
    unsafe fn row<S: Simd>(&self, op: Unary, row: usize, first: usize) {
        let whole = self.cols - self.cols % S::LANES;
        // Safety: whoever makes it has the columns of these rows to itself.
        unsafe {
            let x = self.x.add(row);
            for at in (first..whole).step_by(S::LANES) {
                let y = op.call::<S>([load::<S, E, true>(x.add(at), S::LANES)], []);
                store::<S, E, true>(x.add(at), S::LANES, y);
            }
            let n = self.cols - whole;
            if n > 0 {
                let y = op.call::<S>([load::<S, E, false>(x.add(whole), n)], []);
                store::<S, E, false>(x.add(whole), n, y);
            }
        }
    }

    /// `op` of all rows. Where the compiler knows it, it is not chosen for each vector.
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, op: Unary) {
        for &row in self.rows {
            // Safety: the caller's.
            unsafe { self.row::<S>(op, row, 0) };
        }
    }

    /// A function that is a long chain of operations: several vectors side by side, of different rows where those are short. `op` is the
    /// same function, for what is left.
    #[inline(always)]
    unsafe fn long_rows<S: Simd, F: Long>(&self, op: Unary) {
        let whole = self.cols - self.cols % S::LANES;
        let steps = self.rows.len() * (whole / S::LANES) / STEP;
        let (mut row, mut col) = (0, 0);
        // Safety: each row has `whole` columns, and there are `STEP` vectors for each step.
        unsafe {
            for _ in 0..steps {
                let (mut at, mut x) = ([self.x; STEP], [S::splat(0.0); STEP]);
                for (at, x) in at.iter_mut().zip(&mut x) {
                    *at = self.x.add(*self.rows.get_unchecked(row) + col);
                    *x = load::<S, E, true>(*at, S::LANES);
                    col += S::LANES;
                    if col == whole {
                        (row, col) = (row + 1, 0);
                    }
                }
                for (at, y) in at.into_iter().zip(F::call::<Several<S, STEP>>(x)) {
                    store::<S, E, true>(at, S::LANES, y);
                }
            }
            for (i, &start) in self.rows.iter().enumerate() {
                let first = if i < row {
                    whole
                } else if i == row {
                    col
                } else {
                    0
                };
                self.row::<S>(op, start, first);
            }
        }
    }
}

impl<E: Element> Kernel for InPlace<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Safety: the caller's.
        unsafe {
            if self.op == Unary::Silu {
                self.long_rows::<S, Silu>(self.op);
            } else if self.op == Unary::Gelu {
                self.long_rows::<S, Gelu>(self.op);
            } else if self.op == Unary::HardSwish {
                self.rows::<S>(Unary::HardSwish);
            } else {
                self.rows::<S>(self.op);
            }
        }
    }
}

/// dx = dy op'(x), `known` being x or op(x), as the derivative in `op`'s row says.
pub fn unary_grad<E: Element>(isa: Isa, op: Unary, known: &[E], dy: &[E], dx: &mut [E]) {
    map(isa, [dy, known], dx, Gradient(op));
}

/// [`unary_grad`] that overwrites dy with dx.
pub fn unary_grad_in_place<E: Element>(isa: Isa, op: Unary, known: &[E], dy: &mut [E]) {
    map_in_place(isa, dy, [known], Gradient(op));
}

/// out = a op b, element by element. The slices have one length.
pub fn binary<E: Element>(isa: Isa, op: Binary, a: &[E], b: &[E], out: &mut [E]) {
    map(isa, [a, b], out, op);
}

/// a = a op b. `Add` accumulates a gradient.
pub fn binary_in_place<E: Element>(isa: Isa, op: Binary, a: &mut [E], b: &[E]) {
    map_in_place(isa, a, [b], op);
}

/// x op p for every row: `x` is rows x channels and `p` is `groups` x channels. One group is a vector of all rows
/// (bias, scale); as many groups as pictures is an `[N, 1, 1, C]` operand (squeeze and excitation).
pub fn binary_rows<E: Element>(isa: Isa, op: Binary, x: &[E], p: &[E], groups: usize, out: &mut [E]) {
    let p: Vec<f32> = p.iter().map(|p| p.to_f32()).collect();
    map_rows(isa, [x], [&p], groups, out, op);
}

#[derive(Clone, Copy)]
struct AddActivation(Activation);

impl Map<2, 0> for AddActivation {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [a, b]: [S::V; 2], []: [S::V; 0]) -> S::V {
        let (low, high) = self.0.bounds();
        // Safety: the caller's promise.
        unsafe { clamp::<S>(S::add(a, b), low, high) }
    }
}

/// out = activation(a + b).
pub fn add_activation<E: Element>(isa: Isa, a: &[E], b: &[E], activation: Activation, out: &mut [E]) {
    map(isa, [a, b], out, AddActivation(activation));
}

/// a = activation(a + b).
pub fn add_activation_in_place<E: Element>(isa: Isa, a: &mut [E], b: &[E], activation: Activation) {
    map_in_place(isa, a, [b], AddActivation(activation));
}

/// The sum of each column.
#[derive(Clone, Copy)]
pub(super) struct Sum;

impl Fold<1, 0, 1> for Sum {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [sum]: [S::V; 1], [x]: [S::V; 1], []: [S::V; 0]) -> [S::V; 1] {
        // Safety: the caller's promise.
        unsafe { [S::add(sum, x)] }
    }
}

#[derive(Clone, Copy)]
struct SumOfProducts;

impl Fold<2, 0, 1> for SumOfProducts {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [sum]: [S::V; 1], [a, b]: [S::V; 2], []: [S::V; 0]) -> [S::V; 1] {
        // Safety: the caller's promise.
        unsafe { [S::fma(a, b, sum)] }
    }
}

/// Runs `part` for each group's slice of the operands and of `out` (`groups` x channels).
fn for_groups<E, const N: usize>(
    inputs: [&[E]; N],
    groups: usize,
    out: &mut [f32],
    mut part: impl FnMut([&[E]; N], &mut [f32]),
) {
    assert!(groups > 0 && out.len().is_multiple_of(groups), "{} sums, {groups} groups", out.len());
    let (channels, rows) = (out.len() / groups, inputs[0].len() / groups);
    assert!(channels > 0 && rows.is_multiple_of(channels) && inputs.iter().all(|i| i.len() == rows * groups));
    for (group, out) in out.chunks_exact_mut(channels).enumerate() {
        part(inputs.map(|input| &input[group * rows..(group + 1) * rows]), out);
    }
}

/// out[g, c] = the sum of x over the rows of group g: the gradient of an operand that [`binary_rows`] added (with one
/// group, a bias). `x` is rows x channels, split evenly among the groups.
pub fn sum_to_rows<E: Element>(isa: Isa, x: &[E], groups: usize, out: &mut [f32]) {
    for_groups([x], groups, out, |x, out| sum_rows(isa, x, [], out, Sum));
}

/// out[g, c] = the sum of a b over the rows of group g: the gradient of an operand that [`binary_rows`] multiplied by.
pub fn sum_products_to_rows<E: Element>(isa: Isa, a: &[E], b: &[E], groups: usize, out: &mut [f32]) {
    for_groups([a, b], groups, out, |ab, out| sum_rows(isa, ab, [], out, SumOfProducts));
}

/// `shape` as strides within `to`, right-aligned; 0 along the axes it is broadcast over.
pub(super) fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    assert!(shape.len() <= to.len(), "{shape:?} has more axes than {to:?}");
    let missing = to.len() - shape.len();
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for (axis, &size) in shape.iter().enumerate().rev() {
        assert!(size == 1 || size == to[missing + axis], "{shape:?} cannot be broadcast to {to:?}");
        strides[missing + axis] = if size == 1 { 0 } else { stride };
        stride *= size;
    }
    strides
}

/// Calls `visit(i, offset)` for every element i of `shape` in order, with its offset under each of the strides.
pub(super) fn for_offsets<const N: usize>(
    shape: &[usize],
    strides: [&[usize]; N],
    mut visit: impl FnMut(usize, [usize; N]),
) {
    let count = shape.iter().product();
    let mut index = vec![0; shape.len()];
    let mut offsets = [0; N];
    for i in 0..count {
        visit(i, offsets);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset += strides[axis];
            }
            if index[axis] < shape[axis] {
                break;
            }
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset -= strides[axis] * shape[axis];
            }
            index[axis] = 0;
        }
    }
}

/// [`for_offsets`] of two operands that are broadcast to `shape`.
fn for_pairs(operands: [&[usize]; 2], shape: &[usize], visit: impl FnMut(usize, [usize; 2])) {
    let strides = operands.map(|own| broadcast_strides(own, shape));
    for_offsets(shape, strides.each_ref().map(Vec::as_slice), visit);
}

/// out = dy times the derivative of a op b by operand `slot`, with NumPy's broadcasting; `shape` is that of dy and out.
/// Plain and serial.
///
/// # Panics
/// As [`broadcast_binary`].
pub(crate) fn broadcast_slope<E: Element>(
    (op, slot): (Binary, usize),
    dy: &[E],
    (a, a_shape): (&[E], &[usize]),
    (b, b_shape): (&[E], &[usize]),
    shape: &[usize],
    out: &mut [E],
) {
    for_pairs([a_shape, b_shape], shape, |i, [at_a, at_b]| {
        let slope = slope(op, slot, a[at_a].to_f32(), b[at_b].to_f32());
        out[i] = E::from_f32(if slope == 0.0 { 0.0 } else { dy[i].to_f32() * slope });
    });
}

#[cfg(test)]
mod tests;
