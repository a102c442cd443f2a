//! The end of a classifier that is read from a file: logits, whatever the file makes of them.

use std::collections::HashSet;

use offshoot_graph::op::ShapeOp;
use offshoot_graph::passes::{LeftOut, confined_scores, gives_probabilities, prune, without_softmax};
use offshoot_graph::{Dim, Graph, GraphError, Op, ValueId, Weights};

use crate::error::Problem;

/// An output [batch, 1, classes, 1] or the like as [batch, classes]; another one as it is.
pub(crate) fn rows(graph: &mut Graph, output: ValueId) -> Result<ValueId, GraphError> {
    let dims = &graph.value(output).shape.0;
    let wide = dims.iter().skip(1).filter(|dim| **dim != Dim::Fixed(1)).count();
    if dims.len() < 3 || wide > 1 {
        return Ok(output);
    }
    graph.add("classes", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[output])
}

/// The graph without a Softmax or the logarithm of one at its end, and what a user should know about how it ends.
pub(crate) fn logits(graph: Graph, weights: &Weights) -> Result<(Graph, Option<String>), Problem> {
    let failed = |e: GraphError| Problem::unsupported("graph", e.to_string(), WAY_OUT);
    let graph = without_leftovers(graph).map_err(failed)?;
    Ok(match without_softmax(&graph, weights).map_err(failed)? {
        Some((logits, left_out)) => (logits, Some(softmax_warning(&left_out))),
        None if gives_probabilities(&graph, weights) => {
            let end = graph.outputs().first().and_then(|&(_, id)| graph.producer(id));
            let end = end.map_or("", |id| graph.node(id).op.name());
            let text = "its outputs are probabilities already, and are taken as they are, without a softmax";
            (graph, Some(format!("the file ends in {end}: {text}")))
        }
        None => {
            let warning = confined_scores(&graph, weights).map(|(low, high)| {
                format!(
                    "a Softmax or Sigmoid stands near the end of the file, and its outputs lie between {low:.4} and {high:.4}; they are taken \
                     for logits, to which a softmax is applied. If they are scores already, export the model without what follows its logits"
                )
            });
            (graph, warning)
        }
    })
}

/// The graph without the parts of what a file spells out and is one operator here.
fn without_leftovers(graph: Graph) -> Result<Graph, GraphError> {
    let uses = graph.use_counts();
    let results: HashSet<ValueId> = graph.outputs().iter().map(|&(_, id)| id).collect();
    let unused = |id: &ValueId| uses[id.index()] == 0 && !results.contains(id);
    match graph.nodes().iter().any(|node| node.outputs.iter().all(unused)) {
        true => prune(&graph),
        false => Ok(graph),
    }
}

const WAY_OUT: &str = "Export the model with its logits as the output";

fn softmax_warning(left_out: &LeftOut) -> String {
    let softmax = match left_out.logarithm {
        true => "the logarithm of a softmax",
        false => "a Softmax",
    };
    match left_out.scale {
        1.0 => format!("the file ends in {softmax}, which is left out: the output is logits"),
        scale => {
            format!("the file ends in {softmax} times {scale}; both are left out: the output is logits")
        }
    }
}
