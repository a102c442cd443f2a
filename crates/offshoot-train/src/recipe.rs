//! Every setting of a training run: [`Settings`] as a file or the command line gives them, [`Recipe`] once all are known.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use offshoot_graph::text::{quoted, shortened, shown};

use offshoot_data::{Augmentation, DecodeOptions, FolderOptions, Policy};
use offshoot_formats::atomic::write_atomically;
use offshoot_formats::error::FormatError;
use offshoot_graph::passes::Pattern;
use offshoot_graph::remedy::OUT;
use offshoot_graph::{Fit, Interpolation, Preprocessing};
use serde::{Deserialize, Serialize};

use crate::groups::GroupOptions;
use crate::optimizer::{Clip, OptimizerOptions};
use crate::progressive::{resized, size_at};
use crate::ranges::{self, check_real, check_whole, product_fits};
use crate::schedule::ScheduleKind;
use crate::unfreeze::{Stages, Unfreeze};

pub use crate::settings::{Recipe, Settings};
pub use offshoot_infer::files::RECIPE_FILE;

/// The head that replaces the pretrained one unless another is asked for.
pub const DEFAULT_HEAD: &str = "linear,dropout=0.2";

/// Which parameters training leaves alone: `backbone`, `none`, or patterns with commas between them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Freeze {
    /// Nothing is frozen.
    #[default]
    None,
    /// All but the head, which is what comes after the last convolution and batch norm.
    Backbone,
    /// What one of the patterns matches.
    Patterns(Vec<Pattern>),
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> Result<Freeze, String> {
        match text.trim() {
            "none" => Ok(Freeze::None),
            "backbone" => Ok(Freeze::Backbone),
            patterns => {
                let parsed: Result<Vec<Pattern>, String> =
                    patterns.split(',').map(|p| p.trim().parse()).collect();
                let explain = |_| {
                    format!(
                        "`{}` is not `backbone`, `none` or patterns with commas between them",
                        quoted(text)
                    )
                };
                parsed.map(Freeze::Patterns).map_err(explain)
            }
        }
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freeze::None => f.write_str("none"),
            Freeze::Backbone => f.write_str("backbone"),
            Freeze::Patterns(patterns) => {
                let texts: Vec<String> = patterns.iter().map(Pattern::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

impl Serialize for Freeze {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Freeze {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Freeze, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What happens to a training picture at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augment {
    /// Nothing: each epoch sees the same pictures.
    Off,
    /// What [`Recipe::augmentation`] says: by default a random resized crop and a random flip where the fit is `crop`, a random
    /// flip where it is `pad` or `stretch`.
    On,
}

/// What becomes of a step that would leave a number which is not finite, and so is refused. Steps that a loss scaler leaves out
/// are none of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonFinite {
    /// The run ends with an error.
    #[default]
    Stop,
    /// It is left out, with a warning. The run ends with an error after ten of them in a row, or an epoch of nothing else.
    Skip,
    /// The run goes back to where its epoch began and goes on at half the rate, with a warning; the sixth time it ends with an
    /// error. A second copy of what trains is kept in memory for that.
    Rollback,
}

/// Changes to the default [`Augmentation`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields are those of `Augmentation`
pub struct AugmentationSettings {
    pub crop_scale: Option<[f64; 2]>,
    pub crop_ratio: Option<[f64; 2]>,
    pub flip: Option<f64>,
    pub flip_vertical: Option<f64>,
    pub rotate: Option<f64>,
    pub brightness: Option<f64>,
    pub contrast: Option<f64>,
    pub saturation: Option<f64>,
    pub hue: Option<f64>,
    pub policy: Option<Policy>,
    pub erase: Option<f64>,
    pub mixup: Option<f64>,
    pub cutmix: Option<f64>,
}

/// Changes to a model's [`Preprocessing`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields are those of `Preprocessing`
pub struct PreprocessingSettings {
    pub size: Option<usize>,
    pub resize: Option<usize>,
    pub fit: Option<Fit>,
    pub interpolation: Option<Interpolation>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
    pub background: Option<[u8; 3]>,
    pub exif_rotation: Option<bool>,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {}", quoted(setting), shortened(reason, MESSAGE))]
pub struct SettingError {
    /// The setting, as the recipe file calls it.
    pub setting: String,
    /// What it must be, and what it is.
    pub reason: String,
}

/// The most characters of a line of what is wrong with a setting.
const MESSAGE: usize = 1000;

/// The words of a parser, without the middle of a value that it repeats.
pub(crate) fn bounded(message: &str) -> String {
    let words: Vec<_> = message.split(' ').map(quoted).collect();
    shortened(&words.join(" "), MESSAGE).into_owned()
}

/// A recipe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", shown(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no recipe: not TOML, an unknown setting, or a value of the wrong type.
    #[error("{}: {message}", shown(path))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with the line.
        message: String,
    },
    /// A setting in a file is out of range.
    #[error("{}:{line}: {problem}", shown(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The line of the setting, from 1.
        line: usize,
        /// The setting and what is wrong with it.
        problem: SettingError,
    },
    /// A setting that did not come from a file is out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A setting that has no default was not given.
    #[error("{0}; give it on the command line or in the recipe")]
    Missing(String),
    /// Settings that differ from those of the run that is resumed.
    #[error(
        "{}: the run was started with other settings: {}. Leave them out to resume it, or start another run with {OUT}",
        shown(run), conflicts.join(", "), OUT = OUT)]
    Conflict {
        /// The run directory.
        run: PathBuf,
        /// Each setting with its two values.
        conflicts: Vec<String>,
    },
    /// The recipe cannot be written.
    #[error(transparent)]
    Write(#[from] FormatError),
}

impl Settings {
    /// Reads a recipe file. It need not have all settings.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown setting or a value that cannot be used. The message names the line.
    pub fn read(path: &Path) -> Result<Settings, RecipeError> {
        let text = offshoot_files::read_text(path, offshoot_files::Kind::RECIPE)
            .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        let settings: Settings = toml::from_str(&text).map_err(|error| RecipeError::Syntax {
            path: path.to_owned(),
            message: bounded(error.to_string().trim_end()),
        })?;
        settings.check().map_err(|problem| RecipeError::File {
            path: path.to_owned(),
            line: line_of(&text, &problem.setting),
            problem,
        })?;
        Ok(settings)
    }

    /// These settings, and those of `base` where these say nothing.
    ///
    /// # Errors
    /// When one of them is out of range.
    pub fn over(self, base: Settings) -> Result<Settings, RecipeError> {
        self.check()?;
        base.check()?;
        let mut merged = table(&base);
        overlay(&mut merged, table(&self));
        Ok(merged.try_into().expect("a table of settings from two tables of settings"))
    }

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
fn check_together(recipe: &Recipe) -> Result<(), SettingError> {
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

impl Recipe {
    /// Decides what `settings` leave open. `preprocessing` is the model's own.
    ///
    /// The defaults: head `linear,dropout=0.2`, 30 epochs, batch 16, AdamW at 1e-3 with weight decay 1e-2, a cosine after
    /// 5 % of warm-up (none for `onecycle`), a fifth for validation, seed 0. Nothing is frozen, or the backbone where something
    /// is to be unfrozen. Augmentation is on, but off where the backbone is frozen and neither `cache_views` nor anything of
    /// `augmentation` is given: then each picture goes through what stays frozen only once.
    /// A `size` without `resize` scales the model's own `resize`.
    ///
    /// # Errors
    /// When a setting is out of range or does not go with another, or `model` or `data` is not given.
    pub fn resolve(settings: Settings, preprocessing: &Preprocessing) -> Result<Recipe, RecipeError> {
        settings.check()?;
        let unfreezes = settings.unfreeze.as_ref().is_some_and(|u| !u.is_empty());
        let freeze = if unfreezes { Freeze::Backbone } else { Freeze::None };
        let frozen = settings.freeze.as_ref().unwrap_or(&freeze) == &Freeze::Backbone;
        let changed = settings.augmentation.as_ref().is_some_and(|a| a != &AugmentationSettings::default());
        let once = frozen && settings.cache_views.is_none() && !changed;
        let cycle = matches!(settings.schedule, Some(ScheduleKind::OneCycle(_)));
        let size = settings.preprocessing.as_ref().and_then(|p| p.size);
        let given = settings.over(Settings {
            warmup: Some(if cycle { 0.0 } else { 0.05 }),
            freeze: Some(freeze),
            augment: Some(if once { Augment::Off } else { Augment::On }),
            augmentation: Some(default_augmentation()),
            preprocessing: Some(scaled(preprocessing, size)),
            ..Settings::defaults()
        })?;
        let recipe: Recipe = table(&given)
            .try_into()
            .map_err(|e: toml::de::Error| RecipeError::Missing(bounded(e.message())))?;
        check_together(&recipe)?;
        Ok(recipe)
    }

    /// How training pictures become inputs in the epoch after `epoch` finished ones.
    pub fn training_preprocessing(&self, epoch: u64) -> Preprocessing {
        let own = &self.preprocessing;
        match size_at(&self.progressive, epoch, self.epochs, own.size) {
            size if size == own.size => own.clone(),
            size => resized(own, size),
        }
    }

    /// What happens to training pictures at random; `None` where nothing does.
    pub fn augmentation(&self) -> Option<Augmentation> {
        match self.augment {
            Augment::On => Some(self.augmentation),
            Augment::Off => None,
        }
    }

    /// Reads the recipe of a run.
    ///
    /// # Errors
    /// As [`Settings::read`], and when a setting is missing.
    pub fn read(run: &Path) -> Result<Recipe, RecipeError> {
        let path = run.join(RECIPE_FILE);
        let syntax =
            |e: toml::de::Error| RecipeError::Syntax { path: path.clone(), message: bounded(e.message()) };
        table(&Settings::read(&path)?).try_into().map_err(syntax)
    }

    /// The recipe of the run in the folder `run` if it has one, for `--resume`. The saved recipe wins; `flags` may repeat
    /// it and must not say otherwise. Only the number of threads may be another, since no result depends on it, `epochs` may be
    /// more: the run then goes on to those, and `data` may be another folder where the saved one is not there any more: training
    /// compares the pictures in it with those of the run.
    ///
    /// # Errors
    /// As [`Recipe::read`], and when `flags` differ: all that do are listed.
    pub fn resume(run: &Path, flags: &Settings) -> Result<Option<Recipe>, RecipeError> {
        if !run.join(RECIPE_FILE).exists() {
            return Ok(None);
        }
        flags.check()?;
        let mut recipe = Recipe::read(run)?;
        recipe.threads = flags.threads.or(recipe.threads);
        let more = flags.epochs.filter(|&epochs| epochs > recipe.epochs);
        let moved = flags.data.clone().filter(|data| *data != recipe.data && !recipe.data.exists());
        let mut kept = flags.clone();
        kept.epochs = kept.epochs.filter(|_| more.is_none());
        kept.data = kept.data.filter(|_| moved.is_none());
        let mut conflicts = Vec::new();
        compare("", &table(&recipe), &table(&kept), &mut conflicts);
        if !conflicts.is_empty() {
            return Err(RecipeError::Conflict { run: run.to_owned(), conflicts });
        }
        recipe.data = moved.unwrap_or(recipe.data);
        Ok(Some(more.map_or(recipe.clone(), |epochs| recipe.longer(epochs))))
    }

    /// The recipe as the text of `recipe.toml`.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a checked recipe has a TOML form")
    }

    /// Writes `recipe.toml` into the folder `run`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, run: &Path) -> Result<(), FormatError> {
        let text = self.to_toml();
        write_atomically(&run.join(RECIPE_FILE), |file| std::io::Write::write_all(file, text.as_bytes()))
    }

    /// How the folder of pictures is read.
    pub fn folder_options(&self) -> FolderOptions {
        FolderOptions {
            val_fraction: self.val_fraction,
            seed: self.seed,
            strict: self.strict,
            decode: DecodeOptions::from(&self.preprocessing),
        }
    }

    /// The update rule and its numbers.
    pub fn optimizer_options(&self) -> OptimizerOptions {
        OptimizerOptions {
            momentum: self.momentum,
            nesterov: self.nesterov,
            ..OptimizerOptions::new(self.optimizer)
        }
    }

    /// What is done to gradients that are too large.
    pub fn clip(&self) -> Clip {
        match (self.clip_norm, self.clip_value) {
            (Some(most), _) => Clip::Norm(most),
            (None, Some(most)) => Clip::Value(most),
            (None, None) => Clip::Off,
        }
    }

    /// The stages of the run.
    pub fn stages(&self) -> Stages {
        Stages::new(&self.freeze, &self.unfreeze, self.epochs).freeze_norms(self.freeze_norms)
    }

    /// How rates are given out where `unfrozen` has been unfrozen.
    ///
    /// # Errors
    /// When a pattern of `lr_groups` is none.
    pub fn rates(&self, unfrozen: Vec<Unfreeze>) -> Result<GroupOptions, String> {
        let groups = self.lr_groups.iter().map(|(pattern, &lr)| Ok((pattern.parse()?, lr)));
        Ok(GroupOptions {
            lr: self.lr,
            weight_decay: self.weight_decay,
            decay_norms_and_biases: self.decay_norms_and_biases,
            lr_groups: groups.collect::<Result<_, String>>()?,
            layer_decay: self.layer_decay,
            unfrozen,
        })
    }
}

fn default_augmentation() -> AugmentationSettings {
    let all = table(&Augmentation::default());
    all.try_into().expect("settings of augmentation from all that there are")
}

/// The model's own preprocessing, its `resize` scaled to another `size`.
fn scaled(own: &Preprocessing, size: Option<usize>) -> PreprocessingSettings {
    let resize = size.map_or(own.resize, |size| own.resize_for(size));
    PreprocessingSettings {
        size: Some(own.size),
        resize: Some(resize),
        fit: Some(own.fit),
        interpolation: Some(own.interpolation),
        mean: Some(own.mean),
        std: Some(own.std),
        background: Some(own.background),
        exif_rotation: Some(own.exif_rotation),
    }
}

fn table(settings: &impl Serialize) -> toml::Table {
    toml::Table::try_from(settings).expect("settings have a TOML form: `check` bounds whole numbers")
}

/// Tables whose keys are settings of their own; others are taken as a whole.
const MERGED: [&str; 2] = ["augmentation", "preprocessing"];

/// Puts `top` over `base`. Only some tables are merged key by key.
fn overlay(base: &mut toml::Table, top: toml::Table) {
    for (key, value) in top {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(top)) if MERGED.contains(&key.as_str()) => {
                overlay(base, top)
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Lists what `flags` say and `saved` does not.
fn compare(path: &str, saved: &toml::Table, flags: &toml::Table, conflicts: &mut Vec<String>) {
    for (key, flag) in flags {
        match (saved.get(key), flag) {
            (Some(toml::Value::Table(saved)), toml::Value::Table(flag)) if MERGED.contains(&key.as_str()) => {
                compare(&format!("{key}."), saved, flag, conflicts);
            }
            (Some(saved), flag) if saved == flag => {}
            (saved, flag) => {
                let saved = saved.map_or("nothing".into(), toml::Value::to_string);
                let (saved, flag) = (quoted(&saved), flag.to_string());
                conflicts.push(format!("`{path}{key}` is {saved} there and {} here", quoted(&flag)));
            }
        }
    }
}

/// The line of a setting (`lr`, `lr_groups.fc`) in the text of a recipe, from 1.
fn line_of(text: &str, setting: &str) -> usize {
    let parsed = toml::de::DeTable::parse(text).ok();
    let start = parsed.and_then(|table| {
        let (key, inner) = setting.split_once('.').map_or((setting, None), |(key, inner)| (key, Some(inner)));
        let (name, value) = table.get_ref().iter().find(|(name, _)| name.get_ref() == key)?;
        let inner = value.get_ref().as_table().zip(inner).and_then(|(t, inner)| {
            t.iter().find(|(name, _)| name.get_ref() == inner).map(|(name, _)| name.span().start)
        });
        Some(inner.unwrap_or(name.span().start))
    });
    text[..start.unwrap_or(0)].matches('\n').count() + 1
}
