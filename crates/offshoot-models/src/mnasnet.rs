//! MNASNet-B1 (Tan et al., "MnasNet: platform-aware neural architecture search for mobile", 2018), width 1.0, as torchvision
//! builds it.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{BatchNormalization, Binary, Op};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller, replace_start};
use crate::squeeze::conv_norm_relu;

/// Kernel, stride of the first block, expansion, output channels, blocks.
const STAGES: [(usize, usize, usize, usize, usize); 6] = [
    (3, 2, 3, 24, 3),
    (5, 2, 3, 40, 3),
    (5, 2, 6, 80, 3),
    (3, 1, 6, 96, 2),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
];

/// Index of the module that is the first stage.
const FIRST: usize = 8;
const WIDTH: usize = 1280;

/// The paper's momentum is 0.9997, in TensorFlow's sense.
const NORM: BatchNormalization = BatchNormalization { epsilon: 1e-5, momentum: 0.0003 };

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "mnasnet1_0",
    timm: Some("mnasnet_100"),
    size: 224,
    features: WIDTH,
    stem: &["layers.0", "layers.1", "layers.3", "layers.4", "layers.6", "layers.7"],
    blocks: &["layers.8", "layers.9", "layers.10", "layers.11", "layers.12", "layers.13"],
    tail: &["layers.14", "layers.15"],
    head: "classifier.1",
    original_dropout: 0.2,
    resize: Resize::Torchvision,
    sizes: Sizes::Any,
    fan_out: FanOut::Whole,
    family: &MnasNet,
};

#[derive(Debug)]
struct MnasNet;

impl Family for MnasNet {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own(), speller.all(Library::Timm, &timm)]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 1280, H', W'].
fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let mut x = conv_norm_relu(graph, ("layers", 0), input, &Conv2d::new(32, 3).stride(2), NORM, true)?;
    x = conv_norm_relu(graph, ("layers", 3), x, &Conv2d::new(32, 3).group(32), NORM, true)?;
    x = conv_norm_relu(graph, ("layers", 6), x, &Conv2d::new(16, 1), NORM, false)?;
    let mut channels = 16;
    for (stage, (kernel, first_stride, expansion, out, repeats)) in STAGES.into_iter().enumerate() {
        for repeat in 0..repeats {
            let path = format!("layers.{}.{repeat}.layers", FIRST + stage);
            let (hidden, stride) = (channels * expansion, if repeat == 0 { first_stride } else { 1 });
            let depthwise = Conv2d::new(hidden, kernel).stride(stride).group(hidden);
            let mut y = conv_norm_relu(graph, (&path, 0), x, &Conv2d::new(hidden, 1), NORM, true)?;
            y = conv_norm_relu(graph, (&path, 3), y, &depthwise, NORM, true)?;
            y = conv_norm_relu(graph, (&path, 6), y, &Conv2d::new(out, 1), NORM, false)?;
            let same = stride == 1 && channels == out;
            x = if same { graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[y, x])? } else { y };
            channels = out;
        }
    }
    conv_norm_relu(graph, ("layers", FIRST + STAGES.len()), x, &Conv2d::new(WIDTH, 1), NORM, true)
}

/// timm's name of a parameter.
fn timm(name: &str) -> String {
    let spell = || {
        let (stage, rest) = name.strip_prefix("layers.")?.split_once('.')?;
        let (block, layer) = rest.split_once(".layers.")?;
        let layers = [
            ("0.", "conv_pw."),
            ("1.", "bn1."),
            ("3.", "conv_dw."),
            ("4.", "bn2."),
            ("6.", "conv_pwl."),
            ("7.", "bn3."),
        ];
        let stage = stage.parse::<usize>().ok()?.checked_sub(FIRST)? + 1;
        Some(format!("blocks.{stage}.{block}.{}", replace_start(layer, &layers)))
    };
    let rules = [
        ("layers.0.", "conv_stem."),
        ("layers.1.", "bn1."),
        ("layers.3.", "blocks.0.0.conv_dw."),
        ("layers.4.", "blocks.0.0.bn1."),
        ("layers.6.", "blocks.0.0.conv_pw."),
        ("layers.7.", "blocks.0.0.bn2."),
        ("layers.14.", "conv_head."),
        ("layers.15.", "bn2."),
        ("classifier.1.", "classifier."),
    ];
    spell().unwrap_or_else(|| replace_start(name, &rules))
}
