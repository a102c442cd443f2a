//! What several families share: the names of modules, convolutions with norms, squeeze and excitation, channels in
//! multiples of eight, SiLU, norms of channels.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{BatchNormalization, Binary, LayerNormalization, Norm, Op, Pooling, Unary};
use offshoot_graph::{Graph, GraphError, Role, ValueId};

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
    let [weight, bias] =
        ["weight", "bias"].map(|name| graph.add_parameter(&format!("{path}.{name}"), &[width], Role::Weight));
    graph.add(path, Op::Norm(Norm::Layer(LayerNormalization { epsilon })), &[x, weight, bias])
}

/// The multiple of eight nearest to `channels`, not below nine tenths of it nor below eight (`_make_divisible`).
pub(crate) fn divisible_by_8(channels: f64) -> usize {
    let nearest = ((channels + 4.0) as usize / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}
