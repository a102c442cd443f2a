//! Pictures drawn here, of three classes that differ in color and shape, a small network, and runs on them.

#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use image::{Rgb, RgbImage};
use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_data::Dataset;
use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Pooling, ShapeOp, Unary};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Dim, Graph, Metadata, Model, Op, Preprocessing, Shape, Tensor, Weights};
use offshoot_train::{Control, Event, Outcome, Recipe, Settings, TrainError, TrainResult, train};
use offshoot_world::Threads;

pub(crate) const SIZE: usize = 32;
pub(crate) const CLASSES: [&str; 3] = ["disc", "square", "stripes"];

/// 14 pictures of each class.
pub(crate) fn draw(root: &Path) {
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

pub(crate) fn graph() -> Graph {
    let mut graph = Graph::new("small");
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), SIZE.into(), SIZE.into()]);
    let mut x = graph.add_input(INPUT, DType::F32, shape);
    for (i, channels) in [8, 16].into_iter().enumerate() {
        x = graph.conv2d(&format!("conv{i}"), x, &Conv2d::new(channels, 3).stride(2)).unwrap();
        x = graph.batch_norm(&format!("bn{i}"), x, BATCH_NORM).unwrap();
        x = graph.add(&format!("relu{i}"), Op::Unary(Unary::Relu), &[x]).unwrap();
    }
    let x = graph.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
    let x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    let x = graph.add("dropout", Op::Dropout { ratio: 0.1 }, &[x]).unwrap();
    let x = graph.linear("fc", x, CLASSES.len()).unwrap();
    graph.add_output(OUTPUT, x);
    graph
}

pub(crate) fn model() -> Model {
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
        ..Metadata::default()
    };
    Model { graph, weights, metadata }
}

pub(crate) fn recipe(data: &Path, change: impl FnOnce(&mut Settings)) -> Recipe {
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

pub(crate) fn executor(threads: usize) -> CpuExecutor {
    CpuExecutor::new(CpuOptions { threads: threads.try_into().ok(), ..CpuOptions::default() }).unwrap()
}

pub(crate) struct Fixture {
    pub(crate) root: tempfile::TempDir,
    pub(crate) data: Dataset,
    pub(crate) recipe: Recipe,
    pub(crate) executor: CpuExecutor,
}

impl Fixture {
    pub(crate) fn new(change: impl FnOnce(&mut Settings)) -> Fixture {
        let root = tempfile::tempdir().unwrap();
        draw(&root.path().join("data"));
        let recipe = recipe(&root.path().join("data"), change);
        let data = Dataset::open(&recipe.data, &recipe.folder_options()).unwrap();
        Fixture { root, data, recipe, executor: executor(2) }
    }

    /// Trains into the folder `run` with `change` applied to the control; stops after `steps` steps.
    pub(crate) fn train(
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

    /// Trains into the folder `run` in so many processes, which are threads here, with `change` applied to each one's control; stops after
    /// `steps` steps. Gives what each process comes to.
    pub(crate) fn train_shared(
        &self,
        run: &str,
        processes: usize,
        steps: u64,
        change: impl Fn(&mut Control<'_>) + Sync,
    ) -> Vec<Result<Outcome, TrainError>> {
        Threads::run(processes, |world| {
            let stop = AtomicBool::new(false);
            let mut made = 0;
            let mut progress = |event: Event<'_>| {
                if let Event::Step { .. } = event {
                    made += 1;
                    stop.store(made >= steps, Ordering::Relaxed);
                }
            };
            let mut control = Control::new(&mut progress, &stop);
            control.world = world;
            change(&mut control);
            let run = self.root.path().join(run);
            train(model(), &self.recipe, &self.data, &run, &executor(1), control)
        })
    }

    pub(crate) fn whole(&self, run: &str) -> TrainResult {
        let outcome = self.train(run, u64::MAX, |_| {}).unwrap();
        assert!(!outcome.interrupted);
        outcome.result
    }

    pub(crate) fn file(&self, run: &str, name: &str) -> Vec<u8> {
        std::fs::read(self.root.path().join(run).join(name)).unwrap()
    }

    /// The columns of `results.csv` that do not tell the time.
    pub(crate) fn results(&self, run: &str) -> Vec<Vec<String>> {
        let text = String::from_utf8(self.file(run, "results.csv")).unwrap();
        text.lines().map(|line| line.split(',').take(9).map(str::to_owned).collect()).collect()
    }

    pub(crate) fn assert_same(&self, one: &str, other: &str) {
        let names =
            ["best.safetensors", "last.safetensors", "last.state.safetensors", "recipe.toml", "health.csv"];
        for name in names {
            assert!(self.file(one, name) == self.file(other, name), "{name} of {one} and {other} differ");
        }
        assert_eq!(self.results(one), self.results(other));
    }
}
