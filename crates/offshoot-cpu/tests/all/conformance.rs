//! What every executor must compute, on every SIMD path, for any number of threads, optimized and node by node.

use std::panic::{AssertUnwindSafe, catch_unwind};

use offshoot_conformance::{
    Executors, FAKE_QUANTIZATION, GRADIENTS, LOSSES, NETWORKS, OPERATORS, PATTERNS, QUANTIZATION,
    RANDOM_GRAPHS, SUITES, Suite, TRAINING,
};
use offshoot_cpu::{CpuExecutor, Isa};
use offshoot_graph::{ExecuteError, Executor, Graph, Session, Tensor, Weights};

use crate::support::{executors, unoptimized};

/// Each path, with executors that differ in their threads only.
fn check(suite: Suite) {
    for isa in Isa::available() {
        let [one, two, three] = &executors(isa);
        suite.check(Executors(&[one, two, three]));
        suite.check(Executors(&[&unoptimized(isa)]));
    }
}

#[test]
fn operators() {
    check(OPERATORS);
}

#[test]
fn gradients() {
    check(GRADIENTS);
}

#[test]
fn losses() {
    check(LOSSES);
}

#[test]
fn quantization() {
    check(QUANTIZATION);
}

#[test]
fn fake_quantization() {
    check(FAKE_QUANTIZATION);
}

#[test]
fn networks() {
    check(NETWORKS);
}

#[test]
fn training() {
    check(TRAINING);
}

#[test]
fn patterns() {
    check(PATTERNS);
}

#[test]
fn random_graphs() {
    check(RANDOM_GRAPHS);
}

/// An executor whose results are too large by a thousandth for each output that a graph has.
struct Wrong(CpuExecutor);

struct WrongSession {
    session: Box<dyn Session>,
    factor: f32,
}

impl Executor for Wrong {
    fn describe(&self) -> String {
        "wrong".into()
    }

    fn prepare(&self, graph: &Graph, weights: &Weights) -> Result<Box<dyn Session>, ExecuteError> {
        let factor = 1.0 + 1e-3 * graph.outputs().len() as f32;
        Ok(Box::new(WrongSession { session: self.0.prepare(graph, weights)?, factor }))
    }
}

impl Session for WrongSession {
    fn add_graph(&mut self, graph: &Graph, weights: &Weights) -> Result<usize, ExecuteError> {
        self.session.add_graph(graph, weights)
    }

    fn run_graph(&mut self, graph: usize, inputs: &[(&str, &Tensor)]) -> Result<(), ExecuteError> {
        self.session.run_graph(graph, inputs)
    }

    fn fork(&self) -> Box<dyn Session> {
        Box::new(WrongSession { session: self.session.fork(), factor: self.factor })
    }

    fn read(&self, name: &str) -> Option<Tensor> {
        let mut tensor = self.session.read(name)?;
        tensor.as_f32_mut()?.iter_mut().for_each(|x| *x *= self.factor);
        Some(tensor)
    }

    fn upload(&mut self, name: &str, tensor: &Tensor) -> Result<(), ExecuteError> {
        self.session.upload(name, tensor)
    }

    fn state(&self) -> Weights {
        self.session.state()
    }

    fn restore(&mut self, state: &Weights) -> Result<(), ExecuteError> {
        self.session.restore(state)
    }

    fn workspace_bytes(&self) -> usize {
        self.session.workspace_bytes()
    }
}

#[test]
fn a_wrong_executor_passes_no_suite() {
    let [wrong, ..] = executors(Isa::best()).map(Wrong);
    for suite in SUITES {
        let passed = catch_unwind(AssertUnwindSafe(|| suite.check(Executors(&[&wrong]))));
        assert!(passed.is_err(), "{} passed", suite.name);
    }
}
