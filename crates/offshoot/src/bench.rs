//! How fast this machine infers and trains: random weights and pictures, 1000 classes, the median of the steps. And, in
//! `formats` (the feature `peers`), how fast and how well one model runs on each target.

#[cfg(feature = "peers")]
mod files;
#[cfg(feature = "peers")]
mod formats;
#[cfg(feature = "peers")]
mod onnx_runtime;
#[cfg(feature = "peers")]
mod processor;
mod profile;
#[cfg(feature = "peers")]
mod python;
#[cfg(feature = "peers")]
mod pytorch;
#[cfg(feature = "peers")]
mod runner;

#[cfg(feature = "peers")]
pub use formats::{FormatsOptions, FormatsProgress, bench_formats, check_formats, write_formats};
pub use profile::{KernelTime, OperatorTime, by_kernel};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use offshoot_formats::safetensors;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::remedy::{BATCH, INPUTS};
use offshoot_graph::{Executor as _, Model, Tensor};
use offshoot_models::find;
use offshoot_train::{
    Amp, Freeze, Inference, OptimizerKind, OptimizerOptions, StepOptions, TrainStep, apply_freeze, peak_mib,
};
use offshoot_world::reduce_bytes;
use serde::Serialize;

use crate::compare::Inputs;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::source::{ModelSource, Overrides};
use crate::start::random_model;
use profile::Runs;

/// ImageNet-1k's.
const CLASSES: usize = 1000;

/// The numbers of processes for which it is told what they send.
const PROCESSES: [usize; 4] = [2, 4, 8, 16];

/// Steps before those that are timed.
const WARMUP: usize = 2;

/// What to time.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// The architecture; for inference also a model's file.
    pub model: String,
    /// Batch size.
    pub batch: usize,
    /// Height and width; the architecture's own where not given.
    pub size: Option<usize>,
    /// Timed steps.
    pub runs: usize,
    /// For inference of a file, a `.npz` with what it takes in place of pictures: `batch` rows of it, from the start and
    /// again.
    pub inputs: Option<PathBuf>,
    /// Whether to measure each operator too, and what the machine can do at most.
    pub profile: bool,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// Pictures a second.
    pub images_per_second: f64,
    /// Milliseconds a step, the median.
    pub milliseconds: f64,
    /// The peak memory of the process in MiB.
    pub peak_mib: Option<f64>,
    /// The SIMD path.
    pub cpu: String,
    /// Threads.
    pub threads: usize,
    /// The loss of each training step, those of the warm-up included, where the start was kept for comparison.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<f32>,
    /// Of training: the bytes of the gradients of a step, in f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_bytes: Option<u64>,
    /// Of training: the bytes of gradients that a process sends for an update, by the number of processes that share it; of those that
    /// differ, the most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sent_bytes: BTreeMap<usize, u64>,
    /// With a profile: the operators in the order in which they run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<OperatorTime>,
    /// With a profile: GFLOP/s of f32 that multiply-adds in registers reach on all threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_gflops: Option<f64>,
    /// With a profile: GB/s, read and written, of a copy in memory on all threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_gbytes: Option<f64>,
}

/// How training is timed.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainBenchOptions {
    /// What stays as it is.
    pub freeze: Freeze,
    /// Mixed precision.
    pub amp: Amp,
    /// Where to keep the starting weights and the batch (`input`, `labels`) as safetensors, so that another program can
    /// make the same steps.
    pub dump: Option<PathBuf>,
}

/// Times inference: the graph that `export` ships, on our runtime; of a file the network that it holds.
///
/// # Errors
/// When the architecture is unknown, the file is no model, a size is out of range, or the inputs do not fit.
pub fn bench_infer(options: &BenchOptions, device: &Device) -> Result<Timing> {
    let device = &options.device(device);
    let (model, inputs) = match (Path::new(&options.model).exists(), &options.inputs) {
        (true, Some(path)) => {
            let model = ModelSource::Path(options.model.clone().into()).load_any()?.model;
            let inputs = Inputs::from_npz(path, &model.graph)?;
            check_rows(options.batch, Some(inputs.row_len()))?;
            let batch = inputs.all(0..options.batch);
            (model, batch)
        }
        (false, Some(_)) => {
            return Err(Error::advice(format_args!("{INPUTS}: {} is no model's file", options.model)));
        }
        (true, None) => {
            let overrides = Overrides { size: options.size, ..Overrides::default() };
            let model = ModelSource::Path(options.model.clone().into()).load(&overrides)?.model;
            let images = random_images(options, model.metadata.preprocessing.size)?;
            (model, vec![images])
        }
        (false, None) => {
            let (model, images) = setup(options)?;
            (model, vec![images])
        }
    };
    let mut network = Inference::new(&model, device)?;
    let step = |network: &mut Inference| Ok(network.run_all(&inputs).map(|_| ())?);
    measure(options, device, &mut network, step, |network, runs| runs.add(network.profile().iter()))
}

