//! What every pass that makes a new graph from an old one shares.

use crate::graph::{Graph, GraphError, Node, Source, Value, ValueId};
use crate::op::{Op, Operator};
use crate::shape::Shape;

/// A new graph that grows from an old one, node by node. It may have another set of operators, `B` in place of `A`.
pub struct Rewriter<'a, A = Op, B = Op> {
    old: &'a Graph<A>,
    /// The new graph.
    pub new: Graph<B>,
    map: Vec<Option<ValueId>>,
}

impl<'a, A: Operator, B: Operator> Rewriter<'a, A, B> {
    /// Starts with the inputs, parameters and constants of `old`.
    pub fn new(old: &'a Graph<A>) -> Rewriter<'a, A, B> {
        Rewriter::with_sources(old, |_| true, |input| input.shape.clone())
    }

    /// As [`Rewriter::new`], with inputs of the shapes that `shape` gives.
    pub fn with_inputs(old: &'a Graph<A>, shape: impl Fn(&Value) -> Shape) -> Rewriter<'a, A, B> {
        Rewriter::with_sources(old, |_| true, shape)
    }

    /// Starts with those inputs, parameters and constants of `old` that `keep` holds for, inputs in the shape that `shape`
    /// gives.
    pub fn with_sources(
        old: &'a Graph<A>,
        keep: impl Fn(ValueId) -> bool,
        shape: impl Fn(&Value) -> Shape,
    ) -> Rewriter<'a, A, B> {
        let mut rewriter =
            Rewriter { old, new: Graph::empty(old.name()), map: vec![None; old.values().len()] };
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
    ///
    /// # Panics
    /// When no new value stands for it yet.
    pub fn get(&self, old: ValueId) -> ValueId {
        self.map[old.index()].expect("nodes stand in order, so what a node reads has been mapped")
    }

    /// Lets `new` stand for `old`.
    pub fn set(&mut self, old: ValueId, new: ValueId) {
        self.map[old.index()] = Some(new);
    }

    /// Copies a node as it is.
    ///
    /// # Errors
    /// When the new inputs do not fit the operator.
    pub fn copy(&mut self, node: &Node<A>) -> Result<(), GraphError>
    where
        A: Into<B>,
    {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&v| self.get(v)).collect();
        let outputs = self.new.add_node(&node.name, node.op.clone().into(), &inputs)?;
        for (&old, new) in node.outputs.iter().zip(outputs) {
            self.set(old, new);
        }
        Ok(())
    }

    /// The new graph, with the old one's outputs and results and nothing that they do not need.
    ///
    /// # Errors
    /// None for a graph whose nodes passed their shape rules.
    pub fn finish(mut self) -> Result<Graph<B>, GraphError> {
        for (name, value) in self.old.outputs() {
            let value = self.get(*value);
            self.new.add_output(name, value);
        }
        for &(parameter, value) in self.old.results() {
            self.new.add_result(self.get(parameter), self.get(value))?;
        }
        prune(&self.new)
    }
}

/// The graph without the nodes, parameters and constants that no output and no result needs. Inputs stay.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn prune<O: Operator>(graph: &Graph<O>) -> Result<Graph<O>, GraphError> {
    let mut live = vec![false; graph.values().len()];
    for value in
        graph.outputs().iter().map(|(_, v)| v).chain(graph.results().iter().flat_map(|(p, v)| [p, v]))
    {
        live[value.index()] = true;
    }
    for node in graph.nodes().iter().rev() {
        if node.outputs.iter().any(|v| live[v.index()]) {
            node.inputs.iter().for_each(|v| live[v.index()] = true);
        }
    }
    let keep = |id: ValueId| live[id.index()] || matches!(graph.value(id).source, Source::Input);
    let mut rewriter: Rewriter<'_, O, O> = Rewriter::with_sources(graph, keep, |input| input.shape.clone());
    for node in graph.nodes() {
        if node.outputs.iter().any(|v| live[v.index()]) {
            rewriter.copy(node)?;
        }
    }
    for (name, value) in graph.outputs() {
        let value = rewriter.get(*value);
        rewriter.new.add_output(name, value);
    }
    for &(parameter, value) in graph.results() {
        let (parameter, value) = (rewriter.get(parameter), rewriter.get(value));
        rewriter.new.add_result(parameter, value)?;
    }
    Ok(rewriter.new)
}
