//! Calibration, coverage and thresholds, against scikit-learn, torchmetrics and PyTorch.

#![allow(clippy::unwrap_used, reason = "tests")]

use offshoot_graph::{Metadata, Rejection, Score};
use offshoot_infer::decision::negative_energy;
use offshoot_infer::{Metrics, Selection};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The metrics of a case of `golden/calibration.json` with a temperature and a score.
fn metrics(case: &Value, temperature: Option<f64>, score: Score) -> Metrics {
    let classes = vec![String::new(); case["classes"].as_u64().unwrap() as usize];
    let rejection = Some(Rejection { score, threshold: 0.0, precision: 0.9 });
    let mut metrics = Metrics::of(&Metadata { classes, temperature, rejection, ..Metadata::default() });
    let logits: Vec<f32> = numbers(&case["logits"]).iter().map(|&x| x as f32).collect();
    let labels: Vec<i64> = numbers(&case["labels"]).iter().map(|&x| x as i64).collect();
    metrics.add(&logits, &labels);
    metrics
}

/// `golden/calibration.json` was written by `scripts/golden/calibration.py`: figures of scikit-learn, torchmetrics and PyTorch.
#[test]
fn the_figures_are_those_of_scikit_learn_and_torchmetrics() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/calibration.json")).unwrap();
    assert!(cases.len() >= 6);
    for case in &cases {
        let fitted = case["temperature"].as_f64().unwrap();
        for (temperature, after) in [(None, "before"), (Some(fitted), "after")] {
            let found = metrics(case, temperature, Score::Probability);
            let close = |found: f64, key: String| {
                let wanted = case[&key].as_f64().unwrap();
                assert!((found - wanted).abs() < 1e-6, "{key}: {found}, {wanted}");
            };
            close(found.calibration().error, format!("ece_{after}"));
            close(found.brier(), format!("brier_{after}"));
        }
        let classes = case["classes"].as_u64().unwrap() as usize;
        let logits: Vec<f32> = numbers(&case["logits"]).iter().map(|&x| x as f32).collect();
        for (row, energy) in logits.chunks_exact(classes).zip(numbers(&case["energies"])) {
            assert!((negative_energy(row) - energy).abs() < 1e-5, "{row:?}: {energy}");
        }
        for score in [Score::Probability, Score::Energy] {
            check(&metrics(case, None, score).selection(), &case[score.name()]);
        }
    }
}

fn check(selection: &Selection, wanted: &Value) {
    let mut parts: Vec<Vec<f64>> = wanted["coverage"].as_array().unwrap().iter().map(numbers).collect();
    parts.dedup();
    let found = selection.coverage();
    assert_eq!(found.len(), parts.len(), "{found:?} {parts:?}");
    for (found, wanted) in found.iter().zip(&parts) {
        let accuracy = found.accuracy.unwrap();
        assert!(
            (found.coverage - wanted[0]).abs() < 1e-9 && (accuracy - wanted[1]).abs() < 1e-9,
            "{found:?} {wanted:?}"
        );
        assert_eq!(selection.at(found.threshold), *found);
    }
    for row in wanted["most"].as_array().unwrap() {
        let precision = row[0].as_f64().unwrap();
        let threshold = selection.threshold(precision);
        assert_eq!(threshold.is_none(), row[1].is_null(), "{row}");
        let Some(threshold) = threshold else { continue };
        let accepted = selection.at(threshold);
        assert!((accepted.coverage - row[1].as_f64().unwrap()).abs() < 1e-9, "{accepted:?} {row}");
        assert!(accepted.accuracy.unwrap() >= precision, "{accepted:?} {row}");
    }
}
