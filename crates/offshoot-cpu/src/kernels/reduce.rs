//! Reductions along axes, and their gradients.

use std::ops::Range;

use offshoot_graph::op::Reduce;

use super::element::Element;
use super::elementwise::broadcast_strides;
use super::rows::{Shared, TASK, for_chunks};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::strided::{Odometer, Strided};

/// A shape as the axes before an axis, the axis, and those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Along {
    /// The product of the sizes before the axis.
    pub(crate) outer: usize,
    /// The size of the axis.
    pub(crate) count: usize,
    /// The product of the sizes behind the axis.
    pub(crate) inner: usize,
}

impl Along {
    /// `shape` along `axis`.
    pub(crate) fn new(shape: &[usize], axis: usize) -> Along {
        let product = |sizes: &[usize]| sizes.iter().product();
        Along { outer: product(&shape[..axis]), count: shape[axis], inner: product(&shape[axis + 1..]) }
    }

    /// The offset of the first element of each row, and where its result is: the others follow at steps of `inner`.
    fn rows(self) -> impl Iterator<Item = (usize, usize)> {
        let block = self.count * self.inner;
        (0..self.outer).flat_map(move |o| (0..self.inner).map(move |i| (o * block + i, o * self.inner + i)))
    }
}

/// How elements become one.
struct Fold<A, Step, Join, Finish> {
    /// Of no elements.
    none: A,
    step: Step,
    /// Of two parts.
    join: Join,
    finish: Finish,
}

/// Columns of a result that a task holds at once: their f64 sums stay in the first-level cache.
const COLUMNS: usize = 1024;

/// Parts that neighboring elements are folded in, so that one need not wait for the one before it.
const PARTS: usize = 32;

/// out\[i\] = the fold of the elements of `x` at the places `reduced`, counted from place i of `kept`. Always in the same order.
fn fold<E: Element, A: Copy + Send + Sync>(
    isa: Isa,
    x: &[E],
    [kept, reduced]: [&Strided; 2],
    how: &Fold<A, impl Fn(A, f32) -> A + Sync, impl Fn(A, A) -> A + Sync, impl Fn(A) -> f32 + Sync>,
    out: &mut [E],
) {
    assert_eq!(out.len(), kept.len(), "results of {kept:?}");
    if reduced.len() == 0 {
        return out.fill(E::from_f32((how.finish)(how.none)));
    }
    let (outer, width) = split_run(kept);
    let (rows, run) = split_run(reduced);
    let bands = width.div_ceil(COLUMNS);
    let work = (COLUMNS.min(width) * reduced.len()).max(1);
    let out = Shared::new(out);
    let all = Folds { x, outer: &outer, width, rows: &rows, run, how, out };
    for_chunks(outer.len() * bands, TASK.div_ceil(work), |tasks| dispatch(isa, Task { all: &all, tasks }));
}

/// What all tasks of a fold share.
struct Folds<'a, E, A, Step, Join, Finish> {
    x: &'a [E],
    /// Where the runs of results start, and how long these are.
    outer: &'a Strided,
    width: usize,
    /// Where the runs of what is folded start, from a result's place, and how long these are.
    rows: &'a Strided,
    run: usize,
    how: &'a Fold<A, Step, Join, Finish>,
    out: Shared<E>,
}

/// Some runs of results, of at most [`COLUMNS`] each. (A kernel, so that each instruction set has loops of its own.)
struct Task<'a, E, A, Step, Join, Finish> {
    all: &'a Folds<'a, E, A, Step, Join, Finish>,
    tasks: Range<usize>,
}

impl<E: Element, A: Copy, Step, Join, Finish> Kernel for Task<'_, E, A, Step, Join, Finish>
where
    Step: Fn(A, f32) -> A,
    Join: Fn(A, A) -> A,
    Finish: Fn(A) -> f32,
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Folds { x, outer, width, rows, run, how, out } = *self.all;
        let bands = width.div_ceil(COLUMNS);
        let mut folded = [how.none; COLUMNS];
        for task in self.tasks {
            let (row, first) = (task / bands, task % bands * COLUMNS);
            let folded = &mut folded[..COLUMNS.min(width - first)];
            folded.fill(how.none);
            let start = Odometer::at(outer, row).offset + first;
            let mut at = Odometer::at(rows, 0);
            for _ in 0..rows.len() {
                let from = &x[start + at.offset..];
                match (&mut *folded, run) {
                    ([one], _) => *one = (how.join)(*one, fold_run(&from[..run], how)),
                    (folded, _) => {
                        for i in 0..run {
                            for (sum, x) in folded.iter_mut().zip(&from[i..]) {
                                *sum = (how.step)(*sum, x.to_f32());
                            }
                        }
                    }
                }
                at.advance();
            }
            for (i, &sum) in folded.iter().enumerate() {
                // Safety: each task has columns of its own, of as many as there are results.
                unsafe { *out.at(row * width + first + i) = E::from_f32((how.finish)(sum)) };
            }
        }
    }
}

