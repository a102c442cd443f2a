//! The part of a network that is a pure function of the picture, apart from the part that trains.

use offshoot_graph::model::OUTPUT;
use offshoot_graph::passes::{expand, freeze, prune};
use offshoot_graph::{Dim, Graph, GraphError, Op, Role, Shape, Source, ValueId};

/// A graph in two parts.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    /// From the picture to the border, its only output. Nothing in it is trainable.
    pub(crate) prefix: Graph,
    /// From the border, its only input, to [`OUTPUT`].
    pub(crate) suffix: Graph,
    /// The name of the value at the border.
    pub(crate) border: String,
}

/// Splits `graph` before everything that a trainable parameter or a dropout takes part in, if that is one value which
/// is not the picture itself. Composite operators are those that define them: of a norm, the weight may be all that trains.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(crate) fn split(graph: &Graph) -> Result<Option<Split>, GraphError> {
    let graph = &expand(graph, |_| true)?;
    let moves = moving(graph);
    let Some(border) = border(graph, &moves) else { return Ok(None) };
    let name = graph.value(border).name.clone();
    let mut prefix = Part::new(graph, |id| !moves[id.index()]);
    prefix.copy(|node| !moves[node.index()])?;
    let prefix = prefix.finish(&name, border)?;
    let mut suffix = Part::new(graph, |id| !matches!(graph.value(id).source, Source::Input));
    let value = graph.value(border);
    let input = suffix.new.add_input(&name, value.dtype, with_own_symbols(&name, &value.shape));
    suffix.map[border.index()] = Some(input);
    suffix.copy(|node| moves[node.index()])?;
    let output = graph.output(OUTPUT);
    let Some(output) = output.filter(|v| moves[v.index()]) else { return Ok(None) };
    Ok(Some(Split { prefix, suffix: suffix.finish(OUTPUT, output)?, border: name }))
}

/// `shape` with a symbol in place of each expression. A session finds out what symbols stand for from the shapes of its inputs,
/// and those in an expression (`(height-1)/2+1`) may stand by themselves in no input of this part.
fn with_own_symbols(name: &str, shape: &Shape) -> Shape {
    let dims = &shape.0;
    let own = |dim: &Dim| match dim {
        Dim::Fixed(_) | Dim::Symbol(_) => dim.clone(),
        // What is equal stays equal.
        Dim::Expr(_) => {
            Dim::symbol(&format!("{name}.{}", dims.iter().take_while(|&other| other != dim).count()))
        }
    };
    Shape(dims.iter().map(own).collect())
}

/// Which values change from epoch to epoch for the same picture.
fn moving(graph: &Graph) -> Vec<bool> {
    let trainable = |id: ValueId| graph.parameter_info(id).is_some_and(|p| p.trainable);
    let mut moves: Vec<bool> = graph.values().map(|(id, _)| trainable(id)).collect();
    for node in graph.nodes() {
        let random = matches!(node.op, Op::Dropout { ratio } if ratio > 0.0);
        if random || node.inputs.iter().any(|v| moves[v.index()]) {
            node.outputs.iter().for_each(|v| moves[v.index()] = true);
        }
    }
    moves
}

/// The one value made by a node that still is read by moving ones.
fn border(graph: &Graph, moves: &[bool]) -> Option<ValueId> {
    let moving_nodes = graph.nodes().iter().filter(|n| moves[n.outputs[0].index()]);
    let mut still = moving_nodes.flat_map(|n| &n.inputs).copied().filter(|v| {
        let computed = matches!(graph.value(*v).source, Source::Input | Source::Node { .. });
        computed && !moves[v.index()]
    });
    let first = still.next()?;
    // A row for each picture: what stands for tokens or pixels of several pictures together is none.
    let batch = graph.inputs().first().and_then(|&input| graph.value(input).shape.0.first());
    let rows = graph.value(first).shape.0.first() == batch;
    (still.all(|v| v == first) && rows && graph.producer(first).is_some()).then_some(first)
}

/// A part of a graph as a graph of its own.
struct Part<'a> {
    old: &'a Graph,
    new: Graph,
    map: Vec<Option<ValueId>>,
}

impl<'a> Part<'a> {
    /// Starts with those inputs, parameters and constants that `keep` holds for.
    fn new(old: &'a Graph, keep: impl Fn(ValueId) -> bool) -> Part<'a> {
        let mut part = Part { old, new: Graph::new(old.name()), map: vec![None; old.values().len()] };
        for (id, value) in old.values().filter(|&(id, _)| keep(id)) {
            part.map[id.index()] = match &value.source {
                Source::Input => Some(part.new.add_input(&value.name, value.dtype, value.shape.clone())),
                Source::Parameter(p) => value
                    .shape
                    .as_fixed()
                    .map(|shape| part.new.add_typed_parameter(&value.name, value.dtype, &shape, p.role)),
                Source::Constant(tensor) => Some(part.new.add_constant(&value.name, tensor.clone())),
                Source::Node { .. } => None,
            };
        }
        part
    }

    /// Copies the nodes whose output `keep` holds for.
    fn copy(&mut self, keep: impl Fn(ValueId) -> bool) -> Result<(), GraphError> {
        for node in self.old.nodes().iter().filter(|n| keep(n.outputs[0])) {
            let inputs: Option<Vec<ValueId>> = node.inputs.iter().map(|v| self.map[v.index()]).collect();
            let inputs = inputs.expect("what a part's nodes read is in the part or at its border");
            let outputs = self.new.add_node(&node.name, node.op.clone(), &inputs)?;
            for (old, new) in node.outputs.iter().zip(outputs) {
                self.map[old.index()] = Some(new);
            }
        }
        Ok(())
    }

    /// The part with one output, without what that does not need; trainable is what was.
    fn finish(mut self, name: &str, output: ValueId) -> Result<Graph, GraphError> {
        let output = self.map[output.index()].expect("the output was copied");
        self.new.add_output(name, output);
        let mut graph = prune(&self.new)?;
        let old = self.old;
        let trainable = |name: &str| {
            let id = old.find_parameter(name);
            id.and_then(|id| old.parameter_info(id)).is_some_and(|p| p.trainable && p.role == Role::Weight)
        };
        freeze(&mut graph, |name| !trainable(name));
        Ok(graph)
    }
}
