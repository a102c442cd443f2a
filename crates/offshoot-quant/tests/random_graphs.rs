//! Random graphs, quantized: an error where that cannot be, never a panic, and what comes out runs.
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "../../offshoot-cpu/tests/all/random_graph.rs"]
mod random_graph;

use std::collections::BTreeSet;

use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_graph::Model;
use offshoot_graph::passes::{prune, shipped};
use offshoot_graph::random::{Purpose, Random};
use offshoot_quant::{Method, Network, Scheme, WeightBits, calibrate, quantize};
use proptest::prelude::*;

use random_graph::{Made, Maker};

fn model(made: &Made) -> Option<Model> {
    let (graph, weights) = made.classifier()?;
    let (graph, weights) = shipped(&prune(&graph).unwrap(), &weights).unwrap();
    Some(Model { graph, weights, metadata: made.metadata() })
}

/// Whether the graph was one that could be quantized.
fn check(choices: &[u16]) -> Result<bool, TestCaseError> {
    let made = Maker::new(choices).finish();
    let Some(model) = model(&made) else { return Ok(false) };
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let scheme =
        if choices.len().is_multiple_of(2) { Scheme::cpu(WeightBits::Eight) } else { Scheme::tensorrt() };
    let Ok(network) = Network::new(&model, scheme) else { return Ok(false) };
    let Ok(ranges) = calibrate(&network, &[made.picture()], Method::MinMax, &executor) else {
        return Ok(false);
    };
    let quantised = quantize(&network, &ranges, &BTreeSet::new());
    prop_assert!(quantised.is_ok(), "{:?}", quantised.err());
    let quantised = quantised.unwrap();
    let plain = made.run_unoptimized(&quantised.graph, &quantised.weights, Isa::best());
    prop_assert!(plain.is_ok(), "as written: {:?}", plain.err());
    for isa in [Isa::available()[0], Isa::best()] {
        let run = made.run(&quantised.graph, &quantised.weights, isa);
        prop_assert!(run.is_ok(), "on integers: {:?}", run.err());
    }
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_random_graph_panics(choices in proptest::collection::vec(any::<u16>(), 6..120)) {
        check(&choices)?;
    }
}

#[test]
fn enough_random_graphs_are_quantised() {
    let mut random = Random::new(3, 0, 0, Purpose::Init);
    let done = (0..100).filter(|_| check(&random_graph::choices(&mut random, 110)).unwrap()).count();
    assert!(done >= 20, "{done} of 100");
}
