//! The graph that is shipped: no training, no gradients, nothing fused.

use std::ops::Deref;

use super::fold::{FoldError, fold_batch_norm};
use super::freeze::freeze;
use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError};
use crate::op::{Op, ShapeOp};
use crate::tensor::Weights;

/// A graph without [`Op::Train`], [`Op::Grad`] and [`Op::Update`]: what exporters take.
#[derive(Clone, Debug, PartialEq)]
pub struct InferenceGraph(Graph);

/// A graph holds an operator that only training or an executor knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}` ({op}) belongs to training or to an executor: export the model's own graph")]
pub struct NotForInference {
    /// The node's name.
    pub node: String,
    /// The operator's name.
    pub op: &'static str,
}

impl InferenceGraph {
    /// Checks that every operator has a meaning outside of training.
    ///
    /// # Errors
    /// The first node that has none.
    pub fn new(graph: Graph) -> Result<InferenceGraph, NotForInference> {
        let foreign = |op: &Op| matches!(op, Op::Train(_) | Op::Grad(_) | Op::Update(_));
        match graph.nodes().iter().find(|n| foreign(&n.op)) {
            Some(n) => Err(NotForInference { node: n.name.clone(), op: n.op.name() }),
            None => Ok(InferenceGraph(graph)),
        }
    }

    /// The graph itself.
    pub fn into_inner(self) -> Graph {
        self.0
    }
}

impl Deref for InferenceGraph {
    type Target = Graph;

    fn deref(&self) -> &Graph {
        &self.0
    }
}

/// A network as it is shipped: everything frozen, batch norms folded, training leftovers removed.
///
/// # Errors
/// When `weights` does not hold the graph's parameters.
pub fn shipped(graph: &Graph, weights: &Weights) -> Result<(Graph, Weights), FoldError> {
    let mut graph = graph.clone();
    freeze(&mut graph, |_| true);
    let (graph, weights) = fold_batch_norm(&graph, weights)?;
    Ok((remove_training_leftovers(&graph)?, weights))
}

/// The graph without Dropout and Identity, which do nothing outside of training.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn remove_training_leftovers(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        if matches!(node.op, Op::Dropout { .. } | Op::Shape(ShapeOp::Identity)) {
            let through = rewriter.get(node.inputs[0]);
            rewriter.set(node.outputs[0], through);
        } else {
            rewriter.copy(node)?;
        }
    }
    rewriter.finish()
}
