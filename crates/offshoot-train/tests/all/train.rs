//! Whole runs on pictures drawn here: three classes that differ in color and shape.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::sync::atomic::AtomicBool;

use offshoot_formats::safetensors;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Fit, Metadata, Model, Tensor};
use offshoot_train::recipe::{Augment, AugmentationSettings, PreprocessingSettings};
use offshoot_train::{
    Amp, CacheType, Control, Event, Freeze, Inference, Recipe, Settings, StepError, StepOptions, TrainStep,
    apply_freeze, train,
};

use crate::support::{Fixture, SIZE, executor, graph, model};

fn head_only(settings: &mut Settings) {
    settings.freeze = Some(Freeze::Backbone);
}

fn mixed(settings: &mut Settings) {
    settings.augmentation =
        Some(AugmentationSettings { mixup: Some(0.4), cutmix: Some(1.0), ..AugmentationSettings::default() });
    (settings.balanced_sampling, settings.balance_classes) = (Some(true), Some(true));
    settings.label_smoothing = Some(0.1);
}

fn scaled_half(settings: &mut Settings) {
    settings.amp = Some(Amp::Fp16);
}

fn first_layer_frozen(settings: &mut Settings) {
    settings.freeze = Some("conv0,bn0".parse().unwrap());
}

#[test]
fn training_learns_the_classes_and_keeps_its_files() {
    let fixture = Fixture::new(|s| s.epochs = Some(12));
    assert_eq!(fixture.recipe.augment, Augment::On);
    let result = fixture.whole("run");
    let best = result.best.unwrap();
    assert_eq!(best.figure.value(), Some(1.0));
    assert_eq!(result.epochs, 12);
    assert_eq!((result.trainable_parameters, result.frozen_parameters), (216 + 16 + 1152 + 32 + 51, 0));
    assert!(result.seconds > 0.0);
    assert_eq!(fixture.results("run").len(), 13);

    let file = safetensors::read(&fixture.root.path().join("run/best.safetensors")).unwrap();
    let metadata: Metadata = serde_json::from_str(&file.metadata["offshoot"]).unwrap();
    assert_eq!(metadata, model().metadata);
    let keys: Vec<&String> = file.weights.keys().collect();
    assert_eq!(keys, model().weights.keys().collect::<Vec<_>>());
    let trained = Model { weights: file.weights, ..model() };
    let mut network = Inference::new(&trained, &fixture.executor).unwrap();
    let transform = offshoot_data::Transform::new(&metadata.preprocessing).unwrap();
    let options = offshoot_data::LoaderOptions::evaluation(&transform, 5);
    let loader = offshoot_data::Loader::new(fixture.data.val.clone(), transform, options);
    let metrics = offshoot_train::evaluate(&mut network, &metadata, &loader, |_| {}).unwrap();
    assert_eq!((metrics.score(), metrics.images()), (Some(1.0), fixture.data.val.len() as u64));
    assert_eq!(Recipe::read(&fixture.root.path().join("run")).unwrap(), fixture.recipe);
}

#[test]
fn an_interrupted_run_ends_with_the_same_bytes() {
    for change in [|_: &mut Settings| (), head_only, first_layer_frozen, scaled_half, mixed] {
        let fixture = Fixture::new(change);
        fixture.whole("whole");
        // 33 pictures: 5 steps an epoch. In the middle, at an epoch's last step, and just after one.
        for stops in [&[2][..], &[5], &[6, 1, 4]] {
            let run = format!("stopped{stops:?}");
            for &steps in stops {
                let outcome = fixture.train(&run, steps, |c| c.resume = true).unwrap();
                assert!(outcome.interrupted);
            }
            let outcome = fixture.train(&run, u64::MAX, |c| c.resume = true).unwrap();
            assert!(!outcome.interrupted && outcome.result.epochs == 3);
            fixture.assert_same("whole", &run);
        }
    }
}

#[test]
fn a_run_that_died_between_two_files_of_a_checkpoint_ends_with_the_same_bytes() {
    for change in [|_: &mut Settings| (), head_only] {
        let fixture = Fixture::new(change);
        fixture.whole("whole");
        fixture.train("run", 3, |_| {}).unwrap();
        let state = fixture.file("run", "last.state.safetensors");
        // All files of two later checkpoints but the last one.
        fixture.train("run", 9, |c| c.resume = true).unwrap();
        std::fs::write(fixture.root.path().join("run/last.state.safetensors"), &state).unwrap();
        fixture.train("run", u64::MAX, |c| c.resume = true).unwrap();
        fixture.assert_same("whole", "run");
    }
}

