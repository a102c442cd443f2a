//! What every pass that makes a new graph from an old one shares.

use crate::graph::{Graph, GraphError, Node, Source, Value, ValueId};
use crate::shape::Shape;

/// A new graph that grows from an old one, node by node.
pub(super) struct Rewriter<'a> {
    old: &'a Graph,
    /// The new graph.
    pub(super) new: Graph,
    map: Vec<Option<ValueId>>,
}

impl<'a> Rewriter<'a> {
    /// Starts with the inputs, parameters and constants of `old`.
    pub(super) fn new(old: &'a Graph) -> Rewriter<'a> {
        Rewriter::with_sources(old, |_| true, |input| input.shape.clone())
    }

    /// As [`Rewriter::new`], with inputs of the shapes that `shape` gives.
    pub(super) fn with_inputs(old: &'a Graph, shape: impl Fn(&Value) -> Shape) -> Rewriter<'a> {
        Rewriter::with_sources(old, |_| true, shape)
    }

    /// Starts with those inputs, parameters and constants of `old` that `keep` holds for, inputs in the shape that `shape`
    /// gives.
    pub(super) fn with_sources(
        old: &'a Graph,
        keep: impl Fn(ValueId) -> bool,
        shape: impl Fn(&Value) -> Shape,
    ) -> Rewriter<'a> {
        let mut rewriter = Rewriter { old, new: Graph::new(old.name()), map: vec![None; old.values().len()] };
        for (id, value) in old.values().filter(|&(id, _)| keep(id)) {
            let new = &mut rewriter.new;
            let copy = match &value.source {
                Source::Input => new.add_input(&value.name, value.dtype, shape(value)),
                Source::Parameter(p) => {
                    let shape = value.shape.as_fixed().expect("a parameter is added with a fixed shape");
                    let copy = new.add_typed_parameter(&value.name, value.dtype, &shape, p.role);
                    new.set_trainable(copy, p.trainable);
                    copy
                }
                Source::Constant(tensor) => new.add_constant(&value.name, tensor.clone()),
                Source::Node { .. } => continue,
            };
            rewriter.map[id.index()] = Some(copy);
        }
        rewriter
    }

    /// The new value that stands for an old one.
    pub(super) fn get(&self, old: ValueId) -> ValueId {
        self.map[old.index()].expect("nodes stand in order, so what a node reads has been mapped")
    }

    /// Lets `new` stand for `old`.
    pub(super) fn set(&mut self, old: ValueId, new: ValueId) {
        self.map[old.index()] = Some(new);
    }

    /// Copies a node as it is.
    pub(super) fn copy(&mut self, node: &Node) -> Result<(), GraphError> {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&v| self.get(v)).collect();
        let outputs = self.new.add_node(&node.name, node.op.clone(), &inputs)?;
        for (&old, new) in node.outputs.iter().zip(outputs) {
            self.set(old, new);
        }
        Ok(())
    }

    /// The new graph, with the old one's outputs and nothing that they do not need.
    pub(super) fn finish(mut self) -> Result<Graph, GraphError> {
        for (name, value) in self.old.outputs() {
            let value = self.get(*value);
            self.new.add_output(name, value);
        }
        prune(&self.new)
    }
}

/// The graph without the nodes, parameters and constants that no output needs. Inputs stay.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn prune(graph: &Graph) -> Result<Graph, GraphError> {
    let mut live = vec![false; graph.values().len()];
    for (_, value) in graph.outputs() {
        live[value.index()] = true;
    }
    for node in graph.nodes().iter().rev() {
        if node.outputs.iter().any(|v| live[v.index()]) {
            node.inputs.iter().for_each(|v| live[v.index()] = true);
        }
    }
    let keep = |id: ValueId| live[id.index()] || matches!(graph.value(id).source, Source::Input);
    let mut rewriter = Rewriter::with_sources(graph, keep, |input| input.shape.clone());
    for node in graph.nodes() {
        if node.outputs.iter().any(|v| live[v.index()]) {
            rewriter.copy(node)?;
        }
    }
    for (name, value) in graph.outputs() {
        let value = rewriter.get(*value);
        rewriter.new.add_output(name, value);
    }
    Ok(rewriter.new)
}
