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
            return Err(unsupported(node, "its operands must have rank 4".into()));
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
        let (x, y) = (self.read::<E>(node.inputs[0])?, self.write(node.outputs[0])?);
        self.step("pool", x, y, move |x, y| pool::pool(isa, kind, &shape, x, y));
        Ok(())
    }

    pub(super) fn max_pool_grad<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Pool,
    ) -> Result<(), ExecuteError> {
        let shape = self.pool_shape(node, attributes, [node.inputs[1], node.inputs[0]])?;
        let isa = self.isa;
        let (dy, x) = (self.read::<E>(node.inputs[0])?, self.read(node.inputs[1])?);
        let dx = self.write(node.outputs[0])?;
        self.step("pool", (dy, x), dx, move |(dy, x), dx| {
            pool_grad(isa, pool::Pool::Max, &shape, x, dy, dx);
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
        let (dy, dx) = (self.read::<E>(node.inputs[0])?, self.write(node.outputs[0])?);
        self.step("pool", dy, dx, move |dy, dx| pool_grad(isa, kind, &shape, &[], dy, dx));
        Ok(())
    }

    pub(super) fn global_average_pool<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let [batch, ..] = self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let (x, y) = (self.read::<E>(node.inputs[0])?, self.write(node.outputs[0])?);
        self.step("global average", x, y, move |x, y| global_average(isa, batch, x, y));
        Ok(())
    }

    pub(super) fn global_average_pool_grad<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let [batch, ..] = self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let (dy, dx) = (self.read::<E>(node.inputs[0])?, self.write(node.outputs[0])?);
        self.step("global average", dy, dx, move |dy, dx| global_average_grad(isa, batch, dy, dx));
        Ok(())
    }
}
