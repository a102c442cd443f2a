//! The networks that `floors` counts, with random weights.

use std::error::Error;

use offshoot_graph::passes::{LossOptions, shipped, training_graph};
use offshoot_graph::{Graph, Weights};
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
