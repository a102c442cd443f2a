//! What moves elements and computes nothing: parts of rows, axes in another order, broadcasting.

use super::element::{Element, Stored};
use super::elementwise::{broadcast_strides, for_offsets};
use super::layout::transpose;
use super::rows::{Shared, for_chunks, rows_per_task};

/// A part of each row of a matrix: `width` elements from `start` on, in rows of `row` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Elements of a row.
    pub row: usize,
    /// The first one.
    pub start: usize,
    /// How many.
    pub width: usize,
}

/// Copies some columns of `x` to as many columns of `out`, which has as many rows.
///
/// # Panics
/// When the columns are outside of the rows, differ in number, or the slices have not as many rows.
pub fn copy_columns<E: Stored>(x: &[E], from: Columns, out: &mut [E], to: Columns) {
    assert!(from.width == to.width && from.start + from.width <= from.row && to.start + to.width <= to.row);
    let rows = x.len().checked_div(from.row).unwrap_or(0);
    assert!(x.len() == rows * from.row && out.len() == rows * to.row, "rows of {from:?} and {to:?}");
    let shared = Shared::new(out);
    for_chunks(rows, rows_per_task(from.width), |rows| {
        for row in rows {
            let x = &x[row * from.row + from.start..][..from.width];
            // Safety: the columns are within the row, and rows do not overlap.
            let out = unsafe { std::slice::from_raw_parts_mut(shared.at(row * to.row + to.start), to.width) };
            out.copy_from_slice(x);
        }
    });
}

/// out = x, of `shape`, with axis `perm[i]` as axis i.
///
/// # Panics
/// When `perm` is no permutation of the axes or a slice has not the size of the shape.
pub fn permute<E: Element>(x: &[E], shape: &[usize], perm: &[usize], out: &mut [E]) {
    let len: usize = shape.iter().product();
    assert!(x.len() == len && out.len() == len && perm.len() == shape.len(), "{shape:?} by {perm:?}");
    let Some(last) = perm.len().checked_sub(1).filter(|_| len > 0) else {
        out.copy_from_slice(x);
        return;
    };
    let kept = perm.iter().enumerate().take_while(|&(i, &axis)| i == axis).count();
    if kept + 2 == perm.len() {
        return transpose(shape[..kept].iter().product(), shape[kept], shape[kept + 1], x, out);
    }
    let mut strides = vec![1; shape.len()];
    for axis in (0..last).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    let (width, step) = (shape[perm[last]], strides[perm[last]]);
    let shared = Shared::new(out);
    for_chunks(len / width, rows_per_task(width), |rows| {
        for row in rows {
            let (mut at, mut rest) = (0, row);
            for &axis in perm[..last].iter().rev() {
                at += rest % shape[axis] * strides[axis];
                rest /= shape[axis];
            }
            // Safety: rows of `out` do not overlap, and there are len / width of them.
            let out = unsafe { std::slice::from_raw_parts_mut(shared.at(row * width), width) };
            if step == 1 {
                out.copy_from_slice(&x[at..at + width]);
            } else {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = x[at + i * step];
                }
            }
        }
    });
}

/// out = x broadcast from `x_shape` to `shape`. Plain and serial: for small operands.
///
/// # Panics
/// When the shape does not broadcast, or a slice has not the size of its shape.
pub fn broadcast<E: Element>(x: &[E], x_shape: &[usize], shape: &[usize], out: &mut [E]) {
    let strides = broadcast_strides(x_shape, shape);
    for_offsets(shape, [&strides], |i, [at]| out[i] = x[at]);
}
