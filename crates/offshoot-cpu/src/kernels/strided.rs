//! Copies of elements that lie at constant distances along each axis.

use super::element::Stored;
use super::layout::transpose;
use super::rows::{Shared, for_chunks, rows_per_task};
use super::size::elements;

/// The place of each element of a tensor among others: an element is at `start` plus the sum of its indices, each times its stride.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strided {
    /// Where the first element is.
    pub(crate) start: usize,
    /// The elements along each axis.
    pub(crate) shape: Vec<usize>,
    /// From an element to the next along each axis.
    pub(crate) strides: Vec<usize>,
}

impl Strided {
    /// Elements of `shape` one after another.
    pub(crate) fn dense(shape: Vec<usize>) -> Strided {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = elements([strides[axis], shape[axis]]);
        }
        Strided { start: 0, shape, strides }
    }

    /// Its elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().fold(1, |len, &size| elements([len, size]))
    }

    /// Whether its elements follow one another from `start` on.
    pub(crate) fn is_dense(&self) -> bool {
        let mut next = 1;
        let sizes = self.shape.iter().zip(&self.strides).rev();
        let mut fits = sizes.map(|(&size, &stride)| {
            let fits = size == 1 || stride == next;
            next *= size;
            fits
        });
        self.len() == 0 || fits.all(|fits| fits)
    }

    /// Axis `perm[i]` as axis i.
    ///
    /// # Panics
    /// When `perm` is no permutation of the axes.
    pub(crate) fn permuted(&self, perm: &[usize]) -> Strided {
        let is_permutation =
            perm.len() == self.shape.len() && (0..perm.len()).all(|axis| perm.contains(&axis));
        assert!(is_permutation, "{:?} by {perm:?}", self.shape);
        let of = |sizes: &[usize]| perm.iter().map(|&axis| sizes[axis]).collect();
        Strided { start: self.start, shape: of(&self.shape), strides: of(&self.strides) }
    }

    /// Indices `start..start + size` of an axis.
    ///
    /// # Panics
    /// When there is no such axis, or it has fewer places.
    pub(crate) fn sliced(&self, axis: usize, start: usize, size: usize) -> Strided {
        assert!(start.checked_add(size).is_some_and(|end| end <= self.shape[axis]), "{self:?} at {start}");
        let mut part = self.clone();
        part.start += start * self.strides[axis];
        part.shape[axis] = size;
        part
    }

    /// The same elements in the same order as a tensor of another shape, if they lie at constant distances along its axes too.
    pub(crate) fn reshaped(&self, shape: &[usize]) -> Option<Strided> {
        let own = self.merged();
        let mut axes = own.shape.iter().zip(&own.strides).rev();
        let (mut left, mut stride) = axes.next().map_or((1, 1), |(&size, &stride)| (size, stride));
        let mut strides = vec![0; shape.len()];
        for (&size, own) in shape.iter().zip(&mut strides).rev() {
            if left == 1 && size != 1 {
                (left, stride) = axes.next().map(|(&size, &stride)| (size, stride))?;
            }
            *own = stride;
            if size == 0 || left % size != 0 {
                return None;
            }
            left /= size;
            stride *= size;
        }
        Some(Strided { start: self.start, shape: shape.to_vec(), strides })
    }

    /// As few axes as lead to the same elements in the same order.
    pub(super) fn merged(&self) -> Strided {
        let mut merged = Strided { start: self.start, shape: Vec::new(), strides: Vec::new() };
        for (&size, &stride) in self.shape.iter().zip(&self.strides).filter(|&(&size, _)| size != 1) {
            match (merged.shape.last_mut(), merged.strides.last_mut()) {
                (Some(outer), Some(distance)) if *distance == stride * size => {
                    *outer *= size;
                    *distance = stride;
                }
                _ => {
                    merged.shape.push(size);
                    merged.strides.push(stride);
                }
            }
        }
        merged
    }

    /// Whether all of its elements are among `len`.
    fn is_within(&self, len: usize) -> bool {
        let mut last = self.start;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            let Some(steps) = size.checked_sub(1) else { return true };
            last = last.saturating_add(steps.saturating_mul(stride));
        }
        last < len
    }
}

/// out = the elements of `x` at `places`, one after another.
///
/// # Panics
/// When a place is outside of `x`, or `out` has another number of elements.
pub(crate) fn copy_strided<E: Stored>(x: &[E], places: &Strided, out: &mut [E]) {
    assert!(out.len() == places.len() && places.is_within(x.len()), "{places:?} of {}", x.len());
    if out.is_empty() {
        return;
    }
    let Strided { start, shape, strides } = places.merged();
    if let (&[ref outer @ .., rows, columns], &[ref steps @ .., 1, row]) = (&shape[..], &strides[..])
        && row == rows
        && steps.iter().all(|&step| step == rows * columns)
    {
        let batch: usize = outer.iter().product();
        return transpose(batch, columns, rows, &x[start..][..out.len()], out);
    }
    let (width, step) = (shape.last().copied().unwrap_or(1), strides.last().copied().unwrap_or(1));
    let outer = shape.len().saturating_sub(1);
    let outer = Strided { start, shape: shape[..outer].to_vec(), strides: strides[..outer].to_vec() };
    let shared = Shared::new(out);
    for_chunks(places.len() / width, rows_per_task(width), |rows| {
        let mut at = Odometer::at(&outer, rows.start);
        for row in rows {
            // Safety: rows of `out` do not overlap, and there are len / width of them.
            let out = unsafe { std::slice::from_raw_parts_mut(shared.at(row * width), width) };
            match step {
                1 => out.copy_from_slice(&x[at.offset..][..width]),
                _ => {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = x[at.offset + i * step];
                    }
                }
            }
            at.advance();
        }
    });
}

