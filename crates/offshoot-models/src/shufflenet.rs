//! ShuffleNetV2 (Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design", 2018), width 1.0, as
//! torchvision builds it.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{Op, Pool, Pooling, ShapeOp};
use offshoot_graph::{Dim, Graph, GraphError, Shape, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};
use crate::squeeze::conv_norm_relu;

const STEM: usize = 24;
/// Blocks and channels of each stage.
const STAGES: [(usize, usize); 3] = [(4, 116), (8, 232), (4, 464)];
const WIDTH: usize = 1024;

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "shufflenet_v2_x1_0",
    timm: None,
    size: 224,
    features: WIDTH,
    stem: &["conv1"],
    blocks: &["stage2", "stage3", "stage4"],
    tail: &["conv5"],
    head: "fc",
    original_dropout: 0.0,
    resize: Resize::Torchvision,
    sizes: Sizes::Any,
    fan_out: FanOut::Whole,
    family: &ShuffleNet,
};

#[derive(Debug)]
struct ShuffleNet;

impl Family for ShuffleNet {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 1024, H', W'].
fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let mut x =
        conv_norm_relu(graph, ("conv1", 0), input, &Conv2d::new(STEM, 3).stride(2), BATCH_NORM, true)?;
    let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [1; 4], ceil_mode: false };
    x = graph.add("maxpool", Op::Pool(Pooling::Max(pool)), &[x])?;
    let mut channels = STEM;
    for (stage, (blocks, out)) in (2..).zip(STAGES) {
        for block in 0..blocks {
            let path = format!("stage{stage}.{block}");
            x = match block {
                0 => shrinking_block(graph, &path, x, [channels, out])?,
                _ => block_of_halves(graph, &path, x, out)?,
            };
            x = shuffle(graph, &path, x)?;
        }
        channels = out;
    }
    conv_norm_relu(graph, ("conv5", 0), x, &Conv2d::new(WIDTH, 1), BATCH_NORM, true)
}

/// Two branches with stride 2, side by side.
fn shrinking_block(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    [channels, out]: [usize; 2],
) -> Result<ValueId, GraphError> {
    let left = format!("{path}.branch1");
    let depthwise = Conv2d::new(channels, 3).stride(2).group(channels);
    let y = conv_norm_relu(graph, (&left, 0), x, &depthwise, BATCH_NORM, false)?;
    let y = conv_norm_relu(graph, (&left, 2), y, &Conv2d::new(out / 2, 1), BATCH_NORM, true)?;
    let z = branch(graph, path, x, out / 2, 2)?;
    graph.add(&format!("{path}.cat"), Op::Shape(ShapeOp::Concat { axis: 1 }), &[y, z])
}

/// One half of the channels as it is, and a branch of the other.
fn block_of_halves(graph: &mut Graph, path: &str, x: ValueId, out: usize) -> Result<ValueId, GraphError> {
    let half = |start| Op::Shape(ShapeOp::Slice { axis: 1, start, end: start + out / 2 });
    let kept = graph.add(&format!("{path}.first"), half(0), &[x])?;
    let y = graph.add(&format!("{path}.second"), half(out / 2), &[x])?;
    let y = branch(graph, path, y, out / 2, 1)?;
    graph.add(&format!("{path}.cat"), Op::Shape(ShapeOp::Concat { axis: 1 }), &[kept, y])
}

/// 1x1, depthwise 3x3, 1x1.
fn branch(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    width: usize,
    stride: usize,
) -> Result<ValueId, GraphError> {
    let path = format!("{path}.branch2");
    let depthwise = Conv2d::new(width, 3).stride(stride).group(width);
    let x = conv_norm_relu(graph, (&path, 0), x, &Conv2d::new(width, 1), BATCH_NORM, true)?;
    let x = conv_norm_relu(graph, (&path, 3), x, &depthwise, BATCH_NORM, false)?;
    conv_norm_relu(graph, (&path, 5), x, &Conv2d::new(width, 1), BATCH_NORM, true)
}

/// The channels of the two halves by turns.
fn shuffle(graph: &mut Graph, path: &str, x: ValueId) -> Result<ValueId, GraphError> {
    let shape = graph.value(x).shape.clone();
    let [batch, channels, height, width] = shape.0.as_slice() else { return Ok(x) };
    let half = channels.fixed().unwrap_or_default() / 2;
    let halves = Shape(vec![batch.clone(), Dim::Fixed(2), Dim::Fixed(half), height.clone(), width.clone()]);
    let x = graph.add(&format!("{path}.halves"), Op::Shape(ShapeOp::Reshape { shape: halves }), &[x])?;
    let turned = Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1, 3, 4] });
    let x = graph.add(&format!("{path}.shuffle"), turned, &[x])?;
    graph.add(&format!("{path}.shuffled"), Op::Shape(ShapeOp::Reshape { shape }), &[x])
}
