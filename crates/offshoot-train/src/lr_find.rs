//! The learning-rate range test: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.

use offshoot_data::{Dataset, Transform};
use offshoot_graph::{Executor, Model};
use serde::Serialize;

use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::scales::with_scales;
use crate::step::{StepError, TrainStep};
use crate::step_options::{check_classes, for_stage, step_options};
use crate::{leftover, pictures};

/// The fraction of the smoothed loss that a step keeps.
const SMOOTHING: f64 = 0.98;

/// The test ends when the smoothed loss is this many times its lowest.
const DIVERGED: f64 = 4.0;

/// Steps at each end that are not looked at: the smoothing has just started, or the loss is about to explode.
const ENDS: usize = 5;

/// How rates are tried out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeTest {
    /// The first rate.
    pub from: f64,
    /// The last rate.
    pub to: f64,
    /// Steps; the rate grows by the same factor with each.
    pub steps: usize,
}

impl Default for RangeTest {
    fn default() -> RangeTest {
        RangeTest { from: 1e-7, to: 10.0, steps: 100 }
    }
}

/// One step of the test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RatePoint {
    /// The rate of what has `lr`; groups keep their proportion to it.
    pub lr: f64,
    /// The smoothed loss.
    pub loss: f64,
}

/// What the test shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateCurve {
    /// A rate to train with: where the loss falls most steeply, but at most a tenth of the rate where it is lowest. `None` where
    /// it never falls.
    pub suggestion: Option<f64>,
    /// The steps.
    pub points: Vec<RatePoint>,
}

/// Trains `model` as the first stage of `recipe` would, at rates that grow from step to step, and looks at the loss. Nothing is
/// written. `done` is told the number of steps made.
///
/// # Errors
/// When recipe, model and pictures do not fit each other, or the first step already is not finite.
pub fn lr_find(
    model: Model,
    recipe: &Recipe,
    data: &Dataset,
    executor: &dyn Executor,
    test: RangeTest,
    mut done: impl FnMut(usize),
) -> Result<RateCurve, TrainError> {
    check_classes(&model, data)?;
    let mut model = with_scales(model, recipe.loss, data)?;
    let stages = recipe.stages();
    stages.apply(&mut model.graph, 0)?;
    let least = leftover::check(&model.graph, recipe, data.train.len())?;
    let options = for_stage(&step_options(recipe, data)?, &stages, 0);
    let mut step = TrainStep::new(model, &options, executor)?;
    let transform = Transform::new(&recipe.preprocessing)?;
    let pictures = pictures::open(recipe, data, [&transform; 2], least).train;
    let mut points = Vec::new();
    let (mut mean, mut lowest) = (0.0, f64::INFINITY);
    let growth = test.to / test.from;
    'test: for epoch in 0.. {
        let before = points.len();
        for inputs in pictures.epoch(epoch, 0) {
            let inputs = inputs?;
            let keys = inputs.dropout_keys(recipe.seed, epoch);
            let features = step.features(inputs.tensor)?;
            let part = points.len() as f64 / test.steps.saturating_sub(1).max(1) as f64;
            let lr = test.from * libm::pow(growth, part);
            let report = match step.learn(&features, &inputs.labels, &keys, lr / recipe.lr) {
                Ok(report) => report,
                // The rate has become too high: that is what the test looks for.
                Err(StepError::NotFinite { .. }) if !points.is_empty() => break 'test,
                Err(error) => return Err(error.into()),
            };
            mean = SMOOTHING * mean + (1.0 - SMOOTHING) * f64::from(report.loss);
            let loss = mean / (1.0 - SMOOTHING.powi(i32::try_from(points.len() + 1).unwrap_or(i32::MAX)));
            points.push(RatePoint { lr, loss });
            done(points.len());
            lowest = lowest.min(loss);
            if points.len() >= test.steps || loss > DIVERGED * lowest {
                break 'test;
            }
        }
        if points.len() == before {
            let first = pictures.skipped().first().map_or("the list is empty".into(), ToString::to_string);
            return Err(TrainError::NoPicture { count: data.train.len(), first });
        }
    }
    Ok(RateCurve { suggestion: suggestion(&points), points })
}

/// The rate where the loss falls most steeply over the logarithm of the rate, but at most a tenth of that where it is lowest.
fn suggestion(points: &[RatePoint]) -> Option<f64> {
    let inner = points.get(ENDS..points.len().checked_sub(ENDS)?)?;
    let slopes = inner.windows(3).map(|w| (w[1].lr, w[2].loss - w[0].loss));
    let (steepest, slope) = slopes.min_by(|a, b| a.1.total_cmp(&b.1))?;
    let lowest = inner.iter().min_by(|a, b| a.loss.total_cmp(&b.loss))?;
    (slope < 0.0).then_some(steepest.min(lowest.lr / 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss over rates from 1e-6 on, ten steps a decade.
    fn points(loss: impl Fn(f64) -> f64) -> Vec<RatePoint> {
        let point = |i: i32| {
            let x = -6.0 + f64::from(i) / 10.0;
            RatePoint { lr: libm::pow(10.0, x), loss: loss(x) }
        };
        (0..60).map(point).collect()
    }

    #[test]
    fn the_suggestion_is_where_the_loss_falls_most_steeply() {
        // A fall around 1e-4, a floor, a rise from 1e-1 on.
        let fall = |x: f64| 2.0 - libm::tanh(3.0 * (x + 4.0)) + (x + 1.0).max(0.0) * 9.0;
        let found = suggestion(&points(fall)).unwrap();
        assert!((libm::log10(found) + 4.0).abs() < 0.11, "{found}");
        // The same fall right before the lowest loss.
        let steep = |x: f64| {
            if x < -2.0 { 2.0 - 0.01 * (x + 6.0) } else { (2.0 - 5.0 * (x + 2.0)).max((x + 1.6) * 20.0) }
        };
        let all = points(steep);
        let lowest = all.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap().lr;
        assert_eq!(suggestion(&all), Some(lowest / 10.0));
    }

    #[test]
    fn without_a_fall_there_is_no_suggestion() {
        assert_eq!(suggestion(&points(|x| x)), None);
        assert_eq!(suggestion(&points(|x| -x)[..8]), None);
        assert_eq!(suggestion(&[]), None);
    }
}
