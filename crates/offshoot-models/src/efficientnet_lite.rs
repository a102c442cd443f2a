//! EfficientNet-Lite (Google, 2020: EfficientNet without squeeze-and-excitation, with ReLU6) under the names of timm's
//! `tf_efficientnet_lite*`. Strided convolutions pad as TensorFlow's SAME does, more at the bottom and right. The variants
//! with [`SYMMETRIC`] at the end are timm's `efficientnet_lite*`: they pad all sides alike, and their norms have another
//! epsilon. Parameters have the same names in both.

use offshoot_graph::builder::{Conv2d, RELU6};
use offshoot_graph::op::{BatchNormalization, Binary, Op};
use offshoot_graph::remedy::MODEL;
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller};
use crate::squeeze::Padding;

/// What distinguishes one EfficientNet-Lite from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    width: f64,
    depth: f64,
    /// Whether convolutions pad all sides alike.
    symmetric: bool,
}

#[derive(Clone, Copy)]
struct Stage {
    expansion: usize,
    kernel: usize,
    /// Of the first block.
    stride: usize,
    /// At width 1.
    out: usize,
    /// At depth 1.
    repeats: usize,
}

const STAGES: [Stage; 7] = [
    Stage { expansion: 1, kernel: 3, stride: 1, out: 16, repeats: 1 },
    Stage { expansion: 6, kernel: 3, stride: 2, out: 24, repeats: 2 },
    Stage { expansion: 6, kernel: 5, stride: 2, out: 40, repeats: 2 },
    Stage { expansion: 6, kernel: 3, stride: 2, out: 80, repeats: 3 },
    Stage { expansion: 6, kernel: 5, stride: 1, out: 112, repeats: 3 },
    Stage { expansion: 6, kernel: 5, stride: 2, out: 192, repeats: 4 },
    Stage { expansion: 6, kernel: 3, stride: 1, out: 320, repeats: 1 },
];

/// Channels after the first convolution and after the last, whatever the width.
const STEM: usize = 32;
const FEATURES: usize = 1280;

/// The end of the names of timm's variants.
pub(crate) const SYMMETRIC: &str = "_symmetric";

/// Width, depth, input size and dropout are those of Google's `efficientnet_lite_builder.py`.
pub(crate) const ARCHITECTURES: [Architecture; 10] = [
    architecture(
        ["efficientnet_lite0", "tf_efficientnet_lite0"],
        224,
        0.2,
        &Variant { width: 1.0, depth: 1.0, symmetric: false },
    ),
    architecture(
        ["efficientnet_lite1", "tf_efficientnet_lite1"],
        240,
        0.2,
        &Variant { width: 1.0, depth: 1.1, symmetric: false },
    ),
    architecture(
        ["efficientnet_lite2", "tf_efficientnet_lite2"],
        260,
        0.3,
        &Variant { width: 1.1, depth: 1.2, symmetric: false },
    ),
    architecture(
        ["efficientnet_lite3", "tf_efficientnet_lite3"],
        280,
        0.3,
        &Variant { width: 1.2, depth: 1.4, symmetric: false },
    ),
    architecture(
        ["efficientnet_lite4", "tf_efficientnet_lite4"],
        300,
        0.3,
        &Variant { width: 1.4, depth: 1.8, symmetric: false },
    ),
    architecture(
        ["efficientnet_lite0_symmetric", "efficientnet_lite0"],
        224,
        0.2,
        &Variant { width: 1.0, depth: 1.0, symmetric: true },
    ),
    architecture(
        ["efficientnet_lite1_symmetric", "efficientnet_lite1"],
        240,
        0.2,
        &Variant { width: 1.0, depth: 1.1, symmetric: true },
    ),
    architecture(
        ["efficientnet_lite2_symmetric", "efficientnet_lite2"],
        260,
        0.3,
        &Variant { width: 1.1, depth: 1.2, symmetric: true },
    ),
    architecture(
        ["efficientnet_lite3_symmetric", "efficientnet_lite3"],
        280,
        0.3,
        &Variant { width: 1.2, depth: 1.4, symmetric: true },
    ),
    architecture(
        ["efficientnet_lite4_symmetric", "efficientnet_lite4"],
        300,
        0.3,
        &Variant { width: 1.4, depth: 1.8, symmetric: true },
    ),
];

