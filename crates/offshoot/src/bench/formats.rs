//! One model on every target that this machine can run: speed, size, accuracy, and the difference from our own f32.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use offshoot_data::{Loader, LoaderOptions, Sample, Transform};
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::remedy::BATCH;
use offshoot_graph::text::shown;
use offshoot_graph::{Metadata, Model, Tensor};
use offshoot_infer::Figures;
use offshoot_train::report::{FORMATS_FILE, FormatRow, FormatStatus, FormatsReport};

use super::files::{Files, Made};
use super::onnx_runtime::OnnxRuntime;
use super::python::Environments;
use super::runner::{Answer, Opened, Runner, of_file, of_file_in_bf16};
use super::{check_batch, processor, pytorch, quantile};
use crate::compare::{Comparison, Differences, Inputs, TOLERANCE, batches};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::integers::check_float;
use crate::quantize::QuantizePictures;
use crate::staging::MadeFolders;

/// Steps of each target at each batch before those that are timed. PyTorch compiles in its first ones.
const WARM_UP: usize = 3;
/// Steps in a row that are timed when a target has its turn.
const STEPS_A_TURN: usize = 5;
/// For so long, and at least for one step, it runs untimed before them: its threads are to be awake, its weights in the cache.
const AWAKE: Duration = Duration::from_millis(50);
/// A pause before a turn, for the threads of the target before it to stop watching for work.
const REST: Duration = Duration::from_millis(20);

/// What the targets are measured with.
#[derive(Clone, Debug, PartialEq)]
pub struct FormatsOptions {
    /// Batch size; each is measured.
    pub batches: Vec<usize>,
    /// Timed steps of each target at each batch.
    pub runs: usize,
    /// Where the files of the targets and the measurements stay; without, the files are removed in the end.
    pub out: Option<PathBuf>,
    /// SHA-256 of the checkpoint, for the manifests.
    pub source_sha256: Option<String>,
    /// How many of the pictures the model was trained with, where that is known.
    pub trained_on: Option<usize>,
}

/// How far [`bench_formats`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FormatsProgress<'a> {
    /// What is done now, in words.
    Doing(&'a str),
    /// `done` of `total` of something.
    Counting {
        /// What is counted.
        what: &'static str,
        /// So many are done.
        done: u64,
        /// Of so many.
        total: u64,
    },
}

