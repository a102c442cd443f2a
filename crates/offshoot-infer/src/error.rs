//! Why a network is not run.

use offshoot_graph::passes::FoldError;
use offshoot_graph::{ExecuteError, GraphError};

/// A network could not be prepared or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A pass broke a shape rule.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The weights do not fit the graph.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The executor cannot run it.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The output of the network is not finite.
    #[error(
        "the model gives {0} in place of logits: its weights hold some, or its activations overflow. `offshoot check MODEL DATA` finds the first layer that does"
    )]
    NotFinite(&'static str),
    /// A graph without an input, or with another number of outputs than one.
    #[error("the graph `{graph}` has {inputs} inputs and {outputs} outputs; a classifier has one of each")]
    Ends {
        /// The graph's name.
        graph: String,
        /// Its inputs.
        inputs: usize,
        /// Its outputs.
        outputs: usize,
    },
}
