//! Which parameters training changes, as a recipe says it.

use std::fmt;
use std::str::FromStr;

use offshoot_graph::passes::{Pattern, freeze, layer_before};
use offshoot_graph::text::quoted;
use offshoot_graph::{Graph, Node, ValueId};
use serde::{Deserialize, Serialize};

/// Which parameters training leaves alone: `backbone`, `none`, or patterns with commas between them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Freeze {
    /// Nothing is frozen.
    #[default]
    None,
    /// All but the head, which is what comes after the last convolution and batch norm.
    Backbone,
    /// What one of the patterns matches.
    Patterns(Vec<Pattern>),
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> Result<Freeze, String> {
        match text.trim() {
            "none" => Ok(Freeze::None),
            "backbone" => Ok(Freeze::Backbone),
            patterns => {
                let parsed: Result<Vec<Pattern>, String> =
                    patterns.split(',').map(|p| p.trim().parse()).collect();
                let explain = |_| {
                    format!(
                        "`{}` is not `backbone`, `none` or patterns with commas between them",
                        quoted(text)
                    )
                };
                parsed.map(Freeze::Patterns).map_err(explain)
            }
        }
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freeze::None => f.write_str("none"),
            Freeze::Backbone => f.write_str("backbone"),
            Freeze::Patterns(patterns) => {
                let texts: Vec<String> = patterns.iter().map(Pattern::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

impl Serialize for Freeze {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Freeze {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Freeze, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

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
pub(crate) fn check_matches(graph: &Graph, pattern: &Pattern) -> Result<(), FreezeError> {
    let names: Vec<&str> = graph.parameters().iter().map(|&id| graph.value(id).name.as_str()).collect();
    if names.iter().any(|name| pattern.matches(name)) {
        return Ok(());
    }
    let shown = [names.first(), names.get(names.len() / 2), names.last()];
    let shown: Vec<String> = shown.into_iter().flatten().map(|name| format!("`{name}`")).collect();
    Err(FreezeError::Unmatched { pattern: pattern.to_string(), names: shown.join(", ") })
}

/// All parameters but those of the head.
fn backbone(graph: &Graph) -> Vec<String> {
    let head = head(graph);
    let parameters = graph.parameters().iter().filter(|id| !head.contains(id));
    parameters.map(|&id| graph.value(id).name.clone()).collect()
}

/// The names of the head's parameters.
pub(crate) fn head_names(graph: &Graph) -> Vec<&str> {
    head(graph).into_iter().map(|id| graph.value(id).name.as_str()).collect()
}

/// The parameters of the last layer that has some: a linear layer, or a convolution in front of a pooling. Where that layer
/// is the second of an MLP head, which is called `PATH.3`, also those of the first, `PATH.0`.
fn head(graph: &Graph) -> Vec<ValueId> {
    let Some(last) = graph.outputs().first().and_then(|&(_, output)| layer_before(graph, output)) else {
        return Vec::new();
    };
    let mut head = parameters_of(graph, last);
    let path = |node: &Node, end: &str| {
        let name = &graph.value(*node.inputs.get(1)?).name;
        name.strip_suffix(".weight")?.strip_suffix(end).map(str::to_owned)
    };
    if let Some(first) = layer_before(graph, last.inputs[0])
        && path(last, ".3").is_some_and(|mlp| path(first, ".0") == Some(mlp))
    {
        head.extend(parameters_of(graph, first));
    }
    head
}

fn parameters_of(graph: &Graph, node: &Node) -> Vec<ValueId> {
    node.inputs.iter().copied().filter(|&id| graph.parameter_info(id).is_some()).collect()
}
