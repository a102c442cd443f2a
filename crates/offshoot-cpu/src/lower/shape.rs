//! What moves elements, and the normalization of rows.

use offshoot_graph::op::LayerNormalization;
use offshoot_graph::{ExecuteError, ValueId};

use super::Node;
use super::{Lowering, Order};
use crate::kernels::element::{Element, Stored};
use crate::kernels::layer_norm::{layer_norm, layer_norm_input_grad, layer_norm_reduce};
use crate::kernels::shape::{Columns, broadcast, channel_shuffle, copy_columns};

impl Lowering<'_> {
    /// Channels last is a matter of names: a Transpose to or from it moves nothing.
    pub(super) fn transpose<E: Element>(&mut self, node: &Node, perm: &[usize]) -> Result<(), ExecuteError> {
        let (x, y) = (node.inputs[0], node.outputs[0]);
        match *perm {
            [0, 2, 3, 1] => {
                let x = self.in_order::<E>(x, Order::ChannelsLast)?;
                self.alias(y, Order::Graph, x);
                return Ok(());
            }
            [0, 3, 1, 2] => {
                let x = self.plain::<E>(x)?;
                self.alias(y, Order::ChannelsLast, x);
                return Ok(());
            }
            _ => {}
        }
        let view = self.view(x)?;
        self.set_view(y, &view, view.places.permuted(perm));
        Ok(())
    }

    pub(super) fn channel_shuffle<E: Element>(
        &mut self,
        node: &Node,
        groups: usize,
    ) -> Result<(), ExecuteError> {
        let [_, channels, ..] = self.picture(node, node.inputs[0])?;
        let (x, y) = (self.read::<E>(node.inputs[0])?, self.write(node.outputs[0])?);
        self.step("shuffle", x, y, move |x, y| channel_shuffle(x, [groups, channels / groups], y));
        Ok(())
    }

    /// The columns that indices `start..start + size` of an axis are, in a value of `of`'s shape where that axis has
    /// `size` places, when the axes from it on are a row. In memory, where the value is held in `order`.
    pub(super) fn columns(
        &self,
        (of, order): (ValueId, Order),
        axis: usize,
        start: usize,
        size: usize,
    ) -> Columns {
        let shape = self.shape_in(of, order);
        let axis = match (order, shape.len(), axis) {
            (Order::ChannelsLast, 4, 1) => 3,
            (Order::ChannelsLast, 4, 2) => 1,
            (Order::ChannelsLast, 4, 3) => 2,
            (_, _, axis) => axis,
        };
        let inner: usize = shape[axis + 1..].iter().product();
        Columns { row: shape[axis] * inner, start: start * inner, width: size * inner }
    }

    pub(super) fn slice(&mut self, node: &Node, axis: usize, start: usize) -> Result<(), ExecuteError> {
        let size = self.shape(node.outputs[0])[axis];
        let view = self.view(node.inputs[0])?;
        self.set_view(node.outputs[0], &view, view.places.sliced(axis, start, size));
        Ok(())
    }

    pub(super) fn slice_grad<E: Element>(
        &mut self,
        node: &Node,
        axis: usize,
        start: usize,
    ) -> Result<(), ExecuteError> {
        let size = self.shape(node.inputs[0])[axis];
        let order = self.held_order(&node.inputs);
        let from = self.columns((node.inputs[0], order), axis, 0, size);
        let to = self.columns((node.outputs[0], order), axis, start, size);
        let dy = self.in_order::<E>(node.inputs[0], order)?;
        let dx = self.write_in_order::<E>(node.outputs[0], order)?;
        self.step("copy columns", dy, dx, move |dy, dx| {
            dx.fill(E::from_f32(0.0));
            copy_columns(dy, from, dx, to);
        });
        Ok(())
    }

    pub(super) fn expand<E: Stored>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let (from, to) = (self.shape(node.inputs[0]).to_vec(), self.shape(node.outputs[0]).to_vec());
        let (x, y) = (self.plain::<E>(node.inputs[0])?, self.write_plain(node.outputs[0])?);
        self.step("broadcast", x, y, move |x, y| broadcast(x, &from, &to, y));
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node, norm: LayerNormalization) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let [x, weight, bias] = [0, 1, 2].map(|i| self.plain(node.inputs[i]));
        let (reads, y) = ([x?, weight?, bias?], self.write_plain(node.outputs[0])?);
        self.step("layer norm", reads, y, move |[x, weight, bias], y| {
            layer_norm(isa, x, weight, bias, norm.epsilon, y);
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
        let writes = self.write_all::<f32, 2>(node)?;
        self.step("layer norm", (dy, x), writes, move |(dy, x), [dweight, dbias]| {
            layer_norm_reduce(isa, dy, x, norm.epsilon, dweight, dbias);
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
        let (reads, dx) = ([dy?, x?, weight?], self.write_plain(node.outputs[0])?);
        self.step("layer norm", reads, dx, move |[dy, x, weight], dx| {
            layer_norm_input_grad(isa, dy, x, weight, norm.epsilon, dx);
        });
        Ok(())
    }
}
