//! What several families share: the names of modules, convolutions with norms, squeeze and excitation, channels in
//! multiples of eight, SiLU, norms of channels.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{BatchNormalization, Binary, Gemm, LayerNormalization, Norm, Op, Pooling, Unary};
use offshoot_graph::{Dim, Graph, GraphError, Role, ValueId};

/// torchvision's modules behind the stem `features.0`; a network has the first ones.
pub(crate) const FEATURES: &[&str] = &[
    "features.1",
    "features.2",
    "features.3",
    "features.4",
    "features.5",
    "features.6",
    "features.7",
    "features.8",
    "features.9",
    "features.10",
    "features.11",
    "features.12",
    "features.13",
    "features.14",
    "features.15",
    "features.16",
    "features.17",
];

/// A gate for each channel, computed from the means of all channels (Hu et al., "Squeeze-and-excitation networks", 2017),
/// with the parameters of torchvision's `SqueezeExcitation`: `fc1` and `fc2`.
pub(crate) struct SqueezeExcitation {
    /// Channels between the two convolutions.
    pub(crate) squeezed: usize,
    /// After the first convolution.
    pub(crate) activation: Op,
    /// After the second.
    pub(crate) gate: Op,
}

impl SqueezeExcitation {
    /// Appends it to `x`, which has `channels`.
    pub(crate) fn append(
        self,
        graph: &mut Graph,
        path: &str,
        x: ValueId,
        channels: usize,
    ) -> Result<ValueId, GraphError> {
        let means = graph.add(&format!("{path}.avgpool"), Op::Pool(Pooling::GlobalAverage), &[x])?;
        let gate = biased(graph, &format!("{path}.fc1"), means, Conv2d::new(self.squeezed, 1))?;
        let gate = activate(graph, &format!("{path}.activation"), gate, self.activation)?;
        let gate = biased(graph, &format!("{path}.fc2"), gate, Conv2d::new(channels, 1))?;
        let gate = graph.add(&format!("{path}.scale_activation"), self.gate, &[gate])?;
        graph.add(path, Op::Binary(Binary::Mul), &[x, gate])
    }
}

/// torchvision's `Conv2dNormActivation`: `path.0`, `path.1` and, where there is an activation (see [`activate`]), `path.2`.
pub(crate) fn conv_norm_act(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    conv: &Conv2d,
    norm: BatchNormalization,
    activation: Option<Op>,
) -> Result<ValueId, GraphError> {
    let x = graph.conv2d(&format!("{path}.0"), x, conv)?;
    let x = graph.batch_norm(&format!("{path}.1"), x, norm)?;
    match activation {
        Some(op) => activate(graph, &format!("{path}.2"), x, op),
        None => Ok(x),
    }
}

/// A convolution, a norm and perhaps ReLU in consecutive places of a `Sequential`, of which `path.index` is the first.
pub(crate) fn conv_norm_relu(
    graph: &mut Graph,
    (path, index): (&str, usize),
    x: ValueId,
    conv: &Conv2d,
    norm: BatchNormalization,
    relu: bool,
) -> Result<ValueId, GraphError> {
    let x = graph.conv2d(&format!("{path}.{index}"), x, conv)?;
    let x = graph.batch_norm(&format!("{path}.{}", index + 1), x, norm)?;
    if relu { graph.add(&format!("{path}.{}", index + 2), Op::Unary(Unary::Relu), &[x]) } else { Ok(x) }
}

/// What convolutions put around a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// Half of the kernel on each side.
    Symmetric,
    /// TensorFlow's SAME: with a stride it depends on the size, and an odd zero comes after.
    Same,
    /// transformers' for EfficientNet: with a stride, one less before than after, whatever the size.
    Uneven,
}

impl Padding {
    /// `conv` with this padding for the input `x`, [N, C, H, W] with known H and W.
    pub(crate) fn of(self, graph: &Graph, x: ValueId, conv: Conv2d) -> Conv2d {
        let axes = [2, 3].map(|axis| graph.value(x).shape.0.get(axis).and_then(Dim::fixed));
        let (stride, half) = (conv.attributes.strides[0], conv.kernel / 2);
        match (self, axes) {
            (Padding::Same, [Some(height), Some(width)]) => {
                let [(top, bottom), (left, right)] =
                    [height, width].map(|size| same_padding(size, conv.kernel, stride));
                conv.pads([top, left, bottom, right])
            }
            (Padding::Uneven, _) if stride > 1 => {
                let before = half.saturating_sub(1);
                conv.pads([before, before, half, half])
            }
            (Padding::Symmetric | Padding::Same | Padding::Uneven, _) => conv,
        }
    }
}

