//! MobileNetV3 (Howard et al., "Searching for MobileNetV3", 2019) as torchvision builds it.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{BatchNormalization, Binary, HardSigmoid, Op, Pooling, ShapeOp, Unary};
use offshoot_graph::{Graph, GraphError, Interpolation, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller, consecutive, other_padding};
use crate::squeeze::{FEATURES, Padding, SqueezeExcitation, conv_norm_act, divisible_by_8};

/// What distinguishes the large from the small one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    blocks: &'static [Bottleneck],
    /// Features between the two linear layers of the classifier.
    hidden: usize,
    padding: Padding,
}

/// A row of the paper's tables 1 and 2: kernel, expanded channels, output channels, squeeze and excitation, hard swish
/// rather than ReLU, stride.
type Bottleneck = (usize, usize, usize, bool, bool, usize);

const LARGE: [Bottleneck; 15] = [
    (3, 16, 16, false, false, 1),
    (3, 64, 24, false, false, 2),
    (3, 72, 24, false, false, 1),
    (5, 72, 40, true, false, 2),
    (5, 120, 40, true, false, 1),
    (5, 120, 40, true, false, 1),
    (3, 240, 80, false, true, 2),
    (3, 200, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 480, 112, true, true, 1),
    (3, 672, 112, true, true, 1),
    (5, 672, 160, true, true, 2),
    (5, 960, 160, true, true, 1),
    (5, 960, 160, true, true, 1),
];

const SMALL: [Bottleneck; 11] = [
    (3, 16, 16, true, false, 2),
    (3, 72, 24, false, false, 2),
    (3, 88, 24, false, false, 1),
    (5, 96, 40, true, true, 2),
    (5, 240, 40, true, true, 1),
    (5, 240, 40, true, true, 1),
    (5, 120, 48, true, true, 1),
    (5, 144, 48, true, true, 1),
    (5, 288, 96, true, true, 2),
    (5, 576, 96, true, true, 1),
    (5, 576, 96, true, true, 1),
];

const STEM: usize = 16;
const NORM: BatchNormalization = BatchNormalization { epsilon: 1e-3, momentum: 0.01 };

/// PyTorch's hard sigmoid.
const GATE: Op = Op::Unary(Unary::HardSigmoid(HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }));

const SMALL_ONE: Variant = Variant { blocks: &SMALL, hidden: 1024, padding: Padding::Symmetric };
const LARGE_ONE: Variant = Variant { blocks: &LARGE, hidden: 1280, padding: Padding::Symmetric };

/// Those with `tf_` are timm's: they pad as TensorFlow's SAME does.
pub(crate) const ARCHITECTURES: [Architecture; 4] = [
    architecture("mobilenet_v3_small", "mobilenetv3_small_100", &SMALL_ONE),
    architecture("mobilenet_v3_large", "mobilenetv3_large_100", &LARGE_ONE),
    tensorflow("tf_mobilenetv3_small_100", &Variant { padding: Padding::Same, ..SMALL_ONE }),
    tensorflow("tf_mobilenetv3_large_100", &Variant { padding: Padding::Same, ..LARGE_ONE }),
];

const fn tensorflow(name: &'static str, variant: &'static Variant) -> Architecture {
    Architecture { resize: Resize::Half(256, Interpolation::Bilinear), ..architecture(name, name, variant) }
}

const fn architecture(name: &'static str, timm: &'static str, variant: &'static Variant) -> Architecture {
    let tail = match variant.blocks.len() {
        11 => &["features.12", "classifier.0"],
        _ => &["features.16", "classifier.0"],
    };
    Architecture {
        name,
        timm: Some(timm),
        size: 224,
        features: variant.hidden,
        stem: &["features.0"],
        blocks: FEATURES.split_at(variant.blocks.len()).0,
        tail,
        head: "classifier.3",
        original_dropout: 0.2,
        resize: Resize::Torchvision,
        sizes: Sizes::Any,
        fan_out: FanOut::Whole,
        family: variant,
    }
}

impl Family for Variant {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        features(graph, input, self)
    }

    /// Convolutions follow the pooling.
    fn features(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        self.backbone(graph, input, size)
    }

    fn spellings(&self, architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        let large = self.blocks.len() == LARGE.len();
        let repeats: &[usize] = if large { &[1, 2, 3, 4, 2, 3] } else { &[1, 2, 3, 2, 3] };
        let place = |n: usize, _: &str| consecutive(repeats, n);
        let last = repeats.len();
        let tail =
            [&format!("blocks.{last}.0.conv"), &format!("blocks.{last}.0.bn1"), "conv_head", "classifier"];
        let timm = speller.inverted_residuals(&place, &tail);
        let epsilon = match self.padding {
            Padding::Symmetric | Padding::Uneven => Some((1e-5, NORM.epsilon)),
            Padding::Same => None,
        };
        let note = Some(other_padding(architecture.timm.unwrap_or(architecture.name)));
        vec![speller.own(), Names { epsilon, note, ..timm }]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, hidden].
pub(crate) fn features(graph: &mut Graph, input: ValueId, variant: &Variant) -> Result<ValueId, GraphError> {
    let stem = variant.padding.of(graph, input, Conv2d::new(STEM, 3).stride(2));
    let mut x = conv_norm_act(graph, "features.0", input, &stem, NORM, Some(Op::Unary(Unary::HardSwish)))?;
    let mut channels = STEM;
    for (i, block) in variant.blocks.iter().enumerate() {
        x = bottleneck(graph, &format!("features.{}", i + 1), x, channels, variant.padding, *block)?;
        channels = block.2;
    }
    let last = Conv2d::new(6 * channels, 1);
    let path = format!("features.{}", variant.blocks.len() + 1);
    x = conv_norm_act(graph, &path, x, &last, NORM, Some(Op::Unary(Unary::HardSwish)))?;
    x = graph.add("avgpool", Op::Pool(Pooling::GlobalAverage), &[x])?;
    x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])?;
    x = graph.linear("classifier.0", x, variant.hidden)?;
    graph.add("classifier.1", Op::Unary(Unary::HardSwish), &[x])
}

fn bottleneck(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    channels: usize,
    padding: Padding,
    (kernel, hidden, out, squeezes, swish, stride): Bottleneck,
) -> Result<ValueId, GraphError> {
    let activation = || Some(if swish { Op::Unary(Unary::HardSwish) } else { Op::Unary(Unary::Relu) });
    let (mut x, mut index) = (input, 0);
    if hidden != channels {
        x = conv_norm_act(graph, &format!("{path}.block.0"), x, &Conv2d::new(hidden, 1), NORM, activation())?;
        index += 1;
    }
    let depthwise = padding.of(graph, x, Conv2d::new(hidden, kernel).stride(stride).group(hidden));
    x = conv_norm_act(graph, &format!("{path}.block.{index}"), x, &depthwise, NORM, activation())?;
    index += 1;
    if squeezes {
        let squeezed = divisible_by_8(hidden as f64 / 4.0);
        let gate = SqueezeExcitation { squeezed, activation: Op::Unary(Unary::Relu), gate: GATE };
        x = gate.append(graph, &format!("{path}.block.{index}"), x, hidden)?;
        index += 1;
    }
    x = conv_norm_act(graph, &format!("{path}.block.{index}"), x, &Conv2d::new(out, 1), NORM, None)?;
    if stride == 1 && channels == out {
        x = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[x, input])?;
    }
    Ok(x)
}
