//! How Hugging Face folders say that pictures are prepared.

use offshoot_graph::preprocessing::{IMAGENET_MEAN, IMAGENET_STD};
use offshoot_graph::{Fit, Interpolation, Preprocessing};
use serde_json::{Map, Value};

/// What was read, with what is to be said of it.
type Found = Result<(Preprocessing, Option<String>), String>;

/// The longest side that is accepted, in pixels.
const LONGEST: u64 = 1 << 14;
/// What transformers divides ConvNeXt's size by where nothing is said.
const CROP: f64 = 224.0 / 256.0;
/// From which side on transformers' ConvNeXt does not crop.
const WHOLE: usize = 384;

/// The preprocessing that a `preprocessor_config.json` describes.
pub(super) fn of_transformers(settings: &Map<String, Value>) -> Found {
    let kind = ["image_processor_type", "feature_extractor_type"]
        .iter()
        .find_map(|key| settings.get(*key)?.as_str())
        .unwrap_or_default();
    for (key, wanted) in [("do_resize", true), ("do_flip_channel_order", false), ("do_pad", false)] {
        if flag(settings, key, wanted)? != wanted {
            return Err(format!("`{key}` is {}, which is not done here", !wanted));
        }
    }
    let interpolation = match settings.get("resample").filter(|value| !value.is_null()) {
        None => Interpolation::Bilinear,
        Some(value) => match value.as_u64() {
            Some(0) => Interpolation::Nearest,
            Some(1) => Interpolation::Lanczos,
            Some(2) => Interpolation::Bilinear,
            Some(3) => Interpolation::Bicubic,
            _ => return Err(format!("`resample` is {value}; known are 0, 1, 2 and 3")),
        },
    };
    let (size, resize, fit, note) = shape(settings, kind)?;
    let (mean, std) = levels(settings, kind)?;
    let own = Preprocessing { size, resize, fit, interpolation, mean, std, ..Preprocessing::default() };
    Ok((own, note))
}

type Square = (usize, usize, Fit, Option<String>);

/// Size, length of the shorter side before the crop, and how a picture becomes a square.
fn shape(settings: &Map<String, Value>, kind: &str) -> Result<Square, String> {
    let size = settings.get("size").ok_or("there is no `size`")?;
    let percentage = settings.get("crop_pct").filter(|value| !value.is_null());
    if percentage.is_some() || kind.starts_with("ConvNext") {
        let side = edge(size)?.ok_or("`size` must have a `shortest_edge`")?;
        let part = percentage.map_or(Some(CROP), Value::as_f64).filter(|part| *part > 0.1 && *part <= 1.0);
        let part = part.ok_or("`crop_pct` must be a number above 0.1 and at most 1")?;
        return Ok(match side < WHOLE {
            true => (side, (side as f64 / part) as usize, Fit::Crop, None),
            false => (side, side, Fit::Stretch, None),
        });
    }
    let crop = match flag(settings, "do_center_crop", false)? {
        true => {
            let crop = settings.get("crop_size").unwrap_or(size);
            Some(square(crop)?.or(edge(crop)?).ok_or("`crop_size` must be a square")?)
        }
        false => None,
    };
    let stretched = if size.is_u64() && crop.is_some() { None } else { square(size)? };
    match (stretched, edge(size)?, crop) {
        (Some(side), _, None) => Ok((side, side, Fit::Stretch, None)),
        (Some(side), _, Some(crop)) if crop == side => Ok((side, side, Fit::Stretch, None)),
        (Some(side), _, Some(crop)) if crop < side => {
            let note = format!(
                "pictures are stretched to {side} x {side} there before the crop; here the shorter side becomes {side}, so \
                 that pictures that are no squares give other logits"
            );
            Ok((crop, side, Fit::Crop, Some(note)))
        }
        (None, Some(side), Some(crop)) if crop <= side => Ok((crop, side, Fit::Crop, None)),
        (_, _, Some(_)) => Err("`crop_size` is larger than `size`: the border would be black".into()),
        (None, _, None) => {
            Err("`size` has a `shortest_edge` and nothing is cropped: pictures are no squares".into())
        }
    }
}

/// The side of a square: a number, or `height` and `width`.
fn square(value: &Value) -> Result<Option<usize>, String> {
    if value.is_u64() {
        return side(value).map(Some);
    }
    match (value.get("height"), value.get("width")) {
        (Some(height), Some(width)) if height == width => side(height).map(Some),
        (Some(_), _) | (_, Some(_)) => Err(format!("{value} is no square")),
        (None, None) => Ok(None),
    }
}

