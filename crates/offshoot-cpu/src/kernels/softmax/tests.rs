use super::super::testing::{assert_close, assert_same_on_any_threads, normals};
use super::*;
use proptest::prelude::*;

fn log_probabilities(x: &[f32], width: usize) -> Vec<f64> {
    let row = |row: &[f32]| {
        let most = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - most).exp()).sum();
        row.iter().map(|&x| f64::from(x) - most - sum.ln()).collect::<Vec<_>>()
    };
    x.chunks_exact(width).flat_map(row).collect()
}

/// The loss by its definition in PyTorch's documentation.
fn loss_of(logits: &[f32], labels: &[i64], classes: usize, settings: &CrossEntropy<'_>) -> f64 {
    let log_p = log_probabilities(logits, classes);
    let weight = |c: usize| settings.weights.map_or(1.0, |w| f64::from(w[c]));
    let smoothing = f64::from(settings.smoothing);
    let (mut sum, mut total) = (0.0, 0.0);
    for (row, &label) in labels.iter().enumerate().filter(|(_, label)| **label != IGNORED) {
        for c in 0..classes {
            let target = smoothing / classes as f64 + if c == label as usize { 1.0 - smoothing } else { 0.0 };
            sum -= weight(c) * target * log_p[row * classes + c];
        }
        total += weight(label as usize);
    }
    sum / total
}

proptest! {
    #[test]
    fn softmaxes_agree_with_their_definitions(rows in 1usize..5, width in 1usize..70, scale in 0.1f32..40.0) {
        let x: Vec<f32> = normals(1, rows * width).iter().map(|x| x * scale).collect();
        let dy = normals(2, x.len());
        let log_p = log_probabilities(&x, width);
        let p: Vec<f64> = log_p.iter().map(|l| l.exp()).collect();
        let (mut dx, mut log_dx) = (vec![], vec![]);
        for (p, dy) in p.chunks_exact(width).zip(dy.chunks_exact(width)) {
            let mean: f64 = p.iter().zip(dy).map(|(p, &d)| p * f64::from(d)).sum();
            let sum: f64 = dy.iter().map(|&d| f64::from(d)).sum();
            dx.extend(p.iter().zip(dy).map(|(p, &d)| p * (f64::from(d) - mean)));
            log_dx.extend(p.iter().zip(dy).map(|(p, &d)| f64::from(d) - p * sum));
        }
        for isa in Isa::available() {
            let (mut y, mut log_y) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            softmax(isa, &x, width, &mut y);
            log_softmax(isa, &x, width, &mut log_y);
            assert_close("softmax", &y, &p, 1e-6);
            assert_close("log_softmax", &log_y, &log_p, 1e-6);
            let mut out = vec![f32::NAN; x.len()];
            softmax_grad(isa, &y, &dy, width, &mut out);
            assert_close("softmax_grad", &out, &dx, 3e-6);
            log_softmax_grad(isa, &log_y, &dy, width, &mut out);
            assert_close("log_softmax_grad", &out, &log_dx, 2e-5);
        }
    }

    #[test]
    fn cross_entropy_agrees_with_its_definition(
        labels in prop::collection::vec(-1i64..7, 1..9), smoothing in 0.0f32..0.9, weighted: bool,
    ) {
        let labels: Vec<i64> = labels.into_iter().map(|l| if l < 0 { IGNORED } else { l }).collect();
        let logits = normals(3, labels.len() * 7);
        let weights = [0.5, 1.0, 2.0, 0.25, 1.5, 3.0, 0.1];
        let settings = CrossEntropy { smoothing, weights: weighted.then_some(&weights[..]) };
        prop_assume!(labels.iter().any(|&label| label != IGNORED));
        let expected = loss_of(&logits, &labels, 7, &settings);
        for isa in Isa::available() {
            let loss = cross_entropy(isa, &logits, &labels, 7, &settings).unwrap();
            assert_close("loss", &[loss], &[expected], 1e-6);
            let mut grad = vec![f32::NAN; logits.len()];
            cross_entropy_grad(isa, &logits, &labels, 7, &settings, 2.0, &mut grad).unwrap();
            let differences: Vec<f64> = (0..logits.len()).map(|i| {
                let at = |step: f32| {
                    let mut moved = logits.clone();
                    moved[i] += step;
                    (f64::from(moved[i]), loss_of(&moved, &labels, 7, &settings))
                };
                let ((high, up), (low, down)) = (at(1e-3), at(-1e-3));
                2.0 * (up - down) / (high - low)
            }).collect();
            assert_close("gradient", &grad, &differences, 2e-6);
        }
    }
}

#[test]
fn labels_outside_the_classes_are_errors() {
    let logits = [0.0; 6];
    let settings = CrossEntropy::default();
    let expect = LabelError { row: 1, label: 3, classes: 3 };
    assert_eq!(cross_entropy(Isa::PORTABLE, &logits, &[0, 3], 3, &settings), Err(expect));
    let mut grad = [0.0; 6];
    let got = cross_entropy_grad(Isa::PORTABLE, &logits, &[0, -1], 3, &settings, 1.0, &mut grad);
    assert_eq!(got, Err(LabelError { row: 1, label: -1, classes: 3 }));
    assert!(cross_entropy(Isa::PORTABLE, &logits, &[IGNORED; 2], 3, &settings).unwrap().is_nan());
}

#[test]
fn rows_that_are_not_numbers_stay_so() {
    for isa in Isa::available() {
        let mut x = normals(1, 2 * 40);
        x[7] = f32::NAN;
        let mut y = vec![0.0; x.len()];
        softmax(isa, &x, 40, &mut y);
        assert!(y[..40].iter().all(|y| y.is_nan()) && y[40..].iter().all(|y| y.is_finite()), "{isa}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let x = normals(1, 64 * 1000);
    assert_same_on_any_threads("softmax", || {
        let mut y = vec![0.0; x.len()];
        softmax(Isa::best(), &x, 1000, &mut y);
        y
    });
}
