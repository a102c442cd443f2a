//! Functions of two operands that are broadcast to one shape, for whole rows at a time.

use offshoot_graph::op::Binary;

use super::super::element::Element;
use super::super::rows::{Map, Shared, for_chunks, load, rows_per_task, store};
use super::super::simd::{Isa, Kernel, Simd, dispatch};
use super::broadcast_strides;

/// out = a op b with NumPy's broadcasting; `shape` is the result's.
///
/// # Panics
/// When a shape does not broadcast to `shape`, or a slice has not the size of its shape.
pub fn broadcast_binary<E: Element>(
    isa: Isa,
    op: Binary,
    (a, a_shape): (&[E], &[usize]),
    (b, b_shape): (&[E], &[usize]),
    shape: &[usize],
    out: &mut [E],
) {
    let lens = [a_shape, b_shape, shape].map(|shape| shape.iter().product::<usize>());
    assert_eq!([a.len(), b.len(), out.len()], lens, "operands of {a_shape:?} and {b_shape:?}");
    if out.is_empty() {
        return;
    }
    let axes = merged(shape, [a_shape, b_shape].map(|own| broadcast_strides(own, shape)));
    let (&Axis { size: width, strides }, outer) = axes.split_last().unwrap_or((&Axis::ONE, &[]));
    let shared = Shared::new(out);
    for_chunks(out.len() / width, rows_per_task(width), |rows| {
        for row in rows {
            let [at_a, at_b] = offsets(outer, row);
            // Safety: each row of the result is one task's.
            let out = unsafe { std::slice::from_raw_parts_mut(shared.at(row * width), width) };
            dispatch(isa, Row { op, a: &a[at_a..], b: &b[at_b..], strides, out });
        }
    });
}

/// Axes that follow one another in both operands, as one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    size: usize,
    /// Elements of each operand from one of its places to the next; 0 where it is broadcast.
    strides: [usize; 2],
}

impl Axis {
    const ONE: Axis = Axis { size: 1, strides: [0; 2] };
}

/// The axes of `shape` that are longer than 1, as few as the strides allow.
fn merged(shape: &[usize], strides: [Vec<usize>; 2]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    for (at, &size) in shape.iter().enumerate().filter(|&(_, &size)| size != 1) {
        let own = strides.each_ref().map(|strides| strides[at]);
        match axes.last_mut() {
            Some(last) if last.strides == own.map(|stride| stride * size) => {
                *last = Axis { size: last.size * size, strides: own };
            }
            _ => axes.push(Axis { size, strides: own }),
        }
    }
    axes
}

/// Where a row of the result starts in each operand.
fn offsets(outer: &[Axis], mut row: usize) -> [usize; 2] {
    let mut offsets = [0; 2];
    for axis in outer.iter().rev() {
        let index = row % axis.size;
        row /= axis.size;
        offsets.iter_mut().zip(axis.strides).for_each(|(offset, stride)| *offset += index * stride);
    }
    offsets
}

/// A row of the result.
struct Row<'a, E> {
    op: Binary,
    a: &'a [E],
    b: &'a [E],
    strides: [usize; 2],
    out: &'a mut [E],
}

impl<E: Element> Kernel for Row<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let wanted = self.strides.map(|stride| if stride == 0 { 1 } else { self.out.len() });
        assert!(self.a.len() >= wanted[0] && self.b.len() >= wanted[1], "operands of a row");
        // Safety: `S` is available, and operands that are not broadcast have an element for each of the row.
        unsafe {
            match self.strides {
                [0, 0] => self.vectors::<S, false, false>(),
                [0, _] => self.vectors::<S, false, true>(),
                [_, 0] => self.vectors::<S, true, false>(),
                [_, _] => self.vectors::<S, true, true>(),
            }
        }
    }
}

impl<E: Element> Row<'_, E> {
    /// Computes the row; `A` and `B` say whether an operand has an element for each of the row, or one for all.
    ///
    /// # Safety
    /// `S` must be available, and the operands that long.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const A: bool, const B: bool>(self) {
        let whole = self.out.len() - self.out.len() % S::LANES;
        let (a, b, out) = (self.a.as_ptr(), self.b.as_ptr(), self.out.as_mut_ptr());
        // Safety: the caller's; `at` is within the row.
        unsafe {
            let [one_a, one_b] = [S::splat((*a).to_f32()), S::splat((*b).to_f32())];
            for at in (0..whole).step_by(S::LANES) {
                let a = if A { load::<S, E, true>(a.add(at), S::LANES) } else { one_a };
                let b = if B { load::<S, E, true>(b.add(at), S::LANES) } else { one_b };
                store::<S, E, true>(out.add(at), S::LANES, Map::<2, 0>::call::<S>(self.op, [a, b], []));
            }
            let n = self.out.len() - whole;
            if n > 0 {
                let a = if A { load::<S, E, false>(a.add(whole), n) } else { one_a };
                let b = if B { load::<S, E, false>(b.add(whole), n) } else { one_b };
                store::<S, E, false>(out.add(whole), n, Map::<2, 0>::call::<S>(self.op, [a, b], []));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_merged_where_both_operands_follow_on() {
        let axes = |a: &[usize], b: &[usize], shape: &[usize]| {
            merged(shape, [a, b].map(|own| broadcast_strides(own, shape)))
        };
        let axis = |size, strides| Axis { size, strides };
        assert_eq!(axes(&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]), [axis(24, [1, 1])]);
        assert_eq!(axes(&[2, 3, 4], &[1], &[2, 3, 4]), [axis(24, [1, 0])]);
        assert_eq!(
            axes(&[2, 3, 4], &[3, 1], &[2, 3, 4]),
            [axis(2, [12, 0]), axis(3, [4, 1]), axis(4, [1, 0])]
        );
        assert_eq!(axes(&[1, 1], &[1], &[1, 1]), []);
    }
}
