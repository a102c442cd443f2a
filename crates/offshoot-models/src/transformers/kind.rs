//! The networks of transformers that are built, each from its `config.json`.

use offshoot_graph::builder::BATCH_NORM;
use offshoot_graph::op::BatchNormalization;
use offshoot_graph::{Graph, GraphError, ValueId};

use super::TransformersError;
use super::config::Config;
use crate::architecture::Family;
use crate::efficientnet::Stage;
use crate::squeeze::{Padding, divisible_by_8};
use crate::vit::Reads;
use crate::{convnext, efficientnet, mobilenet_v2, resnet, swin, vit};

type Result<T> = std::result::Result<T, TransformersError>;

/// A network.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    ResNet { base: resnet::Variant<'static>, repeats: Vec<usize>, channels: Vec<usize> },
    ConvNext { base: convnext::Variant<'static>, repeats: Vec<usize>, channels: Vec<usize> },
    MobileNetV2(mobilenet_v2::MobileNetV2),
    EfficientNet { base: efficientnet::Variant<'static>, stages: Vec<Stage>, symmetric: Vec<usize> },
    ViT(vit::Variant),
    Swin { base: swin::Variant<'static>, repeats: Vec<usize>, heads: Vec<usize> },
}

/// The most blocks of a network.
const MOST_BLOCKS: usize = 1024;

impl Kind {
    /// The network that a configuration describes; `class` is the one of `architectures`.
    pub(super) fn new(config: Config<'_>, class: &str) -> Result<Kind> {
        config.only("num_channels", 3)?;
        match config.text("model_type", "")? {
            "resnet" => resnet(config),
            "convnext" => convnext(config),
            "mobilenet_v2" => mobilenet_v2(config),
            "efficientnet" => efficientnet(config),
            "vit" => Ok(Kind::ViT(transformer(config, 1e-12)?)),
            "dinov2" => dinov2(config),
            "deit" => deit(config, class),
            "swin" => swin(config),
            other => Err(TransformersError::Type(other.to_owned())),
        }
    }

    /// The same under torchvision's names, where there are such names beside timm's.
    pub(super) fn renamed(&self) -> Option<Kind> {
        match self {
            Kind::ViT(variant) => Some(Kind::ViT(variant.with_torchvisions_names()?)),
            Kind::ResNet { .. }
            | Kind::ConvNext { .. }
            | Kind::MobileNetV2(_)
            | Kind::EfficientNet { .. }
            | Kind::Swin { .. } => None,
        }
    }

    /// What the head reads, [N, features].
    pub(super) fn features(
        &self,
        graph: &mut Graph,
        input: ValueId,
        size: usize,
    ) -> std::result::Result<ValueId, GraphError> {
        match self {
            Kind::ResNet { base, repeats, channels } => {
                resnet::Variant { repeats, channels, ..*base }.features(graph, input, size)
            }
            Kind::ConvNext { base, repeats, channels } => {
                convnext::Variant { repeats, channels, ..*base }.features(graph, input, size)
            }
            Kind::MobileNetV2(variant) => variant.features(graph, input, size),
            Kind::EfficientNet { base, stages, symmetric } => {
                efficientnet::Variant { stages, symmetric, ..*base }.features(graph, input, size)
            }
            Kind::ViT(variant) => variant.features(graph, input, size),
            Kind::Swin { base, repeats, heads } => {
                swin::Variant { repeats, heads, ..*base }.features(graph, input, size)
            }
        }
    }

    /// The module of the head in our graph.
    pub(super) fn head(&self) -> &'static str {
        match self {
            Kind::ResNet { .. } => "fc",
            Kind::ConvNext { .. } => "classifier.2",
            Kind::MobileNetV2(_) | Kind::EfficientNet { .. } => "classifier.1",
            Kind::ViT(variant) => variant.head(),
            Kind::Swin { .. } => "head",
        }
    }

    /// The pixels of which a side must be a multiple.
    pub(super) fn patch(&self) -> usize {
        match self {
            Kind::ViT(variant) => variant.patch,
            Kind::Swin { .. } => swin::PATCH,
            Kind::ResNet { .. }
            | Kind::ConvNext { .. }
            | Kind::MobileNetV2(_)
            | Kind::EfficientNet { .. } => 1,
        }
    }
}

/// Blocks and channels of each stage.
fn stages(config: Config<'_>, depths: &[usize], widths: &[usize]) -> Result<(Vec<usize>, Vec<usize>)> {
    let repeats = config.list("depths", depths, false)?;
    let channels = config.list("hidden_sizes", widths, false)?;
    if repeats.is_empty() || repeats.len() != channels.len() {
        return config.refuse("depths", format!("{} numbers, as `hidden_sizes` has", channels.len()));
    }
    few_blocks(config, "depths", &repeats)?;
    Ok((repeats, channels))
}

fn few_blocks(config: Config<'_>, key: &str, repeats: &[usize]) -> Result<()> {
    match repeats.iter().sum::<usize>() {
        0..=MOST_BLOCKS => Ok(()),
        _ => config.refuse(key, format!("at most {MOST_BLOCKS} blocks")),
    }
}

fn resnet(config: Config<'_>) -> Result<Kind> {
    config.only_text("hidden_act", "relu", &["relu"])?;
    config.only_text("layer_type", "bottleneck", &["basic", "bottleneck"])?;
    let block = match config.text("layer_type", "bottleneck")? {
        "basic" => resnet::Block::Basic,
        _ => resnet::Block::Bottleneck,
    };
    let (repeats, channels) = stages(config, &[3, 4, 6, 3], &[256, 512, 1024, 2048])?;
    if matches!(block, resnet::Block::Bottleneck) && channels.iter().any(|c| !c.is_multiple_of(4)) {
        return config.refuse("hidden_sizes", "multiples of 4");
    }
    let base = resnet::Variant {
        stem: config.whole("embedding_size", 64)?,
        first_stride: if config.flag("downsample_in_first_stage", false)? { 2 } else { 1 },
        early_stride: config.flag("downsample_in_bottleneck", false)?,
        ..resnet::Variant::new(block, &[])
    };
    Ok(Kind::ResNet { base, repeats, channels })
}

fn convnext(config: Config<'_>) -> Result<Kind> {
    let (repeats, channels) = stages(config, &[3, 3, 9, 3], &[96, 192, 384, 768])?;
    config.only("num_stages", repeats.len())?;
    let base = convnext::Variant {
        repeats: &[],
        channels: &[],
        patch: config.side("patch_size", 4)?,
        activation: config.activation("gelu")?,
        epsilon: config.float("layer_norm_eps", 1e-12)? as f32,
    };
    Ok(Kind::ConvNext { base, repeats, channels })
}

fn mobilenet_v2(config: Config<'_>) -> Result<Kind> {
    config.only("depth_divisible_by", 8)?;
    config.only("min_depth", 8)?;
    config.only("output_stride", 32)?;
    config.only_flag("first_layer_is_expansion", true)?;
    config.only_text("hidden_act", "relu6", &["relu6"])?;
    let width = config.float("depth_multiplier", 1.0)?;
    let scaled = |channels: usize| divisible_by_8((channels as f64 * width).round_ties_even());
    let fixed = config.flag("finegrained_output", true)? && width < 1.0;
    Ok(Kind::MobileNetV2(mobilenet_v2::MobileNetV2 {
        stem: scaled(32),
        channels: [16, 24, 32, 64, 96, 160, 320].map(scaled),
        expansion: config.float("expand_ratio", 6.0)?,
        features: if fixed { 1280 } else { scaled(1280) },
        norm: norm(config, "layer_norm_eps")?,
        padding: if config.flag("tf_padding", true)? { Padding::Same } else { Padding::Symmetric },
    }))
}

/// A batch norm with the epsilon under `key`.
fn norm(config: Config<'_>, key: &str) -> Result<BatchNormalization> {
    Ok(BatchNormalization { epsilon: config.float(key, 1e-3)? as f32, ..BATCH_NORM })
}

fn efficientnet(config: Config<'_>) -> Result<Kind> {
    config.only("depth_divisor", 8)?;
    config.only_text("hidden_act", "swish", &["swish", "silu"])?;
    config.only_text("pooling_type", "mean", &["mean"])?;
    if config.float("squeeze_expansion_ratio", 0.25)? != 0.25 {
        return config.refuse("squeeze_expansion_ratio", "0.25");
    }
    let list = |key, default: &[usize; 7]| config.list(key, default, false);
    let kernels = list("kernel_sizes", &[3, 3, 5, 3, 5, 5, 3])?;
    let inputs = list("in_channels", &[32, 16, 24, 40, 80, 112, 192])?;
    let outputs = list("out_channels", &[16, 24, 40, 80, 112, 192, 320])?;
    let strides = list("strides", &[1, 2, 2, 2, 1, 2, 1])?;
    let repeats = list("num_block_repeats", &[1, 2, 2, 3, 3, 4, 1])?;
    let expansions = list("expand_ratios", &[1, 6, 6, 6, 6, 6, 6])?;
    let count = inputs.len();
    if count == 0 || [&kernels, &outputs, &strides, &repeats, &expansions].iter().any(|l| l.len() != count) {
        return config.refuse("in_channels", "a list as long as the other lists of stages");
    }
    if inputs[1..] != outputs[..count - 1] {
        return config.refuse("in_channels", "what the stage before gives in `out_channels`");
    }
    if kernels.iter().any(|kernel| kernel.is_multiple_of(2)) {
        return config.refuse("kernel_sizes", "odd numbers");
    }
    let (width, depth) = (config.float("width_coefficient", 2.0)?, config.float("depth_coefficient", 3.1)?);
    let deep: Vec<usize> = repeats.iter().map(|&n| (n as f64 * depth).ceil() as usize).collect();
    few_blocks(config, "num_block_repeats", &deep)?;
    let features = divisible_by_8(1280.0 * width);
    config.only_hidden(features)?;
    if divisible_by_8(32.0 * width) != divisible_by_8(inputs[0] as f64 * width) {
        return config.refuse("in_channels", "32 first, as the first convolution gives");
    }
    let stage = |i: usize| (false, expansions[i], kernels[i], strides[i], outputs[i], repeats[i]);
    let base = efficientnet::Variant {
        stages: &[],
        width,
        depth,
        features,
        norm: norm(config, "batch_norm_eps")?,
        padding: Padding::Uneven,
        first_shortcut: false,
        ..efficientnet::B0
    };
    let symmetric = config.list("depthwise_padding", &[], true)?;
    Ok(Kind::EfficientNet { base, stages: (0..count).map(stage).collect(), symmetric })
}

impl Config<'_> {
    /// transformers' EfficientNet has as many features as its last convolution gives.
    fn only_hidden(&self, features: usize) -> Result<()> {
        match self.whole("hidden_dim", 2560)? {
            number if number == features => Ok(()),
            _ => self.refuse("hidden_dim", format!("{features}, which `width_coefficient` makes of 1280")),
        }
    }
}

