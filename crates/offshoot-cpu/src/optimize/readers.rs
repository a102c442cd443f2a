//! Which nodes read each value.

use offshoot_graph::op::TrainOp;
use offshoot_graph::{DType, Graph, Node, Op, ValueId};

use super::op::CpuOp;

/// Who reads the values of a graph.
pub(super) struct Readers<'a> {
    pub(super) graph: &'a Graph<CpuOp>,
    /// The places of the nodes that read each value.
    nodes: Vec<Vec<usize>>,
    /// The reads of each value, the graph's own outputs counted too.
    uses: Vec<usize>,
}

impl<'a> Readers<'a> {
    pub(super) fn of(graph: &'a Graph<CpuOp>) -> Readers<'a> {
        let mut nodes = vec![Vec::new(); graph.values().len()];
        for (index, node) in graph.nodes().iter().enumerate() {
            node.inputs.iter().for_each(|value| nodes[value.index()].push(index));
        }
        Readers { graph, nodes, uses: graph.use_counts() }
    }

    /// The places of the nodes that read `value`, where nothing else does; none otherwise.
    pub(super) fn all(&self, value: ValueId) -> &[usize] {
        let nodes = &self.nodes[value.index()];
        if nodes.len() == self.uses[value.index()] { nodes } else { &[] }
    }

    /// The place of the node that alone reads `value`.
    pub(super) fn only(&self, value: ValueId) -> Option<usize> {
        if let &[reader] = self.all(value) { Some(reader) } else { None }
    }

    /// The nodes that read an f32, where nothing else does; none otherwise.
    pub(super) fn of_f32(&self, value: ValueId) -> Vec<&'a Node<CpuOp>> {
        let is_f32 = self.graph.value(value).dtype == DType::F32;
        let places = if is_f32 { self.all(value) } else { &[] };
        places.iter().map(|&place| &self.graph.nodes()[place]).collect()
    }

    /// The nodes that read `value`, where nothing else does; none otherwise.
    pub(super) fn nodes(&self, value: ValueId) -> Vec<&'a Node<CpuOp>> {
        self.all(value).iter().map(|&place| &self.graph.nodes()[place]).collect()
    }

    /// What is cast to `value`, where it is a cast to `dtype`.
    pub(super) fn cast_from(&self, value: ValueId, dtype: DType) -> Option<ValueId> {
        let node = self.producer(value)?;
        (node.op == CpuOp::Plain(Op::Train(TrainOp::Cast { to: dtype }))).then(|| node.inputs[0])
    }

    /// The node that makes an f32 which one node reads.
    pub(super) fn inner(&self, value: ValueId) -> Option<&'a Node<CpuOp>> {
        if self.of_f32(value).len() == 1 { self.producer(value) } else { None }
    }

    /// The node that makes a value of any type which one node reads.
    pub(super) fn maker(&self, value: ValueId) -> Option<&'a Node<CpuOp>> {
        self.only(value).and_then(|_| self.producer(value))
    }

    pub(super) fn producer(&self, value: ValueId) -> Option<&'a Node<CpuOp>> {
        self.graph.producer(value).map(|node| self.graph.node(node))
    }
}
