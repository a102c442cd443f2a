//! Random graphs: no pass and no plan may panic on one, and neither fusing nor a training step changes the answer that the
//! operators give one by one.

use offshoot_cpu::Isa;
use offshoot_graph::op::Conv;
use offshoot_graph::passes::{
    LOSS, LossOptions, autocast, dynamic_int8, expose, fold_batch_norm, freeze, gradient_output,
    recognize_gelu, training_graph,
};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Graph, Op, ValueId};
use proptest::prelude::*;

use crate::random_graph::{self, Made, Maker, Outputs};

/// What the operators give one by one: every value is an output, so that none is computed on the way to another.
fn one_by_one(made: &Made) -> Option<Outputs> {
    let mut graph = made.graph.clone();
    for &value in &made.shown {
        graph.add_output(&format!("shown.{}", graph.value(value).name), value);
    }
    made.run(&graph, &made.weights, Isa::best()).ok()
}

fn frozen(made: &Made) -> Graph {
    let mut graph = made.graph.clone();
    freeze(&mut graph, |_| true);
    graph
}

#[track_caller]
fn near(found: &Outputs, reference: &Outputs, what: &str) -> Result<(), TestCaseError> {
    for (name, found) in found {
        let Some((_, wanted)) = reference.iter().find(|(n, _)| n == name) else { continue };
        prop_assert_eq!(found.len(), wanted.len(), "{}: {}", what, name);
        if !wanted.iter().all(|v| v.abs() < 1e30) {
            continue;
        }
        let largest = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
        for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
            let close = (f - w).abs() <= 2e-4 * largest;
            prop_assert!(close, "{}: element {} of {} is {}, not {}", what, i, name, f, w);
        }
    }
    Ok(())
}

/// Every form in which the graph runs for an answer, against its operators one by one.
fn answers(made: &Made) -> Result<(), TestCaseError> {
    let Some(reference) = one_by_one(made) else { return Ok(()) };
    let frozen = frozen(made);
    let folded = fold_batch_norm(&frozen, &made.weights).unwrap();
    for what in ["as read", "folded and optimized"] {
        for isa in [Isa::available()[0], Isa::best()] {
            let found = match what {
                "as read" => made.run_unoptimized(&frozen, &made.weights, isa),
                _ => made.run(&folded.0, &folded.1, isa),
            };
            prop_assert!(found.is_ok(), "{} on {}: {:?}", what, isa, found);
            if !made.has_bytes() {
                near(&found.unwrap(), &reference, what)?;
            }
        }
    }
    let found = made.run(&recognize_gelu(&frozen).unwrap(), &made.weights, Isa::best());
    prop_assert!(found.is_ok(), "bytes: {:?}", found);
    let (graph, weights) = dynamic_int8(&frozen, &made.weights).unwrap();
    let found = made.run(&graph, &weights, Isa::best());
    prop_assert!(found.is_ok(), "dynamic int8: {:?}", found);
    let all: Vec<ValueId> = made.shown.clone();
    prop_assert!(expose(&made.graph, &all).is_ok());
    Ok(())
}

/// A training step, fused and not, in f32 and in half types.
fn training(made: &Made) -> Result<(), TestCaseError> {
    let Some((graph, weights)) = made.classifier() else { return Ok(()) };
    let Ok(step) = training_graph(&graph, LossOptions::default()) else { return Ok(()) };
    let plain = made.run_unoptimized(&step.graph, &weights, Isa::best());
    let found = made.run(&step.graph, &weights, Isa::best());
    prop_assert_eq!(plain.is_ok(), found.is_ok(), "{:?}, {:?}", plain.err(), found.err());
    if let (Ok(plain), Ok(found)) = (&plain, &found)
        && !made.has_bytes()
    {
        let loss = |of: &Outputs| of.iter().filter(|(name, _)| name == LOSS).cloned().collect::<Outputs>();
        near(&loss(found), &loss(plain), "training")?;
        let finite = |of: &Outputs| of.iter().all(|(_, v)| v.iter().all(|v| v.abs() < 1e30));
        prop_assert!(!finite(plain) || finite(found), "a gradient is not finite");
        for name in &step.trained {
            let shown = found.iter().find(|(n, _)| *n == gradient_output(name));
            prop_assert_eq!(shown.map(|(_, v)| v.len()), Some(weights[name].len()), "{}", name);
        }
    }
    for half in [DType::BF16, DType::F16] {
        let Ok(step) = autocast(&graph, half).and_then(|g| training_graph(&g, LossOptions::default())) else {
            continue;
        };
        // An operator without kernels for half types is an error; a panic fails the test.
        drop(made.run(&step.graph, &weights, Isa::best()));
    }
    Ok(())
}

fn check(choices: &[u16]) -> Result<(), TestCaseError> {
    let made = Maker::new(choices).finish();
    answers(&made)?;
    training(&made)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_random_graph_panics_or_changes_its_answer(choices in proptest::collection::vec(any::<u16>(), 6..160)) {
        check(&choices)?;
    }
}

#[test]
fn depthwise_convolutions_of_any_window_train_between_norms() {
    for kernel in 1..=9 {
        for stride in 1..=3 {
            let mut maker = Maker::new(&[1, 1, 4, 4]);
            let x = maker.values[0];
            maker.norm(x);
            let conv = Conv { strides: [stride; 2], pads: [kernel / 2; 4], group: 3, ..Conv::default() };
            let inputs = [maker.values[1], maker.weight(&[3, 1, kernel, kernel])];
            let y = maker.add(Op::Conv(conv), &inputs).unwrap();
            maker.norm(y);
            let made = maker.finish();
            answers(&made).unwrap();
            training(&made).unwrap();
        }
    }
}

#[test]
fn enough_random_graphs_run_and_train() {
    let mut random = Random::new(3, 0, 0, Purpose::Init);
    let (mut run, mut trained) = (0, 0);
    for _ in 0..100 {
        let choices = random_graph::choices(&mut random, 150);
        let made = Maker::new(&choices).finish();
        run += usize::from(one_by_one(&made).is_some());
        let step = made.classifier().and_then(|(graph, weights)| {
            let step = training_graph(&graph, LossOptions::default()).ok()?;
            made.run(&step.graph, &weights, Isa::best()).ok()
        });
        trained += usize::from(step.is_some());
    }
    assert!(run >= 50 && trained >= 25, "{run} ran and {trained} trained, of 100");
}
