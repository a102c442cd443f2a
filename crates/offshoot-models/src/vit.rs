//! Vision transformers (Dosovitskiy et al., "An image is worth 16x16 words", 2020): ViT-B/16 as torchvision builds it, DeiT's
//! smallest (Touvron et al., 2020) under timm's names, and ViT-S/14 as DINOv2 (Oquab et al., "DINOv2: learning robust visual features without supervision", 2023) trained it,
//! under the names of timm's `vit_small_patch14_dinov2`. The head reads the class token.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Binary, MatMul, Op, Reduce, ShapeOp, Unary};
use offshoot_graph::{Dim, Graph, GraphError, Role, Shape, Tensor, ValueId, Weights};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller, replace_start};
use crate::squeeze::{biased, layer_norm, product};

/// What distinguishes one transformer from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) patch: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) blocks: usize,
    /// Features between the two linear layers of a block.
    pub(crate) mlp: usize,
    pub(crate) activation: Unary,
    /// Of the norms.
    pub(crate) epsilon: f32,
    /// Whether the names are timm's.
    pub(crate) timm: bool,
    /// Whether the branches have scales.
    pub(crate) scales: bool,
    /// Whether a token that DeiT learns from a teacher follows the class token.
    pub(crate) distilled: bool,
    pub(crate) reads: Reads,
}

/// What the head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// The class token.
    Class,
    /// The class token, and behind it the one that DeiT learns from a teacher.
    Both,
    /// The class token, and behind it the mean of the patches.
    ClassAndMean,
}

const BASE: Variant = Variant {
    patch: 16,
    width: 768,
    heads: 12,
    blocks: 12,
    mlp: 3072,
    activation: Unary::Gelu,
    epsilon: 1e-6,
    timm: false,
    scales: false,
    distilled: false,
    reads: Reads::Class,
};
const SMALL: Variant =
    Variant { patch: 14, width: 384, heads: 6, mlp: 1536, timm: true, scales: true, ..BASE };
pub(crate) const TINY: Variant = Variant { width: 192, heads: 3, mlp: 768, timm: true, ..BASE };

/// timm's names of twelve blocks.
const BLOCKS: &[&str] = &[
    "blocks.0",
    "blocks.1",
    "blocks.2",
    "blocks.3",
    "blocks.4",
    "blocks.5",
    "blocks.6",
    "blocks.7",
    "blocks.8",
    "blocks.9",
    "blocks.10",
    "blocks.11",
];

pub(crate) const ARCHITECTURES: [Architecture; 3] = [
    Architecture {
        name: "vit_b_16",
        timm: Some("vit_base_patch16_224"),
        size: 224,
        features: BASE.width,
        stem: &["class_token", "conv_proj", "encoder.pos_embedding"],
        blocks: &[
            "encoder.layers.encoder_layer_0",
            "encoder.layers.encoder_layer_1",
            "encoder.layers.encoder_layer_2",
            "encoder.layers.encoder_layer_3",
            "encoder.layers.encoder_layer_4",
            "encoder.layers.encoder_layer_5",
            "encoder.layers.encoder_layer_6",
            "encoder.layers.encoder_layer_7",
            "encoder.layers.encoder_layer_8",
            "encoder.layers.encoder_layer_9",
            "encoder.layers.encoder_layer_10",
            "encoder.layers.encoder_layer_11",
        ],
        tail: &["encoder.ln"],
        head: "heads.head",
        original_dropout: 0.0,
        resize: Resize::Torchvision,
        sizes: Sizes::MultipleOf(BASE.patch),
        fan_out: FanOut::Whole,
        family: &BASE,
    },
    Architecture {
        name: "vit_small_patch14_dinov2",
        timm: Some("vit_small_patch14_dinov2"),
        size: 518,
        features: SMALL.width,
        stem: &["cls_token", "pos_embed", "patch_embed"],
        blocks: BLOCKS,
        tail: &["norm"],
        head: "head",
        original_dropout: 0.0,
        resize: Resize::Bicubic(518),
        sizes: Sizes::MultipleOf(SMALL.patch),
        fan_out: FanOut::Whole,
        family: &SMALL,
    },
    Architecture {
        name: "deit_tiny_patch16_224",
        timm: Some("deit_tiny_patch16_224"),
        size: 224,
        features: TINY.width,
        stem: &["cls_token", "pos_embed", "patch_embed"],
        blocks: BLOCKS,
        tail: &["norm"],
        head: "head",
        original_dropout: 0.0,
        resize: Resize::Bicubic(248),
        sizes: Sizes::MultipleOf(TINY.patch),
        fan_out: FanOut::Whole,
        family: &TINY,
    },
];

impl Family for Variant {
    fn backbone(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        features(graph, input, size, self)
    }

