//! How the settings of a run are read, decided and written: [`Settings`] as a file or the command line gives them, [`Recipe`] once
//! all are known.

mod check;
mod table;

use std::path::Path;

use offshoot_data::{Augmentation, DecodeOptions, FolderOptions, data_exists};
use offshoot_formats::atomic::write_atomically;
use offshoot_formats::error::FormatError;
use offshoot_graph::{Preprocessing, Score};

use crate::freeze::Freeze;
use crate::groups::GroupOptions;
use crate::optimizer::{Clip, OptimizerOptions};
use crate::progressive::{resized, size_at};
use crate::recipe_error::bounded;
use crate::run::RECIPE_FILE;
use crate::schedule::ScheduleKind;
use crate::unfreeze::{Stages, Unfreeze};

use check::check_together;
use table::{compare, line_of, overlay, table};

/// The fraction of the accepted pictures that is to be right where a recipe does not say.
pub const DEFAULT_PRECISION: f64 = 0.95;

/// What pictures are rejected by where a recipe does not say: the better one of those that files carry, by the measurement in the guide.
pub const DEFAULT_SCORE: Score = Score::Energy;

pub use crate::recipe_error::{RecipeError, SettingError};
pub use crate::settings::{
    Augment, AugmentationSettings, DEFAULT_HEAD, OnNonFinite, PreprocessingSettings, Recipe, Settings,
};

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
        let settings = Settings::read(&path)?;
        table(&settings).try_into().map_err(|e: toml::de::Error| wrong(&path, &e))
    }

    /// The recipe of the run in the folder `run`, from the text that [`Recipe::to_toml`] gave.
    ///
    /// # Errors
    /// When it is another text.
    pub fn of_toml(text: &str, run: &Path) -> Result<Recipe, RecipeError> {
        toml::from_str(text).map_err(|error| wrong(&run.join(RECIPE_FILE), &error))
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
        let moved = flags.data.clone().filter(|data| *data != recipe.data && !data_exists(&recipe.data));
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

    /// How the folder or the table of pictures is read.
    pub fn folder_options(&self) -> FolderOptions {
        FolderOptions {
            val_fraction: self.val_fraction,
            seed: self.seed,
            strict: self.strict,
            decode: DecodeOptions::from(&self.preprocessing),
            columns: self.columns.clone().unwrap_or_default(),
            root: self.root.clone(),
            task: self.task,
        }
    }

    /// What pictures are rejected by, and the fraction of the accepted ones that is to be right.
    pub fn rejection(&self) -> (Score, f64) {
        (self.reject_score.unwrap_or(DEFAULT_SCORE), self.reject_precision.unwrap_or(DEFAULT_PRECISION))
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

fn wrong(path: &Path, error: &toml::de::Error) -> RecipeError {
    RecipeError::Syntax { path: path.to_owned(), message: bounded(error.message()) }
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