/// A vision transformer with a class token.
fn transformer(config: Config<'_>, epsilon: f64) -> Result<vit::Variant> {
    let variant = vit::Variant {
        patch: config.side("patch_size", 16)?,
        width: config.whole("hidden_size", 768)?,
        heads: config.whole("num_attention_heads", 12)?,
        blocks: config.whole("num_hidden_layers", 12)?,
        mlp: config.whole("intermediate_size", 3072)?,
        activation: config.activation("gelu")?,
        epsilon: config.float("layer_norm_eps", epsilon)? as f32,
        ..vit::TINY
    };
    few_blocks(config, "num_hidden_layers", &[variant.blocks])?;
    if !variant.width.is_multiple_of(variant.heads) {
        return config.refuse("hidden_size", "a multiple of `num_attention_heads`");
    }
    if config.whole("head_dim", variant.width / variant.heads)? != variant.width / variant.heads {
        return config.refuse("head_dim", "`hidden_size` divided by `num_attention_heads`");
    }
    Ok(variant)
}

fn dinov2(config: Config<'_>) -> Result<Kind> {
    config.only_flag("use_swiglu_ffn", false)?;
    let plain = transformer(config, 1e-6)?;
    let mlp = (plain.width as f64 * config.float("mlp_ratio", 4.0)?) as usize;
    let patch = config.side("patch_size", 14)?;
    Ok(Kind::ViT(vit::Variant { patch, mlp: mlp.max(1), scales: true, reads: Reads::ClassAndMean, ..plain }))
}

