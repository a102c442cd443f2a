//! Folders of the Hugging Face Hub: `config.json` and `model.safetensors`, of transformers or of timm.

mod pictures;

use std::path::{Path, PathBuf};

use offshoot_files::{Kind, read_text};
use offshoot_formats::check_decision;
use offshoot_formats::checkpoint::{load_weights, match_weights};
use offshoot_graph::model::OUTPUT;
use offshoot_graph::passes::{rescaled_layer, scale_outputs};
use offshoot_graph::remedy::{MODEL, WEIGHTS};
use offshoot_graph::text::{quoted, shown};
use offshoot_graph::{Metadata, Model, Preprocessing, Task};
use offshoot_models::{
    BuildOptions, canonical_keys, expected_parameters, find, original_classes, pretrained, transformers,
    transformers_size, unique,
};
use serde_json::{Map, Value};

use super::{Loaded, Overrides};
use crate::error::{Error, Result};

/// What says what the model is.
pub(crate) const CONFIG: &str = "config.json";
/// The weights.
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// What says from which probability on a picture has each class; transformers has no name for that.
pub(crate) const THRESHOLDS: &str = "offshoot_thresholds";
/// What logits are divided by before their softmax is taken.
pub(crate) const TEMPERATURE: &str = "offshoot_temperature";
/// Where numbers are predicted, what was minimized and the scale of each target.
pub(crate) const REGRESSION: &str = "offshoot_regression";
/// Which pictures are of none of the classes.
pub(crate) const REJECTION: &str = "offshoot_rejection";
/// How transformers prepares pictures.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// Whether `path` is a folder with a `config.json`.
pub(crate) fn is_folder(path: &Path) -> bool {
    path.is_dir() && path.join(CONFIG).is_file()
}

/// The file of the weights.
pub(crate) fn weight_file(folder: &Path) -> PathBuf {
    folder.join(WEIGHTS_FILE)
}

/// Reads the classifier in a folder.
///
/// # Errors
/// When a file is missing, cannot be read, or says something that is not built.
pub(crate) fn load(folder: &Path, overrides: &Overrides) -> Result<Loaded> {
    let path = folder.join(CONFIG);
    let config = object(&path)?;
    if !weight_file(folder).is_file() {
        return Err(Error::advice(format_args!(
            "{}: there is no {WEIGHTS_FILE} beside it; save the model with `save_pretrained` in one file, or give \
             {MODEL} NAME {WEIGHTS} FILE",
            shown(&path)
        )));
    }
    match (config.get("architecture"), config.get("model_type").and_then(Value::as_str)) {
        (Some(Value::String(name)), None | Some("timm_wrapper")) => of_timm(folder, &config, name, overrides),
        _ => of_transformers(folder, &config, overrides),
    }
}

/// The object in a file of settings.
fn object(path: &Path) -> Result<Map<String, Value>> {
    let io = |source| Error::Io { path: path.to_owned(), action: "read", source };
    let text = read_text(path, Kind::MANIFEST).map_err(io)?;
    serde_json::from_str(&text).map_err(|e| Error::Input(format!("{}: no JSON object: {e}", shown(path))))
}

/// An error about the settings in `path`.
fn refused(path: &Path, reason: &str) -> Error {
    Error::Input(format!("{}: {reason}", shown(path)))
}

