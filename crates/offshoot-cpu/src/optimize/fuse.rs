//! Chains of operators that an executor runs in one pass over memory.

use std::collections::HashMap;

use offshoot_graph::op::{Binary, GradOp, TrainOp, Unary};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{Graph, GraphError, Node, NodeId, Op, ValueId};

use super::op::{Activation, CpuOp};
use super::readers::Readers;

/// Fuses a Conv with a bias, or a BatchNormApply, with the Add of a residual and the activation that follow it, and an
/// activation's gradient with the batch-norm gradients that alone read it.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn fuse(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let readers = Readers::of(graph);
    let mut chains = HashMap::new();
    let mut gates = HashMap::new();
    let mut swallowed = vec![false; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate() {
        if swallowed[index] {
            continue;
        }
        if let Some(chain) = Chain::from(graph, &readers, index, &swallowed) {
            chain.nodes.iter().for_each(|n| swallowed[*n] = true);
            chains.insert(chain.last(), chain);
        } else if let Some(apply) = only_batch_norm_gradients(&readers, node) {
            swallowed[index] = true;
            gates.insert(index, apply);
        }
    }
    let mut rewriter = Rewriter::new(graph);
    for (index, node) in graph.nodes().iter().enumerate() {
        if let Some(chain) = chains.get(&index) {
            chain.emit(graph, &mut rewriter)?;
        } else if !swallowed[index] {
            emit_batch_norm_gradient(graph, node, &gates, &mut rewriter)?;
        }
    }
    rewriter.finish()
}

/// For the gradient of an activation that stands right behind a BatchNormApply: that node, when nothing but the
/// gradients of that very norm read `node`.
fn only_batch_norm_gradients<'g>(readers: &Readers<'g>, node: &Node<CpuOp>) -> Option<&'g Node<CpuOp>> {
    let graph = readers.graph;
    activation_gradient(node)?;
    let activation = graph.node(graph.producer(node.inputs[1])?);
    activation_of(&activation.op)?;
    let apply = graph.node(graph.producer(activation.inputs[0])?);
    let value = node.outputs[0];
    let all = readers.all(value);
    let takes = |&r: &usize| {
        let reader = &graph.nodes()[r];
        let norm =
            matches!(reader.op, CpuOp::Plain(Op::Grad(GradOp::BatchNormReduce | GradOp::BatchNormInput)));
        norm && reader.inputs[0] == value && reader.inputs[1..4] == apply.inputs[..3]
    };
    let own = matches!(apply.op, CpuOp::Plain(Op::Train(TrainOp::BatchNormApply)))
        && !all.is_empty()
        && all.iter().all(takes);
    own.then_some(apply)
}

/// A Conv or BatchNormApply, perhaps an Add, perhaps an activation.
struct Chain {
    nodes: Vec<usize>,
    residual: Option<ValueId>,
    activation: Activation,
}

impl Chain {
    fn from(graph: &Graph<CpuOp>, readers: &Readers<'_>, first: usize, swallowed: &[bool]) -> Option<Chain> {
        let node = &graph.nodes()[first];
        let smooth = matches!(node.op.plain()?, Op::Conv(_)) && node.inputs.len() == 3;
        if !smooth && node.op.plain()? != &Op::Train(TrainOp::BatchNormApply) {
            return None;
        }
        let mut chain = Chain { nodes: vec![first], residual: None, activation: Activation::None };
        let mut value = node.outputs[0];
        let next = |value: ValueId| readers.only(value).filter(|&n| !swallowed[n]);
        if let Some(add) = next(value)
            && let Some(other) = residual(graph, &graph.nodes()[add], value)
        {
            chain.residual = Some(other);
            chain.nodes.push(add);
            value = graph.nodes()[add].outputs[0];
        }
        if let Some(activation) = next(value)
            && let Some(kind) = activation_of(&graph.nodes()[activation].op)
                .or_else(|| smooth_activation_of(&graph.nodes()[activation].op).filter(|_| smooth))
        {
            chain.activation = kind;
            chain.nodes.push(activation);
        }
        (chain.nodes.len() > 1).then_some(chain)
    }

