//! Static int8: from a trained model to one in integers, within an accuracy budget.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use offshoot_data::{Loader, LoaderOptions, Sample, Transform};
use offshoot_formats::onnx;
use offshoot_graph::passes::freeze;
use offshoot_graph::remedy::{CALIBRATION, DATA, MAX_DROP, QAT};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model, RegressionLoss, Task, Tensor, Weights};
use offshoot_quant::{
    Calibration, Method, Network, Scheme, WeightBits, calibrate, fake_quantize, quantize, rank,
};
use offshoot_train::{
    Inference, OptimizerKind, OptimizerOptions, StepOptions, TrainStep, copies, evaluate, targets,
};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::export::{Proof, export_onnx, shipped_by};
use crate::integers::check_float;
use crate::memory::batch_within;

/// Pictures that are run at once, to calibrate and to measure.
const BATCH: usize = 8;
/// Pictures that operators are ranked on: of the first batches of the calibration.
const RANKED_BATCHES: usize = 3;
/// The rate of `--qat`, of Adam, at its start; it falls to 0 along a line. Small steps: the weights are good already.
const QAT_RATE: f64 = 1e-5;
/// Pictures of a step of `--qat`.
const QAT_BATCH: usize = 16;

/// How a model is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticOptions {
    /// The types and where they stand.
    pub scheme: Scheme,
    /// How the range of an activation is chosen.
    pub method: Method,
    /// The most pictures to calibrate on; of more, evenly spaced ones are taken.
    pub pictures: usize,
    /// The accuracy that may be lost, or of several labels, the mean average precision, or of numbers, the mean R^2; operators stay in float
    /// until no more is. Without, everything is quantized.
    pub max_drop: Option<f64>,
    /// Epochs of quantization-aware training.
    pub qat_epochs: u64,
}

impl Default for StaticOptions {
    /// Seven-bit weights, ranges of the least squared error over 128 pictures, no budget, no training.
    fn default() -> StaticOptions {
        StaticOptions {
            scheme: Scheme::cpu(WeightBits::Seven),
            method: Method::default(),
            pictures: 128,
            max_drop: None,
            qat_epochs: 0,
        }
    }
}

/// The pictures that quantization looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizePictures {
    /// To calibrate on: pictures that the model was trained with, or others like them; never those it is measured on.
    pub calibration: Vec<PathBuf>,
    /// To train with, where that is asked for.
    pub train: Vec<Sample>,
    /// To measure on; empty where nothing is measured.
    pub measured: Vec<Sample>,
}

/// What became of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantized {
    /// The file. Its manifest stands beside it.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The size of the same model in f32, as the same kind of file, batch norms folded.
    pub bytes_before: u64,
    /// How good it is, where it was measured.
    #[serde(flatten)]
    pub measured: Measured,
    /// The operators that stayed in float, the costliest first.
    pub kept_float: Vec<String>,
}

/// How good a quantized model is and its float model was, where they were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// The fraction of the pictures that it gets right.
    pub accuracy: Option<f64>,
    /// The same of the float model.
    pub accuracy_before: Option<f64>,
    /// In their place, of a model for any number of classes a picture, the mean average precision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<f64>,
    /// The same of the float model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_before: Option<f64>,
    /// In their place, of a model that predicts numbers, the mean R^2 of the targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// The same of the float model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2_before: Option<f64>,
}

impl Measured {
    /// The figures of a task, now and before.
    pub fn new(task: Task, [now, before]: [Option<f64>; 2]) -> Measured {
        match task {
            Task::Single => Measured { accuracy: now, accuracy_before: before, ..Measured::default() },
            Task::Multi => Measured { map: now, map_before: before, ..Measured::default() },
            Task::Regression => Measured { r2: now, r2_before: before, ..Measured::default() },
        }
    }

    /// What was measured, in words, with the figures now and before.
    pub fn figures(&self) -> Option<(&'static str, f64, f64)> {
        let of = |name, now: Option<f64>, before: Option<f64>| Some((name, now?, before?));
        of("accuracy", self.accuracy, self.accuracy_before)
            .or_else(|| of("mAP", self.map, self.map_before))
            .or_else(|| of("R^2", self.r2, self.r2_before))
    }
}

/// A quantized model, and what is known of it.
#[derive(Clone, Debug)]
pub struct StaticModel {
    /// The model: QuantizeLinear and DequantizeLinear around float operators, weights of i8.
    pub model: Model,
    /// The fraction of the measured pictures that it gets right; of several labels, the mean average precision; of numbers, the mean R^2.
    pub accuracy: Option<f64>,
    /// The same of the float model.
    pub accuracy_before: Option<f64>,
    /// The operators that stayed in float, the costliest first.
    pub kept_float: Vec<String>,
}

