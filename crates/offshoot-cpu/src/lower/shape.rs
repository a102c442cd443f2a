//! What moves elements, and the normalization of rows.

use offshoot_graph::op::LayerNormalization;
use offshoot_graph::{ExecuteError, ValueId};

use super::Node;
use super::{Lowering, Order};
use crate::kernels::element::{Element, Stored};
use crate::kernels::layer_norm::{layer_norm, layer_norm_input_grad, layer_norm_reduce};
use crate::kernels::shape::{Columns, broadcast, copy_columns, permute};

impl Lowering<'_> {
    /// Channels last is a matter of names: a Transpose to or from it moves nothing.
    pub(super) fn transpose<E: Element>(&mut self, node: &Node, perm: &[usize]) -> Result<(), ExecuteError> {
        let (x, y) = (node.inputs[0], node.outputs[0]);
        match *perm {
            [0, 2, 3, 1] => {
                let id = self.in_order(x, Order::ChannelsLast)?;
                self.alias(y, Order::Graph, id);
                return Ok(());
            }
            [0, 3, 1, 2] => {
                let id = self.plain(x)?;
                self.alias(y, Order::ChannelsLast, id);
                return Ok(());
            }
            _ => {}
        }
        let (shape, perm) = (self.shape(x).to_vec(), perm.to_vec());
        let (x, y) = (self.plain(x)?, self.write_plain(y));
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            permute(memory.get::<E>(x), &shape, &perm, out[0].get());
            Ok(())
        });
        Ok(())
    }

    /// The columns that indices `start..start + size` of an axis are, in a value of `of`'s shape where that axis has
    /// `size` places, when the axes from it on are a row. In memory order.
    fn columns(&self, of: ValueId, axis: usize, start: usize, size: usize) -> Columns {
        let shape = self.memory_shape(of);
        let axis = match (shape.len(), axis) {
            (4, 1) => 3,
            (4, 2) => 1,
            (4, 3) => 2,
            (_, axis) => axis,
        };
        let inner: usize = shape[axis + 1..].iter().product();
        Columns { row: shape[axis] * inner, start: start * inner, width: size * inner }
    }

    pub(super) fn concat<E: Stored>(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let (mut parts, mut start) = (Vec::new(), 0);
        for &input in &node.inputs {
            let size = self.shape(input)[axis];
            let from = self.columns(input, axis, 0, size);
            parts.push((self.read(input)?, from, self.columns(node.outputs[0], axis, start, size)));
            start += size;
        }
        let y = self.write(node.outputs[0]);
        self.push(&node.name, parts.iter().map(|p| p.0).collect(), vec![y], move |memory, _, out| {
            for &(x, from, to) in &parts {
                copy_columns(memory.get::<E>(x), from, out[0].get(), to);
            }
            Ok(())
        });
        Ok(())
    }

    pub(super) fn slice<E: Element>(
        &mut self,
        node: &Node,
        axis: usize,
        start: usize,
    ) -> Result<(), ExecuteError> {
        let size = self.shape(node.outputs[0])[axis];
        let from = self.columns(node.inputs[0], axis, start, size);
        let to = self.columns(node.outputs[0], axis, 0, size);
        let x = self.read(node.inputs[0])?;
        let y = self.write(node.outputs[0]);
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            copy_columns(memory.get::<E>(x), from, out[0].get(), to);
            Ok(())
        });
        Ok(())
    }

    pub(super) fn slice_grad<E: Element>(
        &mut self,
        node: &Node,
        axis: usize,
        start: usize,
    ) -> Result<(), ExecuteError> {
        let size = self.shape(node.inputs[0])[axis];
        let from = self.columns(node.inputs[0], axis, 0, size);
        let to = self.columns(node.outputs[0], axis, start, size);
        let dy = self.read(node.inputs[0])?;
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy], vec![dx], move |memory, _, out| {
            let dx = out[0].get::<E>();
            dx.fill(E::from_f32(0.0));
            copy_columns(memory.get::<E>(dy), from, dx, to);
            Ok(())
        });
        Ok(())
    }

    pub(super) fn expand<E: Stored>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let (from, to) = (self.shape(node.inputs[0]).to_vec(), self.shape(node.outputs[0]).to_vec());
        let (x, y) = (self.plain(node.inputs[0])?, self.write_plain(node.outputs[0]));
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            broadcast(memory.get::<E>(x), &from, &to, out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node, norm: LayerNormalization) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let [x, weight, bias] = [0, 1, 2].map(|i| self.plain(node.inputs[i]));
        let (x, weight, bias) = (x?, weight?, bias?);
        let y = self.write_plain(node.outputs[0]);
        self.push(&node.name, vec![x, weight, bias], vec![y], move |memory, _, out| {
            let (weight, bias) = (memory.get(weight), memory.get(bias));
            layer_norm(isa, memory.get(x), weight, bias, norm.epsilon, out[0].get());
            Ok(())
        });
        Ok(())
    }

    /// (dy, x) -> (dweight, dbias)
    pub(super) fn layer_norm_reduce(
        &mut self,
        node: &Node,
        norm: LayerNormalization,
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let (dy, x) = (self.plain(node.inputs[0])?, self.plain(node.inputs[1])?);
        let writes = node.outputs.iter().map(|&v| self.write_plain(v)).collect();
        self.push(&node.name, vec![dy, x], writes, move |memory, _, out| {
            if let [dweight, dbias] = out {
                let (dy, x) = (memory.get(dy), memory.get(x));
                layer_norm_reduce(isa, dy, x, norm.epsilon, dweight.get(), dbias.get());
            }
            Ok(())
        });
        Ok(())
    }

    /// (dy, x, weight) -> dx
    pub(super) fn layer_norm_input(
        &mut self,
        node: &Node,
        norm: LayerNormalization,
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let [dy, x, weight] = [0, 1, 2].map(|i| self.plain(node.inputs[i]));
        let (dy, x, weight) = (dy?, x?, weight?);
        let dx = self.write_plain(node.outputs[0]);
        self.push(&node.name, vec![dy, x, weight], vec![dx], move |memory, _, out| {
            let (dy, x, weight) = (memory.get(dy), memory.get(x), memory.get(weight));
            layer_norm_input_grad(isa, dy, x, weight, norm.epsilon, out[0].get());
            Ok(())
        });
        Ok(())
    }
}
