//! A new head for a classifier that no architecture of the registry describes: one read from an ONNX file.

use offshoot_graph::model::OUTPUT;
use offshoot_graph::op::{Op, Pooling, ShapeOp};
use offshoot_graph::passes::{layer_before, remove_training_leftovers, up_to};
use offshoot_graph::{Graph, GraphError, Metadata, Model, Weights};

use crate::architecture::expected_parameters;
use crate::head::{Head, HeadError};
use crate::init::{FanOut, InitError, init_parameters};
use crate::transfer::TransferOptions;

/// A graph could not get a new head.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraftError {
    /// The graph ends in something else than a layer that gives logits.
    #[error(
        "the graph ends in {end}, and not in a linear layer or a 1x1 convolution: export a classifier with its head"
    )]
    NoHead {
        /// The last node.
        end: String,
    },
    /// A parameter that the file did not give.
    #[error("the file gives no f32 tensor for `{0}`")]
    Weight(String),
    /// See [`HeadError`].
    #[error(transparent)]
    Head(#[from] HeadError),
    /// See [`GraphError`].
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// See [`InitError`].
    #[error(transparent)]
    Init(#[from] InitError),
}

/// The classifier of `graph` and `weights` with a new head in the place of its last linear layer or 1x1 convolution, and
/// of what comes behind that. Everything is trainable; the parameters before the head keep their names, those of the new
/// head stand under the name of the old one's module (`fc.weight` under `fc`), or under `head`.
///
/// # Errors
/// When the graph has no such layer, or an option is out of range.
pub fn graft(graph: &Graph, weights: &Weights, options: TransferOptions) -> Result<Model, GraftError> {
    let TransferOptions { classes, head, preprocessing, seed } = options;
    let (graph, kept) = grafted(graph, head, classes.len())?;
    let mut all = Weights::new();
    for (name, shape) in expected_parameters(&graph).into_iter().filter(|(name, _)| kept.contains(name)) {
        let tensor = weights.get(&name).filter(|t| t.shape() == shape && t.as_f32().is_some());
        all.insert(name.clone(), tensor.cloned().ok_or(GraftError::Weight(name))?);
    }
    let names: Vec<String> = expected_parameters(&graph).into_iter().map(|(name, _)| name).collect();
    let new = names.iter().map(String::as_str).filter(|name| !kept.iter().any(|k| k == name));
    all.extend(init_parameters(&graph, new, FanOut::Whole, seed)?);
    let metadata = Metadata { head: Some(head.to_string()), classes, preprocessing, ..Metadata::default() };
    Ok(Model { graph, weights: all, metadata })
}

/// The graph with a new head, and the names of the parameters that it keeps.
///
/// # Errors
/// As [`graft`].
pub fn grafted(graph: &Graph, head: Head, classes: usize) -> Result<(Graph, Vec<String>), GraftError> {
    let head = head.check()?;
    let graph = remove_training_leftovers(graph)?;
    let output = graph.output(OUTPUT).or_else(|| graph.outputs().first().map(|&(_, output)| output));
    let no_head = |end: String| GraftError::NoHead { end };
    let output = output.ok_or_else(|| no_head("no output".into()))?;
    let end = || {
        let node = graph.producer(output).map(|n| graph.node(n));
        node.map_or("its input".into(), |n| format!("`{}` ({})", n.name, n.op.name()))
    };
    let last = layer_before(&graph, output).ok_or_else(|| no_head(end()))?;
    let weight = last.inputs.get(1).filter(|&&id| graph.parameter_info(id).is_some());
    let weight = &graph.value(*weight.ok_or_else(|| no_head(end()))?).name;
    let path = match weight.strip_suffix(".weight") {
        Some(path) if !path.is_empty() => path.to_string(),
        Some(_) | None => "head".to_string(),
    };
    let pools = matches!(last.op, Op::Conv(_));
    if let Op::Conv(conv) = &last.op {
        let shape = graph.value(last.inputs[1]).shape.as_fixed().unwrap_or_default();
        if shape.get(2..) != Some(&[1, 1]) || conv.group != 1 {
            return Err(no_head(end()));
        }
    }
    let (mut new, mut features) = up_to(&graph, last.inputs[0])?;
    let kept = expected_parameters(&new).into_iter().map(|(name, _)| name).collect();
    if pools {
        features = new.add(&format!("{path}.pool"), Op::Pool(Pooling::GlobalAverage), &[features])?;
        features =
            new.add(&format!("{path}.flatten"), Op::Shape(ShapeOp::Flatten { axis: 1 }), &[features])?;
    }
    let logits = head.append(&mut new, &path, features, classes)?;
    new.add_output(OUTPUT, logits);
    Ok((new, kept))
}
