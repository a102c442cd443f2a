//! What follows from weights alone is computed once.

use offshoot_graph::op::Op;
use offshoot_graph::passes::{Rewriter, freeze, prune};
use offshoot_graph::{DType, Executor, Graph, Node, Role, Source, ValueId, Weights};

use crate::error::NetworkError;

/// Constant folding makes no tensor with more elements than this, 16 MiB, unless an operand has as many.
const MOST_ELEMENTS: usize = 1 << 22;

/// Computes the values of a frozen graph that follow from its parameters and constants alone, as the biases of windowed attention
/// do, and puts them in as parameters. What only moves a weight (a transposition, a slice) stays, as executors do that when they
/// are prepared; so do dequantized weights, which are smaller as integers.
///
/// # Errors
/// When the weights do not fit the graph, or the executor cannot run it.
pub fn fold_constants(
    graph: Graph,
    mut weights: Weights,
    executor: &dyn Executor,
) -> Result<(Graph, Weights), NetworkError> {
    let known = Known::find(&graph);
    let folded = known.folded(&graph);
    if folded.is_empty() {
        return Ok((graph, weights));
    }
    let part = known.part(&graph, &folded)?;
    let mut session = executor.prepare(&part, &weights)?;
    session.run(&[])?;

    let mut rewriter = Rewriter::new(&graph);
    for &id in &folded {
        let value = &graph.value(id).name;
        let tensor = session.read(value).expect("it is an output of the part");
        let mut name = value.clone();
        while weights.contains_key(&name) {
            name += ".folded";
        }
        let parameter = rewriter.new.add_parameter(&name, tensor.shape(), Role::Weight);
        weights.insert(name, tensor);
        rewriter.set(id, parameter);
    }
    for node in graph.nodes().iter().filter(|node| !known.holds(node)) {
        rewriter.copy(node)?;
    }
    let mut graph = rewriter.finish()?;
    freeze(&mut graph, |_| true);
    weights.retain(|name, _| graph.find_parameter(name).is_some());
    Ok((graph, weights))
}

/// The values of a graph that inputs do not change.
struct Known {
    values: Vec<bool>,
    /// Those that are computed, and not only moved.
    computed: Vec<bool>,
}

impl Known {
    fn find(graph: &Graph) -> Known {
        let given = |id: ValueId| !matches!(graph.value(id).source, Source::Input | Source::Node { .. });
        let mut values: Vec<bool> = graph.values().map(|(id, _)| given(id)).collect();
        let mut computed = vec![false; values.len()];
        for node in graph.nodes() {
            let is_known = node.inputs.iter().all(|id| values[id.index()]);
            let is_output =
                node.outputs.iter().any(|id| graph.outputs().iter().any(|(_, output)| output == id));
            if !is_known || is_output || !is_foldable(graph, node) {
                continue;
            }
            let arithmetic =
                !matches!(node.op, Op::Shape(_)) || node.inputs.iter().any(|id| computed[id.index()]);
            for output in &node.outputs {
                values[output.index()] = true;
                computed[output.index()] = arithmetic;
            }
        }
        Known { values, computed }
    }

    /// Whether a node is left out because all that it gives is known.
    fn holds(&self, node: &Node) -> bool {
        node.outputs.iter().all(|id| self.values[id.index()] && self.computed[id.index()])
    }

    /// The computed values that nodes which stay read.
    fn folded(&self, graph: &Graph) -> Vec<ValueId> {
        let mut read = vec![false; self.values.len()];
        for node in graph.nodes().iter().filter(|node| !self.holds(node)) {
            node.inputs.iter().for_each(|id| read[id.index()] = true);
        }
        let folded = |id: &ValueId| read[id.index()] && self.computed[id.index()];
        graph.values().map(|(id, _)| id).filter(folded).collect()
    }

    /// The graph that computes `folded`, without inputs.
    fn part(&self, graph: &Graph, folded: &[ValueId]) -> Result<Graph, NetworkError> {
        let is_given = |id: ValueId| !matches!(graph.value(id).source, Source::Input);
        let mut rewriter: Rewriter<'_> = Rewriter::with_sources(graph, is_given, |input| input.shape.clone());
        let known = |node: &&Node| node.outputs.iter().all(|id| self.values[id.index()]);
        for node in graph.nodes().iter().filter(known) {
            rewriter.copy(node)?;
        }
        for &id in folded {
            let value = rewriter.get(id);
            rewriter.new.add_output(&graph.value(id).name, value);
        }
        Ok(prune(&rewriter.new)?)
    }
}

/// Whether a node's results may stand in a file in the node's place: numbers in f32, and not many more than the operands are.
fn is_foldable(graph: &Graph, node: &Node) -> bool {
    let elements = |id: &ValueId| {
        let shape = graph.value(*id).shape.as_fixed()?;
        shape.iter().try_fold(1_usize, |count, &dim| count.checked_mul(dim))
    };
    let largest = node.inputs.iter().filter_map(elements).max().unwrap_or(0);
    let fits = |id: &ValueId| {
        graph.value(*id).dtype == DType::F32
            && elements(id).is_some_and(|count| count <= largest.max(MOST_ELEMENTS))
    };
    let quantized = matches!(node.op, Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. });
    !quantized && node.outputs.iter().all(fits)
}
