//! MaxViT (Tu et al., "MaxViT: multi-axis vision transformer", 2022) as torchvision builds it: inverted residual blocks, attention within
//! windows, and attention among the pixels that have the same place in each part of a grid. There is no stochastic depth.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{AveragePool, BatchNormalization, Binary, Op, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::{Dim, Graph, GraphError, Role, Tensor, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};
use crate::squeeze::{SqueezeExcitation, biased, conv_norm_act, layer_norm};
use crate::windows::{Windows, joined, parted, transposed, with_batch};

/// Channels and layers of each block.
const BLOCKS: [(usize, usize); 4] = [(64, 2), (128, 2), (256, 5), (512, 2)];
const STEM: usize = 64;
const WIDTH: usize = 512;
/// Height and width of a window, and parts of the grid along a side.
const SIDE: usize = 7;
/// Features of a head.
const DEPTH: usize = 32;
/// Of the norms of features.
const EPSILON: f32 = 1e-5;
const NORM: BatchNormalization = BatchNormalization { epsilon: 1e-3, momentum: 0.99 };

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "maxvit_t",
    timm: None,
    size: 224,
    features: WIDTH,
    stem: &["stem"],
    blocks: &["blocks.0", "blocks.1", "blocks.2", "blocks.3"],
    tail: &["classifier.2", "classifier.3"],
    head: "classifier.5",
    original_dropout: 0.0,
    resize: Resize::Bicubic(224),
    sizes: Sizes::Tiled(32 * SIDE),
    fan_out: FanOut::Whole,
    family: &MaxVit,
};

#[derive(Debug)]
struct MaxVit;

impl Family for MaxVit {
    fn backbone(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, size)
    }

    /// A norm and a layer with Tanh follow the pooling.
    fn features(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        let x = self.backbone(graph, input, size)?;
        let x = graph.add("classifier.0", Op::Pool(Pooling::GlobalAverage), &[x])?;
        let x = graph.add("classifier.1", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])?;
        let x = layer_norm(graph, "classifier.2", x, WIDTH, EPSILON)?;
        let x = graph.linear("classifier.3", x, WIDTH)?;
        graph.add("classifier.4", Op::Unary(Unary::Tanh), &[x])
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }

    fn has_head_bias(&self) -> bool {
        false
    }
}

/// Everything before the pooling: [N, 3, size, size] -> [N, 512, size / 32, size / 32].
fn backbone(graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
    let batch = graph.value(input).shape.0.first().cloned().unwrap_or(Dim::Fixed(1));
    let gelu = Some(Op::Unary(Unary::Gelu));
    let mut x = conv_norm_act(graph, "stem.0", input, &Conv2d::new(STEM, 3).stride(2), NORM, gelu)?;
    x = biased(graph, "stem.1.0", x, Conv2d::new(STEM, 3))?;
    let (mut before, mut side) = (STEM, size / 2);
    for (block, (channels, layers)) in BLOCKS.into_iter().enumerate() {
        side /= 2;
        for layer in 0..layers {
            let path = format!("blocks.{block}.layers.{layer}.layers");
            let stride = if layer == 0 { 2 } else { 1 };
            x = inverted_residual(graph, &format!("{path}.MBconv"), x, [before, channels], stride)?;
            before = channels;
            x = transposed(graph, &format!("{path}.last"), x, [0, 2, 3, 1])?;
            let picture = [side, side, channels];
            x = windows(graph, &format!("{path}.window_attention"), x, &batch, picture)?;
            x = grid(graph, &format!("{path}.grid_attention"), x, &batch, picture)?;
            x = transposed(graph, &format!("{path}.first"), x, [0, 3, 1, 2])?;
        }
    }
    Ok(x)
}

/// torchvision's `MBConv`: a norm, a convolution that widens, a depthwise one, a gate, one that narrows, added to what comes in.
fn inverted_residual(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    [before, channels]: [usize; 2],
    stride: usize,
) -> Result<ValueId, GraphError> {
    let shortcut = match stride {
        1 if before == channels => input,
        _ => {
            let pool = Pool { kernel: [3; 2], strides: [stride; 2], pads: [1; 4], ceil_mode: false };
            let pool = Pooling::Average(AveragePool { pool, count_include_pad: true });
            let x = graph.add(&format!("{path}.proj.0"), Op::Pool(pool), &[input])?;
            biased(graph, &format!("{path}.proj.1"), x, Conv2d::new(channels, 1))?
        }
    };
    let path = format!("{path}.layers");
    let gelu = || Some(Op::Unary(Unary::Gelu));
    let wide = 4 * channels;
    let x = graph.batch_norm(&format!("{path}.pre_norm"), input, NORM)?;
    let x = conv_norm_act(graph, &format!("{path}.conv_a"), x, &Conv2d::new(wide, 1), NORM, gelu())?;
    let depthwise = Conv2d::new(wide, 3).stride(stride).group(wide);
    let x = conv_norm_act(graph, &format!("{path}.conv_b"), x, &depthwise, NORM, gelu())?;
    let sigmoid = Op::Unary(Unary::Sigmoid);
    // As an activation, Sigmoid stands for SiLU.
    let gate = SqueezeExcitation { squeezed: channels / 4, activation: sigmoid.clone(), gate: sigmoid };
    let x = gate.append(graph, &format!("{path}.squeeze_excitation"), x, wide)?;
    let x = biased(graph, &format!("{path}.conv_c"), x, Conv2d::new(channels, 1))?;
    graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[shortcut, x])
}

