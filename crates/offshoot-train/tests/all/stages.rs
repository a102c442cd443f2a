//! Unfreezing, averages, early stopping and accumulated batches in whole runs.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use offshoot_formats::safetensors;
use offshoot_graph::passes::freeze;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Tensor, Weights};
use offshoot_train::run::{BEST_FILE, LAST_FILE};
use offshoot_train::{
    Batch, Clip, Control, Event, GroupOptions, OptimizerKind, OptimizerOptions, Rebuild, Settings, StepError,
    StepOptions, TrainStep, train,
};

use crate::support::{Fixture, SIZE, executor, model};

/// The head first, `conv1` and its norm from the third of four epochs on, all else from the fourth on.
fn progressive(settings: &mut Settings) {
    settings.epochs = Some(4);
    settings.unfreeze =
        Some(["conv1@50%:x0.1", "bn1@50%:x0.1", "*@75%"].map(|text| text.parse().unwrap()).to_vec());
}

/// The weights in `last.safetensors` after each finished epoch, from the start on, and the tables of the stages.
fn after_each_epoch(fixture: &Fixture) -> (Vec<Weights>, Vec<(u64, Vec<String>)>) {
    let run = fixture.root.path().join("watched");
    let last = || safetensors::read(&run.join(LAST_FILE)).unwrap().weights;
    let (mut weights, mut stages) = (vec![model().weights], Vec::new());
    let mut progress = |event: Event<'_>| match event {
        Event::Epoch(_) => weights.push(last()),
        Event::Stage { epoch, groups } => {
            let row = |g: &offshoot_train::GroupRow| {
                format!("{} {} {} {:e} {:e}", g.name, g.parameters, g.trainable, g.lr, g.weight_decay)
            };
            stages.push((epoch, groups.iter().map(row).collect()));
        }
        _ => {}
    };
    let stop = AtomicBool::new(false);
    let control = Control::new(&mut progress, &stop);
    train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
    (weights, stages)
}

#[test]
fn each_layer_moves_from_its_unfreezing_on_and_not_before() {
    let fixture = Fixture::new(progressive);
    let (weights, stages) = after_each_epoch(&fixture);
    assert_eq!(weights.len(), 5);
    let moved = |epoch: usize, name: &str| weights[epoch][name] != weights[epoch - 1][name];
    for (name, first) in [
        ("fc.weight", 1),
        ("conv1.weight", 3),
        ("bn1.weight", 3),
        ("bn1.running_mean", 3),
        ("conv0.weight", 4),
        ("bn0.bias", 4),
        ("bn0.running_var", 4),
    ] {
        for epoch in 1..=4 {
            assert_eq!(moved(epoch, name), epoch >= first, "{name} in epoch {epoch}");
        }
    }
    let table = |rows: &[&str]| rows.iter().map(|row| row.to_string()).collect::<Vec<_>>();
    assert_eq!(
        stages[0],
        (0, table(&["head 48 true 1e-2 1e-2", "head 3 true 1e-2 0e0", "frozen 1416 false 0e0 0e0"]))
    );
    assert_eq!(
        stages[1],
        (
            2,
            table(&[
                "conv1 1152 true 1e-3 1e-2",
                "bn1 32 true 1e-3 0e0",
                "head 48 true 1e-2 1e-2",
                "head 3 true 1e-2 0e0",
                "frozen 232 false 0e0 0e0"
            ])
        )
    );
    assert_eq!(stages.len(), 3);
    let csv = String::from_utf8(fixture.file("watched", "groups.csv")).unwrap();
    assert!(csv.contains("\n1,0,frozen,1416,false,0e0,0e0\n2,2,conv1,1152,true,1e-3,1e-2\n"), "{csv}");
}

#[test]
fn batch_norms_that_are_to_stay_as_they_are_do() {
    let fixture = Fixture::new(|s| {
        progressive(s);
        s.freeze_norms = Some(true);
    });
    let (weights, _) = after_each_epoch(&fixture);
    for (name, end) in &weights[4] {
        assert_eq!(end == &weights[0][name], name.starts_with("bn"), "{name}");
    }
    let fixture = Fixture::new(|s| {
        s.freeze = Some("conv*,fc".parse().unwrap());
        s.freeze_norms = Some(true);
    });
    let error = fixture.train("run", 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("leaves nothing to train"), "{error}");
}

