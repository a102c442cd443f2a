//! EfficientNet (Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019) and
//! EfficientNetV2 (2021) as torchvision builds them. Those with `tf_` before the name are timm's: they pad as TensorFlow's SAME
//! does, and their norms have TensorFlow's epsilon.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{BatchNormalization, Binary, Op, Unary};
use offshoot_graph::{Graph, GraphError, Interpolation, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller, other_padding, timm_epsilon};
use crate::squeeze::{FEATURES, Padding, SqueezeExcitation, conv_norm_act, divisible_by_8};

/// What distinguishes one EfficientNet from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant<'a> {
    pub(crate) stages: &'a [Stage],
    pub(crate) width: f64,
    pub(crate) depth: f64,
    /// Channels after the first convolution at width 1.
    pub(crate) stem: f64,
    /// Channels after the last convolution.
    pub(crate) features: usize,
    pub(crate) norm: BatchNormalization,
    pub(crate) padding: Padding,
    /// The blocks that pad all sides alike nevertheless.
    pub(crate) symmetric: &'a [usize],
    /// Whether the first block of a stage can have a shortcut.
    pub(crate) first_shortcut: bool,
    /// The epsilon of timm's norms.
    pub(crate) timm_epsilon: f32,
}

/// Whether the first convolution of a block is 3x3, expansion, kernel, stride of the first block, output channels at width 1,
/// blocks at depth 1.
pub(crate) type Stage = (bool, usize, usize, usize, usize, usize);

/// The table 1 of the paper on EfficientNet.
const V1: [Stage; 7] = [
    (false, 1, 3, 1, 16, 1),
    (false, 6, 3, 2, 24, 2),
    (false, 6, 5, 2, 40, 2),
    (false, 6, 3, 2, 80, 3),
    (false, 6, 5, 1, 112, 3),
    (false, 6, 5, 2, 192, 4),
    (false, 6, 3, 1, 320, 1),
];

/// The table 4 of the paper on EfficientNetV2.
const V2_SMALL: [Stage; 6] = [
    (true, 1, 3, 1, 24, 2),
    (true, 4, 3, 2, 48, 4),
    (true, 4, 3, 2, 64, 4),
    (false, 4, 3, 2, 128, 6),
    (false, 6, 3, 1, 160, 9),
    (false, 6, 3, 2, 256, 15),
];

/// TensorFlow's epsilon.
const TENSORFLOW: BatchNormalization = BatchNormalization { epsilon: 1e-3, ..BATCH_NORM };

/// As [`activate`](crate::squeeze::activate) has it.
const SILU: Option<Op> = Some(Op::Unary(Unary::Sigmoid));

pub(crate) const B0: Variant<'static> = Variant {
    stages: &V1,
    width: 1.0,
    depth: 1.0,
    stem: 32.0,
    features: 1280,
    norm: BATCH_NORM,
    padding: Padding::Symmetric,
    symmetric: &[],
    first_shortcut: true,
    timm_epsilon: BATCH_NORM.epsilon,
};
const B1: Variant<'static> = Variant { depth: 1.1, ..B0 };
const B2: Variant<'static> = Variant { width: 1.1, depth: 1.2, features: 1408, ..B0 };
const B3: Variant<'static> = Variant { width: 1.2, depth: 1.4, features: 1536, ..B0 };
const B4: Variant<'static> = Variant { width: 1.4, depth: 1.8, features: 1792, ..B0 };
const V2_S: Variant<'static> = Variant { stages: &V2_SMALL, stem: 24.0, norm: TENSORFLOW, ..B0 };

/// Names, input sizes and resizing are those of torchvision's `IMAGENET1K_V1` weights, or, with `tf_`, timm's.
pub(crate) const ARCHITECTURES: [Architecture; 12] = [
    architecture("efficientnet_b0", [224, 256], 0.2, &B0),
    architecture("efficientnet_b1", [240, 256], 0.2, &B1),
    architecture("efficientnet_b2", [288, 288], 0.3, &B2),
    architecture("efficientnet_b3", [300, 320], 0.3, &B3),
    architecture("efficientnet_b4", [380, 384], 0.4, &B4),
    Architecture {
        timm: Some("efficientnetv2_s"),
        resize: Resize::Bilinear(384),
        ..architecture("efficientnet_v2_s", [384, 384], 0.2, &V2_S)
    },
    architecture("tf_efficientnet_b0", [224, 256], 0.2, &B0.tensorflow()),
    architecture("tf_efficientnet_b1", [240, 272], 0.2, &B1.tensorflow()),
    architecture("tf_efficientnet_b2", [260, 292], 0.3, &B2.tensorflow()),
    architecture("tf_efficientnet_b3", [300, 331], 0.3, &B3.tensorflow()),
    architecture("tf_efficientnet_b4", [380, 412], 0.4, &B4.tensorflow()),
    Architecture {
        resize: Resize::Half(384, Interpolation::Bicubic),
        ..architecture("tf_efficientnetv2_s", [384, 384], 0.2, &V2_S.tensorflow())
    },
];