fn of_transformers(folder: &Path, config: &Map<String, Value>, overrides: &Overrides) -> Result<Loaded> {
    let path = folder.join(CONFIG);
    let mut warnings = Vec::new();
    let side = transformers_size(config);
    let (own, assumed_metadata) = match folder.join(PREPROCESSOR) {
        settings if settings.is_file() => {
            let found = pictures::of_transformers(&object(&settings)?);
            let (own, note) = found.map_err(|reason| refused(&settings, &reason))?;
            warnings.extend(note.map(|note| format!("{}: {note}", shown(&settings))));
            (own, false)
        }
        missing => {
            let size = side.unwrap_or(Preprocessing::default().size);
            let own = Preprocessing { size, resize: size, ..Preprocessing::default() };
            warnings.push(format!("{}: there is none: pictures are prepared as {own}", shown(&missing)));
            (own, true)
        }
    };
    let preprocessing = overrides.apply(&own);
    let loaded = load_weights(&weight_file(folder))?.into_f32();
    let found = transformers(config, loaded.weights, preprocessing.size)
        .map_err(|error| refused(&path, &error.to_string()))?;
    if !found.unused.is_empty() {
        let shown_keys: Vec<&str> = found.unused.iter().take(4).map(String::as_str).collect();
        warnings.push(format!(
            "{}: {} tensors are left out: {}",
            shown(folder.join(WEIGHTS_FILE)),
            found.unused.len(),
            quoted(&shown_keys.join(", "))
        ));
    }
    let architecture = found.architecture.map(str::to_owned);
    let metadata = Metadata { architecture, classes: found.classes, preprocessing, ..Metadata::default() };
    let metadata = with_task(metadata, config).map_err(|reason| refused(&path, &reason))?;
    let model = Model { graph: found.graph, weights: found.weights, metadata };
    Ok(Loaded { model, warnings, assumed_metadata })
}

fn of_timm(folder: &Path, config: &Map<String, Value>, name: &str, overrides: &Overrides) -> Result<Loaded> {
    let path = folder.join(CONFIG);
    let architecture = find(timms(name))?;
    check_arguments(config).map_err(|reason| refused(&path, &reason))?;
    let (own, note) = pictures::of_timm(config).map_err(|reason| refused(&path, &reason))?;
    let preprocessing = overrides.apply(&own);
    let file = weight_file(folder);
    let loaded = load_weights(&file)?.into_f32();
    let mut weights = canonical_keys(architecture, loaded.weights).weights;
    architecture.fit_to_size(preprocessing.size, &mut weights);
    let transfer = |source| Error::Transfer { path: file.clone(), source: Box::new(source) };
    let classes = original_classes(architecture, &weights).map_err(transfer)?;
    let options = BuildOptions { classes, size: preprocessing.size, head: None };
    let graph = architecture.build(&options)?;
    let matched = match_weights(&expected_parameters(&graph), weights)
        .map_err(|source| Error::Keys { path: file.clone(), source })?;
    let mut model = pretrained(architecture, matched, preprocessing).map_err(transfer)?;
    if let Some(names) = labels(config, classes).map_err(|reason| refused(&path, &reason))? {
        model.metadata.classes = names;
    }
    model.metadata = with_task(model.metadata, config).map_err(|reason| refused(&path, &reason))?;
    let model = with_scales(model).map_err(|reason| refused(&path, &reason))?;
    let warnings = note.map(|note| format!("{}: {note}", shown(&path))).into_iter().collect();
    Ok(Loaded { model, warnings, assumed_metadata: false })
}

/// What timm's model called `name` is called here: of the two kinds of EfficientNet-Lite, its name without a prefix is the one
/// that pads all sides alike.
fn timms(name: &str) -> &str {
    match offshoot_models::architectures().find(|a| a.timm == Some(name)) {
        Some(architecture) => architecture.name,
        None => name,
    }
}

/// Refuses arguments of `timm.create_model` that change the network.
fn check_arguments(config: &Map<String, Value>) -> std::result::Result<(), String> {
    let Some(Value::Object(arguments)) = config.get("model_args") else { return Ok(()) };
    match arguments.iter().find(|(key, _)| !["img_size", "num_classes"].contains(&key.as_str())) {
        None => Ok(()),
        Some((key, value)) => {
            let (key, value) = (quoted(key), value.to_string());
            let value = quoted(&value);
            Err(format!(
                "`model_args` has `{key}`: {value}, which is not built: export the model to ONNX instead"
            ))
        }
    }
}

