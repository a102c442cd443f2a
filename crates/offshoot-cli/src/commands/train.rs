//! `offshoot train`

mod watcher;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use offshoot::{
    Control, Dataset, Error, Event, Model, ModelSource, Recipe, RunPictures, Settings, Transform,
    architecture_of, folded_norms, keep_base, keeps_head, resumed, starting_model, starting_preprocessing,
    train, with_default_recipe, word,
};
use offshoot_models::find;
use offshoot_train::CacheOptions;
use offshoot_train::run::has_checkpoint;
use offshoot_train::train::{Told, TrainResult};

use super::arguments::{self, AugmentationArguments, PreprocessingArguments, Processor, whole};
use super::destination::writable_folder;
use super::settings::SettingArguments;
use super::{Failure, Outcome, print, signals};
use offshoot_graph::text::shown;
use watcher::Watcher;

#[derive(Args)]
pub(crate) struct Arguments {
    /// A folder with one folder of pictures for each class, or with `train` and `val` folders that hold those.
    data: Option<PathBuf>,
    /// Architecture to fine-tune (`offshoot models` lists them), or a classifier with its graph: FILE.onnx, FILE.pt2.
    #[arg(long, help_heading = "Model", value_name = "NAME")]
    model: Option<String>,
    /// Pretrained weights: a .pth, .safetensors, TorchScript .pt or .pt2, or a run directory, whose head is kept where the classes
    /// are the same [default: random weights].
    #[arg(long, help_heading = "Model", value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Run directory.
    #[arg(long, help_heading = "Output", value_name = "RUN", default_value = "run")]
    out: PathBuf,
    /// Recipe file (TOML) with settings; flags take precedence over it.
    #[arg(long, help_heading = "Model", value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Class weights in the loss: balanced (inverse to the number of pictures), or CLASS=WEIGHT, which may be given
    /// several times.
    #[arg(long, help_heading = "Optimization", value_name = "WHICH", value_parser = class_weight)]
    class_weights: Vec<ClassWeight>,
    #[command(flatten)]
    settings: SettingArguments,
    #[command(flatten)]
    augmentation: AugmentationArguments,
    #[command(flatten)]
    cache: CacheArguments,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Resume the run in RUN from its last checkpoint; with a larger --epochs also after its end. Where there is no
    /// checkpoint yet, the run starts.
    #[arg(long, help_heading = "Output")]
    resume: bool,
    /// Longest time between two checkpoints; one is written after each epoch in any case.
    #[arg(long, help_heading = "Output", value_name = "SECONDS", default_value_t = 600, value_parser = whole::<u64>("checkpoint_every"))]
    checkpoint_every: u64,
    /// Print one JSON object on one line at the end.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// How features of frozen layers are cached.
#[derive(Args)]
struct CacheArguments {
    /// Folder of the cached backbone features; runs share it [default: offshoot/features in the user's cache folder].
    #[arg(long, help_heading = "Caching", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Maximum size of that folder, such as 500MiB; least recently used files are removed first. 0 turns caching off.
    #[arg(long, help_heading = "Caching", value_name = "SIZE", value_parser = bytes, default_value = "4GiB")]
    cache_budget: u64,
}

impl CacheArguments {
    fn options(&self) -> CacheOptions {
        let shared = || dirs::cache_dir().map(|folder| folder.join("offshoot").join("features"));
        CacheOptions { folder: self.cache_dir.clone().or_else(shared), budget: self.cache_budget }
    }
}

/// A number of bytes, KiB, MiB, GiB or TiB.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => 64,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1u64.checked_shl(shift)?));
    bytes.ok_or_else(|| "give a whole number of bytes, or with KiB, MiB, GiB or TiB: 500MiB".into())
}

/// What `--class-weights` names.
#[derive(Clone, Debug)]
enum ClassWeight {
    Balanced,
    Class(String, f64),
}

