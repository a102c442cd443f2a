//! What a training step computes where it is read rather than in a step of its own: batch norms and the gradients that come back
//! through them, and the sums over a convolution's output that batch norms wait for.
//!
//! A norm is lowered when an operator asks for its output in memory, which those that can read through it do not. So neither
//! its output nor a pass over it exists where all its readers can.

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::{GradOp, TrainOp};
use offshoot_graph::{ExecuteError, Op, ValueId};

use super::Lowering;
use super::norm::Vectors;
use super::{Graph, Node};
use crate::kernels::Activation;
use crate::kernels::batch_norm::{BatchNorm, Reduction};
use crate::kernels::element::Element;
use crate::kernels::source::Source;
use crate::operands::{Buffers, Memory, Operand, Reads};
use crate::optimize::CpuOp;

/// The state of a lowering that concerns norms.
pub(super) struct Lazy<'a> {
    /// The nodes that nobody has asked for yet, by output.
    pub(super) nodes: HashMap<ValueId, &'a Node>,
    /// Values that a norm takes the statistics of.
    normalized: HashSet<ValueId>,
    /// The node that sums each gradient of a norm's output.
    reductions: HashMap<ValueId, &'a Node>,
    /// By the place of the later of two nodes, the gradients of a convolution's input and weight.
    pairs: HashMap<usize, [&'a Node; 2]>,
    /// The places of the earlier ones.
    earlier: HashSet<usize>,
    /// The moments of parts of a value that a step has left, and the rows of each part.
    pub(super) moments: HashMap<ValueId, (Operand<f32>, Vec<usize>)>,
    /// The sums over parts of a gradient that a step has left.
    pub(super) sums: HashMap<ValueId, Operand<f32>>,
}

impl<'a> Lazy<'a> {
    pub(super) fn new(graph: &'a Graph) -> Lazy<'a> {
        let mut lazy = Lazy {
            nodes: HashMap::new(),
            normalized: HashSet::new(),
            reductions: HashMap::new(),
            pairs: HashMap::new(),
            earlier: HashSet::new(),
            moments: HashMap::new(),
            sums: HashMap::new(),
        };
        for node in graph.nodes() {
            if matches!(node.op, CpuOp::Plain(Op::Train(TrainOp::BatchNormStats(_)))) {
                lazy.normalized.insert(node.inputs[0]);
            }
            let plain = CpuOp::Plain(Op::Grad(GradOp::BatchNormReduce));
            if node.op == plain || matches!(node.op, CpuOp::BatchNormReduce { .. }) {
                lazy.reductions.insert(node.inputs[0], node);
            }
        }
        lazy.find_pairs(graph);
        lazy
    }

    /// Finds the gradients of the same convolution that can be computed where the later one stands.
    fn find_pairs(&mut self, graph: &'a Graph) {
        let mut inputs: HashMap<ValueId, usize> = HashMap::new();
        let mut weights: HashMap<ValueId, usize> = HashMap::new();
        for (index, node) in graph.nodes().iter().enumerate() {
            if matches!(node.op, CpuOp::Plain(Op::Grad(GradOp::ConvInput { .. }))) {
                inputs.insert(node.inputs[0], index);
            }
            if matches!(node.op, CpuOp::Plain(Op::Grad(GradOp::ConvWeight { .. }))) {
                weights.insert(node.inputs[0], index);
            }
        }
        for (dy, &input) in &inputs {
            let Some(&weight) = weights.get(dy) else { continue };
            let (first, last) = (input.min(weight), input.max(weight));
            let early = graph.nodes()[first].outputs[0];
            let between = &graph.nodes()[first + 1..last];
            if between.iter().all(|node| !node.inputs.contains(&early)) {
                self.pairs.insert(last, [&graph.nodes()[input], &graph.nodes()[weight]]);
                self.earlier.insert(first);
            }
        }
    }
}

/// What a kernel reads: elements, or a norm of such.
#[derive(Clone, Copy)]
pub(super) enum NormOperand<E> {
    Held(Operand<E>),
    Norm {
        x: Operand<E>,
        norm: Vectors,
        activation: Activation,
    },
    NormGrad {
        operands: [Operand<E>; 2],
        norm: Vectors,
        sums: [Operand<f32>; 2],
        activation: Option<Activation>,
    },
}

impl<E> NormOperand<E> {
    pub(super) fn is_computed(&self) -> bool {
        !matches!(self, NormOperand::Held(_))
    }
}

impl<E: Element> Reads for NormOperand<E> {
    type Elements<'m> = Source<'m, E>;

    fn register(&self, buffers: &mut Buffers) {
        match self {
            NormOperand::Held(x) => x.register(buffers),
            NormOperand::Norm { x, norm, .. } => (*x, *norm).register(buffers),
            NormOperand::NormGrad { operands, norm, sums, .. } => (*operands, *norm, *sums).register(buffers),
        }
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> Source<'m, E> {
        match self {
            NormOperand::Held(x) => Source::Plain(x.get(memory)),
            NormOperand::Norm { x, norm, activation } => {
                Source::norm(x.get(memory), &norm.get(memory), *activation)
            }
            NormOperand::NormGrad { operands, norm, sums, activation } => {
                Source::norm_grad(operands.get(memory), &norm.get(memory), *activation, sums.get(memory))
            }
        }
    }
}

/// What a norm waits for of the gradient of its output.
#[derive(Clone, Copy)]
pub(super) struct Awaited<E> {
    x: Operand<E>,
    mean: Operand<f32>,
    gate: Option<(Vectors, Activation)>,
}

impl<E: Element> Reads for Awaited<E> {
    type Elements<'m> = AwaitedElements<'m, E>;