/// The places at which runs of elements start, and the length of these.
fn split_run(places: &Strided) -> (Strided, usize) {
    let mut outer = places.merged();
    match outer.strides.last() {
        Some(1) => {
            outer.strides.pop();
            let run = outer.shape.pop().unwrap_or(1);
            (outer, run)
        }
        _ => (outer, 1),
    }
}

/// The fold of elements that follow one another.
#[inline(always)]
fn fold_run<E: Element, A: Copy>(
    x: &[E],
    how: &Fold<A, impl Fn(A, f32) -> A, impl Fn(A, A) -> A, impl Fn(A) -> f32>,
) -> A {
    let mut parts = [how.none; PARTS];
    let (groups, rest) = x.as_chunks::<PARTS>();
    for group in groups {
        for (part, x) in parts.iter_mut().zip(group) {
            *part = (how.step)(*part, x.to_f32());
        }
    }
    for (part, x) in parts.iter_mut().zip(rest) {
        *part = (how.step)(*part, x.to_f32());
    }
    parts.into_iter().fold(how.none, &how.join)
}

/// out = the reduction of each row of x, summed in f64.
///
/// # Panics
/// When a slice is shorter than `along` says.
pub(crate) fn reduce(isa: Isa, op: Reduce, along: Along, x: &[f32], out: &mut [f32]) {
    let Along { outer, count, inner } = along;
    let whole = Strided::dense(vec![outer, count, inner]);
    let kept = Strided { start: 0, shape: vec![outer, inner], strides: vec![whole.strides[0], 1] };
    let reduced = Strided { start: 0, shape: vec![count], strides: vec![inner] };
    let all = (isa, x, [&kept, &reduced]);
    match op {
        Reduce::Sum => sum(all, |x| x, |sum| sum, out),
        Reduce::Mean => sum(all, |x| x, |sum| sum / count as f64, out),
        Reduce::L2 => sum(all, |x| x * x, f64::sqrt, out),
        Reduce::Max => best(all, |x, best| x > best, f32::NEG_INFINITY, out),
        Reduce::Min => best(all, |x, best| x < best, f32::INFINITY, out),
    }
}

