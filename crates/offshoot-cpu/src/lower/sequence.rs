//! Operators on tokens.

use offshoot_graph::op::{SequenceOp, ShapeOp};
use offshoot_graph::{DType, ExecuteError, Op, Tensor};

use super::Node;
use super::{Lowering, Order, unsupported};
use crate::kernels::shape::{add_rows, copy_rows, select};

impl Lowering<'_> {
    pub(super) fn sequence(&mut self, node: &Node, op: SequenceOp) -> Result<(), ExecuteError> {
        match op {
            SequenceOp::Gather => self.gather_rows(node),
            SequenceOp::Positions { axis } => self.positions(node, axis),
            SequenceOp::Equal { number } => {
                self.of_tokens(node, move |x| if x == number { 1.0 } else { 0.0 })
            }
            SequenceOp::ToFloat => self.of_tokens(node, |x| x as f32),
            SequenceOp::Where => self.select(node),
        }
    }

    /// A node that moves or renames tokens.
    pub(super) fn tokens(&mut self, node: &Node, op: &Op) -> Result<(), ExecuteError> {
        match op {
            Op::Shape(ShapeOp::Reshape { .. } | ShapeOp::Flatten { .. } | ShapeOp::Identity) => {
                self.reshape(node)
            }
            Op::Shape(ShapeOp::Expand { .. }) => self.expand::<i64>(node),
            Op::Conv(_)
            | Op::Gemm(_)
            | Op::Norm(_)
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Reduce { .. }
            | Op::Pool(_)
            | Op::MatMul(_)
            | Op::Shape(ShapeOp::Transpose { .. } | ShapeOp::Concat { .. } | ShapeOp::Slice { .. })
            | Op::Dropout { .. }
            | Op::Softmax { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_)
            | Op::Composite(_)
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(_)
            | Op::Sequence(_) => Err(unsupported(node, format!("there are no kernels for {}", DType::I64))),
        }
    }

    fn gather_rows(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let rows = self.shape(node.inputs[0])[0];
        let width: usize = self.shape(node.inputs[0])[1..].iter().product();
        let (table, indices) = (self.plain(node.inputs[0])?, self.plain(node.inputs[1])?);
        let y = self.write_plain::<f32>(node.outputs[0])?;
        let name = node.name.clone();
        self.fallible_step("copy rows", (table, indices), y, move |(table, indices), y| {
            copy_rows(table, width, indices, y).map_err(|index| ExecuteError::Index {
                node: name.clone(),
                index,
                rows,
            })
        });
        Ok(())
    }

    /// Known with the sizes: a constant of the plan.
    fn positions(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let count = self.shape(node.inputs[0])[axis];
        let positions = i64::try_from(count).map_err(|e| unsupported(node, e.to_string()))?;
        let constant = self.constant(Tensor::i64([count], (0..positions).collect()));
        self.alias(node.outputs[0], Order::Graph, constant);
        Ok(())
    }

    fn of_tokens(
        &mut self,
        node: &Node,
        f: impl Fn(i64) -> f32 + Send + 'static,
    ) -> Result<(), ExecuteError> {
        let (x, y) = (self.plain::<i64>(node.inputs[0])?, self.write_plain(node.outputs[0])?);
        self.step("tokens", x, y, move |x, y| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)));
        Ok(())
    }

    /// (dy, indices) -> the gradient of the table.
    pub(super) fn gather_grad(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let rows = self.shape(node.outputs[0])[0];
        let width: usize = self.shape(node.outputs[0])[1..].iter().product();
        let (dy, indices) = (self.plain(node.inputs[0])?, self.plain(node.inputs[1])?);
        let dx = self.write_plain(node.outputs[0])?;
        let name = node.name.clone();
        self.fallible_step("add rows", (dy, indices), dx, move |(dy, indices), dx| {
            add_rows(dy, width, indices, dx).map_err(|index| ExecuteError::Index {
                node: name.clone(),
                index,
                rows,
            })
        });
        Ok(())
    }

    fn select(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let shape = self.shape(node.outputs[0]).to_vec();
        let shapes = [0, 1, 2].map(|i| self.shape(node.inputs[i]).to_vec());
        let [condition, a, b] = [0, 1, 2].map(|i| self.plain(node.inputs[i]));
        let (condition, a, b) = (condition?, a?, b?);
        let y = self.write_plain(node.outputs[0])?;
        self.step("select", [condition, a, b], y, move |operands, y| {
            select(operands, [0, 1, 2].map(|i| &shapes[i][..]), &shape, y);
        });
        Ok(())
    }
}
