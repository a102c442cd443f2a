//! The loss with targets that are parts of classes, and its gradient, against PyTorch's. `golden/soft_loss.json` was written by
//! `scripts/golden/soft_loss.py`.

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::Binary;
use offshoot_graph::passes::{
    CLASS_WEIGHTS, LABELS, LOSS, LOSS_SCALE, LossOptions, gradient_output, training_graph,
};
use offshoot_graph::{DType, Graph, Op, Role, Shape, Tensor, Weights};
use serde_json::Value;

use crate::golden;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn near(ours: &[f32], theirs: &[f32]) {
    let most = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= 2e-6 * most, "{a} {b}");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
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
        for (isa, executors) in golden::executors() {
            let outputs =
                golden::run_on_all(&executors, &training.graph, &inputs, &parameters, &isa.to_string());
            near(outputs[LOSS].as_f32().unwrap(), &[case["loss"].as_f64().unwrap() as f32]);
            let gradient = outputs[&gradient_output("logits")].as_f32().unwrap();
            near(gradient, &numbers(&case["gradient_of_1024_losses"]));
        }
    }
}
