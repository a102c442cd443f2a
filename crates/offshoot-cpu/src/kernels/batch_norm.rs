//! Batch normalization over rows x channels, with the formulas of PyTorch's `batch_norm`.
//!
//! y = activation((x - mean) inv_std gamma + beta + residual). In training the statistics are the batch's, and the
//! gradient flows through them; with frozen statistics it is an affine function of each channel.

mod apply;
pub(crate) mod group;
mod input_grad;
mod reduce;
mod stats;

pub(super) use self::apply::Affine;
pub use self::apply::{affine, batch_norm_apply};
pub(super) use self::input_grad::{GradVectors, InputGrad};
pub use self::input_grad::{batch_norm_input_grad, scale_input_grad};
pub use self::reduce::{Reduction, batch_norm_reduce, batch_norm_reduce_join};
pub(super) use self::stats::area_moments;
pub use self::stats::{Running, batch_norm_join, batch_norm_stats, inv_std};
use super::Activation;

/// The vectors of a batch norm, each of C elements.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// The mean: the batch's, or the running one.
    pub mean: &'a [f32],
    /// 1 / sqrt(variance + epsilon), see [`inv_std`].
    pub inv_std: &'a [f32],
    /// The weight.
    pub gamma: &'a [f32],
    /// The bias.
    pub beta: &'a [f32],
}

impl BatchNorm<'_> {
    /// (scale, shift) with y = x scale + shift, as PyTorch computes them.
    pub fn affine(&self) -> (Vec<f32>, Vec<f32>) {
        let scale: Vec<f32> = self.gamma.iter().zip(self.inv_std).map(|(g, i)| g * i).collect();
        let shift = self.beta.iter().zip(self.mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        (scale, shift)
    }
}

/// Which elements of the gradient pass the activation after a batch norm.
#[derive(Clone, Copy, Debug)]
pub enum Gate<'a, E = f32> {
    /// All: there is no activation, or the gradient has been through it.
    Open,
    /// Those that passed it by its output, rows x C. The one to use with a residual.
    Output(Activation, &'a [E]),
    /// Those that passed it, recomputed from x. Saves reading the output; wrong with a residual.
    Recomputed(Activation),
}

#[cfg(test)]
mod tests;