/// Attention within windows of neighbors: [N, H, W, C] -> the same.
fn windows(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    batch: &Dim,
    picture: [usize; 3],
) -> Result<ValueId, GraphError> {
    let x = parted(graph, path, x, batch, picture, SIDE)?;
    let x = attention(graph, path, x, batch, picture)?;
    joined(graph, path, x, batch, picture, SIDE)
}

/// Attention among the pixels that have the same place in each of the 7 by 7 parts of a grid: [N, H, W, C] -> the same.
fn grid(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    batch: &Dim,
    picture @ [height, width, channels]: [usize; 3],
) -> Result<ValueId, GraphError> {
    let (part, pixels) = (height / SIDE, SIDE * SIDE);
    let inside = part * (width / SIDE);
    let reshaped = |graph: &mut Graph, name: &str, x, sizes: &[usize]| {
        let shape = with_batch(batch, sizes);
        graph.add(&format!("{path}.{name}"), Op::Shape(ShapeOp::Reshape { shape }), &[x])
    };
    let x = parted(graph, path, x, batch, picture, part)?;
    let x = reshaped(graph, "grid", x, &[pixels, inside, channels])?;
    let x = transposed(graph, &format!("{path}.partition_swap"), x, [0, 2, 1, 3])?;
    let x = graph.add(&format!("{path}.inside"), Op::Shape(ShapeOp::Flatten { axis: 3 }), &[x])?;
    let x = attention(graph, path, x, batch, picture)?;
    let x = reshaped(graph, "places", x, &[inside, pixels, channels])?;
    let x = transposed(graph, &format!("{path}.departition_swap"), x, [0, 2, 1, 3])?;
    joined(graph, path, x, batch, picture, part)
}

/// torchvision's `PartitionAttentionLayer` on rows of pixels, 49 of a window one after another: attention and two linear layers, each
/// added to what comes in.
fn attention(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    batch: &Dim,
    [height, width, channels]: [usize; 3],
) -> Result<ValueId, GraphError> {
    let count = height * width / (SIDE * SIDE);
    let windows =
        Windows { batch: batch.clone(), count, side: SIDE, heads: channels / DEPTH, width: channels };
    let x = layer_norm(graph, &format!("{path}.attn_layer.0"), input, channels, EPSILON)?;
    let attn = format!("{path}.attn_layer.1");
    let rows = (2 * SIDE - 1) * (2 * SIDE - 1);
    let table = format!("{attn}.relative_position_bias_table");
    let table = graph.add_parameter(&table, &[rows, windows.heads], Role::Weight);
    let bias = windows.bias(graph, &attn, table, [windows.pixels(); 2])?;
    let x = graph.linear(&format!("{attn}.to_qkv"), x, 3 * channels)?;
    // By the features of a pixel, not those of a head.
    let factor = Tensor::f32([], vec![1.0 / (channels as f32).sqrt()]);
    let factor = graph.add_constant(&format!("{attn}.factor"), factor);
    let qkv = windows.split(graph, &attn, x, |graph, path, part, x| match part {
        0 => graph.add(&format!("{path}.scaled"), Op::Binary(Binary::Mul), &[x, factor]),
        _ => Ok(x),
    })?;
    let x = windows.attend(graph, &attn, qkv, None, bias)?;
    let x = graph.linear(&format!("{attn}.merge"), x, channels)?;
    let input = graph.add(&format!("{path}.attn_layer.add"), Op::Binary(Binary::Add), &[input, x])?;
    let mlp = format!("{path}.mlp_layer");
    let x = layer_norm(graph, &format!("{mlp}.0"), input, channels, EPSILON)?;
    let x = graph.linear(&format!("{mlp}.1"), x, 4 * channels)?;
    let x = graph.add(&format!("{mlp}.2"), Op::Unary(Unary::Gelu), &[x])?;
    let x = graph.linear(&format!("{mlp}.3"), x, channels)?;
    graph.add(&format!("{mlp}.add"), Op::Binary(Binary::Add), &[input, x])
}
