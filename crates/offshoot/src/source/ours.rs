//! Weights that offshoot wrote, and the classifier that a run keeps beside them.

use std::path::Path;

use offshoot_files::{Kind, read_text};
use offshoot_formats::check_decision;
use offshoot_formats::safetensors::{self, METADATA_KEY};
use offshoot_graph::remedy::{MODEL, OUT, WEIGHTS};
use offshoot_graph::text::shown;
use offshoot_graph::{DType, Graph, Metadata, Model, passes};
use offshoot_infer::files::{BASE_FILE, BASE_HASH_FILE, BEST_FILE, LAST_FILE, RECIPE_FILE};
use offshoot_models::{BuildError, Head, described, find, grafted};

use super::{Loaded, Overrides, load_graph, matched, word};
use crate::error::{Error, Result};
use crate::hash::sha256;

/// Reads a `.safetensors` that offshoot wrote.
pub(super) fn load_ours(path: &Path, overrides: &Overrides) -> Result<Loaded> {
    let file = safetensors::read(path)?;
    let mut warnings: Vec<String> =
        file.unchecked().map(|text| format!("{}: {text}", shown(path))).into_iter().collect();
    let text = file.metadata.get(METADATA_KEY).ok_or_else(|| {
        Error::advice(format_args!(
            "{}: weights without offshoot's metadata; name the architecture: {MODEL} NAME {WEIGHTS} {}",
            shown(path),
            word(path)
        ))
    })?;
    let mut metadata: Metadata = serde_json::from_str(text).map_err(|e| {
        Error::Input(format!("{}: the metadata under `{METADATA_KEY}` cannot be read: {e}", shown(path)))
    })?;
    check_decision(&metadata).map_err(|what| {
        Error::Input(format!("{}: the metadata under `{METADATA_KEY}`: {what}", shown(path)))
    })?;
    check_run(path, &metadata)?;
    metadata.preprocessing = overrides.apply(&metadata.preprocessing);
    let transfer = |source| Error::Transfer { path: path.to_owned(), source: Box::new(source) };
    let mut weights = file.weights;
    let graph = match &metadata.architecture {
        None => grafted_graph(path, &metadata, &mut warnings)?,
        Some(name) => {
            find(name)?.fit_to_size(metadata.preprocessing.size, &mut weights);
            described(&metadata).map_err(transfer)?
        }
    };
    let graph = match &metadata.regression {
        Some(regression) => passes::scale_outputs(&graph, &regression.scales)?,
        None => graph,
    };
    let bytes = |name: &str| weights.get(name).is_some_and(|tensor| tensor.dtype() == DType::I8);
    let graph = passes::dynamic_int8_graph(&graph, bytes)?;
    let weights = matched(path, &graph, weights)?;
    let model = Model { graph, weights, metadata };
    Ok(Loaded { model, warnings, assumed_metadata: false })
}

/// Checks that the best model of a run is one of the run that the last one beside it is of: of the same classes, architecture and
/// head.
fn check_run(path: &Path, best: &Metadata) -> Result<()> {
    let last = path.with_file_name(LAST_FILE);
    if !path.ends_with(BEST_FILE) || !path.with_file_name(RECIPE_FILE).exists() || !last.exists() {
        return Ok(());
    }
    // Whether the last one is whole is for those to say who read it.
    let text = safetensors::read_metadata(&last).ok().and_then(|mut all| all.remove(METADATA_KEY));
    let Some(last) = text.and_then(|text| serde_json::from_str::<Metadata>(&text).ok()) else {
        return Ok(());
    };
    let what = match () {
        () if best.classes != last.classes => "other classes",
        () if best.architecture != last.architecture => "another architecture",
        () if best.head != last.head => "another head",
        () if best.task != last.task => "another task",
        () => return Ok(()),
    };
    Err(Error::Input(format!(
        "{}: it is not of the run in this folder: it has {what} than {LAST_FILE} beside it; put back the run's own file, or \
         move this one to a folder of its own",
        shown(path)
    )))
}

/// The graph of a run that started from an ONNX file or a `.pt2`, which is kept beside its weights.
fn grafted_graph(path: &Path, metadata: &Metadata, warnings: &mut Vec<String>) -> Result<Graph> {
    let base = path.with_file_name(BASE_FILE);
    if !base.exists() {
        return Err(Error::Input(format!(
            "{}: these weights belong to a graph from an ONNX file, which is not beside them as {BASE_FILE}; give the run's folder",
            shown(path)
        )));
    }
    let head: Head = metadata.head.as_deref().unwrap_or("linear").parse().map_err(BuildError::from)?;
    let model = classifier_of_size(&base, metadata.preprocessing.size)?;
    warnings.extend(unchecked_base(&base));
    let (graph, _) = grafted(&model.graph, head, metadata.classes.len())
        .map_err(|source| Error::Graft { path: base, source: Box::new(source) })?;
    Ok(graph)
}

/// What to say of the classifier that a run keeps where no hash stands beside it.
pub(crate) fn unchecked_base(base: &Path) -> Option<String> {
    let missing = base.ends_with(BASE_FILE) && !base.with_file_name(BASE_HASH_FILE).exists();
    missing.then(|| {
        format!(
            "{}: there is no {BASE_HASH_FILE} beside it, so that nobody knows whether it is as it was written: runs from before there \
             was one have none",
            shown(base)
        )
    })
}

/// Checks the classifier that a run keeps against the hash that stands beside it; runs from before have none.
fn check_base(base: &Path) -> Result<()> {
    let hash = base.with_file_name(BASE_HASH_FILE);
    if !base.ends_with(BASE_FILE) || !hash.exists() {
        return Ok(());
    }
    let text = read_text(&hash, Kind::MARK).map_err(|source| {
        let path = hash.clone();
        Error::Io { path, action: "read", source }
    })?;
    match text.split_whitespace().next() == Some(&sha256(base)?) {
        true => Ok(()),
        false => Err(Error::advice(format_args!(
            "{}: the file is damaged: it does not have the SHA-256 in {BASE_HASH_FILE} beside it; put back a copy that is whole, or \
             train again in another folder with {OUT}",
            shown(base)
        ))),
    }
}

/// The classifier in an ONNX file or a `.pt2`, for pictures of `size` pixels a side.
pub(crate) fn classifier_of_size(path: &Path, size: usize) -> Result<Model> {
    check_base(path)?;
    Ok(load_graph(path, &Overrides { size: Some(size), ..Overrides::default() })?.model)
}
