//! A classifier: its graph, its weights, and what is needed to use it on pictures.

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::passes::gives_probabilities;
use crate::preprocessing::Preprocessing;
use crate::regression::{Regression, Scale};
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

/// What kind of prediction a model makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// One class of several: probabilities are the softmax of the logits.
    #[default]
    Single,
    /// Any number of classes: the probability of each is the sigmoid of its logit.
    Multi,
    /// Numbers, the targets: the outputs are what is predicted, in the units of the targets.
    Regression,
}

impl Task {
    /// Whether a picture has exactly one class.
    pub fn is_single(&self) -> bool {
        *self == Task::Single
    }

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Task::Single => "single",
            Task::Multi => "multi",
            Task::Regression => "regression",
        }
    }
}

/// What travels with a model in every file offshoot writes, as one JSON object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The name of the architecture in the registry, `None` for a graph read from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The head as the command line writes it: `linear,dropout=0.2`, `mlp:256,dropout=0.4`. `None` for the original one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The classes, in the order of the logits; of [`Task::Regression`], the names of the targets in the order of the outputs.
    pub classes: Vec<String>,
    /// How a picture becomes the input.
    pub preprocessing: Preprocessing,
    /// What the logits are for.
    #[serde(default, skip_serializing_if = "Task::is_single")]
    pub task: Task,
    /// Of [`Task::Multi`], the probability from which on a picture has each class; empty where none was fitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<f64>,
    /// Of [`Task::Single`], what logits are divided by before their softmax is taken, above 0; `None` where none was fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Of [`Task::Single`], which pictures are said to be of none of the classes where that is asked for; `None` where nothing was
    /// fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
    /// Of [`Task::Regression`], what it was trained for; `None` where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regression: Option<Regression>,
}

/// Which pictures are said to be of none of the classes: those whose score is below a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    /// What is compared with the threshold.
    pub score: Score,
    /// The lowest score of a picture that is accepted.
    pub threshold: f64,
    /// The fraction of the accepted pictures that was to be classified correctly when the threshold was fitted, above 0 and at most 1.
    pub precision: f64,
}

/// A number of a picture that is the higher, the more it looks like one of the classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// The highest probability of a class, 0 to 1.
    Probability,
    /// log(sum(exp(logits))) without the temperature: the negative energy of Liu and others, "Energy-based Out-of-distribution
    /// Detection", 2020.
    #[default]
    Energy,
}

impl Score {
    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Score::Probability => "probability",
            Score::Energy => "energy",
        }
    }
}

/// The threshold of a class for which none was fitted.
pub const DEFAULT_THRESHOLD: f64 = 0.5;

impl Metadata {
    /// The threshold of each class of [`Task::Multi`]: those fitted, or [`DEFAULT_THRESHOLD`].
    pub fn class_thresholds(&self) -> Vec<f64> {
        let of = |place: usize| self.thresholds.get(place).copied().unwrap_or(DEFAULT_THRESHOLD);
        (0..self.classes.len()).map(of).collect()
    }

    /// What a model of [`Task::Regression`] was trained for; where that is not known, the squared error of targets as they are.
    pub fn regression(&self) -> Regression {
        let unknown =
            || Regression { scales: vec![Scale::NONE; self.classes.len()], ..Regression::default() };
        self.regression.clone().unwrap_or_else(unknown)
    }
}
