//! ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022) as torchvision builds it. Norms and linear layers work on
//! channels last, between two transposes. There is no stochastic depth.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Binary, Op, Pooling, ShapeOp, Unary};
use offshoot_graph::{Graph, GraphError, Role, Shape, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller, replace_start};
use crate::squeeze::{FEATURES, biased, layer_norm};

/// What distinguishes one ConvNeXt from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant<'a> {
    /// Blocks in each stage.
    pub(crate) repeats: &'a [usize],
    /// Channels of each stage.
    pub(crate) channels: &'a [usize],
    /// Height and width of the first convolution.
    pub(crate) patch: usize,
    pub(crate) activation: Unary,
    /// Of the last norm.
    pub(crate) epsilon: f32,
}

/// Of the norms within the network.
pub(crate) const EPSILON: f32 = 1e-6;

const TINY: Variant<'static> = Variant {
    repeats: &[3, 3, 9, 3],
    channels: &[96, 192, 384, 768],
    patch: 4,
    activation: Unary::Gelu,
    epsilon: EPSILON,
};

pub(crate) const ARCHITECTURES: [Architecture; 2] = [
    architecture("convnext_tiny", 236, &TINY),
    architecture("convnext_small", 230, &Variant { repeats: &[3, 3, 27, 3], ..TINY }),
];

const fn architecture(name: &'static str, resize: usize, variant: &'static Variant<'static>) -> Architecture {
    Architecture {
        name,
        timm: Some(name),
        size: 224,
        features: 768,
        stem: &["features.0"],
        blocks: FEATURES.split_at(7).0,
        tail: &["classifier.0"],
        head: "classifier.2",
        original_dropout: 0.0,
        resize: Resize::Bilinear(resize),
        sizes: Sizes::AtLeast(32),
        fan_out: FanOut::Whole,
        family: variant,
    }
}

impl Family for Variant<'_> {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        features(graph, input, self)
    }

    /// A norm follows the pooling.
    fn features(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        self.backbone(graph, input, size)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own(), speller.all(Library::Timm, &timm)]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, features].
pub(crate) fn features(
    graph: &mut Graph,
    input: ValueId,
    variant: &Variant<'_>,
) -> Result<ValueId, GraphError> {
    let &Variant { channels, patch, epsilon, .. } = variant;
    let (mut x, mut before) = (input, 0);
    for (stage, (&channels, &repeats)) in channels.iter().zip(variant.repeats).enumerate() {
        let path = format!("features.{}", 2 * stage);
        if stage == 0 {
            x = biased(graph, &format!("{path}.0"), x, patches(channels, patch))?;
            x = norm_of_channels(graph, &format!("{path}.1"), x, channels)?;
        } else {
            x = norm_of_channels(graph, &format!("{path}.0"), x, before)?;
            x = biased(graph, &format!("{path}.1"), x, patches(channels, 2))?;
        }
        for block in 0..repeats {
            let path = format!("features.{}.{block}", 2 * stage + 1);
            x = self::block(graph, &path, x, channels, variant.activation)?;
        }
        before = channels;
    }
    x = graph.add("avgpool", Op::Pool(Pooling::GlobalAverage), &[x])?;
    x = graph.add("classifier.1", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])?;
    layer_norm(graph, "classifier.0", x, before, epsilon)
}

/// A convolution over squares that do not overlap.
fn patches(channels: usize, side: usize) -> Conv2d {
    Conv2d::new(channels, side).stride(side).pads([0; 4])
}

/// torchvision's `LayerNorm2d`: a norm of the channels of each pixel.
fn norm_of_channels(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    channels: usize,
) -> Result<ValueId, GraphError> {
    let x =
        graph.add(&format!("{path}.last"), Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 3, 1] }), &[x])?;
    let x = layer_norm(graph, path, x, channels, EPSILON)?;
    graph.add(&format!("{path}.first"), Op::Shape(ShapeOp::Transpose { perm: vec![0, 3, 1, 2] }), &[x])
}

fn block(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    channels: usize,
    activation: Unary,
) -> Result<ValueId, GraphError> {
    let scale = graph.add_parameter(&format!("{path}.layer_scale"), &[channels, 1, 1], Role::Weight);
    let depthwise = Conv2d::new(channels, 7).group(channels);
    let x = biased(graph, &format!("{path}.block.0"), input, depthwise)?;
    let x = graph.add(
        &format!("{path}.block.1"),
        Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 3, 1] }),
        &[x],
    )?;
    let shape: Shape = graph.value(x).shape.clone();
    let x = layer_norm(graph, &format!("{path}.block.2"), x, channels, EPSILON)?;
    let x = graph.add(&format!("{path}.block.rows"), Op::Shape(ShapeOp::Flatten { axis: 3 }), &[x])?;
    let x = graph.linear(&format!("{path}.block.3"), x, 4 * channels)?;
    let x = graph.add(&format!("{path}.block.4"), Op::Unary(activation), &[x])?;
    let x = graph.linear(&format!("{path}.block.5"), x, channels)?;
    let x = graph.add(&format!("{path}.block.pixels"), Op::Shape(ShapeOp::Reshape { shape }), &[x])?;
    let x = graph.add(
        &format!("{path}.block.6"),
        Op::Shape(ShapeOp::Transpose { perm: vec![0, 3, 1, 2] }),
        &[x],
    )?;
    let x = graph.add(&format!("{path}.scaled"), Op::Binary(Binary::Mul), &[x, scale])?;
    graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[x, input])
}

/// timm's name of a parameter.
fn timm(name: &str) -> String {
    let rules = [("features.0.", "stem."), ("classifier.0.", "head.norm."), ("classifier.2.", "head.fc.")];
    let spell = || {
        let (place, rest) = name.strip_prefix("features.")?.split_once('.')?;
        match place.parse::<usize>().ok()? {
            0 => None,
            place if place.is_multiple_of(2) => Some(format!("stages.{}.downsample.{rest}", place / 2)),
            place => {
                let (block, layer) = rest.split_once('.')?;
                let layers = [
                    ("layer_scale", "gamma"),
                    ("block.0.", "conv_dw."),
                    ("block.2.", "norm."),
                    ("block.3.", "mlp.fc1."),
                    ("block.5.", "mlp.fc2."),
                ];
                Some(format!("stages.{}.blocks.{block}.{}", place / 2, replace_start(layer, &layers)))
            }
        }
    };
    spell().unwrap_or_else(|| replace_start(name, &rules))
}
