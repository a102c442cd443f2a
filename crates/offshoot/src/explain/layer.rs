//! The layer whose activations Grad-CAM and LayerCAM look at.

use offshoot_graph::model::OUTPUT;
use offshoot_graph::op::{Norm, Op};
use offshoot_graph::{Graph, Source, ValueId};

use super::places::{Grid, Layout, grids};
use crate::error::{Error, Result};

/// Layers that a message names.
const NAMED: usize = 8;

/// A value that holds numbers for places of the picture, and influences the output.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) value: ValueId,
    pub(super) grid: Grid,
}

impl Layer {
    /// The layer called `name`; without a name the last one.
    pub(super) fn find(graph: &Graph, name: Option<&str>) -> Result<Layer> {
        let layers = layers(graph);
        match name {
            Some(name) => named(graph, &layers, name),
            None => last(graph, &layers).ok_or_else(|| {
                let text = "no layer of this network has numbers for the places of a picture that could be found; use occlusion";
                Error::Option { option: "method", text: text.into() }
            }),
        }
    }
}

/// All layers, in the order of the graph.
pub(super) fn layers(graph: &Graph) -> Vec<Layer> {
    let (grids, read) = (grids(graph), read_by_output(graph));
    let fits = |id: ValueId| match &graph.value(id).source {
        Source::Node { .. } => read[id.index()],
        Source::Input | Source::Parameter(_) | Source::Constant(_) => false,
    };
    let layer = |node: &offshoot_graph::Node| {
        let value = node.outputs[0];
        let grid = grids[value.index()].filter(|grid| grid.places() > 1 && fits(value))?;
        Some(Layer { name: node.name.clone(), value, grid })
    };
    graph.nodes().iter().filter_map(layer).collect()
}

/// Which values the output is computed from.
fn read_by_output(graph: &Graph) -> Vec<bool> {
    let mut read = vec![false; graph.values().len()];
    if let Some(output) = graph.output(OUTPUT) {
        read[output.index()] = true;
    }
    for node in graph.nodes().iter().rev() {
        if node.outputs.iter().any(|id| read[id.index()]) {
            node.inputs.iter().for_each(|id| read[id.index()] = true);
        }
    }
    read
}

/// The last layer. Where a class token stands before the places, it is the last norm before the last attention: behind that the output
/// reads nothing but the token.
fn last(graph: &Graph, layers: &[Layer]) -> Option<Layer> {
    let last = layers.last()?;
    let Layout::Tokens { before: 1.. } = last.grid.layout else { return Some(last.clone()) };
    let attention = graph.nodes().iter().rposition(|node| matches!(node.op, Op::Softmax { .. }))?;
    let place = |layer: &Layer| graph.producer(layer.value).map_or(usize::MAX, |id| id.index());
    let is_norm = |layer: &&Layer| {
        let producer = graph.producer(layer.value).map(|id| graph.node(id));
        place(layer) < attention && producer.is_some_and(|node| matches!(node.op, Op::Norm(Norm::Layer(_))))
    };
    let before = |layer: &&Layer| place(layer) < attention;
    let norm = layers.iter().rev().find(is_norm);
    norm.or_else(|| layers.iter().rev().find(before)).cloned()
}

/// The node of that name, or the last one of the module of that name.
fn named(graph: &Graph, layers: &[Layer], name: &str) -> Result<Layer> {
    let inside = |node: &str| node.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', '/']));
    let exact = layers.iter().find(|layer| layer.name == name);
    if let Some(layer) = exact.or_else(|| layers.iter().rev().find(|layer| inside(&layer.name))) {
        return Ok(layer.clone());
    }
    let known = graph.nodes().iter().any(|node| node.name == name || inside(&node.name));
    let names: Vec<&str> = layers.iter().rev().take(NAMED).map(|layer| layer.name.as_str()).collect();
    let found = if known {
        "has no numbers for the places of a picture, or no influence on the output"
    } else {
        "is no layer of this network"
    };
    let others = match names.is_empty() {
        true => "it has none; use occlusion".to_owned(),
        false => format!("the last that can be used are {}", names.join(", ")),
    };
    let text = format!("{} {found}; {others}", offshoot_graph::text::escaped(name));
    Err(Error::Option { option: "layer", text })
}
