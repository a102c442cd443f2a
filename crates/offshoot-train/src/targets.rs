//! What a step is to learn of pictures.

use offshoot_data::Sample;
use offshoot_graph::{Task, Tensor};

/// The labels of pictures as the graph of a step takes them ([`LABELS`](offshoot_graph::passes::LABELS)), without smoothing or weights: i64
/// `[n]` of one class a picture, f32 `[n, classes + 1]` of several.
pub fn targets<'a>(task: Task, classes: usize, samples: impl Iterator<Item = &'a Sample>) -> Tensor {
    match task {
        Task::Single => {
            let labels: Vec<i64> = samples.map(|sample| sample.label as i64).collect();
            Tensor::i64([labels.len()], labels)
        }
        Task::Multi => {
            let mut rows = Vec::new();
            let count = samples.map(|sample| rows.extend(label_row(sample, classes, 0.0, 1.0))).count();
            Tensor::f32([count, classes + 1], rows)
        }
    }
}

/// The targets of a picture with several labels, of which the part `smoothing` is spread evenly over yes and no, then the `weight` of its
/// loss.
pub(crate) fn label_row(sample: &Sample, classes: usize, smoothing: f32, weight: f32) -> Vec<f32> {
    let mut row = vec![0.5 * smoothing; classes];
    sample.classes().for_each(|label| row[label] = 1.0 - 0.5 * smoothing);
    row.push(weight);
    row
}

#[cfg(test)]
mod tests {
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
    }
}