/// Zeros before and after an axis of `size`, so that the output has ceil(size / stride): an odd one comes after.
fn same_padding(size: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let reach = (size.div_ceil(stride).saturating_sub(1) * stride).saturating_add(kernel);
    let total = reach.saturating_sub(size);
    (total / 2, total - total / 2)
}

/// A convolution with a bias.
pub(crate) fn biased(graph: &mut Graph, path: &str, x: ValueId, conv: Conv2d) -> Result<ValueId, GraphError> {
    graph.conv2d(path, x, &Conv2d { bias: true, ..conv })
}

/// An activation by its operator; Sigmoid stands for SiLU, x times its Sigmoid.
pub(crate) fn activate(graph: &mut Graph, path: &str, x: ValueId, op: Op) -> Result<ValueId, GraphError> {
    if op != Op::Unary(Unary::Sigmoid) {
        return graph.add(path, op, &[x]);
    }
    let gate = graph.add(&format!("{path}.sigmoid"), Op::Unary(Unary::Sigmoid), &[x])?;
    graph.add(path, Op::Binary(Binary::Mul), &[x, gate])
}

/// `torch.nn.LayerNorm` over the last axis: the parameters `path.weight` and `path.bias`.
pub(crate) fn layer_norm(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    width: usize,
    epsilon: f32,
) -> Result<ValueId, GraphError> {
    let parameters = norm_parameters(graph, path, width);
    normalized(graph, path, x, parameters, epsilon)
}

/// The parameters of a [`layer_norm`], for where other parameters come between them and the norm.
pub(crate) fn norm_parameters(graph: &mut Graph, path: &str, width: usize) -> [ValueId; 2] {
    ["weight", "bias"].map(|name| graph.add_parameter(&format!("{path}.{name}"), &[width], Role::Weight))
}

/// A [`layer_norm`] with these parameters.
pub(crate) fn normalized(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    [weight, bias]: [ValueId; 2],
    epsilon: f32,
) -> Result<ValueId, GraphError> {
    graph.add(path, Op::Norm(Norm::Layer(LayerNormalization { epsilon })), &[x, weight, bias])
}

/// `torch.nn.Linear` without a bias: [N, features] -> [N, out] with the parameter `path.weight`.
pub(crate) fn unbiased(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    [out, features]: [usize; 2],
) -> Result<ValueId, GraphError> {
    let weight = graph.add_parameter(&format!("{path}.weight"), &[out, features], Role::Weight);
    product(graph, path, &[x, weight])
}

/// What `torch.nn.Linear` computes: rows [N, features] times a weight [out, features], plus a bias [out] where there is a third operand.
pub(crate) fn product(graph: &mut Graph, path: &str, operands: &[ValueId]) -> Result<ValueId, GraphError> {
    graph.add(path, Op::Gemm(Gemm { trans_a: false, trans_b: true }), operands)
}

/// The multiple of eight nearest to `channels`, not below nine tenths of it nor below eight (`_make_divisible`).
pub(crate) const fn divisible_by_8(channels: f64) -> usize {
    let nearest = match (channels + 4.0) as usize / 8 * 8 {
        0 => 8,
        nearest => nearest,
    };
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_is_tensorflows() {
        // An even size with stride 2 pads after only; an odd one both sides alike; stride 1 is centered.
        assert_eq!(same_padding(224, 3, 2), (0, 1));
        assert_eq!(same_padding(224, 5, 2), (1, 2));
        assert_eq!(same_padding(65, 3, 2), (1, 1));
        assert_eq!(same_padding(65, 5, 2), (2, 2));
        assert_eq!(same_padding(56, 5, 1), (2, 2));
        assert_eq!(same_padding(9, 1, 1), (0, 0));
        assert_eq!(same_padding(1, 3, 2), (1, 1));
    }
}
