//! MobileNetV4 (Qin et al., "MobileNetV4: universal models for the mobile ecosystem", 2024), the small one of convolutions, under
//! timm's names.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{Binary, Op, Pooling, ShapeOp, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};
use crate::squeeze::divisible_by_8;

const STEM: usize = 32;
const WIDTH: usize = 1280;

/// A block.
#[derive(Clone, Copy, Debug)]
enum Block {
    /// Kernel, stride, output channels of a convolution.
    Conv(usize, usize, usize),
    /// A universal inverted bottleneck: the kernels of the depthwise convolutions before and after the expansion, 0 for none; stride,
    /// expansion, output channels.
    Universal([usize; 2], usize, usize, usize),
}

use Block::{Conv, Universal};

const STAGES: [&[Block]; 5] = [
    &[Conv(3, 2, 32), Conv(1, 1, 32)],
    &[Conv(3, 2, 96), Conv(1, 1, 64)],
    &[
        Universal([5, 5], 2, 3, 96),
        Universal([0, 3], 1, 2, 96),
        Universal([0, 3], 1, 2, 96),
        Universal([0, 3], 1, 2, 96),
        Universal([0, 3], 1, 2, 96),
        Universal([3, 0], 1, 4, 96),
    ],
    &[
        Universal([3, 3], 2, 6, 128),
        Universal([5, 5], 1, 4, 128),
        Universal([0, 5], 1, 4, 128),
        Universal([0, 5], 1, 3, 128),
        Universal([0, 3], 1, 4, 128),
        Universal([0, 3], 1, 4, 128),
    ],
    &[Conv(1, 1, 960)],
];

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "mobilenetv4_conv_small",
    timm: Some("mobilenetv4_conv_small"),
    size: 224,
    features: WIDTH,
    stem: &["conv_stem", "bn1"],
    blocks: &["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4"],
    tail: &["conv_head", "norm_head"],
    head: "classifier",
    original_dropout: 0.0,
    resize: Resize::Bicubic(256),
    sizes: Sizes::Any,
    fan_out: FanOut::PerGroup,
    family: &MobileNetV4,
};

#[derive(Debug)]
struct MobileNetV4;

impl Family for MobileNetV4 {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        features(graph, input)
    }

    /// A convolution follows the pooling.
    fn features(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        self.backbone(graph, input, size)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 1280].
fn features(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let stem = Conv2d::new(STEM, 3).stride(2);
    let mut x = layer(graph, ["conv_stem", "bn1"], input, &stem, true)?;
    let mut channels = STEM;
    for (stage, blocks) in STAGES.into_iter().enumerate() {
        for (index, &block) in blocks.iter().enumerate() {
            let path = format!("blocks.{stage}.{index}");
            (x, channels) = match block {
                Conv(kernel, stride, out) => {
                    let conv = Conv2d::new(out, kernel).stride(stride);
                    let names = [format!("{path}.conv"), format!("{path}.bn1")];
                    (layer(graph, [&names[0], &names[1]], x, &conv, true)?, out)
                }
                Universal(kernels, stride, expansion, out) => {
                    let hidden = divisible_by_8((channels * expansion) as f64);
                    (universal(graph, &path, x, kernels, stride, [channels, hidden, out])?, out)
                }
            };
        }
    }
    x = graph.add("global_pool", Op::Pool(Pooling::GlobalAverage), &[x])?;
    x = layer(graph, ["conv_head", "norm_head"], x, &Conv2d::new(WIDTH, 1), true)?;
    graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])
}

/// timm's `UniversalInvertedResidual`.
fn universal(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    [start, middle]: [usize; 2],
    stride: usize,
    [channels, hidden, out]: [usize; 3],
) -> Result<ValueId, GraphError> {
    let mut part = |name: &str, x, conv: Conv2d, relu| {
        let names = [format!("{path}.{name}.conv"), format!("{path}.{name}.bn")];
        layer(graph, [&names[0], &names[1]], x, &conv, relu)
    };
    let mut x = input;
    if start > 0 {
        let first = if middle > 0 { 1 } else { stride };
        x = part("dw_start", x, Conv2d::new(channels, start).stride(first).group(channels), false)?;
    }
    x = part("pw_exp", x, Conv2d::new(hidden, 1), true)?;
    if middle > 0 {
        x = part("dw_mid", x, Conv2d::new(hidden, middle).stride(stride).group(hidden), true)?;
    }
    x = part("pw_proj", x, Conv2d::new(out, 1), false)?;
    if stride == 1 && channels == out {
        x = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[x, input])?;
    }
    Ok(x)
}

/// A convolution, a norm and perhaps ReLU.
fn layer(
    graph: &mut Graph,
    [conv_path, norm_path]: [&str; 2],
    x: ValueId,
    conv: &Conv2d,
    relu: bool,
) -> Result<ValueId, GraphError> {
    let x = graph.conv2d(conv_path, x, conv)?;
    let x = graph.batch_norm(norm_path, x, BATCH_NORM)?;
    if relu { graph.add(&format!("{norm_path}.act"), Op::Unary(Unary::Relu), &[x]) } else { Ok(x) }
}
