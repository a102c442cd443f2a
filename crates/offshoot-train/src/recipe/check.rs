//! Whether settings are in their ranges and go together.

use offshoot_data::Augmentation;
use offshoot_graph::passes::Pattern;
use offshoot_graph::{Fit, Task};

use crate::ranges::{self, check_real, check_whole, product_fits};
use crate::recipe_error::SettingError;
use crate::settings::{Augment, AugmentationSettings, Recipe, Settings};
use crate::unfreeze::Unfreeze;

impl Settings {
    /// Checks the range of each setting that is given.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn check(&self) -> Result<(), SettingError> {
        let preprocessing = self.preprocessing.as_ref();
        for (setting, value) in [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size.map(|n| n as u64)),
            ("accumulate", self.accumulate.map(|n| n as u64)),
            ("average_last", self.average_last),
            ("patience", self.patience),
            ("cache_views", self.cache_views),
            ("threads", self.threads.map(|n| n as u64)),
            ("seed", self.seed),
            ("preprocessing.size", preprocessing.and_then(|p| p.size).map(|n| n as u64)),
            ("preprocessing.resize", preprocessing.and_then(|p| p.resize).map(|n| n as u64)),
        ] {
            check_whole(setting, value)?;
        }
        for (setting, value) in [
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("momentum", self.momentum),
            ("label_smoothing", self.label_smoothing),
            ("val_fraction", self.val_fraction),
            ("warmup", self.warmup),
            ("ema", self.ema),
            ("min_delta", self.min_delta),
            ("reject_precision", self.reject_precision),
            ("clip_norm", self.clip_norm),
            ("clip_value", self.clip_value),
            ("layer_decay", self.layer_decay),
        ] {
            check_real(setting, value)?;
        }
        for (pattern, &rate) in self.lr_groups.iter().flatten() {
            let setting = format!("lr_groups.{pattern}");
            check_real(&setting, Some(rate))?;
            pattern.parse::<Pattern>().map_err(|reason| SettingError { setting, reason })?;
        }
        for (class, &weight) in self.class_weights.iter().flatten() {
            check_real(&format!("class_weights.{class}"), Some(weight))?;
        }
        for (setting, values) in [
            ("preprocessing.mean", preprocessing.and_then(|p| p.mean)),
            ("preprocessing.std", preprocessing.and_then(|p| p.std)),
        ] {
            values.iter().flatten().try_for_each(|&x| check_real(setting, Some(x.into())))?;
        }
        self.augmentation.as_ref().map_or(Ok(()), AugmentationSettings::check)
    }
}

impl AugmentationSettings {
    fn check(&self) -> Result<(), SettingError> {
        let named = |name: &str| format!("augmentation.{name}");
        for (name, value) in [
            ("flip", self.flip),
            ("flip_vertical", self.flip_vertical),
            ("erase", self.erase),
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
            ("hue", self.hue),
            ("rotate", self.rotate),
            ("mixup", self.mixup),
            ("cutmix", self.cutmix),
        ] {
            check_real(&named(name), value)?;
        }
        for (name, range, most) in
            [("crop_scale", self.crop_scale, 1.0), ("crop_ratio", self.crop_ratio, 100.0)]
        {
            let Some([low, high]) = range else { continue };
            let fits = |x: f64| (0.01..=most).contains(&x);
            if !(fits(low) && fits(high) && low <= high) {
                let reason = format!(
                    "must be two numbers within 0.01 and {most}, the smaller first, not {},{}",
                    ranges::shown(low),
                    ranges::shown(high)
                );
                return Err(SettingError { setting: named(name), reason });
            }
        }
        Ok(())
    }
}

