//! One step: why it is refused, and what is kept of it.

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::ShapeOp;
use offshoot_graph::{DType, Dim, Graph, Model, Op, Shape, Tensor, Weights};
use offshoot_train::{Amp, OptimizerKind, OptimizerOptions, Rebuild, StepError, StepOptions, TrainStep};

use crate::support::{SIZE, executor, model};

fn options(lr: f64) -> StepOptions {
    StepOptions::new(OptimizerOptions::new(OptimizerKind::Sgd), lr)
}

/// A step from pictures of one value.
fn learn(step: &mut TrainStep, pixel: f32) -> Result<offshoot_train::StepReport, StepError> {
    let mut pixels = vec![pixel; 2 * 3 * SIZE * SIZE];
    pixels[0] *= 0.5;
    let (labels, keys) = (Tensor::i64([2], vec![0, 1]), Tensor::i64([2], vec![7, 8]));
    step.run(Tensor::f32([2, 3, SIZE, SIZE], pixels), &labels, &keys, 1.0)
}

/// Three matrices in a row, of which the last two are so large that the gradient of the first overflows.
fn steep() -> Model {
    let mut graph = Graph::new("steep");
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), SIZE.into(), SIZE.into()]);
    let x = graph.add_input(INPUT, DType::F32, shape);
    let x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    let x = graph.linear("a", x, 2).unwrap();
    let x = graph.linear("b", x, 2).unwrap();
    let x = graph.linear("c", x, 3).unwrap();
    graph.add_output(OUTPUT, x);
    let zeros = |shape: &[usize]| Tensor::zeros(shape.to_vec());
    let large = |rows: usize| Tensor::f32([rows, 2], (0..2 * rows).map(|i| 1e30 * (i / 2) as f32).collect());
    let weights = [
        ("a.weight", zeros(&[2, 3 * SIZE * SIZE])),
        ("a.bias", zeros(&[2])),
        ("b.weight", large(2)),
        ("b.bias", zeros(&[2])),
        ("c.weight", large(3)),
        ("c.bias", zeros(&[3])),
    ];
    let weights: Weights = weights.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    Model { graph, weights, metadata: model().metadata }
}

#[test]
fn a_refusal_names_the_gradient_the_statistic_or_the_weight() {
    let half = StepOptions { amp: Amp::Fp16, ..options(1e39) };
    for (model, options, pixel, problem) in [
        (steep(), options(0.1), 0.0, "the gradient of `a.weight` is not finite"),
        (model(), options(0.1), 1e30, "the running statistic `bn0.running_var` would not be finite"),
        (model(), options(1e39), 0.5, "the new value of `"),
        // No loss scale is too large for finite gradients.
        (model(), half, 0.5, "the new value of `"),
    ] {
        let mut step = TrainStep::new(model, &options, &executor(1)).unwrap();
        let before = step.state();
        match learn(&mut step, pixel) {
            Err(StepError::NotFinite { problem: found }) => assert!(found.contains(problem), "{found}"),
            other => panic!("{problem}: {other:?}"),
        }
        assert_eq!(step.state(), before, "{problem}");
    }
}

#[test]
fn a_moving_average_is_kept_when_the_step_is_built_again() {
    let options = StepOptions { ema: Some(0.5), ..options(0.1) };
    for rebuild in [Rebuild::New, Rebuild::All] {
        let mut step = TrainStep::new(model(), &options, &executor(1)).unwrap();
        for pixel in [0.5, -0.25] {
            learn(&mut step, pixel).unwrap();
        }
        let (average, state) = (step.averaged().unwrap().weights, step.state());
        assert_ne!(average, step.model().weights);
        let step = step.rebuild(|_| Ok(()), &options, rebuild, &executor(1)).unwrap();
        assert_eq!(
            (step.averaged().unwrap().weights, &step.state()["ema.count"]),
            (average, &state["ema.count"])
        );
    }
}

#[test]
fn a_step_before_its_first_update_has_no_average_and_is_loaded() {
    let options = StepOptions { ema: Some(0.5), ..options(0.1) };
    let mut step = TrainStep::new(model(), &options, &executor(1)).unwrap();
    let state = step.state();
    let average: Vec<&String> = state.keys().filter(|name| name.starts_with("ema.")).collect();
    assert_eq!(average, ["ema.count"]);
    assert_eq!(step.averaged().unwrap().weights, model().weights);
    learn(&mut step, 0.5).unwrap();
    step.load_state(&state).unwrap();
    assert_eq!(step.state(), state);
    assert!(TrainStep::new(model(), &self::options(0.1), &executor(1)).unwrap().averaged().is_none());
}
