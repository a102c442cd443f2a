//! Runs that are spread over processes: their number changes no bit. The processes are threads here.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::time::Duration;

use offshoot_train::recipe::{Augment, AugmentationSettings};
use offshoot_train::{Amp, CacheType, Freeze, OnNonFinite, Settings, TrainError};

use crate::support::Fixture;

/// 33 pictures: 9 batches of 4, in updates from 4, 4 and 1 of them.
fn shared(settings: &mut Settings) {
    (settings.batch_size, settings.accumulate, settings.epochs) = (Some(4), Some(4), Some(2));
}

fn head_only(settings: &mut Settings) {
    settings.freeze = Some(Freeze::Backbone);
}

fn full(settings: &mut Settings) {
    settings.augmentation =
        Some(AugmentationSettings { mixup: Some(0.4), cutmix: Some(1.0), ..AugmentationSettings::default() });
    settings.balanced_sampling = Some(true);
}

fn bf16(settings: &mut Settings) {
    settings.amp = Some(Amp::Bf16);
}

fn fp16(settings: &mut Settings) {
    settings.amp = Some(Amp::Fp16);
}

fn averaged_and_clipped(settings: &mut Settings) {
    (settings.ema, settings.clip_norm, settings.average_last) = (Some(0.9), Some(0.05), Some(1));
    settings.balance_classes = Some(true);
}

fn unfreezing(settings: &mut Settings) {
    settings.unfreeze = Some(vec!["conv1@50%:x0.1".parse().unwrap()]);
    settings.epochs = Some(4);
    settings.cache_dtype = Some(CacheType::F16);
}

/// Trains with one process and with several, and compares all files of the runs.
fn same_for_all(change: impl FnOnce(&mut Settings)) {
    let fixture = Fixture::new(|settings| {
        shared(settings);
        change(settings);
    });
    fixture.whole("one");
    for processes in [2, 3, 4] {
        let run = processes.to_string();
        for outcome in fixture.train_shared(&run, processes, u64::MAX, |_| {}) {
            assert_eq!(outcome.unwrap().result.epochs, fixture.recipe.epochs);
        }
        fixture.assert_same("one", &run);
        if fixture.file("one", "predictions.csv") != fixture.file(&run, "predictions.csv") {
            panic!("the predictions of {processes} processes differ");
        }
    }
}

#[test]
fn processes_that_train_a_head_on_cached_features() {
    same_for_all(head_only);
}

#[test]
fn processes_that_train_all_of_a_network_on_mixed_pictures() {
    same_for_all(full);
}

#[test]
fn processes_that_train_in_bf16() {
    same_for_all(bf16);
}

#[test]
fn processes_that_train_in_fp16() {
    same_for_all(fp16);
}

#[test]
fn processes_that_clip_gradients_and_average_weights() {
    same_for_all(averaged_and_clipped);
}

#[test]
fn processes_that_unfreeze() {
    same_for_all(unfreezing);
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    for change in [head_only, full, unfreezing] {
        let fixture = Fixture::new(|settings| {
            shared(settings);
            change(settings);
        });
        fixture.whole("one");
        for (place, counts) in [[3, 1, 2], [1, 4, 3], [2, 3, 4]].into_iter().enumerate() {
            let run = format!("run{place}");
            for (place, processes) in counts.into_iter().enumerate() {
                let steps = if place + 1 < counts.len() { 2 } else { u64::MAX };
                let outcomes = fixture.train_shared(&run, processes, steps, |control| {
                    control.resume = true;
                    control.checkpoint_every = Duration::ZERO;
                });
                assert!(outcomes.iter().all(|o| o.as_ref().unwrap().interrupted == (steps == 2)));
            }
            fixture.assert_same("one", &run);
        }
    }
}

#[test]
fn broken_pictures_are_left_out_by_all_processes() {
    for change in [head_only, full] {
        let fixture = Fixture::new(|settings| {
            shared(settings);
            change(settings);
        });
        for place in [2, 9, 10, 30] {
            std::fs::write(&fixture.data.train[place].path, b"no picture").unwrap();
        }
        std::fs::write(&fixture.data.val[3].path, b"no picture either").unwrap();
        fixture.whole("one");
        for processes in [2, 4] {
            let run = processes.to_string();
            fixture
                .train_shared(&run, processes, u64::MAX, |_| {})
                .into_iter()
                .for_each(|o| drop(o.unwrap()));
            fixture.assert_same("one", &run);
        }
    }
}

