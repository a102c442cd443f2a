//! A training run, from settings to its result.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use offshoot_data::{Dataset, Transform, data_exists};
use offshoot_graph::remedy::{MODEL, OUT, RESUME, WEIGHTS};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model};
use offshoot_models::find;
use offshoot_train::run::has_checkpoint;
use offshoot_train::train::{Outcome, Told};
use offshoot_train::{CacheOptions, Control, Event, Recipe, RunPictures, Settings, train};
use offshoot_world::{Alone, World};

use super::{Listener, run_of, skipped, unfinished, writable_folder};
use crate::error::{Error, Result};
use crate::folded::folded_norms;
use crate::source::{ModelSource, huggingface, word};
use crate::start::{
    architecture_of, keep_base, keeps_head, resumed, starting_model, starting_preprocessing,
    with_default_recipe,
};

/// A training run to be, or to go on with.
#[derive(Clone, Debug)]
pub struct TrainJob {
    /// What is known of the settings; [`TrainJob::recipe`] decides the rest.
    pub settings: Settings,
    /// A file of settings, over which `settings` take precedence.
    pub recipe_file: Option<PathBuf>,
    /// The run directory.
    pub out: PathBuf,
    /// Whether to go on with the run that is there. Where it has no checkpoint yet, it starts.
    pub resume: bool,
    /// The longest time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Where features of frozen layers are cached.
    pub cache: CacheOptions,
    /// What started the run, for its log.
    pub command: Option<String>,
}

/// The folder of features of frozen layers that runs share, in the user's folder of caches; `None` where there is none.
pub fn shared_cache() -> Option<PathBuf> {
    dirs::cache_dir().map(|folder| folder.join("offshoot").join("features"))
}

impl TrainJob {
    /// A run with these settings in the folder `out`, with a checkpoint every ten minutes and at most 4 GiB of cached features.
    pub fn new(settings: Settings, out: impl Into<PathBuf>) -> TrainJob {
        TrainJob {
            settings,
            recipe_file: None,
            out: out.into(),
            resume: false,
            checkpoint_every: Duration::from_secs(600),
            cache: CacheOptions { folder: shared_cache(), budget: 4 << 30 },
            command: None,
        }
    }

    /// Every setting of the run, decided: of the settings, the recipe file, the run that goes on, and the model.
    ///
    /// # Errors
    /// When a setting cannot be used, or what is needed is missing.
    pub fn recipe(&self) -> Result<Recipe> {
        self.recipe_shared(&Alone)
    }

    /// [`TrainJob::recipe`] of a run that is spread over the processes of a world. The first process reads the folder of a run that is to go
    /// on, for all.
    ///
    /// # Errors
    /// As [`TrainJob::recipe`], and when the settings of the processes differ.
    pub fn recipe_shared(&self, world: &dyn World) -> Result<Recipe> {
        let settings = Settings { threads: None, ..from_any_folder(self.settings.clone()) };
        world.agree(&[("settings", format!("{settings:#?}\nresume: {}", self.resume))])?;
        if !world.is_shared() || !self.resume {
            return self.own_recipe();
        }
        let own = if world.is_first() { self.own_recipe()?.to_toml() } else { String::new() };
        let text = world.broadcast(own.into_bytes())?;
        let mut recipe = Recipe::of_toml(&String::from_utf8_lossy(&text), &self.out)?;
        recipe.threads = self.settings.threads.or(recipe.threads);
        Ok(recipe)
    }

    /// The recipe as this process reads it.
    fn own_recipe(&self) -> Result<Recipe> {
        let mut settings = from_any_folder(self.settings.clone());
        check_names([Some(&self.out), settings.data.as_ref(), settings.weights.as_ref()])?;
        if let Some(path) = &self.recipe_file {
            settings = settings.over(Settings::read(path)?)?;
        }
        if let Some(recipe) = self.saved_recipe(&settings)? {
            return Ok(recipe);
        }
        settings.model = settings.model.or_else(|| architecture_of(settings.weights.as_deref()?));
        if settings.model.is_none() {
            return Err(Error::advice(format_args!(
                "name the architecture: {MODEL} NAME (with {WEIGHTS} FILE)"
            )));
        }
        if settings.data.is_none() {
            let text =
                "give DATA, a folder with a folder of pictures for each class (or `data` in the recipe)";
            return Err(Error::Input(text.into()));
        }
        let own = starting_preprocessing(&settings)?;
        Ok(Recipe::resolve(with_default_recipe(settings), &own)?)
    }

