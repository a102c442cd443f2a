//! What works element by element, and reshapes.

use half::{bf16, f16};
use offshoot_graph::{DType, ExecuteError, Node};

use super::{Lowering, Order, unsupported};
use crate::kernels::dropout::{Dropout, dropout};
use crate::kernels::element::Element;
use crate::kernels::elementwise::{
    Binary, Unary, activation_grad, activation_grad_in_place, binary, binary_in_place, binary_rows,
    broadcast_binary, sum_to_shape, unary, unary_grad,
};
use crate::kernels::{Activation, Place};

impl Lowering<'_> {
    pub(super) fn activation<E: Element>(
        &mut self,
        node: &Node,
        activation: Activation,
    ) -> Result<(), ExecuteError> {
        match activation {
            Activation::None => Ok(()),
            Activation::Relu => self.unary::<E>(node, Unary::Relu),
            Activation::Clip { min, max } => self.unary::<E>(node, Unary::Clip { min, max }),
        }
    }

    pub(super) fn sigmoid<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        self.unary::<E>(node, Unary::Sigmoid)
    }

    fn unary<E: Element>(&mut self, node: &Node, op: Unary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let x = self.read(node.inputs[0])?;
        let y = self.write(node.outputs[0]);
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            unary(isa, op, memory.get::<E>(x), out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn activation_grad<E: Element>(
        &mut self,
        node: &Node,
        activation: Activation,
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let (dy, y) = (self.read(node.inputs[0])?, self.read(node.inputs[1])?);
        let dx = self.write(node.outputs[0]);
        self.push_over(&node.name, vec![dy, y], dx, move |memory, _, out| {
            match memory.place::<E>(dy, &mut out[0]) {
                Place::Over(dx) => activation_grad_in_place(isa, activation, memory.get(y), dx),
                Place::Apart(dy, dx) => activation_grad(isa, activation, memory.get(y), dy, dx),
            }
            Ok(())
        });
        Ok(())
    }

    pub(super) fn sigmoid_grad<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let (dy, x) = (self.read(node.inputs[0])?, self.read(node.inputs[1])?);
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy, x], vec![dx], move |memory, _, out| {
            unary_grad(isa, Unary::Sigmoid, memory.get::<E>(x), memory.get::<E>(dy), out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn binary<E: Element>(&mut self, node: &Node, op: Binary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let (a_shape, b_shape) = (self.aligned(node, 0), self.aligned(node, 1));
        let shape = self.memory_shape(node.outputs[0]);
        let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let y = self.write(node.outputs[0]);
        let (same, groups) = (a_shape == b_shape, channel_groups(&a_shape, &b_shape));
        if same {
            self.push_over(&node.name, vec![a, b], y, move |memory, _, out| {
                match memory.place::<E>(a, &mut out[0]) {
                    Place::Over(inout) => binary_in_place(isa, op, inout, memory.get(b)),
                    Place::Apart(a, out) => binary(isa, op, a, memory.get(b), out),
                }
                Ok(())
            });
            return Ok(());
        }
        self.push(&node.name, vec![a, b], vec![y], move |memory, _, out| {
            let (a, b) = (memory.get::<E>(a), memory.get::<E>(b));
            match groups {
                Some(groups) => binary_rows(isa, op, a, b, groups, out[0].get()),
                None => broadcast_binary(op, (a, &a_shape), (b, &b_shape), &shape, out[0].get()),
            }
            Ok(())
        });
        Ok(())
    }

    /// The shape of an operand in memory, with as many axes as the result: a smaller rank stands for trailing axes
    /// of the graph's order.
    fn aligned(&self, node: &Node, input: usize) -> Vec<usize> {
        let rank = self.shape(node.outputs[0]).len();
        let shape = self.shape(node.inputs[input]);
        let mut aligned = vec![1; rank.saturating_sub(shape.len())];
        aligned.extend_from_slice(shape);
        match aligned[..] {
            [n, c, h, w] => vec![n, h, w, c],
            _ => aligned,
        }
    }

    /// An operand of an elementwise operator whose result has rank 4 must be channels last, whatever its own rank.
    fn operand(&mut self, node: &Node, input: usize) -> Result<crate::plan::BufferId, ExecuteError> {
        let value = node.inputs[input];
        let aligned = self.aligned(node, input);
        let spans_pixels = aligned.len() == 4 && aligned[1] * aligned[2] > 1 && aligned[3] > 1;
        if self.shape(value).len() == 3 && spans_pixels {
            return Err(unsupported(
                node,
                "a [C, H, W] operand of a rank-4 operator is not supported".into(),
            ));
        }
        self.read(value)
    }

    pub(super) fn reduce_to<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let dy_shape = self.memory_shape(node.inputs[0]);
        let shape = {
            let own = self.shape(node.outputs[0]);
            let mut aligned = vec![1; dy_shape.len().saturating_sub(own.len())];
            aligned.extend_from_slice(own);
            match aligned[..] {
                [n, c, h, w] => vec![n, h, w, c],
                _ => aligned,
            }
        };
        let dy = self.read(node.inputs[0])?;
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy], vec![dx], move |memory, _, out| {
            sum_to_shape(memory.get::<E>(dy), &dy_shape, &shape, out[0].get());
            Ok(())
        });
        Ok(())
    }

    /// The same numbers in another type.
    pub(super) fn cast_node<E: Element>(&mut self, node: &Node, to: DType) -> Result<(), ExecuteError> {
        let x = self.read(node.inputs[0])?;
        let y = match to {
            DType::BF16 => self.cast::<E, bf16>(x, node.inputs[0]),
            DType::F16 => self.cast::<E, f16>(x, node.inputs[0]),
            DType::F32 => self.cast::<E, f32>(x, node.inputs[0]),
            other => return Err(unsupported(node, format!("there are no kernels for {other}"))),
        };
        self.alias(node.outputs[0], self.order_of_rank(node.outputs[0]), y);
        Ok(())
    }

    /// The same elements in the graph's order under another shape.
    pub(super) fn reshape(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let x = self.plain(node.inputs[0])?;
        self.alias(node.outputs[0], Order::Graph, x);
        Ok(())
    }

    pub(super) fn dropout<E: Element>(
        &mut self,
        node: &Node,
        p: f32,
        layer: u64,
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        // The mask counts elements in the graph's order: it must not depend on the layout.
        let x = self.plain(node.inputs[0])?;
        let keys = self.i64_input(node, node.inputs[1])?;
        let y = self.write_plain(node.outputs[0]);
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            dropout(isa, &Dropout { keys: memory.get_i64(keys), layer, p }, memory.get::<E>(x), out[0].get());
            Ok(())
        });
        Ok(())
    }
}

/// [N, .., C] against [N, 1.., C]: the groups of rows that share one row of the second operand.
fn channel_groups(a: &[usize], b: &[usize]) -> Option<usize> {
    let (a_last, b_last) = (a.last()?, b.last()?);
    let middle = &b[1.min(b.len())..b.len() - 1];
    let fits =
        a.len() > 1 && a_last == b_last && middle.iter().all(|&d| d == 1) && (b[0] == a[0] || b[0] == 1);
    fits.then(|| b[0])
}
