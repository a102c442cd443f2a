//! How each library names the parameters of an architecture.

use offshoot_graph::remedy::MODEL;
use std::collections::{HashMap, HashSet};

use crate::efficientnet_lite;
use crate::registry::{Architecture, Family};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// The graph's own names: torchvision's, or timm's for EfficientNet-Lite and DINOv2.
    Own,
    Timm,
    /// lukemelas' `EfficientNet-PyTorch`.
    Lukemelas,
    /// torchvision before it renamed layers, as in the files that it publishes.
    Older,
}

/// The parameters of an architecture as one library spells them.
pub(super) struct Names {
    pub(super) library: Library,
    /// The graph's own name and shape of each, by the library's name.
    pub(super) own: HashMap<String, (String, Vec<usize>)>,
    /// The graph's own names.
    pub(super) taken: HashSet<String>,
    /// The epsilon of the library's batch norms and that of the graph's, where they differ.
    pub(super) epsilon: Option<(f32, f32)>,
    /// What the names cannot tell.
    pub(super) note: Option<String>,
}

type Parameters = [(String, Vec<usize>)];

/// All spellings of the parameters `expected` of `architecture`, its own first.
pub(super) fn spellings(architecture: &Architecture, expected: &Parameters) -> Vec<Names> {
    let names = |library, spelled: Vec<String>| {
        let own = spelled.into_iter().zip(expected.iter().cloned()).collect();
        let taken = expected.iter().map(|(name, _)| name.clone()).collect();
        Names { library, own, taken, epsilon: None, note: None }
    };
    let all = |spell: &dyn Fn(&str) -> String| expected.iter().map(|(name, _)| spell(name)).collect();
    let timm = |spell: &dyn Fn(&str) -> String| names(Library::Timm, all(spell));
    let own = names(Library::Own, all(&str::to_owned));
    match &architecture.family {
        Family::ResNet(_) | Family::SqueezeNet => vec![own],
        Family::MobileNetV2 => {
            let place = |n: usize, _: &str| consecutive(&[1, 2, 3, 4, 3, 3, 1], n);
            let spelled = inverted_residuals(expected, &place, &["conv_head", "bn2", "classifier"]);
            vec![own, names(Library::Timm, spelled)]
        }
        Family::MobileNetV3(_) => {
            let large = expected.iter().any(|(name, _)| name.starts_with("features.16."));
            let repeats: &[usize] = if large { &[1, 2, 3, 4, 2, 3] } else { &[1, 2, 3, 2, 3] };
            let place = |n: usize, _: &str| consecutive(repeats, n);
            let last = repeats.len();
            let tail = [
                &format!("blocks.{last}.0.conv"),
                &format!("blocks.{last}.0.bn1"),
                "conv_head",
                "classifier",
            ];
            let spelled = inverted_residuals(expected, &place, &tail);
            let plain = if large { "mobilenetv3_large_100" } else { "mobilenetv3_small_100" };
            let note = Some(same_names_as_tf(plain));
            vec![own, Names { epsilon: Some((1e-5, 1e-3)), note, ..names(Library::Timm, spelled) }]
        }
        Family::EfficientNet(_) => {
            let place = |_: usize, block: &str| {
                let mut parts = block.split('.').skip(1).filter_map(|part| part.parse::<usize>().ok());
                (parts.next().unwrap_or(1) - 1, parts.next().unwrap_or(0))
            };
            let spelled = inverted_residuals(expected, &place, &["conv_head", "bn2", "classifier"]);
            let note = Some(same_names_as_tf(architecture.name));
            vec![own, Names { note, ..names(Library::Timm, spelled) }]
        }
        Family::EfficientNetLite(variant) => {
            let lukemelas = all(&|name| lukemelas(&variant.repeats(), name));
            let note = Some(lite_note(architecture.name));
            vec![Names { note, ..own }, names(Library::Lukemelas, lukemelas)]
        }
        Family::Vgg { .. } => vec![own, timm(&vgg)],
        Family::DenseNet => vec![own, names(Library::Older, all(&older_densenet))],
        Family::RegNetY => vec![own, timm(&regnet)],
        Family::ConvNeXt(_) => vec![own, timm(&convnext)],
        Family::Vit(_) => {
            vec![own, names(Library::Older, all(&older_vit)), timm(&vit)]
        }
    }
}

fn same_names_as_tf(plain: &str) -> String {
    format!(
        "the names are timm's and read as those of its `{plain}`; its `tf_{plain}` has the same ones, pads otherwise and cannot \
         be told apart: weights of that give wrong answers here, export them to ONNX instead"
    )
}

fn lite_note(name: &str) -> String {
    match name.strip_suffix(efficientnet_lite::SYMMETRIC) {
        Some(same) => format!(
            "read as timm's `{same}`, which pads all sides alike; weights of its `tf_{same}` have the same names and belong to \
             `{MODEL} {same}`"
        ),
        None => format!(
            "read as timm's `tf_{name}`, which pads as TensorFlow does; weights of its `{name}` have the same names and belong \
             to `{MODEL} {name}{}`",
            efficientnet_lite::SYMMETRIC
        ),
    }
}