    /// What the head reads is the class token.
    fn features(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        self.backbone(graph, input, size)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own(), speller.all(Library::Older, &older), speller.all(Library::Timm, &timm_name)]
    }

    fn fit_to_size(&self, size: usize, weights: &mut Weights) {
        resample_positions(self, size, weights);
    }
}

/// Everything before the head: [N, 3, size, size] -> [N, width].
pub(crate) fn features(
    graph: &mut Graph,
    input: ValueId,
    size: usize,
    variant: &Variant,
) -> Result<ValueId, GraphError> {
    let &Variant { patch, width, timm, .. } = variant;
    let [class_name, position_name, patch_name] = match timm {
        true => ["cls_token", "pos_embed", "patch_embed.proj"],
        false => ["class_token", "encoder.pos_embedding", "conv_proj"],
    };
    let patches = (size / patch).pow(2);
    let batch = graph.value(input).shape.0.first().cloned().unwrap_or(Dim::Fixed(1));
    let rows = |count: usize| Shape(vec![batch.clone(), count.into(), width.into()]);
    let before = variant.tokens_before_patches();
    let position_shape = [1, patches + before, width];
    let class = graph.add_parameter(class_name, &[1, 1, width], Role::Weight);
    let teacher = variant.distilled.then(|| graph.add_parameter("dist_token", &[1, 1, width], Role::Weight));
    let first = timm.then(|| graph.add_parameter(position_name, &position_shape, Role::Weight));
    let conv = Conv2d::new(width, patch).stride(patch).pads([0; 4]);
    let x = biased(graph, patch_name, input, conv)?;
    let positions =
        first.unwrap_or_else(|| graph.add_parameter(position_name, &position_shape, Role::Weight));
    let x = graph.add("patches.last", Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 3, 1] }), &[x])?;
    let x = graph.add("patches.rows", Op::Shape(ShapeOp::Reshape { shape: rows(patches) }), &[x])?;
    let mut tokens = vec![graph.add("class", Op::Shape(ShapeOp::Expand { shape: rows(1) }), &[class])?];
    if let Some(teacher) = teacher {
        tokens.push(graph.add("teacher", Op::Shape(ShapeOp::Expand { shape: rows(1) }), &[teacher])?);
    }
    tokens.push(x);
    let x = graph.add("tokens", Op::Shape(ShapeOp::Concat { axis: 1 }), &tokens)?;
    let mut x = graph.add("positions", Op::Binary(Binary::Add), &[x, positions])?;
    for index in 0..variant.blocks {
        x = block(graph, index, x, rows(patches + before), variant)?;
    }
    let norm = if timm { "norm" } else { "encoder.ln" };
    // A norm of a token does not depend on the others.
    let part = |graph: &mut Graph, name: &str, x, start, end| {
        graph.add(name, Op::Shape(ShapeOp::Slice { axis: 1, start, end }), &[x])
    };
    match variant.reads {
        Reads::Class => {
            let x = part(graph, "class.part", x, 0, 1)?;
            let x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])?;
            layer_norm(graph, norm, x, width, variant.epsilon)
        }
        Reads::Both => {
            let x = part(graph, "class.part", x, 0, 2)?;
            let x = layer_norm(graph, norm, x, width, variant.epsilon)?;
            graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])
        }
        Reads::ClassAndMean => {
            let x = layer_norm(graph, norm, x, width, variant.epsilon)?;
            let class = part(graph, "class.part", x, 0, 1)?;
            let class = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[class])?;
            let x = part(graph, "patches.part", x, before, before + patches)?;
            let mean = graph.add("patches.mean", Op::Reduce { op: Reduce::Mean, axis: 1 }, &[x])?;
            let mean = graph.add("patches.flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[mean])?;
            graph.add("features", Op::Shape(ShapeOp::Concat { axis: 1 }), &[class, mean])
        }
    }
}

impl Variant {
    fn tokens_before_patches(&self) -> usize {
        if self.distilled { 2 } else { 1 }
    }

    /// The module of the head.
    pub(crate) fn head(&self) -> &'static str {
        if self.timm { "head" } else { "heads.head" }
    }

    /// The same under torchvision's names, which have no scales and one token before the patches.
    pub(crate) fn with_torchvisions_names(&self) -> Option<Variant> {
        let plain = !self.scales && !self.distilled && self.reads == Reads::Class;
        plain.then_some(Variant { timm: false, ..*self })
    }
}

