//! What a step is to learn of pictures.

use offshoot_data::Sample;
use offshoot_graph::{Regression, Task, Tensor};

/// The labels of pictures as the graph of a step takes them ([`LABELS`](offshoot_graph::passes::LABELS)), without smoothing or weights: i64
/// `[n]` of one class a picture, f32 `[n, classes + 1]` of several or of numbers.
pub fn targets<'a>(task: Task, classes: usize, samples: impl Iterator<Item = &'a Sample>) -> Tensor {
    match task {
        Task::Single => {
            let labels: Vec<i64> = samples.map(|sample| sample.label as i64).collect();
            Tensor::i64([labels.len()], labels)
        }
        Task::Multi | Task::Regression => {
            let mut rows = Vec::new();
            let count = samples.map(|sample| rows.extend(label_row(sample, classes, 0.0, 1.0))).count();
            Tensor::f32([count, classes + 1], rows)
        }
    }
}

/// The targets of a picture: of several labels, of which the part `smoothing` is spread evenly over yes and no, or its numbers; then the
/// `weight` of its loss.
pub(crate) fn label_row(sample: &Sample, classes: usize, smoothing: f32, weight: f32) -> Vec<f32> {
    let mut row = match &sample.targets {
        Some(targets) => targets.iter().map(|&target| target as f32).collect(),
        None => vec![0.5 * smoothing; classes],
    };
    sample.classes().for_each(|label| row[label] = 1.0 - 0.5 * smoothing);
    row.push(weight);
    row
}

/// The mean loss over pictures and targets where each target is predicted by its mean.
pub(crate) fn loss_of_means<'a>(regression: &Regression, samples: impl Iterator<Item = &'a Sample>) -> f64 {
    let means: Vec<f32> = regression.scales.iter().map(|scale| scale.mean as f32).collect();
    let targets = samples.filter_map(|sample| sample.targets.as_deref()).filter(|t| t.len() == means.len());
    let (count, sum) = targets
        .fold((0u64, 0.0), |(count, sum), targets| (count + 1, sum + regression.loss_of(&means, targets)));
    sum / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use offshoot_graph::{RegressionLoss, Scale};

    use super::*;

    #[test]
    fn labels_become_rows() {
        let samples = [Sample::several("a", [2, 0]), Sample::several("b", []), Sample::new("c", 1)];
        let found = targets(Task::Multi, 3, samples.iter());
        assert_eq!(found.shape(), [3, 4]);
        assert_eq!(found.as_f32(), Some(&[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0][..]));
        assert_eq!(targets(Task::Single, 3, samples[2..].iter()).as_i64(), Some(&[1][..]));
        assert_eq!(label_row(&samples[2], 2, 0.2, 3.0), [0.1, 0.9, 3.0]);
        assert_eq!(targets(Task::Multi, 3, [].iter()).shape(), [0, 4]);
        let numbers = [Sample::with_targets("a", [0.5, -3.0]), Sample::with_targets("b", [1e6, 0.0])];
        let found = targets(Task::Regression, 2, numbers.iter());
        assert_eq!(found, Tensor::f32([2, 3], vec![0.5, -3.0, 1.0, 1e6, 0.0, 1.0]));
    }

    #[test]
    fn a_mean_has_the_loss_of_the_deviations() {
        let samples = [Sample::with_targets("a", [1.0, -10.0]), Sample::with_targets("b", [3.0, 30.0])];
        let scales = vec![Scale { mean: 2.0, deviation: 1.0 }, Scale { mean: 10.0, deviation: 20.0 }];
        let of = |loss| loss_of_means(&Regression { loss, scales: scales.clone() }, samples.iter());
        assert_eq!([of(RegressionLoss::Mse), of(RegressionLoss::L1)], [1.0, 1.0]);
        assert_eq!(of(RegressionLoss::Huber { delta: 0.5 }), 0.375);
    }
}
