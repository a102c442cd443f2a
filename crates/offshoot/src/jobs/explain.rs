//! Explanations of predictions, as pictures in a folder.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use offshoot_data::{Picture, PictureError, Transform, read_picture};
use offshoot_files::stem;
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::text::{escaped, path_text, shown};
use offshoot_graph::{Executor, Metadata, Model};
use offshoot_train::report::{
    ExplainedPicture, Explanations, PREDICTIONS_FILE, pictures_to_explain, thumbnail_transform,
};
use serde::Serialize;

use super::writable_folder;
use crate::error::{Error, Result};
use crate::explain::{ExplainOptions, Explainer, Explanation, heatmap_picture, overlay};
use crate::source::{ModelSource, Overrides};
use crate::staging::MadeFolders;

/// Classes that a message names.
const NAMED: usize = 10;

/// Of the pictures in a report.
const QUALITY: u8 = 80;

/// What a prediction rests on, and the pictures that show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// The picture.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// The class that is explained.
    pub class: String,
    /// Its place among the outputs.
    pub index: usize,
    /// Its probability.
    pub probability: f64,
    /// The method: `gradcam`, `layercam`, `attention` or `occlusion`.
    pub method: String,
    /// Of Grad-CAM and LayerCAM, the layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// A PNG: the picture as the network sees it, with the map over it in colors.
    #[serde(serialize_with = "crate::lossy")]
    pub overlay: PathBuf,
    /// A PNG: the map in gray levels, as large as the network's input.
    #[serde(serialize_with = "crate::lossy")]
    pub heatmap: PathBuf,
    /// The map's own numbers, row by row.
    pub grid: Vec<Vec<f32>>,
}

/// The place of the class of this name among the outputs.
///
/// # Errors
/// When the model has no class of this name.
pub fn class_named(metadata: &Metadata, name: &str) -> Result<usize> {
    metadata.classes.iter().position(|class| class == name).ok_or_else(|| {
        let known: Vec<_> = metadata.classes.iter().take(NAMED).map(|class| escaped(class)).collect();
        let more = if metadata.classes.len() > NAMED { ", ..." } else { "" };
        let text =
            format!("{} is no class of the model, which has {}{more}", escaped(name), known.join(", "));
        Error::Option { option: "class", text }
    })
}

/// Explains what `model` predicts for each of the pictures at `paths`, writes two PNGs for each into the folder `out`
/// (`NAME.overlay.png` and `NAME.heatmap.png` for the picture `NAME.jpg`; where several have a name, with a number behind it) and hands it to
/// `found`, in order. Returns the pictures that could not be decoded.
///
/// # Errors
/// When the method, the class or the layer does not fit the model, the network gives NaN or infinities, a file cannot be written, or
/// `found` fails.
pub fn explain(
    model: &Model,
    paths: &[PathBuf],
    out: &Path,
    options: &ExplainOptions,
    executor: &dyn Executor,
    mut found: impl FnMut(Explained) -> Result<()>,
) -> Result<Vec<PictureError>> {
    writable_folder(out)?;
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let mut explainer = Explainer::new(model, options, executor)?;
    let (mut names, mut skipped) = (HashSet::new(), Vec::new());
    let _made = MadeFolders::new(out)?;
    for path in paths {
        let name = unused(path, &mut names);
        let picture = match read_picture(path, &transform.decode_options()) {
            Ok(picture) => picture,
            Err(error) => {
                skipped.push(error);
                continue;
            }
        };
        let pixels = transform.evaluate(&picture);
        let input = normalized(&transform, &pixels);
        let named = |error| match error {
            Error::Network(error) => Error::Input(format!("{}: {error}", shown(path))),
            other => other,
        };
        let explanation = explainer.explain(&input).map_err(named)?;
        let size = model.metadata.preprocessing.size;
        let file = |ending: &str, picture: &Picture| {
            let file = out.join(format!("{name}.{ending}.png"));
            let bytes = picture.to_png().map_err(Error::Input)?;
            write_atomically(&file, |to| to.write_all(&bytes))?;
            Ok::<_, Error>(file)
        };
        let overlay = file("overlay", &overlay(&pixels, &explanation.map, size))?;
        let heatmap = file("heatmap", &heatmap_picture(&explanation.map, size))?;
        found(explained(path, &model.metadata, explanation, [overlay, heatmap]))?;
    }
    Ok(skipped)
}

