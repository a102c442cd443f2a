//! Parts of weights are weights: what only moves stored numbers is done while the program is written. Core ML's layers want
//! their weights stored.

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{Node, Op, Tensor};

use super::Writer;
use crate::error::Problem;

impl Writer<'_> {
    /// What a node makes of numbers that are all stored, if it only moves them.
    pub(super) fn moved(&self, node: &Node) -> Result<Option<Tensor>, Problem> {
        let Op::Shape(op) = &node.op else { return Ok(None) };
        let Some(shape) = self.graph.value(node.outputs[0]).shape.as_fixed() else { return Ok(None) };
        if node.inputs.iter().any(|&id| self.tensor(id).is_none()) {
            return Ok(None);
        }
        let (numbers, from) = self.stored(node, 0)?;
        let numbers = match op {
            ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. } => numbers.to_vec(),
            ShapeOp::Transpose { perm } => transposed(numbers, &from, perm),
            ShapeOp::Slice { axis, start, end } => {
                let inner: usize = from[axis + 1..].iter().product();
                let rows = numbers.chunks((from[*axis] * inner).max(1));
                rows.flat_map(|row| &row[start * inner..end * inner]).copied().collect()
            }
            ShapeOp::Concat { axis } => self.joined(node, *axis)?,
            // A repetition of numbers is no weight.
            ShapeOp::Expand { .. } | ShapeOp::Identity => return Ok(None),
        };
        Ok(Some(Tensor::f32(shape, numbers)))
    }

    fn joined(&self, node: &Node, axis: usize) -> Result<Vec<f32>, Problem> {
        let mut parts = Vec::with_capacity(node.inputs.len());
        for i in 0..node.inputs.len() {
            let (numbers, shape) = self.stored(node, i)?;
            parts.push(numbers.chunks(shape[axis..].iter().product::<usize>().max(1)));
        }
        let mut joined = Vec::new();
        loop {
            let before = joined.len();
            joined.extend(parts.iter_mut().filter_map(Iterator::next).flatten());
            if joined.len() == before {
                return Ok(joined);
            }
        }
    }
}

fn transposed(numbers: &[f32], shape: &[usize], perm: &[usize]) -> Vec<f32> {
    let mut places = vec![0];
    for &axis in perm {
        let stride: usize = shape[axis + 1..].iter().product();
        places = places.iter().flat_map(|place| (0..shape[axis]).map(move |i| place + i * stride)).collect();
    }
    places.into_iter().map(|place: usize| numbers[place]).collect()
}