#[test]
fn a_run_is_resumed_to_the_same_bytes_in_every_stage() {
    let everything = |s: &mut Settings| {
        progressive(s);
        s.ema = Some(0.9);
        s.average_last = Some(3);
        s.accumulate = Some(2);
        s.clip_norm = Some(0.5);
        s.batch_size = Some(4);
    };
    for change in [progressive, everything] {
        let fixture = Fixture::new(change);
        fixture.whole("whole");
        // 5 updates an epoch: within each stage, at their borders, and several times.
        for stops in [&[3][..], &[10], &[11], &[15], &[16, 1], &[4, 7, 6]] {
            let run = format!("stopped{stops:?}");
            for &steps in stops {
                assert!(fixture.train(&run, steps, |c| c.resume = true).unwrap().interrupted);
            }
            let outcome = fixture.train(&run, u64::MAX, |c| c.resume = true).unwrap();
            assert!(!outcome.interrupted && outcome.result.epochs == 4);
            fixture.assert_same("whole", &run);
        }
        // Death between two files: those of a later checkpoint of the same stage, but the state of an earlier one.
        for (first, more) in [(6, 3), (12, 2), (16, 3)] {
            let run = format!("died{first}+{more}");
            fixture.train(&run, first, |_| {}).unwrap();
            let state = fixture.file(&run, "last.state.safetensors");
            fixture.train(&run, more, |c| c.resume = true).unwrap();
            std::fs::write(fixture.root.path().join(&run).join("last.state.safetensors"), &state).unwrap();
            fixture.train(&run, u64::MAX, |c| c.resume = true).unwrap();
            fixture.assert_same("whole", &run);
        }
    }
}

#[test]
fn features_that_are_kept_through_unfreezings_change_no_bit() {
    let fixture = Fixture::new(progressive);
    fixture.whole("kept");
    fixture.train("anew", u64::MAX, |c| c.cache.budget = 0).unwrap();
    fixture.assert_same("kept", "anew");
}

fn options(clip: Clip) -> StepOptions {
    let optimizer = OptimizerOptions { momentum: 0.9, ..OptimizerOptions::new(OptimizerKind::Sgd) };
    StepOptions { clip, ..StepOptions::new(optimizer, 0.1) }
}

/// Ten pictures with labels, in batches of these sizes.
fn batches(step: &mut TrainStep, sizes: &[usize]) -> Vec<Batch> {
    let (picture, mut at) = (3 * SIZE * SIZE, 0);
    let mut make = |&n: &usize| {
        let pictures = (at..at + n).flat_map(|item| {
            let mut random = Random::new(4, 0, item as u64, Purpose::Init);
            (0..picture).map(move |_| random.normal()).collect::<Vec<f32>>()
        });
        let images = Tensor::f32([n, 3, SIZE, SIZE], pictures.collect());
        let labels = Tensor::i64([n], (at..at + n).map(|i| i as i64 % 3).collect());
        let keys = Tensor::i64([n], (at..at + n).map(|i| i as i64 + 100).collect());
        at += n;
        Batch { features: step.features(images).unwrap(), labels, keys }
    };
    sizes.iter().map(&mut make).collect()
}

#[test]
fn accumulated_batches_are_one_large_batch_where_norms_are_frozen() {
    for class_weights in [None, Some(vec![1.0, 3.0, 0.5])] {
        for clip in [Clip::Off, Clip::Norm(0.05), Clip::Value(0.01)] {
            let options = StepOptions { class_weights: class_weights.clone(), ..options(clip) };
            let mut frozen = model();
            freeze(&mut frozen.graph, |name| name.starts_with("bn"));
            let run = |sizes: &[usize]| {
                let mut step = TrainStep::new(frozen.clone(), &options, &executor(2)).unwrap();
                let batches = batches(&mut step, sizes);
                let reports: Vec<_> = (0..3).map(|_| step.learn_together(&batches, 1.0).unwrap()).collect();
                (step.model().weights, reports)
            };
            let ((large, one), (small, many)) = (run(&[10]), run(&[4, 3, 3]));
            for (a, b) in one.iter().zip(&many) {
                assert!((a.loss - b.loss).abs() < 1e-5 * a.loss, "{a:?} {b:?}");
                assert!((a.gradient_norm - b.gradient_norm).abs() < 1e-4 * a.gradient_norm, "{a:?} {b:?}");
                assert_eq!(a.correct, b.correct);
            }
            for (name, a) in &large {
                let (a, b) = (a.as_f32().unwrap(), small[name].as_f32().unwrap());
                let largest = a.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * largest.max(1e-3)), "{name}");
            }
            assert_ne!(large["conv0.weight"], model().weights["conv0.weight"]);
        }
    }
}

