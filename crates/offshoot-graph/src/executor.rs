//! The interface between graphs and what runs them.

use std::sync::Arc;
use std::time::Duration;

use crate::graph::{Graph, GraphError};
use crate::shape::DimError;
use crate::tensor::{DType, Tensor, Weights};

/// Prepares graphs to run on some processor.
pub trait Executor: Send + Sync {
    /// What decides how it rounds, in a few words: two executors with the same text give bit-identical results.
    fn describe(&self) -> String;

    /// Takes a graph to run, and its parameters out of `weights`: the session holds them from now on.
    ///
    /// # Errors
    /// When `weights` lacks a parameter, or holds it with another type or shape.
    fn prepare(&self, graph: &Graph, weights: &Weights) -> Result<Box<dyn Session>, ExecuteError>;

    /// What the matrix operators of a network that is run for inference compute on, if not on what they are given: bf16 or f16, as
    /// [`autocast`](crate::passes::autocast) says. Training and proofs of exported files do not ask.
    fn inference_type(&self) -> Option<DType> {
        None
    }

    /// The same executor with sessions that measure each step ([`Session::profile`]), where it can.
    fn profiling(&self) -> Option<Arc<dyn Executor>> {
        None
    }

    /// Measures what it can do at most, where it can: that takes a part of a second, and some memory.
    fn peaks(&self) -> Option<Peaks> {
        None
    }
}

/// Graphs that run, and the parameters that they share.
pub trait Session: Send {
    /// Adds a graph and returns its number; the first one's is 0. Parameters that the session holds already are shared by
    /// name, and the others taken out of `weights`.
    ///
    /// # Errors
    /// When a parameter is missing or has another type or shape.
    fn add_graph(&mut self, graph: &Graph, weights: &Weights) -> Result<usize, ExecuteError>;

    /// [`Session::run_graph`] of the first graph.
    ///
    /// # Errors
    /// As [`Session::run_graph`].
    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<(), ExecuteError> {
        self.run_graph(0, inputs)
    }

    /// Runs a graph once, and lets its results take the place of the parameters ([`Graph::results`]). Symbols in the inputs'
    /// shapes take their numbers from the tensors given; a plan is made for each set of numbers and kept.
    ///
    /// # Errors
    /// When an input is missing or has another type or shape, and when a result is not finite: no parameter has changed
    /// then. After [`ExecuteError::NotFinite`] the outputs can be read.
    fn run_graph(&mut self, graph: usize, inputs: &[(&str, &Tensor)]) -> Result<(), ExecuteError>;

    /// [`Session::run_graph`] that hands `watch` the outputs of these names, all of them f32, row-major in the graph's own order of axes: each as soon
    /// as it is computed where the executor can tell, so that it can be sent on while the run goes on, else after the run.
    ///
    /// # Errors
    /// As [`Session::run_graph`].
    fn run_graph_watched(
        &mut self,
        graph: usize,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
        watch: &mut (dyn FnMut(&str, &[f32]) + Send),
    ) -> Result<(), ExecuteError> {
        self.run_graph(graph, inputs)?;
        for name in outputs {
            let output = self.read(name);
            watch(name, output.as_ref().and_then(Tensor::as_f32).unwrap_or_default());
        }
        Ok(())
    }

    /// An output of the last run, row-major in the graph's own order of axes, or else a parameter as it is now. `None` for
    /// any other name.
    fn read(&self, name: &str) -> Option<Tensor>;

    /// Puts `tensor` in the place of a parameter.
    ///
    /// # Errors
    /// When the session has no such parameter, or one of another type or shape.
    fn upload(&mut self, name: &str, tensor: &Tensor) -> Result<(), ExecuteError>;

    /// The parameters that runs of its graphs change, by name.
    fn state(&self) -> Weights;

    /// Puts what [`Session::state`] gave back; names that it has not stay as they are.
    ///
    /// # Errors
    /// As [`Session::upload`]; nothing has changed then.
    fn restore(&mut self, state: &Weights) -> Result<(), ExecuteError>;

    /// A session of the same graphs for another thread, which has not run yet, with the parameters as they are now. The two
    /// share what was packed of frozen ones, and their results are bit-identical.
    fn fork(&self) -> Box<dyn Session>;

    /// Bytes of the buffers that the last run's plan works in, parameters not counted.
    fn workspace_bytes(&self) -> usize;

    /// What each step of the last run took, in order, where the executor was asked to measure it ([`Executor::profiling`]).
    fn profile(&self) -> &[StepTime] {
        &[]
    }
}

/// What one step of a run took, and what it had to do.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// The node that the step belongs to; of several in one, `first .. last`.
    pub node: String,
    /// The operator, as the executor calls it: one of the graph's, or several fused.
    pub operator: &'static str,
    /// The kernel that was chosen for it, in one word or two.
    pub kernel: &'static str,
    /// Wall-clock time.
    pub time: Duration,
    /// The operations of the node, as in [`Cost::operations`](crate::Cost::operations): multiply-adds as they are defined, each
    /// counted as two. 0 for a step that only moves or converts what another reads.
    pub operations: u64,
    /// Bytes of what the step reads and writes, each once, in the form that the kernel takes: a packed filter may be larger than the
    /// weight.
    pub bytes: u64,
}

/// What a machine can do at most, as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// f32 operations a second, where a multiply-add counts as two.
    pub flops: f64,
    /// Bytes a second that a copy in memory reads and writes.
    pub bandwidth: f64,
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
    /// A graph that was not added.
    #[error("the session has no graph {0}")]
    NoGraph(usize),
    /// A result of a run that is not finite.
    #[error("the new value of `{0}` is not finite")]
    NotFinite(String),
    /// A graph that breaks a shape rule.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A size that cannot be computed from the inputs.
    #[error(transparent)]
    Size(#[from] DimError),
}
