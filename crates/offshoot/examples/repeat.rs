//! Repeats one step until it is stopped, and prints when each run started and ended, in seconds since 1970: what `benches/turns`
//! compares with other engines. The step is inference of a model's file or of an architecture with random weights, a training step
//! of an architecture (SGD with momentum), or that with all but the head frozen. Inputs are random.
//!
//!     cargo run --release -p offshoot --example repeat -- infer|train|head NAME|FILE BATCH THREADS [SIZE [PRECISION [ISA]]]
//!
//! SIZE is the height and width of pictures, and any dimension that a file leaves open, but for the first, which is BATCH.
//! PRECISION is f32, bf16 or fp16 (that one for training only): what activations are stored in.

#![allow(clippy::print_stdout)] // what it prints is what it is for

use std::error::Error;
use std::path::Path;
use std::time::SystemTime;

use offshoot::{CpuOptions, Device, Inference, Isa, Metadata, Model, ModelSource, Preprocessing};
use offshoot_graph::{DType, Tensor, Value};
use offshoot_models::{BuildOptions, expected_parameters, find};
use offshoot_train::{Amp, Freeze, OptimizerKind, OptimizerOptions, StepOptions, TrainStep, apply_freeze};

/// Classes of the pictures, and the numbers that an input of whole numbers takes.
const CLASSES: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let (Some(what), Some(name), Some(batch), Some(threads)) =
        (argument(0), argument(1), argument(2), argument(3))
    else {
        return Err("repeat infer|train|head NAME|FILE BATCH THREADS [SIZE [PRECISION [ISA]]]".into());
    };
    let size = argument(4).unwrap_or("224").parse()?;
    let precision = argument(5).unwrap_or("f32");
    let isa = argument(6)
        .map(|name| Isa::by_name(name).ok_or("this machine has no such instruction set"))
        .transpose()?;
    let device = Device::cpu(CpuOptions { threads: Some(threads.parse()?), isa, ..CpuOptions::default() })?;
    let model = load(name, size)?;
    let inputs = inputs(&model, batch.parse()?, size);
    match what {
        "infer" => repeat_inference(&model, &inputs, &device.with_precision(precision.parse()?)),
        "train" | "head" => {
            let amp = if precision == "f32" { Amp::Off } else { precision.parse()? };
            repeat_training(model, &inputs, what == "head", amp, &device)
        }
        _ => Err(format!("{what} is none of infer, train and head").into()),
    }
}

/// The network of a file, or an architecture with random weights.
fn load(name: &str, size: usize) -> Result<Model, Box<dyn Error>> {
    if Path::new(name).exists() {
        return Ok(ModelSource::Path(name.into()).load_any()?.model);
    }
    let architecture = find(name)?;
    let graph = architecture.build(&BuildOptions { classes: CLASSES, size, head: None })?;
    let names: Vec<String> = expected_parameters(&graph).into_iter().map(|(name, _)| name).collect();
    let weights = architecture.init_parameters(&graph, names.iter().map(String::as_str), 0)?;
    let metadata = Metadata {
        architecture: Some(name.to_owned()),
        head: None,
        classes: (0..CLASSES).map(|class| class.to_string()).collect(),
        preprocessing: Preprocessing { size, ..architecture.preprocessing() },
        ..Metadata::default()
    };
    Ok(Model { graph, weights, metadata })
}

/// An array for each input of the graph.
fn inputs(model: &Model, batch: usize, size: usize) -> Vec<Tensor> {
    model.graph.inputs().iter().map(|&id| input(model.graph.value(id), batch, size)).collect()
}

fn input(value: &Value, batch: usize, size: usize) -> Tensor {
    let open = |axis: usize| if axis == 0 { batch } else { size };
    let dims = value.shape.0.iter().enumerate();
    let dims: Vec<usize> = dims.map(|(axis, dim)| dim.fixed().unwrap_or_else(|| open(axis))).collect();
    let elements = 0..dims.iter().product();
    match value.dtype {
        DType::I64 => Tensor::i64(dims, elements.map(|i| (i * 7919 % CLASSES) as i64).collect()),
        _ => Tensor::f32(dims, elements.map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect()),
    }
}

fn repeat_inference(model: &Model, inputs: &[Tensor], device: &Device) -> Result<(), Box<dyn Error>> {
    let mut network = Inference::new(model, device)?;
    repeat(|| {
        network.run_all(inputs)?;
        Ok(())
    })
}

fn repeat_training(
    mut model: Model,
    inputs: &[Tensor],
    head: bool,
    amp: Amp,
    device: &Device,
) -> Result<(), Box<dyn Error>> {
    let freeze = if head { Freeze::Backbone } else { Freeze::None };
    apply_freeze(&mut model.graph, &freeze)?;
    let sgd = OptimizerOptions { momentum: 0.9, ..OptimizerOptions::new(OptimizerKind::Sgd) };
    let mut step = TrainStep::new(model, &StepOptions { amp, ..StepOptions::new(sgd, 1e-3) }, device)?;
    let [images] = inputs else { return Err("a training step takes pictures".into()) };
    let batch = images.shape().first().copied().unwrap_or(1);
    let labels = Tensor::i64([batch], (0..batch).map(|i| (i % CLASSES) as i64).collect());
    let keys = Tensor::i64([batch], (0..batch as i64).collect());
    repeat(|| {
        step.run(images.clone(), &labels, &keys, 1.0)?;
        Ok(())
    })
}

fn repeat(mut step: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    loop {
        let start = now()?;
        step()?;
        println!("{start:.6} {:.6}", now()?);
    }
}

fn now() -> Result<f64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}
