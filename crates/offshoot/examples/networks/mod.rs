//! The networks that the examples here time, with random weights.

use std::error::Error;
use std::num::NonZero;

use offshoot_graph::passes::{LossOptions, shipped, training_graph};
use offshoot_graph::{DType, Graph, Tensor, Weights};
use offshoot_models::{BuildOptions, expected_parameters, find};

/// Height and width of the pictures.
const SIZE: usize = 224;

/// Classes of the pictures.
const CLASSES: usize = 1000;

/// What runs at inference of `model`: batch norms folded.
pub(crate) fn inference(model: &str) -> Result<(Graph, Weights), Box<dyn Error>> {
    let (graph, weights) = build(model)?;
    Ok(shipped(&graph, &weights)?)
}

/// What a training step of `model` runs, but for the update of the weights.
pub(crate) fn training(model: &str) -> Result<(Graph, Weights), Box<dyn Error>> {
    let (graph, weights) = build(model)?;
    Ok((training_graph(&graph, LossOptions::default())?.graph, weights))
}

/// `model` as its architecture has it.
fn build(model: &str) -> Result<(Graph, Weights), Box<dyn Error>> {
    let graph = find(model)?.build(&BuildOptions { classes: CLASSES, size: SIZE, head: None })?;
    let names: Vec<String> = expected_parameters(&graph).into_iter().map(|(name, _)| name).collect();
    let weights = find(model)?.init_parameters(&graph, names.iter().map(String::as_str), 0)?;
    Ok((graph, weights))
}

/// A network and what it is run on.
#[allow(dead_code)] // one of the examples runs nothing
pub(crate) struct Task {
    pub(crate) graph: Graph,
    pub(crate) weights: Weights,
    inputs: Vec<(String, Tensor)>,
    pub(crate) threads: Option<NonZero<usize>>,
}

#[allow(dead_code)] // as above
impl Task {
    /// That of the arguments `[train] MODEL [BATCH [THREADS]]`.
    pub(crate) fn of_arguments() -> Result<Task, Box<dyn Error>> {
        let mut arguments = std::env::args().skip(1).peekable();
        let train = arguments.next_if(|argument| argument == "train").is_some();
        let model = arguments.next().ok_or("which model?")?;
        let batch = arguments.next().map_or(Ok(1), |batch| batch.parse())?;
        let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
        let (graph, weights) = if train { training(&model)? } else { inference(&model)? };
        let inputs = graph.inputs().iter().map(|&id| graph.value(id));
        let inputs = inputs.map(|value| (value.name.clone(), input(value.dtype, batch))).collect();
        Ok(Task { graph, weights, inputs, threads })
    }

    pub(crate) fn inputs(&self) -> Vec<(&str, &Tensor)> {
        self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

/// A batch of what an input of `dtype` takes: pictures, or a number for each.
fn input(dtype: DType, batch: usize) -> Tensor {
    if dtype == DType::I64 {
        return Tensor::i64([batch], (0..batch).map(|i| (i % CLASSES) as i64).collect());
    }
    let elements = batch * 3 * SIZE * SIZE;
    let images = (0..elements).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    Tensor::f32([batch, 3, SIZE, SIZE], images)
}
