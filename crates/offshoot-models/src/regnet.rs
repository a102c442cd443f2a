//! RegNetY-400MF (Radosavovic et al., "Designing network design spaces", 2020) as torchvision builds it.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{Binary, Op, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller, replace_start};
use crate::squeeze::SqueezeExcitation;

const STEM: usize = 32;
/// Channels and blocks of each stage.
const STAGES: [(usize, usize); 4] = [(48, 1), (104, 3), (208, 6), (440, 6)];
/// Channels in a group of the 3x3 convolutions.
const GROUP: usize = 8;

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "regnet_y_400mf",
    timm: Some("regnety_004"),
    size: 224,
    features: 440,
    stem: &["stem"],
    blocks: &["trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output.block4"],
    tail: &[],
    head: "fc",
    original_dropout: 0.0,
    resize: Resize::Torchvision,
    sizes: Sizes::Any,
    fan_out: FanOut::Whole,
    family: &RegNetY,
};

#[derive(Debug)]
struct RegNetY;

impl Family for RegNetY {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own(), speller.all(Library::Timm, &timm)]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 440, H', W'].
pub(crate) fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let mut x = conv_norm(graph, "stem", input, &Conv2d::new(STEM, 3).stride(2))?;
    x = graph.add("stem.2", Op::Unary(Unary::Relu), &[x])?;
    let mut channels = STEM;
    for (stage, (out, blocks)) in (1..).zip(STAGES) {
        for block in 0..blocks {
            let path = format!("trunk_output.block{stage}.block{stage}-{block}");
            let stride = if block == 0 { 2 } else { 1 };
            x = bottleneck(graph, &path, x, [channels, out], stride)?;
            channels = out;
        }
    }
    Ok(x)
}

/// 1x1, 3x3 in groups, gates of a quarter of the input's channels, 1x1; the shortcut has a convolution where it must.
fn bottleneck(
    graph: &mut Graph,
    path: &str,
    input: ValueId,
    [channels, out]: [usize; 2],
    stride: usize,
) -> Result<ValueId, GraphError> {
    let shortcut = if channels != out || stride != 1 {
        conv_norm(graph, &format!("{path}.proj"), input, &Conv2d::new(out, 1).stride(stride))?
    } else {
        input
    };
    let mut x = conv_norm(graph, &format!("{path}.f.a"), input, &Conv2d::new(out, 1))?;
    x = graph.add(&format!("{path}.f.a.2"), Op::Unary(Unary::Relu), &[x])?;
    let grouped = Conv2d::new(out, 3).stride(stride).group(out / GROUP);
    x = conv_norm(graph, &format!("{path}.f.b"), x, &grouped)?;
    x = graph.add(&format!("{path}.f.b.2"), Op::Unary(Unary::Relu), &[x])?;
    let gate = SqueezeExcitation {
        squeezed: channels / 4,
        activation: Op::Unary(Unary::Relu),
        gate: Op::Unary(Unary::Sigmoid),
    };
    x = gate.append(graph, &format!("{path}.f.se"), x, out)?;
    x = conv_norm(graph, &format!("{path}.f.c"), x, &Conv2d::new(out, 1))?;
    x = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[shortcut, x])?;
    graph.add(&format!("{path}.activation"), Op::Unary(Unary::Relu), &[x])
}

fn conv_norm(graph: &mut Graph, path: &str, x: ValueId, conv: &Conv2d) -> Result<ValueId, GraphError> {
    let x = graph.conv2d(&format!("{path}.0"), x, conv)?;
    graph.batch_norm(&format!("{path}.1"), x, BATCH_NORM)
}

/// timm's name of a parameter.
fn timm(name: &str) -> String {
    let spell = || {
        let rest = name.strip_prefix("trunk_output.block")?;
        let (stage, rest) = rest.split_once('.')?;
        let (block, layer) = rest.strip_prefix("block")?.split_once('-')?.1.split_once('.')?;
        let layers = [
            ("proj.0.", "downsample.conv."),
            ("proj.1.", "downsample.bn."),
            ("f.a.0.", "conv1.conv."),
            ("f.a.1.", "conv1.bn."),
            ("f.b.0.", "conv2.conv."),
            ("f.b.1.", "conv2.bn."),
            ("f.se.", "se."),
            ("f.c.0.", "conv3.conv."),
            ("f.c.1.", "conv3.bn."),
        ];
        let block = block.parse::<usize>().ok()? + 1;
        Some(format!("s{stage}.b{block}.{}", replace_start(layer, &layers)))
    };
    let rules = [("stem.0.", "stem.conv."), ("stem.1.", "stem.bn."), ("fc.", "head.fc.")];
    spell().unwrap_or_else(|| replace_start(name, &rules))
}
