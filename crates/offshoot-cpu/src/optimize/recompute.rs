//! Memory for time: cheap activations are computed again in the backward pass rather than kept.

use std::collections::HashMap;

use offshoot_graph::op::TrainOp;
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{Graph, GraphError, Node, Op, ValueId};

use super::op::CpuOp;

/// Computes the output of each batch norm (with its activation) again where the backward part of a training graph reads
/// it, so that only the norm's input is kept from the forward pass. Of a chain of norms that add residuals every second
/// one is kept, and those between are computed again from it. For a fused graph of a training step.
///
/// The result is bit-identical: the same operator reads the same values.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn recompute(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let mut pass =
        Recompute { rewriter: Rewriter::new(graph), norms: dropped_norms(graph), again: HashMap::new() };
    for node in graph.nodes() {
        if !is_backward(&node.op) {
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
    /// The norms whose outputs are not kept, by output.
    norms: HashMap<ValueId, &'a Node<CpuOp>>,
    /// What those outputs were computed again as.
    again: HashMap<ValueId, ValueId>,
}

impl Recompute<'_> {
    /// What stands for an old value in the backward pass.
    fn on_the_way_back(&mut self, old: ValueId) -> Result<ValueId, GraphError> {
        if let Some(&value) = self.again.get(&old) {
            return Ok(value);
        }
        let Some(&norm) = self.norms.get(&old) else { return Ok(self.rewriter.get(old)) };
        // One that adds a residual reads the output of a norm, which may have to be computed again first. No further:
        // `dropped_norms` sees to it.
        let operands = norm.inputs.iter().map(|&v| self.on_the_way_back(v)).collect::<Result<Vec<_>, _>>()?;
        let name = format!("{}.again", norm.name);
        let value = self.rewriter.new.add(&name, norm.op.clone(), &operands)?;
        self.again.insert(old, value);
        Ok(value)
    }
}

/// The norms that are computed again, by output: those that read kept values only, and of those that add a residual the
/// ones whose residual is kept or takes a single norm to compute.
fn dropped_norms(graph: &Graph<CpuOp>) -> HashMap<ValueId, &Node<CpuOp>> {
    let mut dropped: HashMap<ValueId, &Node<CpuOp>> = HashMap::new();
    for node in graph.nodes() {
        let norm = matches!(
            node.op,
            CpuOp::Plain(Op::Train(TrainOp::BatchNormApply)) | CpuOp::BatchNormApply { residual: false, .. }
        );
        let after_kept = || {
            let residual = node.inputs.last().and_then(|v| dropped.get(v));
            !residual.is_some_and(|n| adds_residual(&n.op))
        };
        if norm || adds_residual(&node.op) && after_kept() {
            dropped.insert(node.outputs[0], node);
        }
    }
    dropped
}

fn adds_residual(op: &CpuOp) -> bool {
    matches!(op, CpuOp::BatchNormApply { residual: true, .. })
}

fn is_backward(op: &CpuOp) -> bool {
    matches!(op, CpuOp::Plain(Op::Grad(_)) | CpuOp::BatchNormReduce { .. } | CpuOp::BatchNormInput { .. })
}
