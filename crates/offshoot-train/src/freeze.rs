//! Which parameters training changes, as a recipe says it.

use offshoot_graph::passes::freeze;
use offshoot_graph::{Graph, Op};

use crate::recipe::Freeze;

/// Nothing of the model fits what is to be frozen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreezeError {
    /// A pattern without a parameter.
    #[error(
        "the pattern `{pattern}` matches no parameter of the model; its parameters have names like {names}"
    )]
    Unmatched {
        /// The pattern.
        pattern: String,
        /// Some names.
        names: String,
    },
    /// Everything is frozen.
    #[error("`freeze = \"{0}\"` leaves nothing to train; name fewer parameters")]
    Everything(String),
}

/// Freezes the parameters of `graph` that `what` names and makes every other weight trainable.
///
/// # Errors
/// When a pattern matches nothing, or nothing is left to train.
pub fn apply_freeze(graph: &mut Graph, what: &Freeze) -> Result<(), FreezeError> {
    match what {
        Freeze::None => freeze(graph, |_| false),
        Freeze::Backbone => {
            let backbone = backbone(graph);
            freeze(graph, |name| backbone.iter().any(|b| b == name));
        }
        Freeze::Patterns(patterns) => {
            for pattern in patterns {
                check_matches(graph, pattern)?;
            }
            freeze(graph, |name| patterns.iter().any(|p| p.matches(name)));
        }
    }
    match graph.count_parameters().0 {
        0 => Err(FreezeError::Everything(what.to_string())),
        _ => Ok(()),
    }
}

/// Checks that a pattern matches a parameter.
///
/// # Errors
/// When it does not; the message shows what names look like.
pub(crate) fn check_matches(
    graph: &Graph,
    pattern: &offshoot_graph::passes::Pattern,
) -> Result<(), FreezeError> {
    let names: Vec<&str> = graph.parameters().iter().map(|&id| graph.value(id).name.as_str()).collect();
    if names.iter().any(|name| pattern.matches(name)) {
        return Ok(());
    }
    let shown = [names.first(), names.get(names.len() / 2), names.last()];
    let shown: Vec<String> = shown.into_iter().flatten().map(|name| format!("`{name}`")).collect();
    Err(FreezeError::Unmatched { pattern: pattern.to_string(), names: shown.join(", ") })
}

/// The parameters of every convolution, of every batch norm and of all that comes before one of them. What is left
/// is the head.
fn backbone(graph: &Graph) -> Vec<String> {
    let mut before = vec![false; graph.values().len()];
    for node in graph.nodes().iter().rev() {
        let layer = matches!(node.op, Op::Conv(_) | Op::BatchNormalization(_));
        if layer || node.outputs.iter().any(|v| before[v.index()]) {
            node.inputs.iter().for_each(|v| before[v.index()] = true);
        }
    }
    let parameters = graph.parameters().iter().filter(|v| before[v.index()]);
    parameters.map(|&id| graph.value(id).name.clone()).collect()
}
