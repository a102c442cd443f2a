//! What the rounding of each operator costs.

use std::collections::BTreeSet;

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::{Executor, Graph, Tensor, Weights};

use crate::calibrate::Calibration;
use crate::error::QuantError;
use crate::rewrite::quantize;
use crate::select::Network;

/// An operator and what its rounding costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// The operator's name.
    pub operator: String,
    /// By how much the mean squared error of the logits falls when this operator alone stays in float, relative to the error
    /// with everything rounded. It may be negative: errors can cancel.
    pub share: f64,
}

/// Measures each operator: it alone stays in float, and the logits for `batches` of pictures are compared with the float
/// network's. The costliest comes first. `done` is told how many have been measured, of how many.
///
/// # Errors
/// When the executor cannot run a network.
pub fn rank(
    network: &Network,
    calibration: &Calibration,
    batches: &[Tensor],
    executor: &dyn Executor,
    mut done: impl FnMut(usize, usize),
) -> Result<Vec<Cost>, QuantError> {
    let exact = logits(&network.graph, &network.weights, batches, executor)?;
    let error = |kept: &BTreeSet<String>| -> Result<f64, QuantError> {
        let model = quantize(network, calibration, kept)?;
        let found = logits(&model.graph, &model.weights, batches, executor)?;
        let squares = exact.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2));
        Ok(squares.sum::<f64>() / exact.len().max(1) as f64)
    };
    let all = error(&BTreeSet::new())?;
    let operators = network.operators();
    let count = operators.len();
    let mut costs = Vec::with_capacity(count);
    for (index, operator) in operators.into_iter().enumerate() {
        let without = error(&BTreeSet::from([operator.clone()]))?;
        let share = if all > 0.0 { (all - without) / all } else { 0.0 };
        costs.push(Cost { operator, share });
        done(index + 1, count);
    }
    // Stable: of equal ones the first of the network comes first.
    costs.sort_by(|a, b| b.share.total_cmp(&a.share));
    Ok(costs)
}

fn logits(
    graph: &Graph,
    weights: &Weights,
    batches: &[Tensor],
    executor: &dyn Executor,
) -> Result<Vec<f32>, QuantError> {
    let mut session = executor.prepare(graph, weights)?;
    let mut found = Vec::new();
    for batch in batches {
        session.run(&[(INPUT, batch)])?;
        found.extend(session.read(OUTPUT).and_then(Tensor::into_f32).unwrap_or_default());
    }
    Ok(found)
}
