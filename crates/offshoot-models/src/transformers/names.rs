//! What transformers calls our parameters in its files.

use super::kind::Kind;
use crate::spelling::replace_start;
use crate::vit;

/// The keys of the tensors that together, along the first axis, are the parameter `own`.
pub(super) fn keys(kind: &Kind, own: &str) -> Vec<String> {
    match kind {
        Kind::ResNet { .. } => vec![resnet(own)],
        Kind::ConvNext { .. } => vec![convnext(own)],
        Kind::MobileNetV2(_) => vec![mobilenet_v2(own)],
        Kind::EfficientNet { base, stages, .. } => {
            let repeats = stages.iter().map(|stage| (stage.5 as f64 * base.depth).ceil() as usize);
            vec![efficientnet(own, &repeats.collect::<Vec<_>>(), &|stage| {
                stages.get(stage).is_some_and(|s| s.1 != 1)
            })]
        }
        Kind::ViT(variant) => transformer(own, variant),
        Kind::Swin { .. } => swin(own),
    }
}

fn resnet(own: &str) -> String {
    let spell = || {
        let (stage, rest) = own.strip_prefix("layer")?.split_once('.')?;
        let (block, layer) = rest.split_once('.')?;
        let layers = [
            ("conv1.", "layer.0.convolution."),
            ("bn1.", "layer.0.normalization."),
            ("conv2.", "layer.1.convolution."),
            ("bn2.", "layer.1.normalization."),
            ("conv3.", "layer.2.convolution."),
            ("bn3.", "layer.2.normalization."),
            ("downsample.0.", "shortcut.convolution."),
            ("downsample.1.", "shortcut.normalization."),
        ];
        let stage = stage.parse::<usize>().ok()?.checked_sub(1)?;
        Some(format!("resnet.encoder.stages.{stage}.layers.{block}.{}", replace_start(layer, &layers)))
    };
    let rules = [
        ("conv1.", "resnet.embedder.embedder.convolution."),
        ("bn1.", "resnet.embedder.embedder.normalization."),
        ("fc.", "classifier.1."),
    ];
    spell().unwrap_or_else(|| replace_start(own, &rules))
}

fn convnext(own: &str) -> String {
    let spell = || {
        let (place, rest) = own.strip_prefix("features.")?.split_once('.')?;
        let place = place.parse::<usize>().ok()?;
        if place == 0 {
            return None;
        }
        let stage = format!("convnext.encoder.stages.{}", place / 2);
        if place.is_multiple_of(2) {
            return Some(format!("{stage}.downsampling_layer.{rest}"));
        }
        let (block, layer) = rest.split_once('.')?;
        let layers = [
            ("layer_scale", "layer_scale_parameter"),
            ("block.0.", "dwconv."),
            ("block.2.", "layernorm."),
            ("block.3.", "pwconv1."),
            ("block.5.", "pwconv2."),
        ];
        Some(format!("{stage}.layers.{block}.{}", replace_start(layer, &layers)))
    };
    let rules = [
        ("features.0.0.", "convnext.embeddings.patch_embeddings."),
        ("features.0.1.", "convnext.embeddings.layernorm."),
        ("classifier.0.", "convnext.layernorm."),
        ("classifier.2.", "classifier."),
    ];
    spell().unwrap_or_else(|| replace_start(own, &rules))
}

fn mobilenet_v2(own: &str) -> String {
    let layers = [
        ("conv.0.0.", "expand_1x1.convolution."),
        ("conv.0.1.", "expand_1x1.normalization."),
        ("conv.1.0.", "conv_3x3.convolution."),
        ("conv.1.1.", "conv_3x3.normalization."),
        ("conv.2.", "reduce_1x1.convolution."),
        ("conv.3.", "reduce_1x1.normalization."),
    ];
    let spell = || {
        let (place, layer) = own.strip_prefix("features.")?.split_once('.')?;
        let place = place.parse::<usize>().ok()?.checked_sub(2)?;
        layer.strip_prefix("conv.")?;
        Some(format!("mobilenet_v2.layer.{place}.{}", replace_start(layer, &layers)))
    };
    let rules = [
        ("features.0.0.", "mobilenet_v2.conv_stem.first_conv.convolution."),
        ("features.0.1.", "mobilenet_v2.conv_stem.first_conv.normalization."),
        ("features.1.conv.0.0.", "mobilenet_v2.conv_stem.conv_3x3.convolution."),
        ("features.1.conv.0.1.", "mobilenet_v2.conv_stem.conv_3x3.normalization."),
        ("features.1.conv.1.", "mobilenet_v2.conv_stem.reduce_1x1.convolution."),
        ("features.1.conv.2.", "mobilenet_v2.conv_stem.reduce_1x1.normalization."),
        ("features.18.0.", "mobilenet_v2.conv_1x1.convolution."),
        ("features.18.1.", "mobilenet_v2.conv_1x1.normalization."),
        ("classifier.1.", "classifier."),
    ];
    spell().unwrap_or_else(|| replace_start(own, &rules))
}

