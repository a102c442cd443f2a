//! Every option of training together with every other, each pair in one run at least.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{CLASSES, World, data};
use offshoot::{
    Control, CpuOptions, Dataset, Device, Event, ModelSource, QuantizePictures, Recipe, Settings,
    StaticOptions, own_preprocessing, quantize_static, starting_model, train,
};
use offshoot_formats::safetensors;

const MODEL: &str = "mobilenet_v3_small";

/// What every run has in common: two steps an epoch or one, the last batch a smaller one.
const COMMON: &str = r#"
epochs = 4
batch_size = 7
seed = 3
threads = 2
"#;

/// The options, each with its values as lines of a recipe. Names that start with `=` are things to do, not lines.
const OPTIONS: [(&str, &[&str]); 16] = [
    ("progressive", &["", r#"progressive = ["32@0%", "64@50%"]"#, r#"progressive = ["96@25%"]"#]),
    (
        "freeze",
        &[r#"freeze = "none""#, r#"freeze = "backbone""#, r#"freeze = "features.0,features.1,features.2""#],
    ),
    (
        "unfreeze",
        &[
            "",
            r#"unfreeze = ["features.12@50%:x0.1"]"#,
            "unfreeze = [\"features.11@25%\", \"features.12@0%\"]\nrestart = false",
        ],
    ),
    ("cache", &["", "=none", "cache_views = 2\naugment = \"on\"", r#"cache_dtype = "f16""#]),
    ("amp", &["", r#"amp = "bf16""#, r#"amp = "fp16""#]),
    ("ema", &["", "ema = 0.9"]),
    ("accumulate", &["", "accumulate = 2"]),
    (
        "mix",
        &["", "augment = \"on\"\naugmentation.mixup = 0.2", "augment = \"on\"\naugmentation.cutmix = 1.0"],
    ),
    ("end", &["", "average_last = 2", "patience = 1"]),
    ("qat", &["", "=qat"]),
    ("freeze_norms", &["", "freeze_norms = true"]),
    ("classes", &["", "balance_classes = true", "class_weights.red = 3.0"]),
    ("sampling", &["", "balanced_sampling = true"]),
    (
        "schedule",
        &[
            "",
            r#"schedule = "constant""#,
            r#"schedule = "onecycle""#,
            r#"schedule = "step:1,gamma=0.5""#,
            r#"schedule = "plateau:patience=1""#,
        ],
    ),
    (
        "optimizer",
        &[
            "",
            "optimizer = \"sgd\"\nclip_norm = 1.0",
            "optimizer = \"adam\"\nclip_value = 0.1\nrebuild = \"all\"",
        ],
    ),
    ("on_nonfinite", &["", r#"on_nonfinite = "skip""#, r#"on_nonfinite = "rollback""#]),
];

/// Values that a recipe refuses together: the option, its value, the other option, its value.
const EXCLUDED: [(&str, usize, &str, usize); 4] = [
    ("progressive", 1, "cache", 2),
    ("progressive", 2, "cache", 2),
    ("cache", 2, "mix", 1),
    ("cache", 2, "mix", 2),
];

type Row = Vec<usize>;

fn excluded(a: (usize, usize), b: (usize, usize)) -> bool {
    let named = |(option, value): (usize, usize)| (OPTIONS[option].0, value);
    EXCLUDED.iter().any(|&(one, v, other, w)| {
        [(named(a), named(b)), (named(b), named(a))].contains(&((one, v), (other, w)))
    })
}

/// Rows in which each two values of two options stand together, but for those that are excluded.
fn pairwise() -> Vec<Row> {
    let mut open = BTreeSet::new();
    for (a, (_, values)) in OPTIONS.iter().enumerate() {
        for (b, (_, others)) in OPTIONS.iter().enumerate().skip(a + 1) {
            for pair in (0..values.len()).flat_map(|v| (0..others.len()).map(move |w| ((a, v), (b, w)))) {
                open.extend((!excluded(pair.0, pair.1)).then_some(pair));
            }
        }
    }
    let mut rows = Vec::new();
    while let Some(&(first, second)) = open.first() {
        let mut chosen = vec![first, second];
        for option in (0..OPTIONS.len()).filter(|&option| option != first.0 && option != second.0) {
            let values = (0..OPTIONS[option].1.len()).map(|value| (option, value));
            let fitting = values.filter(|&value| !chosen.iter().any(|&other| excluded(value, other)));
            let gain = |value: &(usize, usize)| {
                let pairs =
                    chosen.iter().filter(|&&other| open.contains(&(other.min(*value), other.max(*value))));
                (pairs.count(), usize::MAX - value.1)
            };
            let best = fitting.max_by_key(gain).expect("the first value of an option is never excluded");
            chosen.push(best);
        }
        chosen.sort_unstable();
        open.retain(|(a, b)| !(chosen.contains(a) && chosen.contains(b)));
        rows.push(chosen.into_iter().map(|(_, value)| value).collect());
    }
    rows
}

struct Run<'w> {
    world: &'w World,
    recipe: Recipe,
    data: Dataset,
    executor: Device,
    cache_budget: u64,
}

impl Run<'_> {
    /// Trains into the folder `run`, and where `stop` is given, only as many steps in this session.
    fn train(&self, run: &str, stop_after: Option<u64>, resume: bool) -> bool {
        let (stop, mut steps, run) = (AtomicBool::new(false), 0, self.path(run));
        let mut progress = |event: Event<'_>| {
            if let Event::Step { .. } = event {
                steps += 1;
                stop.store(Some(steps) == stop_after, Ordering::Relaxed);
            }
        };
        let mut control = Control::new(&mut progress, &stop);
        control.resume = resume;
        control.cache.folder = Some(self.world.path("cache"));
        control.cache.budget = self.cache_budget;
        let model = starting_model(&self.recipe, &self.data.classes, &mut |_| ()).unwrap();
        let outcome = train(model, &self.recipe, &self.data, &run, &self.executor, control);
        let outcome = outcome.unwrap_or_else(|e| panic!("{e}\n{}", self.recipe.to_toml()));
        outcome.interrupted
    }

    fn path(&self, run: &str) -> PathBuf {
        self.world.path(run)
    }

    fn quantize(&self, run: &str) {
        let model = ModelSource::Path(self.path(run)).load(&Default::default()).unwrap().model;
        let pictures = QuantizePictures {
            calibration: self.data.train.iter().map(|sample| sample.path.clone()).collect(),
            train: self.data.train.clone(),
            measured: self.data.val.clone(),
        };
        let options = StaticOptions { max_drop: Some(0.5), qat_epochs: 1, ..StaticOptions::default() };
        let int8 = quantize_static(&model, &pictures, &options, &self.executor, &mut |_| {}).unwrap();
        assert!(int8.accuracy.is_some_and(f64::is_finite));
    }
}

#[test]
fn each_option_works_with_each_other_and_an_interruption_changes_no_bit() {
    let world = World::new("options");
    data(&world.path("d"), &CLASSES, 6);
    let executor =
        Device::cpu(CpuOptions { threads: NonZeroUsize::new(2), ..CpuOptions::default() }).unwrap();
    let mut own = own_preprocessing(MODEL, None).unwrap();
    (own.size, own.resize) = (64, 64);
    let rows = pairwise();
    for (number, row) in rows.iter().enumerate() {
        let values: Vec<&str> = row.iter().zip(OPTIONS).map(|(&value, (_, values))| values[value]).collect();
        let lines: Vec<&str> = values.iter().copied().filter(|line| !line.starts_with('=')).collect();
        // `augment` is a line of two options.
        let unique: BTreeSet<&str> = lines.iter().flat_map(|lines| lines.lines()).collect();
        let text: String = unique.iter().map(|line| format!("{line}\n")).collect();
        world.write(
            "recipe.toml",
            format!("model = \"{MODEL}\"\ndata = \"{}\"\n{COMMON}{text}", world.path("d").display()),
        );
        let settings = Settings::read(&world.path("recipe.toml")).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let recipe = Recipe::resolve(settings, &own).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let data = Dataset::open(&recipe.data, &recipe.folder_options()).unwrap();
        let cache_budget = if values.contains(&"=none") { 0 } else { 1 << 30 };
        let run = Run { world: &world, recipe, data, executor: executor.clone(), cache_budget };
        let [whole, parts] = ["whole", "parts"].map(|name| format!("{name}{number}"));
        assert!(!run.train(&whole, None, false), "{text}");
        // In the middle of an epoch where it has several steps.
        if run.train(&parts, Some(3), false) {
            assert!(!run.train(&parts, None, true), "{text}");
        }
        for file in ["best.safetensors", "last.safetensors", "last.state.safetensors"] {
            let [one, other] = [&whole, &parts].map(|name| world.read(&format!("{name}/{file}")));
            assert!(one == other, "{file} of a resumed run differs\n{text}");
        }
        let start = starting_model(&run.recipe, &run.data.classes, &mut |_| ()).unwrap().weights;
        let end = safetensors::read(&world.path(&format!("{whole}/last.safetensors"))).unwrap().weights;
        assert!(
            end != start && end.values().all(|t| t.as_f32().is_none_or(|x| x.iter().all(|x| x.is_finite()))),
            "{text}"
        );
        if values.contains(&"=qat") {
            run.quantize(&whole);
        }
    }
    assert!(rows.len() < 60, "{}", rows.len());
}

#[test]
fn what_excludes_each_other_is_refused() {
    let world = World::new("excluded");
    for (one, v, other, w) in EXCLUDED {
        let value =
            |name: &str, value: usize| OPTIONS.iter().find(|(option, _)| *option == name).unwrap().1[value];
        let unique: BTreeSet<&str> =
            [value(one, v), value(other, w)].iter().flat_map(|lines| lines.lines()).collect();
        let lines: Vec<&str> = unique.into_iter().collect();
        let text = format!("model = \"{MODEL}\"\ndata = \"d\"\n{COMMON}{}", lines.join("\n"));
        world.write("recipe.toml", text);
        let settings = Settings::read(&world.path("recipe.toml")).unwrap();
        let error =
            Recipe::resolve(settings, &own_preprocessing(MODEL, None).unwrap()).unwrap_err().to_string();
        assert!(error.contains("cannot be given together"), "{error}");
    }
}

#[test]
fn the_rows_have_every_pair() {
    let rows = pairwise();
    for (a, (_, values)) in OPTIONS.iter().enumerate() {
        for (b, (_, others)) in OPTIONS.iter().enumerate().skip(a + 1) {
            for (v, w) in (0..values.len()).flat_map(|v| (0..others.len()).map(move |w| (v, w))) {
                let together = rows.iter().any(|row| row[a] == v && row[b] == w);
                assert_eq!(together, !excluded((a, v), (b, w)), "{a}={v} {b}={w}");
            }
        }
    }
}
