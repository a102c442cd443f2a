//! Unfreezing while a run goes on: the stages of a run, and what trains in each.

use std::fmt;
use std::str::FromStr;

use offshoot_graph::op::Norm;
use offshoot_graph::passes::{Pattern, freeze};
use offshoot_graph::text::quoted;
use offshoot_graph::{Graph, Op, ValueId};
use serde::{Deserialize, Serialize};

use crate::freeze::{Freeze, FreezeError, apply_freeze, check_matches};
use crate::part;

/// The factor of an [`Unfreeze`] that names none.
pub const DEFAULT_FACTOR: f64 = 0.1;

/// Frozen parameters that train from some point of the run on: `PATTERN@50%:x0.1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfreeze {
    /// Which parameters.
    pub pattern: Pattern,
    /// From which part of the epochs on, 0..1; what is no whole number of epochs is rounded up.
    pub at: f64,
    /// They learn at this factor of the learning rate, unless a learning-rate group has them.
    pub factor: f64,
}

impl Unfreeze {
    /// The finished epochs after which it happens, in a run of `epochs`.
    pub fn epoch(&self, epochs: u64) -> u64 {
        part::epoch(self.at, epochs)
    }
}

impl FromStr for Unfreeze {
    type Err = String;

    fn from_str(text: &str) -> Result<Unfreeze, String> {
        let explain =
            || format!("`{}` is not PATTERN@PERCENT%, or with a factor: layer4@50%:x0.1", quoted(text));
        let (pattern, rest) = text.rsplit_once('@').ok_or_else(explain)?;
        let (at, factor) = match rest.split_once(':') {
            None => (rest, None),
            Some((at, factor)) => (at, Some(factor)),
        };
        let number = |text: &str| text.parse::<f64>().ok();
        let at = part::parse(at).ok_or_else(|| format!("{}; the percentage is 0 to below 100", explain()))?;
        let factor = match factor {
            None => DEFAULT_FACTOR,
            Some(factor) => {
                let factor = factor.strip_prefix('x').and_then(number).filter(|f| *f > 0.0 && f.is_finite());
                factor.ok_or_else(|| format!("{}; the factor is above 0", explain()))?
            }
        };
        let pattern = pattern.parse().map_err(|_| explain())?;
        Ok(Unfreeze { pattern, at, factor })
    }
}

impl fmt::Display for Unfreeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:x{}", self.pattern, part::text(self.at), self.factor)
    }
}

impl Serialize for Unfreeze {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Unfreeze {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Unfreeze, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whose optimizer state is new after an unfreezing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rebuild {
    /// That of the parameters that have not been training.
    #[default]
    New,
    /// That of all.
    All,
}

/// The stages of a run: stretches of epochs in which the same parameters train.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages {
    freeze: Freeze,
    /// Whether batch norms stay frozen in any case.
    freeze_norms: bool,
    unfreeze: Vec<Unfreeze>,
    epochs: u64,
    /// The finished epochs after which each stage starts; the first is 0.
    starts: Vec<u64>,
}

impl Stages {
    /// The stages of a run of `epochs` that starts with `freeze`.
    pub fn new(freeze: &Freeze, unfreeze: &[Unfreeze], epochs: u64) -> Stages {
        let later = unfreeze.iter().map(|u| u.epoch(epochs)).filter(|&start| start < epochs);
        let mut starts: Vec<u64> = std::iter::once(0).chain(later).collect();
        starts.sort_unstable();
        starts.dedup();
        Stages { freeze: freeze.clone(), freeze_norms: false, unfreeze: unfreeze.to_vec(), epochs, starts }
    }

    /// The same with batch norms that stay frozen in any case where `freeze` is set: they go on using their running statistics.
    pub fn freeze_norms(self, freeze: bool) -> Stages {
        Stages { freeze_norms: freeze, ..self }
    }

    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    /// The stage of the epoch after `epoch` finished ones.
    pub fn at(&self, epoch: u64) -> usize {
        self.starts.partition_point(|&start| start <= epoch).saturating_sub(1)
    }

    /// The finished epochs at which `stage` starts, and those at which it ends.
    pub fn span(&self, stage: usize) -> (u64, u64) {
        let end = self.starts.get(stage + 1).copied().unwrap_or(self.epochs);
        (self.starts.get(stage).copied().unwrap_or(self.epochs), end)
    }

