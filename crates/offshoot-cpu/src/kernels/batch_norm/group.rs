//! Norms of groups of the channels of a picture: an affine function of each channel, whose statistics are the picture's own.

use super::apply::affine;
use super::stats::{inverse_root, row_moments};
use crate::kernels::Activation;
use crate::kernels::simd::Isa;

/// A norm of groups of channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupNorm<'a> {
    pub(crate) pictures: usize,
    pub(crate) groups: usize,
    /// Added to the variance.
    pub(crate) epsilon: f32,
    /// A weight of each channel.
    pub(crate) gamma: &'a [f32],
    /// A bias of each channel.
    pub(crate) beta: &'a [f32],
}

/// out = gamma (x - mean) / sqrt(variance + epsilon) + beta, with the mean and the (biased) variance of each group of the channels of
/// a picture. `x` and `out` are pictures x pixels x channels.
///
/// # Panics
/// When the channels are no groups, or `x` and `out` not as large as each other.
pub(crate) fn group_norm(isa: Isa, x: &[f32], norm: &GroupNorm<'_>, out: &mut [f32]) {
    let channels = norm.gamma.len();
    assert!(
        norm.groups > 0 && channels.is_multiple_of(norm.groups) && norm.beta.len() == channels,
        "{norm:?}"
    );
    assert_eq!(x.len(), out.len(), "elements");
    if x.is_empty() {
        return;
    }
    let picture = x.len() / norm.pictures;
    let [mut scale, mut shift] = [vec![0.0; channels], vec![0.0; channels]];
    for (x, out) in x.chunks_exact(picture).zip(out.chunks_exact_mut(picture)) {
        norm.function(&row_moments(isa, x, channels), picture, [&mut scale, &mut shift]);
        affine(isa, x, (&scale, &shift), None, Activation::None, out);
    }
}

impl GroupNorm<'_> {
    /// What each channel of a picture of so many elements is multiplied with, and what is added then, from the means of the channels and
    /// the sums of squares about these.
    fn function(&self, moments: &[(f64, f64)], elements: usize, [scale, shift]: [&mut [f32]; 2]) {
        let size = moments.len() / self.groups;
        let rows = (elements / moments.len()) as f64;
        for (group, moments) in moments.chunks_exact(size).enumerate() {
            let mean = moments.iter().map(|(mean, _)| mean).sum::<f64>() / size as f64;
            // (All channels have as many elements: the sum of squares about the common mean.)
            let about = |&(own, squares): &(f64, f64)| squares + rows * (own - mean) * (own - mean);
            let squares: f64 = moments.iter().map(about).sum();
            let inverse = f64::from(inverse_root(squares / (rows * size as f64), self.epsilon));
            for channel in group * size..(group + 1) * size {
                let factor = f64::from(self.gamma[channel]) * inverse;
                scale[channel] = factor as f32;
                shift[channel] = (f64::from(self.beta[channel]) - mean * factor) as f32;
            }
        }
    }
}