const fn architecture(
    [name, timm]: [&'static str; 2],
    size: usize,
    dropout: f32,
    variant: &'static Variant,
) -> Architecture {
    Architecture {
        name,
        timm: Some(timm),
        size,
        features: FEATURES,
        stem: &["conv_stem", "bn1"],
        blocks: &["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6"],
        tail: &["conv_head", "bn2"],
        head: "classifier",
        original_dropout: dropout,
        // timm crops 224 of 256, and alike for larger pictures.
        resize: if variant.symmetric { Resize::Bicubic(size + 32) } else { Resize::EfficientNetLite },
        sizes: Sizes::Any,
        fan_out: FanOut::PerGroup,
        family: variant,
    }
}

impl Variant {
    fn norm(&self) -> BatchNormalization {
        BatchNormalization { epsilon: if self.symmetric { 1e-5 } else { 1e-3 }, momentum: 0.1 }
    }

    /// Channels scaled by the width and rounded to a multiple of 8, but never down by more than a tenth.
    fn channels(&self, base: usize) -> usize {
        let scaled = base as f64 * self.width;
        let rounded = ((scaled + 4.0) as usize / 8 * 8).max(8);
        if (rounded as f64) < 0.9 * scaled { rounded + 8 } else { rounded }
    }

    /// The number of blocks in each stage: the first and the last stage keep theirs.
    fn repeats(&self) -> [usize; 7] {
        let last = STAGES.len() - 1;
        std::array::from_fn(|i| match STAGES[i].repeats {
            repeats if i == 0 || i == last => repeats,
            repeats => (repeats as f64 * self.depth).ceil() as usize,
        })
    }
}

/// Whether the blocks of a stage begin with a 1x1 convolution that widens.
fn expands(stage: usize) -> bool {
    STAGES.get(stage).is_none_or(|s| s.expansion != 1)
}

impl Family for Variant {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, self)
    }

    fn spellings(&self, architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        let lukemelas = speller.all(Library::Lukemelas, &|own| lukemelas(&self.repeats(), own));
        vec![Names { note: Some(lite_note(architecture.name)), ..speller.own() }, lukemelas]
    }
}

/// Everything before the head: [N, 3, size, size] -> [N, 1280, H', W'].
pub(crate) fn backbone(graph: &mut Graph, input: ValueId, variant: &Variant) -> Result<ValueId, GraphError> {
    let padding = if variant.symmetric { Padding::Symmetric } else { Padding::Same };
    let mut net = Net { graph, padding, norm: variant.norm() };
    let mut x = net.conv("conv_stem", input, Conv2d::new(STEM, 3).stride(2))?;
    x = net.norm_act("bn1", x)?;
    let mut channels = STEM;
    for (stage, (layers, repeats)) in STAGES.iter().zip(variant.repeats()).enumerate() {
        for index in 0..repeats {
            let block = Block {
                channels,
                hidden: channels * layers.expansion,
                out: variant.channels(layers.out),
                kernel: layers.kernel,
                stride: if index == 0 { layers.stride } else { 1 },
            };
            x = net.block(&format!("blocks.{stage}.{index}"), x, &block)?;
            channels = block.out;
        }
    }
    x = net.conv("conv_head", x, Conv2d::new(FEATURES, 1))?;
    net.norm_act("bn2", x)
}

struct Block {
    channels: usize,
    hidden: usize,
    out: usize,
    kernel: usize,
    stride: usize,
}

/// The graph so far and what its layers have in common.
struct Net<'g> {
    graph: &'g mut Graph,
    padding: Padding,
    norm: BatchNormalization,
}