/// Makes the file of every target as `export` and `quantize` make it, runs those that can be run here alternately at each
/// batch, and has each classify the pictures to measure on; without pictures their logits are compared on built-in ones.
/// Static int8 is calibrated on `pictures`. A target that cannot be run has a row with the reason.
///
/// # Errors
/// When the model is quantized already or cannot be exported as ONNX, our own runtime cannot run it at one of the batches,
/// or a file cannot be written.
pub fn bench_formats(
    model: &Model,
    pictures: &QuantizePictures,
    options: &FormatsOptions,
    device: &Device,
    progress: &mut dyn FnMut(FormatsProgress<'_>),
) -> Result<FormatsReport> {
    check(model, options)?;
    let temporary;
    let _made;
    let folder = match &options.out {
        Some(out) => {
            _made = MadeFolders::new(out)?;
            out.as_path()
        }
        None => {
            let failed =
                |source| Error::Io { path: std::env::temp_dir(), action: "create a folder in", source };
            temporary = tempfile::tempdir().map_err(failed)?;
            temporary.path()
        }
    };
    let sha256 = options.source_sha256.as_deref();
    let files = Files::make(model, pictures, folder, sha256, device, progress)?;
    progress(FormatsProgress::Doing("looking for ONNX Runtime and PyTorch"));
    let mut versions = BTreeMap::from([("offshoot".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    let mut bench = Bench { targets: open(&files, device, &mut versions), progress };
    bench.measure(model, &options.batches, options.runs)?;
    let pictures = bench.classify(model, pictures, &options.batches)?;
    let report = FormatsReport {
        rows: rows(&bench.targets, &options.batches),
        cpu: processor::name(),
        cpu_features: processor::features(),
        isa: device.isa().to_owned(),
        threads: device.threads(),
        warm_up: WARM_UP,
        runs: options.runs,
        pictures,
        trained_on: options.trained_on,
        task: model.metadata.task,
        versions,
    };
    if let Some(out) = &options.out {
        write_formats(out, &report)?;
    }
    Ok(report)
}

/// Writes the measurements into `folder`, where the report of a run finds them.
///
/// # Errors
/// When the file cannot be written, or another of that name is there.
pub fn write_formats(folder: &Path, report: &FormatsReport) -> Result<()> {
    check_formats(folder)?;
    let text = serde_json::to_string_pretty(report)
        .map_err(|e| Error::Input(format!("the measurements cannot be written as JSON: {e}")))?;
    Ok(write_atomically(&folder.join(FORMATS_FILE), |out| writeln!(out, "{text}"))?)
}

/// Checks that the file in `folder` that has the name of the measurements, if there is one, holds measurements of offshoot.
///
/// # Errors
/// When it holds something else.
pub fn check_formats(folder: &Path) -> Result<()> {
    let theirs = |why: std::io::Error| {
        Error::Input(format!(
            "{}: there is something already that offshoot has not measured ({why}), and it would be lost; move or remove it",
            shown(folder.join(FORMATS_FILE))
        ))
    };
    FormatsReport::read(folder).map(drop).map_err(theirs)
}

fn check(model: &Model, options: &FormatsOptions) -> Result<()> {
    check_float(model)?;
    if options.runs == 0 || options.batches.is_empty() {
        return Err(Error::Input("give at least one batch and one run".into()));
    }
    let size = model.metadata.preprocessing.size;
    options.batches.iter().try_for_each(|&batch| check_batch(batch, size).map(|_| ()))?;
    if let [only] = batches(&[model])[..]
        && options.batches.iter().any(|&batch| batch != only)
    {
        return Err(Error::advice(format_args!(
            "the model takes batches of {only} pictures only: give {BATCH} {only}"
        )));
    }
    Ok(())
}

/// A runtime with a file.
struct Target {
    name: &'static str,
    bytes: Option<u64>,
    runner: Opened,
    /// Milliseconds of each timed step, by batch.
    times: BTreeMap<usize, Vec<f64>>,
    comparison: Option<Comparison>,
    accuracy: Option<f64>,
}

/// Every target, our own f32 first.
fn open(files: &Files, device: &Device, versions: &mut BTreeMap<String, String>) -> Vec<Target> {
    let threads = device.threads();
    let mut targets = Vec::new();
    let mut add = |name, made: &Made, open: &mut dyn FnMut(&Path) -> Opened| {
        let (bytes, runner) = match made {
            Ok(file) => (Some(file.bytes), open(&file.path)),
            Err(reason) => (None, Err(reason.clone())),
        };
        let (times, comparison, accuracy) = (BTreeMap::new(), None, None);
        targets.push(Target { name, bytes, runner, times, comparison, accuracy });
    };
    let mut ours = |path: &Path| of_file(path, device);
    add("offshoot-f32", &files.onnx, &mut ours);
    add("offshoot-bf16", &files.onnx, &mut |path| of_file_in_bf16(path, device));
    add("offshoot-int8-static", &files.int8_static, &mut ours);
    add("offshoot-int8-dynamic", &files.int8_dynamic, &mut ours);
    add("offshoot-torchscript", &files.torchscript, &mut ours);
    let environments = Environments::find();
    let onnx_runtime = OnnxRuntime::load(&environments);
    if let Ok(runtime) = &onnx_runtime {
        versions.insert("onnxruntime".into(), runtime.version().into());
    }
    let mut theirs = |path: &Path| onnx_runtime.as_ref().map_err(String::clone)?.open(path, threads);
    add("onnxruntime-f32", &files.onnx, &mut theirs);
    add("onnxruntime-int8-static", &files.int8_static, &mut theirs);
    add("onnxruntime-int8-dynamic", &files.int8_dynamic, &mut theirs);
    add("pytorch-f32-optimized", &files.torchscript, &mut |path| {
        let pytorch = pytorch::PyTorch::start(&environments, path, threads)?;
        versions.insert("pytorch".into(), pytorch.version().into());
        Ok(Box::new(pytorch))
    });
    add("coreml-f16", &files.coreml, &mut |_| Err("Core ML runs on macOS and iOS only".into()));
    add("tensorrt-f16", &files.tensorrt, &mut |_| {
        Err("needs an NVIDIA GPU with TensorRT: build-engine.sh, run there, builds the engine".into())
    });
    targets
}

struct Bench<'a> {
    targets: Vec<Target>,
    progress: &'a mut dyn FnMut(FormatsProgress<'_>),
}

impl Bench<'_> {
    /// Times the targets at each batch.
    fn measure(&mut self, model: &Model, batches: &[usize], runs: usize) -> Result<()> {
        let inputs = Inputs::built_in(&model.metadata.preprocessing)?;
        let turns = runs.div_ceil(STEPS_A_TURN) + 1;
        let total = (turns * self.targets.len() * batches.len()) as u64;
        let mut done = 0;
        for &batch in batches {
            let images = inputs.batch(0..batch);
            for turn in 0..turns {
                // The first turn warms up. Then every other round goes backwards, so that no target always follows the same.
                let timed = match turn {
                    0 => 0,
                    _ => STEPS_A_TURN.min(runs - (turn - 1) * STEPS_A_TURN),
                };
                let mut order: Vec<usize> = (0..self.targets.len()).collect();
                if turn % 2 == 1 {
                    order.reverse();
                }
                for place in order {
                    self.targets[place].turn(&images, batch, timed);
                    done += 1;
                    (self.progress)(FormatsProgress::Counting { what: "measure", done, total });
                }
            }
        }
        self.ours()
    }

    /// An error where our own runtime, which all is compared with, has failed.
    fn ours(&self) -> Result<()> {
        match &self.targets[0].runner {
            Ok(_) => Ok(()),
            Err(reason) => Err(Error::Input(format!("our own runtime cannot run the model: {reason}"))),
        }
    }

    /// Has each target classify the measured pictures, or, where none can be used, look at the built-in ones. How many
    /// pictures with classes there were.
    fn classify(&mut self, model: &Model, pictures: &QuantizePictures, batches: &[usize]) -> Result<u64> {
        let preprocessing = &model.metadata.preprocessing;
        let size = preprocessing.size;
        let batch = batches.iter().copied().max().unwrap_or(1);
        let mut answers: Vec<Answers> = self.targets.iter().map(|_| Answers::new(&model.metadata)).collect();
        let transform = Transform::new(preprocessing)?;
        let options = LoaderOptions::evaluation(&transform, batch);
        let loader = Loader::new(pictures.measured.clone(), transform, options);
        let (total, mut done) = (pictures.measured.len() as u64, 0);
        for pictures in loader.epoch(0) {
            let pictures = pictures?;
            let samples: Vec<&Sample> =
                pictures.indices.iter().map(|&index| &loader.samples()[index as usize]).collect();
            self.look(full(&pictures.images, batch, size), Some(&samples), &mut answers)?;
            done += pictures.labels.len() as u64;
            (self.progress)(FormatsProgress::Counting { what: "classify", done, total });
        }
        if done == 0 {
            let inputs = Inputs::built_in(preprocessing)?;
            for start in (0..inputs.len()).step_by(batch) {
                self.look(inputs.batch(start..start + batch), None, &mut answers)?;
            }
        }
        for (target, Answers { differences, figures, .. }) in self.targets.iter_mut().zip(answers) {
            target.comparison = Some(differences.judge(vec![batch], TOLERANCE));
            target.accuracy = figures.score().filter(|_| figures.images() > 0);
        }
        Ok(done)
    }

    /// Runs every target on a batch, of which as many pictures count as there are labels.
    fn look(&mut self, images: Tensor, labels: Option<&[&Sample]>, answers: &mut [Answers]) -> Result<()> {
        let mut reference: Vec<f32> = Vec::new();
        for (target, answers) in self.targets.iter_mut().zip(answers) {
            let Some(logits) = target.logits(&images, answers.classes) else { continue };
            if reference.is_empty() {
                // Our own f32 comes first.
                reference.clone_from(&logits);
            }
            answers.add(&reference, &logits, labels);
        }
        self.ours()
    }
}

/// Pictures as a batch of `batch`, filled from the start where they are fewer.
fn full(pixels: &[f32], batch: usize, size: usize) -> Tensor {
    let filled = pixels.iter().copied().cycle().take(batch * 3 * size * size);
    Tensor::f32([batch, 3, size, size], filled.collect())
}

impl Target {
    /// Runs `timed` steps that count, after some that do not; where none is to count, those that warm up.
    fn turn(&mut self, images: &Tensor, batch: usize, timed: usize) {
        let Ok(runner) = &mut self.runner else { return };
        std::thread::sleep(REST);
        let answer = match timed {
            0 => runner.run(images, WARM_UP).map(|_| Vec::new()),
            _ => awake(&mut **runner, images, timed).map(|answer| answer.milliseconds),
        };
        match answer {
            Ok(times) => self.times.entry(batch).or_default().extend(times),
            Err(reason) => self.runner = Err(reason),
        }
    }

    /// Its logits; `None` where it cannot be run.
    fn logits(&mut self, images: &Tensor, classes: usize) -> Option<Vec<f32>> {
        let wanted = images.shape()[0] * classes;
        let reason = match self.runner.as_mut().ok()?.run(images, 1) {
            Ok(answer) if answer.logits.len() == wanted => return Some(answer.logits),
            Ok(answer) => format!("it returned {} numbers, not {wanted}", answer.logits.len()),
            Err(reason) => reason,
        };
        self.runner = Err(reason);
        None
    }
}

/// Runs for [`AWAKE`], and then the steps that count.
fn awake(runner: &mut dyn Runner, images: &Tensor, steps: usize) -> std::result::Result<Answer, String> {
    let start = Instant::now();
    runner.run(images, 1)?;
    while start.elapsed() < AWAKE {
        runner.run(images, 1)?;
    }
    runner.run(images, steps)
}

/// The outputs of a target so far.
struct Answers {
    classes: usize,
    differences: Differences,
    figures: Figures,
}

impl Answers {
    fn new(model: &Metadata) -> Answers {
        let (classes, differences) = (model.classes.len().max(1), Differences::new(model));
        Answers { classes, differences, figures: Figures::new(model) }
    }

    /// Adds logits beside those of our own f32: of as many pictures as have labels, of all where none has.
    fn add(&mut self, reference: &[f32], logits: &[f32], samples: Option<&[&Sample]>) {
        let classes = self.classes;
        let count = samples.map_or(logits.len() / classes, <[&Sample]>::len);
        let pictures = reference.chunks_exact(classes).zip(logits.chunks_exact(classes)).take(count);
        pictures.for_each(|(a, b)| self.differences.add_picture(a, b));
        if let Some(samples) = samples {
            self.figures.add(&logits[..count * classes], samples.iter().copied());
        }
    }
}

/// The rows of the report: by target, then by batch.
fn rows(targets: &[Target], batches: &[usize]) -> Vec<FormatRow> {
    let median = |target: &Target, batch| quantile(target.times.get(&batch)?, 0.5);
    let mut rows = Vec::new();
    for target in targets {
        let row = FormatRow {
            target: target.name.into(),
            batch: None,
            status: FormatStatus::NotRun,
            reason: target.runner.as_ref().err().cloned(),
            images_per_second: None,
            p50_ms: None,
            p95_ms: None,
            bytes: target.bytes,
            accuracy: None,
            speedup: None,
            max_abs_diff: None,
            max_rel_diff: None,
            top1_agreement: None,
        };
        if target.runner.is_err() {
            rows.push(row);
            continue;
        }
        for &batch in batches {
            let p50 = median(target, batch);
            let comparison = target.comparison.as_ref();
            rows.push(FormatRow {
                batch: Some(batch),
                status: FormatStatus::Ran,
                images_per_second: p50.map(|ms| batch as f64 * 1e3 / ms),
                p50_ms: p50,
                p95_ms: target.times.get(&batch).and_then(|times| quantile(times, 0.95)),
                accuracy: target.accuracy,
                speedup: median(&targets[0], batch).zip(p50).map(|(ours, theirs)| ours / theirs),
                max_abs_diff: comparison.map(|c| c.max_abs_diff),
                max_rel_diff: comparison.map(|c| c.max_rel_diff),
                top1_agreement: comparison.map(|c| c.top1_agreement),
                ..row.clone()
            });
        }
    }
    rows
}
