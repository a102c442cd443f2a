//! SqueezeNet 1.1 (Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016) as torchvision
//! builds it. Its classifier is a 1x1 convolution in front of the pooling.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Op, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};
use crate::squeeze::biased;

/// Index of each fire module, its squeezed channels, and those of either expanding convolution.
const FIRES: [(usize, usize, usize); 8] = [
    (3, 16, 64),
    (4, 16, 64),
    (6, 32, 128),
    (7, 32, 128),
    (9, 48, 192),
    (10, 48, 192),
    (11, 64, 256),
    (12, 64, 256),
];
/// Index of the poolings.
const POOLS: [usize; 3] = [2, 5, 8];

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "squeezenet1_1",
    timm: None,
    size: 224,
    features: 512,
    stem: &["features.0"],
    blocks: &[
        "features.3",
        "features.4",
        "features.6",
        "features.7",
        "features.9",
        "features.10",
        "features.11",
        "features.12",
    ],
    tail: &[],
    head: "classifier.1",
    original_dropout: 0.5,
    resize: Resize::Torchvision,
    sizes: Sizes::AtLeast(32),
    fan_out: FanOut::Whole,
    family: &SqueezeNet,
};

#[derive(Debug)]
struct SqueezeNet;

impl Family for SqueezeNet {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }

    fn has_convolutional_head(&self) -> bool {
        true
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 512, H', W'].
pub(crate) fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let stem = Conv2d::new(64, 3).stride(2).pads([0; 4]);
    let mut x = biased(graph, "features.0", input, stem)?;
    x = graph.add("features.1", Op::Unary(Unary::Relu), &[x])?;
    for (index, squeezed, expanded) in FIRES {
        if POOLS.contains(&(index - 1)) {
            let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [0; 4], ceil_mode: true };
            x = graph.add(&format!("features.{}", index - 1), Op::Pool(Pooling::Max(pool)), &[x])?;
        }
        x = fire(graph, &format!("features.{index}"), x, squeezed, expanded)?;
    }
    Ok(x)
}

fn fire(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    squeezed: usize,
    expanded: usize,
) -> Result<ValueId, GraphError> {
    let mut layer = |name: &str, x, conv| {
        let x = biased(graph, &format!("{path}.{name}"), x, conv)?;
        graph.add(&format!("{path}.{name}_activation"), Op::Unary(Unary::Relu), &[x])
    };
    let x = layer("squeeze", x, Conv2d::new(squeezed, 1))?;
    let parts =
        [layer("expand1x1", x, Conv2d::new(expanded, 1))?, layer("expand3x3", x, Conv2d::new(expanded, 3))?];
    graph.add(&format!("{path}.cat"), Op::Shape(ShapeOp::Concat { axis: 1 }), &parts)
}
