//! Batch norms that a file may have lost.

use offshoot_graph::op::Norm;
use offshoot_graph::remedy::FREEZE_NORMS;
use offshoot_graph::{Graph, Op};

/// What there is to know about training the graph of a file that exporters may have changed for inference: how many batch norms it
/// still has, and how many convolutions look as if one had been folded into them. `None` where none does.
pub fn folded_norms(graph: &Graph) -> Option<String> {
    let nodes = graph.nodes();
    let left = nodes.iter().filter(|node| matches!(node.op, Op::Norm(Norm::Batch(_)))).count();
    let biased = nodes.iter().filter(|node| matches!(node.op, Op::Conv(_)) && node.inputs.len() > 2).count();
    (biased > 0).then(|| {
        format!(
            "{left} batch norms are in the graph, and {biased} convolutions have a bias, into which exporters fold the batch norms \
             behind convolutions; what was folded trains as weights, without statistics of the batch{}",
            if left > 0 { format!(", and {FREEZE_NORMS} on leaves the others as they are too") } else { String::new() }
        )
    })
}