/// The metadata with what `problem_type` says of the logits, and the thresholds that offshoot has put beside it.
fn with_task(metadata: Metadata, config: &Map<String, Value>) -> std::result::Result<Metadata, String> {
    let task = match config.get("problem_type").and_then(Value::as_str) {
        Some("multi_label_classification") => Task::Multi,
        Some("regression") => Task::Regression,
        _ => Task::Single,
    };
    let thresholds = config.get(THRESHOLDS).filter(|_| task == Task::Multi);
    let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    let usable = |found: &Vec<f64>| {
        found.len() == metadata.classes.len() && found.iter().all(|t| (0.0..=1.0).contains(t))
    };
    match thresholds.map(|value| numbers(value).filter(usable)) {
        None if task == Task::Regression => with_regression(Metadata { task, ..metadata }, config),
        None => with_decision(Metadata { task, ..metadata }, config),
        Some(Some(thresholds)) => Ok(Metadata { task, thresholds, ..metadata }),
        Some(None) => Err(format!("`{THRESHOLDS}` must be a number from 0 to 1 for each class")),
    }
}

/// The model with the scales that offshoot has put beside it as its last operators: in the file, the last layer has them.
fn with_scales(model: Model) -> std::result::Result<Model, String> {
    let Some(regression) = &model.metadata.regression else { return Ok(model) };
    let factors: Vec<f64> = regression.scales.iter().map(|scale| 1.0 / scale.deviation).collect();
    let shifts: Vec<f64> = regression.scales.iter().map(|scale| -scale.mean / scale.deviation).collect();
    let output = model.graph.output(OUTPUT);
    let weights = output.and_then(|id| rescaled_layer(&model.graph, &model.weights, id, (&factors, &shifts)));
    let weights = weights
        .ok_or_else(|| format!("`{REGRESSION}`: the network has no last layer that scales targets"))?;
    let graph = scale_outputs(&model.graph, &regression.scales).map_err(|error| error.to_string())?;
    Ok(Model { graph, weights, ..model })
}

/// The metadata with the temperature and the reject threshold that offshoot has put beside it.
fn with_decision(metadata: Metadata, config: &Map<String, Value>) -> std::result::Result<Metadata, String> {
    if !metadata.task.is_single() {
        return Ok(metadata);
    }
    let wrong = |key: &str, error: &dyn std::fmt::Display| format!("`{key}`: {error}");
    let temperature = config.get(TEMPERATURE).cloned().map(serde_json::from_value);
    let temperature = temperature.transpose().map_err(|error| wrong(TEMPERATURE, &error))?;
    let rejection = config.get(REJECTION).cloned().map(serde_json::from_value);
    let rejection = rejection.transpose().map_err(|error| wrong(REJECTION, &error))?;
    let metadata = Metadata { temperature, rejection, ..metadata };
    check_decision(&metadata).map_err(str::to_owned)?;
    Ok(metadata)
}

/// The metadata with the loss and the scales that offshoot has put beside it.
fn with_regression(metadata: Metadata, config: &Map<String, Value>) -> std::result::Result<Metadata, String> {
    let regression = config.get(REGRESSION).cloned().map(serde_json::from_value);
    let regression = regression.transpose().map_err(|error| format!("`{REGRESSION}`: {error}"))?;
    let metadata = Metadata { regression, ..metadata };
    check_decision(&metadata).map_err(str::to_owned)?;
    Ok(metadata)
}

/// The names of the classes in timm's `label_names`, or in its `pretrained_cfg`.
fn labels(config: &Map<String, Value>, count: usize) -> std::result::Result<Option<Vec<String>>, String> {
    let inside = config.get("pretrained_cfg").and_then(|inner| inner.get("label_names"));
    let Some(names) = config.get("label_names").or(inside).filter(|names| !names.is_null()) else {
        return Ok(None);
    };
    let names = names.as_array().map(|names| names.iter().map(|n| n.as_str().map(str::to_owned)).collect());
    match names {
        Some(Some(names)) if Vec::len(&names) == count => Ok(Some(unique(names))),
        _ => Err(format!("`label_names` must be {count} names, as many as the classifier has rows")),
    }
}
