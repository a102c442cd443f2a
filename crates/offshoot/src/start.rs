//! The model that a training run starts from.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use offshoot_formats::atomic::write_atomically;
use offshoot_formats::checkpoint::match_weights;
use offshoot_formats::{onnx, safetensors};
use offshoot_graph::remedy::{MODEL, WEIGHTS};
use offshoot_graph::text::shown;
use offshoot_graph::{Metadata, Model, Preprocessing, Weights};
use offshoot_models::{
    Architecture, BuildOptions, Head, TransferOptions, expected_parameters, find, graft, transfer,
};
use offshoot_train::run::{BASE_FILE, BASE_HASH_FILE, RECIPE_FILE};
use offshoot_train::{Recipe, Settings, Unfreeze};

use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::source::{
    self, Overrides, StateDict, classifier_of_size, is_graph, load_graph, load_state_dict, run_file,
    unchecked_base, word,
};

/// The preprocessing that the model `name` was pretrained with: that of published `weights`, an architecture's, or that of a
/// file with a graph.
///
/// # Errors
/// When there is no architecture of that name, or a file cannot be read.
pub fn own_preprocessing(name: &str, weights: Option<&Path>) -> Result<Preprocessing> {
    if let Some(path) = graph_file(name) {
        return Ok(load_graph(path, &Overrides::default())?.model.metadata.preprocessing);
    }
    let architecture = architecture(name)?;
    let published = match weights {
        Some(path) => source::published_file(architecture, path)?,
        None => None,
    };
    Ok(source::own_preprocessing(architecture, published))
}

/// The preprocessing that a run with these settings starts from: that of its weights where they are of offshoot, which know it,
/// else [`own_preprocessing`] of its model.
///
/// # Errors
/// As [`own_preprocessing`]; `settings` must name a model.
pub fn starting_preprocessing(settings: &Settings) -> Result<Preprocessing> {
    match settings.weights.as_deref().and_then(metadata_of) {
        Some(metadata) => Ok(metadata.preprocessing),
        None => {
            let weights = settings.weights.as_deref().map(weight_file).transpose()?;
            own_preprocessing(settings.model.as_deref().unwrap_or_default(), weights.as_deref())
        }
    }
}

/// The architecture of weights that are of offshoot; `path` may be a run directory.
pub fn architecture_of(path: &Path) -> Option<String> {
    metadata_of(path)?.architecture
}

/// What the weights of a model of offshoot say about it; `path` may be a run directory. `None` for weights of others, and where they
/// cannot be read, which those find out who read all of them.
fn metadata_of(path: &Path) -> Option<Metadata> {
    let metadata = safetensors::read_metadata(&weight_file(path).ok()?).ok()?;
    serde_json::from_str(metadata.get(safetensors::METADATA_KEY)?).ok()
}

/// The file of weights that `path` names: itself, or that of the best epoch of a run directory.
fn weight_file(path: &Path) -> Result<PathBuf> {
    if path.join(RECIPE_FILE).is_file() { run_file(path) } else { Ok(path.to_owned()) }
}

/// Whether the weights of `recipe` bring a head for `classes`, that of the recipe, which then goes on training. `None` where they are
/// not of offshoot, and have no head of this kind.
pub fn keeps_head(recipe: &Recipe, classes: &[String]) -> Option<bool> {
    let metadata = metadata_of(recipe.weights.as_deref()?)?;
    let kind = |head: &str| Some(head.parse::<Head>().ok()?.without_dropout());
    let same = metadata.head.as_deref().and_then(kind) == kind(&recipe.head);
    Some(same && metadata.classes == classes && metadata.task == recipe.task)
}

/// The ONNX file, `.pt2` or Hugging Face folder that a recipe names instead of an architecture.
fn graph_file(name: &str) -> Option<&Path> {
    let path = Path::new(name);
    let named = path.extension().is_some_and(|e| e == "onnx" || e == "pt2");
    let is_graph = || find(name).is_err() && path.exists() && is_graph(path).unwrap_or(false);
    (named || is_graph()).then_some(path)
}

