//! Norms of pictures.

use offshoot_graph::op::BatchNormalization;
use offshoot_graph::{ExecuteError, ValueId};

use super::Node;
use super::{Lowering, unsupported};
use crate::kernels::batch_norm::group::{GroupNorm, group_norm};
use crate::kernels::batch_norm::{
    BatchNorm, Gate, Running, batch_norm_apply, batch_norm_input_grad, batch_norm_join, batch_norm_reduce,
    batch_norm_reduce_join, batch_norm_stats, inv_std, scale_input_grad,
};
use crate::kernels::element::Element;
use crate::kernels::{Activation, Place};
use crate::operands::{Buffers, Memory, Operand, Over, Reads};

/// The vectors of a norm.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    mean: Operand<f32>,
    inv_std: Operand<f32>,
    gamma: Operand<f32>,
    beta: Operand<f32>,
}

impl Reads for Vectors {
    type Elements<'m> = BatchNorm<'m>;

    fn register(&self, buffers: &mut Buffers) {
        [self.mean, self.inv_std, self.gamma, self.beta].register(buffers);
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> BatchNorm<'m> {
        BatchNorm {
            mean: self.mean.get(memory),
            inv_std: self.inv_std.get(memory),
            gamma: self.gamma.get(memory),
            beta: self.beta.get(memory),
        }
    }
}

