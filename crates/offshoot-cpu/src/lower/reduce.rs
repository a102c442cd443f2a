//! Reductions along an axis.

use offshoot_graph::op::Reduce;
use offshoot_graph::{DType, ExecuteError};

use super::Node;
use super::{Lowering, unsupported};
use crate::kernels::reduce::{Along, reduce, reduce_grad};

impl Lowering<'_> {
    pub(super) fn reduce(&mut self, node: &Node, op: Reduce, axis: usize) -> Result<(), ExecuteError> {
        self.check_floats(node)?;
        if op == Reduce::Sum {
            return self.reduce_to::<f32>(node);
        }
        let along = Along::new(self.shape(node.inputs[0]), axis);
        let (x, y) = (self.plain(node.inputs[0])?, self.write_plain(node.outputs[0])?);
        let isa = self.isa;
        self.step("reduce", x, y, move |x, y| reduce(isa, op, along, x, y));
        Ok(())
    }

    /// (dy, x, y) -> dx
    pub(super) fn reduce_grad(&mut self, node: &Node, op: Reduce, axis: usize) -> Result<(), ExecuteError> {
        self.check_floats(node)?;
        let along = Along::new(self.shape(node.inputs[1]), axis);
        let [dy, x, y] = [0, 1, 2].map(|i| self.plain(node.inputs[i]));
        let (dy, x, y) = (dy?, x?, y?);
        let dx = self.write_plain(node.outputs[0])?;
        self.step("reduce", [dy, x, y], dx, move |operands, dx| reduce_grad(op, along, operands, dx));
        Ok(())
    }

    /// Autocast reduces in f32 only.
    fn check_floats(&self, node: &Node) -> Result<(), ExecuteError> {
        match self.dtype(node.inputs[0]) {
            DType::F32 => Ok(()),
            other => Err(unsupported(node, format!("there are no kernels for {other}"))),
        }
    }
}
