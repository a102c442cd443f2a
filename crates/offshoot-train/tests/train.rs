//! Whole runs on pictures drawn here: three classes that differ in colour and shape.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use image::{Rgb, RgbImage};
use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_data::Dataset;
use offshoot_formats::safetensors;
use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Dim, Fit, Graph, Metadata, Model, Op, Preprocessing, Shape, Tensor, Weights};
use offshoot_train::recipe::{Augment, PreprocessingSettings};
use offshoot_train::{
    Control, Event, Freeze, Inference, Outcome, Recipe, Settings, StepError, StepOptions, TrainError,
    TrainResult, TrainStep, apply_freeze, train,
};

const SIZE: usize = 32;
const CLASSES: [&str; 3] = ["disc", "square", "stripes"];

/// 14 pictures of each class.
fn draw(root: &Path) {
    for (class, name) in CLASSES.iter().enumerate() {
        std::fs::create_dir_all(root.join(name)).unwrap();
        for n in 0..14 {
            let mut random = Random::new(3, n, class as u64, Purpose::Init);
            let (cx, cy) = (random.range(14.0, 34.0), random.range(12.0, 28.0));
            let picture = RgbImage::from_fn(48, 40, |x, y| {
                let (dx, dy) = (x as f32 - cx, y as f32 - cy);
                let inside = match class {
                    0 => dx * dx + dy * dy < 81.0,
                    1 => dx.abs() < 8.0 && dy.abs() < 8.0,
                    _ => x % 8 < 4,
                };
                let noise = random.range(0.0, 60.0);
                let mut colour = [60.0 + noise; 3];
                if inside {
                    colour[class] = 200.0;
                }
                Rgb(colour.map(|c| c as u8))
            });
            picture.save(root.join(name).join(format!("{n:02}.png"))).unwrap();
        }
    }
}

fn graph() -> Graph {
    let mut graph = Graph::new("small");
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), SIZE.into(), SIZE.into()]);
    let mut x = graph.add_input(INPUT, DType::F32, shape);
    for (i, channels) in [8, 16].into_iter().enumerate() {
        x = graph.conv2d(&format!("conv{i}"), x, &Conv2d::new(channels, 3).stride(2)).unwrap();
        x = graph.batch_norm(&format!("bn{i}"), x, BATCH_NORM).unwrap();
        x = graph.add(&format!("relu{i}"), Op::Relu, &[x]).unwrap();
    }
    let x = graph.add("pool", Op::GlobalAveragePool, &[x]).unwrap();
    let x = graph.add("flatten", Op::Flatten { axis: 1 }, &[x]).unwrap();
    let x = graph.add("dropout", Op::Dropout { ratio: 0.1 }, &[x]).unwrap();
    let x = graph.linear("fc", x, CLASSES.len()).unwrap();
    graph.add_output(OUTPUT, x);
    graph
}

fn model() -> Model {
    let graph = graph();
    let mut weights = Weights::new();
    for (item, &id) in graph.parameters().iter().enumerate() {
        let value = graph.value(id);
        let shape = value.shape.as_fixed().unwrap();
        let mut random = Random::new(1, 0, item as u64, Purpose::Init);
        let fan_in: usize = shape.iter().skip(1).product();
        let tensor = match value.name.rsplit('.').next() {
            Some("running_var") => Tensor::full(shape, 1.0),
            Some("running_mean" | "bias") => Tensor::zeros(shape),
            _ if shape.len() == 1 => Tensor::full(shape, 1.0),
            _ => {
                let scale = (2.0 / fan_in as f32).sqrt();
                let n = shape.iter().product();
                Tensor::f32(shape, (0..n).map(|_| random.normal() * scale).collect())
            }
        };
        weights.insert(value.name.clone(), tensor);
    }
    let metadata = Metadata {
        architecture: None,
        head: None,
        classes: CLASSES.map(String::from).to_vec(),
        preprocessing: Preprocessing { size: SIZE, resize: 36, ..Preprocessing::default() },
    };
    Model { graph, weights, metadata }
}

fn recipe(data: &Path, change: impl FnOnce(&mut Settings)) -> Recipe {
    let mut settings = Settings {
        model: Some("small".into()),
        data: Some(data.to_owned()),
        epochs: Some(3),
        batch_size: Some(8),
        lr: Some(0.01),
        seed: Some(5),
        threads: Some(2),
        ..Settings::default()
    };
    change(&mut settings);
    Recipe::resolve(settings, &model().metadata.preprocessing).unwrap()
}

fn executor(threads: usize) -> CpuExecutor {
    CpuExecutor::new(CpuOptions { threads: threads.try_into().ok(), ..CpuOptions::default() }).unwrap()
}