impl StaticModel {
    /// How good it is, by its task.
    pub fn measured(&self) -> Measured {
        Measured::new(self.model.metadata.task, [self.accuracy, self.accuracy_before])
    }
}

/// Pictures to calibrate `model` on, in batches: at most `most` of `paths`, evenly spaced. Those that cannot be decoded are
/// left out.
///
/// # Errors
/// When none can be used.
pub fn calibration_batches(model: &Model, paths: &[PathBuf], most: usize) -> Result<Vec<Tensor>> {
    let preprocessing = &model.metadata.preprocessing;
    let transform = Transform::new(preprocessing)?;
    let count = paths.len().min(most);
    let chosen = (0..count).map(|i| paths[i * paths.len() / count].clone()).collect();
    let options = LoaderOptions::evaluation(&transform, batch_within(model, BATCH));
    let loader = Loader::unlabelled(chosen, transform, options);
    let mut batches = Vec::new();
    for batch in loader.epoch(0) {
        let batch = batch?;
        let shape = [batch.len(), 3, preprocessing.size, preprocessing.size];
        batches.push(Tensor::f32(shape, batch.images));
    }
    if batches.is_empty() {
        return Err(Error::Input("no picture to calibrate on could be decoded".into()));
    }
    Ok(batches)
}

/// Quantizes `model` by what it does on the calibration pictures. `say` is told, in words, what is being done.
///
/// # Errors
/// When there is nothing to quantize or to calibrate on, a picture is both to calibrate and to measure on, or a budget is asked
/// for and nothing can be measured.
pub fn quantize_static(
    model: &Model,
    pictures: &QuantizePictures,
    options: &StaticOptions,
    executor: &dyn Executor,
    say: &mut dyn FnMut(&str),
) -> Result<StaticModel> {
    check(model, pictures, options)?;
    let batches = calibration_batches(model, &pictures.calibration, options.pictures)?;
    let mut work = Work { pictures, options, executor, batches, say };
    let network = Network::new(model, options.scheme)?;
    let accuracy_before = work.measure(model)?;
    let least = options.max_drop.zip(accuracy_before).map(|(drop, before)| before - drop);
    let mut best = work.candidate(network)?;
    let mut untrained = None;
    if options.qat_epochs > 0 && least.is_some_and(|least| enough(best.accuracy, least)) {
        (work.say)(&format!(
            "the accuracy falls no further than {MAX_DROP} allows: no quantization-aware training needed"
        ));
    } else if options.qat_epochs > 0 {
        let trained = work.train(&best.network)?;
        let trained = work.candidate(trained)?;
        // Where both are as good, what was trained for the rounding is closer to it.
        if trained.accuracy >= best.accuracy {
            untrained = Some(std::mem::replace(&mut best, trained));
        } else {
            (work.say)("quantization-aware training did not improve the accuracy; its result is not used");
        }
    }
    let Some(least) = least else { return Ok(best.found(accuracy_before)) };
    let found = work.guard(&best, least, accuracy_before)?;
    match untrained {
        // Training changes the float network too.
        Some(untrained) if !enough(found.accuracy, least) => {
            (work.say)(
                "the model after quantization-aware training is not accurate enough in float; it is not used",
            );
            work.guard(&untrained, least, accuracy_before)
        }
        _ => Ok(found),
    }
}

/// The error where the pictures to measure on have no score.
pub(crate) fn no_score() -> Error {
    Error::Input(
        "R^2 cannot be measured: all pictures to measure on have the same targets; give others".into(),
    )
}

/// Whether an accuracy is `least`, but for rounding.
fn enough(accuracy: Option<f64>, least: f64) -> bool {
    accuracy.is_some_and(|accuracy| accuracy >= least - 1e-9)
}

fn check(model: &Model, pictures: &QuantizePictures, options: &StaticOptions) -> Result<()> {
    check_float(model)?;
    if options.max_drop.is_some() && pictures.measured.is_empty() {
        return Err(Error::advice(format_args!(
            "{MAX_DROP} needs pictures with classes to measure the accuracy on; give {DATA} DIR"
        )));
    }
    if options.qat_epochs > 0 && pictures.train.is_empty() {
        return Err(Error::advice(format_args!(
            "{QAT} needs pictures with classes to train with; give a run directory, or {CALIBRATION} DIR with a folder for each class"
        )));
    }
    let used = pictures.calibration.iter().chain(pictures.train.iter().map(|s| &s.path));
    let used: Vec<&Path> = used.map(PathBuf::as_path).collect();
    let measured: Vec<&Path> = pictures.measured.iter().map(|s| s.path.as_path()).collect();
    match copies(&used, &measured).into_iter().flatten().next() {
        Some(both) => Err(Error::advice(format_args!(
            "{}: a picture that the accuracy is measured on must not be one to calibrate on; give others with {CALIBRATION} DIR",
            shown(both)
        ))),
        None => Ok(()),
    }
}

