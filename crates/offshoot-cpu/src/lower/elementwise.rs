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
    binary, binary_in_place, binary_rows, broadcast_binary, broadcast_slope, sum_to_rows, unary, unary_grad,
    unary_grad_in_place,
};
use crate::kernels::layout::{nchw_to_nhwc, nhwc_to_nchw};
use crate::kernels::reduce::sum_to_shape;
use crate::operands::{AnyOperand, Operand, Over};

impl Lowering<'_> {
    pub(super) fn unary<E: Element>(&mut self, node: &Node, op: Unary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let order = self.held_order(&node.inputs);
        let x = self.in_order::<E>(node.inputs[0], order)?;
        let y = self.write_in_order(node.outputs[0], order)?;
        self.step("unary", x, y, move |x, y| unary(isa, op, x, y));
        Ok(())
    }

    /// (dy, x or y) -> dx of `op`
    pub(super) fn unary_grad<E: Element>(&mut self, node: &Node, op: Unary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let order = self.held_order(&node.inputs);
        let dy = self.in_order::<E>(node.inputs[0], order)?;
        let known = self.in_order(node.inputs[1], order)?;
        let dx = self.write_in_order(node.outputs[0], order)?;
        self.step("unary", (Over(dy), known), dx, move |(dy, known), dx| match Place::new(dy, dx) {
            Place::Over(dx) => unary_grad_in_place(isa, op, known, dx),
            Place::Apart(dy, dx) => unary_grad(isa, op, known, dy, dx),
        });
        Ok(())
    }

    /// The order in which operators that need none read `values`: that of the graph if all are held in it and nowhere else,
    /// as a Transpose leaves them; otherwise channels last, where one has rank 4.
    pub(super) fn held_order(&self, values: &[ValueId]) -> Order {
        let plain_only = |&v: &ValueId| {
            !self.held.contains_key(&(v, Order::ChannelsLast))
                && !self.lazy.nodes.contains_key(&v)
                && !self.is_view_of_channels_last(v)
        };
        let rank_4 = values.iter().any(|&value| self.shape(value).len() == 4);
        if rank_4 && !values.iter().all(plain_only) { Order::ChannelsLast } else { Order::Graph }
    }

    pub(super) fn binary<E: Element>(&mut self, node: &Node, op: Binary) -> Result<(), ExecuteError> {
        let isa = self.isa;
        if self.shape(node.inputs[0]) == self.shape(node.inputs[1]) {
            let order = self.held_order(&node.inputs);
            let a = self.in_order::<E>(node.inputs[0], order)?;
            let b = self.in_order(node.inputs[1], order)?;
            let y = self.write_in_order(node.outputs[0], order)?;
            self.step("binary", (Over(a), b), y, move |(a, b), y| match Place::new(a, y) {
                Place::Over(y) => binary_in_place(isa, op, y, b),
                Place::Apart(a, y) => binary(isa, op, a, b, y),
            });
            return Ok(());
        }
        // Where operands may be exchanged, the one that is broadcast comes second.
        let [first, second] = match op.row().commutes && self.len(node.inputs[0]) < self.len(node.inputs[1]) {
            true => [1, 0],
            false => [0, 1],
        };
        let order = self.held_order(&node.inputs);
        let (a_shape, b_shape) = (self.aligned(node, first, order), self.aligned(node, second, order));
        let shape = self.shape_in(node.outputs[0], order);
        let (a, b) = (self.operand::<E>(node, first, order)?, self.operand::<E>(node, second, order)?);
        let y = self.write_in_order(node.outputs[0], order)?;
        let groups = row_groups(&a_shape, &b_shape);
        self.step("broadcast", (a, b), y, move |(a, b), y| match (groups, b, a_shape.last()) {
            (_, &[number], Some(&width)) if a_shape == shape => {
                binary_rows(isa, op, a, &vec![number; width], 1, y);
            }
            (Some(groups), ..) => binary_rows(isa, op, a, b, groups, y),
            _ => broadcast_binary(isa, op, (a, &a_shape), (b, &b_shape), &shape, y),
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
        let order = self.held_order(&node.inputs);
        let (a_shape, b_shape) = (self.aligned(node, 1, order), self.aligned(node, 2, order));
        let shape = self.shape_in(node.outputs[0], order);
        let dy = self.in_order::<E>(node.inputs[0], order)?;
        let (a, b) = (self.operand(node, 1, order)?, self.operand(node, 2, order)?);
        let dx = self.write_in_order(node.outputs[0], order)?;
        self.step("broadcast", (dy, a, b), dx, move |(dy, a, b), dx| {
            broadcast_slope((op, slot), dy, (a, &a_shape), (b, &b_shape), &shape, dx);
        });
        Ok(())
    }

    /// The shape of an operand in memory, with as many axes as the result: a smaller rank stands for trailing axes
    /// of the graph's order.
    pub(super) fn aligned(&self, node: &Node, input: usize, order: Order) -> Vec<usize> {
        self.aligned_to(self.shape(node.outputs[0]).len(), node.inputs[input], order)
    }

    /// The shape of a value in memory with at least `rank` axes.
    fn aligned_to(&self, rank: usize, value: ValueId, order: Order) -> Vec<usize> {
        let shape = self.shape(value);
        let mut aligned = vec![1; rank.saturating_sub(shape.len())];
        aligned.extend_from_slice(shape);
        order.of(aligned)
    }

    /// The channels and pixels of a value of three axes that is broadcast to `rank` axes, where that puts its channels last.
    fn turned(&self, value: ValueId, rank: usize, order: Order) -> Option<[usize; 2]> {
        let &[c, h, w] = self.shape(value) else { return None };
        (order == Order::ChannelsLast && rank == 4 && c > 1 && h * w > 1).then_some([c, h * w])
    }

    /// An operand of an elementwise operator: channels last where that is the order and the result has rank 4, whatever its own rank.
    pub(super) fn operand<E: Element>(
        &mut self,
        node: &Node,
        input: usize,
        order: Order,
    ) -> Result<Operand<E>, ExecuteError> {
        let (value, rank) = (node.inputs[input], self.shape(node.outputs[0]).len());
        let Some([c, area]) = self.turned(value, rank, order) else {
            return if rank == 4 && order == Order::ChannelsLast {
                self.read(value)
            } else {
                self.plain(value)
            };
        };
        let (from, to) = (self.plain::<E>(value)?, self.fresh::<E>(c * area));
        self.moving_step("layout", from, to, move |from, to| nchw_to_nhwc(1, c, area, from, to));
        Ok(to.operand())
    }

    pub(super) fn reduce_to<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let (isa, from, value) = (self.isa, node.inputs[0], node.outputs[0]);
        let order = self.held_order(&[from]);
        let dy_shape = self.shape_in(from, order);
        let shape = self.aligned_to(dy_shape.len(), value, order);
        let dy = self.in_order::<E>(from, order)?;
        if let Some([c, area]) = self.turned(value, dy_shape.len(), order) {
            let (sums, dx) = (self.fresh::<E>(c * area), self.write(value)?);
            self.step("sum", dy, sums, move |dy, sums| sum_to_shape(isa, dy, &dy_shape, &shape, sums));
            self.moving_step("layout", sums.operand(), dx, move |sums, dx| {
                nhwc_to_nchw(1, c, area, sums, dx)
            });
            return Ok(());
        }
        let order = if dy_shape.len() == 4 && order == Order::ChannelsLast {
            self.order_of_rank(value)
        } else {
            Order::Graph
        };
        if let Some(groups) = row_groups(&dy_shape, &shape) {
            self.sum_rows(node, (dy, order), groups);
            return Ok(());
        }
        let dx = self.write_in_order(value, order)?;
        self.step("sum", dy, dx, move |dy, dx| sum_to_shape(isa, dy, &dy_shape, &shape, dx));
        Ok(())
    }

    /// The sums of the rows of each group.
    fn sum_rows<E: Element>(&mut self, node: &Node, (dy, order): (Operand<E>, Order), groups: usize) {
        let (isa, value) = (self.isa, node.outputs[0]);
        let sums = self.fresh(self.len(value));
        self.step("sum rows", dy, sums, move |dy, sums| sum_to_rows(isa, dy, groups, sums));
        let dx = self.narrowed::<E>(sums, self.len(value));
        self.alias(value, order, dx);
    }

    /// The same numbers in another type.
    pub(super) fn cast_node<E: Element>(&mut self, node: &Node, to: DType) -> Result<(), ExecuteError> {
        if self.widened.is_needless(node.outputs[0]) {
            return Ok(());
        }
        let order = self.held_order(&node.inputs);
        let (x, len) = (self.in_order::<E>(node.inputs[0], order)?, self.len(node.inputs[0]));
        let y: AnyOperand = match to {
            DType::BF16 => self.cast::<E, bf16>(x, len).operand().into(),
            DType::F16 => self.cast::<E, f16>(x, len).operand().into(),
            DType::F32 => self.cast::<E, f32>(x, len).operand().into(),
            other => return Err(unsupported(node, format!("there are no kernels for {other}"))),
        };
        self.alias(node.outputs[0], order, y);
        Ok(())
    }

    /// The same elements in the graph's order under another shape.
    pub(super) fn reshape(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let view = self.view(node.inputs[0])?;
        if let Some(places) = view.places.reshaped(self.shape(node.outputs[0])) {
            self.set_view(node.outputs[0], &view, places);
            return Ok(());
        }
        let x = self.any_in_order(node.inputs[0], Order::Graph)?;
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
        let x = self.plain::<E>(node.inputs[0])?;
        let keys = self.plain(node.inputs[1])?;
        let y = self.write_plain(node.outputs[0])?;
        self.step("dropout", (x, keys), y, move |(x, keys), y| {
            dropout(isa, &Dropout { keys, layer, p }, x, y);
        });
        Ok(())
    }
}

/// The groups of rows of `a` that share one row of `b`: of [N, .., C] against [N, 1.., C], where a row is C elements, or
/// against the last axes of `a`, which are a row together.
pub(super) fn row_groups(a: &[usize], b: &[usize]) -> Option<usize> {
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
