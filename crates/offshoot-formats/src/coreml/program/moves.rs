//! Operators that only move weights.

use offshoot_graph::{Node, Op, Tensor};

use super::Writer;
use crate::error::Problem;
use crate::parts;

impl Writer<'_> {
    /// What a node makes of numbers that are all stored, if it only moves them.
    pub(super) fn moved(&self, node: &Node) -> Result<Option<Tensor>, Problem> {
        let Op::Shape(op) = &node.op else { return Ok(None) };
        let Some(shape) = self.graph.value(node.outputs[0]).shape.as_fixed() else { return Ok(None) };
        if node.inputs.iter().any(|&id| self.tensor(id).is_none()) {
            return Ok(None);
        }
        let inputs = (0..node.inputs.len()).map(|i| self.stored(node, i));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        Ok(parts::moved(op, &inputs).map(|numbers| Tensor::f32(shape, numbers)))
    }
}
