//! The interface between graphs and what runs them.

use std::time::Duration;

use crate::graph::{Graph, GraphError};
use crate::shape::DimError;
use crate::tensor::{Tensor, Weights};

/// Prepares graphs to run on some processor.
pub trait Executor: Send + Sync {
    /// What decides how it rounds, in a few words: two executors with the same text give bit-identical results.
    fn describe(&self) -> String;

    /// Takes a graph to run, with the weights it will run with.
    ///
    /// # Errors
    /// When `weights` lacks a parameter, or holds it with another type or shape.
    fn prepare(&self, graph: &Graph, weights: &Weights) -> Result<Box<dyn Session>, ExecuteError>;
}

/// A graph that runs.
pub trait Session: Send {
    /// Runs the graph once. Symbols in the inputs' shapes take their numbers from the tensors given; a plan is made
    /// for each set of numbers and kept. Trainable weights and running statistics may change from run to run; frozen
    /// weights must not, for they may have been packed in the first.
    ///
    /// # Errors
    /// When an input or a parameter is missing or has another type or shape.
    fn run(&mut self, inputs: &[(&str, &Tensor)], weights: &Weights) -> Result<(), ExecuteError>;

    /// A session of the same graph for another thread, which has not run yet. The two share what was packed of frozen
    /// weights, and give the same bits.
    fn fork(&self) -> Box<dyn Session>;

    /// An f32 output of the last run, row-major in the graph's own order of axes. `None` before the first run and
    /// for a name that is no output.
    fn output(&self, name: &str) -> Option<TensorView<'_>>;

    /// Bytes of the buffers that the last run's plan works in, parameters not counted.
    fn workspace_bytes(&self) -> usize;

    /// How long each step of the last run took, in order, where the executor was asked to measure it.
    fn profile(&self) -> &[StepTime] {
        &[]
    }
}

/// The time that one step of a run took.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// The node that the step belongs to, or what the executor put between nodes (`layout`, `pack`, `copy`).
    pub node: String,
    /// Wall-clock time.
    pub time: Duration,
}

/// An f32 tensor that somebody else owns.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView<'a> {
    /// The size of each axis.
    pub shape: &'a [usize],
    /// The elements, row-major.
    pub data: &'a [f32],
}

/// A graph could not be prepared or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// An operator that this executor has no kernel for.
    #[error("node `{node}` ({op}) cannot run on this executor: {reason}")]
    Unsupported {
        /// The node's name.
        node: String,
        /// The operator's name.
        op: &'static str,
        /// What is missing.
        reason: String,
    },
    /// An input that the graph has was not given.
    #[error("the input `{0}` is missing")]
    MissingInput(String),
    /// An input of another type or shape.
    #[error("the input `{name}` must be {wanted}, not {found}")]
    Input {
        /// The input's name.
        name: String,
        /// What the graph says.
        wanted: String,
        /// What was given.
        found: String,
    },
    /// A parameter that is missing, or has another type or shape.
    #[error("the parameter `{name}` must be {wanted}, not {found}")]
    Parameter {
        /// The parameter's name.
        name: String,
        /// What the graph says.
        wanted: String,
        /// What the weights hold.
        found: String,
    },
    /// A row of a table that is not there.
    #[error(
        "node `{node}` (Gather): index {index} is outside of a table of {rows} rows; give tokens of the model's vocabulary, and no more steps than it has positions"
    )]
    Index {
        /// The node's name.
        node: String,
        /// What was asked for.
        index: i64,
        /// What there is.
        rows: usize,
    },
    /// A graph that breaks a shape rule.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A size that cannot be computed from the inputs.
    #[error(transparent)]
    Size(#[from] DimError),
}