/// The place of an element, and its index along each axis: those that come after it need no division.
pub(super) struct Odometer<'a> {
    places: &'a Strided,
    index: Vec<usize>,
    pub(super) offset: usize,
}

impl Odometer<'_> {
    /// At an element.
    pub(super) fn at(places: &Strided, element: usize) -> Odometer<'_> {
        let Strided { start, shape, strides } = places;
        let (mut index, mut offset, mut rest) = (vec![0; shape.len()], *start, element);
        for ((&size, &stride), index) in shape.iter().zip(strides).zip(&mut index).rev() {
            *index = rest.checked_rem(size).unwrap_or(0);
            offset += *index * stride;
            rest = rest.checked_div(size).unwrap_or(0);
        }
        Odometer { places, index, offset }
    }

    pub(super) fn advance(&mut self) {
        let Strided { shape, strides, .. } = self.places;
        for ((&size, &stride), index) in shape.iter().zip(strides).zip(&mut self.index).rev() {
            *index += 1;
            self.offset += stride;
            if *index < size {
                return;
            }
            *index = 0;
            self.offset -= size * stride;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_same_on_any_threads;
    use super::*;

    /// The places of all elements, one after another.
    fn places(strided: &Strided) -> Vec<usize> {
        let mut all = vec![strided.start];
        for (&size, &stride) in strided.shape.iter().zip(&strided.strides) {
            all = all.into_iter().flat_map(|at| (0..size).map(move |i| at + i * stride)).collect();
        }
        all
    }

    #[test]
    fn copies_are_of_the_elements_at_their_places() {
        let x: Vec<f32> = (0..4000).map(|i| i as f32).collect();
        let dense = Strided::dense(vec![5, 4, 3, 6, 2]);
        let cases = [
            dense.clone(),
            dense.permuted(&[0, 1, 2, 4, 3]),
            dense.permuted(&[3, 0, 4, 1, 2]),
            dense.permuted(&[0, 2, 1, 3, 4]),
            dense.permuted(&[1, 0, 2, 3, 4]).sliced(1, 2, 3),
            dense.sliced(3, 1, 4).permuted(&[4, 3, 2, 1, 0]),
            dense.sliced(0, 4, 1),
            Strided { start: 7, shape: vec![3, 2], strides: vec![0, 0] },
            Strided { start: 7, shape: vec![], strides: vec![] },
            Strided { start: 7, shape: vec![3, 0], strides: vec![100_000, 1] },
            Strided { start: 0, shape: vec![40, 90], strides: vec![1, 40] },
            Strided { start: 3, shape: vec![90, 40], strides: vec![44, 1] },
        ];
        for case in cases {
            let wanted: Vec<f32> = places(&case).into_iter().map(|at| x[at]).collect();
            assert_eq!(wanted.len(), case.len());
            let copy = || {
                let mut out = vec![f32::NAN; case.len()];
                copy_strided(&x, &case, &mut out);
                out
            };
            assert_eq!(copy(), wanted, "{case:?}");
            assert_same_on_any_threads("a copy", copy);
        }
    }

    #[test]
    fn a_shape_is_another_where_the_distances_stay_constant() {
        let dense = Strided::dense(vec![4, 6, 5]);
        let swapped = dense.permuted(&[1, 0, 2]);
        assert_eq!(swapped.reshaped(&[24, 5]), None);
        assert_eq!(dense.sliced(1, 2, 4).reshaped(&[16, 5]), None);
        for (strided, shape) in [
            (&dense, &[2, 2, 30][..]),
            (&dense, &[120]),
            (&dense, &[1, 8, 1, 15, 1]),
            (&swapped, &[3, 2, 4, 1, 5]),
            (&swapped, &[6, 2, 2, 5]),
            (&dense.sliced(0, 1, 2), &[6, 10]),
            (&dense.sliced(2, 1, 2), &[24, 2]),
        ] {
            let found = strided.reshaped(shape).expect("a shape");
            assert_eq!((places(&found), &found.shape[..]), (places(strided), shape), "{strided:?}");
        }
    }

    #[test]
    fn what_is_dense_is_one_run_of_elements() {
        let dense = Strided::dense(vec![3, 1, 4]);
        assert!(
            dense.is_dense() && dense.sliced(0, 1, 2).is_dense() && dense.permuted(&[1, 0, 2]).is_dense()
        );
        assert!(!dense.sliced(2, 1, 2).is_dense() && !dense.permuted(&[2, 1, 0]).is_dense());
    }

    #[test]
    #[should_panic(expected = "of 11")]
    fn places_outside_are_refused() {
        copy_strided(&[0.0; 11], &Strided::dense(vec![3, 4]), &mut [0.0; 12]);
    }
}