const fn architecture(
    name: &'static str,
    [size, resize]: [usize; 2],
    dropout: f32,
    variant: &'static Variant<'static>,
) -> Architecture {
    let (blocks, tail) = match variant.stages.len() {
        6 => (6, &["features.7"]),
        _ => (7, &["features.8"]),
    };
    Architecture {
        name,
        timm: Some(name),
        size,
        features: variant.features,
        stem: &["features.0"],
        blocks: FEATURES.split_at(blocks).0,
        tail,
        head: "classifier.1",
        original_dropout: dropout,
        resize: Resize::Bicubic(resize),
        sizes: Sizes::Any,
        fan_out: FanOut::Whole,
        family: variant,
    }
}

impl<'a> Variant<'a> {
    /// The same as timm builds it for the weights of TensorFlow.
    const fn tensorflow(self) -> Variant<'a> {
        Variant { norm: TENSORFLOW, padding: Padding::Same, timm_epsilon: TENSORFLOW.epsilon, ..self }
    }

    fn conv(
        &self,
        graph: &mut Graph,
        path: &str,
        x: ValueId,
        conv: Conv2d,
        activation: Option<Op>,
    ) -> Result<ValueId, GraphError> {
        let conv = self.padding.of(graph, x, conv);
        conv_norm_act(graph, path, x, &conv, self.norm, activation)
    }
}

impl Family for Variant<'_> {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, self)
    }

    fn spellings(&self, architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        let place = |_: usize, block: &str| {
            let mut parts = block.split('.').skip(1).filter_map(|part| part.parse::<usize>().ok());
            (parts.next().unwrap_or(1) - 1, parts.next().unwrap_or(0))
        };
        let mut timm = speller.inverted_residuals(&place, &["conv_head", "bn2", "classifier"]);
        timm.epsilon = timm_epsilon(self.timm_epsilon, self.norm);
        timm.note = Some(other_padding(architecture.timm.unwrap_or(architecture.name)));
        vec![speller.own(), timm]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, features, H', W'].
pub(crate) fn backbone(
    graph: &mut Graph,
    input: ValueId,
    variant: &Variant<'_>,
) -> Result<ValueId, GraphError> {
    let mut channels = divisible_by_8(variant.stem * variant.width);
    let mut x = variant.conv(graph, "features.0", input, Conv2d::new(channels, 3).stride(2), SILU)?;
    let mut index = 0;
    for (stage, &(fused, expansion, kernel, first_stride, out, repeats)) in variant.stages.iter().enumerate()
    {
        let out = divisible_by_8(out as f64 * variant.width);
        for repeat in 0..(repeats as f64 * variant.depth).ceil() as usize {
            let (stride, first) = if repeat == 0 { (first_stride, true) } else { (1, false) };
            let padding =
                if variant.symmetric.contains(&index) { Padding::Symmetric } else { variant.padding };
            let variant = Variant { padding, ..*variant };
            let block = Block { variant, channels, hidden: channels * expansion, kernel, stride, out };
            let path = format!("features.{}.{repeat}", stage + 1);
            let y = if fused { block.fused(graph, &path, x)? } else { block.append(graph, &path, x)? };
            let same = stride == 1 && channels == out && (variant.first_shortcut || !first);
            x = if same { graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[y, x])? } else { y };
            (channels, index) = (out, index + 1);
        }
    }
    let path = format!("features.{}", variant.stages.len() + 1);
    variant.conv(graph, &path, x, Conv2d::new(variant.features, 1), SILU)
}

/// A block without its shortcut.
struct Block<'a> {
    variant: Variant<'a>,
    channels: usize,
    hidden: usize,
    kernel: usize,
    stride: usize,
    out: usize,
}

impl Block<'_> {
    /// torchvision's `FusedMBConv`.
    fn fused(&self, graph: &mut Graph, path: &str, x: ValueId) -> Result<ValueId, GraphError> {
        let &Block { ref variant, channels, hidden, kernel, stride, out } = self;
        let first = format!("{path}.block.0");
        if hidden == channels {
            return variant.conv(graph, &first, x, Conv2d::new(out, kernel).stride(stride), SILU);
        }
        let x = variant.conv(graph, &first, x, Conv2d::new(hidden, kernel).stride(stride), SILU)?;
        variant.conv(graph, &format!("{path}.block.1"), x, Conv2d::new(out, 1), None)
    }

    /// torchvision's `MBConv`.
    fn append(&self, graph: &mut Graph, path: &str, input: ValueId) -> Result<ValueId, GraphError> {
        let &Block { ref variant, channels, hidden, kernel, stride, out } = self;
        let (mut x, mut index) = (input, 0);
        if hidden != channels {
            x = variant.conv(graph, &format!("{path}.block.0"), x, Conv2d::new(hidden, 1), SILU)?;
            index += 1;
        }
        let depthwise = Conv2d::new(hidden, kernel).stride(stride).group(hidden);
        x = variant.conv(graph, &format!("{path}.block.{index}"), x, depthwise, SILU)?;
        let squeezed = (channels / 4).max(1);
        let gate = SqueezeExcitation {
            squeezed,
            activation: Op::Unary(Unary::Sigmoid),
            gate: Op::Unary(Unary::Sigmoid),
        };
        x = gate.append(graph, &format!("{path}.block.{}", index + 1), x, hidden)?;
        variant.conv(graph, &format!("{path}.block.{}", index + 2), x, Conv2d::new(out, 1), None)
    }
}
