//! How far the probabilities can be trusted, and what is accepted at a threshold.

use offshoot_graph::{Rejection, Score};
use offshoot_infer::calibration::{BINS, Bin, Calibration, LEAST_PICTURES, calibration};
use offshoot_infer::{Accepted, Fitted, Metrics};

use super::answers::Predictions;
use super::chart::{Axes, reliability, short};
use super::page::{cards, table};
use super::percent;
use crate::recipe::{DEFAULT_PRECISION, DEFAULT_SCORE, Recipe};

/// The section on calibration and rejection. Empty without pictures.
pub(super) fn section(predictions: &Predictions, recipe: Option<&Recipe>) -> String {
    let (logits, labels, classes) = (&predictions.logits, predictions.labels(), predictions.classes.len());
    if labels.is_empty() || classes == 0 {
        return String::new();
    }
    let (score, precision) = recipe.map_or((DEFAULT_SCORE, DEFAULT_PRECISION), Recipe::rejection);
    let fitted = Fitted::new(logits, &labels, classes, (score, precision));
    let before = calibration(logits, &labels, classes, 1.0);
    let after = fitted.temperature.map(|t| calibration(logits, &labels, classes, t));
    let mut figures = vec![("expected calibration error", percent(before.error))];
    if let Some((temperature, after)) = fitted.temperature.zip(after.as_ref()) {
        figures.push(("temperature fitted on these pictures", short(temperature)));
        figures.push(("expected calibration error with it, on these pictures", percent(after.error)));
    }
    let said = match after {
        Some(_) => {
            "The shipped model's logits are those without temperature, its probabilities those with it."
                .to_owned()
        }
        None => format!(
            "No temperature was fitted: that takes {LEAST_PICTURES} pictures or more, and logits that say something of the classes."
        ),
    };
    let axes = Axes { x: "confidence: probability of the predicted class, %", y: "accuracy, %", log: false };
    let mut series = vec![("without temperature", &before)];
    series.extend(after.as_ref().map(|after| ("with the fitted temperature", after)));
    format!(
        "{}<p>Below the dashed line the model is overconfident, above it underconfident. Larger points stand for more pictures. \
         {said}</p><div class=\"charts\">{}</div>{}{}",
        cards(&figures),
        reliability("Reliability diagram", &series, axes),
        bins(&before, after.as_ref().unwrap_or(&before)),
        coverage(predictions, &fitted, score)
    )
}

/// The pictures and the accuracy of each range of confidence.
fn bins(before: &Calibration, after: &Calibration) -> String {
    let percents = |place: usize| (100.0 * place as f64 / BINS as f64).round();
    let both = before.bins.iter().zip(&after.bins).enumerate();
    let filled = both.filter(|(_, (before, after))| before.pictures + after.pictures > 0);
    let cells = |bin: &Bin| {
        let accuracy = if bin.pictures > 0 { percent(bin.accuracy) } else { "-".into() };
        [bin.pictures.to_string(), accuracy]
    };
    let row = |(place, (before, after)): (usize, (&Bin, &Bin))| {
        let range = format!("{} to {} %", percents(place), percents(place + 1));
        [vec![range], cells(before).to_vec(), cells(after).to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = filled.map(row).collect();
    let columns =
        ["confidence", "pictures", "accuracy", "pictures, with temperature", "accuracy, with temperature"];
    table(&columns, &rows, 1)
}

/// The accuracy on the pictures with the highest scores, and the threshold that was fitted.
fn coverage(predictions: &Predictions, fitted: &Fitted, score: Score) -> String {
    let mut metadata = predictions.metadata();
    metadata.temperature = fitted.temperature;
    // Without one, the scores are those that would be compared.
    let none = Rejection { score, threshold: f64::NEG_INFINITY, precision: 1.0 };
    metadata.rejection = fitted.rejection.or(Some(none));
    let mut metrics = Metrics::of(&metadata);
    let labels: Vec<i64> = predictions.labels().iter().map(|&label| label as i64).collect();
    metrics.add(&predictions.logits, &labels);
    let selection = metrics.selection();
    let row = |found: &Accepted| {
        let accuracy = found.accuracy.map_or("-".to_owned(), percent);
        vec![percent(found.coverage), accuracy, short(found.threshold)]
    };
    let rows: Vec<Vec<String>> = selection.coverage().iter().map(row).collect();
    let name = score.name();
    let said = match fitted.rejection {
        Some(rejection) => {
            let found = selection.at(rejection.threshold);
            format!(
                "Pictures whose {name} is below {} are rejected at the threshold that travels with the model: fitted so that {} of the others are right, it accepts \
                 {} of these pictures.",
                short(rejection.threshold),
                percent(rejection.precision),
                percent(found.coverage)
            )
        }
        None => "No reject threshold was fitted: none accepts 10 pictures with the precision asked for, or there are fewer than 20.".into(),
    };
    format!(
        "<h3>Coverage</h3><p>The accuracy on the pictures with the highest {name}. {said}</p>{}",
        table(&["accepted", "accuracy", "lowest score"], &rows, 0)
    )
}