/// Writes the classifier that a run starts from into its folder, when it is an ONNX file or a `.pt2`. `best.safetensors` and
/// `last.safetensors` of the run get their graph from it.
///
/// # Errors
/// When the file cannot be read or written.
pub fn keep_base(recipe: &Recipe, run: &Path) -> Result<()> {
    let (Some(path), base) = (graph_file(&recipe.model), run.join(BASE_FILE)) else { return Ok(()) };
    if base.exists() {
        return Ok(());
    }
    let model = classifier_of_size(path, recipe.preprocessing.size)?;
    onnx::write(&base, &model, onnx::Options::default())?;
    let line = format!("{}  {BASE_FILE}\n", sha256(&base)?);
    Ok(write_atomically(&run.join(BASE_HASH_FILE), |file| file.write_all(line.as_bytes()))?)
}

/// The recipe of a run that goes on: what started from a file with a graph goes on from the copy in the run's folder.
pub fn resumed(recipe: &Recipe, run: &Path) -> Recipe {
    let base = run.join(BASE_FILE);
    match (graph_file(&recipe.model), base.to_str()) {
        (Some(_), Some(base)) if Path::new(base).exists() => {
            Recipe { model: base.to_owned(), weights: None, ..recipe.clone() }
        }
        _ => Recipe { weights: None, ..recipe.clone() },
    }
}

/// The settings, with the default recipe where there are pretrained weights and nothing is said of freezing: the new head is
/// trained first, on what the pretrained network sees (a linear probe), and from half of the epochs on the last block with it, at
/// a tenth of the rate. Its batch norms stay as they are, which did better on few pictures in small batches
/// (docs/accuracy.md). Random weights are no reason to freeze anything.
///
/// The head has found its place before the gradients it sends back change pretrained weights (Kumar and others: "Fine-Tuning can
/// Distort Pretrained Features and Underperform Out-of-Distribution", 2022).
///
/// Where the weights are those of a model of offshoot, the head is like theirs.
pub fn with_default_recipe(settings: Settings) -> Settings {
    let own_head = || metadata_of(settings.weights.as_deref()?)?.head;
    let head = settings.head.clone().or_else(own_head);
    let settings = Settings { head, ..settings };
    let decided = settings.freeze.is_some() || settings.unfreeze.is_some();
    let architecture = settings.model.as_deref().and_then(|name| find(name).ok());
    let one_epoch = settings.epochs == Some(1);
    match architecture {
        Some(architecture) if !decided && !one_epoch && settings.weights.is_some() => {
            let unfreeze = Some(last_block(architecture));
            Settings { unfreeze, freeze_norms: settings.freeze_norms.or(Some(true)), ..settings }
        }
        _ => settings,
    }
}

/// The last block of an architecture and what comes between it and the head, from half of the epochs on.
fn last_block(architecture: &Architecture) -> Vec<Unfreeze> {
    let modules = architecture.blocks.iter().rev().take(1).chain(architecture.tail);
    let patterns = modules.filter_map(|module| module.parse().ok());
    patterns.map(|pattern| Unfreeze { pattern, at: 0.5, factor: 0.1 }).collect()
}

/// The model that `recipe` starts from: pretrained weights, or random ones where it names none, and a new head for
/// `classes`. `say` is given notes about how the weights were read.
///
/// # Errors
/// When the architecture is unknown, or the weights cannot be read or do not fit it.
pub fn starting_model(recipe: &Recipe, classes: &[String], say: &mut dyn FnMut(&str)) -> Result<Model> {
    let mut model = untold_model(recipe, classes, say)?;
    model.metadata.task = recipe.task;
    Ok(model)
}

