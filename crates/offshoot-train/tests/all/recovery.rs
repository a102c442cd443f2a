//! What becomes of a run whose step has a number that is not finite: it stops, leaves the step out, or goes back.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use offshoot_graph::{Role, Tensor};
use offshoot_train::recipe::{Augment, PreprocessingSettings};
use offshoot_train::{Control, Event, OnNonFinite, OptimizerKind, Outcome, Settings, TrainError, train};

use crate::support::{Fixture, graph, model};

/// Trains into the folder `run` and stops after `steps` steps. Gives the warnings too.
fn watched(
    fixture: &Fixture,
    run: &str,
    steps: u64,
    resume: bool,
) -> (Result<Outcome, TrainError>, Vec<String>) {
    let (stop, mut warnings, mut made) = (AtomicBool::new(false), Vec::new(), 0);
    let mut progress = |event: Event<'_>| match event {
        Event::Warning(text) => warnings.push(text.to_owned()),
        Event::Step { .. } => {
            made += 1;
            stop.store(made >= steps, Ordering::Relaxed);
        }
        _ => {}
    };
    let mut control = Control::new(&mut progress, &stop);
    control.resume = resume;
    let run = fixture.root.path().join(run);
    let outcome = train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control);
    (outcome, warnings)
}

/// Pictures without blue but for one, whose blue is too large a number for the network to normalize.
fn poisoned(change: impl FnOnce(&mut Settings)) -> (Fixture, PathBuf) {
    let fixture = Fixture::new(|s| {
        s.augment = Some(Augment::Off);
        s.batch_size = Some(4);
        s.preprocessing = Some(PreprocessingSettings {
            mean: Some([0.5, 0.5, 0.0]),
            std: Some([0.25, 0.25, 1.2e-38]),
            ..PreprocessingSettings::default()
        });
        change(s);
    });
    let poison = fixture.data.train[11].path.clone();
    for sample in fixture.data.train.iter().chain(&fixture.data.val) {
        let blue = if sample.path == poison { 255 } else { 0 };
        let mut picture = image::open(&sample.path).unwrap().to_rgb8();
        picture.pixels_mut().for_each(|pixel| pixel.0[2] = blue);
        picture.save(&sample.path).unwrap();
    }
    (fixture, poison)
}

#[test]
fn a_step_that_is_left_out_is_counted_and_named_and_the_run_goes_on() {
    let (fixture, poison) = poisoned(|s| s.on_nonfinite = Some(OnNonFinite::Skip));
    let (outcome, warnings) = watched(&fixture, "whole", u64::MAX, false);
    assert_eq!(outcome.unwrap().result.epochs, 3);
    let skipped: Vec<&String> = warnings.iter().filter(|text| text.starts_with("skipped")).collect();
    assert_eq!(skipped.len(), 3, "{warnings:?}");
    for (text, epoch) in skipped.iter().zip(1..) {
        for part in [&format!("epoch {epoch}, step "), "made by node `bn0", &*poison.to_string_lossy()] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(text.lines().count(), 1);
    }
    let results = fixture.results("whole");
    assert_eq!(results[0][8], "skipped_steps");
    assert!(results[1..].iter().all(|row| row[8] == "1"), "{results:?}");
    for steps in [1, 5, 8, 13] {
        let run = format!("stopped{steps}");
        assert!(watched(&fixture, &run, steps, false).0.unwrap().interrupted);
        watched(&fixture, &run, u64::MAX, true).0.unwrap();
        fixture.assert_same("whole", &run);
    }
}

#[test]
fn the_run_stops_unless_it_is_told_not_to() {
    let (fixture, poison) = poisoned(|_| {});
    let TrainError::Refused(refusal) = watched(&fixture, "run", u64::MAX, false).0.unwrap_err() else {
        panic!("it is not refused")
    };
    assert!(refusal.pictures.contains(&poison), "{refusal}");
}

