//! Inverted residual blocks as one step: an expanding, a depthwise and a pointwise convolution, with frozen filters,
//! where nothing else reads what is between them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use half::bf16;
use offshoot_graph::op::Conv;
use offshoot_graph::{DType, ExecuteError, Op, ValueId};

use super::Node;
use super::{Lowering, epilogue, unsupported};
use crate::filters::Direction;
use crate::kernels::block::{Block, BlockShape, Dense, Depthwise, block};
use crate::kernels::conv::PackedFilter;
use crate::kernels::element::Element;
use crate::kernels::{Activation, ConvShape};
use crate::operands::{Buffers, Memory, Operand, Reads};
use crate::optimize::CpuOp;

/// A convolution of f32 or bf16 with a frozen filter.
#[derive(Clone, Copy)]
struct Frozen {
    /// The index of its node.
    node: usize,
    shape: ConvShape,
    dtype: DType,
    residual: bool,
    activation: Activation,
}

/// The convolutions of a block, all of one type.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    expand: Option<Frozen>,
    depthwise: Frozen,
    project: Frozen,
}

/// The blocks of a graph. No node belongs to two.
#[derive(Default)]
pub(super) struct Blocks {
    /// By their last nodes, where they are lowered.
    pub(super) chains: HashMap<usize, Chain>,
    /// The other nodes, which get no steps of their own.
    pub(super) inner: HashSet<usize>,
}

/// A convolution, whether it adds a residual, and its activation, if the kernels of a block apply that as they store.
fn convolution(node: &Node) -> Option<(&Conv, bool, Activation)> {
    if let CpuOp::Plain(Op::Conv(conv)) = &node.op {
        return Some((conv, false, Activation::None));
    }
    let CpuOp::Conv { conv, residual, activation } = &node.op else { return None };
    let (activation, None) = epilogue(*activation) else { return None };
    Some((conv, *residual, activation))
}

/// A dense convolution of a block.
struct Layer {
    shape: ConvShape,
    filter: Arc<PackedFilter>,
    bias: Option<Operand<f32>>,
    activation: Activation,
}

impl Reads for Layer {
    type Elements<'m> = Dense<'m>;

    fn register(&self, buffers: &mut Buffers) {
        self.bias.register(buffers);
        buffers.packed += self.filter.bytes();
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> Dense<'m> {
        let bias = self.bias.get(memory);
        Dense { shape: self.shape, filter: &self.filter, bias, activation: self.activation }
    }
}

impl Lowering<'_> {
    /// The blocks that are faster as one step.
    pub(super) fn blocks(&self) -> Blocks {
        let mut blocks = Blocks::default();
        let uses = self.graph.use_counts();
        for project in 0..self.graph.nodes().len() {
            let free = |index: usize| !blocks.chains.contains_key(&index) && !blocks.inner.contains(&index);
            let Some(chain) = self.chain(project, &uses, free) else { continue };
            blocks.inner.extend(chain.expand.iter().chain([&chain.depthwise]).map(|conv| conv.node));
            blocks.chains.insert(project, chain);
        }
        blocks
    }

    /// The node as a convolution of f32 or bf16 with a frozen filter, if it is one.
    fn frozen(&self, index: usize) -> Option<Frozen> {
        let node = &self.graph.nodes()[index];
        let (conv, residual, activation) = convolution(node)?;
        let dtype = self.dtype(node.inputs[0]);
        let fits = matches!(dtype, DType::F32 | DType::BF16) && self.dtype(node.outputs[0]) == dtype;
        let frozen = fits && self.parameter(node.inputs[1]).is_some() && !self.changes(node.inputs[1]);
        let shape = self.conv_shape(node, conv, [node.inputs[0], node.inputs[1], node.outputs[0]]);
        let shape = shape.ok().filter(|_| frozen)?;
        Some(Frozen { node: index, shape, dtype, residual, activation })
    }

    /// The convolution that makes `value`, which nothing else reads, if it has a frozen filter and no residual.
    fn before(&self, value: ValueId, uses: &[usize]) -> Option<Frozen> {
        let conv = self.frozen(self.graph.producer(value)?.index())?;
        (!conv.residual && uses[value.index()] == 1).then_some(conv)
    }

    /// The block of nodes that are `free` which ends with node `project`, if there is one that pays.
    fn chain(&self, project: usize, uses: &[usize], free: impl Fn(usize) -> bool) -> Option<Chain> {
        let project = self.frozen(project)?;
        let before = |conv: &Frozen| {
            let found = self.before(self.graph.nodes()[conv.node].inputs[0], uses)?;
            (free(found.node) && found.dtype == conv.dtype).then_some(found)
        };
        let depthwise = before(&project)?;
        let from = |expand: Option<Frozen>| {
            let first = expand.map(|conv| conv.shape);
            let shape = BlockShape { expand: first, depthwise: depthwise.shape, project: project.shape };
            shape.pays().then_some(Chain { expand, depthwise, project })
        };
        before(&depthwise).and_then(|first| from(Some(first))).or_else(|| from(None))
    }

    /// A dense convolution.
    fn layer<E: Element>(&mut self, conv: &Frozen) -> Result<Layer, ExecuteError> {
        let &Frozen { shape, activation, .. } = conv;
        let node = &self.graph.nodes()[conv.node];
        let filter = self.packed::<E>(&shape, node.inputs[1], Direction::Forward);
        let filter = filter.ok_or_else(|| unsupported(node, "its filter must be frozen".into()))?;
        let bias = node.inputs.get(2).map(|&b| self.plain(b)).transpose()?;
        Ok(Layer { shape, filter, bias, activation })
    }

    /// The one step of a block.
    pub(super) fn block(&mut self, chain: Chain) -> Result<(), ExecuteError> {
        match chain.project.dtype {
            DType::BF16 => self.block_of::<bf16>(chain),
            _ => self.block_of::<f32>(chain),
        }
    }

    fn block_of<E: Element>(&mut self, chain: Chain) -> Result<(), ExecuteError> {
        let Chain { expand, depthwise, project } = chain;
        let node = |conv: Frozen| &self.graph.nodes()[conv.node];
        let (first, middle, last) = (node(expand.unwrap_or(depthwise)), node(depthwise), node(project));
        let isa = self.isa;
        let nodes: Vec<&Node> = expand.iter().chain([&depthwise, &project]).map(|&conv| node(conv)).collect();
        self.current = self.fused("Fused.Block", &nodes);

        let x = self.read::<E>(first.inputs[0])?;
        let expand = expand.map(|expand| self.layer::<E>(&expand)).transpose()?;
        let Frozen { shape, activation, .. } = depthwise;
        let weights = self.depthwise_filter::<E>(&shape, middle.inputs[1])?;
        let bias = middle.inputs.get(2).map(|&b| self.plain(b)).transpose()?;
        let residual = if project.residual { Some(self.read::<E>(last.inputs[3])?) } else { None };
        let project = self.layer::<E>(&project)?;
        let y = self.write::<E>(last.outputs[0])?;

        let reads = (x, expand, (weights, bias), project, residual);
        self.step("block", reads, y, move |(x, expand, (weights, bias), project, residual), y| {
            let depthwise = Depthwise { shape, weights, bias, activation };
            block(isa, &Block { expand, depthwise, project }, x, residual, y);
        });
        Ok(())
    }
}