/// Times the very step that `train` runs: forward, backward, statistics, SGD with momentum.
///
/// # Errors
/// As [`bench_infer`], when `freeze` does not fit the model, and when the dump cannot be written.
pub fn bench_train(options: &BenchOptions, train: &TrainBenchOptions, device: &Device) -> Result<Timing> {
    let device = &options.device(device);
    let (mut model, images) = setup(options)?;
    apply_freeze(&mut model.graph, &train.freeze).map_err(|e| Error::Input(e.to_string()))?;
    let step_options = StepOptions::new(
        OptimizerOptions { momentum: 0.9, ..OptimizerOptions::new(OptimizerKind::Sgd) },
        1e-3,
    );
    let step_options = StepOptions { amp: train.amp, ..step_options };
    let batch = options.batch;
    let labels = Tensor::i64([batch], (0..batch as i64).map(|i| i % 10).collect());
    let keys = Tensor::i64([batch], (0..batch as i64).collect());
    if let Some(path) = &train.dump {
        let mut weights = model.weights.clone();
        weights.extend([("input".to_string(), images.clone()), ("labels".to_string(), labels.clone())]);
        safetensors::write(path, &weights, "{}")?;
    }
    let mut step = TrainStep::new(model, &step_options, device)?;
    let mut losses = Vec::new();
    let learn = |step: &mut TrainStep| {
        losses.push(step.run(images.clone(), &labels, &keys, 1.0)?.loss);
        Ok(())
    };
    let timing = measure(options, device, &mut step, learn, |step, runs| runs.add(step.profile()))?;
    let losses = if train.dump.is_some() { losses } else { Vec::new() };
    let values: usize = step.trained().values().map(Tensor::len).sum();
    let sent = |size| (size, reduce_bytes(values, size, size).into_iter().max().unwrap_or(0));
    let gradient_bytes = Some(values as u64 * size_of::<f32>() as u64);
    Ok(Timing { losses, gradient_bytes, sent_bytes: PROCESSES.map(sent).into(), ..timing })
}

fn setup(options: &BenchOptions) -> Result<(Model, Tensor)> {
    let architecture = find(&options.model)?;
    let mut preprocessing = architecture.preprocessing();
    preprocessing.size = options.size.unwrap_or(preprocessing.size);
    let size = preprocessing.size;
    let classes: Vec<String> = (0..CLASSES).map(|i| i.to_string()).collect();
    let model = random_model(architecture, None, &classes, preprocessing, 0)?;
    let images = random_images(options, size)?;
    Ok((model, images))
}

fn random_images(options: &BenchOptions, size: usize) -> Result<Tensor> {
    let elements = check_batch(options.batch, size)?;
    let mut random = Random::new(0, 0, 0, Purpose::Augment);
    Ok(Tensor::f32([options.batch, 3, size, size], (0..elements).map(|_| random.normal()).collect()))
}

/// The elements of a batch of pictures, where it is one that can be asked for.
fn check_batch(batch: usize, size: usize) -> Result<usize> {
    check_rows(batch, size.checked_mul(size).and_then(|area| area.checked_mul(3)))
}

/// The same of rows of `row` elements.
fn check_rows(batch: usize, row: Option<usize>) -> Result<usize> {
    if batch == 0 {
        return Err(Error::advice(format_args!("{BATCH} must be at least 1, not 0")));
    }
    let elements = row.and_then(|n| n.checked_mul(batch)).filter(|&n| n <= 1 << 32);
    elements.ok_or_else(|| Error::advice(format_args!("{BATCH} {batch} is too large")))
}

/// The value that a part `q` of `values`, at least one of them, do not exceed: 0.5 for the median. `None` where there is none.
fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

impl BenchOptions {
    /// What the steps run on.
    fn device(&self, device: &Device) -> Device {
        if self.profile { device.measuring() } else { device.clone() }
    }
}

/// Times `step` of a network, and adds what each operator took with `profile`.
fn measure<N>(
    options: &BenchOptions,
    device: &Device,
    network: &mut N,
    mut step: impl FnMut(&mut N) -> Result<()>,
    profile: impl Fn(&N, &mut Runs),
) -> Result<Timing> {
    for _ in 0..WARMUP {
        step(network)?;
    }
    let (mut times, mut runs) = (Vec::new(), Runs::default());
    for _ in 0..options.runs.max(1) {
        let start = Instant::now();
        step(network)?;
        times.push(start.elapsed().as_secs_f64());
        profile(network, &mut runs);
    }
    let median = quantile(&times, 0.5).unwrap_or(f64::NAN);
    // (Before the peaks, which take memory of their own.)
    let peak_mib = peak_mib();
    let peaks = if options.profile { device.peaks() } else { None };
    Ok(Timing {
        images_per_second: options.batch as f64 / median,
        milliseconds: median * 1e3,
        peak_mib,
        cpu: device.isa().to_owned(),
        threads: device.threads(),
        losses: Vec::new(),
        gradient_bytes: None,
        sent_bytes: BTreeMap::new(),
        operators: runs.operators(),
        peak_gflops: peaks.map(|peaks| peaks.flops / 1e9),
        peak_gbytes: peaks.map(|peaks| peaks.bandwidth / 1e9),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|q| quantile(&times, q)), [1.0, 10.0, 19.0, 20.0].map(Some));
        assert_eq!([quantile(&[3.0, 1.0, 2.0], 0.5), quantile(&[], 0.5)], [Some(2.0), None]);
    }
}
