//! Losses and their gradients, against PyTorch's: with targets that are parts of classes, of several labels a picture, and of numbers. `golden/soft_loss.json` was written by
//! `scripts/golden/soft_loss.py`.

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::Binary;
use offshoot_graph::passes::{
    CLASS_WEIGHTS, LABELS, LOSS, LOSS_SCALE, LossOptions, gradient_output, training_graph,
};
use offshoot_graph::{DType, Graph, Op, Role, Shape, Task, Tensor, Weights};
use serde_json::Value;

use crate::{Executors, Report};

/// Relative to the largest element.
const TOLERANCE: f32 = 2e-6;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Losses and their gradients.
pub(crate) fn all(executors: Executors<'_>, report: &mut Report) {
    soft_targets(executors, report);
    several_labels(executors, report);
    regression(executors, report);
}

/// The loss of several labels a picture, and its gradient, against PyTorch's. `golden/binary_loss.json` was written by
/// `scripts/golden/binary_loss.py`.
fn several_labels(executors: Executors<'_>, report: &mut Report) {
    let text = include_str!("../golden/binary_loss.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 16);
    for case in &cases {
        let [n, c] = ["rows", "classes"].map(|key| case[key].as_u64().unwrap() as usize);
        let weights = case["pos_weight"].as_array().map(|_| Tensor::f32([c], numbers(&case["pos_weight"])));
        let options = LossOptions {
            task: Task::Multi,
            class_weights: weights.is_some(),
            scaled: true,
            ..LossOptions::default()
        };
        let targets = numbers(&case["targets"]);
        let rows = targets.chunks_exact(c).zip(numbers(&case["row_weights"]));
        let labels = rows.flat_map(|(row, weight)| [row, &[weight]].concat()).collect();
        let what = format!("several labels of {n} rows and {c} classes");
        compare(executors, case, options, (Tensor::f32([n, c + 1], labels), weights), &what, report);
    }
}

/// The losses of numbers, and their gradients, against PyTorch's. `golden/regression_loss.json` was written by
/// `scripts/golden/targets.py`.
fn regression(executors: Executors<'_>, report: &mut Report) {
    let text = include_str!("../golden/regression_loss.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 16);
    for case in &cases {
        let [n, c] = ["rows", "classes"].map(|key| case[key].as_u64().unwrap() as usize);
        let factors = case["factors"].as_array().map(|_| Tensor::f32([c], numbers(&case["factors"])));
        let kind = case["kind"].as_str().unwrap();
        let options = LossOptions {
            task: Task::Regression,
            regression: kind.parse().unwrap(),
            class_weights: factors.is_some(),
            scaled: true,
            ..LossOptions::default()
        };
        let targets = numbers(&case["targets"]);
        let rows = targets.chunks_exact(c).zip(numbers(&case["row_weights"]));
        let labels = rows.flat_map(|(row, weight)| [row, &[weight]].concat()).collect();
        let what = format!("regression by {kind} of {n} rows and {c} targets");
        compare(executors, case, options, (Tensor::f32([n, c + 1], labels), factors), &what, report);
    }
}

/// Losses of targets that are parts of classes.
fn soft_targets(executors: Executors<'_>, report: &mut Report) {
    let text = include_str!("../golden/soft_loss.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 16);
    for case in &cases {
        let [n, c] = ["rows", "classes"].map(|key| case[key].as_u64().unwrap() as usize);
        let weights = case["weights"].as_array().map(|_| Tensor::f32([c], numbers(&case["weights"])));
        let options = LossOptions {
            label_smoothing: case["label_smoothing"].as_f64().unwrap() as f32,
            class_weights: weights.is_some(),
            soft_targets: true,
            scaled: true,
            ..LossOptions::default()
        };
        let what = format!("soft targets of {n} rows and {c} classes");
        let targets = Tensor::f32([n, c], numbers(&case["targets"]));
        compare(executors, case, options, (targets, weights), &what, report);
    }
}

/// Compares the loss of a case and its gradient by the logits, of these labels and class weights.
fn compare(
    executors: Executors<'_>,
    case: &Value,
    options: LossOptions,
    (labels, weights): (Tensor, Option<Tensor>),
    what: &str,
    report: &mut Report,
) {
    let [n, c] = ["rows", "classes"].map(|key| case[key].as_u64().unwrap() as usize);
    let mut graph = Graph::new("loss");
    let zeros = graph.add_input(INPUT, DType::F32, Shape::fixed(&[n, c]));
    let logits = graph.add_parameter("logits", &[n, c], Role::Weight);
    let sum = graph.add("sum", Op::Binary(Binary::Add), &[zeros, logits]).unwrap();
    graph.add_output(OUTPUT, sum);
    let training = training_graph(&graph, options).unwrap();
    let parameters = Weights::from([("logits".into(), Tensor::f32([n, c], numbers(&case["logits"])))]);
    let (x, scale) = (Tensor::zeros([n, c]), Tensor::full([], 1024.0));
    let mut inputs = vec![(INPUT, &x), (LABELS, &labels), (LOSS_SCALE, &scale)];
    inputs.extend(weights.as_ref().map(|weights| (CLASS_WEIGHTS, weights)));
    let outputs = executors.run(&training.graph, &inputs, &parameters, what, report);
    let loss = Tensor::f32([], vec![case["loss"].as_f64().unwrap() as f32]);
    let gradient = Tensor::f32([n, c], numbers(&case["gradient_of_1024_losses"]));
    for (output, wanted) in [(LOSS.to_string(), loss), (gradient_output("logits"), gradient)] {
        if let Some(found) = outputs.get(&output) {
            report.compare(found, &wanted, TOLERANCE, &format!("{what}, {output}"));
        }
    }
}
