//! Memory for time: cheap activations are computed again in the backward pass rather than kept.

use std::collections::HashMap;

use offshoot_graph::op::{Norm, ShapeOp, TrainOp};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{Graph, GraphError, Node, Op, ValueId};

use super::op::CpuOp;

/// Computes the output of each batch norm (with its activation) again where the backward part of a training graph reads
/// it, so that only the norm's input is kept from the forward pass. Of a chain of norms that add residuals every second
/// one is kept, and those between are computed again from it. The results of layer norms and of functions of one element, whose
/// gradients keep what they are computed from, are computed again too. For a fused graph of a training step.
///
/// The result is bit-identical: the same operator reads the same values.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn recompute(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let backward = backward(graph);
    let dropped = dropped(graph, &backward);
    let mut pass = Recompute { rewriter: Rewriter::new(graph), dropped, again: HashMap::new() };
    for (node, backward) in graph.nodes().iter().zip(backward) {
        if !backward {
            pass.rewriter.copy(node)?;
            continue;
        }
        let inputs = node.inputs.iter().map(|&v| pass.on_the_way_back(v)).collect::<Result<Vec<_>, _>>()?;
        let outputs = pass.rewriter.new.add_node(&node.name, node.op.clone(), &inputs)?;
        for (&old, new) in node.outputs.iter().zip(outputs) {
            pass.rewriter.set(old, new);
        }
    }
    pass.rewriter.finish()
}

struct Recompute<'a> {
    rewriter: Rewriter<'a, CpuOp, CpuOp>,
    /// The nodes whose outputs are not kept, by output.
    dropped: HashMap<ValueId, &'a Node<CpuOp>>,
    /// What those outputs were computed again as.
    again: HashMap<ValueId, ValueId>,
}

impl Recompute<'_> {
    /// What stands for an old value in the backward pass.
    fn on_the_way_back(&mut self, old: ValueId) -> Result<ValueId, GraphError> {
        if let Some(&value) = self.again.get(&old) {
            return Ok(value);
        }
        let Some(&node) = self.dropped.get(&old) else { return Ok(self.rewriter.get(old)) };
        // One that adds a residual or reshapes reads a result that may have to be computed again first. No further: `dropped` sees to it.
        let operands = node.inputs.iter().map(|&v| self.on_the_way_back(v)).collect::<Result<Vec<_>, _>>()?;
        let name = format!("{}.again", node.name);
        let value = self.rewriter.new.add(&name, node.op.clone(), &operands)?;
        self.again.insert(old, value);
        Ok(value)
    }
}

/// The nodes that are computed again, by output: norms that read kept values only, and of those that add a residual the
/// ones whose residual is kept or takes a single norm to compute; layer norms and functions of what the backward part reads anyway;
/// reshapes of all these.
fn dropped<'a>(graph: &'a Graph<CpuOp>, backward: &[bool]) -> HashMap<ValueId, &'a Node<CpuOp>> {
    let read_back = read_back(graph, backward);
    let mut dropped: HashMap<ValueId, &Node<CpuOp>> = HashMap::new();
    for (node, _) in graph.nodes().iter().zip(backward).filter(|(_, backward)| !**backward) {
        let after_kept = || {
            let residual = node.inputs.last().and_then(|v| dropped.get(v));
            !residual.is_some_and(|n| adds_residual(&n.op))
        };
        let op = &node.op;
        let is_dropped = |v: &ValueId| dropped.contains_key(v);
        let drops = matches!(op, CpuOp::Plain(Op::Train(TrainOp::BatchNormApply)))
            || matches!(op, CpuOp::BatchNormApply { residual: false, .. })
            || adds_residual(op) && after_kept()
            || is_function(op) && read_back[node.inputs[0].index()] && !is_dropped(&node.inputs[0])
            || is_reshape(op) && is_dropped(&node.inputs[0]);
        if drops {
            dropped.insert(node.outputs[0], node);
        }
    }
    dropped
}

fn adds_residual(op: &CpuOp) -> bool {
    matches!(op, CpuOp::BatchNormApply { residual: true, .. })
}

/// Of a row or an element, and cheap.
fn is_function(op: &CpuOp) -> bool {
    matches!(op, CpuOp::Plain(Op::Unary(_) | Op::Norm(Norm::Layer(_))))
}

fn is_reshape(op: &CpuOp) -> bool {
    matches!(op, CpuOp::Plain(Op::Shape(ShapeOp::Reshape { .. } | ShapeOp::Flatten { .. })))
}

/// Whether each node belongs to the backward part: it is a gradient, or reads one.
fn backward(graph: &Graph<CpuOp>) -> Vec<bool> {
    let mut of_gradients = vec![false; graph.values().len()];
    let mut backward = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let is = is_gradient(&node.op) || node.inputs.iter().any(|v| of_gradients[v.index()]);
        node.outputs.iter().for_each(|v| of_gradients[v.index()] = is);
        backward.push(is);
    }
    backward
}

/// Whether the backward part reads each value.
fn read_back(graph: &Graph<CpuOp>, backward: &[bool]) -> Vec<bool> {
    let mut read = vec![false; graph.values().len()];
    for (node, _) in graph.nodes().iter().zip(backward).filter(|(_, backward)| **backward) {
        node.inputs.iter().for_each(|v| read[v.index()] = true);
    }
    read
}

fn is_gradient(op: &CpuOp) -> bool {
    matches!(op, CpuOp::Plain(Op::Grad(_)) | CpuOp::BatchNormReduce { .. } | CpuOp::BatchNormInput { .. })
}

#[cfg(test)]
mod tests {
    use offshoot_graph::model::OUTPUT;
    use offshoot_graph::op::Unary;
    use offshoot_graph::passes::{LossOptions, training_graph};
    use offshoot_graph::{DType, Dim, Shape};

    use super::super::optimize;
    use super::*;

    #[test]
    fn a_function_of_what_is_kept_is_computed_again_through_a_reshape() {
        let mut graph = Graph::new("layers");
        let shape = |last: usize| Shape(vec![Dim::symbol("batch"), last.into()]);
        let x = graph.add_input("input", DType::F32, shape(6));
        let x = graph.linear("first", x, 8).unwrap();
        let x = graph.add("function", Op::Unary(Unary::Gelu), &[x]).unwrap();
        let x = graph.add("same", Op::Shape(ShapeOp::Reshape { shape: shape(8) }), &[x]).unwrap();
        let x = graph.linear("second", x, 4).unwrap();
        graph.add_output(OUTPUT, x);
        let graph = training_graph(&graph, LossOptions::default()).unwrap().graph;
        let graph = optimize(&graph).unwrap();
        let again: Vec<&str> = graph
            .nodes()
            .iter()
            .map(|node| node.name.as_str())
            .filter(|name| name.ends_with(".again"))
            .collect();
        assert_eq!(again, ["function.again", "same.again"]);
    }
}