#[test]
fn a_picture_that_one_process_cannot_read_ends_the_run() {
    let fixture = Fixture::new(shared);
    std::fs::remove_file(&fixture.data.train[7].path).unwrap();
    let ended = fixture.train_shared("run", 2, u64::MAX, |_| {});
    let texts: Vec<String> = ended.iter().filter_map(|e| Some(e.as_ref().err()?.to_string())).collect();
    let path = fixture.data.train[7].path.to_string_lossy().into_owned();
    assert!(texts.iter().any(|text| text.contains(&path) && text.contains("cannot be read")), "{texts:?}");
    assert_eq!(texts.len(), 2, "nobody goes on alone: {texts:?}");
}

#[test]
fn a_refused_step_is_handled_alike_by_all_processes() {
    for policy in [OnNonFinite::Stop, OnNonFinite::Skip, OnNonFinite::Rollback] {
        let fixture = Fixture::new(|settings| {
            shared(settings);
            settings.augment = Some(Augment::Off);
            settings.preprocessing = Some(offshoot_train::recipe::PreprocessingSettings {
                mean: Some([0.5, 0.5, 0.0]),
                std: Some([0.25, 0.25, 1.2e-38]),
                ..Default::default()
            });
            settings.on_nonfinite = Some(policy);
        });
        let poison = fixture.data.train[11].path.clone();
        for sample in fixture.data.train.iter().chain(&fixture.data.val) {
            let blue = if sample.path == poison { 255 } else { 0 };
            let mut picture = image::open(&sample.path).unwrap().to_rgb8();
            picture.pixels_mut().for_each(|pixel| pixel.0[2] = blue);
            picture.save(&sample.path).unwrap();
        }
        let alone = fixture.train("one", u64::MAX, |_| {});
        for processes in [2, 3] {
            let run = processes.to_string();
            let outcomes = fixture.train_shared(&run, processes, u64::MAX, |_| {});
            for outcome in outcomes {
                match (&alone, outcome) {
                    (Ok(_), Ok(_)) => {}
                    (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
                    (one, other) => panic!("{policy:?}: {one:?} and {other:?}"),
                }
            }
            if alone.is_ok() {
                fixture.assert_same("one", &run);
            }
        }
    }
}

#[test]
fn processes_that_differ_do_not_start() {
    let fixture = Fixture::new(shared);
    let other = Fixture::new(|settings| {
        shared(settings);
        settings.lr = Some(0.02);
    });
    let start = |fixtures: [&Fixture; 2]| -> Vec<TrainError> {
        let ended = offshoot_world::Threads::run(2, |world| {
            let fixture = fixtures[world.rank()];
            let stop = std::sync::atomic::AtomicBool::new(false);
            let mut progress = |_: offshoot_train::Event<'_>| {};
            let mut control = offshoot_train::Control::new(&mut progress, &stop);
            control.world = world;
            let run = fixture.root.path().join("run");
            let (model, executor) = (crate::support::model(), crate::support::executor(1));
            offshoot_train::train(model, &fixture.recipe, &fixture.data, &run, &executor, control)
        });
        assert!(!fixture.root.path().join("run").exists());
        ended.into_iter().map(Result::unwrap_err).collect()
    };
    for error in start([&fixture, &other]) {
        let text = error.to_string();
        assert!(
            text.contains("rank 0 (host thread) and rank 1 (host thread) have different recipes"),
            "{text}"
        );
    }
    // The same recipe with another picture.
    let copy = Fixture::new(shared);
    std::fs::copy(&copy.data.train[0].path, &copy.data.train[3].path).unwrap();
    let copy = Fixture { recipe: fixture.recipe.clone(), ..copy };
    for error in start([&fixture, &copy]) {
        let text = error.to_string();
        let [one, other] = [&fixture, &copy].map(|f| f.data.train[3].path.to_string_lossy().into_owned());
        assert!(
            text.contains("different pictures") && text.contains(&one) && text.contains(&other),
            "{text}"
        );
    }
}

#[test]
fn more_processes_than_batches_are_refused_with_the_way_out() {
    let fixture = Fixture::new(shared);
    for outcome in fixture.train_shared("run", 5, 1, |_| {}) {
        let text = outcome.unwrap_err().to_string();
        assert!(text.starts_with("5 processes need") && text.contains("`accumulate` 5"), "{text}");
    }
    assert!(!fixture.root.path().join("run").exists());
}
