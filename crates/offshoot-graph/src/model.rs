//! A classifier: its graph, its weights, and what is needed to use it on pictures.

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::passes::gives_probabilities;
use crate::preprocessing::Preprocessing;
use crate::tensor::Weights;

/// The name of a classifier's input: normalized f32 pictures, [batch_size, 3, size, size].
pub const INPUT: &str = "input";
/// The name of a classifier's output, [batch_size, classes]: logits, or probabilities where [`Model::gives_probabilities`].
pub const OUTPUT: &str = "output";
/// The symbol of the batch axis.
pub const BATCH: &str = "batch_size";

/// A classifier of pictures. `graph` has the input [`INPUT`] and the output [`OUTPUT`], and `weights` holds a
/// tensor of the right shape for each of its parameters.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it computes.
    pub graph: Graph,
    /// Its parameters and running statistics by PyTorch key.
    pub weights: Weights,
    /// What travels with it in every file.
    pub metadata: Metadata,
}

impl Model {
    /// Whether the output is the probability of each class as it is, and not logits: the graph ends in a Sigmoid, say, which is
    /// part of it.
    pub fn gives_probabilities(&self) -> bool {
        gives_probabilities(&self.graph, &self.weights)
    }
}

/// What travels with a model in every file offshoot writes, as one JSON object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The name of the architecture in the registry, `None` for a graph read from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The head as the command line writes it: `linear,dropout=0.2`, `mlp:256,dropout=0.4`. `None` for the original one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The classes, in the order of the logits.
    pub classes: Vec<String>,
    /// How a picture becomes the input.
    pub preprocessing: Preprocessing,
}