struct Fixture {
    root: tempfile::TempDir,
    data: Dataset,
    recipe: Recipe,
    executor: CpuExecutor,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Settings)) -> Fixture {
        let root = tempfile::tempdir().unwrap();
        draw(&root.path().join("data"));
        let recipe = recipe(&root.path().join("data"), change);
        let data = Dataset::open(&recipe.data, &recipe.folder_options()).unwrap();
        Fixture { root, data, recipe, executor: executor(2) }
    }

    /// Trains into the folder `run` with `change` applied to the control; stops after `steps` steps.
    fn train(
        &self,
        run: &str,
        steps: u64,
        change: impl FnOnce(&mut Control<'_>),
    ) -> Result<Outcome, TrainError> {
        let stop = AtomicBool::new(false);
        let mut made = 0;
        let mut progress = |event: Event<'_>| {
            if let Event::Step { .. } = event {
                made += 1;
                stop.store(made >= steps, Ordering::Relaxed);
            }
        };
        let mut control = Control::new(&mut progress, &stop);
        change(&mut control);
        let run = self.root.path().join(run);
        train(model(), &self.recipe, &self.data, &run, &self.executor, control)
    }

    fn whole(&self, run: &str) -> TrainResult {
        let outcome = self.train(run, u64::MAX, |_| {}).unwrap();
        assert!(!outcome.interrupted);
        outcome.result
    }

    fn file(&self, run: &str, name: &str) -> Vec<u8> {
        std::fs::read(self.root.path().join(run).join(name)).unwrap()
    }

    /// The columns of `results.csv` that do not tell the time.
    fn results(&self, run: &str) -> Vec<Vec<String>> {
        let text = String::from_utf8(self.file(run, "results.csv")).unwrap();
        text.lines().map(|line| line.split(',').take(7).map(str::to_owned).collect()).collect()
    }

    fn assert_same(&self, one: &str, other: &str) {
        for name in ["best.safetensors", "last.safetensors", "last.state.safetensors", "recipe.toml"] {
            assert!(self.file(one, name) == self.file(other, name), "{name} of {one} and {other} differ");
        }
        assert_eq!(self.results(one), self.results(other));
    }
}

fn head_only(settings: &mut Settings) {
    settings.freeze = Some(Freeze::Backbone);
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
    assert_eq!(best.val_accuracy, Some(1.0));
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
    let metrics = offshoot_train::evaluate(&mut network, 3, &loader, |_| {}).unwrap();
    assert_eq!((metrics.accuracy(), metrics.images()), (1.0, fixture.data.val.len() as u64));
    assert_eq!(Recipe::read(&fixture.root.path().join("run")).unwrap(), fixture.recipe);
}

#[test]
fn an_interrupted_run_ends_with_the_same_bytes() {
    for change in [|_: &mut Settings| (), head_only, first_layer_frozen] {
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
    assert!(error.contains("33 pictures") && error.contains("now there are 32"), "{error}");
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
    assert!(error.contains("--resume") && error.contains("run"), "{error}");
    let again = fixture.train("run", 1, |c| c.resume = true).unwrap();
    assert!(!again.interrupted);
    assert_eq!((again.result.best, again.result.epochs), (first.result.best, 1));
    assert!((again.result.seconds - first.result.seconds).abs() < 0.5);
    assert_eq!(fixture.file("run", "last.state.safetensors"), before);
}

#[test]
fn kept_features_change_no_bit() {
    for change in [head_only, |s: &mut Settings| {
        first_layer_frozen(s);
        s.augment = Some(Augment::Off);
    }] {
        let fixture = Fixture::new(change);
        let mut kept = 0;
        let mut progress = |event: Event<'_>| kept += u32::from(matches!(event, Event::Features { .. }));
        let stop = AtomicBool::new(false);
        let run = fixture.root.path().join("kept");
        let control = Control::new(&mut progress, &stop);
        train(model(), &fixture.recipe, &fixture.data, &run, &fixture.executor, control).unwrap();
        assert!(kept > 0);
        fixture.train("anew", u64::MAX, |c| c.feature_bytes = 0).unwrap();
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
    let together = network.run(&batch).unwrap().data.to_vec();
    for n in 0..7 {
        let alone = Tensor::f32([1, 3, SIZE, SIZE], pictures[n * picture..(n + 1) * picture].to_vec());
        assert_eq!(network.run(&alone).unwrap().data, &together[n * 3..(n + 1) * 3]);
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
    let (before, state) = (step.model().weights.clone(), step.state());
    images[3] = f32::INFINITY;
    let error = step.run(tensor(&images), &labels, &keys, 1.0).unwrap_err();
    let StepError::NotFinite { problem } = &error else { panic!("{error}") };
    assert!(problem.contains("loss is NaN") && problem.contains("`conv0.weight`"), "{problem}");
    assert!(error.to_string().contains("--lr"), "{error}");
    assert_eq!(step.model().weights, before);
    assert_eq!(step.state(), state);
    images[3] = 0.5;
    step.run(tensor(&images), &labels, &keys, 1.0).unwrap();
    assert_ne!(step.model().weights, before);
}

#[test]
fn a_run_whose_numbers_explode_says_so() {
    let fixture = Fixture::new(|s| {
        s.lr = Some(1e30);
        s.optimizer = Some(offshoot_train::OptimizerKind::Sgd);
    });
    let error = fixture.train("run", u64::MAX, |_| {}).unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("--lr"), "{error}");
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
}

#[test]
fn groups_learn_at_their_own_rates() {
    let mut options =
        StepOptions::new(offshoot_train::OptimizerOptions::new(offshoot_train::OptimizerKind::Sgd), 0.01);
    options.lr_groups = vec![("bn*".parse().unwrap(), 0.02), ("bn1".parse().unwrap(), 0.03)];
    let step = TrainStep::new(model(), &options, &executor(1)).unwrap();
    let rate = |name: &str| {
        let groups = step.groups().iter().filter(|g| g.names.iter().any(|n| n == name));
        groups.map(|g| g.lr).collect::<Vec<f64>>()
    };
    assert_eq!(rate("bn0.weight"), [0.02]);
    assert_eq!(rate("bn1.weight"), [0.03]);
    assert_eq!(rate("fc.weight"), [0.01]);
}