impl QuantizePictures {
    /// Takes those out of the pictures to calibrate and to train with that are copies, under another name, of pictures to measure on.
    /// Says how many pictures those are, with an example.
    pub fn leave_out_copies(&mut self) -> Option<String> {
        let measured: Vec<&Path> = self.measured.iter().map(|s| s.path.as_path()).collect();
        let used = self.calibration.iter().chain(self.train.iter().map(|s| &s.path));
        let used: Vec<&Path> = used.map(PathBuf::as_path).collect();
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let found = used.iter().zip(copies(&used, &measured));
        let copied: Vec<(PathBuf, PathBuf)> = found
            .filter_map(|(path, of)| Some((path.to_path_buf(), of?.to_path_buf())))
            .filter(|(path, of)| real(path) != real(of))
            .collect();
        let (first, of) = copied.first()?;
        let text = format!("{} has the same content as {}", shown(first), shown(of));
        let left_out: HashSet<PathBuf> = copied.into_iter().map(|(path, _)| path).collect();
        self.calibration.retain(|path| !left_out.contains(path));
        self.train.retain(|sample| !left_out.contains(&sample.path));
        Some(format!(
            "{} of the pictures to calibrate on are also measured on, and are left out of the calibration: {text}",
            left_out.len()
        ))
    }
}

/// A float network, its calibration, and what comes out of both.
struct Candidate {
    network: Network,
    calibration: Calibration,
    model: Model,
    accuracy: Option<f64>,
}

impl Candidate {
    /// It with every operator in integers that can be.
    fn found(&self, accuracy_before: Option<f64>) -> StaticModel {
        let (model, accuracy) = (self.model.clone(), self.accuracy);
        StaticModel { model, accuracy, accuracy_before, kept_float: Vec::new() }
    }
}

struct Work<'a> {
    pictures: &'a QuantizePictures,
    options: &'a StaticOptions,
    executor: &'a dyn Executor,
    batches: Vec<Tensor>,
    say: &'a mut dyn FnMut(&str),
}