#[test]
fn steps_are_not_left_out_for_ever_and_the_node_is_named() {
    let weights: Vec<String> = {
        let graph = graph();
        let weight = |id| graph.parameter_info(id).unwrap().role == Role::Weight;
        let ids = graph.parameters().iter().copied().filter(|&id| weight(id));
        ids.map(|id| graph.value(id).name.clone()).collect()
    };
    // Another layer in each run of the test.
    let key = &weights[std::process::id() as usize % weights.len()];
    let reader = {
        let (graph, id) = (graph(), graph().find_parameter(key).unwrap());
        graph.nodes().iter().find(|node| node.inputs.contains(&id)).unwrap().name.clone()
    };
    for (batch, named) in [(2, "10 steps in a row"), (8, "all of its 5 steps")] {
        let fixture = Fixture::new(|s| {
            s.on_nonfinite = Some(OnNonFinite::Skip);
            s.batch_size = Some(batch);
        });
        let mut broken = model();
        broken.weights.get_mut(key).and_then(Tensor::as_f32_mut).unwrap()[0] = f32::INFINITY;
        let (stop, mut warnings) = (AtomicBool::new(false), Vec::new());
        let mut progress = |event: Event<'_>| {
            if let Event::Warning(text) = event {
                warnings.push(text.to_owned());
            }
        };
        let run = fixture.root.path().join("run");
        let control = Control::new(&mut progress, &stop);
        let error = train(broken, &fixture.recipe, &fixture.data, &run, &fixture.executor, control);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        let node = format!("node `{reader}`");
        assert!(
            !warnings.is_empty() && warnings.iter().all(|text| text.contains(&node)),
            "{key}: {warnings:?}"
        );
    }
}

/// A rate at which the logits overflow after some steps, but not at a part of it.
fn exploding(change: impl FnOnce(&mut Settings)) -> Fixture {
    Fixture::new(|s| {
        s.on_nonfinite = Some(OnNonFinite::Rollback);
        s.optimizer = Some(OptimizerKind::Adam);
        s.weight_decay = Some(0.0);
        s.lr = Some(4e37);
        s.freeze = Some("backbone".parse().unwrap());
        s.batch_size = Some(4);
        change(s);
    })
}

#[test]
fn a_run_that_goes_back_halves_its_rate_and_can_be_resumed_anywhere() {
    let ema: fn(&mut Settings) = |s| s.ema = Some(0.9);
    for change in [ema, |_| {}] {
        let fixture = exploding(change);
        let (outcome, warnings) = watched(&fixture, "whole", u64::MAX, false);
        assert_eq!(outcome.unwrap().result.epochs, 3);
        let back: Vec<&String> = warnings.iter().filter(|text| text.starts_with("back to")).collect();
        assert!((1..=5).contains(&back.len()), "{warnings:?}");
        assert!(back[0].contains("0.5 of the rate (1 of 5 times)"), "{back:?}");
        assert!(back[0].contains("node `fc") && back[0].contains(".png"), "{back:?}");
        let last_rate = |run: &str| fixture.results(run)[3][5].parse::<f64>().unwrap();
        for steps in 1..30 {
            let run = format!("stopped{steps}");
            if !watched(&fixture, &run, steps, false).0.unwrap().interrupted {
                break;
            }
            watched(&fixture, &run, u64::MAX, true).0.unwrap();
            fixture.assert_same("whole", &run);
        }
        // The same run at the rate that it came down to.
        let calm = exploding(|s| {
            change(s);
            s.lr = Some(4e37 * 0.5_f64.powi(back.len() as i32));
        });
        assert!(watched(&calm, "calm", u64::MAX, false).1.iter().all(|text| !text.starts_with("back")));
        let calm_rate = calm.results("calm")[3][5].parse::<f64>().unwrap();
        assert!((last_rate("whole") - calm_rate).abs() < 1e-9 * calm_rate);
    }
}

#[test]
fn a_run_does_not_go_back_for_ever_and_its_last_good_checkpoint_loads() {
    let (fixture, _) = poisoned(|s| s.on_nonfinite = Some(OnNonFinite::Rollback));
    let (outcome, warnings) = watched(&fixture, "run", u64::MAX, false);
    let error = outcome.unwrap_err();
    assert!(matches!(error, TrainError::GaveUp { .. }) && error.to_string().contains("5 times"), "{error}");
    assert_eq!(warnings.iter().filter(|text| text.starts_with("back to")).count(), 5);
    // There is nothing left to try.
    let (outcome, warnings) = watched(&fixture, "run", u64::MAX, true);
    assert!(matches!(outcome, Err(TrainError::GaveUp { .. })) && warnings.is_empty(), "{warnings:?}");
}