fn deit(config: Config<'_>, class: &str) -> Result<Kind> {
    let reads = if class.ends_with("WithTeacher") { Reads::Both } else { Reads::Class };
    Ok(Kind::ViT(vit::Variant { distilled: true, reads, ..transformer(config, 1e-12)? }))
}

/// A Swin transformer as torchvision builds it.
fn swin(config: Config<'_>) -> Result<Kind> {
    config.only("patch_size", swin::PATCH)?;
    config.only_flag("qkv_bias", true)?;
    config.only_flag("use_absolute_embeddings", false)?;
    config.only_text("hidden_act", "gelu", &["gelu"])?;
    for (key, wanted) in [("mlp_ratio", 4.0), ("layer_norm_eps", f64::from(swin::EPSILON))] {
        if config.float(key, wanted)? as f32 != wanted as f32 {
            return config.refuse(key, (wanted as f32).to_string());
        }
    }
    let repeats = config.list("depths", &[2, 2, 6, 2], false)?;
    let heads = config.list("num_heads", &[3, 6, 12, 24], false)?;
    let width = config.whole("embed_dim", 96)?;
    if repeats.is_empty() || repeats.len() != heads.len() || repeats.len() > swin::MOST_STAGES {
        return config
            .refuse("depths", format!("at most {} numbers, as many as `num_heads`", swin::MOST_STAGES));
    }
    few_blocks(config, "depths", &repeats)?;
    let divides = |(stage, &heads): (usize, &usize)| (width << stage).is_multiple_of(heads);
    if !heads.iter().enumerate().all(divides) {
        return config.refuse("num_heads", "divisors of `embed_dim`, which doubles with each stage");
    }
    let window = config.whole("window_size", 7)?;
    if window > swin::LARGEST_WINDOW {
        return config.refuse("window_size", format!("at most {}", swin::LARGEST_WINDOW));
    }
    let base = swin::Variant { repeats: &[], heads: &[], width, window, version: swin::Version::One };
    Ok(Kind::Swin { base, repeats, heads })
}
