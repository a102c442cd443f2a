//! QuantizeLinear and DequantizeLinear as they are defined, where no operator on integers takes them in.

use offshoot_graph::{DType, ExecuteError, Tensor, ValueId};

use super::Node;
use super::{Lowering, Order, unsupported};
use crate::filters::Derived;
use crate::kernels::quantize::{Byte, Integer, Scales, dequantize, quantize, quantize_grad};
use crate::operands::AnyOperand;

impl Lowering<'_> {
    pub(super) fn quantize(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        match self.dtype(node.outputs[0]) {
            DType::U8 => self.quantize_to::<u8>(node, axis),
            DType::I8 => self.quantize_to::<i8>(node, axis),
            other => Err(unsupported(node, format!("there are no kernels for {other}"))),
        }
    }

    pub(super) fn dequantize(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        match self.dtype(node.inputs[0]) {
            DType::U8 => self.dequantize_from::<u8>(node, axis),
            DType::I8 => self.dequantize_from::<i8>(node, axis),
            DType::I32 => self.dequantize_from::<i32>(node, axis),
            other => Err(unsupported(node, format!("there are no kernels for {other}"))),
        }
    }

    /// (dy, x, scale, zero_point) -> dx
    pub(super) fn quantize_grad(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        match self.dtype(node.inputs[3]) {
            DType::U8 => self.quantize_grad_of::<u8>(node, axis),
            DType::I8 => self.quantize_grad_of::<i8>(node, axis),
            other => Err(unsupported(node, format!("there are no kernels for {other}"))),
        }
    }

    fn quantize_to<Q: Byte>(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let order = self.held_order(&node.inputs[..1]);
        let x = self.in_order(node.inputs[0], order)?;
        let (scale, zero_point) = (self.plain(node.inputs[1])?, self.plain::<Q>(node.inputs[2])?);
        let inner = self.inner(node.inputs[0], order, axis);
        let (isa, y) = (self.isa, self.write_in_order(node.outputs[0], order)?);
        self.step("quantize", (x, scale, zero_point), y, move |(x, scale, zero_point), y| {
            quantize(isa, x, Scales::new(scale, zero_point, inner), y);
        });
        Ok(())
    }

    fn dequantize_from<Q: Integer>(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        if let Some(constant) = self.dequantized::<Q>(node, axis) {
            self.alias(node.outputs[0], Order::Graph, constant);
            return Ok(());
        }
        let order = self.held_order(&node.inputs[..1]);
        let x = self.in_order(node.inputs[0], order)?;
        let (scale, zero_point) = (self.plain(node.inputs[1])?, self.plain::<Q>(node.inputs[2])?);
        let inner = self.inner(node.inputs[0], order, axis);
        let y = self.write_in_order(node.outputs[0], order)?;
        self.step("dequantize", (x, scale, zero_point), y, move |(x, scale, zero_point), y| {
            dequantize(x, Scales::new(scale, zero_point, inner), y);
        });
        Ok(())
    }

    /// The floats of a weight that does not change, computed now.
    fn dequantized<Q: Integer>(&mut self, node: &Node, axis: usize) -> Option<AnyOperand> {
        let key = (node.outputs[0], Derived::Floats);
        if let Some(floats) = self.filters.tensors.get(&key).cloned() {
            return Some(self.constant(floats));
        }
        let [x, scale, zero_point] = [0, 1, 2].map(|i| self.known(node.inputs[i]));
        let (x, scale, zero_point) = (x?, scale?, zero_point?);
        let mut floats = vec![0.0; x.len()];
        let inner = self.inner(node.inputs[0], Order::Graph, axis);
        let scales = Scales::new(scale.as_f32()?, Q::of_data(zero_point.data())?, inner);
        dequantize(Q::of_data(x.data())?, scales, &mut floats);
        let floats = Tensor::f32(x.shape(), floats);
        self.filters.tensors.insert(key, floats.clone());
        Some(self.constant(floats))
    }

    fn quantize_grad_of<Q: Byte>(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let order = self.held_order(&node.inputs[..2]);
        let (dy, x) = (self.in_order(node.inputs[0], order)?, self.in_order(node.inputs[1], order)?);
        let (scale, zero_point) = (self.plain(node.inputs[2])?, self.plain::<Q>(node.inputs[3])?);
        let inner = self.inner(node.inputs[1], order, axis);
        let dx = self.write_in_order(node.outputs[0], order)?;
        self.step("quantize", (dy, x, scale, zero_point), dx, move |(dy, x, scale, zero_point), dx| {
            quantize_grad(dy, x, Scales::new(scale, zero_point, inner), dx);
        });
        Ok(())
    }

    /// How many elements in a row stand at one place of `axis`.
    fn inner(&self, value: ValueId, order: Order, axis: usize) -> usize {
        let shape = self.shape(value);
        let behind = |axis: usize| shape.iter().skip(axis + 1).product();
        match (order, axis) {
            (Order::Graph, axis) => behind(axis),
            // [N, H, W, C]
            (Order::ChannelsLast, 0) => behind(0),
            (Order::ChannelsLast, 1) => 1,
            (Order::ChannelsLast, 2) => shape[3] * shape[1],
            (Order::ChannelsLast, _) => shape[1],
        }
    }
}