impl Net<'_> {
    fn block(&mut self, path: &str, input: ValueId, block: &Block) -> Result<ValueId, GraphError> {
        let expands = block.hidden != block.channels;
        let mut x = input;
        if expands {
            x = self.conv(&format!("{path}.conv_pw"), x, Conv2d::new(block.hidden, 1))?;
            x = self.norm_act(&format!("{path}.bn1"), x)?;
        }
        // timm counts the norms and calls the last 1x1 convolution `conv_pw` where it is the only one.
        let (norm, project) = if expands { (2, "conv_pwl") } else { (1, "conv_pw") };
        let depthwise = Conv2d::new(block.hidden, block.kernel).stride(block.stride).group(block.hidden);
        x = self.conv(&format!("{path}.conv_dw"), x, depthwise)?;
        x = self.norm_act(&format!("{path}.bn{norm}"), x)?;
        x = self.conv(&format!("{path}.{project}"), x, Conv2d::new(block.out, 1))?;
        x = self.graph.batch_norm(&format!("{path}.bn{}", norm + 1), x, self.norm)?;
        if block.stride == 1 && block.channels == block.out {
            x = self.graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[x, input])?;
        }
        Ok(x)
    }

    /// A convolution with TensorFlow's SAME padding, or half of the kernel on each side.
    fn conv(&mut self, path: &str, x: ValueId, conv: Conv2d) -> Result<ValueId, GraphError> {
        let conv = self.padding.of(self.graph, x, conv);
        self.graph.conv2d(path, x, &conv)
    }

    fn norm_act(&mut self, path: &str, x: ValueId) -> Result<ValueId, GraphError> {
        let x = self.graph.batch_norm(path, x, self.norm)?;
        self.graph.add(&format!("{path}.act"), RELU6, &[x])
    }
}

/// lukemelas' name of a parameter that timm, and the graph, call `name`.
fn lukemelas(repeats: &[usize], name: &str) -> String {
    let spell = || {
        let (module, parameter) = name.rsplit_once('.')?;
        let module = match module {
            "conv_stem" => "_conv_stem".to_owned(),
            "bn1" => "_bn0".to_owned(),
            "conv_head" => "_conv_head".to_owned(),
            "bn2" => "_bn1".to_owned(),
            "classifier" => "_fc".to_owned(),
            _ => {
                let mut parts = module.strip_prefix("blocks.")?.splitn(3, '.');
                let (stage, index): (usize, usize) =
                    (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
                let index = repeats.iter().take(stage).sum::<usize>() + index;
                format!("_blocks.{index}.{}", lukemelas_layer(parts.next()?, expands(stage))?)
            }
        };
        Some(format!("{module}.{parameter}"))
    };
    spell().unwrap_or_else(|| name.to_owned())
}

/// timm counts a block's norms from 1 and calls the last 1x1 convolution `conv_pw` where it is the only one.
fn lukemelas_layer(layer: &str, expands: bool) -> Option<&'static str> {
    match (layer, expands) {
        ("conv_pw", true) => Some("_expand_conv"),
        ("bn1", true) => Some("_bn0"),
        ("conv_dw", _) => Some("_depthwise_conv"),
        ("bn2", true) | ("bn1", false) => Some("_bn1"),
        ("conv_pwl", true) | ("conv_pw", false) => Some("_project_conv"),
        ("bn3", true) | ("bn2", false) => Some("_bn2"),
        _ => None,
    }
}

fn lite_note(name: &str) -> String {
    match name.strip_suffix(SYMMETRIC) {
        Some(same) => format!(
            "read as timm's `{same}`, which pads all sides alike; weights of its `tf_{same}` have the same names and belong to \
             `{MODEL} {same}`"
        ),
        None => format!(
            "read as timm's `tf_{name}`, which pads as TensorFlow does; weights of its `{name}` have the same names and belong \
             to `{MODEL} {name}{}`",
            SYMMETRIC
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lukemelas_names_are_known() {
        // Lite1 has three blocks in its second stage.
        let repeats = [1, 3, 3, 4, 4, 5, 1];
        for (own, theirs) in [
            ("conv_stem.weight", "_conv_stem.weight"),
            ("bn1.running_var", "_bn0.running_var"),
            ("blocks.0.0.conv_dw.weight", "_blocks.0._depthwise_conv.weight"),
            ("blocks.0.0.conv_pw.weight", "_blocks.0._project_conv.weight"),
            ("blocks.0.0.bn2.bias", "_blocks.0._bn2.bias"),
            ("blocks.1.0.conv_pw.weight", "_blocks.1._expand_conv.weight"),
            ("blocks.1.1.bn1.weight", "_blocks.2._bn0.weight"),
            ("blocks.2.0.bn2.bias", "_blocks.4._bn1.bias"),
            ("blocks.2.0.bn3.weight", "_blocks.4._bn2.weight"),
            ("blocks.2.0.conv_pwl.weight", "_blocks.4._project_conv.weight"),
            ("conv_head.weight", "_conv_head.weight"),
            ("bn2.bias", "_bn1.bias"),
            ("classifier.weight", "_fc.weight"),
        ] {
            assert_eq!(lukemelas(&repeats, own), theirs);
        }
    }
}
