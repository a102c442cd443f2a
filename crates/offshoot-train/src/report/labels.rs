//! The parts of the page for pictures with any number of classes.

use offshoot_data::Sample;
use offshoot_graph::text::escaped;
use offshoot_infer::LabelMetrics;
use offshoot_infer::labels::sigmoid;

use super::answers::Predictions;
use super::chart::short;
use super::page::{self, cards, isolated};
use super::percent;

/// The figures over all classes.
pub(super) fn summary(metrics: &LabelMetrics) -> String {
    let shown = |x: Option<f64>| x.map_or("-".to_owned(), short);
    cards(&[
        ("mAP: mean average precision", short(metrics.map())),
        ("mean AUROC", shown(metrics.auroc())),
        ("micro F1", short(metrics.f1_micro())),
        ("macro F1", short(metrics.f1_macro())),
        ("pictures whose labels are all right", percent(metrics.exact())),
    ])
}

/// The figures of each class.
pub(super) fn classes(names: &[String], metrics: &LabelMetrics) -> String {
    let shown = |x: Option<f64>| x.map_or("-".to_owned(), short);
    let row = |(name, class): (&String, offshoot_infer::labels::LabelFigures)| {
        let rates = [class.precision, class.recall, class.f1].map(percent);
        let first = [name.clone(), class.images.to_string(), shown(class.ap), shown(class.auroc)];
        [&first[..], &rates, &[short(class.threshold)]].concat()
    };
    let rows: Vec<Vec<String>> = names.iter().zip(metrics.per_class()).map(row).collect();
    let columns =
        ["class", "pictures", "average precision", "AUROC", "precision", "recall", "F1", "threshold"];
    format!(
        "<p>Precision, recall and F1 are those at the threshold: the probability from which on a picture is said to have the class. It was \
         fitted on these pictures.</p>{}",
        page::table(&columns, &rows, 1)
    )
}

/// The binary cross entropy of a picture.
pub(super) fn loss(row: &[f32], sample: &Sample) -> f64 {
    let mut metrics = LabelMetrics::new(vec![0.5; row.len()]);
    metrics.add(row, sample.classes());
    metrics.loss()
}

/// What the model says wrong of a picture.
pub(super) fn answer(predictions: &Predictions, thresholds: &[f64], row: &[f32], sample: &Sample) -> String {
    let mut has = vec![false; row.len()];
    sample.classes().for_each(|label| has[label] = true);
    let wrong = |(class, &logit): (usize, &f32)| {
        let p = sigmoid(logit);
        let name = isolated(&predictions.classes[class]);
        let part = escaped(&percent(p)).replace(' ', "\u{a0}");
        match (p >= thresholds[class], has[class]) {
            (true, false) => Some(format!("<div><b>predicted {name} {part}</b></div>")),
            (false, true) => Some(format!("<div>label {name} {part}</div>")),
            (true, true) | (false, false) => None,
        }
    };
    let answer: String = row.iter().enumerate().filter_map(wrong).collect();
    if answer.is_empty() { "<div><i>correct</i></div>".to_owned() } else { answer }
}
