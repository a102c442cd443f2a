//! MobileNetV2 (Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018), width 1.0, as
//! torchvision builds it.

use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::op::{Binary, Op};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller, consecutive};
use crate::squeeze::{self, FEATURES};

/// Expansion, output channels, blocks, and the stride of the first block: the paper's table 2.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

const WIDTH: usize = 1280;

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "mobilenet_v2",
    size: 224,
    features: WIDTH,
    stem: &["features.0"],
    blocks: FEATURES,
    tail: &["features.18"],
    head: "classifier.1",
    original_dropout: 0.2,
    resize: Resize::Torchvision,
    sizes: Sizes::Any,
    fan_out: FanOut::Whole,
    family: &MobileNetV2,
};

#[derive(Debug)]
struct MobileNetV2;

impl Family for MobileNetV2 {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _name: &str, speller: &Speller<'_>) -> Vec<Names> {
        let place = |n: usize, _: &str| consecutive(&[1, 2, 3, 4, 3, 3, 1], n);
        vec![speller.own(), speller.inverted_residuals(&place, &["conv_head", "bn2", "classifier"])]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 1280, H', W'].
pub(crate) fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let mut x = conv_norm_act(graph, "features.0", input, &Conv2d::new(32, 3).stride(2))?;
    let (mut channels, mut index) = (32, 1);
    for (expansion, out, repeats, first_stride) in STAGES {
        for repeat in 0..repeats {
            let stride = if repeat == 0 { first_stride } else { 1 };
            let shape = InvertedResidual { channels, hidden: channels * expansion, out, stride };
            x = inverted_residual(graph, &format!("features.{index}"), x, &shape)?;
            channels = out;
            index += 1;
        }
    }
    conv_norm_act(graph, &format!("features.{index}"), x, &Conv2d::new(WIDTH, 1))
}

struct InvertedResidual {
    channels: usize,
    hidden: usize,
    out: usize,
    stride: usize,
}

fn inverted_residual(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    &InvertedResidual { channels, hidden, out, stride }: &InvertedResidual,
) -> Result<ValueId, GraphError> {
    let mut x = input;
    // The modules stand in a `Sequential`: without an expansion each index is one less.
    let mut index = 0;
    if hidden != channels {
        x = conv_norm_act(graph, &format!("{path}.conv.{index}"), x, &Conv2d::new(hidden, 1))?;
        index += 1;
    }
    let depthwise = Conv2d::new(hidden, 3).stride(stride).group(hidden);
    x = conv_norm_act(graph, &format!("{path}.conv.{index}"), x, &depthwise)?;
    x = graph.conv2d(&format!("{path}.conv.{}", index + 1), x, &Conv2d::new(out, 1))?;
    x = graph.batch_norm(&format!("{path}.conv.{}", index + 2), x, BATCH_NORM)?;
    if stride == 1 && channels == out {
        x = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[input, x])?;
    }
    Ok(x)
}

fn conv_norm_act(graph: &mut Graph, path: &str, x: ValueId, conv: &Conv2d) -> Result<ValueId, GraphError> {
    squeeze::conv_norm_act(graph, path, x, conv, BATCH_NORM, Some(RELU6))
}
