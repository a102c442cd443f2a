//! Pooling.

use offshoot_graph::op::{AveragePool, Pool};
use offshoot_graph::{ExecuteError, ValueId};

use super::Node;
use super::{Lowering, unsupported};
use crate::kernels::element::Element;
use crate::kernels::pool::{self, PoolShape, global_average, global_average_grad, pool_grad};

impl Lowering<'_> {
    /// The shape of the pooling from `x` to `y` that `node` is or belongs to.
    pub(super) fn pool_shape(
        &self,
        node: &Node,
        pool: &Pool,
        [x, y]: [ValueId; 2],
    ) -> Result<PoolShape, ExecuteError> {
        let (&[batch, channels, in_h, in_w], &[_, _, out_h, out_w]) = (self.shape(x), self.shape(y)) else {
            unreachable!("the shape rule of pooling asks for rank 4")
        };
        let Pool { kernel, strides, pads, .. } = *pool;
        let shape =
            PoolShape { batch, in_h, in_w, channels, out_h, out_w, kernel, strides, pads, dilations: [1, 1] };
        match shape.fits() {
            true => Ok(shape),
            false => Err(unsupported(node, format!("its sizes are too large: {shape:?}"))),
        }
    }

    pub(super) fn max_pool<E: Element>(&mut self, node: &Node, pool: &Pool) -> Result<(), ExecuteError> {
        self.pool::<E>(node, pool, pool::Pool::Max)
    }

    pub(super) fn average_pool<E: Element>(
        &mut self,
        node: &Node,
        pool: &AveragePool,
    ) -> Result<(), ExecuteError> {
        self.pool::<E>(node, &pool.pool, pool::Pool::Average { count_include_pad: pool.count_include_pad })
    }

    fn pool<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Pool,
        kind: pool::Pool,
    ) -> Result<(), ExecuteError> {
        let shape = self.pool_shape(node, attributes, [node.inputs[0], node.outputs[0]])?;
        let isa = self.isa;
        let x = self.read(node.inputs[0])?;
        let y = self.write(node.outputs[0]);
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            pool::pool(isa, kind, &shape, memory.get::<E>(x), out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn max_pool_grad<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Pool,
    ) -> Result<(), ExecuteError> {
        let shape = self.pool_shape(node, attributes, [node.inputs[1], node.inputs[0]])?;
        let isa = self.isa;
        let (dy, x) = (self.read(node.inputs[0])?, self.read(node.inputs[1])?);
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy, x], vec![dx], move |memory, _, out| {
            pool_grad(isa, pool::Pool::Max, &shape, memory.get::<E>(x), memory.get::<E>(dy), out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn average_pool_grad<E: Element>(
        &mut self,
        node: &Node,
        attributes: &AveragePool,
    ) -> Result<(), ExecuteError> {
        let shape = self.pool_shape(node, &attributes.pool, [node.outputs[0], node.inputs[0]])?;
        let kind = pool::Pool::Average { count_include_pad: attributes.count_include_pad };
        let isa = self.isa;
        let dy = self.read(node.inputs[0])?;
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy], vec![dx], move |memory, _, out| {
            pool_grad(isa, kind, &shape, &[], memory.get::<E>(dy), out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn global_average_pool<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let [batch, ..] = self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let x = self.read(node.inputs[0])?;
        let y = self.write(node.outputs[0]);
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            global_average(isa, batch, memory.get::<E>(x), out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn global_average_pool_grad<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let [batch, ..] = self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let dy = self.read(node.inputs[0])?;
        let dx = self.write(node.outputs[0]);
        self.push(&node.name, vec![dy], vec![dx], move |memory, _, out| {
            global_average_grad(isa, batch, memory.get::<E>(dy), out[0].get());
            Ok(())
        });
        Ok(())
    }
}
