//! What every executor of offshoot must compute: golden cases from PyTorch and ONNX Runtime, whole networks in inference and
//! training, and random graphs. An executor needs one test:
//!
//! ```no_run
//! # let executor: Box<dyn offshoot_graph::Executor> = unimplemented!();
//! offshoot_conformance::check(offshoot_conformance::Executors(&[&*executor]));
//! ```
//!
//! All graphs are plain ones, as callers hand them over: an executor fuses what it likes.
#![allow(clippy::unwrap_used)] // it is for tests

mod executors;
pub mod golden;
mod losses;
pub mod networks;
mod operators;
mod patterns;
mod quantization;
pub mod random_graph;
mod random_graphs;

pub use executors::Executors;
use executors::{Outputs, Report};

/// Cases of one kind, and what compares an executor with them.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What it is about.
    pub name: &'static str,
    run: fn(Executors<'_>, &mut Report),
}

impl Suite {
    /// Compares executors with the cases.
    ///
    /// # Panics
    /// When something disagrees: the message names all of it.
    pub fn check(&self, executors: Executors<'_>) {
        let mut report = Report::default();
        (self.run)(executors, &mut report);
        report.finish(executors);
    }
}

/// Operators, against PyTorch.
pub const OPERATORS: Suite = Suite { name: "operators", run: operators::forward };
/// Gradients of operators, against PyTorch.
pub const GRADIENTS: Suite = Suite { name: "gradients of operators", run: operators::backward };
/// The loss with soft targets, against PyTorch.
pub const LOSSES: Suite = Suite { name: "losses", run: losses::all };
/// QuantizeLinear and DequantizeLinear, against ONNX Runtime.
pub const QUANTIZATION: Suite = Suite { name: "quantization", run: quantization::both };
/// The gradient of quantization, against PyTorch.
pub const FAKE_QUANTIZATION: Suite = Suite { name: "fake quantization", run: quantization::gradient };
/// Whole networks, against PyTorch.
pub const NETWORKS: Suite = Suite { name: "networks", run: networks::inference };
/// Training steps of whole networks, against PyTorch.
pub const TRAINING: Suite = Suite { name: "training", run: networks::training };
/// What an executor may fuse, against the same with all values as outputs.
pub const PATTERNS: Suite = Suite { name: "patterns", run: patterns::patterns };
/// Random graphs, against the same with all values as outputs.
pub const RANDOM_GRAPHS: Suite = Suite { name: "random graphs", run: random_graphs::answers };

/// All of them.
pub const SUITES: [Suite; 9] = [
    OPERATORS,
    GRADIENTS,
    LOSSES,
    QUANTIZATION,
    FAKE_QUANTIZATION,
    NETWORKS,
    TRAINING,
    PATTERNS,
    RANDOM_GRAPHS,
];

/// Compares executors with all cases.
///
/// # Panics
/// As [`Suite::check`].
pub fn check(executors: Executors<'_>) {
    let mut report = Report::default();
    SUITES.iter().for_each(|suite| (suite.run)(executors, &mut report));
    report.finish(executors);
}