    /// Trains with `recipe`, that of [`TrainJob::recipe`], until the last epoch or until what `stop` gives is true, and tells `progress`
    /// what happens. `stop` is called when pictures and model have been read.
    ///
    /// # Errors
    /// When the pictures, the model or the weights cannot be used, the run directory is in use, or training fails.
    pub fn run<'s>(
        &self,
        recipe: &Recipe,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
        progress: &mut dyn FnMut(Event<'_>),
        stop: &dyn Fn() -> &'s AtomicBool,
    ) -> Result<Outcome> {
        self.run_shared((recipe, &Alone), executor, listener, progress, stop)
    }

    /// [`TrainJob::run`] spread over the processes of a world, which all call it with their recipe of [`TrainJob::recipe_shared`]. The
    /// first alone writes files and tells `progress`.
    ///
    /// # Errors
    /// As [`TrainJob::run`], and when the processes differ in something that decides about the result, or one cannot be reached.
    pub fn run_shared<'s>(
        &self,
        (recipe, world): (&Recipe, &dyn World),
        executor: &dyn Executor,
        listener: &mut dyn Listener,
        progress: &mut dyn FnMut(Event<'_>),
        stop: &dyn Fn() -> &'s AtomicBool,
    ) -> Result<Outcome> {
        if !self.resume && world.is_first() {
            writable_folder(&self.out)?;
        }
        let goes_on = world.any(world.is_first() && self.goes_on())?;
        self.check_data(recipe, goes_on)?;
        // Before the run directory is made.
        Transform::new(&recipe.preprocessing)?;
        let data = Dataset::open(&recipe.data, &recipe.folder_options())?;
        data.notes.iter().for_each(|note| listener.warning(note));
        skipped(&data.skipped).iter().for_each(|line| listener.warning(line));
        let model = self.model(recipe, &data.classes, goes_on, listener)?;
        let (warnings, notes) = match goes_on {
            true => (Vec::new(), self.notes(recipe, &model, true)),
            false => (warnings(recipe, &data), self.notes(recipe, &model, false)),
        };
        let told = Told { warnings, notes };
        let mut base = Ok(());
        let mut progress = |event: Event<'_>| {
            if matches!(event, Event::Start { .. }) {
                base = keep_base(recipe, &self.out);
            }
            progress(event);
        };
        let mut control = Control::new(&mut progress, stop());
        control.resume = self.resume;
        control.checkpoint_every = self.checkpoint_every;
        control.cache = self.cache.clone();
        control.command = self.command.clone();
        control.told = told;
        control.world = world;
        let outcome = train(model, recipe, &data, &self.out, executor, control)?;
        base?;
        Ok(outcome)
    }

    /// Whether there is a checkpoint that the run goes on from.
    fn goes_on(&self) -> bool {
        self.resume && has_checkpoint(&self.out)
    }

    /// An error where the pictures of the run to resume are not where they were.
    fn check_data(&self, recipe: &Recipe, goes_on: bool) -> Result<()> {
        if !goes_on || data_exists(&recipe.data) {
            return Ok(());
        }
        let (run, data) = (word(&self.out), shown(&recipe.data));
        Err(match &self.settings.data {
            Some(_) => {
                Error::Input(format!("{data}: no such folder; DATA is where the pictures of the run are now"))
            }
            None => Error::advice(format_args!(
                "{data}: the folder of the run's pictures is not there any more; where it has been moved, give its new place: offshoot train DATA \
                 {RESUME} {OUT} {run}"
            )),
        })
    }

    /// What is said of the model that a run starts from.
    fn notes(&self, recipe: &Recipe, model: &Model, resumes: bool) -> Vec<String> {
        let weights = recipe.weights.as_deref().filter(|_| !resumes).unwrap_or(Path::new(""));
        let head = match keeps_head(recipe, &model.metadata.classes).filter(|_| !resumes) {
            Some(true) => Some(format!("{}: the head of these weights is kept", shown(weights))),
            Some(false) => Some(format!(
                "{}: the head is a new one: these weights have another, other classes or another task",
                shown(weights)
            )),
            None => None,
        };
        let from_file = model.metadata.architecture.is_none() && !resumes;
        let norms = from_file.then(|| folded_norms(&model.graph)).flatten();
        head.into_iter().chain(norms.map(|text| format!("{}: {text}", recipe.model))).collect()
    }

    /// The model to start from. A run that goes on takes its weights from its checkpoint, so it does not ask for the
    /// pretrained ones again.
    fn model(
        &self,
        recipe: &Recipe,
        classes: &[String],
        goes_on: bool,
        listener: &mut dyn Listener,
    ) -> Result<Model> {
        let mut say = |text: &str| listener.warning(text);
        match goes_on {
            true => starting_model(&resumed(recipe, &self.out), classes, &mut say),
            false => starting_model(recipe, classes, &mut say),
        }
    }

    /// The recipe of the run to resume. `None` where a run starts: also one that is to be resumed and has left no checkpoint, where
    /// the settings say all that a new one needs.
    fn saved_recipe(&self, settings: &Settings) -> Result<Option<Recipe>> {
        let complete = settings.model.is_some() && settings.data.is_some();
        if !self.resume || (complete && !has_checkpoint(&self.out)) {
            return Ok(None);
        }
        match Recipe::resume(&self.out, settings)? {
            Some(recipe) => Ok(Some(recipe)),
            None => Err(Error::advice(format_args!(
                "{}: there is no run to resume here; give its folder with {OUT}, or DATA and {MODEL} NAME to start one",
                shown(&self.out)
            ))),
        }
    }
}