/// Explains the predictions of the best model of the run directory `run` for the pictures that its report shows, and writes them there as
/// `explanations.json`. Pictures that cannot be read any more are left out. Returns how many are in it.
///
/// # Errors
/// When the run has no predictions or no model, or the network gives NaN or infinities.
pub fn explain_run(run: &Path, executor: &dyn Executor) -> Result<usize> {
    let file = run.join(PREDICTIONS_FILE);
    let wrong = |text: String| Error::Input(format!("{}: {text}", shown(&file)));
    let pictures = pictures_to_explain(run).map_err(wrong)?;
    if pictures.is_empty() {
        return Err(wrong("the run has no predictions of validation pictures to explain".into()));
    }
    let model = ModelSource::Path(run.to_owned()).load(&Overrides::default())?.model;
    let preprocessing = &model.metadata.preprocessing;
    let transform = Transform::new(preprocessing)?;
    let mut explainer = Explainer::new(&model, &ExplainOptions::default(), executor)?;
    let (small, mut found) = (thumbnail_transform(preprocessing), Vec::new());
    for (path, class) in pictures {
        let (Ok(picture), Some(small)) = (read_picture(&path, &transform.decode_options()), &small) else {
            continue;
        };
        let input = normalized(&transform, &transform.evaluate(&picture));
        let map = explainer.explain_class(&input, Some(class))?.map;
        let over = overlay(&small.evaluate(&picture), &map, small.preprocessing().size);
        found.push(ExplainedPicture::new(&path, &over.to_jpeg(QUALITY).map_err(Error::Input)?));
    }
    let count = found.len();
    let unread = |source| Error::Io { path: file.clone(), action: "read", source };
    Explanations::new(run, explainer.method().to_string(), found).map_err(unread)?.write(run)?;
    Ok(count)
}

/// The network's input of pixels that are as large as it.
fn normalized(transform: &Transform, pixels: &[u8]) -> Vec<f32> {
    let mut input = vec![0.0; transform.input_len()];
    transform.normalize(pixels, &mut input);
    input
}

/// A name for the files of the picture at `path` that none of `names` is, to which it is added.
fn unused(path: &Path, names: &mut HashSet<String>) -> String {
    let name = stem(&path_text(Path::new(path.file_stem().unwrap_or_default())));
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let free = std::iter::once(name.clone()).chain(numbered).find(|name| !names.contains(name));
    let free = free.unwrap_or(name);
    names.insert(free.clone());
    free
}

fn explained(
    path: &Path,
    metadata: &Metadata,
    explanation: Explanation,
    [overlay, heatmap]: [PathBuf; 2],
) -> Explained {
    let Explanation { class, probability, method, layer, map } = explanation;
    Explained {
        path: path.to_owned(),
        class: metadata.classes.get(class).cloned().unwrap_or_else(|| class.to_string()),
        index: class,
        probability,
        method: method.to_string(),
        layer,
        overlay,
        heatmap,
        grid: map.values.chunks_exact(map.columns.max(1)).map(<[f32]>::to_vec).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_one_name_get_files_of_their_own() {
        let mut names = HashSet::new();
        let mut name = |path: &str| unused(Path::new(path), &mut names);
        assert_eq!(
            ["a/x.jpg", "b/x.jpg", "c/x.png", "x-2.png", "../y"].map(&mut name),
            ["x", "x-2", "x-3", "x-2-2", "y"]
        );
    }
}