#[test]
fn a_refused_window_of_batches_leaves_the_running_statistics() {
    let mut step = TrainStep::new(model(), &options(Clip::Off), &executor(1)).unwrap();
    let mut batches = batches(&mut step, &[4, 6]);
    let (before, state) = (step.model().weights, step.state());
    let images = batches[1].features.as_f32_mut().unwrap();
    images[7] = f32::NAN;
    step.learn_together(&batches, 1.0).unwrap_err();
    assert_eq!((step.model().weights, step.state()), (before.clone(), state));
    batches.truncate(1);
    step.learn_together(&batches, 1.0).unwrap();
    assert_ne!(step.model().weights["bn0.running_mean"], before["bn0.running_mean"]);
}

#[test]
fn an_unfreezing_keeps_the_moments_that_it_is_to_keep() {
    let mut start = model();
    freeze(&mut start.graph, |name| !name.starts_with("fc"));
    let moments = |rebuild| {
        let mut step = TrainStep::new(start.clone(), &options(Clip::Off), &executor(1)).unwrap();
        let first = batches(&mut step, &[6]);
        step.learn_together(&first, 1.0).unwrap();
        let before = step.state();
        let mark = |graph: &mut offshoot_graph::Graph| {
            freeze(graph, |name| name.starts_with("conv0") || name.starts_with("bn0"));
            Ok(())
        };
        let step = step.rebuild(mark, &options(Clip::Off), rebuild, &executor(1)).unwrap();
        (before, step.state())
    };
    let (before, kept) = moments(Rebuild::New);
    for name in ["optimizer.fc.weight.momentum_buffer", "optimizer.fc.weight.step", "model.fc.weight"] {
        assert_eq!(kept[name], before[name]);
    }
    assert_eq!(kept["optimizer.conv1.weight.step"].as_f32(), Some(&[0.0][..]));
    let (before, new) = moments(Rebuild::All);
    assert_eq!(new["optimizer.fc.weight.step"].as_f32(), Some(&[0.0][..]));
    assert_eq!(new["model.fc.weight"], before["model.fc.weight"]);
}

#[test]
fn the_moving_average_is_what_is_validated_and_kept() {
    let fixture = Fixture::new(|s| {
        s.epochs = Some(2);
        s.ema = Some(0.5);
    });
    fixture.whole("run");
    let state = safetensors::read(&fixture.root.path().join("run/last.state.safetensors")).unwrap().weights;
    assert_eq!(state["ema.count"].as_f32(), Some(&[10.0][..]));
    let result = fixture.train("run", 0, |c| c.resume = true).unwrap().result;
    let best = safetensors::read(&fixture.root.path().join("run").join(BEST_FILE)).unwrap().weights;
    let last = safetensors::read(&fixture.root.path().join("run").join(LAST_FILE)).unwrap().weights;
    if result.best.unwrap().epoch == 2 {
        assert_eq!(best["conv0.weight"].as_f32(), state["ema.conv0.weight"].as_f32());
    }
    assert_ne!(best["conv0.weight"], last["conv0.weight"]);
    assert_ne!(best["bn0.running_mean"], last["bn0.running_mean"]);
}

#[test]
fn the_average_of_the_last_epochs_is_their_mean() {
    let fixture = Fixture::new(|s| {
        progressive(s);
        s.average_last = Some(3);
    });
    let (weights, _) = after_each_epoch(&fixture);
    let average =
        safetensors::read(&fixture.root.path().join("watched/average.safetensors")).unwrap().weights;
    for (name, average) in &average {
        let epochs: Vec<&[f32]> = weights[2..].iter().map(|w| w[name].as_f32().unwrap()).collect();
        for (i, &x) in average.as_f32().unwrap().iter().enumerate() {
            let mean = epochs.iter().map(|w| f64::from(w[i])).sum::<f64>() / 3.0;
            assert!(
                (f64::from(x) - mean).abs() < 1e-6 * mean.abs().max(1.0),
                "{name}[{i}]: {x} is not {mean}"
            );
        }
    }
}

