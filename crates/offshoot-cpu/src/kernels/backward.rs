//! What kernels that compute all gradients of a convolution in one pass take and give.

use super::batch_norm::Reduction;
use super::source::Source;

/// What goes in. The kernel says how the weights `W` are packed.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a, E, W> {
    /// The gradient of the output.
    pub dy: &'a Source<'a, E>,
    /// The input.
    pub x: &'a Source<'a, E>,
    /// The weights.
    pub weights: W,
    /// The norm whose output is the input, before or after its activation.
    pub reduction: Option<Reduction<'a, E>>,
}

/// What comes out.
#[derive(Debug)]
pub struct Gradients<'a, E> {
    /// Of the input, NHWC.
    pub dx: &'a mut [E],
    /// Of the weights, OIHW.
    pub dw: &'a mut [f32],
    /// Sums of the reduction, for [`batch_norm_reduce_join`](super::batch_norm::batch_norm_reduce_join): two rows of the input's
    /// channels for each part that the kernel leaves, or nothing.
    pub sums: &'a mut [f32],
}
