//! The networks that the examples here time, with random weights.

use std::error::Error;

use offshoot_graph::passes::{fuse, shipped};
use offshoot_graph::{Graph, Tensor, Weights};
use offshoot_models::{BuildOptions, expected_parameters, find};

/// Height and width of the pictures.
const SIZE: usize = 224;

/// `model` as its architecture has it.
pub(crate) fn build(model: &str) -> Result<Graph, Box<dyn Error>> {
    Ok(find(model)?.build(&BuildOptions { classes: 1000, size: SIZE, head: None })?)
}

/// What runs at inference of `model`: batch norms folded, activations fused.
pub(crate) fn inference(model: &str) -> Result<(Graph, Weights), Box<dyn Error>> {
    let graph = build(model)?;
    let names: Vec<String> = expected_parameters(&graph).into_iter().map(|(name, _)| name).collect();
    let weights = find(model)?.init_parameters(&graph, names.iter().map(String::as_str), 0)?;
    let (graph, weights) = shipped(&graph, &weights)?;
    Ok((fuse(&graph)?, weights))
}

/// What the input of `graph` is called, and a batch of pictures for it.
#[allow(dead_code)] // one of the examples runs nothing
pub(crate) fn input(graph: &Graph, batch: usize) -> Result<(String, Tensor), Box<dyn Error>> {
    let name = graph.inputs().first().map(|&id| graph.value(id).name.clone()).ok_or("takes nothing")?;
    let elements = batch * 3 * SIZE * SIZE;
    let images = (0..elements).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    Ok((name, Tensor::f32([batch, 3, SIZE, SIZE], images)))
}