/// The names of a block's modules.
struct Modules {
    path: String,
    norms: [&'static str; 2],
    input: [&'static str; 2],
    output: &'static str,
    scales: Option<[&'static str; 2]>,
    linear: [&'static str; 2],
}

impl Modules {
    fn new(index: usize, variant: &Variant) -> Modules {
        match variant.timm {
            true => Modules {
                path: format!("blocks.{index}"),
                norms: ["norm1", "norm2"],
                input: ["attn.qkv.weight", "attn.qkv.bias"],
                output: "attn.proj",
                scales: variant.scales.then_some(["ls1.gamma", "ls2.gamma"]),
                linear: ["mlp.fc1", "mlp.fc2"],
            },
            false => Modules {
                path: format!("encoder.layers.encoder_layer_{index}"),
                norms: ["ln_1", "ln_2"],
                input: ["self_attention.in_proj_weight", "self_attention.in_proj_bias"],
                output: "self_attention.out_proj",
                scales: None,
                linear: ["mlp.0", "mlp.3"],
            },
        }
    }
}

/// Attention and two linear layers, each added to what comes in: [N, T, width] -> the same.
fn block(
    graph: &mut Graph,
    index: usize,
    input: ValueId,
    shape: Shape,
    variant: &Variant,
) -> Result<ValueId, GraphError> {
    let width = variant.width;
    let names = Modules::new(index, variant);
    let path = |name: &str| format!("{}.{name}", names.path);

    let x = layer_norm(graph, &path(names.norms[0]), input, width, variant.epsilon)?;
    let x = graph.add(&path("attention.rows"), Op::Shape(ShapeOp::Flatten { axis: 2 }), &[x])?;
    let weight = graph.add_parameter(&path(names.input[0]), &[3 * width, width], Role::Weight);
    let bias = graph.add_parameter(&path(names.input[1]), &[3 * width], Role::Weight);
    let projected = product(graph, &path("attention.in"), &[x, weight, bias])?;
    let x = attention(graph, &path("attention"), projected, &shape, variant)?;
    let x = graph.linear(&path(names.output), x, width)?;
    let x = scaled(graph, &names, 0, x, width)?;
    let x =
        graph.add(&path("attention.tokens"), Op::Shape(ShapeOp::Reshape { shape: shape.clone() }), &[x])?;
    let input = graph.add(&path("attention.add"), Op::Binary(Binary::Add), &[x, input])?;

    let x = layer_norm(graph, &path(names.norms[1]), input, width, variant.epsilon)?;
    let x = graph.add(&path("mlp.rows"), Op::Shape(ShapeOp::Flatten { axis: 2 }), &[x])?;
    let x = graph.linear(&path(names.linear[0]), x, variant.mlp)?;
    let x = graph.add(&path("mlp.1"), Op::Unary(variant.activation), &[x])?;
    let x = graph.linear(&path(names.linear[1]), x, width)?;
    let x = scaled(graph, &names, 1, x, width)?;
    let x = graph.add(&path("mlp.tokens"), Op::Shape(ShapeOp::Reshape { shape }), &[x])?;
    graph.add(&path("mlp.add"), Op::Binary(Binary::Add), &[x, input])
}

/// timm's `LayerScale`.
fn scaled(
    graph: &mut Graph,
    names: &Modules,
    branch: usize,
    x: ValueId,
    width: usize,
) -> Result<ValueId, GraphError> {
    let Some(scales) = names.scales else { return Ok(x) };
    let name = format!("{}.{}", names.path, scales[branch]);
    let scale = graph.add_parameter(&name, &[width], Role::Weight);
    graph.add(&format!("{name}.scaled"), Op::Binary(Binary::Mul), &[x, scale])
}

/// softmax(q kᵀ / sqrt d) v of each head: rows of queries, keys and values [N T, 3 width] -> [N T, width].
fn attention(
    graph: &mut Graph,
    path: &str,
    projected: ValueId,
    shape: &Shape,
    variant: &Variant,
) -> Result<ValueId, GraphError> {
    let &Variant { width, heads, .. } = variant;
    let depth = width / heads;
    let (batch, tokens) = (shape.0[0].clone(), shape.0[1].clone());
    let heads_shape = Shape(vec![batch, tokens, heads.into(), depth.into()]);
    let part = |graph: &mut Graph, name: &str, index: usize| {
        let (start, end) = (index * width, (index + 1) * width);
        let mut x = graph.add(
            &format!("{path}.{name}"),
            Op::Shape(ShapeOp::Slice { axis: 1, start, end }),
            &[projected],
        )?;
        if name == "q" {
            let factor = Tensor::f32([], vec![1.0 / (depth as f32).sqrt()]);
            let factor = graph.add_constant(&format!("{path}.factor"), factor);
            x = graph.add(&format!("{path}.q.scaled"), Op::Binary(Binary::Mul), &[x, factor])?;
        }
        let x = graph.add(
            &format!("{path}.{name}.heads"),
            Op::Shape(ShapeOp::Reshape { shape: heads_shape.clone() }),
            &[x],
        )?;
        graph.add(
            &format!("{path}.{name}.tokens"),
            Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1, 3] }),
            &[x],
        )
    };
    let (q, k, v) = (part(graph, "q", 0)?, part(graph, "k", 1)?, part(graph, "v", 2)?);
    let k = graph.add(
        &format!("{path}.k.columns"),
        Op::Shape(ShapeOp::Transpose { perm: vec![0, 1, 3, 2] }),
        &[k],
    )?;
    let scores = graph.add(&format!("{path}.scores"), Op::MatMul(MatMul::default()), &[q, k])?;
    let scores = graph.add(&format!("{path}.softmax"), Op::Softmax { axis: 3 }, &[scores])?;
    let x = graph.add(&format!("{path}.values"), Op::MatMul(MatMul::default()), &[scores, v])?;
    let x = graph.add(
        &format!("{path}.together"),
        Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1, 3] }),
        &[x],
    )?;
    let x =
        graph.add(&format!("{path}.merged"), Op::Shape(ShapeOp::Reshape { shape: shape.clone() }), &[x])?;
    graph.add(&format!("{path}.out.rows"), Op::Shape(ShapeOp::Flatten { axis: 2 }), &[x])
}

