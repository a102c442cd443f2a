//! Where the matrices of a stack are.

use super::super::strided::Strided;

/// Matrices that may lie anywhere in the memory of a tensor, all in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// Where each matrix starts.
    pub(crate) starts: Vec<usize>,
    /// Elements from a row to the next.
    pub(crate) row: usize,
    /// Elements from a column to the next.
    pub(crate) column: usize,
}

impl Stack {
    /// The matrices that the last two axes are; none for fewer axes.
    pub(crate) fn new(places: &Strided) -> Option<Stack> {
        let (&[ref sizes @ .., _, _], &[ref strides @ .., row, column]) =
            (&places.shape[..], &places.strides[..])
        else {
            return None;
        };
        let mut starts = vec![places.start];
        for (&size, &stride) in sizes.iter().zip(strides) {
            starts = starts.into_iter().flat_map(|at| (0..size).map(move |i| at + i * stride)).collect();
        }
        Some(Stack { starts, row, column })
    }

    /// The same with rows as columns.
    pub(crate) fn transposed(self) -> Stack {
        Stack { row: self.column, column: self.row, ..self }
    }

    /// Whether there are `count` matrices of these sizes, all within `len` elements.
    pub(super) fn fits(&self, count: usize, [rows, columns]: [usize; 2], len: usize) -> bool {
        let steps = |size: usize, stride: usize| size.saturating_sub(1).checked_mul(stride);
        let last = || steps(rows, self.row)?.checked_add(steps(columns, self.column)?);
        let end = |start: usize| last().and_then(|last| last.checked_add(start));
        let empty = rows == 0 || columns == 0;
        let within = |&start: &usize| empty || end(start).is_some_and(|end| end < len);
        self.starts.len() == count && self.starts.iter().all(within)
    }
}