/// The same, which does not know its task yet.
fn untold_model(recipe: &Recipe, classes: &[String], say: &mut dyn FnMut(&str)) -> Result<Model> {
    if let Some(path) = graph_file(&recipe.model) {
        unchecked_base(path).iter().for_each(|text| say(text));
        return grafted_model(path, recipe, classes);
    }
    let architecture = architecture(&recipe.model)?;
    let head: Head = recipe.head.parse().map_err(offshoot_models::BuildError::from)?;
    let preprocessing = recipe.preprocessing.clone();
    match &recipe.weights {
        None => random_model(architecture, Some(head), classes, preprocessing, recipe.seed),
        Some(path) => {
            let path = weight_file(path)?;
            let (weights, own_head) = backbone_and_head(architecture, &path, say)?;
            let options =
                TransferOptions { classes: classes.to_vec(), head, preprocessing, seed: recipe.seed };
            let mut model = transfer(architecture, weights, options)
                .map_err(|source| Error::Transfer { path, source: Box::new(source) })?;
            if keeps_head(recipe, classes) == Some(true) {
                keep_head(&mut model, own_head);
            }
            Ok(model)
        }
    }
}

/// The classifier of an ONNX file or a `.pt2` with a new head.
fn grafted_model(path: &Path, recipe: &Recipe, classes: &[String]) -> Result<Model> {
    if recipe.weights.is_some() {
        return Err(Error::advice(format_args!(
            "{}: the file has its own weights; leave {WEIGHTS} out",
            shown(path)
        )));
    }
    let head: Head = recipe.head.parse().map_err(offshoot_models::BuildError::from)?;
    let preprocessing = recipe.preprocessing.clone();
    let base = classifier_of_size(path, preprocessing.size)?;
    let options = TransferOptions { classes: classes.to_vec(), head, preprocessing, seed: recipe.seed };
    graft(&base.graph, &base.weights, options)
        .map_err(|source| Error::Graft { path: path.to_owned(), source: Box::new(source) })
}

fn architecture(name: &str) -> Result<&'static Architecture> {
    if Path::new(name).extension().is_some_and(|e| e == "pt") {
        return Err(Error::advice(format_args!(
            "{name}: a training starts from an architecture and weights, which a TorchScript file has: {MODEL} NAME {WEIGHTS} {}",
            word(name.as_ref())
        )));
    }
    Ok(find(name)?)
}

/// Puts the weights `head` in place of those that `model` has under the same names, where they have the same shapes.
fn keep_head(model: &mut Model, head: Weights) {
    for (name, tensor) in head {
        if let Some(own) = model.weights.get_mut(&name).filter(|own| own.shape() == tensor.shape()) {
            *own = tensor;
        }
    }
}

/// The weights of everything but the head, checked, and those of the head that the file has.
fn backbone_and_head(
    architecture: &'static Architecture,
    path: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<(Weights, Weights)> {
    let StateDict { mut weights, warnings } = load_state_dict(architecture, path)?;
    warnings.iter().for_each(|warning| say(warning));
    architecture.fit_to_size(architecture.size, &mut weights);
    let graph = architecture.build(&BuildOptions { classes: 1, size: architecture.size, head: None })?;
    let is_head = |name: &String| architecture.is_head(name);
    let expected: Vec<_> =
        expected_parameters(&graph).into_iter().filter(|(name, _)| !is_head(name)).collect();
    let (head, weights) = weights.into_iter().partition(|(name, _)| is_head(name));
    let backbone = match_weights(&expected, weights);
    Ok((backbone.map_err(|source| Error::Keys { path: path.to_owned(), source })?, head))
}

/// A model of random weights; without a new head it keeps the architecture's own.
pub(crate) fn random_model(
    architecture: &'static Architecture,
    head: Option<Head>,
    classes: &[String],
    preprocessing: Preprocessing,
    seed: u64,
) -> Result<Model> {
    let size = preprocessing.size;
    let graph = architecture.build(&BuildOptions { classes: classes.len(), size, head })?;
    let names: Vec<String> = expected_parameters(&graph).into_iter().map(|(name, _)| name).collect();
    let weights = architecture
        .init_parameters(&graph, names.iter().map(String::as_str), seed)
        .map_err(|e| Error::Input(e.to_string()))?;
    let metadata = Metadata {
        architecture: Some(architecture.name.to_string()),
        head: head.map(|h| h.to_string()),
        classes: classes.to_vec(),
        preprocessing,
        ..Metadata::default()
    };
    Ok(Model { graph, weights, metadata })
}
