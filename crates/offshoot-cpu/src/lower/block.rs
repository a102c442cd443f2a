//! Inverted residual blocks as one step: an expanding, a depthwise and a pointwise convolution, with frozen filters,
//! where nothing else reads what is between them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use offshoot_graph::op::Conv;
use offshoot_graph::{DType, ExecuteError, Op, ValueId};

use super::Node;
use super::{Lowering, epilogue};
use crate::kernels::block::{Block, BlockShape, Dense, Depthwise, block};
use crate::kernels::conv::PackedFilter;
use crate::kernels::{Activation, ConvShape};
use crate::optimize::CpuOp;
use crate::plan::{BufferId, Memory};
use crate::session::Direction;

/// The nodes of a block, as indices.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    expand: Option<usize>,
    depthwise: usize,
    project: usize,
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
    bias: Option<BufferId>,
    activation: Activation,
}

impl Layer {
    fn dense<'a>(&'a self, memory: &'a Memory<'_>) -> Dense<'a> {
        let bias = self.bias.map(|b| memory.get(b));
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
            blocks.inner.extend(chain.expand.into_iter().chain([chain.depthwise]));
            blocks.chains.insert(project, chain);
        }
        blocks
    }

    /// The shape of an f32 convolution with a frozen filter.
    fn frozen(&self, index: usize) -> Option<ConvShape> {
        let node = &self.graph.nodes()[index];
        let (conv, ..) = convolution(node)?;
        let full = self.dtype(node.inputs[0]) == DType::F32;
        let frozen = full && self.parameter(node.inputs[1]).is_some() && !self.changes(node.inputs[1]);
        let shape = self.conv_shape(node, conv, [node.inputs[0], node.inputs[1], node.outputs[0]]);
        shape.ok().filter(|_| frozen)
    }

    /// The convolution that makes `value`, which nothing else reads, if it has a frozen filter and no residual.
    fn before(&self, value: ValueId, uses: &[usize]) -> Option<(usize, ConvShape)> {
        let index = self.graph.producer(value)?.index();
        let (_, residual, _) = convolution(&self.graph.nodes()[index])?;
        let shape = self.frozen(index)?;
        (!residual && uses[value.index()] == 1).then_some((index, shape))
    }

    /// The block of nodes that are `free` which ends with node `project`, if there is one that pays.
    fn chain(&self, project: usize, uses: &[usize], free: impl Fn(usize) -> bool) -> Option<Chain> {
        let last = self.frozen(project)?;
        let before = |node: usize| {
            let found = self.before(self.graph.nodes()[node].inputs[0], uses)?;
            free(found.0).then_some(found)
        };
        let (depthwise, middle) = before(project)?;
        let first = before(depthwise);
        let from = |first: Option<(usize, ConvShape)>| {
            let (expand, shape) = first.unzip();
            let shape = BlockShape { expand: shape, depthwise: middle, project: last };
            shape.pays().then_some(Chain { expand, depthwise, project })
        };
        first.and_then(|first| from(Some(first))).or_else(|| from(None))
    }

    /// Dense convolution `index`, whose filter is frozen.
    fn layer(&mut self, index: usize) -> Result<Layer, ExecuteError> {
        let node = &self.graph.nodes()[index];
        let (Some((.., activation)), Some(shape)) = (convolution(node), self.frozen(index)) else {
            unreachable!("blocks consist of convolutions with frozen filters")
        };
        let Some(filter) = self.packed::<f32>(&shape, node.inputs[1], Direction::Forward) else {
            unreachable!("blocks consist of convolutions with frozen filters")
        };
        let bias = node.inputs.get(2).map(|&b| self.plain(b)).transpose()?;
        Ok(Layer { shape, filter, bias, activation })
    }

    /// The one step of a block.
    pub(super) fn block(&mut self, chain: Chain) -> Result<(), ExecuteError> {
        let nodes = self.graph.nodes();
        let project = &nodes[chain.project];
        let middle = &nodes[chain.depthwise];
        let first = chain.expand.map_or(middle, |expand| &nodes[expand]);
        let isa = self.isa;

        let x = self.read(first.inputs[0])?;
        let expand = chain.expand.map(|expand| self.layer(expand)).transpose()?;
        let (Some((.., activation)), Some(shape)) = (convolution(middle), self.frozen(chain.depthwise))
        else {
            unreachable!("blocks consist of convolutions with frozen filters")
        };
        let weights = self.depthwise_filter::<f32>(&shape, middle.inputs[1])?;
        let bias = middle.inputs.get(2).map(|&b| self.plain(b)).transpose()?;
        let last = self.layer(chain.project)?;
        let residual = matches!(convolution(project), Some((_, true, _)));
        let residual = if residual { Some(self.read(project.inputs[3])?) } else { None };
        let y = self.write(project.outputs[0]);

        let biases = [expand.as_ref().and_then(|expand| expand.bias), bias, last.bias];
        let reads = [x, weights].into_iter().chain(biases.into_iter().flatten()).chain(residual).collect();
        let name = format!("{} .. {}", first.name, project.name);
        self.push(&name, reads, vec![y], move |memory, _, out| {
            let weights = memory.get(weights);
            let parts = Block {
                expand: expand.as_ref().map(|expand| expand.dense(memory)),
                depthwise: Depthwise { shape, weights, bias: bias.map(|b| memory.get(b)), activation },
                project: last.dense(memory),
            };
            block(isa, &parts, memory.get(x), residual.map(|r| memory.get(r)), out[0].get());
            Ok(())
        });
        Ok(())
    }
}