#[test]
fn a_run_may_go_on_with_other_threads() {
    let mut fixture = Fixture::new(|s| s.epochs = Some(2));
    fixture.whole("whole");
    fixture.train("run", 3, |_| {}).unwrap();
    fixture.recipe.threads = Some(1);
    fixture.executor = executor(1);
    fixture.train("run", u64::MAX, |c| c.resume = true).unwrap();
    assert_eq!(fixture.file("run", "last.safetensors"), fixture.file("whole", "last.safetensors"));
    fixture.data.train.pop();
    let error = fixture.train("run", 1, |c| c.resume = true).unwrap_err().to_string();
    assert!(error.contains("1 differ") && error.contains("12.png (train, stripes) is not there"), "{error}");
}

#[test]
fn a_stop_ends_after_the_current_step_with_a_checkpoint() {
    let fixture = Fixture::new(|_| {});
    let outcome = fixture.train("run", 7, |_| {}).unwrap();
    assert!(outcome.interrupted);
    assert_eq!(outcome.result.epochs, 1);
    assert_eq!(outcome.result.best.as_ref().map(|b| b.epoch), Some(1));
    let state = safetensors::read(&fixture.root.path().join("run/last.state.safetensors")).unwrap();
    assert!(state.metadata["offshoot"].contains(r#""epoch":1,"step":2"#), "{:?}", state.metadata);
    assert_eq!(state.weights["optimizer.fc.weight.step"].as_f32(), Some(&[7.0][..]));
    assert!(state.weights.contains_key("model.bn0.running_mean"));
}

#[test]
fn a_run_that_died_while_its_first_epoch_was_written_goes_on() {
    let fixture = Fixture::new(|s| s.epochs = Some(2));
    fixture.whole("whole");
    let [run, dead] = ["run", "dead"].map(|name| fixture.root.path().join(name));
    let stop = AtomicBool::new(false);
    // The folder as it is when nothing of the first epoch but its last steps is done.
    let mut progress = |event: Event<'_>| {
        if matches!(event, Event::Validate { done, total } if done == total) && !dead.exists() {
            std::fs::create_dir(&dead).unwrap();
            for file in std::fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()) {
                std::fs::copy(&file, dead.join(file.file_name().unwrap())).unwrap();
            }
        }
    };
    let control = Control::new(&mut progress, &stop);
    train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
    // Files that come before the checkpoint of the epoch.
    for name in ["best.safetensors", "predictions.csv", "results.csv", "health.csv"] {
        std::fs::copy(run.join(name), dead.join(name)).unwrap();
    }
    fixture.train("dead", u64::MAX, |c| c.resume = true).unwrap();
    fixture.assert_same("whole", "dead");
}

#[test]
fn checkpoints_come_as_often_as_asked_for() {
    let fixture = Fixture::new(|s| s.epochs = Some(1));
    let mut checkpoints = 0;
    let mut progress = |event: Event<'_>| checkpoints += u32::from(matches!(event, Event::Checkpoint));
    let stop = AtomicBool::new(false);
    let control =
        Control { checkpoint_every: std::time::Duration::ZERO, ..Control::new(&mut progress, &stop) };
    let run = fixture.root.path().join("run");
    train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
    assert_eq!(checkpoints, 5 + 1);
}

#[test]
fn a_used_folder_needs_resume_and_a_finished_run_answers_again() {
    let fixture = Fixture::new(|s| s.epochs = Some(1));
    let first = fixture.train("run", u64::MAX, |c| c.resume = true).unwrap();
    let before = fixture.file("run", "last.state.safetensors");
    let error = fixture.train("run", u64::MAX, |_| {}).unwrap_err().to_string();
    assert!(error.contains("`resume`") && error.contains("run"), "{error}");
    let again = fixture.train("run", 1, |c| c.resume = true).unwrap();
    assert!(!again.interrupted);
    assert_eq!((again.result.best, again.result.epochs), (first.result.best, 1));
    assert!((again.result.seconds - first.result.seconds).abs() < 0.5);
    assert_eq!(fixture.file("run", "last.state.safetensors"), before);
}

#[test]
fn kept_features_change_no_bit() {
    for change in [
        head_only,
        |s: &mut Settings| {
            first_layer_frozen(s);
            s.augment = Some(Augment::Off);
        },
        |s: &mut Settings| {
            head_only(s);
            s.cache_views = Some(2);
        },
        |s: &mut Settings| {
            head_only(s);
            s.cache_dtype = Some(CacheType::F16);
        },
    ] {
        let fixture = Fixture::new(change);
        let mut kept = 0;
        let mut progress = |event: Event<'_>| kept += u32::from(matches!(event, Event::Features { .. }));
        let stop = AtomicBool::new(false);
        let run = fixture.root.path().join("kept");
        let control = Control::new(&mut progress, &stop);
        train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
        assert!(kept > 0);
        fixture.train("anew", u64::MAX, |c| c.cache.budget = 0).unwrap();
        fixture.assert_same("kept", "anew");
    }
}