/// A number, or `shortest_edge`.
fn edge(value: &Value) -> Result<Option<usize>, String> {
    if value.is_u64() {
        return side(value).map(Some);
    }
    value.get("shortest_edge").map(side).transpose()
}

fn side(value: &Value) -> Result<usize, String> {
    match value.as_u64() {
        Some(side @ 1..=LONGEST) => Ok(side as usize),
        _ => Err(format!("{value} is no number of pixels in 1..={LONGEST}")),
    }
}

fn flag(settings: &Map<String, Value>, key: &str, default: bool) -> Result<bool, String> {
    match settings.get(key).filter(|value| !value.is_null()) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!("`{key}` is {other}, and must be true or false")),
    }
}

/// Mean and standard deviation on 0..1.
fn levels(settings: &Map<String, Value>, kind: &str) -> Result<([f32; 3], [f32; 3]), String> {
    let factor = match (flag(settings, "do_rescale", true)?, settings.get("rescale_factor")) {
        (false, _) => 1.0,
        (true, None | Some(Value::Null)) => 1.0 / 255.0,
        (true, Some(value)) => value.as_f64().ok_or("`rescale_factor` is no number")?,
    };
    let scale = 255.0 * factor;
    if !(scale > 1e-6 && scale < 1e6) {
        return Err("`rescale_factor` must be a number like 1/255".into());
    }
    let offset = if flag(settings, "rescale_offset", false)? { 1.0 } else { 0.0 };
    let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
    if flag(settings, "do_normalize", true)? {
        mean = three(settings, "image_mean", IMAGENET_MEAN)?;
        std = three(settings, "image_std", IMAGENET_STD)?;
        if kind.starts_with("EfficientNet") && flag(settings, "include_top", true)? {
            // It divides twice.
            std = std.map(|s| s * s);
        }
    }
    let mean = mean.map(|m| ((offset + m) / scale) as f32);
    let std = std.map(|s| (s / scale) as f32);
    match mean.iter().chain(&std).all(|x| x.is_finite()) && std.iter().all(|s| *s > 0.0) {
        true => Ok((mean, std)),
        false => Err("`image_std` must be above 0, and `image_mean` finite".into()),
    }
}

/// A number for each channel; one alone is for all.
fn three(settings: &Map<String, Value>, key: &str, default: [f32; 3]) -> Result<[f64; 3], String> {
    let wrong = || format!("`{key}` must be three numbers");
    match settings.get(key) {
        None | Some(Value::Null) => Ok(default.map(f64::from)),
        Some(Value::Array(list)) => {
            let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
            numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(wrong)
        }
        Some(value) => value.as_f64().map(|number| [number; 3]).ok_or_else(wrong),
    }
}

/// The preprocessing in timm's `pretrained_cfg`.
pub(super) fn of_timm(config: &Map<String, Value>) -> Found {
    let Some(Value::Object(settings)) = config.get("pretrained_cfg") else {
        return Err("there is no `pretrained_cfg`, which says how pictures are prepared".into());
    };
    let size = match settings.get("input_size").and_then(Value::as_array).map(Vec::as_slice) {
        Some([channels, height, width]) if channels.as_u64() == Some(3) && height == width => side(height)?,
        _ => return Err("`input_size` must be [3, side, side]".into()),
    };
    let part = settings.get("crop_pct").map_or(Some(0.875), Value::as_f64);
    let part = part.filter(|part| *part > 0.1 && *part <= 1.0).ok_or("`crop_pct` must be in 0.1..=1")?;
    let interpolation = match settings.get("interpolation").and_then(Value::as_str).unwrap_or("bicubic") {
        "bilinear" => Interpolation::Bilinear,
        "bicubic" => Interpolation::Bicubic,
        "lanczos" => Interpolation::Lanczos,
        "nearest" => Interpolation::Nearest,
        other => return Err(format!("`interpolation` is `{other}`, which is not done here")),
    };
    let fit = match settings.get("crop_mode").and_then(Value::as_str).unwrap_or("center") {
        "center" => Fit::Crop,
        "squash" if part == 1.0 => Fit::Stretch,
        other => {
            return Err(format!(
                "`crop_mode` is `{other}` with a `crop_pct` of {part}, which is not done here"
            ));
        }
    };
    let [mean, std] = [("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)].map(|(k, d)| three(settings, k, d));
    let (mean, std) = (mean?.map(|m| m as f32), std?.map(|s| s as f32));
    if !std.iter().all(|s| s.is_finite() && *s > 0.0) {
        return Err("`std` must be above 0".into());
    }
    let resize = (size as f64 / part).floor() as usize;
    Ok((Preprocessing { size, resize, fit, interpolation, mean, std, ..Preprocessing::default() }, None))
}
