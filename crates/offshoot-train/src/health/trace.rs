//! A refused step looked at: the first number in it that is not finite.

use offshoot_graph::model::INPUT;
use offshoot_graph::passes::{
    CLASS_WEIGHTS, KEYS, LABELS, LOSS_SCALE, TrainingGraph, autocast, fold_batch_norm, freeze,
    remove_training_leftovers, training_graph,
};
use offshoot_graph::{Executor, Tensor};

use super::probe::{NonFinite, Probe};
use crate::inference::NetworkError;
use crate::split::{Split, split};
use crate::step::{Batch, StepOptions, TrainStep};

/// The first number that is not finite in the frozen part of `step`'s network, run on pictures.
///
/// # Errors
/// When the network cannot run on them.
pub(crate) fn trace_frozen(
    step: &mut TrainStep,
    images: &Tensor,
    executor: &dyn Executor,
) -> Result<Option<NonFinite>, NetworkError> {
    let model = step.model();
    let Some(Split { mut prefix, .. }) = split(&model.graph)? else { return Ok(None) };
    freeze(&mut prefix, |_| true);
    let graph = remove_training_leftovers(&prefix)?;
    let inputs = [(INPUT, images)];
    Probe { graph: &graph, weights: &model.weights, inputs: &inputs, executor }.first_nonfinite()
}

/// The first number that is not finite in the part of `step`'s network that is differentiated, run forward and backward on
/// a batch as the next step would. In f32, frozen batch norms are nodes of their own: the number may be theirs.
///
/// # Errors
/// When the network cannot run on it.
pub(crate) fn trace_trained(
    step: &mut TrainStep,
    options: &StepOptions,
    batch: &Batch,
    executor: &dyn Executor,
) -> Result<Option<NonFinite>, NetworkError> {
    let scale = step.loss_scale().map(|scale| Tensor::full([], scale));
    let model = step.model();
    let (network, input) = match split(&model.graph)? {
        None => (model.graph.clone(), INPUT.to_owned()),
        Some(Split { suffix, border, .. }) => (suffix, border),
    };
    // In a half type, what overflows depends on the folding.
    let (network, weights) = match options.amp.dtype() {
        None => (network, model.weights.clone()),
        Some(half) => {
            let (folded, weights) = fold_batch_norm(&network, &model.weights)?;
            (autocast(&folded, half)?, weights)
        }
    };
    let TrainingGraph { graph, .. } = training_graph(&network, options.loss())?;
    let class_weights = options.class_weights_input();
    let mut inputs = vec![(input.as_str(), &batch.features), (LABELS, &batch.labels), (KEYS, &batch.keys)];
    inputs.extend(class_weights.as_ref().map(|weights| (CLASS_WEIGHTS, weights)));
    inputs.extend(scale.as_ref().map(|scale| (LOSS_SCALE, scale)));
    Probe { graph: &graph, weights: &weights, inputs: &inputs, executor }.first_nonfinite()
}
