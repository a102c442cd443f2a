//! VGG with 16 layers (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
//! 2014) as torchvision builds it.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{AveragePool, Op, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller, replace_start};
use crate::squeeze::biased;

/// Output channels of the convolutions of each stage; a stage ends with a pooling.
const STAGES: [&[usize]; 5] = [&[64; 2], &[128; 2], &[256; 3], &[512; 3], &[512; 3]];

const HIDDEN: usize = 4096;
/// Height and width that the classifier reads, and what the stages divide the picture's by.
const POOLED: usize = 7;
const SHRINKS: usize = 32;

pub(crate) const ARCHITECTURES: [Architecture; 2] = [
    architecture(
        "vgg16",
        &Variant { norms: false },
        &["features.0", "features.2"],
        &[
            "features.5",
            "features.7",
            "features.10",
            "features.12",
            "features.14",
            "features.17",
            "features.19",
            "features.21",
            "features.24",
            "features.26",
            "features.28",
        ],
    ),
    architecture(
        "vgg16_bn",
        &Variant { norms: true },
        &["features.0", "features.1", "features.3", "features.4"],
        &[
            "features.7",
            "features.8",
            "features.10",
            "features.11",
            "features.14",
            "features.15",
            "features.17",
            "features.18",
            "features.20",
            "features.21",
            "features.24",
            "features.25",
            "features.27",
            "features.28",
            "features.30",
            "features.31",
            "features.34",
            "features.35",
            "features.37",
            "features.38",
            "features.40",
            "features.41",
        ],
    ),
];

const fn architecture(
    name: &'static str,
    variant: &'static Variant,
    stem: &'static [&'static str],
    blocks: &'static [&'static str],
) -> Architecture {
    Architecture {
        name,
        timm: Some(name),
        size: 224,
        features: HIDDEN,
        stem,
        blocks,
        tail: &["classifier.0", "classifier.3"],
        head: "classifier.6",
        original_dropout: 0.5,
        resize: Resize::Torchvision,
        sizes: Sizes::Pooled { shrinks: SHRINKS, to: POOLED },
        fan_out: FanOut::Whole,
        family: variant,
    }
}

#[derive(Debug)]
struct Variant {
    /// Whether batch norms follow the convolutions.
    norms: bool,
}

impl Family for Variant {
    fn backbone(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        features(graph, input, size, self.norms)
    }

    /// Linear layers follow the pooling.
    fn features(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        self.backbone(graph, input, size)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own(), speller.all(Library::Timm, &timm)]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 4096].
pub(crate) fn features(
    graph: &mut Graph,
    input: ValueId,
    size: usize,
    norms: bool,
) -> Result<ValueId, GraphError> {
    let (mut x, mut index) = (input, 0);
    for stage in STAGES {
        for &channels in stage {
            x = biased(graph, &format!("features.{index}"), x, Conv2d::new(channels, 3))?;
            if norms {
                index += 1;
                x = graph.batch_norm(&format!("features.{index}"), x, BATCH_NORM)?;
            }
            x = graph.add(&format!("features.{}", index + 1), Op::Unary(Unary::Relu), &[x])?;
            index += 2;
        }
        let halves = Pool { kernel: [2, 2], strides: [2, 2], pads: [0; 4], ceil_mode: false };
        x = graph.add(&format!("features.{index}"), Op::Pool(Pooling::Max(halves)), &[x])?;
        index += 1;
    }
    // torchvision pools adaptively to 7 x 7: for the sizes that are accepted, means of squares.
    let square = size / SHRINKS / POOLED;
    if square > 1 {
        let pool = Pool { kernel: [square; 2], strides: [square; 2], pads: [0; 4], ceil_mode: false };
        let op = Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad: false }));
        x = graph.add("avgpool", op, &[x])?;
    }
    x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])?;
    for (linear, activation, dropout) in [(0, 1, 2), (3, 4, 5)] {
        x = graph.linear(&format!("classifier.{linear}"), x, HIDDEN)?;
        x = graph.add(&format!("classifier.{activation}"), Op::Unary(Unary::Relu), &[x])?;
        if dropout == 2 {
            x = graph.add("classifier.2", Op::Dropout { ratio: 0.5 }, &[x])?;
        }
    }
    Ok(x)
}

/// timm's name of a parameter.
fn timm(name: &str) -> String {
    let rules = [
        ("classifier.0.", "pre_logits.fc1."),
        ("classifier.3.", "pre_logits.fc2."),
        ("classifier.6.", "head.fc."),
    ];
    replace_start(name, &rules)
}