fn class_weight(text: &str) -> Result<ClassWeight, String> {
    if text == "balanced" {
        return Ok(ClassWeight::Balanced);
    }
    let parsed = text.rsplit_once('=').and_then(|(class, weight)| Some((class, weight.parse().ok()?)));
    let class = parsed.map(|(class, weight)| ClassWeight::Class(class.to_owned(), weight));
    class.ok_or_else(|| "give balanced, or CLASS=WEIGHT as in rare=3".into())
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let recipe = self.recipe()?;
        if !self.resume {
            writable_folder(&self.out)?;
        }
        let executor = self.processor.device()?;
        self.check_data(&recipe)?;
        // Before the run directory is made.
        Transform::new(&recipe.preprocessing)?;
        let data = Dataset::open(&recipe.data, &recipe.folder_options())?;
        print::notes(&data.notes);
        print::skipped(&data.skipped);
        let model = self.model(&recipe, &data.classes)?;
        let told = Told { warnings: self.warnings(&recipe, &data), notes: self.notes(&recipe, &model) };
        let mut watcher = Watcher::default();
        let mut base = Ok(());
        let mut progress = |event: Event<'_>| {
            if matches!(event, Event::Start { .. }) {
                base = keep_base(&recipe, &self.out);
            }
            watcher.tell(&event);
        };
        let mut control = Control::new(&mut progress, signals::stop());
        control.resume = self.resume;
        control.checkpoint_every = Duration::from_secs(self.checkpoint_every);
        control.cache = self.cache.options();
        control.command = Some(command_line());
        control.told = told;
        let outcome = train(model, &recipe, &data, &self.out, &executor, control)?;
        base?;
        watcher.finish();
        print::skipped_count(watcher.skipped);
        let printed = if self.json { print::json(&outcome.result) } else { text(&outcome.result) };
        if outcome.interrupted {
            let run = word(&self.out);
            print::aside(&format!("interrupted; go on with: offshoot train --resume --out {run}"));
            return Err(Failure::Interrupted);
        }
        printed
    }

    /// An error where the pictures of the run to resume are not where they were.
    fn check_data(&self, recipe: &Recipe) -> Result<(), Failure> {
        if !self.resume || !has_checkpoint(&self.out) || recipe.data.exists() {
            return Ok(());
        }
        let (run, data) = (word(&self.out), &recipe.data);
        let text = match &self.data {
            Some(_) => "no such folder; DATA is where the pictures of the run are now".to_owned(),
            None => format!(
                "the folder of the run's pictures is not there any more; where it has been moved, give its new place: offshoot train DATA \
                 --resume --out {run}"
            ),
        };
        Err(Error::Input(format!("{}: {text}", shown(data))).into())
    }

    /// What there is to warn of before a run starts.
    fn warnings(&self, recipe: &Recipe, data: &Dataset) -> Vec<String> {
        if self.resume && has_checkpoint(&self.out) {
            return Vec::new();
        }
        let published = find(&recipe.model).is_ok_and(|architecture| architecture.published().is_some());
        let mut warnings = Vec::new();
        // Random weights are rarely what somebody wants who could have trained ones.
        if recipe.weights.is_none() && published {
            let name = &recipe.model;
            warnings.push(format!(
                "{name} starts from random weights; `offshoot pull {name}` downloads pretrained ones for --weights"
            ));
        }
        let Some(weights) = &recipe.weights else { return warnings };
        warnings.extend(arguments::unfinished(weights));
        let run = arguments::run_of(&ModelSource::Path(weights.clone()));
        let pictures = run.and_then(|run| RunPictures::read(&run, &data.classes).ok());
        let known = pictures.map_or(0, |pictures| pictures.familiar(&data.val));
        if known > 0 {
            warnings.push(format!(
                "{}: these weights were trained with {known} of the {} validation pictures, so that the validation accuracy says \
                 little of new ones; the --seed and --val-fraction of their run split the same pictures as there",
                shown(weights),
                data.val.len()
            ));
        }
        warnings
    }

    /// What is said of the model that a run starts from.
    fn notes(&self, recipe: &Recipe, model: &Model) -> Vec<String> {
        let resumes = self.resume && has_checkpoint(&self.out);
        let weights = recipe.weights.as_deref().filter(|_| !resumes).unwrap_or(Path::new(""));
        let head = match keeps_head(recipe, &model.metadata.classes).filter(|_| !resumes) {
            Some(true) => Some(format!("{}: the head of these weights is kept", shown(weights))),
            Some(false) => Some(format!(
                "{}: the head is a new one: these weights have another, or other classes",
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
    fn model(&self, recipe: &Recipe, classes: &[String]) -> Result<Model, Failure> {
        if self.resume && has_checkpoint(&self.out) {
            return Ok(starting_model(&resumed(recipe, &self.out), classes, &mut print::warning)?);
        }
        Ok(starting_model(recipe, classes, &mut print::warning)?)
    }

    /// The settings of the flags and the recipe file, or those of the run to resume.
    fn recipe(&self) -> Result<Recipe, Failure> {
        let mut settings = self.settings();
        check_names([Some(&self.out), settings.data.as_ref(), settings.weights.as_ref()])?;
        if let Some(path) = &self.recipe {
            settings = settings.over(Settings::read(path)?)?;
        }
        if let Some(recipe) = self.saved_recipe(&settings)? {
            return Ok(recipe);
        }
        settings.model = settings.model.or_else(|| architecture_of(settings.weights.as_deref()?));
        if settings.model.is_none() {
            return Err(
                Error::Input("name the architecture: --model NAME (with --weights FILE)".into()).into()
            );
        }
        if settings.data.is_none() {
            let text =
                "give DATA, a folder with a folder of pictures for each class (or `data` in the recipe)";
            return Err(Error::Input(text.into()).into());
        }
        let own = starting_preprocessing(&settings)?;
        Ok(Recipe::resolve(with_default_recipe(settings), &own)?)
    }

    /// The recipe of the run to resume. `None` where a run starts: also with --resume, where the run has left no checkpoint and
    /// the settings say all that a new one needs.
    fn saved_recipe(&self, settings: &Settings) -> Result<Option<Recipe>, Failure> {
        let complete = settings.model.is_some() && settings.data.is_some();
        if !self.resume || (complete && !has_checkpoint(&self.out)) {
            return Ok(None);
        }
        match Recipe::resume(&self.out, settings)? {
            Some(recipe) => Ok(Some(recipe)),
            None => Err(Error::Input(format!(
                "{}: there is no run to resume here; give its folder with --out, or DATA and --model NAME to start one",
                shown(&self.out)
            ))
            .into()),
        }
    }

    /// What the flags say.
    fn settings(&self) -> Settings {
        let weights: BTreeMap<String, f64> = (self.class_weights.iter())
            .filter_map(|weight| match weight {
                ClassWeight::Balanced => None,
                ClassWeight::Class(class, weight) => Some((class.clone(), *weight)),
            })
            .collect();
        let balanced = self.class_weights.iter().any(|weight| matches!(weight, ClassWeight::Balanced));
        Settings {
            model: self.model.as_deref().map(absolute_file),
            weights: self.weights.as_deref().map(absolute),
            data: self.data.as_deref().map(absolute),
            class_weights: (!weights.is_empty()).then_some(weights),
            balance_classes: balanced.then_some(true),
            augment: self.augmentation.augment,
            augmentation: self.augmentation.settings(),
            threads: self.processor.threads.map(|n| n.get()),
            preprocessing: self.preprocessing.settings(),
            ..self.settings.0.clone()
        }
    }
}

/// The name of an architecture as it is, and that of a file as a path from any folder.
fn absolute_file(name: &str) -> String {
    match name.ends_with(".onnx") || name.ends_with(".pt2") {
        true => absolute(Path::new(name)).to_string_lossy().into_owned(),
        false => name.to_owned(),
    }
}

/// The same path from any folder: a run may be resumed from another one.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The recipe and the result hold these paths, and neither TOML nor JSON takes a name that is not UTF-8.
fn check_names<const N: usize>(paths: [Option<&PathBuf>; N]) -> Result<(), Failure> {
    match paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
        None => Ok(()),
        Some(path) => {
            let path = shown(path);
            Err(Error::Input(format!(
                "{path}: the name is not UTF-8, and a recipe can hold no other; rename it"
            ))
            .into())
        }
    }
}

/// The command that this process is, as a shell would take it.
fn command_line() -> String {
    let quoted = |argument: std::ffi::OsString| {
        let text = argument.to_string_lossy().into_owned();
        let plain = |c: char| c.is_alphanumeric() || "-_./=:,%@+".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    let arguments = std::env::args_os().skip(1).map(quoted);
    std::iter::once("offshoot".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn text(result: &TrainResult) -> Outcome {
    let run: &Path = &result.run;
    if let Some(best) = &result.best {
        let accuracy = best
            .val_accuracy
            .map_or("not validated".into(), |a| format!("validation accuracy {:.1} %", 100.0 * a));
        print::line(&format!("best epoch {}: {accuracy}", best.epoch))?;
    }
    let time = print::duration(Duration::try_from_secs_f64(result.seconds).unwrap_or_default());
    print::line(&format!("{} epochs in {time}; everything is in {}", result.epochs, shown(run)))
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_units() {
        let sizes = ["0", "17", "3KiB", "500MiB", "4GiB", "1TiB"].map(|text| bytes(text).ok());
        assert_eq!(sizes, [0, 17, 3 << 10, 500 << 20, 4 << 30, 1 << 40].map(Some));
        for bad in ["", "GiB", "-1", "1.5GiB", "4GB", "99999999999TiB", "18446744073709551616"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