impl Lowering<'_> {
    /// Running statistics: an affine function of each channel.
    pub(super) fn batch_normalization<E: Element>(
        &mut self,
        node: &Node,
        norm: BatchNormalization,
    ) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let x = self.read::<E>(node.inputs[0])?;
        let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|i| self.plain(node.inputs[i]));
        let vectors = [gamma?, beta?, mean?, var?];
        let y = self.write(node.outputs[0])?;
        self.step("batch norm", (x, vectors), y, move |(x, [gamma, beta, mean, var]), y| {
            let mut inverse = vec![0.0; var.len()];
            inv_std(var, norm.epsilon, &mut inverse);
            let norm = BatchNorm { mean, inv_std: &inverse, gamma, beta };
            batch_norm_apply(isa, x, &norm, None, Activation::None, y);
        });
        Ok(())
    }

    pub(super) fn group_norm(
        &mut self,
        node: &Node,
        groups: usize,
        epsilon: f32,
    ) -> Result<(), ExecuteError> {
        let [pictures, ..] = self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let x = self.read::<f32>(node.inputs[0])?;
        let [gamma, beta] = [self.plain(node.inputs[1])?, self.plain(node.inputs[2])?];
        let y = self.write(node.outputs[0])?;
        self.step("group norm", (x, gamma, beta), y, move |(x, gamma, beta), y| {
            let norm = GroupNorm { pictures, groups, epsilon, gamma, beta };
            group_norm(isa, x, &norm, y);
        });
        Ok(())
    }

    pub(super) fn batch_norm_stats<E: Element>(
        &mut self,
        node: &Node,
        norm: BatchNormalization,
    ) -> Result<(), ExecuteError> {
        let [n, _, h, w] = self.picture(node, node.inputs[0])?;
        if n * h * w == 1 {
            let reason = "one value a channel has no variance: use a larger batch size or larger pictures";
            return Err(unsupported(node, reason.into()));
        }
        let isa = self.isa;
        let running = [self.plain(node.inputs[1])?, self.plain(node.inputs[2])?];
        let writes = self.write_all::<f32, 4>(node)?;
        let BatchNormalization { epsilon, momentum } = norm;
        if let Some((moments, rows)) = self.lazy.moments.remove(&node.inputs[0]) {
            let reads = (moments, running);
            self.step(
                "norm stats",
                reads,
                writes,
                move |(moments, [mean, var]), [batch_mean, inv_std, new_mean, new_var]| {
                    let running = Running { momentum, mean, var, new_mean, new_var };
                    batch_norm_join(moments, &rows, epsilon, batch_mean, inv_std, Some(running));
                },
            );
            return Ok(());
        }
        let x = self.read::<E>(node.inputs[0])?;
        self.step(
            "norm stats",
            (x, running),
            writes,
            move |(x, [mean, var]), [batch_mean, inv_std, new_mean, new_var]| {
                let running = Running { momentum, mean, var, new_mean, new_var };
                batch_norm_stats(isa, x, epsilon, batch_mean, inv_std, Some(running));
            },
        );
        Ok(())
    }

    pub(super) fn inv_std(&mut self, node: &Node, epsilon: f32) -> Result<(), ExecuteError> {
        let (var, y) = (self.plain(node.inputs[0])?, self.write_plain(node.outputs[0])?);
        self.step("inv std", var, y, move |var, y| inv_std(var, epsilon, y));
        Ok(())
    }

    pub(super) fn batch_norm_apply<E: Element>(
        &mut self,
        node: &Node,
        activation: Activation,
        residual: bool,
    ) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let x = self.read::<E>(node.inputs[0])?;
        let vectors = self.vectors_of(&node.inputs[1..5])?;
        let residual = if residual { Some(self.read(node.inputs[5])?) } else { None };
        let y = self.write(node.outputs[0])?;
        self.step("batch norm", (x, vectors, residual), y, move |(x, norm, residual), y| {
            batch_norm_apply(isa, x, &norm, residual, activation, y);
        });
        Ok(())
    }

    /// (dy, x, mean, inv_std) -> (dgamma, dbeta)
    pub(super) fn batch_norm_reduce<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[1])?;
        if self.reduce_left(node)? {
            return Ok(());
        }
        let isa = self.isa;
        let (dy, x) = (self.read::<E>(node.inputs[0])?, self.read(node.inputs[1])?);
        let (mean, inverse) = (self.plain(node.inputs[2])?, self.plain(node.inputs[3])?);
        let writes = self.write_all::<f32, 2>(node)?;
        let reads = (dy, x, mean, inverse);
        self.step("norm reduce", reads, writes, move |(dy, x, mean, inv_std), [dgamma, dbeta]| {
            // The sums use neither weight nor bias.
            let norm = BatchNorm { mean, inv_std, gamma: &[], beta: &[] };
            batch_norm_reduce(isa, x, dy, &norm, Gate::Open, dgamma, dbeta);
        });
        Ok(())
    }

    /// Makes (dgamma, dbeta) of the sums that the step which made the gradient has left, if it has.
    fn reduce_left(&mut self, node: &Node) -> Result<bool, ExecuteError> {
        let Some(sums) = self.lazy.sums.remove(&node.inputs[0]) else { return Ok(false) };
        let inverse = self.plain(node.inputs[3])?;
        let writes = self.write_all::<f32, 2>(node)?;
        self.step("norm reduce", (sums, inverse), writes, |(sums, inverse), [dgamma, dbeta]| {
            batch_norm_reduce_join(sums, inverse, dgamma, dbeta);
        });
        Ok(true)
    }

    /// (dz, x, mean, inv_std, gamma, beta) -> (dgamma, dbeta)
    pub(super) fn fused_batch_norm_reduce<E: Element>(
        &mut self,
        node: &Node,
        activation: Activation,
    ) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[1])?;
        if self.reduce_left(node)? {
            return Ok(());
        }
        let isa = self.isa;
        let (dz, x) = (self.read::<E>(node.inputs[0])?, self.read(node.inputs[1])?);
        let vectors = self.vectors_of(&node.inputs[2..6])?;
        let writes = self.write_all::<f32, 2>(node)?;
        self.step("norm reduce", (dz, x, vectors), writes, move |(dz, x, norm), [dgamma, dbeta]| {
            batch_norm_reduce(isa, x, dz, &norm, Gate::Recomputed(activation), dgamma, dbeta);
        });
        Ok(())
    }

    /// (dy, x, mean, inv_std, gamma, dgamma, dbeta) -> dx
    pub(super) fn batch_norm_input<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        // The formula does not use the bias; the weight stands in for its length.
        let mut inputs = node.inputs.clone();
        inputs.insert(5, node.inputs[4]);
        self.input_gradient::<E>(node, &inputs, None)
    }

    /// (dz, x, mean, inv_std, gamma, beta, dgamma, dbeta) -> dx
    pub(super) fn fused_batch_norm_input<E: Element>(
        &mut self,
        node: &Node,
        activation: Activation,
    ) -> Result<(), ExecuteError> {
        self.input_gradient::<E>(node, &node.inputs, Some(activation))
    }

    fn input_gradient<E: Element>(
        &mut self,
        node: &Node,
        inputs: &[ValueId],
        activation: Option<Activation>,
    ) -> Result<(), ExecuteError> {
        self.picture(node, inputs[1])?;
        let isa = self.isa;
        let gate = activation.map_or(Gate::Open, Gate::Recomputed);
        let (dz, x) = (self.read::<E>(inputs[0])?, self.read(inputs[1])?);
        let vectors = self.vectors_of(&inputs[2..6])?;
        let sums = [self.plain(inputs[6])?, self.plain(inputs[7])?];
        let dx = self.write(node.outputs[0])?;
        let reads = (Over(dz), x, vectors, sums);
        self.step("norm input", reads, dx, move |(dz, x, norm, [dgamma, dbeta]), dx| {
            batch_norm_input_grad(isa, x, Place::new(dz, dx), &norm, gate, dgamma, dbeta);
        });
        Ok(())
    }

    /// The vectors of a norm: mean, inv_std, gamma, beta.
    pub(super) fn vectors_of(&mut self, inputs: &[ValueId]) -> Result<Vectors, ExecuteError> {
        Ok(Vectors {
            mean: self.plain(inputs[0])?,
            inv_std: self.plain(inputs[1])?,
            gamma: self.plain(inputs[2])?,
            beta: self.plain(inputs[3])?,
        })
    }

    /// (dy, inv_std, gamma) -> dx
    pub(super) fn batch_norm_scale<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let dy = self.read::<E>(node.inputs[0])?;
        let (inverse, gamma) = (self.plain(node.inputs[1])?, self.plain(node.inputs[2])?);
        let dx = self.write(node.outputs[0])?;
        self.step("norm input", (Over(dy), inverse, gamma), dx, move |(dy, inv_std, gamma), dx| {
            // An open gate makes it a scale: neither the mean nor the bias matters.
            let norm = BatchNorm { mean: gamma, inv_std, gamma, beta: gamma };
            scale_input_grad(isa, &[], Place::new(dy, dx), &norm, Gate::Open);
        });
        Ok(())
    }
}
