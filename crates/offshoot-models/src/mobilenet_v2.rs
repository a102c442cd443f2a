//! MobileNetV2 (Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018), width 1.0, as
//! torchvision builds it.

use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::op::{BatchNormalization, Binary, Op};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller, consecutive};
use crate::squeeze::{FEATURES, Padding, conv_norm_act, divisible_by_8};

/// What distinguishes one MobileNetV2 from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MobileNetV2 {
    /// Channels of the first convolution.
    pub(crate) stem: usize,
    /// Output channels of each stage.
    pub(crate) channels: [usize; 7],
    /// How much wider the depthwise convolutions are than what they read; those of the first stage are not.
    pub(crate) expansion: f64,
    pub(crate) features: usize,
    pub(crate) norm: BatchNormalization,
    pub(crate) padding: Padding,
}

/// Blocks, and the stride of the first one: the paper's table 2.
const STAGES: [(usize, usize); 7] = [(1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)];

const ONE: MobileNetV2 = MobileNetV2 {
    stem: 32,
    channels: [16, 24, 32, 64, 96, 160, 320],
    expansion: 6.0,
    features: 1280,
    norm: BATCH_NORM,
    padding: Padding::Symmetric,
};

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "mobilenet_v2",
    timm: Some("mobilenetv2_100"),
    size: 224,
    features: ONE.features,
    stem: &["features.0"],
    blocks: FEATURES,
    tail: &["features.18"],
    head: "classifier.1",
    original_dropout: 0.2,
    resize: Resize::Torchvision,
    sizes: Sizes::Any,
    fan_out: FanOut::Whole,
    family: &ONE,
};

impl Family for MobileNetV2 {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, self)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        let place = |n: usize, _: &str| consecutive(&[1, 2, 3, 4, 3, 3, 1], n);
        vec![speller.own(), speller.inverted_residuals(&place, &["conv_head", "bn2", "classifier"])]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, features, H', W'].
pub(crate) fn backbone(
    graph: &mut Graph,
    input: ValueId,
    variant: &MobileNetV2,
) -> Result<ValueId, GraphError> {
    let mut channels = variant.stem;
    let mut x = variant.conv(graph, "features.0", input, Conv2d::new(channels, 3).stride(2))?;
    let mut index = 1;
    for (stage, ((repeats, first_stride), out)) in STAGES.into_iter().zip(variant.channels).enumerate() {
        for repeat in 0..repeats {
            let hidden = match stage {
                0 => channels,
                _ => divisible_by_8(channels as f64 * variant.expansion),
            };
            let stride = if repeat == 0 { first_stride } else { 1 };
            let block = InvertedResidual { channels, hidden, out, stride, widens: stage > 0 };
            x = variant.inverted_residual(graph, &format!("features.{index}"), x, &block)?;
            channels = out;
            index += 1;
        }
    }
    variant.conv(graph, &format!("features.{index}"), x, Conv2d::new(variant.features, 1))
}

struct InvertedResidual {
    channels: usize,
    hidden: usize,
    out: usize,
    stride: usize,
    /// Whether a 1x1 convolution comes first.
    widens: bool,
}

impl MobileNetV2 {
    fn inverted_residual(
        &self,
        graph: &mut Graph,
        path: &str,
        input: ValueId,
        &InvertedResidual { channels, hidden, out, stride, widens }: &InvertedResidual,
    ) -> Result<ValueId, GraphError> {
        let mut x = input;
        // The modules stand in a `Sequential`: without an expansion each index is one less.
        let mut index = 0;
        if widens {
            x = self.conv(graph, &format!("{path}.conv.{index}"), x, Conv2d::new(hidden, 1))?;
            index += 1;
        }
        let depthwise = Conv2d::new(hidden, 3).stride(stride).group(hidden);
        x = self.conv(graph, &format!("{path}.conv.{index}"), x, depthwise)?;
        x = graph.conv2d(&format!("{path}.conv.{}", index + 1), x, &Conv2d::new(out, 1))?;
        x = graph.batch_norm(&format!("{path}.conv.{}", index + 2), x, self.norm)?;
        if stride == 1 && channels == out {
            x = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[input, x])?;
        }
        Ok(x)
    }

    fn conv(&self, graph: &mut Graph, path: &str, x: ValueId, conv: Conv2d) -> Result<ValueId, GraphError> {
        let conv = self.padding.of(graph, x, conv);
        conv_norm_act(graph, path, x, &conv, self.norm, Some(RELU6))
    }
}
