//! Parts of weights are weights: what only moves stored numbers is done while a file is written. The layers of some formats want
//! their weights stored.

use offshoot_graph::op::ShapeOp;

/// Numbers and their sizes.
pub(crate) type Numbers<'a> = (&'a [f32], Vec<usize>);

/// What an operator makes of stored numbers, if it only moves them.
pub(crate) fn moved(op: &ShapeOp, inputs: &[Numbers<'_>]) -> Option<Vec<f32>> {
    let (numbers, from) = inputs.first()?;
    match op {
        ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. } => Some(numbers.to_vec()),
        ShapeOp::Transpose { perm } => Some(transposed(numbers, from, perm)),
        ShapeOp::Slice { axis, start, end } => {
            let inner: usize = from[axis + 1..].iter().product();
            let rows = numbers.chunks((from[*axis] * inner).max(1));
            Some(rows.flat_map(|row| &row[start * inner..end * inner]).copied().collect())
        }
        ShapeOp::Concat { axis } => Some(joined(inputs, *axis)),
        // A repetition of numbers is no weight.
        ShapeOp::Expand { .. } | ShapeOp::Identity => None,
    }
}

fn joined(inputs: &[Numbers<'_>], axis: usize) -> Vec<f32> {
    let parts = inputs.iter();
    let parts = parts.map(|(numbers, shape)| numbers.chunks(shape[axis..].iter().product::<usize>().max(1)));
    let mut parts: Vec<_> = parts.collect();
    let mut joined = Vec::new();
    loop {
        let before = joined.len();
        joined.extend(parts.iter_mut().filter_map(Iterator::next).flatten());
        if joined.len() == before {
            return joined;
        }
    }
}

/// `elements` of `shape` with axis `perm[i]` in the place of axis i.
pub(crate) fn transposed<T: Copy>(elements: &[T], shape: &[usize], perm: &[usize]) -> Vec<T> {
    if perm.is_sorted() {
        return elements.to_vec();
    }
    let mut places = vec![0];
    for &axis in perm {
        let stride: usize = shape[axis + 1..].iter().product();
        places = places.iter().flat_map(|place| (0..shape[axis]).map(move |i| place + i * stride)).collect();
    }
    places.into_iter().map(|place: usize| elements[place]).collect()
}
