//! The parts of the page for pictures with numbers to predict.

use offshoot_data::Sample;
use offshoot_infer::TargetMetrics;

use super::answers::Predictions;
use super::chart::{Axes, scatter, short};
use super::page::{self, cards, isolated};

/// Targets whose predictions are drawn.
const MOST_DRAWN: usize = 6;

/// The figures over all targets.
pub(super) fn summary(metrics: &TargetMetrics) -> String {
    let r2 = metrics.r2().map_or("-".to_owned(), short);
    cards(&[
        ("MAE: mean absolute error", short(metrics.mae())),
        ("RMSE: root mean squared error", short(metrics.rmse())),
        ("R^2: coefficient of determination", r2),
    ])
}

/// The figures of each target, and its predictions over what they were to be.
pub(super) fn targets(names: &[String], metrics: &TargetMetrics) -> String {
    let row = |(name, figures): (&String, offshoot_infer::targets::TargetFigures)| {
        let r2 = figures.r2.map_or("-".to_owned(), short);
        vec![name.clone(), short(figures.mae), short(figures.rmse), r2]
    };
    let rows: Vec<Vec<String>> = names.iter().zip(metrics.per_target()).map(row).collect();
    let drawn = names.iter().enumerate().take(MOST_DRAWN).map(|(place, name)| {
        let points: Vec<(f64, f64)> = metrics.pairs(place).map(|(y, t)| (t, y)).collect();
        let axes = Axes { x: "target", y: "prediction", log: false };
        scatter(name, &points, axes)
    });
    let charts: String = drawn.collect();
    format!(
        "<p>MAE and RMSE are in the unit of the target. R^2 is 1 where all predictions are exact, and 0 where they are no better than the \
         mean of these pictures.</p>{}<div class=\"charts\">{charts}</div>",
        page::table(&["target", "MAE", "RMSE", "R^2"], &rows, 1)
    )
}

/// The loss of a picture, with targets in the deviations of these pictures.
pub(super) fn loss(predictions: &Predictions, row: &[f32], sample: &Sample) -> f64 {
    let regression = predictions.metadata().regression();
    regression.loss_of(row, sample.targets.as_deref().unwrap_or_default())
}

/// The prediction for a picture, and its targets.
pub(super) fn answer(predictions: &Predictions, row: &[f32], sample: &Sample) -> String {
    let all = predictions.classes.iter().zip(row).zip(sample.targets.iter().flatten());
    let line = |((name, &said), &target): ((&String, &f32), &f64)| {
        format!(
            "<div><b>{} {}</b></div><div>target {}</div>",
            isolated(name),
            short(said.into()),
            short(target)
        )
    };
    all.map(line).collect()
}
