//! Training, told to a Python function as it goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use offshoot::jobs::{TrainJob, shared_cache};
use offshoot::{Event, Settings};
use offshoot_train::recipe::{AugmentationSettings, PreprocessingSettings};
use offshoot_train::settings::{Form, SETTINGS, Setting, Value};
use offshoot_train::{CacheOptions, ranges};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pythonize::{depythonize, pythonize};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::device::device_with;
use crate::jobs::options;
use crate::listener::Heard;

/// How often a signal is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Ends a run from another thread.
#[pyclass(frozen)]
#[derive(Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

#[pymethods]
impl Stop {
    #[new]
    fn new() -> Stop {
        Stop::default()
    }

    /// Ends the run after the current step.
    fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    out: PathBuf,
    recipe: Option<PathBuf>,
    resume: bool,
    checkpoint_every: u64,
    cache_dir: Option<PathBuf>,
    cache_budget: u64,
    /// Whether every step is told.
    steps: bool,
}

/// Every setting of training: a dictionary with its name, help, default in words, and group. Those of the tables `augmentation` and
/// `preprocessing` have a `table`.
#[pyfunction]
pub(crate) fn settings(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let described = |setting: &Setting| {
        json!({
            "name": setting.name, "help": setting.help, "default": setting.default, "off": setting.off,
            "group": setting.group.to_string(), "range": ranges::in_words(setting.name), "table": null,
        })
    };
    let mut all: Vec<Json> = SETTINGS.iter().map(described).collect();
    let tables = [
        ("augmentation", json!(AugmentationSettings::default())),
        ("preprocessing", json!(PreprocessingSettings::default())),
    ];
    for (table, fields) in &tables {
        for name in fields.as_object().into_iter().flat_map(|fields| fields.keys()) {
            let range = ranges::in_words(&format!("{table}.{name}"));
            all.push(json!({"name": name, "table": table, "range": range}));
        }
    }
    Ok(pythonize(py, &all)?)
}

/// Trains, and tells `tell(kind, value)` what happens.
#[pyfunction]
pub(crate) fn train<'py>(
    py: Python<'py>,
    given: &Bound<'py, PyDict>,
    how: &Bound<'py, PyAny>,
    tell: Py<PyAny>,
    stop: &Stop,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = of_dict(given)?;
    let how: Options = options(how)?;
    let threads = settings.threads;
    let job = TrainJob {
        recipe_file: how.recipe,
        resume: how.resume,
        checkpoint_every: Duration::from_secs(how.checkpoint_every),
        cache: CacheOptions { folder: how.cache_dir.or_else(shared_cache), budget: how.cache_budget },
        ..TrainJob::new(settings, how.out)
    };
    let stop = Arc::clone(&stop.0);
    let mut heard = Heard::stopping(tell.clone_ref(py), Arc::clone(&stop));
    let watching = Heard::stopping(tell, Arc::clone(&stop));
    let mut watcher = Watcher { heard: watching, steps: how.steps, looked: Instant::now() };
    let outcome = py.detach(|| {
        let recipe = job.recipe()?;
        let device = device_with(threads)?;
        job.run(&recipe, &device, &mut heard, &mut |event| watcher.hear(&event), &|| &*stop)
    });
    // What ended the run comes before what it ended with.
    watcher.heard.end(py, Ok(()))?;
    let outcome = heard.end(py, outcome)?;
    py.check_signals()?;
    Ok(pythonize(py, &(outcome.result, outcome.interrupted))?)
}

/// Tells what happens in a run.
struct Watcher {
    heard: Heard,
    steps: bool,
    looked: Instant,
}

impl Watcher {
    fn hear(&mut self, event: &Event<'_>) {
        match told(event, self.steps) {
            Some((kind, value)) => self.heard.tell(kind, &value),
            None if self.looked.elapsed() < LOOK => return,
            None => self.heard.look(),
        }
        self.looked = Instant::now();
    }
}

/// An event as plain values; `None` where it is not told.
fn told(event: &Event<'_>, steps: bool) -> Option<(&'static str, Json)> {
    Some(match event {
        Event::Start {
            trainable_parameters,
            frozen_parameters,
            train_images,
            val_images,
            epochs,
            steps,
            resumed,
        } => (
            "start",
            json!({
                "trainable_parameters": trainable_parameters, "frozen_parameters": frozen_parameters,
                "train_images": train_images, "val_images": val_images, "epochs": epochs, "steps": steps,
                "resumed_epochs": resumed.map(|(epochs, _)| epochs),
            }),
        ),
        Event::Step { epoch, step, steps: all, loss, images_per_second, remaining } if steps => (
            "step",
            json!({
                "epoch": epoch, "step": step, "steps": all, "loss": loss,
                "images_per_second": images_per_second, "remaining": remaining.as_secs_f64(),
            }),
        ),
        Event::Epoch(row) => ("epoch", json!(row)),
        Event::Average { val_accuracy, best } => {
            ("note", json!(format!("average of the last epochs: {}", average(*val_accuracy, *best))))
        }
        Event::Ended => ("note", json!("stopped early: the validation accuracy has not improved")),
        Event::Skipped(picture) => ("warning", json!(format!("skipped {picture}"))),
        Event::Warning(text) => ("warning", json!(text)),
        Event::Notice(text) => ("note", json!(text)),
        _ => return None,
    })
}

fn average(val_accuracy: Option<f64>, best: bool) -> String {
    let accuracy = val_accuracy.map_or("not validated".into(), |a| format!("validation accuracy {a:.4}"));
    if best { format!("{accuracy}, kept as the best") } else { accuracy }
}

/// Settings from keyword arguments. A text is read as the command reads it.
fn of_dict(given: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let mut values = Vec::new();
    for (name, value) in given {
        let name: String = name.extract()?;
        let setting =
            Setting::named(&name).ok_or_else(|| PyTypeError::new_err(format!("{name} is no setting")))?;
        let of_setting = values_of(setting, &value)?;
        // One by one, so that the message names it.
        let checked = Settings::of_values(of_setting.iter().map(|value| (setting, value.clone())));
        checked.map_err(|error| {
            let text = error.to_string();
            let problem = text.split("; give it on the command line").next().unwrap_or_default();
            PyTypeError::new_err(format!("{name}: {problem}"))
        })?;
        values.extend(of_setting.into_iter().map(|value| (setting, value)));
    }
    Settings::of_values(values).map_err(|error| PyTypeError::new_err(error.to_string()))
}

/// The values that one argument gives a setting: several for a list.
fn values_of(setting: &Setting, given: &Bound<'_, PyAny>) -> PyResult<Vec<Value>> {
    let many = matches!(setting.form, Form::Many(_)) && !given.is_instance_of::<PyString>();
    match many {
        true => given.try_iter()?.map(|item| value_of(setting, &item?)).collect(),
        false => Ok(vec![value_of(setting, given)?]),
    }
}

fn value_of(setting: &Setting, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    let name = setting.name;
    let text = given.extract::<String>().ok().filter(|_| !matches!(setting.form, Form::Elsewhere(_)));
    match text {
        Some(text) => setting
            .parse(&text)
            .map_err(|problem| PyValueError::new_err(format!("{name}: {text}: {problem}"))),
        None => depythonize(given).map_err(|error| PyTypeError::new_err(format!("{name}: {error}"))),
    }
}
