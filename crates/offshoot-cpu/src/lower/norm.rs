//! Batch norms.

use offshoot_graph::op::BatchNormalization;
use offshoot_graph::{ExecuteError, ValueId};

use super::Node;
use super::{Lowering, unsupported};
use crate::kernels::Activation;
use crate::kernels::batch_norm::{
    BatchNorm, Gate, Running, batch_norm_apply, batch_norm_input_grad, batch_norm_join, batch_norm_reduce,
    batch_norm_reduce_join, batch_norm_stats, inv_std, scale_input_grad,
};
use crate::kernels::element::Element;
use crate::plan::{BufferId, Memory, Out};

/// The buffers of a norm's vectors.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    mean: BufferId,
    inv_std: BufferId,
    gamma: BufferId,
    beta: BufferId,
}

impl Vectors {
    pub(super) fn buffers(&self) -> [BufferId; 4] {
        [self.mean, self.inv_std, self.gamma, self.beta]
    }

    pub(super) fn get<'a>(&self, memory: &'a Memory<'_>) -> BatchNorm<'a> {
        BatchNorm {
            mean: memory.get(self.mean),
            inv_std: memory.get(self.inv_std),
            gamma: memory.get(self.gamma),
            beta: memory.get(self.beta),
        }
    }
}

/// The outputs of a norm's statistics: mean, inv_std, and the running ones of mean and variance.
fn statistics<'m>(
    memory: &'m Memory<'_>,
    (norm, mean, var): (BatchNormalization, BufferId, BufferId),
    out: &'m mut [Out<'_>],
) -> (&'m mut [f32], &'m mut [f32], Running<'m>) {
    let [batch_mean, batch_inv_std, new_mean, new_var] = out else { unreachable!("four outputs") };
    let running = Running {
        momentum: norm.momentum,
        mean: memory.get(mean),
        var: memory.get(var),
        new_mean: new_mean.get(),
        new_var: new_var.get(),
    };
    (batch_mean.get(), batch_inv_std.get(), running)
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
        let x = self.read(node.inputs[0])?;
        let mut vectors = [x; 4];
        for (vector, &input) in vectors.iter_mut().zip(&node.inputs[1..]) {
            *vector = self.plain(input)?;
        }
        let [gamma, beta, mean, var] = vectors;
        let y = self.write(node.outputs[0]);
        self.push(&node.name, vec![x, gamma, beta, mean, var], vec![y], move |memory, _, out| {
            let var = memory.get(var);
            let mut inverse = vec![0.0; var.len()];
            inv_std(var, norm.epsilon, &mut inverse);
            let norm = BatchNorm {
                mean: memory.get(mean),
                inv_std: &inverse,
                gamma: memory.get(gamma),
                beta: memory.get(beta),
            };
            batch_norm_apply(isa, memory.get::<E>(x), &norm, None, Activation::None, out[0].get());
            Ok(())
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
        let (mean, var) = (self.plain(node.inputs[1])?, self.plain(node.inputs[2])?);
        let writes = node.outputs.iter().map(|&o| self.write_plain(o)).collect();
        if let Some((moments, rows)) = self.lazy.moments.remove(&node.inputs[0]) {
            self.push(&node.name, vec![moments, mean, var], writes, move |memory, _, out| {
                let (mean, inv_std, running) = statistics(memory, (norm, mean, var), out);
                batch_norm_join(memory.get(moments), &rows, norm.epsilon, mean, inv_std, Some(running));
                Ok(())
            });
            return Ok(());
        }
        let x = self.read(node.inputs[0])?;
        self.push(&node.name, vec![x, mean, var], writes, move |memory, _, out| {
            let (mean, inv_std, running) = statistics(memory, (norm, mean, var), out);
            batch_norm_stats(isa, memory.get::<E>(x), norm.epsilon, mean, inv_std, Some(running));
            Ok(())
        });
        Ok(())
    }

    pub(super) fn inv_std(&mut self, node: &Node, epsilon: f32) -> Result<(), ExecuteError> {
        let var = self.plain(node.inputs[0])?;
        let y = self.write_plain(node.outputs[0]);
        self.push(&node.name, vec![var], vec![y], move |memory, _, out| {
            inv_std(memory.get(var), epsilon, out[0].get());
            Ok(())
        });
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
        let x = self.read(node.inputs[0])?;
        let vectors = self.vectors(node, 1)?;
        let residual = if residual { Some(self.read(node.inputs[5])?) } else { None };
        let y = self.write(node.outputs[0]);
        let reads = [x].into_iter().chain(vectors.buffers()).chain(residual).collect();
        self.push(&node.name, reads, vec![y], move |memory, _, out| {
            let residual = residual.map(|r| memory.get::<E>(r));
            batch_norm_apply(
                isa,
                memory.get::<E>(x),
                &vectors.get(memory),
                residual,
                activation,
                out[0].get(),
            );
            Ok(())
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
        let (dy, x) = (self.read(node.inputs[0])?, self.read(node.inputs[1])?);
        let (mean, inverse) = (self.plain(node.inputs[2])?, self.plain(node.inputs[3])?);
        let writes = node.outputs.iter().map(|&o| self.write_plain(o)).collect();
        self.push(&node.name, vec![dy, x, mean, inverse], writes, move |memory, _, out| {
            let [dgamma, dbeta] = out else { unreachable!("two outputs") };
            // The sums use neither weight nor bias.
            let norm =
                BatchNorm { mean: memory.get(mean), inv_std: memory.get(inverse), gamma: &[], beta: &[] };
            batch_norm_reduce(
                isa,
                memory.get::<E>(x),
                memory.get::<E>(dy),
                &norm,
                Gate::Open,
                dgamma.get(),
                dbeta.get(),
            );
            Ok(())
        });
        Ok(())
    }

    /// Makes (dgamma, dbeta) of the sums that the step which made the gradient has left, if it has.
    fn reduce_left(&mut self, node: &Node) -> Result<bool, ExecuteError> {
        let Some(sums) = self.lazy.sums.remove(&node.inputs[0]) else { return Ok(false) };
        let inverse = self.plain(node.inputs[3])?;
        let writes = node.outputs.iter().map(|&o| self.write_plain(o)).collect();
        self.push(&node.name, vec![sums, inverse], writes, move |memory, _, out| {
            let [dgamma, dbeta] = out else { unreachable!("two outputs") };
            batch_norm_reduce_join(memory.get(sums), memory.get(inverse), dgamma.get(), dbeta.get());
            Ok(())
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
        let (dz, x) = (self.read(node.inputs[0])?, self.read(node.inputs[1])?);
        let vectors = self.vectors(node, 2)?;
        let writes = node.outputs.iter().map(|&o| self.write_plain(o)).collect();
        let reads = [dz, x].into_iter().chain(vectors.buffers()).collect();
        self.push(&node.name, reads, writes, move |memory, _, out| {
            let [dgamma, dbeta] = out else { unreachable!("two outputs") };
            let (norm, gate) = (vectors.get(memory), Gate::Recomputed(activation));
            batch_norm_reduce(
                isa,
                memory.get::<E>(x),
                memory.get::<E>(dz),
                &norm,
                gate,
                dgamma.get(),
                dbeta.get(),
            );
            Ok(())
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
        let (dz, x) = (self.read(inputs[0])?, self.read(inputs[1])?);
        let vectors = self.vectors_of(&inputs[2..6])?;
        let (dgamma, dbeta) = (self.plain(inputs[6])?, self.plain(inputs[7])?);
        let dx = self.write(node.outputs[0]);
        let reads = [dz, x, dgamma, dbeta].into_iter().chain(vectors.buffers()).collect();
        self.push_over(&node.name, reads, dx, move |memory, _, out| {
            let gate = activation.map_or(Gate::Open, Gate::Recomputed);
            let place = memory.place(dz, &mut out[0]);
            let (norm, dgamma, dbeta) = (vectors.get(memory), memory.get(dgamma), memory.get(dbeta));
            batch_norm_input_grad(isa, memory.get::<E>(x), place, &norm, gate, dgamma, dbeta);
            Ok(())
        });
        Ok(())
    }

    /// The vectors of a norm, from input `at` of the node on: mean, inv_std, gamma, beta.
    fn vectors(&mut self, node: &Node, at: usize) -> Result<Vectors, ExecuteError> {
        self.vectors_of(&node.inputs[at..at + 4])
    }

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
        let dy = self.read(node.inputs[0])?;
        let (inverse, gamma) = (self.plain(node.inputs[1])?, self.plain(node.inputs[2])?);
        let dx = self.write(node.outputs[0]);
        self.push_over(&node.name, vec![dy, inverse, gamma], dx, move |memory, _, out| {
            // An open gate makes it a scale: neither the mean nor the bias matters.
            let gamma = memory.get(gamma);
            let norm = BatchNorm { mean: gamma, inv_std: memory.get(inverse), gamma, beta: gamma };
            scale_input_grad::<E>(isa, &[], memory.place(dy, &mut out[0]), &norm, Gate::Open);
            Ok(())
        });
        Ok(())
    }
}