#[test]
fn patience_ends_a_run_in_its_last_stage_and_that_is_its_result() {
    let fixture = Fixture::new(|s| {
        s.epochs = Some(20);
        s.unfreeze = Some(vec!["conv1@25%".parse().unwrap()]);
        s.patience = Some(2);
        s.min_delta = Some(0.9);
    });
    let mut ended = 0;
    let mut progress = |event: Event<'_>| ended += u32::from(matches!(event, Event::Ended));
    let stop = AtomicBool::new(false);
    let control = Control::new(&mut progress, &stop);
    let run = fixture.root.path().join("run");
    let outcome = train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
    // The first epoch of the last stage sets the mark, and no later one is better by 0.9.
    assert_eq!((outcome.interrupted, outcome.result.epochs, ended), (false, 5 + 1 + 2, 1));
    let again = fixture.train("run", u64::MAX, |c| c.resume = true).unwrap();
    assert_eq!((again.interrupted, again.result.epochs), (false, 8));
    assert_eq!(again.result.best, outcome.result.best);
}

#[test]
fn a_plateau_lowers_the_rate_that_results_show() {
    let fixture = Fixture::new(|s| {
        s.epochs = Some(5);
        s.warmup = Some(0.0);
        s.schedule = Some("plateau:patience=0,factor=0.5,threshold=0.99".parse().unwrap());
    });
    fixture.whole("run");
    let rates: Vec<String> = fixture.results("run").iter().skip(1).map(|row| row[5].clone()).collect();
    assert_eq!(rates, ["1e-2", "1e-2", "5e-3", "2.5e-3", "1.25e-3"]);
    for steps in [12, 15] {
        let run = format!("stopped{steps}");
        fixture.train(&run, steps, |_| {}).unwrap();
        fixture.train(&run, u64::MAX, |c| c.resume = true).unwrap();
        fixture.assert_same("run", &run);
    }
}

#[test]
fn layers_learn_more_slowly_towards_the_input() {
    let mut options = options(Clip::Off);
    options.rates = GroupOptions {
        layer_decay: 0.5,
        weight_decay: 0.1,
        lr_groups: vec![("bn0".parse().unwrap(), 0.7)],
        ..GroupOptions::new(0.1)
    };
    let step = TrainStep::new(model(), &options, &executor(1)).unwrap();
    let groups =
        step.groups().iter().flat_map(|g| g.names.iter().map(|n| (n.as_str(), (g.lr, g.weight_decay))));
    let expected = [
        ("conv0.weight", (0.025, 0.1)),
        ("bn0.weight", (0.7, 0.0)),
        ("bn0.bias", (0.7, 0.0)),
        ("conv1.weight", (0.05, 0.1)),
        ("bn1.weight", (0.05, 0.0)),
        ("bn1.bias", (0.05, 0.0)),
        ("fc.weight", (0.1, 0.1)),
        ("fc.bias", (0.1, 0.0)),
    ];
    assert_eq!(groups.collect::<BTreeMap<_, _>>(), BTreeMap::from(expected));
}

#[test]
fn a_pattern_without_a_parameter_is_found_before_anything_is_made() {
    let fixture = Fixture::new(|s| s.unfreeze = Some(vec!["layer9@50%".parse().unwrap()]));
    let error = fixture.train("a", 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("`layer9`") && error.contains("`conv0.weight`"), "{error}");
    assert!(!fixture.root.path().join("a").exists());
}

#[test]
fn features_of_another_shape_are_an_error_that_says_so() {
    let mut step = TrainStep::new(model(), &options(Clip::Off), &executor(1)).unwrap();
    let good = batches(&mut step, &[4, 6]);
    let before = step.state();
    let wrong = Batch { features: Tensor::zeros([4, 3, SIZE, 5]), ..good[0].clone() };
    for batches in [&[wrong.clone()][..], &[good[0].clone(), wrong][..]] {
        let error = step.learn_together(batches, 1.0).unwrap_err();
        assert!(
            matches!(error, StepError::Network(_)) && error.to_string().contains("must be f32"),
            "{error}"
        );
        assert_eq!(step.state(), before);
    }
}