fn efficientnet(own: &str, repeats: &[usize], expands: &dyn Fn(usize) -> bool) -> String {
    let last = repeats.len() + 1;
    let spell = || {
        let (place, rest) = own.strip_prefix("features.")?.split_once('.')?;
        let stage = place.parse::<usize>().ok()?.checked_sub(1)?;
        let (block, layer) = rest.split_once(".block.")?;
        let (index, part) = layer.split_once('.')?;
        let block = repeats.get(..stage)?.iter().sum::<usize>() + block.parse::<usize>().ok()?;
        let index = index.parse::<usize>().ok()? + usize::from(!expands(stage));
        let parts = match index {
            0 => [("0.", "expansion.expand_conv."), ("1.", "expansion.expand_bn.")],
            1 => [("0.", "depthwise_conv.depthwise_conv."), ("1.", "depthwise_conv.depthwise_norm.")],
            2 => [("fc1.", "squeeze_excite.reduce."), ("fc2.", "squeeze_excite.expand.")],
            _ => [("0.", "projection.project_conv."), ("1.", "projection.project_bn.")],
        };
        Some(format!("efficientnet.encoder.blocks.{block}.{}", replace_start(part, &parts)))
    };
    let top = [format!("features.{last}.0."), format!("features.{last}.1.")];
    let rules = [
        ("features.0.0.", "efficientnet.embeddings.convolution."),
        ("features.0.1.", "efficientnet.embeddings.batchnorm."),
        (&top[0], "efficientnet.encoder.top_conv."),
        (&top[1], "efficientnet.encoder.top_bn."),
        ("classifier.1.", "classifier."),
    ];
    spell().unwrap_or_else(|| replace_start(own, &rules))
}

fn transformer(own: &str, variant: &vit::Variant) -> Vec<String> {
    let own = vit::timm_name(own);
    let base = match (variant.scales, variant.distilled) {
        (true, _) => "dinov2",
        (false, true) => "deit",
        (false, false) => "vit",
    };
    let spell = || {
        let (block, layer) = own.strip_prefix("blocks.")?.split_once('.')?;
        let path = format!("{base}.encoder.layer.{block}");
        if let Some(part) = layer.strip_prefix("attn.qkv.") {
            let key = |name| format!("{path}.attention.attention.{name}.{part}");
            return Some(["query", "key", "value"].map(key).to_vec());
        }
        let layers: &[(&str, &str)] = match base {
            "dinov2" => &[
                ("attn.proj.", "attention.output.dense."),
                ("ls1.gamma", "layer_scale1.lambda1"),
                ("ls2.gamma", "layer_scale2.lambda1"),
            ],
            _ => &[
                ("attn.proj.", "attention.output.dense."),
                ("norm1.", "layernorm_before."),
                ("norm2.", "layernorm_after."),
                ("mlp.fc1.", "intermediate.dense."),
                ("mlp.fc2.", "output.dense."),
            ],
        };
        Some(vec![format!("{path}.{}", replace_start(layer, layers))])
    };
    let outside = || {
        let embeddings = [
            ("cls_token", "cls_token"),
            ("dist_token", "distillation_token"),
            ("pos_embed", "position_embeddings"),
            ("patch_embed.proj.", "patch_embeddings.projection."),
        ];
        if let Some(rest) = own.strip_prefix("head.") {
            return format!("classifier.{rest}");
        }
        if let Some(rest) = own.strip_prefix("norm.") {
            return format!("{base}.layernorm.{rest}");
        }
        format!("{base}.embeddings.{}", replace_start(&own, &embeddings))
    };
    spell().unwrap_or_else(|| vec![outside()])
}

fn swin(own: &str) -> Vec<String> {
    let spell = || {
        let (place, rest) = own.strip_prefix("features.")?.split_once('.')?;
        let place = place.parse::<usize>().ok()?.checked_sub(1)?;
        let stage = format!("swin.encoder.layers.{}", place / 2);
        if !place.is_multiple_of(2) {
            return Some(vec![format!("{stage}.downsample.{rest}")]);
        }
        let (block, layer) = rest.split_once('.')?;
        let path = format!("{stage}.blocks.{block}");
        if let Some(part) = layer.strip_prefix("attn.qkv.") {
            let key = |name| format!("{path}.attention.self.{name}.{part}");
            return Some(["query", "key", "value"].map(key).to_vec());
        }
        let layers = [
            ("norm1.", "layernorm_before."),
            ("attn.proj.", "attention.output.dense."),
            ("attn.relative_position_bias_table", "attention.self.relative_position_bias_table"),
            ("norm2.", "layernorm_after."),
            ("mlp.0.", "intermediate.dense."),
            ("mlp.3.", "output.dense."),
        ];
        Some(vec![format!("{path}.{}", replace_start(layer, &layers))])
    };
    let rules = [
        ("features.0.0.", "swin.embeddings.patch_embeddings.projection."),
        ("features.0.2.", "swin.embeddings.norm."),
        ("norm.", "swin.layernorm."),
        ("head.", "classifier."),
    ];
    spell().unwrap_or_else(|| vec![replace_start(own, &rules)])
}