/// What there is to warn of before a run starts.
fn warnings(recipe: &Recipe, data: &Dataset) -> Vec<String> {
    let published = find(&recipe.model).is_ok_and(|architecture| architecture.published().is_some());
    let mut warnings = Vec::new();
    // Random weights are rarely what somebody wants who could have trained ones.
    if recipe.weights.is_none() && published {
        let name = &recipe.model;
        warnings.push(format!(
            "{name} starts from random weights; `offshoot pull {name}` downloads pretrained ones for {WEIGHTS}"
        ));
    }
    let Some(weights) = &recipe.weights else { return warnings };
    warnings.extend(unfinished(weights));
    let run = run_of(&ModelSource::Path(weights.clone()));
    let pictures = run.and_then(|run| RunPictures::read(&run, &data.classes).ok());
    let known = pictures.map_or(0, |pictures| pictures.familiar(&data.val));
    if known > 0 {
        warnings.push(format!(
            "{}: these weights were trained with {known} of the {} validation pictures, so that the validation accuracy says \
             little of new ones; the seed and the validation fraction of their run split the same pictures as there",
            shown(weights),
            data.val.len()
        ));
    }
    warnings
}

/// The settings with paths that hold from any folder: a run may be resumed from another one.
fn from_any_folder(settings: Settings) -> Settings {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    // The name of an architecture stays as it is.
    let is_file = |name: &str| {
        name.ends_with(".onnx") || name.ends_with(".pt2") || huggingface::is_folder(Path::new(name))
    };
    let file = |name: String| match is_file(&name) {
        true => absolute(name.into()).to_string_lossy().into_owned(),
        false => name,
    };
    Settings {
        model: settings.model.map(file),
        weights: settings.weights.map(absolute),
        data: settings.data.map(absolute),
        root: settings.root.map(absolute),
        ..settings
    }
}

/// The recipe and the result hold these paths, and neither TOML nor JSON takes a name that is not UTF-8.
fn check_names<const N: usize>(paths: [Option<&PathBuf>; N]) -> Result<()> {
    match paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
        None => Ok(()),
        Some(path) => Err(Error::Input(format!(
            "{}: the name is not UTF-8, and a recipe can hold no other; rename it",
            shown(path)
        ))),
    }
}