    fn register(&self, buffers: &mut Buffers) {
        (self.x, self.mean, self.gate.map(|(norm, _)| norm)).register(buffers);
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> AwaitedElements<'m, E> {
        let gate = self.gate.as_ref().map(|(norm, activation)| (norm.get(memory), *activation));
        AwaitedElements { x: self.x.get(memory), mean: self.mean.get(memory), gate }
    }
}

/// The elements of an [`Awaited`].
pub(super) struct AwaitedElements<'m, E> {
    x: &'m [E],
    mean: &'m [f32],
    gate: Option<(BatchNorm<'m>, Activation)>,
}

impl<E: Element> AwaitedElements<'_, E> {
    /// Calls `f` with the reduction.
    pub(super) fn with<R>(&self, f: impl FnOnce(Reduction<'_, E>) -> R) -> R {
        let AwaitedElements { x, mean, gate } = self;
        match gate {
            None => f(Reduction { x, mean, gate: None }),
            Some((norm, activation)) => {
                let (scale, shift) = norm.affine();
                f(Reduction { x, mean, gate: Some((&scale, &shift, *activation)) })
            }
        }
    }
}

impl<'a> Lowering<'a> {
    /// Lowers a node, unless it can wait.
    pub(super) fn visit(&mut self, index: usize, node: &'a Node) -> Result<(), ExecuteError> {
        let can_wait = matches!(
            &node.op,
            CpuOp::Plain(Op::Train(TrainOp::BatchNormApply) | Op::Grad(GradOp::BatchNormInput))
                | CpuOp::BatchNormApply { residual: false, .. }
                | CpuOp::BatchNormInput { .. }
        );
        if can_wait && self.shape(node.inputs[0]).len() == 4 {
            self.lazy.nodes.insert(node.outputs[0], node);
            return Ok(());
        }
        if self.lazy.earlier.contains(&index) {
            return Ok(());
        }
        match self.lazy.pairs.get(&index) {
            Some(&[input, weight]) => self.conv_gradients(input, weight),
            None => self.typed_node(node),
        }
    }

    /// An operand for a kernel that reads through norms.
    pub(super) fn lazy_operand<E: Element>(
        &mut self,
        value: ValueId,
    ) -> Result<NormOperand<E>, ExecuteError> {
        let Some(&node) = self.lazy.nodes.get(&value) else { return self.read(value).map(NormOperand::Held) };
        let inputs = &node.inputs;
        let apply = node.op == CpuOp::Plain(Op::Train(TrainOp::BatchNormApply));
        if apply || matches!(node.op, CpuOp::BatchNormApply { .. }) {
            let (x, norm) = (self.read(inputs[0])?, self.vectors_of(&inputs[1..5])?);
            let activation = self.gate_of(node)?.unwrap_or(Activation::None);
            return Ok(NormOperand::Norm { x, norm, activation });
        }
        // Without an activation, the formula does not use the bias; the weight stands in for its length.
        let (activation, bias, sums) = match self.gate_of(node)? {
            Some(activation) => (Some(activation), inputs[5], [inputs[6], inputs[7]]),
            None => (None, inputs[4], [inputs[5], inputs[6]]),
        };
        let vectors = [inputs[2], inputs[3], inputs[4], bias];
        let operands = [self.read(inputs[0])?, self.read(inputs[1])?];
        let norm = self.vectors_of(&vectors)?;
        let sums = [self.plain(sums[0])?, self.plain(sums[1])?];
        Ok(NormOperand::NormGrad { operands, norm, sums, activation })
    }

    /// The activation of a fused batch norm or of one of its gradients.
    fn gate_of(&self, node: &Node) -> Result<Option<Activation>, ExecuteError> {
        let activation = match &node.op {
            CpuOp::BatchNormApply { activation, .. }
            | CpuOp::BatchNormInput { activation }
            | CpuOp::BatchNormReduce { activation } => *activation,
            CpuOp::Plain(_)
            | CpuOp::Quantized(_)
            | CpuOp::Conv { .. }
            | CpuOp::Gemm { .. }
            | CpuOp::Attention(_)
            | CpuOp::AttentionGrad(_)
            | CpuOp::ChannelShuffle { .. }
            | CpuOp::GroupNorm { .. } => {
                return Ok(None);
            }
        };
        self.gate(node, activation).map(Some)
    }

    /// Whether a norm takes the statistics of `value`.
    pub(super) fn is_normalized(&self, value: ValueId) -> bool {
        self.lazy.normalized.contains(&value)
    }

    /// What a norm waits for of `dz`, if it is the gradient of its output.
    pub(super) fn awaited<E: Element>(&mut self, dz: ValueId) -> Result<Option<Awaited<E>>, ExecuteError> {
        let Some(&node) = self.lazy.reductions.get(&dz) else { return Ok(None) };
        let (x, mean) = (self.read(node.inputs[1])?, self.plain(node.inputs[2])?);
        let gate = match self.gate_of(node)? {
            Some(activation) => Some((self.vectors_of(&node.inputs[2..6])?, activation)),
            None => None,
        };
        Ok(Some(Awaited { x, mean, gate }))
    }
}
