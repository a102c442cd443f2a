//! GoogLeNet (Szegedy et al., "Going deeper with convolutions", 2014) as torchvision builds it: with batch norms, with 3x3
//! convolutions where the paper has 5x5, and here without the auxiliary classifiers, which only training has.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Op, Pool, Pooling, ShapeOp};
use offshoot_graph::{Graph, GraphError, Interpolation, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::inception::{basic_conv, max_pool};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};

/// Channels of 1x1, of the two of 3x3, of the two of "5x5", and behind the pooling.
type Module = (&'static str, usize, [usize; 2], [usize; 2], usize);

const STAGES: [&[Module]; 3] = [
    &[("inception3a", 64, [96, 128], [16, 32], 32), ("inception3b", 128, [128, 192], [32, 96], 64)],
    &[
        ("inception4a", 192, [96, 208], [16, 48], 64),
        ("inception4b", 160, [112, 224], [24, 64], 64),
        ("inception4c", 128, [128, 256], [24, 64], 64),
        ("inception4d", 112, [144, 288], [32, 64], 64),
        ("inception4e", 256, [160, 320], [32, 128], 128),
    ],
    &[("inception5a", 256, [160, 320], [32, 128], 128), ("inception5b", 384, [192, 384], [48, 128], 128)],
];

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "googlenet",
    timm: None,
    size: 224,
    features: 1024,
    stem: &["conv1", "conv2", "conv3"],
    blocks: &[
        "inception3a",
        "inception3b",
        "inception4a",
        "inception4b",
        "inception4c",
        "inception4d",
        "inception4e",
        "inception5a",
        "inception5b",
    ],
    tail: &[],
    head: "fc",
    original_dropout: 0.2,
    // torchvision changes the pictures of its published weights in the network: mean and deviation become one half.
    resize: Resize::Half(256, Interpolation::Bilinear),
    sizes: Sizes::AtLeast(15),
    fan_out: FanOut::Whole,
    family: &GoogLeNet,
};

#[derive(Debug)]
struct GoogLeNet;

impl Family for GoogLeNet {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }

    fn only_in_training(&self) -> &'static [&'static str] {
        &["aux1.", "aux2."]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 1024, H', W'].
fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let mut x = basic_conv(graph, "conv1", input, Conv2d::new(64, 7).stride(2))?;
    x = max_pool(graph, "maxpool1", x, [3, 2], true)?;
    x = basic_conv(graph, "conv2", x, Conv2d::new(64, 1))?;
    x = basic_conv(graph, "conv3", x, Conv2d::new(192, 3))?;
    x = max_pool(graph, "maxpool2", x, [3, 2], true)?;
    for (stage, modules) in STAGES.into_iter().enumerate() {
        match stage {
            1 => x = max_pool(graph, "maxpool3", x, [3, 2], true)?,
            2 => x = max_pool(graph, "maxpool4", x, [2, 2], true)?,
            _ => {}
        }
        for module in modules {
            x = inception(graph, x, module)?;
        }
    }
    Ok(x)
}

fn inception(
    graph: &mut Graph,
    x: ValueId,
    &(path, one, [narrow, wide], [narrower, last], pooled): &Module,
) -> Result<ValueId, GraphError> {
    let first = basic_conv(graph, &format!("{path}.branch1"), x, Conv2d::new(one, 1))?;
    let second = basic_conv(graph, &format!("{path}.branch2.0"), x, Conv2d::new(narrow, 1))?;
    let second = basic_conv(graph, &format!("{path}.branch2.1"), second, Conv2d::new(wide, 3))?;
    let third = basic_conv(graph, &format!("{path}.branch3.0"), x, Conv2d::new(narrower, 1))?;
    let third = basic_conv(graph, &format!("{path}.branch3.1"), third, Conv2d::new(last, 3))?;
    let pool = Pool { kernel: [3, 3], strides: [1, 1], pads: [1; 4], ceil_mode: true };
    let fourth = graph.add(&format!("{path}.branch4.0"), Op::Pool(Pooling::Max(pool)), &[x])?;
    let fourth = basic_conv(graph, &format!("{path}.branch4.1"), fourth, Conv2d::new(pooled, 1))?;
    let branches = [first, second, third, fourth];
    graph.add(&format!("{path}.cat"), Op::Shape(ShapeOp::Concat { axis: 1 }), &branches)
}
