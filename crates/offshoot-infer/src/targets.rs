//! How near predictions of numbers come to the targets of pictures.

use offshoot_graph::Regression;
use serde::Serialize;

/// Predictions and targets of pictures, from which every figure comes.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetMetrics {
    regression: Regression,
    /// `[n, targets]`
    predictions: Vec<f32>,
    /// `[n, targets]`
    targets: Vec<f64>,
    /// The sum over pictures.
    loss: f64,
}

/// How near predictions come to one target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TargetFigures {
    /// The mean absolute error, in the unit of the target. 0 without pictures.
    pub mae: f64,
    /// The root of the mean squared error, in the unit of the target. 0 without pictures.
    pub rmse: f64,
    /// The coefficient of determination: 1 less the sum of the squared errors over that of the squared differences of the targets from
    /// their mean. `None` where all pictures have the same target.
    pub r2: Option<f64>,
}

impl TargetMetrics {
    /// No picture yet, of a model that was trained for this.
    pub fn new(regression: Regression) -> TargetMetrics {
        TargetMetrics { regression, predictions: Vec::new(), targets: Vec::new(), loss: 0.0 }
    }

    fn count(&self) -> usize {
        self.regression.scales.len()
    }

    /// Adds a picture with a prediction for each of its targets.
    ///
    /// # Panics
    /// When there are not as many of each as the model has targets.
    pub fn add(&mut self, predictions: &[f32], targets: &[f64]) {
        self.loss += self.regression.loss_of(predictions, targets);
        self.predictions.extend_from_slice(predictions);
        self.targets.extend_from_slice(targets);
    }

    /// How many pictures were added.
    pub fn images(&self) -> u64 {
        (self.targets.len() / self.count().max(1)) as u64
    }

    /// The mean of what was minimized, without weights: of differences in standard deviations of the training pictures. 0 without
    /// pictures.
    pub fn loss(&self) -> f64 {
        self.loss / self.images().max(1) as f64
    }

    /// The mean of the targets' mean absolute errors.
    pub fn mae(&self) -> f64 {
        self.mean(|figures| figures.mae)
    }

    /// The mean of the targets' roots of mean squared errors.
    pub fn rmse(&self) -> f64 {
        self.mean(|figures| figures.rmse)
    }

    /// The mean of the R^2 of the targets that have one; `None` where none has.
    pub fn r2(&self) -> Option<f64> {
        let all: Vec<f64> = self.per_target().into_iter().filter_map(|figures| figures.r2).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    fn mean(&self, of: impl Fn(TargetFigures) -> f64) -> f64 {
        self.per_target().into_iter().map(of).sum::<f64>() / self.count().max(1) as f64
    }

    /// The figures of each target.
    pub fn per_target(&self) -> Vec<TargetFigures> {
        (0..self.count()).map(|target| self.of_target(target)).collect()
    }

    /// The predictions for a target, each with what it was to be.
    pub fn pairs(&self, target: usize) -> impl Iterator<Item = (f64, f64)> + Clone + '_ {
        let every = self.count().max(1);
        let predictions = self.predictions.iter().skip(target).step_by(every);
        predictions.map(|&y| f64::from(y)).zip(self.targets.iter().skip(target).step_by(every).copied())
    }

    fn of_target(&self, target: usize) -> TargetFigures {
        let (pairs, count) = (self.pairs(target), self.images().max(1) as f64);
        let mean = pairs.clone().map(|(_, t)| t).sum::<f64>() / count;
        let spread: f64 = pairs.clone().map(|(_, t)| (t - mean) * (t - mean)).sum();
        let squares: f64 = pairs.clone().map(|(y, t)| (y - t) * (y - t)).sum();
        let varies = pairs.clone().zip(pairs.clone().skip(1)).any(|((_, a), (_, b))| a != b);
        TargetFigures {
            mae: pairs.map(|(y, t)| (y - t).abs()).sum::<f64>() / count,
            rmse: (squares / count).sqrt(),
            r2: varies.then(|| 1.0 - squares / spread),
        }
    }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Scale;
    use serde_json::Value;

    use super::*;

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
    }

    fn close(found: f64, wanted: f64, what: &str) {
        assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0), "{what}: {found}, {wanted}");
    }

    /// `golden/targets.json` was written by `scripts/golden/targets.py`: figures of scikit-learn, losses of PyTorch.
    #[test]
    fn the_figures_are_those_of_scikit_learn() {
        let cases: Vec<Value> = serde_json::from_str(include_str!("../tests/golden/targets.json")).unwrap();
        assert!(cases.len() >= 8);
        for case in &cases {
            let count = case["targets"].as_u64().unwrap() as usize;
            let of = |key: &str| numbers(&case[key]);
            let scales = of("mean").into_iter().zip(of("deviation"));
            let scales = scales.map(|(mean, deviation)| Scale { mean, deviation }).collect();
            let loss = case["kind"].as_str().unwrap().parse().unwrap();
            let mut metrics = TargetMetrics::new(Regression { loss, scales });
            let predictions: Vec<f32> = of("predictions").iter().map(|&x| x as f32).collect();
            for (row, wanted) in predictions.chunks_exact(count).zip(of("wanted").chunks_exact(count)) {
                metrics.add(row, wanted);
            }
            assert_eq!(metrics.images(), case["rows"].as_u64().unwrap());
            // (PyTorch's is an f32.)
            let loss = case["loss"].as_f64().unwrap();
            assert!((metrics.loss() - loss).abs() <= 1e-6 * loss.max(1.0), "{} {loss}", metrics.loss());
            close(metrics.mae(), case["mae"].as_f64().unwrap(), "MAE");
            close(metrics.rmse(), case["rmse"].as_f64().unwrap(), "RMSE");
            let r2 = |found: Option<f64>, wanted: &Value, what: &str| match (found, wanted.as_f64()) {
                (None, None) => {}
                (Some(found), Some(wanted)) => close(found, wanted, what),
                other => panic!("{what}: {other:?}"),
            };
            r2(metrics.r2(), &case["r2"], "R^2");
            for (target, figures) in metrics.per_target().into_iter().enumerate() {
                close(figures.mae, of("mae_of")[target], "MAE of a target");
                close(figures.rmse, of("rmse_of")[target], "RMSE of a target");
                r2(figures.r2, &case["r2_of"][target], "R^2 of a target");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_no_figure() {
        let mut metrics =
            TargetMetrics::new(Regression { scales: vec![Scale::NONE], ..Regression::default() });
        assert_eq!((metrics.loss(), metrics.mae(), metrics.rmse(), metrics.r2()), (0.0, 0.0, 0.0, None));
        metrics.add(&[1.0], &[3.0]);
        assert_eq!((metrics.mae(), metrics.r2()), (2.0, None));
        metrics.add(&[f32::NAN], &[4.0]);
        assert!(metrics.loss().is_nan() && metrics.mae().is_nan() && metrics.r2().is_some_and(f64::is_nan));
    }
}
