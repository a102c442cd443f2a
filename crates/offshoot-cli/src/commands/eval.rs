//! `offshoot eval`

use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{
    Error, FolderOptions, Inference, Labelled, Loader, LoaderOptions, RunPictures, Sample, Transform,
    batch_within, evaluate, evaluate_views, labelled,
};
use offshoot_graph::text::{escaped, shown};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor, TtaArgument};
use super::{Failure, Outcome, print};

/// Pictures that go through the network at once.
const BATCH: usize = 32;

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL (a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt or a .pt2) and DATA (a folder with one
    /// folder of pictures for each class) [default for a run: its own validation pictures].
    #[arg(value_name = "MODEL DATA", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    tta: TtaArgument,
    #[command(flatten)]
    processor: Processor,
    /// Treat a picture that cannot be read as an error instead of skipping it.
    #[arg(long, help_heading = "Data")]
    strict: bool,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    accuracy: f64,
    top5: f64,
    loss: f64,
    images: u64,
    skipped: usize,
    per_class: Map<String, Value>,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (source, rest) = self.pretrained.source(self.paths)?;
        let data = arguments::data(rest)?;
        let run = arguments::run_of(&source);
        if data.is_none() && run.is_none() {
            return Err(arguments::no_data().into());
        }
        let executor = self.processor.device()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let transform = Transform::new(&model.metadata.preprocessing)?;
        let decode = transform.decode_options();
        let folder = FolderOptions { strict: self.strict, decode, ..FolderOptions::default() };
        let classes = &model.metadata.classes;
        let found = match (&data, &run) {
            (Some(data), run) => {
                let found = labelled(data, classes, &folder)?;
                print::notes(&found.notes);
                mention_absent(data, &found.absent, classes);
                if let Some(Ok(of_run)) = run.as_ref().map(|run| RunPictures::read(run, classes)) {
                    arguments::mention_familiar(of_run.familiar(&found.samples), data, found.samples.len());
                }
                found
            }
            (None, Some(run)) => validation(run, classes)?,
            (None, None) => return Err(arguments::no_data().into()),
        };
        let loader = |view| {
            let plain = LoaderOptions::evaluation(&transform, batch_within(&model, BATCH));
            let options = LoaderOptions { strict: self.strict, view, ..plain };
            Loader::new(found.samples.clone(), transform.clone(), options)
        };
        let loaders: Vec<Loader> = self.tta.views(&model.metadata)?.into_iter().map(loader).collect();
        let bar = print::bar((found.samples.len() * loaders.len()) as u64, "eval");
        let mut network = Inference::new(&model, &executor)?;
        let done = |done| bar.set_position(done);
        let metrics = match &loaders[..] {
            [one] => evaluate(&mut network, classes.len(), one, done)?,
            all => evaluate_views(&mut network, classes.len(), all, done)?,
        };
        bar.finish_and_clear();
        let mut skipped = found.skipped;
        skipped.extend(loaders.first().map(Loader::skipped).unwrap_or_default());
        print::skipped(&skipped);

        let per_class = metrics.per_class().into_iter().zip(classes).filter(|(c, _)| c.images > 0);
        let report = Report {
            accuracy: metrics.accuracy(),
            top5: metrics.top5(),
            loss: metrics.loss(),
            images: metrics.images(),
            skipped: skipped.len(),
            per_class: per_class
                .map(|(c, name)| (name.clone(), json!({"images": c.images, "accuracy": c.accuracy})))
                .collect(),
        };
        if self.json { print::json(&report) } else { report.print() }
    }
}

/// The pictures that a run was validated with.
fn validation(run: &Path, classes: &[String]) -> Result<Labelled, Failure> {
    let of_run = RunPictures::read(run, classes)?;
    let samples = of_run.val.clone();
    let folder = shown(run);
    if samples.is_empty() {
        return Err(Error::Input(format!("{folder}: this run has no validation pictures; give DATA")).into());
    }
    let gone: Vec<&Sample> = samples.iter().filter(|sample| !sample.path.exists()).collect();
    if let Some(first) = gone.first() {
        return Err(Error::Input(format!(
            "{}: {} of the {} validation pictures of {folder} are no longer where they were, this one the first; put them back, or \
             give DATA",
            shown(&first.path),
            gone.len(),
            samples.len()
        ))
        .into());
    }
    arguments::mention_changed(&of_run);
    Ok(Labelled { samples, absent: Vec::new(), skipped: Vec::new(), notes: Vec::new() })
}

fn mention_absent(data: &Path, absent: &[String], classes: &[String]) {
    if absent.is_empty() {
        return;
    }
    let (n, all) = (absent.len(), classes.len());
    let named = absent.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if n > 5 { ", ..." } else { "" };
    print::warning(&format!(
        "{}: no picture of {n} of the model's {all} classes: {named}{more}",
        shown(data)
    ));
}

impl Report {
    fn print(&self) -> Outcome {
        print::line(&format!("accuracy  {:.4}", self.accuracy))?;
        print::line(&format!("top-5     {:.4}", self.top5))?;
        print::line(&format!("loss      {:.4}", self.loss))?;
        print::line(&format!("images    {} ({} skipped)", self.images, self.skipped))?;
        if self.per_class.len() > 30 {
            return Ok(());
        }
        let names: Vec<String> = self.per_class.keys().map(|class| escaped(class)).collect();
        let width = print::widest(names.iter().map(String::as_str));
        for (class, figures) in names.iter().zip(self.per_class.values()) {
            let accuracy = figures["accuracy"].as_f64().unwrap_or(0.0);
            let class = print::padded(class, width);
            print::line(&format!("  {class}  {accuracy:.4}  of {}", figures["images"]))?;
        }
        Ok(())
    }
}
