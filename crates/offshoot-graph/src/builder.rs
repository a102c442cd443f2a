//! The layers that models are made of, each with the parameters PyTorch's module of that name has.

use crate::graph::{Graph, GraphError, Role, ValueId};
use crate::op::{BatchNormalization, Clip, Conv, Gemm, Norm, Op, Unary};

/// PyTorch's default `eps` of a batch norm.
pub const BATCH_NORM: BatchNormalization = BatchNormalization { epsilon: 1e-5, momentum: 0.1 };

/// ReLU6.
pub const RELU6: Op = Op::Unary(Unary::Clip(Clip { min: 0.0, max: 6.0 }));

/// The sizes of a [`Graph::conv2d`].
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// Output channels.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Strides, padding, dilation, groups.
    pub attributes: Conv,
}

impl Conv2d {
    /// A square kernel with stride 1, padding `kernel / 2`, one group and no bias.
    pub fn new(out_channels: usize, kernel: usize) -> Conv2d {
        let pads = [kernel / 2; 4];
        Conv2d { out_channels, kernel, bias: false, attributes: Conv { pads, ..Conv::default() } }
    }

    /// The same with another stride in both directions.
    pub fn stride(mut self, stride: usize) -> Conv2d {
        self.attributes.strides = [stride; 2];
        self
    }

    /// The same with other padding: top, left, bottom, right.
    pub fn pads(mut self, pads: [usize; 4]) -> Conv2d {
        self.attributes.pads = pads;
        self
    }

    /// The same in groups.
    pub fn group(mut self, group: usize) -> Conv2d {
        self.attributes.group = group;
        self
    }
}

impl Graph {
    /// `torch.nn.Conv2d`: [N, C, H, W] -> [N, out_channels, H', W'] with the parameters `path.weight` and `path.bias`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn conv2d(&mut self, path: &str, x: ValueId, conv: &Conv2d) -> Result<ValueId, GraphError> {
        let channels = self.channels(path, "Conv", x)?;
        let group = conv.attributes.group.max(1);
        let shape = [conv.out_channels, channels / group, conv.kernel, conv.kernel];
        let mut inputs = vec![x, self.add_parameter(&format!("{path}.weight"), &shape, Role::Weight)];
        if conv.bias {
            inputs.push(self.add_parameter(&format!("{path}.bias"), &shape[..1], Role::Weight));
        }
        self.add(path, Op::Conv(conv.attributes.clone()), &inputs)
    }

    /// `torch.nn.BatchNorm2d`: x's shape, with the parameters `weight` and `bias` and the buffers `running_mean` and
    /// `running_var` under `path`.
    ///
    /// # Errors
    /// When x has no known number of channels.
    pub fn batch_norm(
        &mut self,
        path: &str,
        x: ValueId,
        norm: BatchNormalization,
    ) -> Result<ValueId, GraphError> {
        let shape = [self.channels(path, "BatchNormalization", x)?];
        let mut inputs = vec![x];
        for (name, role) in [
            ("weight", Role::Weight),
            ("bias", Role::Weight),
            ("running_mean", Role::Buffer),
            ("running_var", Role::Buffer),
        ] {
            inputs.push(self.add_parameter(&format!("{path}.{name}"), &shape, role));
        }
        self.add(path, Op::Norm(Norm::Batch(norm)), &inputs)
    }

    /// `torch.nn.Linear`: [N, C] -> [N, out_features] with the parameters `path.weight` and `path.bias`.
    ///
    /// # Errors
    /// When x has no known number of features.
    pub fn linear(&mut self, path: &str, x: ValueId, out_features: usize) -> Result<ValueId, GraphError> {
        let features = self.channels(path, "Gemm", x)?;
        let weight = self.add_parameter(&format!("{path}.weight"), &[out_features, features], Role::Weight);
        let bias = self.add_parameter(&format!("{path}.bias"), &[out_features], Role::Weight);
        self.add(path, Op::Gemm(Gemm { trans_a: false, trans_b: true }), &[x, weight, bias])
    }

    fn channels(&self, node: &str, op: &'static str, x: ValueId) -> Result<usize, GraphError> {
        let shape = &self.value(x).shape;
        shape.0.get(1).and_then(|d| d.fixed()).ok_or_else(|| GraphError {
            node: node.to_string(),
            op,
            reason: format!("the input's shape {shape} has no known number of channels"),
        })
    }
}