/// What is folded, and where it is.
type All<'a> = (Isa, &'a [f32], [&'a Strided; 2]);

/// `finish` of the sum of `f` of each element, in f64. (Types, not pointers to functions: these would be called for each element.)
fn sum(
    (isa, x, places): All<'_>,
    f: impl Fn(f64) -> f64 + Sync,
    finish: impl Fn(f64) -> f64 + Sync,
    out: &mut [f32],
) {
    let how = Fold {
        none: 0.0,
        step: |sum, x| sum + f(f64::from(x)),
        join: |a, b| a + b,
        finish: |sum| finish(sum) as f32,
    };
    fold(isa, x, places, &how, out);
}

/// The element that `wins` against all others; a NaN does.
fn best((isa, x, places): All<'_>, wins: impl Fn(f32, f32) -> bool + Sync, none: f32, out: &mut [f32]) {
    let best = |best: f32, x: f32| if x.is_nan() || wins(x, best) { x } else { best };
    fold(isa, x, places, &Fold { none, step: best, join: best, finish: |best| best }, out);
}

/// The gradient of broadcasting `shape` to `dy_shape`: sums of dy over the axes that were broadcast, in f64.
///
/// # Panics
/// When the shape does not broadcast, or a slice has not the size of its shape.
pub(crate) fn sum_to_shape<E: Element>(
    isa: Isa,
    dy: &[E],
    dy_shape: &[usize],
    shape: &[usize],
    out: &mut [E],
) {
    let whole = Strided::dense(dy_shape.to_vec());
    assert_eq!(dy.len(), whole.len(), "elements of {dy_shape:?}");
    let own = broadcast_strides(shape, dy_shape);
    let axes = |of_result: bool| {
        let wanted = (0..dy_shape.len()).filter(|&axis| (own[axis] != 0) == of_result);
        let (shape, strides) = wanted.map(|axis| (dy_shape[axis], whole.strides[axis])).unzip();
        Strided { start: 0, shape, strides }
    };
    let how = Fold {
        none: 0.0,
        step: |sum: f64, x| sum + f64::from(x),
        join: |a, b| a + b,
        finish: |sum| sum as f32,
    };
    fold(isa, dy, [&axes(true), &axes(false)], &how, out);
}

/// dx of [`reduce`], from dy, x and y.
///
/// # Panics
/// When a slice is shorter than `along` says.
pub(crate) fn reduce_grad(op: Reduce, along: Along, [dy, x, y]: [&[f32]; 3], dx: &mut [f32]) {
    for (from, to) in along.rows() {
        let (dy, y) = (dy[to], y[to]);
        let at = |k: usize| from + k * along.inner;
        let ties = || (0..along.count).filter(|&k| x[at(k)] == y).count().max(1) as f32;
        let share = match op {
            Reduce::Sum => dy,
            Reduce::Mean => dy / along.count as f32,
            Reduce::Max | Reduce::Min => dy / ties(),
            Reduce::L2 => {
                if y == 0.0 {
                    0.0
                } else {
                    dy / y
                }
            }
        };
        for k in 0..along.count {
            dx[at(k)] = match op {
                Reduce::Sum | Reduce::Mean => share,
                Reduce::Max | Reduce::Min => {
                    if x[at(k)] == y {
                        share
                    } else {
                        0.0
                    }
                }
                Reduce::L2 => share * x[at(k)],
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_same_on_any_threads, normals};
    use super::*;

    const SHAPES: [[usize; 3]; 7] =
        [[3, 5, 7], [1, 2000, 1], [2, 3, 3000], [1, 1, 9], [40, 17, 1], [2, 0, 3], [0, 2, 3]];

    #[test]
    fn rows_of_any_place_and_length_are_reduced() {
        for (isa, shape) in Isa::available().into_iter().flat_map(|isa| SHAPES.map(|shape| (isa, shape))) {
            let x = normals(1, shape.iter().product());
            for axis in 0..3 {
                let along = Along::new(&shape, axis);
                for op in [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min, Reduce::L2] {
                    let run = || {
                        let mut out = vec![f32::NAN; along.outer * along.inner];
                        reduce(isa, op, along, &x, &mut out);
                        out
                    };
                    let wanted = along.rows().map(|(from, _)| {
                        let row = (0..along.count).map(|k| f64::from(x[from + k * along.inner]));
                        match op {
                            Reduce::Sum => row.sum(),
                            Reduce::Mean => row.sum::<f64>() / along.count as f64,
                            Reduce::Max => row.fold(f64::NEG_INFINITY, f64::max),
                            Reduce::Min => row.fold(f64::INFINITY, f64::min),
                            Reduce::L2 => row.map(|x| x * x).sum::<f64>().sqrt(),
                        }
                    });
                    for (found, wanted) in run().into_iter().zip(wanted) {
                        let same = f64::from(found) == wanted || found.is_nan() && wanted.is_nan();
                        let error = (f64::from(found) - wanted).abs();
                        assert!(same || error <= 1e-5 * wanted.abs().max(1.0), "{op:?} {shape:?} {axis}");
                    }
                    assert_same_on_any_threads("a reduction", run);
                }
            }
        }
    }

    #[test]
    fn sums_leave_any_axes() {
        let shape = [2, 3, 4, 5];
        let x = normals(2, 120);
        for kept in 0..16_usize {
            let own: Vec<usize> =
                (0..4).map(|axis| if kept >> axis & 1 == 1 { shape[axis] } else { 1 }).collect();
            let mut wanted = vec![0.0; own.iter().product()];
            for (i, &x) in x.iter().enumerate() {
                let index = [i / 60, i / 20 % 3, i / 5 % 4, i % 5];
                let at = (0..4).fold(0, |at, axis| at * own[axis] + index[axis] % own[axis]);
                wanted[at] += f64::from(x);
            }
            let mut out = vec![f32::NAN; wanted.len()];
            sum_to_shape(Isa::PORTABLE, &x, &shape, &own, &mut out);
            assert_close("sums", &out, &wanted, 1e-6);
        }
    }

    #[test]
    fn a_nan_wins_and_equal_elements_share_the_gradient() {
        let along = Along::new(&[2, 3], 1);
        let x = [1.0, f32::NAN, 2.0, 4.0, 4.0, -1.0];
        let mut y = [0.0; 2];
        reduce(Isa::PORTABLE, Reduce::Max, along, &x, &mut y);
        assert!(y[0].is_nan() && y[1] == 4.0, "{y:?}");
        reduce(Isa::PORTABLE, Reduce::Min, along, &x, &mut y);
        assert!(y[0].is_nan() && y[1] == -1.0, "{y:?}");
        let mut dx = [9.0; 3];
        reduce_grad(Reduce::Max, Along::new(&[3], 0), [&[1.0], &x[3..], &[4.0]], &mut dx);
        assert_eq!(dx, [0.5, 0.5, 0.0]);
        reduce_grad(Reduce::L2, Along::new(&[3], 0), [&[1.0], &[0.0; 3], &[0.0]], &mut dx);
        assert_eq!(dx, [0.0; 3]);
    }
}
