//! A network that answers.

use blake3::Hasher;
use offshoot_graph::passes::{
    FoldError, autocast, freeze, fuse, fuse_quantized, remove_training_leftovers, shipped,
};
use offshoot_graph::{
    DType, ExecuteError, Executor, Graph, GraphError, Model, Session, Tensor, TensorView, Weights,
};

use crate::fingerprint;

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

/// A graph with one output, and with one input unless it is for tokens, prepared the way it is shipped: batch norms folded, dropouts removed.
pub struct Inference {
    graph: Graph,
    session: Box<dyn Session>,
    weights: Weights,
    inputs: Vec<String>,
    output: String,
}

impl Inference {
    /// Prepares a classifier.
    ///
    /// # Errors
    /// When the weights do not fit the graph, or the executor cannot run it.
    pub fn new(model: &Model, executor: &dyn Executor) -> Result<Inference, NetworkError> {
        Inference::of_graph(&model.graph, &model.weights, executor)
    }

    /// Prepares a classifier as it was trained, batch norms as operators of their own: what a shipped file is compared
    /// with, so that the comparison covers the folding too.
    ///
    /// # Errors
    /// When the weights do not fit the graph, or the executor cannot run it.
    pub fn unfolded(model: &Model, executor: &dyn Executor) -> Result<Inference, NetworkError> {
        let mut graph = model.graph.clone();
        freeze(&mut graph, |_| true);
        let graph = remove_training_leftovers(&graph)?;
        Inference::prepare(&graph, model.weights.clone(), executor)
    }

    /// Prepares a classifier whose activations are stored as `half`, bf16 or f16, as in [`autocast`]: matrix operators round
    /// their weights to it; logits are f32.
    ///
    /// # Errors
    /// When `half` is no 16-bit float, the weights do not fit the graph, or the executor cannot run it.
    pub fn in_half(model: &Model, half: DType, executor: &dyn Executor) -> Result<Inference, NetworkError> {
        let (graph, weights) = shipped(&model.graph, &model.weights)?;
        Inference::prepare(&fuse(&autocast(&graph, half)?)?, weights, executor)
    }

    /// Prepares any graph with one output.
    pub(crate) fn of_graph(
        graph: &Graph,
        weights: &Weights,
        executor: &dyn Executor,
    ) -> Result<Inference, NetworkError> {
        let (graph, weights) = shipped(graph, weights)?;
        Inference::prepare(&fuse(&fuse_quantized(&graph)?)?, weights, executor)
    }

    fn prepare(graph: &Graph, weights: Weights, executor: &dyn Executor) -> Result<Inference, NetworkError> {
        let ([_, ..], [(output, _)]) = (graph.inputs(), graph.outputs()) else {
            let (inputs, outputs) = (graph.inputs().len(), graph.outputs().len());
            return Err(NetworkError::Ends { graph: graph.name().into(), inputs, outputs });
        };
        let inputs = graph.inputs().iter().map(|&id| graph.value(id).name.clone()).collect();
        let session = executor.prepare(graph, &weights)?;
        Ok(Inference { graph: graph.clone(), session, weights, inputs, output: output.clone() })
    }

    /// Adds all that decides about its answers but the executor.
    pub(crate) fn fingerprint(&self, hasher: &mut Hasher) {
        fingerprint::graph(hasher, &self.graph);
        fingerprint::weights(hasher, &self.weights, |_| true);
    }

    /// The output for one input: for a classifier, logits [n, classes] for pictures [n, 3, size, size].
    ///
    /// # Errors
    /// When the input has another shape than the graph's.
    pub fn run(&mut self, input: &Tensor) -> Result<TensorView<'_>, NetworkError> {
        self.run_all(std::slice::from_ref(input))
    }

    /// The output for all inputs, in the graph's order.
    ///
    /// # Errors
    /// When one is missing or has another shape than the graph's.
    pub fn run_all(&mut self, inputs: &[Tensor]) -> Result<TensorView<'_>, NetworkError> {
        let named: Vec<(&str, &Tensor)> = self.inputs.iter().map(String::as_str).zip(inputs).collect();
        self.session.run(&named, &self.weights)?;
        let output = self.session.output(&self.output);
        Ok(output.expect("a session that ran has the graph's outputs"))
    }
}
