//! A network that is run for inference.

use offshoot_graph::passes::{autocast, freeze, gives_probabilities, remove_training_leftovers, shipped};
use offshoot_graph::{DType, Executor, Graph, Model, Session, StepTime, Tensor, Weights};

use crate::constants::fold_constants;
pub use crate::error::NetworkError;

/// A graph with one output, and with one input unless it is for tokens, prepared the way it is shipped: batch norms folded, dropouts removed.
pub struct Inference {
    graph: Graph,
    session: Box<dyn Session>,
    inputs: Vec<String>,
    output: String,
    probabilities: bool,
}

/// The network as it is shipped, and what follows from its weights alone computed.
///
/// # Errors
/// When the weights do not fit the graph, or the executor cannot run it.
pub fn folded(
    graph: &Graph,
    weights: &Weights,
    executor: &dyn Executor,
) -> Result<(Graph, Weights), NetworkError> {
    let (graph, weights) = shipped(graph, weights)?;
    fold_constants(graph, weights, executor)
}

/// An error where an output is NaN or infinite: no class can be told from it.
///
/// # Errors
/// [`NetworkError::NotFinite`].
pub fn check_answers(answers: &[f32]) -> Result<(), NetworkError> {
    match answers {
        all if all.iter().any(|x| x.is_nan()) => Err(NetworkError::NotFinite("NaN")),
        all if all.iter().any(|x| x.is_infinite()) => Err(NetworkError::NotFinite("infinities")),
        _ => Ok(()),
    }
}

impl Inference {
    /// Prepares a classifier, [in half](Self::in_half) precision where the executor is [set to it](Executor::inference_type).
    ///
    /// # Errors
    /// When the weights do not fit the graph, or the executor cannot run it.
    pub fn new(model: &Model, executor: &dyn Executor) -> Result<Inference, NetworkError> {
        match executor.inference_type() {
            Some(half) => Inference::in_half(model, half, executor),
            None => Inference::of_graph(&model.graph, &model.weights, executor),
        }
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
        let prepared = Inference::prepare(&graph, &model.weights, executor)?;
        Ok(Inference { probabilities: model.gives_probabilities(), ..prepared })
    }

    /// Prepares a classifier whose activations are stored as `half`, bf16 or f16, as in [`autocast`]: matrix operators round
    /// their weights to it; logits are f32.
    ///
    /// # Errors
    /// When `half` is no 16-bit float, the weights do not fit the graph, or the executor cannot run it.
    pub fn in_half(model: &Model, half: DType, executor: &dyn Executor) -> Result<Inference, NetworkError> {
        let (graph, weights) = folded(&model.graph, &model.weights, executor)?;
        let prepared = Inference::prepare(&autocast(&graph, half)?, &weights, executor)?;
        Ok(Inference { probabilities: model.gives_probabilities(), ..prepared })
    }

    /// Prepares any graph with one output.
    ///
    /// # Errors
    /// When the weights do not fit the graph, or the executor cannot run it.
    pub fn of_graph(
        graph: &Graph,
        weights: &Weights,
        executor: &dyn Executor,
    ) -> Result<Inference, NetworkError> {
        let (graph, weights) = folded(graph, weights, executor)?;
        let probabilities = gives_probabilities(&graph, &weights);
        let prepared = Inference::prepare(&graph, &weights, executor)?;
        Ok(Inference { probabilities, ..prepared })
    }

    fn prepare(graph: &Graph, weights: &Weights, executor: &dyn Executor) -> Result<Inference, NetworkError> {
        let ([_, ..], [(output, _)]) = (graph.inputs(), graph.outputs()) else {
            let (inputs, outputs) = (graph.inputs().len(), graph.outputs().len());
            return Err(NetworkError::Ends { graph: graph.name().into(), inputs, outputs });
        };
        let inputs = graph.inputs().iter().map(|&id| graph.value(id).name.clone()).collect();
        let session = executor.prepare(graph, weights)?;
        let (output, probabilities) = (output.clone(), false);
        Ok(Inference { graph: graph.clone(), session, inputs, output, probabilities })
    }

    /// The same network for another thread: weights, and what the executor has packed of them, are shared.
    pub fn fork(&self) -> Inference {
        Inference {
            graph: self.graph.clone(),
            session: self.session.fork(),
            inputs: self.inputs.clone(),
            output: self.output.clone(),
            probabilities: self.probabilities,
        }
    }

    /// The graph as it is run. With [`Inference::weights`] it decides the outputs, but for how the executor rounds.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The weights that it is run with.
    pub fn weights(&self) -> Weights {
        let names = self.graph.parameters().iter().map(|&id| &self.graph.value(id).name);
        names.filter_map(|name| Some((name.clone(), self.session.read(name)?))).collect()
    }

    /// What each step of the last run took: see [`Session::profile`].
    pub fn profile(&self) -> &[StepTime] {
        self.session.profile()
    }

    /// Whether the output is the probability of each class, and not logits.
    pub fn gives_probabilities(&self) -> bool {
        self.probabilities
    }

    /// Logits [n, classes] for pictures [n, 3, size, size]; where the network gives probabilities, their logarithms.
    ///
    /// # Errors
    /// As [`Inference::run`], and when an output is not finite.
    pub fn logits(&mut self, pictures: &Tensor) -> Result<Vec<f32>, NetworkError> {
        let mut answers = self.run(pictures)?.into_f32().unwrap_or_default();
        check_answers(&answers)?;
        if self.probabilities {
            // A probability of 0 is kept finite.
            answers.iter_mut().for_each(|p| *p = libm::logf(p.max(f32::MIN_POSITIVE)));
        }
        Ok(answers)
    }

    /// The output for one input: for a classifier, logits [n, classes] for pictures [n, 3, size, size].
    ///
    /// # Errors
    /// When the input has another shape than the graph's.
    pub fn run(&mut self, input: &Tensor) -> Result<Tensor, NetworkError> {
        self.run_all(std::slice::from_ref(input))
    }

    /// The output for all inputs, in the graph's order.
    ///
    /// # Errors
    /// When one is missing or has another shape than the graph's.
    pub fn run_all(&mut self, inputs: &[Tensor]) -> Result<Tensor, NetworkError> {
        let named: Vec<(&str, &Tensor)> = self.inputs.iter().map(String::as_str).zip(inputs).collect();
        self.session.run(&named)?;
        let output = self.session.read(&self.output);
        Ok(output.expect("a session that ran has the graph's outputs"))
    }
}
