//! Batch norms with constant statistics become part of the convolution before them.

use std::collections::HashMap;

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, Role, ValueId};
use crate::op::{BatchNormalization, Norm, Op};
use crate::tensor::{Tensor, Weights};

/// A batch norm could not be folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The weights lack a tensor that the graph names, or it is no f32 tensor of that shape.
    #[error("the weights have no f32 tensor `{0}` of the shape the graph gives it")]
    Weight(String),
    /// The folded graph broke a shape rule.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// A convolution and the batch norm that alone reads it.
struct Pair<'a> {
    conv: &'a Node,
    norm: &'a Node,
    attributes: BatchNormalization,
}

/// Folds each BatchNormalization that is frozen, and follows a frozen Conv which nothing else reads, into that Conv:
/// weight' = weight * s and bias' = (bias - mean) * s + beta, with s = gamma / sqrt(var + epsilon).
/// The convolution keeps the name of its weight and gets a bias under the same path. With everything frozen this
/// is the graph to ship; with a part trainable it is the graph whose frozen part trains fastest.
///
/// # Errors
/// When `weights` does not hold the graph's parameters.
pub fn fold_batch_norm(graph: &Graph, weights: &Weights) -> Result<(Graph, Weights), FoldError> {
    let pairs = find_pairs(graph);
    let folded_convs: HashMap<ValueId, ()> = pairs.values().map(|p| (p.conv.outputs[0], ())).collect();
    let mut weights = weights.clone();
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if folded_convs.contains_key(&node.outputs[0]) {
            continue;
        }
        match pairs.get(&node.outputs[0]) {
            Some(pair) => fold(graph, pair, &mut rewriter, &mut weights)?,
            None => rewriter.copy(node)?,
        }
    }
    let folded = rewriter.finish()?;
    weights.retain(|name, _| folded.find_parameter(name).is_some());
    Ok((folded, weights))
}

/// The pairs to fold, by the norm's output.
fn find_pairs(graph: &Graph) -> HashMap<ValueId, Pair<'_>> {
    let uses = graph.use_counts();
    let frozen = |id: &ValueId| graph.parameter_info(*id).is_some_and(|p| !p.trainable);
    let mut pairs = HashMap::new();
    for norm in graph.nodes() {
        let Op::Norm(Norm::Batch(attributes)) = norm.op else { continue };
        let Some(conv) = graph.producer(norm.inputs[0]).map(|n| graph.node(n)) else { continue };
        let alone =
            uses[norm.inputs[0].index()] == 1 && conv.inputs[1..].iter().all(|v| uses[v.index()] == 1);
        let constant = conv.inputs[1..].iter().chain(&norm.inputs[1..]).all(frozen);
        if matches!(conv.op, Op::Conv(_)) && alone && constant {
            pairs.insert(norm.outputs[0], Pair { conv, norm, attributes });
        }
    }
    pairs
}

fn fold(
    graph: &Graph,
    pair: &Pair<'_>,
    rewriter: &mut Rewriter<'_>,
    weights: &mut Weights,
) -> Result<(), FoldError> {
    let name = |id: ValueId| graph.value(id).name.clone();
    let read = |weights: &Weights, id: ValueId| -> Result<Vec<f32>, FoldError> {
        let tensor =
            weights.get(&name(id)).filter(|t| graph.value(id).shape.as_fixed().as_deref() == Some(t.shape()));
        tensor.and_then(Tensor::as_f32).map(<[f32]>::to_vec).ok_or_else(|| FoldError::Weight(name(id)))
    };
    let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|i| read(weights, pair.norm.inputs[i]));
    let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
    let weight_id = pair.conv.inputs[1];
    let mut weight = read(weights, weight_id)?;
    let bias = match pair.conv.inputs.get(2) {
        Some(&id) => read(weights, id)?,
        None => vec![0.0; gamma.len()],
    };
    let epsilon = f64::from(pair.attributes.epsilon);
    let scale: Vec<f64> =
        gamma.iter().zip(&var).map(|(&g, &v)| f64::from(g) / (f64::from(v) + epsilon).sqrt()).collect();
    let filter = weight.len() / scale.len().max(1);
    for (filter, &s) in weight.chunks_exact_mut(filter.max(1)).zip(&scale) {
        filter.iter_mut().for_each(|w| *w = (f64::from(*w) * s) as f32);
    }
    let folded_bias: Vec<f32> = (0..scale.len())
        .map(|k| ((f64::from(bias[k]) - f64::from(mean[k])) * scale[k] + f64::from(beta[k])) as f32)
        .collect();

    let weight_name = name(weight_id);
    let bias_id = match pair.conv.inputs.get(2) {
        Some(&id) => rewriter.get(id),
        None => {
            let path = weight_name.strip_suffix(".weight").unwrap_or(&weight_name);
            let id = rewriter.new.add_parameter(&format!("{path}.bias"), &[scale.len()], Role::Weight);
            rewriter.new.set_trainable(id, false);
            id
        }
    };
    let shape = weights[&weight_name].shape().to_vec();
    weights.insert(weight_name, Tensor::f32(shape, weight));
    weights.insert(rewriter.new.value(bias_id).name.clone(), Tensor::f32([scale.len()], folded_bias));
    let inputs = [rewriter.get(pair.conv.inputs[0]), rewriter.get(weight_id), bias_id];
    let output = rewriter.new.add(&pair.conv.name, pair.conv.op.clone(), &inputs)?;
    rewriter.set(pair.norm.outputs[0], output);
    Ok(())
}