/// Stage and index of the `n`th block where each stage has so many.
fn consecutive(repeats: &[usize], mut n: usize) -> (usize, usize) {
    for (stage, &count) in repeats.iter().enumerate() {
        if n < count {
            return (stage, n);
        }
        n -= count;
    }
    (repeats.len(), n)
}

/// timm's names of a network of inverted residual blocks, whose modules come in torchvision's order: a stem, blocks whose
/// stage and index `place` says, and what `tail` names.
fn inverted_residuals(
    expected: &Parameters,
    place: &dyn Fn(usize, &str) -> (usize, usize),
    tail: &[&str],
) -> Vec<String> {
    let mut modules: Vec<&str> =
        expected.iter().filter_map(|(name, _)| Some(name.rsplit_once('.')?.0)).collect();
    modules.dedup();
    let (head, end) = (2.min(modules.len()), modules.len().saturating_sub(tail.len()));
    let mut names: HashMap<&str, String> = HashMap::new();
    names.extend(modules.iter().zip(["conv_stem", "bn1"]).map(|(&m, name)| (m, name.to_owned())));
    names.extend(modules[end..].iter().zip(tail).map(|(&m, &name)| (m, name.to_owned())));
    let blocks = modules[head..end.max(head)].chunk_by(|a, b| block_path(a) == block_path(b));
    for (n, block) in blocks.enumerate() {
        let (stage, index) = place(n, block[0]);
        let layers: Vec<&str> = block.iter().copied().filter(|m| squeeze(m).is_none()).collect();
        let layer_names: &[&str] = match layers.len() {
            4 => &["conv_dw", "bn1", "conv_pw", "bn2"],
            _ => &["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"],
        };
        let named = layers.into_iter().zip(layer_names.iter().copied());
        let squeezes = block.iter().filter_map(|&module| Some((module, squeeze(module)?)));
        names.extend(named.chain(squeezes).map(|(m, name)| (m, format!("blocks.{stage}.{index}.{name}"))));
    }
    let spell = |name: &str| {
        let (module, parameter) = name.rsplit_once('.')?;
        Some(format!("{}.{parameter}", names.get(module)?))
    };
    expected.iter().map(|(name, _)| spell(name).unwrap_or_else(|| name.clone())).collect()
}

/// The path of the block that a module is in: what stands before `block` or `conv`.
fn block_path(module: &str) -> &str {
    [".block.", ".conv."].iter().find_map(|inside| Some(module.split_once(inside)?.0)).unwrap_or(module)
}

fn squeeze(module: &str) -> Option<&'static str> {
    match module.rsplit('.').next() {
        Some("fc1") => Some("se.conv_reduce"),
        Some("fc2") => Some("se.conv_expand"),
        _ => None,
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
                format!(
                    "_blocks.{index}.{}",
                    lukemelas_layer(parts.next()?, efficientnet_lite::expands(stage))?
                )
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

/// The published DenseNets call a layer `norm.1` what is `norm1` now.
fn older_densenet(name: &str) -> String {
    let layers = [("norm1.", "norm.1."), ("conv1.", "conv.1."), ("norm2.", "norm.2."), ("conv2.", "conv.2.")];
    match layers.into_iter().find(|(layer, _)| name.contains(".denselayer") && name.contains(layer)) {
        Some((now, old)) => name.replace(now, old),
        None => name.to_owned(),
    }
}

/// The published transformers call `mlp.linear_1` what is `mlp.0` now.
fn older_vit(name: &str) -> String {
    name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")
}

/// `name` with the first of `rules` that fits: what it begins with, and what stands there instead.
fn replace_start(name: &str, rules: &[(&str, &str)]) -> String {
    let changed = rules.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
    changed.unwrap_or_else(|| name.to_owned())
}

fn vgg(name: &str) -> String {
    let rules = [
        ("classifier.0.", "pre_logits.fc1."),
        ("classifier.3.", "pre_logits.fc2."),
        ("classifier.6.", "head.fc."),
    ];
    replace_start(name, &rules)
}

fn vit(name: &str) -> String {
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

fn convnext(name: &str) -> String {
    let rules = [("features.0.", "stem."), ("classifier.0.", "head.norm."), ("classifier.2.", "head.fc.")];
    let spell = || {
        let (place, rest) = name.strip_prefix("features.")?.split_once('.')?;
        match place.parse::<usize>().ok()? {
            0 => None,
            place if place.is_multiple_of(2) => Some(format!("stages.{}.downsample.{rest}", place / 2)),
            place => {
                let (block, layer) = rest.split_once('.')?;
                let layers = [
                    ("layer_scale", "gamma"),
                    ("block.0.", "conv_dw."),
                    ("block.2.", "norm."),
                    ("block.3.", "mlp.fc1."),
                    ("block.5.", "mlp.fc2."),
                ];
                Some(format!("stages.{}.blocks.{block}.{}", place / 2, replace_start(layer, &layers)))
            }
        }
    };
    spell().unwrap_or_else(|| replace_start(name, &rules))
}

fn regnet(name: &str) -> String {
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
