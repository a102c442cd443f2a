//! What can go wrong.

use offshoot_graph::passes::FoldError;
use offshoot_graph::{ExecuteError, GraphError};

/// A network that cannot be quantized.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// The weights do not fit the graph.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// A pass broke a shape rule.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The executor cannot run the network.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// It has no convolution and no linear layer with weights of its own.
    #[error(
        "there is no convolution and no linear layer in float32 to quantize; is it quantized already? Give the trained model"
    )]
    Nothing,
    /// No pictures.
    #[error("there are no pictures to calibrate on")]
    NoPictures,
    /// An activation that is not finite.
    #[error(
        "node `{node}` gives values that are not finite on the calibration pictures; `offshoot check` finds out why"
    )]
    NotFinite {
        /// The node, or the input.
        node: String,
    },
    /// An operator that is to stay in float and that there is not.
    #[error("there is no quantized operator called `{name}` to keep in float")]
    Unknown {
        /// The name that was given.
        name: String,
    },
}
