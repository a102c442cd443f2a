//! Operators that move elements, and where the batch is among sizes for one picture.

use offshoot_graph::model::BATCH;
use offshoot_graph::op::ShapeOp;
use offshoot_graph::{Bindings, Dim, DimOp, Op, Shape, ValueId};

use super::{Call, Reader};
use crate::error::Problem;

impl Reader<'_> {
    /// A value's sizes for one picture.
    pub(super) fn one_picture(&self, x: ValueId) -> Vec<usize> {
        let one = Bindings::from([(BATCH.to_owned(), 1)]);
        self.graph.value(x).shape.eval(&one).unwrap_or_default()
    }

    /// For pictures one at a time, so that a first size of 1 in what depends on the batch stands for the batch.
    pub(super) fn reshape(&self, call: &Call<'_>, name: &str, x: ValueId) -> Result<Op, Problem> {
        let shape = self.list(call, "shape")?;
        if let Some(shape) = self.noted(call, name, &shape)? {
            return Ok(Op::Shape(ShapeOp::Reshape { shape }));
        }
        let (dims, of_batch) = (self.one_picture(x), self.graph.value(x).shape.0.first());
        let product = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if let [rows, columns] = shape[..] {
            let fits = |&axis: &usize| {
                product(&dims[..axis]) == Some(rows) && product(&dims[axis..]) == Some(columns)
            };
            if let Some(axis) = (1..=dims.len()).find(fits) {
                return Ok(Op::Shape(ShapeOp::Flatten { axis }));
            }
        }
        let of_batch = of_batch.is_some_and(|dim| dim.fixed().is_none());
        Ok(Op::Shape(ShapeOp::Reshape {
            shape: if of_batch { pictures(&shape) } else { Shape::fixed(&shape) },
        }))
    }

    pub(super) fn slice(&self, call: &Call<'_>, x: ValueId) -> Result<Op, Problem> {
        let (begin, end) = (self.list(call, "begin")?, self.list(call, "end")?);
        let dims = self.one_picture(x);
        if begin.len() != dims.len() || end.len() != dims.len() {
            return Err(call.damaged("it does not begin and end on every axis"));
        }
        let part = |&axis: &usize| begin[axis] != 0 || end[axis] != dims[axis];
        let axes: Vec<usize> = (0..dims.len()).filter(part).collect();
        match axes[..] {
            [] => Ok(Op::Shape(ShapeOp::Identity)),
            [axis] => Ok(Op::Shape(ShapeOp::Slice { axis, start: begin[axis], end: end[axis] })),
            _ => Err(call.foreign("it takes a part of more than one axis")),
        }
    }

    /// A parameter repeated for each picture.
    pub(super) fn expand(&self, call: &Call<'_>, name: &str, x: ValueId) -> Result<Op, Problem> {
        let (dims, times) = (self.one_picture(x), self.list(call, "reps")?);
        if times.len() != dims.len() || dims.iter().zip(&times).any(|(&dim, &n)| dim != 1 && n != 1) {
            return Err(call.foreign("it repeats what is more than one"));
        }
        let shape: Vec<usize> = dims.iter().zip(&times).map(|(dim, n)| dim * n).collect();
        let noted = self.noted(call, name, &shape)?;
        Ok(Op::Shape(ShapeOp::Expand { shape: noted.unwrap_or_else(|| pictures(&shape)) }))
    }

    /// The shape of the result `name` for any number of pictures, where the metadata names its axis of the batch.
    fn noted(&self, call: &Call<'_>, name: &str, shape: &[usize]) -> Result<Option<Shape>, Problem> {
        let Some(&axis) = self.batch.get(name) else { return Ok(None) };
        let mut shape = Shape::fixed(shape);
        let size = shape.0.get_mut(axis);
        let size = size.ok_or_else(|| call.damaged(format!("the metadata has its batch at axis {axis}")))?;
        *size = Dim::symbol(BATCH).combine(DimOp::Mul, size);
        Ok(Some(shape))
    }
}

/// A shape for any number of pictures from one for one picture.
fn pictures(shape: &[usize]) -> Shape {
    let mut shape = Shape::fixed(shape);
    if let Some(first) = shape.0.first_mut().filter(|dim| dim.fixed() == Some(1)) {
        *first = Dim::symbol(BATCH);
    }
    shape
}
