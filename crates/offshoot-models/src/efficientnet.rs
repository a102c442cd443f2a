//! EfficientNet (Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019) as
//! torchvision builds it.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{Binary, Op, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller, same_names_as_tf};
use crate::squeeze::{FEATURES, SqueezeExcitation, conv_norm_act, divisible_by_8};

/// What distinguishes one EfficientNet from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    width: f64,
    depth: f64,
}

/// Expansion, kernel, stride of the first block, output channels at width 1, blocks at depth 1: the paper's table 1.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
];

const STEM: f64 = 32.0;

/// As [`activate`](crate::squeeze::activate) has it.
const SILU: Option<Op> = Some(Op::Unary(Unary::Sigmoid));

/// Names, input sizes and resizing are those of the published `IMAGENET1K_V1` weights.
pub(crate) const ARCHITECTURES: [Architecture; 5] = [
    architecture("efficientnet_b0", [224, 256], 1280, 0.2, &Variant { width: 1.0, depth: 1.0 }),
    architecture("efficientnet_b1", [240, 256], 1280, 0.2, &Variant { width: 1.0, depth: 1.1 }),
    architecture("efficientnet_b2", [288, 288], 1408, 0.3, &Variant { width: 1.1, depth: 1.2 }),
    architecture("efficientnet_b3", [300, 320], 1536, 0.3, &Variant { width: 1.2, depth: 1.4 }),
    architecture("efficientnet_b4", [380, 384], 1792, 0.4, &Variant { width: 1.4, depth: 1.8 }),
];

const fn architecture(
    name: &'static str,
    [size, resize]: [usize; 2],
    features: usize,
    dropout: f32,
    variant: &'static Variant,
) -> Architecture {
    Architecture {
        name,
        size,
        features,
        stem: &["features.0"],
        blocks: FEATURES.split_at(7).0,
        tail: &["features.8"],
        head: "classifier.1",
        original_dropout: dropout,
        resize: Resize::Bicubic(resize),
        sizes: Sizes::Any,
        fan_out: FanOut::Whole,
        family: variant,
    }
}

impl Family for Variant {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, self)
    }

    fn spellings(&self, name: &str, speller: &Speller<'_>) -> Vec<Names> {
        let place = |_: usize, block: &str| {
            let mut parts = block.split('.').skip(1).filter_map(|part| part.parse::<usize>().ok());
            (parts.next().unwrap_or(1) - 1, parts.next().unwrap_or(0))
        };
        let timm = speller.inverted_residuals(&place, &["conv_head", "bn2", "classifier"]);
        vec![speller.own(), Names { note: Some(same_names_as_tf(name)), ..timm }]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, features, H', W'].
pub(crate) fn backbone(graph: &mut Graph, input: ValueId, variant: &Variant) -> Result<ValueId, GraphError> {
    let mut channels = divisible_by_8(STEM * variant.width);
    let mut x =
        conv_norm_act(graph, "features.0", input, &Conv2d::new(channels, 3).stride(2), BATCH_NORM, SILU)?;
    for (stage, (expansion, kernel, first_stride, out, repeats)) in STAGES.into_iter().enumerate() {
        let out = divisible_by_8(out as f64 * variant.width);
        for repeat in 0..(repeats as f64 * variant.depth).ceil() as usize {
            let stride = if repeat == 0 { first_stride } else { 1 };
            let block = Block { channels, hidden: channels * expansion, kernel, stride, out };
            x = block.append(graph, &format!("features.{}.{repeat}", stage + 1), x)?;
            channels = out;
        }
    }
    conv_norm_act(graph, "features.8", x, &Conv2d::new(4 * channels, 1), BATCH_NORM, SILU)
}

/// torchvision's `MBConv`.
struct Block {
    channels: usize,
    hidden: usize,
    kernel: usize,
    stride: usize,
    out: usize,
}

impl Block {
    fn append(&self, graph: &mut Graph, path: &str, input: ValueId) -> Result<ValueId, GraphError> {
        let &Block { channels, hidden, kernel, stride, out } = self;
        let (mut x, mut index) = (input, 0);
        if hidden != channels {
            x = conv_norm_act(
                graph,
                &format!("{path}.block.0"),
                x,
                &Conv2d::new(hidden, 1),
                BATCH_NORM,
                SILU,
            )?;
            index += 1;
        }
        let depthwise = Conv2d::new(hidden, kernel).stride(stride).group(hidden);
        x = conv_norm_act(graph, &format!("{path}.block.{index}"), x, &depthwise, BATCH_NORM, SILU)?;
        let squeezed = (channels / 4).max(1);
        let gate = SqueezeExcitation {
            squeezed,
            activation: Op::Unary(Unary::Sigmoid),
            gate: Op::Unary(Unary::Sigmoid),
        };
        x = gate.append(graph, &format!("{path}.block.{}", index + 1), x, hidden)?;
        x = conv_norm_act(
            graph,
            &format!("{path}.block.{}", index + 2),
            x,
            &Conv2d::new(out, 1),
            BATCH_NORM,
            None,
        )?;
        if stride == 1 && channels == out {
            x = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[x, input])?;
        }
        Ok(x)
    }
}
