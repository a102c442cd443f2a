//! ResNet (He et al., "Deep residual learning for image recognition", 2015) as torchvision builds it: in a
//! bottleneck the 3x3 convolution has the stride ("ResNet v1.5"). ResNeXt (Xie et al., 2016) has 3x3 convolutions in groups, a
//! wide ResNet (Zagoruyko and Komodakis, 2016) has wider ones.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{Binary, Op, Pool, Pooling, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};

/// What distinguishes one ResNet from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant<'a> {
    pub(crate) block: Block,
    /// Channels of the first convolution.
    pub(crate) stem: usize,
    /// Residual blocks in each stage.
    pub(crate) repeats: &'a [usize],
    /// Output channels of each stage.
    pub(crate) channels: &'a [usize],
    /// Groups of the 3x3 convolutions.
    pub(crate) groups: usize,
    /// Channels of a group of the 3x3 convolutions in a stage of 64 or, with bottlenecks, 256 channels.
    pub(crate) group_width: usize,
    /// The stride of the first stage.
    pub(crate) first_stride: usize,
    /// Whether the first convolution of a bottleneck has the stride, and not the second.
    pub(crate) early_stride: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1, the last four times as wide.
    Bottleneck,
}

impl Block {
    const fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }

    /// Output channels of the stages.
    const fn channels(self) -> &'static [usize] {
        match self {
            Block::Basic => &[64, 128, 256, 512],
            Block::Bottleneck => &[256, 512, 1024, 2048],
        }
    }
}

const RESNET50: Variant<'static> = Variant::new(Block::Bottleneck, &[3, 4, 6, 3]);

pub(crate) const ARCHITECTURES: [Architecture; 7] = [
    architecture("resnet18", &Variant::new(Block::Basic, &[2, 2, 2, 2])),
    architecture("resnet34", &Variant::new(Block::Basic, &[3, 4, 6, 3])),
    architecture("resnet50", &RESNET50),
    architecture("resnet101", &Variant::new(Block::Bottleneck, &[3, 4, 23, 3])),
    architecture("resnet152", &Variant::new(Block::Bottleneck, &[3, 8, 36, 3])),
    architecture("resnext50_32x4d", &Variant { groups: 32, group_width: 4, ..RESNET50 }),
    architecture("wide_resnet50_2", &Variant { group_width: 128, ..RESNET50 }),
];

impl<'a> Variant<'a> {
    pub(crate) const fn new(block: Block, repeats: &'a [usize]) -> Variant<'a> {
        Variant {
            block,
            stem: 64,
            repeats,
            channels: block.channels(),
            groups: 1,
            group_width: 64,
            first_stride: 1,
            early_stride: false,
        }
    }
}

const fn architecture(name: &'static str, variant: &'static Variant<'static>) -> Architecture {
    Architecture {
        name,
        timm: Some(name),
        size: 224,
        features: 512 * variant.block.expansion(),
        stem: &["conv1", "bn1"],
        blocks: &["layer1", "layer2", "layer3", "layer4"],
        tail: &[],
        head: "fc",
        original_dropout: 0.0,
        resize: Resize::Torchvision,
        sizes: Sizes::Any,
        fan_out: FanOut::Whole,
        family: variant,
    }
}

impl Family for Variant<'_> {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, self)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, features, H', W'].
pub(crate) fn backbone(
    graph: &mut Graph,
    input: ValueId,
    variant: &Variant<'_>,
) -> Result<ValueId, GraphError> {
    let x = graph.conv2d("conv1", input, &Conv2d::new(variant.stem, 7).stride(2))?;
    let x = graph.batch_norm("bn1", x, BATCH_NORM)?;
    let x = graph.add("relu", Op::Unary(Unary::Relu), &[x])?;
    let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [1; 4], ceil_mode: false };
    let mut x = graph.add("maxpool", Op::Pool(Pooling::Max(pool)), &[x])?;
    let mut channels = variant.stem;
    for (stage, (&repeats, &out)) in variant.repeats.iter().zip(variant.channels).enumerate() {
        for index in 0..repeats {
            let path = format!("layer{}.{index}", stage + 1);
            let stride = match index {
                0 if stage == 0 => variant.first_stride,
                0 => 2,
                _ => 1,
            };
            x = residual_block(graph, &path, x, &ResidualBlock { variant, channels, out, stride })?;
            channels = out;
        }
    }
    Ok(x)
}

struct ResidualBlock<'a> {
    variant: &'a Variant<'a>,
    /// Channels that come in.
    channels: usize,
    out: usize,
    stride: usize,
}

fn residual_block(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    &ResidualBlock { variant, channels, out, stride }: &ResidualBlock<'_>,
) -> Result<ValueId, GraphError> {
    let &Variant { block, groups, group_width, early_stride, .. } = variant;
    let width = out / block.expansion() * group_width / 64 * groups;
    let convs = match block {
        Block::Basic => vec![Conv2d::new(width, 3).stride(stride), Conv2d::new(width, 3)],
        Block::Bottleneck => {
            let (first, second) = if early_stride { (stride, 1) } else { (1, stride) };
            let wide = Conv2d::new(width, 3).stride(second).group(groups);
            vec![Conv2d::new(width, 1).stride(first), wide, Conv2d::new(out, 1)]
        }
    };
    let relu = format!("{path}.relu");
    let mut x = input;
    for (i, conv) in convs.iter().enumerate() {
        if i > 0 {
            x = graph.add(&relu, Op::Unary(Unary::Relu), &[x])?;
        }
        x = graph.conv2d(&format!("{path}.conv{}", i + 1), x, conv)?;
        x = graph.batch_norm(&format!("{path}.bn{}", i + 1), x, BATCH_NORM)?;
    }
    let mut shortcut = input;
    if stride != 1 || channels != out {
        shortcut =
            graph.conv2d(&format!("{path}.downsample.0"), input, &Conv2d::new(out, 1).stride(stride))?;
        shortcut = graph.batch_norm(&format!("{path}.downsample.1"), shortcut, BATCH_NORM)?;
    }
    let sum = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[x, shortcut])?;
    graph.add(&relu, Op::Unary(Unary::Relu), &[sum])
}
