//! What can be fine-tuned: the architectures, with their sizes and where their weights come from.

use offshoot_graph::model::BATCH;
use offshoot_graph::{Bindings, costs};
use offshoot_models::{Architecture, BuildOptions, Published, architectures};
use serde::Serialize;

use crate::error::{Error, Result};

/// Classes of the published weights: ImageNet-1k's.
const CLASSES: usize = 1000;

/// An architecture of the registry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Its name, for `--model`.
    pub name: &'static str,
    /// Height and width of the input that the published weights were trained for, in pixels.
    pub size: usize,
    /// Weights with a head for 1000 classes; running statistics are not counted.
    pub parameters: u64,
    /// Multiply-adds of one picture of `size` in convolutions and matrix products.
    pub multiply_adds: u64,
    /// The module that a new head replaces.
    pub head: &'static str,
    /// The classes that the published weights tell apart; none where they come without a head.
    pub classes: Option<usize>,
    /// The weights that `offshoot pull NAME` brings.
    pub weights: Option<WeightsInfo>,
    /// Other published weights, which `offshoot pull NAME.VERSION` brings.
    pub other_weights: Vec<WeightsInfo>,
}

/// Published weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsInfo {
    /// What their authors call them.
    pub version: &'static str,
    /// The fraction of ImageNet-1k's validation pictures that they get right, in percent, as their authors say.
    pub accuracy: Option<f64>,
    /// Where the file is.
    pub url: &'static str,
    /// The digits of its SHA-256 that are known: 64, 8, or none.
    pub sha256: &'static str,
    /// The license, as its authors state it.
    pub license: &'static str,
}

/// Every architecture, in the order of the registry.
///
/// # Errors
/// None for a registry whose architectures can be built.
pub fn models() -> Result<Vec<ModelInfo>> {
    architectures().map(describe).collect()
}

fn describe(architecture: &'static Architecture) -> Result<ModelInfo> {
    let Architecture { name, size, head, .. } = *architecture;
    let graph = architecture.build(&BuildOptions { classes: CLASSES, size, head: None })?;
    let one = Bindings::from([(BATCH.to_string(), 1)]);
    let costs = costs(&graph, &one).map_err(|e| Error::Input(format!("{name}: {e}")))?;
    let operations: u64 = costs.iter().map(|cost| cost.operations).sum();
    let mut published = architecture.all_published().into_iter();
    let weights = published.next();
    Ok(ModelInfo {
        name,
        size,
        parameters: graph.count_parameters().0,
        multiply_adds: operations / 2,
        head,
        classes: weights.filter(|w| w.has_head).map(|_| CLASSES),
        weights: weights.map(weights_info),
        other_weights: published.map(weights_info).collect(),
    })
}

fn weights_info(published: Published) -> WeightsInfo {
    let Published { version, accuracy, url, sha256, license, .. } = published;
    WeightsInfo { version, accuracy, url, sha256, license }
}
