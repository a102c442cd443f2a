//! The loss with targets that are parts of classes, and its gradient, against PyTorch's. `golden/soft_loss.json` was written by
//! `scripts/golden/soft_loss.py`.

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::Binary;
use offshoot_graph::passes::{
    CLASS_WEIGHTS, LABELS, LOSS, LOSS_SCALE, LossOptions, gradient_output, training_graph,
};
use offshoot_graph::{DType, Graph, Op, Role, Shape, Tensor, Weights};
use serde_json::Value;

use crate::{Executors, Report};

/// Relative to the largest element.
const TOLERANCE: f32 = 2e-6;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Losses and their gradients.
pub(crate) fn soft_targets(executors: Executors<'_>, report: &mut Report) {
    let text = include_str!("../golden/soft_loss.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 12);
    for case in &cases {
        let [n, c] = ["rows", "classes"].map(|key| case[key].as_u64().unwrap() as usize);
        let shape = Shape::fixed(&[n, c]);
        let mut graph = Graph::new("soft");
        let zeros = graph.add_input(INPUT, DType::F32, shape);
        let logits = graph.add_parameter("logits", &[n, c], Role::Weight);
        let sum = graph.add("sum", Op::Binary(Binary::Add), &[zeros, logits]).unwrap();
        graph.add_output(OUTPUT, sum);
        let weights = case["weights"].as_array().map(|_| Tensor::f32([c], numbers(&case["weights"])));
        let options = LossOptions {
            label_smoothing: case["label_smoothing"].as_f64().unwrap() as f32,
            class_weights: weights.is_some(),
            soft_targets: true,
            scaled: true,
        };
        let training = training_graph(&graph, options).unwrap();
        let parameters = Weights::from([("logits".into(), Tensor::f32([n, c], numbers(&case["logits"])))]);
        let (x, targets) = (Tensor::zeros([n, c]), Tensor::f32([n, c], numbers(&case["targets"])));
        let scale = Tensor::full([], 1024.0);
        let mut inputs = vec![(INPUT, &x), (LABELS, &targets), (LOSS_SCALE, &scale)];
        inputs.extend(weights.as_ref().map(|weights| (CLASS_WEIGHTS, weights)));
        let what = format!("soft targets of {n} rows and {c} classes");
        let outputs = executors.run(&training.graph, &inputs, &parameters, &what, report);
        let loss = Tensor::f32([], vec![case["loss"].as_f64().unwrap() as f32]);
        let gradient = Tensor::f32([n, c], numbers(&case["gradient_of_1024_losses"]));
        for (output, wanted) in [(LOSS.to_string(), loss), (gradient_output("logits"), gradient)] {
            if let Some(found) = outputs.get(&output) {
                report.compare(found, &wanted, TOLERANCE, &format!("{what}, {output}"));
            }
        }
    }
}