    /// What has been unfrozen by `stage`, in the order given.
    pub fn unfrozen(&self, stage: usize) -> Vec<Unfreeze> {
        let (start, _) = self.span(stage);
        self.unfreeze.iter().filter(|u| u.epoch(self.epochs) <= start).cloned().collect()
    }

    /// Marks in `graph` what trains in `stage`.
    ///
    /// # Errors
    /// When a pattern matches nothing, or nothing is left to train.
    pub fn apply(&self, graph: &mut Graph, stage: usize) -> Result<(), FreezeError> {
        for unfreeze in &self.unfreeze {
            check_matches(graph, &unfreeze.pattern)?;
        }
        let unfrozen = self.unfrozen(stage);
        match apply_freeze(graph, &self.freeze) {
            Err(FreezeError::Everything(_)) if !unfrozen.is_empty() => {}
            applied => applied?,
        }
        let norms = if self.freeze_norms { norms(graph) } else { Vec::new() };
        let parameters = graph.parameters().iter().map(|&id| (id, graph.value(id).name.clone()));
        let trainable: Vec<String> = parameters
            .filter(|(id, name)| {
                graph.parameter_info(*id).is_some_and(|p| p.trainable)
                    || unfrozen.iter().any(|u| u.pattern.matches(name))
            })
            .filter(|(id, _)| !norms.contains(id))
            .map(|(_, name)| name)
            .collect();
        freeze(graph, |name| !trainable.iter().any(|t| t == name));
        match graph.count_parameters().0 {
            0 => Err(FreezeError::Everything(self.freeze.to_string())),
            _ => Ok(()),
        }
    }
}

/// The parameters of batch norms.
fn norms(graph: &Graph) -> Vec<ValueId> {
    let norms = graph.nodes().iter().filter(|node| matches!(node.op, Op::Norm(Norm::Batch(_))));
    norms.flat_map(|node| node.inputs.iter().skip(1)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Unfreeze {
        text.parse().unwrap()
    }

    #[test]
    fn an_unfreezing_is_written_as_it_is_read() {
        let layer4 = parse("layer4@50%:x0.1");
        assert_eq!((layer4.pattern.to_string(), layer4.at, layer4.factor), ("layer4".into(), 0.5, 0.1));
        assert_eq!(parse("layer3@75%").factor, DEFAULT_FACTOR);
        for text in ["layer4@50%:x0.1", "*.bias@12.5%:x3", "features.1?@33%:x0.01"] {
            assert_eq!(parse(text).to_string(), text);
        }
        for text in [
            "layer4",
            "layer4@50",
            "layer4@100%",
            "layer4@-1%",
            "layer4@50%:0.1",
            "@50%",
            "a@5%:x0",
            "a@5%:xinf",
        ] {
            let error = text.parse::<Unfreeze>().unwrap_err();
            assert!(error.contains(text) && error.contains("layer4@50%:x0.1"), "{error}");
        }
    }

    #[test]
    fn stages_start_at_whole_epochs_and_not_before() {
        let stages = Stages::new(&Freeze::Backbone, &[parse("b@75%"), parse("a@50%:x1"), parse("c@75%")], 4);
        assert_eq!(
            (stages.count(), stages.span(0), stages.span(1), stages.span(2)),
            (3, (0, 2), (2, 3), (3, 4))
        );
        assert_eq!([0, 1, 2, 3, 4].map(|epoch| stages.at(epoch)), [0, 0, 1, 2, 2]);
        assert_eq!(stages.unfrozen(0), []);
        assert_eq!(stages.unfrozen(1), [parse("a@50%:x1")]);
        assert_eq!(stages.unfrozen(2).len(), 3);
        assert_eq!(parse("a@50%").epoch(5), 3);
        assert_eq!(parse("a@0%").epoch(5), 0);
        assert_eq!(parse("a@10%").epoch(30), 3);
    }

    #[test]
    fn a_stage_that_would_start_after_the_last_epoch_is_none() {
        assert_eq!(Stages::new(&Freeze::Backbone, &[parse("a@50%")], 1).count(), 1);
    }
}
