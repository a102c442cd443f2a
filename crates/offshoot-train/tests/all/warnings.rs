//! What a run warns of, and what it does not.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::sync::atomic::AtomicBool;

use offshoot_data::{Dataset, Loader, LoaderOptions, Transform};
use offshoot_formats::safetensors;
use offshoot_graph::{Model, Tensor};
use offshoot_train::recipe::Augment;
use offshoot_train::{Amp, Control, Event, Freeze, Inference, OptimizerKind, Settings, evaluate, train};

use crate::support::{CLASSES, Fixture, draw, model};

/// The warnings of a run that starts from `model`.
fn warnings(fixture: &Fixture, model: Model, run: &str) -> Vec<String> {
    let (stop, mut warnings) = (AtomicBool::new(false), Vec::new());
    let mut progress = |event: Event<'_>| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_owned());
        }
    };
    let control = Control::new(&mut progress, &stop);
    let run = fixture.root.path().join(run);
    train(model, &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
    warnings
}

fn without_augmentation(change: impl FnOnce(&mut Settings)) -> Fixture {
    Fixture::new(|s| {
        s.augment = Some(Augment::Off);
        change(s);
    })
}

#[test]
fn a_run_that_learns_is_not_warned_of() {
    for freeze in [Freeze::None, Freeze::Backbone] {
        let fixture = without_augmentation(|s| {
            s.epochs = Some(8);
            s.freeze = Some(freeze);
        });
        let told = warnings(&fixture, model(), "run");
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn a_dead_layer_is_named() {
    let fixture = without_augmentation(|_| {});
    let mut model = model();
    model.weights.get_mut("bn1.bias").and_then(Tensor::as_f32_mut).unwrap().fill(-1e3);
    let told = warnings(&fixture, model, "run");
    let dead: Vec<&String> = told.iter().filter(|text| text.starts_with("a dead layer")).collect();
    assert!(dead.len() == 1 && dead[0].contains("`bn1.bias`") && dead[0].contains("more"), "{told:?}");
}

#[test]
fn a_rate_that_is_too_high_and_one_that_is_too_low_are_told_of_once() {
    for (lr, start) in [(3.0, "the learning rate looks too high"), (1e-9, "the loss does not change")] {
        let fixture = without_augmentation(|s| {
            s.lr = Some(lr);
            s.optimizer = Some(OptimizerKind::AdamW);
            s.epochs = Some(6);
        });
        // From random guessing.
        let mut model = model();
        model.weights.get_mut("fc.weight").and_then(Tensor::as_f32_mut).unwrap().fill(0.0);
        let told = warnings(&fixture, model, "run");
        assert_eq!(told.iter().filter(|text| text.starts_with(start)).count(), 1, "{told:?}");
    }
}

#[test]
fn a_model_that_knows_its_pictures_by_heart_is_told_of_and_its_accuracy_is_that_of_an_evaluation() {
    // What is validated with has the names of other classes.
    let mut fixture = without_augmentation(|s| {
        s.epochs = Some(8);
        s.freeze = Some(Freeze::Backbone);
        s.lr = Some(0.05);
    });
    let other = fixture.root.path().join("other");
    draw(&other.join("train"));
    draw(&other.join("val"));
    for (class, to) in CLASSES.iter().zip(["1", "2", "0"]) {
        std::fs::rename(other.join("val").join(class), other.join("val").join(to)).unwrap();
    }
    for (class, from) in CLASSES.iter().zip(["0", "1", "2"]) {
        std::fs::rename(other.join("val").join(from), other.join("val").join(class)).unwrap();
    }
    fixture.recipe.data = other.clone();
    fixture.data = Dataset::open(&other, &fixture.recipe.folder_options()).unwrap();
    let told = warnings(&fixture, model(), "run");
    assert_eq!(told.iter().filter(|text| text.starts_with("overfitting")).count(), 1, "{told:?}");
    assert!(told.iter().any(|text| text.contains("`augment` on `cache_views` 4")), "{told:?}");

    let results = fixture.results("run");
    assert_eq!(results[0][7], "train_eval_accuracy");
    let found: f64 = results[8][7].parse().unwrap();
    let weights = safetensors::read(&fixture.root.path().join("run/last.safetensors")).unwrap().weights;
    let last = Model { weights, ..model() };
    let mut network = Inference::new(&last, &fixture.executor).unwrap();
    let transform = Transform::new(&fixture.recipe.preprocessing).unwrap();
    let options = LoaderOptions::evaluation(&transform, 5);
    let loader = Loader::new(fixture.data.train.clone(), transform, options);
    let metrics = evaluate(&mut network, &last.metadata, &loader, |_| {}).unwrap();
    let score = metrics.reached();
    assert!((score - found).abs() < 1e-6, "{score} is not {found}");
    assert!(found > results[8][4].parse::<f64>().unwrap() + 0.05, "{results:?}");
}

#[test]
fn pictures_that_change_at_random_are_measured_as_they_are_and_as_many_as_validate() {
    let fixture = Fixture::new(|s| s.augment = Some(Augment::On));
    warnings(&fixture, model(), "run");
    let count = fixture.data.val.len() as f64;
    for row in fixture.results("run").iter().skip(1) {
        let right = row[7].parse::<f64>().unwrap() * count;
        assert!((right - right.round()).abs() < 1e-4, "{row:?}");
    }
}

#[test]
fn the_size_of_an_update_is_what_the_weights_moved_by() {
    // One step.
    let fixture = without_augmentation(|s| {
        s.epochs = Some(1);
        s.batch_size = Some(100);
    });
    warnings(&fixture, model(), "run");
    let text = String::from_utf8(fixture.file("run", "health.csv")).unwrap();
    let ratio: f64 = text.lines().nth(1).unwrap().rsplit(',').next().unwrap().parse().unwrap();
    let after = safetensors::read(&fixture.root.path().join("run/last.safetensors")).unwrap().weights;
    let (mut change, mut size) = (0.0, 0.0);
    for (name, after) in after.iter().filter(|(name, _)| !name.contains("running")) {
        let before = &model().weights[name];
        for (&a, &b) in after.as_f32().unwrap().iter().zip(before.as_f32().unwrap()) {
            change += f64::from(a - b).powi(2);
            size += f64::from(a).powi(2);
        }
    }
    let expected = f64::sqrt(change / size);
    assert!(ratio > 0.0 && (ratio - expected).abs() < 1e-9 * expected, "{ratio} is not {expected}");
}

#[test]
fn steps_that_the_loss_scale_leaves_out_are_counted_and_have_no_gradient() {
    let fixture = without_augmentation(|s| {
        s.amp = Some(Amp::Fp16);
        // An epoch is a step.
        (s.batch_size, s.epochs, s.lr) = (Some(64), Some(20), Some(1e-9));
    });
    let mut model = model();
    // So large that the first scales are too large.
    model
        .weights
        .get_mut("fc.weight")
        .and_then(Tensor::as_f32_mut)
        .unwrap()
        .iter_mut()
        .for_each(|w| *w *= 3e3);
    warnings(&fixture, model, "run");
    let text = String::from_utf8(fixture.file("run", "results.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows[0][6], rows[0][8], rows[0][9]), ("gradient_norm", "skipped_steps", "loss_scale"));
    let mut scale = 65536.0;
    let mut skipped = 0;
    for row in &rows[1..] {
        let now: f64 = row[9].parse().unwrap();
        let left_out = now < scale;
        assert_eq!((row[8], row[6].is_empty()), (if left_out { "1" } else { "0" }, left_out), "{row:?}");
        assert!(left_out || row[6].parse::<f64>().unwrap() > 0.0, "{row:?}");
        (scale, skipped) = (now, skipped + u64::from(left_out));
    }
    assert!((1..20).contains(&skipped), "{text}");
    let health = String::from_utf8(fixture.file("run", "health.csv")).unwrap();
    assert!(health.lines().nth(1).unwrap().starts_with("1,all,,"), "{health}");
}
