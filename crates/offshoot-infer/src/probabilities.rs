//! Probabilities of outputs.

use offshoot_graph::Task;

use crate::labels::sigmoid;

/// The place of the largest value; of several, the first. One that is not a number never wins.
pub fn argmax(row: &[f32]) -> usize {
    let better =
        |best: usize, (i, &x): (usize, &f32)| if x > row[best] || row[best].is_nan() { i } else { best };
    row.iter().enumerate().fold(0, better)
}

/// exp(x) / sum(exp(x)), in f64.
pub fn softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = row.iter().map(|&x| libm::exp(f64::from(x) - f64::from(most))).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|x| x / sum).collect()
}

/// What makes probabilities of a classifier's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The outputs are probabilities as they are, or numbers that are no logits.
    None,
    /// Of logits of one class of several.
    Softmax,
    /// Of a logit for each class by itself.
    Sigmoid,
}

impl Activation {
    /// That of a network for `task`, which may give probabilities itself.
    pub fn new(gives_probabilities: bool, task: Task) -> Activation {
        match task {
            _ if gives_probabilities => Activation::None,
            Task::Regression => Activation::None,
            Task::Single => Activation::Softmax,
            Task::Multi => Activation::Sigmoid,
        }
    }

    /// The probability of each class.
    pub fn probabilities(self, answers: &[f32]) -> Vec<f64> {
        match self {
            Activation::None => answers.iter().map(|&p| p.into()).collect(),
            Activation::Softmax => softmax(answers),
            Activation::Sigmoid => answers.iter().map(|&x| sigmoid(x)).collect(),
        }
    }
}
