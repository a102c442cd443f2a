//! What runs the cases, and what disagrees.

use std::collections::BTreeMap;

use offshoot_graph::{ExecuteError, Executor, Graph, Tensor, ValueId, Weights};

/// The outputs of a run by name.
pub(crate) type Outputs = BTreeMap<String, Tensor>;

/// Executors whose results must be bit-identical, such as the same one with several numbers of threads.
#[derive(Clone, Copy)]
pub struct Executors<'a>(pub &'a [&'a dyn Executor]);

impl Executors<'_> {
    /// The outputs of a graph. They are noted where executors differ, and none come back where the graph does not run.
    pub(crate) fn run(
        self,
        graph: &Graph,
        inputs: &[(&str, &Tensor)],
        weights: &Weights,
        what: &str,
        report: &mut Report,
    ) -> Outputs {
        let mut all = Vec::new();
        for executor in self.0 {
            match run(*executor, graph, inputs, weights) {
                Ok(outputs) => all.push(outputs),
                Err(error) => report.note(format!("{what}: {error}")),
            }
        }
        let Some((first, others)) = all.split_first() else { return Outputs::new() };
        for name in first.keys().filter(|name| others.iter().any(|o| !same_bits(&first[*name], &o[*name]))) {
            report.note(format!("{what}: `{name}` depends on the executor"));
        }
        first.clone()
    }
}

/// Runs a graph once.
///
/// # Errors
/// Those of the executor.
pub(crate) fn run(
    executor: &dyn Executor,
    graph: &Graph,
    inputs: &[(&str, &Tensor)],
    weights: &Weights,
) -> Result<Outputs, ExecuteError> {
    let mut session = executor.prepare(graph, weights)?;
    session.run(inputs)?;
    let output = |(name, _): &(String, ValueId)| {
        let tensor = session.read(name).unwrap_or_else(|| panic!("the executor has no output `{name}`"));
        (name.clone(), tensor)
    };
    Ok(graph.outputs().iter().map(output).collect())
}

/// Whether two f32 tensors are the same bit by bit.
fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |t: &Tensor| t.as_f32().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    a.shape() == b.shape() && bits(a) == bits(b)
}

/// The largest difference, relative to the largest element wanted, or to 1/100 where all are smaller: a gradient that
/// vanishes in exact arithmetic does not quite in f32.
///
/// # Panics
/// When the shapes differ.
pub(crate) fn difference(found: &Tensor, wanted: &Tensor, what: &str) -> f32 {
    assert_eq!(found.shape(), wanted.shape(), "{what}");
    let (found, wanted) = (found.as_f32().unwrap(), wanted.as_f32().unwrap());
    offshoot_testing::difference_above(found, wanted, 0.01) as f32
}

/// What disagrees: all of it, not the first.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<String>);

impl Report {
    /// Notes something that is wrong.
    pub(crate) fn note(&mut self, wrong: String) {
        self.0.push(wrong);
    }

    /// Notes a difference above `tolerance`, relative to the largest element.
    pub(crate) fn compare(&mut self, found: &Tensor, wanted: &Tensor, tolerance: f32, what: &str) {
        let d = difference(found, wanted, what);
        if d > tolerance {
            self.note(format!("{what}: off by {d:e} of the largest element, {tolerance:e} is allowed"));
        }
    }

    /// Fails if anything disagreed.
    pub(crate) fn finish(self, executors: Executors<'_>) {
        let names: Vec<String> = executors.0.iter().map(|executor| executor.describe()).collect();
        let count = self.0.len();
        assert!(self.0.is_empty(), "on {}: {count} disagree:\n{}", names.join(", "), self.0.join("\n"));
    }
}
