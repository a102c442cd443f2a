//! What a file is.

use std::path::{Path, PathBuf};

use offshoot_formats::checkpoint::load_weights;
use offshoot_graph::remedy::{FIT, MEAN, SIZE, STD};
use offshoot_graph::text::shown;
use offshoot_graph::{Graph, Preprocessing, Regression, Rejection, Role, Task, ValueId};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::folded::folded_norms;
use crate::source::{ModelSource, Overrides, is_graph, unread};

/// What a file is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Inspection {
    /// A model that can be run.
    Model(Box<ModelInspection>),
    /// Weights without a graph.
    Weights {
        /// The file.
        #[serde(serialize_with = "crate::lossy")]
        path: PathBuf,
        /// Elements of all tensors.
        parameters: u64,
        /// The tensors.
        tensors: Vec<TensorInspection>,
        /// What could not be read.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelInspection {
    /// The file or folder.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// The architecture, where the file names one.
    pub architecture: Option<String>,
    /// The head, where it was replaced.
    pub head: Option<String>,
    /// The classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Whether a picture has one class or any number.
    #[serde(skip_serializing_if = "Task::is_single")]
    pub task: Task,
    /// Of a model that predicts numbers, its loss and the scale of each target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regression: Option<Regression>,
    /// Where it may have any number, the probability from which on it has each class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<f64>,
    /// What logits are divided by before their softmax is taken, where it was fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Which pictures are said to be of none of the classes where that is asked for, where it was fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
    /// How a picture becomes the input.
    pub preprocessing: Preprocessing,
    /// Elements of the weights, running statistics not counted.
    pub parameters: u64,
    /// Name and type of each input.
    pub inputs: Vec<TensorInspection>,
    /// Name and type of each output.
    pub outputs: Vec<TensorInspection>,
    /// How often each operator occurs, by name.
    pub operators: std::collections::BTreeMap<&'static str, usize>,
    /// The weights and running statistics.
    pub tensors: Vec<TensorInspection>,
    /// What was assumed.
    pub warnings: Vec<String>,
    /// What there is to know before it is trained, where it is an ONNX file or a `.pt2`; for people, see [`folded_norms`].
    #[serde(skip)]
    pub training: Option<String>,
    /// The graph as text.
    pub graph: String,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorInspection {
    /// Its name.
    pub name: String,
    /// The type of the elements.
    pub dtype: String,
    /// The dims: numbers, or names where they are free.
    pub shape: Vec<String>,
}

/// Looks at a model, or at a file of weights.
///
/// # Errors
/// When the file cannot be read, or is neither.
pub fn inspect(path: &Path, overrides: &Overrides) -> Result<Inspection> {
    // A model that takes something else than pictures can be looked at too, where nothing is said of pictures.
    let any_input = *overrides == Overrides::default();
    match ModelSource::Path(path.to_owned()).load_with(overrides, any_input) {
        Ok(loaded) => {
            let (model, warnings) = (loaded.model, loaded.warnings);
            let graph = &model.graph;
            let mut operators = std::collections::BTreeMap::new();
            graph.nodes().iter().for_each(|n| *operators.entry(n.op.name()).or_insert(0) += 1);
            let outputs = graph
                .outputs()
                .iter()
                .map(|(name, id)| TensorInspection { name: name.clone(), ..tensor(graph, *id) });
            Ok(Inspection::Model(Box::new(ModelInspection {
                path: path.to_owned(),
                architecture: model.metadata.architecture.clone(),
                head: model.metadata.head.clone(),
                classes: model.metadata.classes.clone(),
                task: model.metadata.task,
                regression: model.metadata.regression.clone(),
                thresholds: match model.metadata.task {
                    Task::Single | Task::Regression => Vec::new(),
                    Task::Multi => model.metadata.class_thresholds(),
                },
                temperature: model.metadata.temperature,
                rejection: model.metadata.rejection,
                preprocessing: model.metadata.preprocessing.clone(),
                parameters: count(graph),
                inputs: graph.inputs().iter().map(|&id| tensor(graph, id)).collect(),
                outputs: outputs.collect(),
                operators,
                tensors: graph.parameters().iter().map(|&id| tensor(graph, id)).collect(),
                warnings,
                training: is_graph(path).unwrap_or(false).then(|| folded_norms(graph)).flatten(),
                graph: graph.to_string(),
            })))
        }
        // No model, but perhaps the weights of one.
        Err(error @ (Error::Input(_) | Error::Advice { .. })) if path.is_file() => match load_weights(path) {
            Ok(_) if *overrides != Overrides::default() => Err(Error::advice(format_args!(
                "{}: weights without a graph take no pictures; leave {SIZE}, {FIT}, {MEAN} and {STD} out",
                shown(path)
            ))),
            Ok(loaded) => {
                let warnings = unread(&loaded.unread).into_iter().collect();
                let weights = loaded.weights;
                let tensors = weights.iter().map(|(name, t)| TensorInspection {
                    name: name.clone(),
                    dtype: t.dtype().to_string(),
                    shape: t.shape().iter().map(usize::to_string).collect(),
                });
                let parameters = weights.values().map(|t| t.len() as u64).sum();
                let (path, tensors) = (path.to_owned(), tensors.collect());
                Ok(Inspection::Weights { path, parameters, tensors, warnings })
            }
            // A file that says it is weights has the better error in its own reader.
            Err(problem) if is_archive(path) => Err(problem.into()),
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn is_archive(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| matches!(e, "pth" | "pt" | "pt2" | "bin" | "safetensors"))
}

fn tensor(graph: &Graph, id: ValueId) -> TensorInspection {
    let value = graph.value(id);
    TensorInspection {
        name: value.name.clone(),
        dtype: value.dtype.to_string(),
        shape: value.shape.0.iter().map(ToString::to_string).collect(),
    }
}

fn count(graph: &Graph) -> u64 {
    let weights = graph
        .parameters()
        .iter()
        .filter(|&&id| graph.parameter_info(id).is_some_and(|p| p.role == Role::Weight));
    let elements = weights.filter_map(|&id| graph.value(id).shape.as_fixed());
    elements.map(|shape| shape.iter().map(|&d| d as u64).product::<u64>()).sum()
}
