//! What travels with a model: read from a file and checked against its graph, or assumed where a file has nothing.

use offshoot_graph::{Metadata, Preprocessing, Rejection, Score, Task};

use crate::error::Problem;

/// More rows or columns than any network's input has.
pub(crate) const MAX_PICTURE: usize = 1 << 13;
/// More than any size or padding in a classifier, in pixels.
pub(crate) const MAX_SIDE: usize = 1 << 16;
/// More classes than any classifier of pictures has.
pub(crate) const MAX_CLASSES: usize = 1 << 20;

/// The metadata that `json` holds, for a graph of `classes` logits that takes pictures of `size` pixels a side (or any).
pub(crate) fn parse(
    json: &str,
    place: &str,
    classes: usize,
    size: Option<usize>,
) -> Result<Metadata, Problem> {
    let damaged = |what: String| Problem::damaged(place, what);
    let metadata: Metadata = serde_json::from_str(json).map_err(|e| damaged(e.to_string()))?;
    if metadata.classes.len() != classes {
        let named = metadata.classes.len();
        return Err(damaged(format!("it names {named} classes, the graph gives {classes} logits")));
    }
    let steps = &metadata.preprocessing;
    if let Some(size) = size
        && size != steps.size
    {
        return Err(damaged(format!("it makes pictures of {} pixels, the graph takes {size}", steps.size)));
    }
    let usable = |std: &f32| std.is_finite() && *std > 0.0;
    if !(1..=MAX_PICTURE).contains(&steps.size) || steps.resize > MAX_SIDE || !steps.std.iter().all(usable) {
        return Err(damaged("its preprocessing has an impossible size or std".into()));
    }
    let thresholds = &metadata.thresholds;
    let usable = |threshold: &f64| (0.0..=1.0).contains(threshold);
    if !(thresholds.is_empty() || thresholds.len() == classes) || !thresholds.iter().all(usable) {
        return Err(damaged("its thresholds are not one for each class, 0 to 1".into()));
    }
    check_decision(&metadata).map_err(|what| damaged(what.into()))?;
    Ok(metadata)
}

/// Checks the temperature, the reject threshold and the scales of targets of a file.
///
/// # Errors
/// What is wrong with them.
pub fn check_decision(metadata: &Metadata) -> Result<(), &'static str> {
    if metadata.temperature.is_some_and(|t| !(1e-6..=1e6).contains(&t)) {
        return Err("its temperature is no number from 1e-6 to 1e6");
    }
    let usable = |rejection: Rejection| {
        let Rejection { score, threshold, precision } = rejection;
        let fits = match score {
            Score::Probability => (0.0..=1.0).contains(&threshold),
            Score::Energy => threshold.is_finite(),
        };
        fits && precision > 0.0 && precision <= 1.0
    };
    if !metadata.rejection.is_none_or(usable) {
        return Err("its rejection has an impossible threshold or precision");
    }
    if !metadata.task.is_single() && (metadata.temperature.is_some() || metadata.rejection.is_some()) {
        return Err("a temperature and a rejection are for one class a picture, and its task is another");
    }
    let Some(regression) = &metadata.regression else { return Ok(()) };
    let scales = &regression.scales;
    if metadata.task != Task::Regression {
        return Err("it has the scale of targets, and its task is not regression");
    }
    if scales.len() != metadata.classes.len() || !scales.iter().all(|scale| scale.is_usable()) {
        return Err("the scales of its targets are not one for each, with a deviation above 0");
    }
    Ok(())
}

/// What a file without our metadata most likely expects, and a warning that says so.
pub(crate) fn assume(classes: usize, size: Option<usize>, warnings: &mut Vec<String>) -> Metadata {
    let defaults = Preprocessing::default();
    let size = size.unwrap_or(defaults.size);
    // The center of a picture: 224 of 256, and in proportion.
    let resize = (size * defaults.resize).div_ceil(defaults.size);
    warnings.push(format!(
        "the file does not say how pictures are prepared: assuming {size} by {size} pixels with ImageNet's mean and \
         std, and class names that are indices"
    ));
    Metadata {
        architecture: None,
        head: None,
        classes: (0..classes).map(|i| i.to_string()).collect(),
        preprocessing: Preprocessing { size, resize, ..defaults },
        ..Metadata::default()
    }
}
