//! DenseNet-121 (Huang et al., "Densely connected convolutional networks", 2016) as torchvision builds it.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{AveragePool, Op, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller};

/// Layers of each dense block.
const LAYERS: [usize; 4] = [6, 12, 24, 16];
const STEM: usize = 64;
/// Channels that a layer adds, and those between its two convolutions.
const GROWTH: usize = 32;
const BOTTLENECK: usize = 4 * GROWTH;

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "densenet121",
    timm: Some("densenet121"),
    size: 224,
    features: 1024,
    stem: &["features.conv0", "features.norm0"],
    blocks: &[
        "features.denseblock1",
        "features.transition1",
        "features.denseblock2",
        "features.transition2",
        "features.denseblock3",
        "features.transition3",
        "features.denseblock4",
    ],
    tail: &["features.norm5"],
    head: "classifier",
    original_dropout: 0.0,
    resize: Resize::Torchvision,
    sizes: Sizes::AtLeast(32),
    fan_out: FanOut::Whole,
    family: &DenseNet,
};

#[derive(Debug)]
struct DenseNet;

impl Family for DenseNet {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own(), speller.all(Library::Older, &older)]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 1024, H', W'].
pub(crate) fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let mut x = graph.conv2d("features.conv0", input, &Conv2d::new(STEM, 7).stride(2))?;
    x = norm_relu(graph, "features.norm0", "features.relu0", x)?;
    let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [1; 4], ceil_mode: false };
    x = graph.add("features.pool0", Op::Pool(Pooling::Max(pool)), &[x])?;
    let mut channels = STEM;
    for (index, layers) in (1..).zip(LAYERS) {
        for layer in 1..=layers {
            x = dense_layer(graph, &format!("features.denseblock{index}.denselayer{layer}"), x)?;
        }
        channels += layers * GROWTH;
        if index < LAYERS.len() {
            channels /= 2;
            x = transition(graph, &format!("features.transition{index}"), x, channels)?;
        }
    }
    norm_relu(graph, "features.norm5", "relu", x)
}

/// x with [`GROWTH`] channels more.
fn dense_layer(graph: &mut Graph, path: &str, input: ValueId) -> Result<ValueId, GraphError> {
    let x = norm_relu(graph, &format!("{path}.norm1"), &format!("{path}.relu1"), input)?;
    let x = graph.conv2d(&format!("{path}.conv1"), x, &Conv2d::new(BOTTLENECK, 1))?;
    let x = norm_relu(graph, &format!("{path}.norm2"), &format!("{path}.relu2"), x)?;
    let x = graph.conv2d(&format!("{path}.conv2"), x, &Conv2d::new(GROWTH, 3))?;
    graph.add(&format!("{path}.cat"), Op::Shape(ShapeOp::Concat { axis: 1 }), &[input, x])
}

/// Half of the channels, and of height and width.
fn transition(graph: &mut Graph, path: &str, x: ValueId, channels: usize) -> Result<ValueId, GraphError> {
    let x = norm_relu(graph, &format!("{path}.norm"), &format!("{path}.relu"), x)?;
    let x = graph.conv2d(&format!("{path}.conv"), x, &Conv2d::new(channels, 1))?;
    let pool = Pool { kernel: [2, 2], strides: [2, 2], pads: [0; 4], ceil_mode: false };
    let op = Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad: false }));
    graph.add(&format!("{path}.pool"), op, &[x])
}

fn norm_relu(graph: &mut Graph, norm: &str, relu: &str, x: ValueId) -> Result<ValueId, GraphError> {
    let x = graph.batch_norm(norm, x, BATCH_NORM)?;
    graph.add(relu, Op::Unary(Unary::Relu), &[x])
}

/// The published DenseNets call a layer `norm.1` what is `norm1` now.
fn older(name: &str) -> String {
    let layers = [("norm1.", "norm.1."), ("conv1.", "conv.1."), ("norm2.", "norm.2."), ("conv2.", "conv.2.")];
    match layers.into_iter().find(|(layer, _)| name.contains(".denselayer") && name.contains(layer)) {
        Some((now, old)) => name.replace(now, old),
        None => name.to_owned(),
    }
}
