//! Split: parts of an axis, an output each.

use std::rc::Rc;

use offshoot_graph::Tensor;

use super::{Operand, SIMPLIFY, Stored, Translator};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    /// Gives each output its part of an axis of known size.
    pub(super) fn split(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        // In a file of ours a weight keeps its name, and its Split is part of the graph.
        if let Operand::Stored(stored) = self.operand(node, 0)?
            && !self.context.own
        {
            return self.split_stored(node, &stored);
        }
        let x = self.value(node, 0)?;
        let axis = node.place_of(node.int("axis", 0), self.import.shape(x).rank())?;
        let Some(size) = self.import.shape(x).0[axis].fixed() else {
            return Err(node.unsupported("only an axis of known size is split", SIMPLIFY));
        };
        let sizes = self.sizes(node, size)?;
        let parts = self.import.split(&node, x, axis, sizes)?;
        for (output, part) in node.proto.output.iter().zip(parts) {
            self.define(output, part);
        }
        Ok(())
    }

    /// The sizes of the parts of an axis of `size`, which add up to it.
    fn sizes(&mut self, node: NodeView<'a>, size: usize) -> Result<Vec<usize>, Problem> {
        let outputs = node.proto.output.len();
        let sizes = match self.ints(node, 1, "split")? {
            Some(sizes) => sizes.iter().map(|&part| usize::try_from(part).ok()).collect(),
            None => Some(equal_parts(node, size)),
        };
        let sum = |sizes: &Vec<usize>| sizes.iter().try_fold(0_usize, |sum, &part| sum.checked_add(part));
        sizes.filter(|sizes| sizes.len() == outputs && sum(sizes) == Some(size)).ok_or_else(|| {
            node.damaged(format!("its sizes are not those of {outputs} outputs and an axis of {size}"))
        })
    }

    fn split_stored(&mut self, node: NodeView<'a>, stored: &Stored) -> Result<(), Problem> {
        let shape = stored.tensor.shape().to_vec();
        let axis = node.place_of(node.int("axis", 0), shape.len())?;
        let numbers = stored.tensor.as_f32().filter(|_| !stored.transposed);
        let numbers = numbers.ok_or_else(|| node.unsupported("only stored floats are split", SIMPLIFY))?;
        let inner: usize = shape[axis + 1..].iter().product();
        let mut start = 0;
        for (output, part) in node.proto.output.iter().zip(self.sizes(node, shape[axis])?) {
            let rows = numbers.chunks_exact((shape[axis] * inner).max(1));
            let of_row = rows.flat_map(|row| row[start * inner..(start + part) * inner].iter().copied());
            let mut shape = shape.clone();
            shape[axis] = part;
            let tensor = Rc::new(Tensor::f32(shape, of_row.collect()));
            let stored =
                Stored { name: output.clone(), tensor, transposed: false, constant: stored.constant };
            self.operands.insert(output, Operand::Stored(stored));
            start += part;
        }
        Ok(())
    }
}

/// The sizes where none are given: as equal as they can be, the last one smaller.
fn equal_parts(node: NodeView<'_>, size: usize) -> Vec<usize> {
    let parts =
        usize::try_from(node.int("num_outputs", 0)).unwrap_or(0).min(size).max(node.proto.output.len());
    let most = size.div_ceil(parts.max(1));
    (0..parts).map(|part| most.min(size.saturating_sub(part * most))).collect()
}