/// Settings that exclude each other, or leave something undone.
pub(super) fn check_together(recipe: &Recipe) -> Result<(), SettingError> {
    let refuse = |setting: &str, reason: String| Err(SettingError { setting: setting.into(), reason });
    if let Some(late) = recipe.unfreeze.iter().find(|u| u.epoch(recipe.epochs) >= recipe.epochs) {
        let reason = format!("has `{late}`, which {} epochs do not reach; give more epochs", recipe.epochs);
        return refuse("unfreeze", reason);
    }
    let rate = |u: &&Unfreeze| product_fits(u.factor, recipe.lr);
    if let Some(unfreeze) = recipe.unfreeze.iter().find(|u| !rate(u)) {
        let lr = ranges::shown(recipe.lr);
        let reason =
            format!("has `{unfreeze}`, whose learning rate, that many times {lr}, is no f32 above 0");
        return refuse("unfreeze", reason);
    }
    for change in &recipe.progressive {
        if let Some(problem) = change.problem(recipe.preprocessing.size) {
            return refuse("progressive", problem);
        }
        if change.epoch(recipe.epochs) >= recipe.epochs {
            let reason =
                format!("has `{change}`, which {} epochs do not reach; give more epochs", recipe.epochs);
            return refuse("progressive", reason);
        }
    }
    check_task(recipe)?;
    if !recipe.progressive.is_empty() && recipe.cache_views.is_some() {
        let reason = "cannot be given together with progressive: cached features are of one size";
        return refuse("cache_views", reason.into());
    }
    if recipe.clip_norm.is_some() && recipe.clip_value.is_some() {
        return refuse("clip_value", "cannot be given together with `clip_norm`".into());
    }
    if recipe.average_last > 0 && recipe.patience.is_some() {
        let reason = "cannot be given together with `patience`: which epochs are the last is not known then";
        return refuse("average_last", reason.into());
    }
    if recipe.average_last > recipe.epochs {
        let reason = format!("must be at most the {} epochs, not {}", recipe.epochs, recipe.average_last);
        return refuse("average_last", reason);
    }
    let (how, usual) = (&recipe.augmentation, Augmentation::default());
    if recipe.augment == Augment::Off && *how != usual {
        return refuse("augment", "must be `on` where flags or `augmentation` ask for random changes of pictures (flips, mixup and the like)".into());
    }
    if recipe.preprocessing.fit != Fit::Crop
        && (how.crop_scale, how.crop_ratio) != (usual.crop_scale, usual.crop_ratio)
    {
        let reason = "has crop_scale or crop_ratio, which only the fit `crop` goes by";
        return refuse("augmentation", reason.into());
    }
    if how.mix().is_on() && recipe.cache_views.is_some() {
        let reason = "cannot be given together with mixup or cutmix: pictures are mixed before the network sees them, so \
                      that nothing about a single picture can be kept";
        return refuse("cache_views", reason.into());
    }
    Ok(())
}

/// Settings that are for another task than that of `recipe`.
fn check_task(recipe: &Recipe) -> Result<(), SettingError> {
    let refuse =
        |setting: &str, reason: &str| Err(SettingError { setting: setting.into(), reason: reason.into() });
    let rejects = [
        ("reject_precision", recipe.reject_precision.is_some()),
        ("reject_score", recipe.reject_score.is_some()),
    ];
    let rejects = rejects.into_iter().find(|(_, given)| *given).map(|(setting, _)| setting);
    match recipe.task {
        Task::Single | Task::Multi if recipe.loss.is_some() => {
            refuse("loss", "is for the task `regression`; leave it out")
        }
        Task::Single => Ok(()),
        Task::Multi if recipe.balanced_sampling => refuse(
            "balanced_sampling",
            "is for one class a picture; with several labels, `balance_classes` weighs rare ones more",
        ),
        Task::Multi => rejects.map_or(Ok(()), |setting| {
            refuse(
                setting,
                "is for one class a picture; with several labels, each class has a threshold of its own",
            )
        }),
        Task::Regression => {
            let of_classes = [
                ("balanced_sampling", recipe.balanced_sampling),
                ("balance_classes", recipe.balance_classes),
                ("class_weights", !recipe.class_weights.is_empty()),
                ("label_smoothing", recipe.label_smoothing > 0.0),
            ];
            let given = of_classes.into_iter().find(|(_, given)| *given).map(|(setting, _)| setting);
            given.or(rejects).map_or(Ok(()), |setting| {
                refuse(setting, "is for classes, and regression has none; leave it out")
            })
        }
    }
}
