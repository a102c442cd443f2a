//! The model that a training run starts from.

use std::path::Path;

use offshoot_formats::checkpoint::match_weights;
use offshoot_graph::{Metadata, Model, Preprocessing, Weights};
use offshoot_models::{
    Architecture, BuildOptions, Head, TransferOptions, expected_parameters, find, transfer,
};
use offshoot_train::{Recipe, Settings, Unfreeze};

use crate::error::{Error, Result};
use crate::source::load_state_dict;

/// The preprocessing that the model `name` was pretrained with.
///
/// # Errors
/// When there is no architecture of that name.
pub fn own_preprocessing(name: &str) -> Result<Preprocessing> {
    Ok(architecture(name)?.preprocessing())
}

/// The settings, with the default recipe where there are pretrained weights and nothing is said of freezing: the new head is
/// trained first, on what the pretrained network sees (a linear probe), and from half of the epochs on the last block with it, at
/// a tenth of the rate. Its batch norms stay as they are, which did better on few pictures in small batches
/// (docs/accuracy.md). Random weights are no reason to freeze anything.
///
/// The head has found its place before the gradients it sends back change pretrained weights (Kumar and others: "Fine-Tuning can
/// Distort Pretrained Features and Underperform Out-of-Distribution", 2022).
pub fn with_default_recipe(settings: Settings) -> Settings {
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
/// `classes`.
///
/// # Errors
/// When the architecture is unknown, or the weights cannot be read or do not fit it.
pub fn starting_model(recipe: &Recipe, classes: &[String]) -> Result<Model> {
    let architecture = architecture(&recipe.model)?;
    let head: Head = recipe.head.parse().map_err(offshoot_models::BuildError::from)?;
    let preprocessing = recipe.preprocessing.clone();
    match &recipe.weights {
        None => random_model(architecture, Some(head), classes, preprocessing, recipe.seed),
        Some(path) => {
            let weights = backbone(architecture, path)?;
            let options =
                TransferOptions { classes: classes.to_vec(), head, preprocessing, seed: recipe.seed };
            transfer(architecture, weights, options)
                .map_err(|source| Error::Transfer { path: path.clone(), source: Box::new(source) })
        }
    }
}

fn architecture(name: &str) -> Result<&'static Architecture> {
    if Path::new(name).extension().is_some_and(|e| e == "onnx") {
        return Err(Error::Input(format!(
            "{name}: training from an ONNX file is not supported yet; name an architecture and its weights: --model NAME --weights FILE"
        )));
    }
    if Path::new(name).extension().is_some_and(|e| e == "pt") {
        return Err(Error::Input(format!(
            "{name}: a training starts from an architecture and weights, which a TorchScript file has: --model NAME --weights {name}"
        )));
    }
    Ok(find(name)?)
}

/// The weights of everything but the head; whatever head the file has is left out.
fn backbone(architecture: &'static Architecture, path: &Path) -> Result<Weights> {
    let weights = load_state_dict(architecture, path)?;
    let graph = architecture.build(&BuildOptions { classes: 1, size: architecture.size, head: None })?;
    let is_head = |name: &String| architecture.is_head(name);
    let expected: Vec<_> =
        expected_parameters(&graph).into_iter().filter(|(name, _)| !is_head(name)).collect();
    let weights = weights.into_iter().filter(|(name, _)| !is_head(name)).collect();
    match_weights(&expected, weights).map_err(|source| Error::Keys { path: path.to_owned(), source })
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
    };
    Ok(Model { graph, weights, metadata })
}
