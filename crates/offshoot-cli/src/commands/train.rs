//! `offshoot train`

mod watcher;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use offshoot::jobs::{self, TrainJob, shared_cache};
use offshoot::{Event, Settings, word};
use offshoot_train::CacheOptions;
use offshoot_train::train::{Figure, TrainResult};

use super::arguments::{AugmentationArguments, PreprocessingArguments, Processor, whole};
use super::printer::Printer;
use super::settings::SettingArguments;
use super::world::WorldArguments;
use super::{Failure, Outcome, print, signals};
use offshoot_graph::text::shown;
use watcher::Watcher;

#[derive(Args)]
pub(crate) struct Arguments {
    /// A folder with one folder of pictures for each class, or with `train` and `val` folders that hold those; or a table with a row
    /// for each picture: a .csv, .tsv or .jsonl with the columns path and label, or with --task multi labels or a column of 0 and 1 for
    /// each class.
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
    /// several times. With --task multi they are those of pictures that have the class (PyTorch's pos_weight), balanced: pictures
    /// without it over pictures with it.
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
    #[command(flatten)]
    world: WorldArguments,
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
        CacheOptions { folder: self.cache_dir.clone().or_else(shared_cache), budget: self.cache_budget }
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
        let job = self.job();
        let world = self.world.world();
        let recipe = job.recipe_shared(world)?;
        let executor = self.processor.device()?;
        let mut watcher = Watcher::new(recipe.task);
        let mut progress = |event: Event<'_>| watcher.tell(&event);
        let mut printer = Printer::default();
        let outcome =
            job.run_shared((&recipe, world), &executor, &mut printer, &mut progress, &signals::stop)?;
        watcher.finish();
        jobs::skipped_count(watcher.skipped).iter().for_each(|text| print::warning(text));
        let printed = if self.json { print::json(&outcome.result) } else { text(&outcome.result) };
        if outcome.interrupted {
            let run = word(&self.out);
            print::aside(&format!("interrupted; go on with: offshoot train --resume --out {run}"));
            return Err(Failure::Interrupted);
        }
        printed
    }

    /// The run that the flags ask for.
    fn job(&self) -> TrainJob {
        TrainJob {
            recipe_file: self.recipe.clone(),
            resume: self.resume,
            checkpoint_every: Duration::from_secs(self.checkpoint_every),
            cache: self.cache.options(),
            command: Some(command_line()),
            ..TrainJob::new(self.settings(), &self.out)
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
            model: self.model.clone(),
            weights: self.weights.clone(),
            data: self.data.clone(),
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
    let arguments = crate::arguments().iter().skip(1).cloned().map(quoted);
    std::iter::once("offshoot".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn text(result: &TrainResult) -> Outcome {
    let run: &Path = &result.run;
    if let Some(best) = &result.best {
        let figure = best.figure.value();
        let said = figure.map_or("not validated".into(), |x| match best.figure {
            Figure::ValAccuracy(_) => format!("validation accuracy {:.1} %", 100.0 * x),
            Figure::ValMap(_) => format!("validation mAP {:.1} %", 100.0 * x),
            Figure::ValMae(_) => format!("validation MAE {x:.5}"),
        });
        print::line(&format!("best epoch {}: {said}", best.epoch))?;
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