#[test]
fn the_answer_for_a_picture_does_not_depend_on_its_batch() {
    let mut network = Inference::new(&model(), &executor(2)).unwrap();
    let mut random = Random::new(9, 0, 0, Purpose::Init);
    let picture = 3 * SIZE * SIZE;
    let pictures: Vec<f32> = (0..7 * picture).map(|_| random.normal()).collect();
    let batch = Tensor::f32([7, 3, SIZE, SIZE], pictures.clone());
    let together = network.run(&batch).unwrap().into_f32().unwrap();
    for n in 0..7 {
        let alone = Tensor::f32([1, 3, SIZE, SIZE], pictures[n * picture..(n + 1) * picture].to_vec());
        assert_eq!(network.run(&alone).unwrap().as_f32().unwrap(), &together[n * 3..(n + 1) * 3]);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut fixture = Fixture::new(|s| s.epochs = Some(1));
    fixture.whole("two");
    fixture.executor = executor(1);
    fixture.whole("one");
    fixture.assert_same("one", "two");
}

#[test]
fn frozen_parameters_and_statistics_stay() {
    let fixture = Fixture::new(|s| {
        first_layer_frozen(s);
        s.preprocessing = Some(PreprocessingSettings { fit: Some(Fit::Pad), ..Default::default() });
    });
    let result = fixture.whole("run");
    assert_eq!(result.frozen_parameters, 216 + 16);
    let after = safetensors::read(&fixture.root.path().join("run/last.safetensors")).unwrap().weights;
    for (name, before) in model().weights {
        let stays = name.starts_with("conv0") || name.starts_with("bn0");
        assert_eq!(after[&name] == before, stays, "{name}");
    }
}

#[test]
fn a_step_that_is_not_finite_is_refused_and_changes_nothing() {
    let options =
        StepOptions::new(offshoot_train::OptimizerOptions::new(offshoot_train::OptimizerKind::AdamW), 0.01);
    let mut step = TrainStep::new(model(), &options, &executor(1)).unwrap();
    let mut images = vec![0.5; 2 * 3 * SIZE * SIZE];
    let (labels, keys) = (Tensor::i64([2], vec![0, 1]), Tensor::i64([2], vec![7, 8]));
    let tensor = |images: &[f32]| Tensor::f32([2, 3, SIZE, SIZE], images.to_vec());
    let (before, state) = (step.model().weights, step.state());
    images[3] = f32::INFINITY;
    let error = step.run(tensor(&images), &labels, &keys, 1.0).unwrap_err();
    let StepError::NotFinite { problem } = &error else { panic!("{error}") };
    assert!(problem.contains("loss is NaN") && problem.contains("`conv0.weight`"), "{problem}");
    assert!(error.to_string().contains("`lr`"), "{error}");
    assert_eq!(step.model().weights, before);
    assert_eq!(step.state(), state);
    images[3] = 0.5;
    step.run(tensor(&images), &labels, &keys, 1.0).unwrap();
    assert_ne!(step.model().weights, before);
}

#[test]
fn the_norms_of_each_group_are_kept() {
    let fixture = Fixture::new(|s| {
        s.freeze = Some("conv0,bn0".parse().unwrap());
        s.lr_groups = Some([("fc".to_string(), 0.02)].into());
    });
    fixture.whole("run");
    let text = String::from_utf8(fixture.file("run", "health.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["epoch", "group", "gradient_norm", "weight_norm", "update_ratio"]);
    let names: Vec<&[&str]> = rows[1..].iter().map(|row| &row[..2]).collect();
    let expected = [1, 2, 3].map(|n| n.to_string());
    let expected: Vec<[&str; 2]> =
        expected.iter().flat_map(|n| ["all", "backbone", "fc"].map(|group| [n.as_str(), group])).collect();
    assert_eq!(names, expected);
    let number = |row: usize, column: usize| rows[row][column].parse::<f64>().unwrap();
    let results = fixture.results("run");
    let weights = safetensors::read(&fixture.root.path().join("run/last.safetensors")).unwrap().weights;
    let norm = |start: &str| {
        let trained = weights.iter().filter(|(name, _)| name.starts_with(start) && !name.contains("running"));
        let all = trained.flat_map(|(_, tensor)| tensor.as_f32().unwrap());
        all.map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt()
    };
    for (epoch, result) in results.iter().enumerate().skip(1) {
        let row = 3 * epoch - 2;
        let total: f64 = result[6].parse().unwrap();
        assert!((number(row, 2) - total).abs() < 1e-6 * total.max(1.0), "{text}");
        assert!(number(row + 1, 2) > 0.0 && number(row + 1, 2) < number(row, 2), "{text}");
        assert!((row..row + 3).all(|row| number(row, 4) > 0.0 && number(row, 4) < 0.5), "{text}");
    }
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9 * expected, "{text}");
    close(number(8, 3), norm("conv1").hypot(norm("bn1")));
    close(number(9, 3), norm("fc"));
    close(number(7, 3), number(8, 3).hypot(number(9, 3)));
}

#[test]
fn a_step_that_the_scaler_skips_is_no_obstacle_to_resuming() {
    let fixture = Fixture::new(scaled_half);
    let mut steep = model();
    for w in steep.weights.get_mut("fc.weight").and_then(Tensor::as_f32_mut).unwrap() {
        *w *= 30.0;
    }
    let stop = AtomicBool::new(false);
    let run = fixture.root.path().join("run");
    let go = |resume: bool, steps: u64| {
        let mut made = 0;
        let mut progress = |event: Event<'_>| {
            made += u64::from(matches!(event, Event::Step { .. }));
            stop.store(made >= steps, std::sync::atomic::Ordering::Relaxed);
        };
        let control = Control { resume, ..Control::new(&mut progress, &stop) };
        train(steep.clone(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap()
    };
    assert!(go(false, 2).interrupted);
    let state = safetensors::read(&run.join("last.state.safetensors")).unwrap().weights;
    assert!(state["scaler.scale"].as_f32().unwrap()[0] < 65536.0, "a step was skipped");
    stop.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(!go(true, u64::MAX).interrupted);
    let norms = &fixture.results("run")[1..];
    assert!(norms.iter().all(|row| row[6].parse::<f64>().unwrap().is_finite()), "{norms:?}");
}

#[test]
fn a_run_whose_numbers_explode_says_so() {
    let fixture = Fixture::new(|s| {
        s.lr = Some(1e30);
        s.optimizer = Some(offshoot_train::OptimizerKind::Sgd);
    });
    let error = fixture.train("run", u64::MAX, |_| {}).unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("`lr`"), "{error}");
}

#[test]
fn a_broken_picture_is_told_of_and_left_out() {
    for change in [|_: &mut Settings| (), head_only] {
        let fixture = Fixture::new(change);
        let broken = &fixture.data.train[4].path;
        let bytes = std::fs::read(broken).unwrap();
        std::fs::write(broken, &bytes[..bytes.len() / 2]).unwrap();
        let mut told = Vec::new();
        let mut images = 0;
        let mut progress = |event: Event<'_>| match event {
            Event::Skipped(error) => told.push(error.path.clone()),
            Event::Start { train_images, .. } => images = train_images,
            _ => {}
        };
        let stop = AtomicBool::new(false);
        let run = fixture.root.path().join("run");
        let control = Control::new(&mut progress, &stop);
        train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
        assert_eq!((told, images), (vec![broken.clone()], 33));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let fixture = Fixture::new(|s| s.class_weights = Some([("dics".to_string(), 2.0)].into()));
    let error = fixture.train("a", 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("`dics`") && error.contains("disc, square, stripes"), "{error}");
    assert!(!fixture.root.path().join("a").exists());

    let fixture = Fixture::new(|s| s.freeze = Some("layer9".parse().unwrap()));
    let error = fixture.train("a", 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("`layer9`") && error.contains("`conv0.weight`"), "{error}");

    let fixture = Fixture::new(|s| s.lr_groups = Some([("layer9".to_string(), 0.1)].into()));
    let error = fixture.train("a", 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("`layer9`"), "{error}");

    let mut everything = graph();
    let error = apply_freeze(&mut everything, &"*".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("nothing to train"), "{error}");

    let mut fixture = Fixture::new(|_| {});
    fixture.data.classes.push("more".into());
    let error = fixture.train("a", 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("3 classes") && error.contains("4"), "{error}");
    fixture.data.classes = ["disc", "square", "stars"].map(String::from).to_vec();
    assert!(fixture.train("a", 1, |_| {}).is_err());
}

#[test]
fn groups_learn_at_their_own_rates() {
    let mut options =
        StepOptions::new(offshoot_train::OptimizerOptions::new(offshoot_train::OptimizerKind::Sgd), 0.01);
    options.rates.lr_groups = vec![("bn*".parse().unwrap(), 0.02), ("bn1".parse().unwrap(), 0.03)];
    let step = TrainStep::new(model(), &options, &executor(1)).unwrap();
    let rate = |name: &str| {
        let groups = step.groups().iter().filter(|g| g.names.iter().any(|n| n == name));
        groups.map(|g| g.lr).collect::<Vec<f64>>()
    };
    assert_eq!(rate("bn0.weight"), [0.02]);
    assert_eq!(rate("bn1.weight"), [0.03]);
    assert_eq!(rate("fc.weight"), [0.01]);
}
