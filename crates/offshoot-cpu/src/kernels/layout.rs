//! Conversion between NCHW, the layout of files and of the graph, and NHWC, the layout of the kernels.

use super::element::Stored;
use super::rows::{Shared, TASK, for_tasks};
use super::size::elements;

/// Side of the square that is transposed at a time: two of them fit in the first-level cache.
const TILE: usize = 16;

/// out\[image\]\[column\]\[row\] = x\[image\]\[row\]\[column\], for `batch` matrices of `rows` x `columns`.
///
/// # Panics
/// When a slice has not that size.
pub fn transpose<E: Copy + Send + Sync>(batch: usize, rows: usize, columns: usize, x: &[E], out: &mut [E]) {
    let len = elements([batch, rows, columns]);
    assert!(x.len() == len && out.len() == len, "{batch} x {rows} x {columns}");
    if x.is_empty() {
        return;
    }
    let bands = columns.div_ceil(band(rows));
    let shared = Shared::new(out);
    for_tasks(batch * bands, |task| {
        let (image, start) = (task / bands, task % bands * band(rows));
        let end = columns.min(start + band(rows));
        let x = &x[image * rows * columns..(image + 1) * rows * columns];
        let at = image * rows * columns + start * rows;
        // Safety: the bands of all matrices are disjoint.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(at), (end - start) * rows) };
        transpose_band(x, rows, columns, start, out);
    });
}

/// Columns that make a task: enough that rows are read in runs of 1 KiB.
fn band(rows: usize) -> usize {
    (TASK / rows).next_multiple_of(TILE).max(256)
}

/// Transposes the columns from `start` on that fill `out`.
fn transpose_band<E: Copy>(x: &[E], rows: usize, columns: usize, start: usize, out: &mut [E]) {
    if rows == 3 {
        return interleave::<3, E>(x, columns, start, out);
    }
    let width = out.len() / rows;
    for first_row in (0..rows).step_by(TILE) {
        let end_row = rows.min(first_row + TILE);
        for first in (0..width).step_by(TILE) {
            for column in first..width.min(first + TILE) {
                for row in first_row..end_row {
                    out[column * rows + row] = x[row * columns + start + column];
                }
            }
        }
    }
}

/// [`transpose_band`] for few rows, such as the colors of a picture.
fn interleave<const ROWS: usize, E: Copy>(x: &[E], columns: usize, start: usize, out: &mut [E]) {
    let width = out.len() / ROWS;
    let rows: [&[E]; ROWS] = std::array::from_fn(|row| &x[row * columns + start..][..width]);
    for (column, out) in out.chunks_exact_mut(ROWS).enumerate() {
        for (out, row) in out.iter_mut().zip(rows) {
            *out = row[column];
        }
    }
}

/// NCHW to NHWC; `pixels` is H W.
///
/// # Panics
/// When a slice has not batch x channels x pixels elements.
pub fn nchw_to_nhwc<E: Stored>(batch: usize, channels: usize, pixels: usize, x: &[E], out: &mut [E]) {
    transpose(batch, channels, pixels, x, out);
}

/// NHWC to NCHW; `pixels` is H W.
///
/// # Panics
/// When a slice has not batch x channels x pixels elements.
pub fn nhwc_to_nchw<E: Stored>(batch: usize, channels: usize, pixels: usize, x: &[E], out: &mut [E]) {
    transpose(batch, pixels, channels, x, out);
}

#[cfg(test)]
mod tests;