    /// The node in whose place the fused one stands: all that the chain reads has been computed there.
    fn last(&self) -> usize {
        self.nodes[self.nodes.len() - 1]
    }

    fn emit(
        &self,
        graph: &Graph<CpuOp>,
        rewriter: &mut Rewriter<'_, CpuOp, CpuOp>,
    ) -> Result<(), GraphError> {
        let (first, last) = (&graph.nodes()[self.nodes[0]], &graph.nodes()[self.last()]);
        let (residual, activation) = (self.residual.is_some(), self.activation);
        let op = if let CpuOp::Plain(Op::Conv(conv)) = &first.op {
            CpuOp::Conv { conv: conv.clone(), residual, activation }
        } else {
            CpuOp::BatchNormApply { residual, activation }
        };
        let inputs: Vec<ValueId> =
            first.inputs.iter().chain(&self.residual).map(|&v| rewriter.get(v)).collect();
        let output = rewriter.new.add(&first.name, op, &inputs)?;
        rewriter.set(last.outputs[0], output);
        Ok(())
    }
}

/// The other operand, when `node` adds `value` to something of the same shape.
fn residual(graph: &Graph<CpuOp>, node: &Node<CpuOp>, value: ValueId) -> Option<ValueId> {
    let (CpuOp::Plain(Op::Binary(Binary::Add)), &[a, b]) = (&node.op, &node.inputs[..]) else { return None };
    let other = if a == value { b } else { a };
    if a == b || ![a, b].contains(&value) {
        return None;
    }
    (graph.value(other).shape == graph.value(value).shape).then_some(other)
}

fn activation_of(op: &CpuOp) -> Option<Activation> {
    let Op::Unary(unary) = op.plain()? else { return None };
    gate_of(*unary)
}

/// The activation that `unary` is, if its gradient passes or does not.
fn gate_of(unary: Unary) -> Option<Activation> {
    if let Unary::Clip(clip) = unary {
        return Some(Activation::Clip(clip));
    }
    (unary == Unary::Relu).then_some(Activation::Relu)
}

/// Activations whose gradient is no gate: a convolution applies them, a batch norm does not.
fn smooth_activation_of(op: &CpuOp) -> Option<Activation> {
    let Op::Unary(unary) = op.plain()? else { return None };
    Some(Activation::Smooth(*unary))
}

fn activation_gradient(node: &Node<CpuOp>) -> Option<Activation> {
    let Op::Grad(GradOp::Unary(unary)) = node.op.plain()? else { return None };
    gate_of(*unary)
}

/// Copies `node`; a batch-norm gradient whose `dy` came from a swallowed activation gradient finds out itself what the
/// activation let pass: from x, so that the activation's output need not be kept.
fn emit_batch_norm_gradient(
    graph: &Graph<CpuOp>,
    node: &Node<CpuOp>,
    gates: &HashMap<usize, &Node<CpuOp>>,
    rewriter: &mut Rewriter<'_, CpuOp, CpuOp>,
) -> Result<(), GraphError> {
    let source = node.inputs.first().and_then(|&dy| graph.producer(dy)).map(NodeId::index);
    let fused = source.and_then(|s| {
        let (apply, gradient) = (gates.get(&s)?, &graph.nodes()[s]);
        let activation = activation_gradient(gradient)?;
        let Op::Grad(gradient_op) = node.op.plain()? else { return None };
        let (op, sums) = if *gradient_op == GradOp::BatchNormReduce {
            (CpuOp::BatchNormReduce { activation }, &[][..])
        } else if *gradient_op == GradOp::BatchNormInput {
            (CpuOp::BatchNormInput { activation }, &node.inputs[5..])
        } else {
            return None;
        };
        Some((op, gradient.inputs[..1].iter().chain(&apply.inputs).chain(sums)))
    });
    let Some((op, inputs)) = fused else { return rewriter.copy(node) };
    let inputs: Vec<ValueId> = inputs.map(|&v| rewriter.get(v)).collect();
    let outputs = rewriter.new.add_node(&node.name, op, &inputs)?;
    for (&old, new) in node.outputs.iter().zip(outputs) {
        rewriter.set(old, new);
    }
    Ok(())
}
