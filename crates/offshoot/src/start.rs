//! The model that a training run starts from.

use std::path::Path;

use offshoot_formats::checkpoint::match_weights;
use offshoot_graph::{Metadata, Model, Preprocessing, Weights};
use offshoot_models::{
    Architecture, BuildOptions, Head, TransferOptions, expected_parameters, find, transfer,
};
use offshoot_train::Recipe;

use crate::error::{Error, Result};
use crate::source::load_state_dict;

/// The preprocessing that the model `name` was pretrained with.
///
/// # Errors
/// When there is no architecture of that name.
pub fn own_preprocessing(name: &str) -> Result<Preprocessing> {
    Ok(architecture(name)?.preprocessing())
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
