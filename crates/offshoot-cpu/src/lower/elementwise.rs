//! What works element by element, and reshapes.

use half::{bf16, f16};
use offshoot_graph::op::{Binary, Unary};
use offshoot_graph::{DType, ExecuteError, ValueId};

use super::Node;
use super::{Lowering, Order, unsupported};
use crate::kernels::Place;
use crate::kernels::dropout::{Dropout, dropout};
use crate::kernels::element::Element;
use crate::kernels::elementwise::{
    binary, binary_in_place, binary_rows, broadcast_binary, broadcast_slope, sum_to_rows, sum_to_shape,
    unary, unary_grad, unary_grad_in_place,
};
use crate::plan::BufferId;

impl Lowering<'_> {
    pub(super) fn unary<E: Element>(&mut self, node: &Node, op: Unary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let order = self.held_order(&node.inputs);
        let x = self.in_order(node.inputs[0], order)?;
        let y = self.write_in_order(node.outputs[0], order);
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            unary(isa, op, memory.get::<E>(x), out[0].get());
            Ok(())
        });
        Ok(())
    }

    /// (dy, x or y) -> dx of `op`
    pub(super) fn unary_grad<E: Element>(&mut self, node: &Node, op: Unary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let order = self.held_order(&node.inputs);
        let (dy, known) = (self.in_order(node.inputs[0], order)?, self.in_order(node.inputs[1], order)?);
        let dx = self.write_in_order(node.outputs[0], order);
        self.push_over(&node.name, vec![dy, known], dx, move |memory, _, out| {
            match memory.place::<E>(dy, &mut out[0]) {
                Place::Over(dx) => unary_grad_in_place(isa, op, memory.get(known), dx),
                Place::Apart(dy, dx) => unary_grad(isa, op, memory.get(known), dy, dx),
            }
            Ok(())
        });
        Ok(())
    }

    /// The order in which elementwise operators read `values`: that of the graph if all are held in it and nowhere else,
    /// as a Transpose leaves them; otherwise channels last.
    pub(super) fn held_order(&self, values: &[ValueId]) -> Order {
        let plain_only = |&v: &ValueId| {
            !self.held.contains_key(&(v, Order::ChannelsLast)) && !self.lazy.nodes.contains_key(&v)
        };
        if values.iter().all(plain_only) { Order::Graph } else { self.order_of_rank(values[0]) }
    }

    pub(super) fn write_in_order(&mut self, value: ValueId, order: Order) -> BufferId {
        self.hold(value, order, Err(self.size(value)))
    }

    pub(super) fn binary<E: Element>(&mut self, node: &Node, op: Binary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        if self.shape(node.inputs[0]) == self.shape(node.inputs[1]) {
            let order = self.held_order(&node.inputs);
            let (a, b) = (self.in_order(node.inputs[0], order)?, self.in_order(node.inputs[1], order)?);
            let y = self.write_in_order(node.outputs[0], order);
            self.push_over(&node.name, vec![a, b], y, move |memory, _, out| {
                match memory.place::<E>(a, &mut out[0]) {
                    Place::Over(inout) => binary_in_place(isa, op, inout, memory.get(b)),
                    Place::Apart(a, out) => binary(isa, op, a, memory.get(b), out),
                }
                Ok(())
            });
            return Ok(());
        }
        // Where operands may be exchanged, the one that is broadcast comes second.
        let [first, second] = match op.row().commutes && self.len(node.inputs[0]) < self.len(node.inputs[1]) {
            true => [1, 0],
            false => [0, 1],
        };
        let (a_shape, b_shape) = (self.aligned(node, first), self.aligned(node, second));
        let shape = self.memory_shape(node.outputs[0]);
        let (a, b) = (self.operand(node, first)?, self.operand(node, second)?);
        let y = self.write(node.outputs[0]);
        let groups = row_groups(&a_shape, &b_shape);
        self.push(&node.name, vec![a, b], vec![y], move |memory, _, out| {
            let (a, b) = (memory.get::<E>(a), memory.get::<E>(b));
            match (groups, b, a_shape.last()) {
                (_, &[number], Some(&width)) if a_shape == shape => {
                    binary_rows(isa, op, a, &vec![number; width], 1, out[0].get());
                }
                (Some(groups), ..) => binary_rows(isa, op, a, b, groups, out[0].get()),
                _ => broadcast_binary(op, (a, &a_shape), (b, &b_shape), &shape, out[0].get()),
            }
            Ok(())
        });
        Ok(())
    }

    /// (dy, a, b) -> the gradient of an operand in dy's shape.
    pub(super) fn binary_grad<E: Element>(
        &mut self,
        node: &Node,
        op: Binary,
        slot: usize,
    ) -> Result<(), ExecuteError> {
        let (a_shape, b_shape) = (self.aligned(node, 1), self.aligned(node, 2));
        let shape = self.memory_shape(node.outputs[0]);
        let dy = self.read(node.inputs[0])?;
        let (a, b) = (self.operand(node, 1)?, self.operand(node, 2)?);
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy, a, b], vec![dx], move |memory, _, out| {
            let [dy, a, b] = [dy, a, b].map(|id| memory.get::<E>(id));
            broadcast_slope((op, slot), dy, (a, &a_shape), (b, &b_shape), &shape, out[0].get());
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
        if let Some(groups) = row_groups(&dy_shape, &shape) {
            return self.sum_rows::<E>(node, dy, groups);
        }
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy], vec![dx], move |memory, _, out| {
            sum_to_shape(memory.get::<E>(dy), &dy_shape, &shape, out[0].get());
            Ok(())
        });
        Ok(())
    }

    /// The sums of the rows of each group.
    fn sum_rows<E: Element>(&mut self, node: &Node, dy: BufferId, groups: usize) -> Result<(), ExecuteError> {
        let (isa, value) = (self.isa, node.outputs[0]);
        let sums = self.fresh(self.len(value), DType::F32);
        self.push(&node.name, vec![dy], vec![sums], move |memory, _, out| {
            sum_to_rows(isa, memory.get::<E>(dy), groups, out[0].get());
            Ok(())
        });
        let dx = if E::DTYPE == DType::F32 { sums } else { self.cast::<f32, E>(sums, value) };
        self.alias(value, self.order_of_rank(value), dx);
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

/// The groups of rows of `a` that share one row of `b`: of [N, .., C] against [N, 1.., C], where a row is C elements, or
/// against the last axes of `a`, which are a row together.
fn row_groups(a: &[usize], b: &[usize]) -> Option<usize> {
    let ones = b.iter().take_while(|&&d| d == 1).count();
    let suffix = a.len() == b.len() && ones < b.len() && a[ones..] == b[ones..];
    if suffix { Some(1) } else { channel_groups(a, b) }
}

fn channel_groups(a: &[usize], b: &[usize]) -> Option<usize> {
    let (a_last, b_last) = (a.last()?, b.last()?);
    // A row has no axes between its first and its last.
    let middle = b.get(1..b.len().checked_sub(1)?)?;
    let fits =
        a.len() > 1 && a_last == b_last && middle.iter().all(|&d| d == 1) && (b[0] == a[0] || b[0] == 1);
    fits.then(|| b[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_rows_are_found_and_a_single_axis_has_none() {
        assert_eq!(row_groups(&[4, 5, 6], &[4, 1, 6]), Some(4));
        assert_eq!(row_groups(&[4, 5, 6], &[1, 1, 6]), Some(1));
        assert_eq!(row_groups(&[4, 5, 6], &[1, 5, 6]), Some(1));
        assert_eq!(row_groups(&[4, 5, 6], &[4, 5, 1]), None);
        assert_eq!(row_groups(&[128], &[1]), None);
        assert_eq!(row_groups(&[], &[]), None);
    }
}
