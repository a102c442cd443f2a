//! ResNet (He et al., "Deep residual learning for image recognition", 2015) as torchvision builds it: in a
//! bottleneck the 3x3 convolution has the stride ("ResNet v1.5").

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{Binary, Op, Pool, Pooling, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};

/// What distinguishes one ResNet from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    block: Block,
    /// Residual blocks in each of the four stages.
    repeats: [usize; 4],
}

#[derive(Clone, Copy, Debug)]
enum Block {
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
}

pub(crate) const ARCHITECTURES: [Architecture; 5] = [
    architecture("resnet18", &Variant { block: Block::Basic, repeats: [2, 2, 2, 2] }),
    architecture("resnet34", &Variant { block: Block::Basic, repeats: [3, 4, 6, 3] }),
    architecture("resnet50", &Variant { block: Block::Bottleneck, repeats: [3, 4, 6, 3] }),
    architecture("resnet101", &Variant { block: Block::Bottleneck, repeats: [3, 4, 23, 3] }),
    architecture("resnet152", &Variant { block: Block::Bottleneck, repeats: [3, 8, 36, 3] }),
];

const fn architecture(name: &'static str, variant: &'static Variant) -> Architecture {
    Architecture {
        name,
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

impl Family for Variant {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, self)
    }

    fn spellings(&self, _name: &str, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, features, H', W'].
pub(crate) fn backbone(graph: &mut Graph, input: ValueId, variant: &Variant) -> Result<ValueId, GraphError> {
    let x = graph.conv2d("conv1", input, &Conv2d::new(64, 7).stride(2))?;
    let x = graph.batch_norm("bn1", x, BATCH_NORM)?;
    let x = graph.add("relu", Op::Unary(Unary::Relu), &[x])?;
    let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [1; 4], ceil_mode: false };
    let mut x = graph.add("maxpool", Op::Pool(Pooling::Max(pool)), &[x])?;
    let mut channels = 64;
    for (stage, &repeats) in variant.repeats.iter().enumerate() {
        let width = 64 << stage;
        for index in 0..repeats {
            let path = format!("layer{}.{index}", stage + 1);
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let shape = ResidualBlock { block: variant.block, channels, width, stride };
            x = residual_block(graph, &path, x, &shape)?;
            channels = width * variant.block.expansion();
        }
    }
    Ok(x)
}

struct ResidualBlock {
    block: Block,
    /// Channels that come in.
    channels: usize,
    /// Channels of the 3x3 convolutions.
    width: usize,
    stride: usize,
}

fn residual_block(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    &ResidualBlock { block, channels, width, stride }: &ResidualBlock,
) -> Result<ValueId, GraphError> {
    let out = width * block.expansion();
    let convs = match block {
        Block::Basic => vec![Conv2d::new(width, 3).stride(stride), Conv2d::new(width, 3)],
        Block::Bottleneck => {
            vec![Conv2d::new(width, 1), Conv2d::new(width, 3).stride(stride), Conv2d::new(out, 1)]
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
