//! What moves elements and computes nothing: parts of rows, shuffled channels, broadcasting.

use super::element::Stored;
use super::elementwise::{broadcast_strides, for_offsets};
use super::rows::{Shared, for_chunks, rows_per_task};
use super::size::elements;

/// A part of each row of a matrix: `width` elements from `start` on, in rows of `row` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    /// Elements of a row.
    pub row: usize,
    /// The first one.
    pub start: usize,
    /// How many.
    pub width: usize,
}

impl Columns {
    /// All of a row.
    pub(crate) fn whole(row: usize) -> Columns {
        Columns { row, start: 0, width: row }
    }
}

/// Copies some columns of `x` to as many columns of `out`, which has as many rows.
///
/// # Panics
/// When the columns are outside of the rows, differ in number, or the slices have not as many rows.
pub(crate) fn copy_columns<E: Stored>(x: &[E], from: Columns, out: &mut [E], to: Columns) {
    let within = |part: Columns| part.start.checked_add(part.width).is_some_and(|end| end <= part.row);
    assert!(from.width == to.width && within(from) && within(to), "columns {from:?} and {to:?}");
    let rows = x.len().checked_div(from.row).unwrap_or(0);
    let sizes = [elements([rows, from.row]), elements([rows, to.row])];
    assert_eq!([x.len(), out.len()], sizes, "rows of {from:?} and {to:?}");
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

/// Each row of `groups` x `channels` elements as its transpose.
///
/// # Panics
/// When the slices differ in size, or are no whole rows.
pub(crate) fn channel_shuffle<E: Stored>(x: &[E], [groups, channels]: [usize; 2], out: &mut [E]) {
    let width = elements([groups, channels]);
    assert!(
        x.len() == out.len() && width > 0 && x.len().is_multiple_of(width),
        "rows of {groups} x {channels}"
    );
    let shared = Shared::new(out);
    for_chunks(x.len() / width, rows_per_task(width), |rows| {
        let (start, len) = (rows.start * width, rows.len() * width);
        // Safety: the rows of a task are its own.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(start), len) };
        let rows = x[start..start + len].chunks_exact(width).zip(out.chunks_exact_mut(width));
        match groups {
            2 => rows.for_each(|(x, out)| interleave::<E, 2>(x, out)),
            3 => rows.for_each(|(x, out)| interleave::<E, 3>(x, out)),
            4 => rows.for_each(|(x, out)| interleave::<E, 4>(x, out)),
            8 => rows.for_each(|(x, out)| interleave::<E, 8>(x, out)),
            _ => rows.for_each(|(x, out)| {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = x[i % groups * channels + i / groups];
                }
            }),
        }
    });
}

/// A row of `G` groups, as groups of one element of each.
fn interleave<E: Stored, const G: usize>(x: &[E], out: &mut [E]) {
    let channels = x.len() / G;
    let groups: [&[E]; G] = std::array::from_fn(|group| &x[group * channels..][..channels]);
    for (channel, out) in out.as_chunks_mut::<G>().0.iter_mut().enumerate() {
        for (out, group) in out.iter_mut().zip(&groups) {
            *out = group[channel];
        }
    }
}

/// out = x broadcast from `x_shape` to `shape`. Plain and serial: for small operands.
///
/// # Panics
/// When the shape does not broadcast, or a slice has not the size of its shape.
pub(crate) fn broadcast<E: Stored>(x: &[E], x_shape: &[usize], shape: &[usize], out: &mut [E]) {
    let strides = broadcast_strides(x_shape, shape);
    for_offsets(shape, [&strides], |i, [at]| out[i] = x[at]);
}

/// The rows of `table`, of `width` elements each, that `indices` name, one after another. An index below 0 counts from
/// the end.
///
/// # Errors
/// The first index that is no row of the table.
///
/// # Panics
/// When `out` has not a row for each index.
pub(crate) fn copy_rows<E: Stored>(
    table: &[E],
    width: usize,
    indices: &[i64],
    out: &mut [E],
) -> Result<(), i64> {
    assert_eq!(out.len(), elements([indices.len(), width]), "rows of {width}");
    let rows = table.len().checked_div(width).unwrap_or(0);
    for (at, &index) in indices.iter().enumerate() {
        let row = place_of(index, rows).ok_or(index)?;
        out[at * width..][..width].copy_from_slice(&table[row * width..][..width]);
    }
    Ok(())
}

/// table = the sums of the rows of dy whose index names each row: the gradient of [`copy_rows`]. In the order of the
/// indices, so that the sums are bit-identical on any number of threads.
///
/// # Errors
/// The first index that is no row of the table.
///
/// # Panics
/// When `dy` has not a row for each index.
pub(crate) fn add_rows(dy: &[f32], width: usize, indices: &[i64], table: &mut [f32]) -> Result<(), i64> {
    assert_eq!(dy.len(), elements([indices.len(), width]), "rows of {width}");
    let rows = table.len().checked_div(width).unwrap_or(0);
    table.fill(0.0);
    for (at, &index) in indices.iter().enumerate() {
        let row = place_of(index, rows).ok_or(index)?;
        let sums = table[row * width..][..width].iter_mut();
        sums.zip(&dy[at * width..][..width]).for_each(|(sum, x)| *sum += x);
    }
    Ok(())
}

/// The place that `index` names among `count`.
fn place_of(index: i64, count: usize) -> Option<usize> {
    let from_start = if index < 0 { index.checked_add(i64::try_from(count).ok()?)? } else { index };
    usize::try_from(from_start).ok().filter(|&place| place < count)
}

/// out = a where the condition is not 0, else b, with NumPy's broadcasting; `shape` is the result's. Plain and serial:
/// for masks.
///
/// # Panics
/// When a shape does not broadcast to `shape`, or a slice has not the size of its shape.
pub(crate) fn select(
    [condition, a, b]: [&[f32]; 3],
    shapes: [&[usize]; 3],
    shape: &[usize],
    out: &mut [f32],
) {
    let strides = shapes.map(|own| broadcast_strides(own, shape));
    let [first, second, third] = &strides;
    for_offsets(shape, [first, second, third], |i, [at_condition, at_a, at_b]| {
        out[i] = if condition[at_condition] != 0.0 { a[at_a] } else { b[at_b] };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_from_both_ends_and_no_further() {
        let table = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let mut out = [9.0; 4];
        assert_eq!(copy_rows(&table, 2, &[-1, 1], &mut out), Ok(()));
        assert_eq!(out, [4.0, 5.0, 2.0, 3.0]);
        for index in [3, -4, i64::MAX, i64::MIN] {
            assert_eq!(copy_rows(&table, 2, &[0, index], &mut out), Err(index));
        }
    }

    #[test]
    fn channels_of_groups_are_transposed() {
        let x: Vec<f32> = (0..2 * 30).map(|i| i as f32).collect();
        for groups in [1, 2, 3, 5, 6, 10, 30] {
            let channels = 30 / groups;
            let mut out = vec![f32::NAN; x.len()];
            channel_shuffle(&x, [groups, channels], &mut out);
            for (i, &found) in out.iter().enumerate() {
                let (row, at) = (i / 30, i % 30);
                assert_eq!(found, x[row * 30 + at % groups * channels + at / groups], "{groups} groups, {i}");
            }
        }
    }

    #[test]
    fn a_choice_broadcasts() {
        let mut out = [0.0; 6];
        let shapes: [&[usize]; 3] = [&[2, 1], &[], &[3]];
        select([&[0.0, 1.0], &[f32::NEG_INFINITY], &[1.0, 2.0, 3.0]], shapes, &[2, 3], &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    }
}
