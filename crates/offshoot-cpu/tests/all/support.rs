//! What the tests share.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_graph::{Executor, Graph, Tensor, ValueId, Weights};

/// An executor on the path `isa`.
pub(crate) fn executor(isa: Isa) -> CpuExecutor {
    CpuExecutor::new(CpuOptions { isa: Some(isa), ..CpuOptions::default() }).unwrap()
}

/// Executors of one, two and three threads on the path `isa`.
pub(crate) fn executors(isa: Isa) -> [CpuExecutor; 3] {
    [1, 2, 3].map(|threads| {
        let threads = NonZeroUsize::new(threads);
        CpuExecutor::new(CpuOptions { threads, isa: Some(isa), ..CpuOptions::default() }).unwrap()
    })
}

/// An executor on the path `isa` that runs a graph node by node.
pub(crate) fn unoptimized(isa: Isa) -> CpuExecutor {
    let options = CpuOptions { isa: Some(isa), unoptimized: true, ..CpuOptions::default() };
    CpuExecutor::new(options).unwrap()
}

/// Runs a graph once and returns its outputs by name.
pub(crate) fn run(
    executor: &CpuExecutor,
    graph: &Graph,
    inputs: &[(&str, &Tensor)],
    weights: &Weights,
) -> BTreeMap<String, Tensor> {
    let mut session = executor.prepare(graph, weights).unwrap();
    session.run(inputs).unwrap();
    let output = |(name, _): &(String, ValueId)| (name.clone(), session.read(name).unwrap());
    graph.outputs().iter().map(output).collect()
}

/// The largest difference, relative to the largest element wanted, or to 1/100 where all are smaller: a gradient that
/// vanishes in exact arithmetic does not quite in f32. Shapes must agree.
pub(crate) fn difference(found: &Tensor, wanted: &Tensor, what: &str) -> f32 {
    assert_eq!(found.shape(), wanted.shape(), "{what}");
    let (found, wanted) = (found.as_f32().unwrap(), wanted.as_f32().unwrap());
    offshoot_testing::difference_above(found, wanted, 0.01) as f32
}
