//! The names that other libraries give the parameters of an architecture.

use offshoot_graph::Weights;

use crate::efficientnet_lite::{self, Variant};
use crate::registry::{Architecture, Family};

/// The same weights under the names that the graph of `architecture` has.
///
/// Known are torchvision's and timm's, which are the graph's own, and for EfficientNet-Lite those of
/// lukemelas' `EfficientNet-PyTorch` (`_blocks.0._depthwise_conv.weight`). The published
/// DenseNets have older names (`norm.1`), DINOv2 a token (`mask_token`) that only its training reads. Keys of no known library stay as they are,
/// for the caller to report.
pub fn canonical_keys(architecture: &Architecture, weights: Weights) -> Weights {
    match &architecture.family {
        Family::EfficientNetLite(variant) if weights.keys().all(|key| key.starts_with('_')) => weights
            .into_iter()
            .map(|(key, tensor)| (from_lukemelas(variant, &key).unwrap_or(key), tensor))
            .collect(),
        Family::DenseNet => weights.into_iter().map(|(key, tensor)| (without_dots(&key), tensor)).collect(),
        Family::Vit(_) => weights.into_iter().filter(|(key, _)| key != "mask_token").collect(),
        Family::ResNet(_)
        | Family::MobileNetV2
        | Family::MobileNetV3(_)
        | Family::EfficientNet(_)
        | Family::EfficientNetLite(_)
        | Family::Vgg { .. }
        | Family::RegNetY
        | Family::SqueezeNet
        | Family::ConvNeXt(_) => weights,
    }
}

/// A key of the published DenseNets, which call a layer `norm.1` what is `norm1` now.
fn without_dots(key: &str) -> String {
    let old = key.contains(".denselayer");
    let layers = [("norm.1.", "norm1."), ("conv.1.", "conv1."), ("norm.2.", "norm2."), ("conv.2.", "conv2.")];
    match layers.into_iter().find(|(from, _)| old && key.contains(from)) {
        Some((from, to)) => key.replace(from, to),
        None => key.to_string(),
    }
}

/// timm's name of a parameter in lukemelas' EfficientNet.
fn from_lukemelas(variant: &Variant, key: &str) -> Option<String> {
    let (module, parameter) = key.rsplit_once('.')?;
    let module = match module {
        "_conv_stem" => "conv_stem".to_string(),
        "_bn0" => "bn1".to_string(),
        "_conv_head" => "conv_head".to_string(),
        "_bn1" => "bn2".to_string(),
        "_fc" => "classifier".to_string(),
        _ => {
            let (index, layer) = module.strip_prefix("_blocks.")?.split_once('.')?;
            let (stage, index) = stage_and_index(variant, index.parse().ok()?)?;
            format!("blocks.{stage}.{index}.{}", layer_name(layer, efficientnet_lite::expands(stage))?)
        }
    };
    Some(format!("{module}.{parameter}"))
}

/// The stage of the block that is the `index`th of all, and its place there.
fn stage_and_index(variant: &Variant, mut index: usize) -> Option<(usize, usize)> {
    for (stage, repeats) in variant.repeats().into_iter().enumerate() {
        if index < repeats {
            return Some((stage, index));
        }
        index -= repeats;
    }
    None
}

/// timm counts a block's norms from 1 and calls the last 1x1 convolution `conv_pw` where it is the only one.
fn layer_name(layer: &str, expands: bool) -> Option<&'static str> {
    match (layer, expands) {
        ("_expand_conv", true) => Some("conv_pw"),
        ("_bn0", true) => Some("bn1"),
        ("_depthwise_conv", _) => Some("conv_dw"),
        ("_bn1", true) => Some("bn2"),
        ("_bn1", false) => Some("bn1"),
        ("_project_conv", true) => Some("conv_pwl"),
        ("_project_conv", false) => Some("conv_pw"),
        ("_bn2", true) => Some("bn3"),
        ("_bn2", false) => Some("bn2"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Tensor;

    use super::*;
    use crate::find;

    fn translated(architecture: &str, keys: &[&str]) -> Vec<String> {
        let weights = keys.iter().map(|k| (k.to_string(), Tensor::zeros([1]))).collect();
        canonical_keys(find(architecture).unwrap(), weights).into_keys().collect()
    }

    #[test]
    fn lukemelas_keys_become_timms() {
        for (key, name) in [
            ("_conv_stem.weight", "conv_stem.weight"),
            ("_bn0.running_var", "bn1.running_var"),
            ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
            ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
            ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias"),
            ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
            ("_blocks.2._bn0.weight", "blocks.1.1.bn1.weight"),
            ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
            ("_blocks.15._bn2.weight", "blocks.6.0.bn3.weight"),
            ("_conv_head.weight", "conv_head.weight"),
            ("_bn1.bias", "bn2.bias"),
            ("_fc.weight", "classifier.weight"),
        ] {
            assert_eq!(translated("efficientnet_lite0", &[key]), [name]);
        }
        // Lite1 has three blocks in its second stage.
        assert_eq!(translated("efficientnet_lite1", &["_blocks.4._bn1.bias"]), ["blocks.2.0.bn2.bias"]);
    }

    #[test]
    fn unknown_keys_stay() {
        for key in [
            "_blocks.16._bn2.weight",
            "_blocks.99999999999999999999._bn2.weight",
            "_blocks.0._expand_conv.weight",
            "_blocks.0._se_reduce.weight",
            "_swish",
            "conv_stem.weight",
        ] {
            assert_eq!(translated("efficientnet_lite0", &[key]), [key]);
        }
        assert_eq!(translated("resnet18", &["_fc.weight"]), ["_fc.weight"]);
        // Two names of one parameter must not overwrite each other.
        assert_eq!(
            translated("efficientnet_lite0", &["_fc.weight", "classifier.weight"]),
            ["_fc.weight", "classifier.weight"]
        );
    }
}