impl Work<'_> {
    fn candidate(&mut self, network: Network) -> Result<Candidate> {
        let count: usize = self.batches.iter().map(|b| b.shape()[0]).sum();
        (self.say)(&format!("calibrating on {count} pictures ({})", self.options.method));
        let calibration = calibrate(&network, &self.batches, self.options.method, self.executor)?;
        let model = quantize(&network, &calibration, &BTreeSet::new())?;
        let accuracy = self.measure(&model)?;
        Ok(Candidate { network, calibration, model, accuracy })
    }

    /// What [`StaticModel::accuracy`] says of a model.
    fn measure(&self, model: &Model) -> Result<Option<f64>> {
        if self.pictures.measured.is_empty() {
            return Ok(None);
        }
        let transform = Transform::new(&model.metadata.preprocessing)?;
        let options = LoaderOptions::evaluation(&transform, batch_within(model, BATCH));
        let loader = Loader::new(self.pictures.measured.clone(), transform, options);
        let mut inference = Inference::new(model, self.executor)?;
        let figures = evaluate(&mut inference, &model.metadata, &loader, |_| {})?;
        figures.score().map(Some).ok_or_else(no_score)
    }

    /// The network after some epochs of quantization-aware training, whose scales follow the weights after each.
    fn train(&mut self, network: &Network) -> Result<Network> {
        let mut model = network.model();
        let transform = Transform::new(&model.metadata.preprocessing)?;
        let options = LoaderOptions::training(&transform, QAT_BATCH, 0);
        let loader = Loader::new(self.pictures.train.clone(), transform, options);
        let epochs = self.options.qat_epochs;
        for epoch in 0..epochs {
            let network = Network::new(&model, self.options.scheme)?;
            let calibration = calibrate(&network, &self.batches, self.options.method, self.executor)?;
            let fake = fake_quantize(&network, &calibration, &BTreeSet::new())?;
            let (weights, loss) = self.epoch(fake, &loader, epoch)?;
            (self.say)(&format!(
                "epoch {} of {epochs} of quantization-aware training: loss {loss:.4}",
                epoch + 1
            ));
            model = network.model();
            for (name, tensor) in &mut model.weights {
                if let Some(trained) = weights.get(name) {
                    tensor.clone_from(trained);
                }
            }
        }
        Ok(Network::new(&model, self.options.scheme)?)
    }

    /// One epoch: the trained weights and the mean loss.
    fn epoch(&mut self, mut fake: Model, loader: &Loader, epoch: u64) -> Result<(Weights, f64)> {
        freeze(&mut fake.graph, |_| false);
        let (size, task, classes) =
            (fake.metadata.preprocessing.size, fake.metadata.task, fake.metadata.classes.len());
        let plain = StepOptions::new(OptimizerOptions::new(OptimizerKind::Adam), QAT_RATE);
        let regression = (task == Task::Regression).then(|| fake.metadata.regression());
        let options = StepOptions {
            task,
            regression: regression
                .as_ref()
                .map_or_else(RegressionLoss::default, |regression| regression.loss),
            class_weights: regression.map(|regression| regression.inverse_deviations()),
            ..plain
        };
        let mut step = TrainStep::new(fake, &options, self.executor)?;
        let steps = loader.batches() as f64;
        let (mut losses, mut count) = (0.0, 0u64);
        for (index, batch) in loader.epoch(epoch).enumerate() {
            let batch = batch?;
            let n = batch.len();
            let images = Tensor::f32([n, 3, size, size], batch.images);
            let keys = Tensor::i64([n], batch.indices.iter().map(|&i| i as i64).collect());
            let done = (epoch as f64 + index as f64 / steps) / self.options.qat_epochs as f64;
            let samples = batch.indices.iter().map(|&index| &loader.samples()[index as usize]);
            let labels = targets(task, classes, samples);
            losses += f64::from(step.run(images, &labels, &keys, 1.0 - done)?.loss);
            count += 1;
        }
        Ok((step.model().weights, losses / count.max(1) as f64))
    }

    /// Leaves as many of the costliest operators in float as it takes to get `least` of the pictures right.
    fn guard(
        &mut self,
        candidate: &Candidate,
        least: f64,
        accuracy_before: Option<f64>,
    ) -> Result<StaticModel> {
        if enough(candidate.accuracy, least) {
            return Ok(candidate.found(accuracy_before));
        }
        (self.say)("the accuracy drop is too large: measuring the error of each operator");
        let ranked = &self.batches[..self.batches.len().min(RANKED_BATCHES)];
        let costs = rank(&candidate.network, &candidate.calibration, ranked, self.executor, |_, _| {})?;
        let order: Vec<String> = costs.into_iter().map(|cost| cost.operator).collect();
        let mut attempt = |count: usize| -> Result<(Model, Option<f64>)> {
            let kept = order[..count].iter().cloned().collect();
            let model = quantize(&candidate.network, &candidate.calibration, &kept)?;
            let accuracy = self.measure(&model)?;
            let accuracy_text = accuracy.map_or_else(String::new, |a| format!("{a:.4}"));
            (self.say)(&format!("{count} of {} operators in float: accuracy {accuracy_text}", order.len()));
            Ok((model, accuracy))
        };
        // Twice as many until it is enough, then the least number in between.
        let (mut too_few, mut count) = (0, 1);
        let mut best = loop {
            let made = attempt(count.min(order.len()))?;
            if enough(made.1, least) || count >= order.len() {
                break made;
            }
            (too_few, count) = (count, 2 * count);
        };
        let mut count = count.min(order.len());
        while count - too_few > 1 {
            let middle = (count + too_few) / 2;
            let made = attempt(middle)?;
            if enough(made.1, least) {
                (best, count) = (made, middle);
            } else {
                too_few = middle;
            }
        }
        let (model, accuracy) = best;
        Ok(StaticModel { model, accuracy, accuracy_before, kept_float: order[..count].to_vec() })
    }
}

/// Writes a quantized model as ONNX to `path`, proven as by [`export_onnx`] and compared with `float`, the model it was made of.
///
/// # Errors
/// Those of [`export_onnx`].
pub fn export_static(
    quantized: StaticModel,
    float: &Model,
    path: &Path,
    options: onnx::Options,
    proof: Proof<'_>,
) -> Result<Quantized> {
    let before = onnx::write_bytes(&shipped_by(float, proof.executor)?, options)
        .map_err(|problem| problem.at(path))?;
    let exported = export_onnx(&quantized.model, path, options, Proof { float: Some(float), ..proof })?;
    Ok(Quantized {
        path: exported.path,
        bytes: exported.bytes,
        bytes_before: before.len() as u64,
        measured: quantized.measured(),
        kept_float: quantized.kept_float,
    })
}