/// Resamples the positions of patches among `weights` for inputs of `size` pixels, as timm's `resample_abs_pos_embed`
/// does: bicubic (a = -1/2), antialiased, the class token's left alone. What has the right number, or is no square
/// grid, stays.
pub(crate) fn resample_positions(variant: &Variant, size: usize, weights: &mut Weights) {
    let name = if variant.timm { "pos_embed" } else { "encoder.pos_embedding" };
    let side = size / variant.patch;
    let Some(tensor) = weights.get(name) else { return };
    let (&[1, rows, width], Some(values)) = (tensor.shape(), tensor.as_f32()) else { return };
    let before = variant.tokens_before_patches();
    let old = rows.saturating_sub(before).isqrt();
    if width != variant.width || old == 0 || side == 0 || old * old + before != rows || old == side {
        return;
    }
    let (class, grid) = values.split_at(before * width);
    // Columns, then rows, as PyTorch does.
    let grid = resample(grid, [old, old, width], side);
    let grid = resample(&grid, [1, old, side * width], side);
    let resampled = [class, &grid].concat();
    weights.insert(name.to_string(), Tensor::f32([1, side * side + before, width], resampled));
}

/// Resamples the middle axis of [outer, old, inner] to `new` places.
fn resample(x: &[f32], [outer, old, inner]: [usize; 3], new: usize) -> Vec<f32> {
    let mut out = vec![0.0; outer * new * inner];
    for (place, taps) in taps(old, new).into_iter().enumerate() {
        for row in 0..outer {
            let to = (row * new + place) * inner;
            for &(from, weight) in &taps {
                let from = (row * old + from) * inner;
                for i in 0..inner {
                    out[to + i] += weight * x[from + i];
                }
            }
        }
    }
    out
}

/// The places that each new place reads, with weights that sum to one: a cubic kernel as wide as the scale, around the
/// new place's center.
fn taps(old: usize, new: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = old as f64 / new as f64;
    let (wide, support) = (scale.max(1.0), 2.0 * scale.max(1.0));
    let cubic = |x: f64| match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    };
    let at = |place: usize| {
        let centre = scale * (place as f64 + 0.5);
        let first = (centre - support + 0.5).max(0.0) as usize;
        let last = ((centre + support + 0.5) as usize).min(old);
        let weights: Vec<f64> = (first..last).map(|i| cubic((i as f64 - centre + 0.5) / wide)).collect();
        let sum: f64 = weights.iter().sum();
        (first..last).zip(weights).map(|(i, weight)| (i, (weight / sum) as f32)).collect()
    };
    (0..new).map(at).collect()
}

/// The published transformers call `mlp.linear_1` what is `mlp.0` now.
fn older(name: &str) -> String {
    name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")
}

/// timm's name of a parameter.
pub(crate) fn timm_name(name: &str) -> String {
    let layers = [
        (".ln_1.", ".norm1."),
        (".self_attention.in_proj_", ".attn.qkv."),
        (".self_attention.out_proj.", ".attn.proj."),
        (".ln_2.", ".norm2."),
        (".mlp.0.", ".mlp.fc1."),
        (".mlp.3.", ".mlp.fc2."),
    ];
    let rules = [
        ("class_token", "cls_token"),
        ("conv_proj.", "patch_embed.proj."),
        ("encoder.pos_embedding", "pos_embed"),
        ("encoder.layers.encoder_layer_", "blocks."),
        ("encoder.ln.", "norm."),
        ("heads.head.", "head."),
    ];
    layers.iter().fold(replace_start(name, &rules), |name, (from, to)| name.replace(from, to))
}
