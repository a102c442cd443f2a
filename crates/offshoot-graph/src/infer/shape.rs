//! The shapes of reductions, transposes, reshapes, concatenation, slices and broadcasting.

use super::checks::same_dtype;
use crate::graph::Value;
use crate::shape::{Dim, DimOp, Shape};

pub(super) fn reduced_shape(x: &Value, axis: usize) -> Result<Shape, String> {
    if !x.dtype.is_float() {
        return Err(format!("`{}` is {}, and only floats are reduced", x.name, x.dtype));
    }
    let mut shape = x.shape.clone();
    *shape.0.get_mut(axis).ok_or_else(|| format!("axis {axis} is outside of the shape {}", x.shape))? =
        Dim::Fixed(1);
    Ok(shape)
}

pub(super) fn transposed_shape(shape: &Shape, perm: &[usize]) -> Result<Shape, String> {
    let rank = shape.rank();
    let mut seen = vec![false; rank];
    for &axis in perm {
        if axis >= rank || std::mem::replace(&mut seen[axis], true) {
            return Err(format!("{perm:?} is no permutation of the axes of {shape}"));
        }
    }
    if perm.len() != rank {
        return Err(format!("{perm:?} is no permutation of the axes of {shape}"));
    }
    Ok(Shape(perm.iter().map(|&axis| shape.0[axis].clone()).collect()))
}

pub(super) fn concatenated_shape(inputs: &[&Value], axis: usize) -> Result<Shape, String> {
    let first = inputs[0];
    let mut shape = first.shape.0.clone();
    if axis >= shape.len() {
        return Err(format!("axis {axis} is outside of the shape {}", first.shape));
    }
    for other in &inputs[1..] {
        same_dtype(first, other)?;
        let same = other.shape.rank() == shape.len()
            && (0..shape.len()).all(|i| i == axis || other.shape.0[i] == first.shape.0[i]);
        if !same {
            return Err(format!("{} and {} differ in more than axis {axis}", first.shape, other.shape));
        }
        shape[axis] = shape[axis].combine(DimOp::Add, &other.shape.0[axis]);
    }
    Ok(Shape(shape))
}

pub(super) fn sliced_shape(shape: &Shape, axis: usize, start: usize, end: usize) -> Result<Shape, String> {
    let size = shape.0.get(axis).ok_or_else(|| format!("axis {axis} is outside of the shape {shape}"))?;
    let size = size.fixed().ok_or("the size of the axis must be known")?;
    if start >= end || end > size {
        return Err(format!("{start}..{end} is no part of the {size} places of axis {axis}"));
    }
    let mut sliced = shape.clone();
    sliced.0[axis] = Dim::Fixed(end - start);
    Ok(sliced)
}

/// Both shapes have as many elements, whatever their symbols stand for.
pub(super) fn same_count(a: &Shape, b: &Shape) -> Result<(), String> {
    if a.has_as_many_as(b) {
        return Ok(());
    }
    Err(format!("{a} and {b} have not the same number of elements"))
}

pub(super) fn flatten_shape(shape: &Shape, axis: usize) -> Result<Shape, String> {
    if axis > shape.rank() {
        return Err(format!("axis {axis} is outside of the shape {shape}"));
    }
    let product = |dims: &[Dim]| dims.iter().fold(Dim::Fixed(1), |n, d| n.combine(DimOp::Mul, d));
    Ok(Shape(vec![product(&shape.0[..axis]), product(&shape.0[axis..])]))
}

/// The shape of `a op b` under NumPy's broadcasting.
pub(crate) fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let rank = a.rank().max(b.rank());
    let axis = |shape: &Shape, i: usize| (i + shape.rank()).checked_sub(rank).map(|j| shape.0[j].clone());
    (0..rank)
        .map(|i| match (axis(a, i), axis(b, i)) {
            (Some(Dim::Fixed(1)) | None, Some(d)) | (Some(d), Some(Dim::Fixed(1)) | None) => Ok(d),
            (Some(x), Some(y)) if x == y => Ok(x),
            _ => Err(format!("{a} and {b} do not broadcast")),
        })
        .collect::<Result<Vec<Dim>, String>>()
        .map(Shape)
}
