//! Where a model comes from: a run directory, a file of ours, an ONNX, TorchScript, .pt2, Core ML or LiteRT file, or an
//! architecture with a file of weights.

pub(crate) mod huggingface;
mod ours;

use self::ours::load_ours;
#[cfg(feature = "train")]
pub(crate) use self::ours::{classifier_of_size, unchecked_base};

use std::fs::File;
use std::path::{Path, PathBuf};

use offshoot_formats::checkpoint::{load_weights, match_weights};
use offshoot_formats::content::{self, Content};
#[cfg(feature = "train")]
use offshoot_formats::coreml;
use offshoot_formats::safetensors::METADATA_KEY;
use offshoot_formats::{Problem, litert, onnx, pt2, tensorrt, torchscript};
use offshoot_graph::{Dim, Fit, Model, Preprocessing, Weights, model};
use offshoot_infer::files::{BEST_FILE, LAST_FILE};
use offshoot_models::{
    Architecture, BuildOptions, CanonicalKeys, Published, canonical_keys, expected_parameters, find,
    imagenet_classes, original_classes, pretrained, recognise,
};

use crate::error::{Error, Result};
use crate::hash::sha256;
use offshoot_graph::remedy::{FIT, LAST, MEAN, MODEL, OUT, RESUME, SIZE, STD, WEIGHTS};
use offshoot_graph::text::shown;

/// A model to load.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// A run directory, a `.safetensors` of ours, an `.onnx`, a TorchScript `.pt`, a `.pt2`, a Hugging Face folder, or an `.mlpackage`
    /// or a `.tflite` of ours.
    Path(PathBuf),
    /// An architecture by name, with its weights.
    Pretrained {
        /// The name in the registry.
        architecture: String,
        /// A `.pth` or `.safetensors` of torchvision's or timm's keys.
        weights: PathBuf,
    },
}

/// Changes to the preprocessing that a model comes with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Height and width of the input, in pixels.
    pub size: Option<usize>,
    /// How a picture becomes a square.
    pub fit: Option<Fit>,
    /// Subtracted from each channel, on 0..1.
    pub mean: Option<[f32; 3]>,
    /// Each channel is divided by it, on 0..1.
    pub std: Option<[f32; 3]>,
}

/// A model and what there is to say about how it was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// What was assumed, for people.
    pub warnings: Vec<String>,
    /// Whether classes and preprocessing are assumed, because the file has none.
    pub assumed_metadata: bool,
}

impl Overrides {
    /// `own` with these changes. Another `size` scales `resize` with it.
    pub fn apply(&self, own: &Preprocessing) -> Preprocessing {
        let size = self.size.unwrap_or(own.size);
        let resize = if size == own.size { own.resize } else { own.resize_for(size) };
        Preprocessing {
            size,
            resize,
            fit: self.fit.unwrap_or(own.fit),
            mean: self.mean.unwrap_or(own.mean),
            std: self.std.unwrap_or(own.std),
            ..own.clone()
        }
    }
}

impl ModelSource {
    /// The file that holds the weights.
    ///
    /// # Errors
    /// When a run directory has none.
    pub fn checkpoint(&self) -> Result<PathBuf> {
        match self {
            ModelSource::Pretrained { weights, .. } => Ok(weights.clone()),
            #[cfg(feature = "train")]
            ModelSource::Path(path) if coreml::is_package(path) => Ok(coreml::weight_file(path)),
            ModelSource::Path(path) if huggingface::is_folder(path) => Ok(huggingface::weight_file(path)),
            ModelSource::Path(path) if path.is_dir() => run_file(path),
            ModelSource::Path(path) => Ok(path.clone()),
        }
    }

    /// The file or folder that was named.
    pub fn path(&self) -> &Path {
        match self {
            ModelSource::Pretrained { weights, .. } => weights,
            ModelSource::Path(path) => path,
        }
    }

    /// Reads the classifier of pictures.
    ///
    /// # Errors
    /// When a file cannot be read, is no model, or does not fit the architecture or the overrides.
    pub fn load(&self, overrides: &Overrides) -> Result<Loaded> {
        self.load_with(overrides, false)
    }

    /// Reads a model, which in an ONNX file may take something else than pictures. It is there to be run, and not to
    /// prepare pictures for.
    ///
    /// # Errors
    /// Those of [`ModelSource::load`].
    pub fn load_any(&self) -> Result<Loaded> {
        self.load_with(&Overrides::default(), true)
    }

    /// As [`ModelSource::load_any`], with the preprocessing that `overrides` say.
    pub(crate) fn load_with(&self, overrides: &Overrides, any_input: bool) -> Result<Loaded> {
        match self {
            ModelSource::Pretrained { architecture, weights } => {
                load_pretrained(architecture, weights, overrides)
            }
            #[cfg(feature = "train")]
            ModelSource::Path(path) if coreml::is_package(path) => load_coreml(path, overrides),
            ModelSource::Path(path) if huggingface::is_folder(path) => huggingface::load(path, overrides),
            ModelSource::Path(path) if path.is_dir() => load_ours(&run_file(path)?, overrides),
            ModelSource::Path(path) => match content_of(path)? {
                Content::Safetensors => load_ours(path, overrides),
                Content::Onnx => load_onnx(path, overrides, any_input),
                Content::LiteRt => load_litert(path, overrides),
                Content::Zip if is_torchscript(path)? => load_torchscript(path, overrides),
                Content::Zip if is_pt2(path)? => load_pt2(path, overrides),
                Content::Zip | Content::Pickle => Err(Error::advice(format_args!(
                    "{}: weights without a graph; name the architecture: {MODEL} NAME {WEIGHTS} {}",
                    shown(path),
                    word(path)
                ))),
            },
        }
    }
}

/// Whether `path` is an ONNX file.
///
/// # Errors
/// When it cannot be read, or is no model.
pub fn is_onnx(path: &Path) -> Result<bool> {
    Ok(!path.is_dir() && content_of(path)? == Content::Onnx)
}

/// Whether `path` is a file that training starts from as from an architecture, with its graph and its weights: an ONNX file or a
/// `.pt2`, or a Hugging Face folder.
///
/// # Errors
/// When it cannot be read, or is no model.
pub(crate) fn is_graph(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(huggingface::is_folder(path));
    }
    match content_of(path)? {
        Content::Onnx => Ok(true),
        Content::Zip => is_pt2(path),
        Content::LiteRt | Content::Safetensors | Content::Pickle => Ok(false),
    }
}

/// The kind of a file that shall be a model.
fn content_of(path: &Path) -> Result<Content> {
    content::of(path).map_err(|error| match error.problem {
        Problem::Unrecognised { found } => Error::advice(format_args!(
            "{}: not a model: {found}; give a run directory, a .safetensors of offshoot, an .onnx, a TorchScript .pt, a .pt2, a Hugging Face folder, or {MODEL} NAME {WEIGHTS} FILE",
            shown(path)
        )),
        _ => error.into(),
    })
}

/// The weights of the best epoch of a run directory.
pub(crate) fn run_file(run: &Path) -> Result<PathBuf> {
    let [best, last] = [BEST_FILE, LAST_FILE].map(|name| run.join(name));
    let folder = shown(run);
    match (best.exists(), last.exists()) {
        (true, _) => Ok(best),
        (false, true) => Err(Error::advice(format_args!(
            "{folder}: no epoch of this run is finished, so that it has no best model; `offshoot train {RESUME} {OUT} {}` \
             goes on with it, and {folder}/{LAST_FILE} ({LAST}) has the weights of its last checkpoint",
            word(run)
        ))),
        (false, false) => Err(Error::Input(format!(
            "{folder}: no {BEST_FILE} in this folder; is it a run of `offshoot train`?"
        ))),
    }
}

/// A path as a word of a command that a message tells to give.
pub fn word(path: &Path) -> String {
    tensorrt::quoted(&shown(path))
}

/// Weights of an architecture, with the keys of its own graph, and what there is to say about how they were read.
pub(crate) struct StateDict {
    pub(crate) weights: Weights,
    pub(crate) warnings: Vec<String>,
}

/// Reads the weights of an architecture.
///
/// # Errors
/// When the file cannot be read, or holds the weights of another architecture.
pub(crate) fn load_state_dict(architecture: &Architecture, path: &Path) -> Result<StateDict> {
    let loaded = load_weights(path)?.into_f32();
    let (ours, unchecked) = (loaded.metadata.contains_key(METADATA_KEY), loaded.unchecked);
    let CanonicalKeys { weights, mut notes } = canonical_keys(architecture, loaded.weights);
    // What the names cannot tell is known of these.
    if ours || published_file(architecture, path)?.is_some() {
        notes.clear();
    }
    if !fits(architecture, &weights)
        && let Some(other) = recognise(&weights).filter(|other| other.name != architecture.name)
    {
        return Err(Error::advice(format_args!(
            "{}: these are the weights of {}, not of {}: give {MODEL} {}",
            shown(path),
            other.name,
            architecture.name,
            other.name
        )));
    }
    notes.extend(unread(&loaded.unread));
    notes.extend(unchecked.map(str::to_owned));
    let warnings = notes.into_iter().map(|note| format!("{}: {note}", shown(path))).collect();
    Ok(StateDict { weights, warnings })
}

/// What to say of tensors of a file that could not be read.
pub(crate) fn unread(tensors: &[(String, String)]) -> Option<String> {
    let named: Vec<String> = tensors.iter().map(|(key, what)| format!("`{key}` ({what})")).collect();
    (!named.is_empty()).then(|| format!("not read, and left out: {}", named.join(", ")))
}

/// Whether `weights` have all parameters of an architecture but those of its head.
fn fits(architecture: &Architecture, weights: &Weights) -> bool {
    let options = BuildOptions { classes: 1, size: architecture.size, head: None };
    let Ok(graph) = architecture.build(&options) else { return false };
    let backbone = expected_parameters(&graph).into_iter().filter(|(name, _)| !architecture.is_head(name));
    backbone.into_iter().all(|(name, shape)| {
        // Positions of another size of the picture are resampled.
        weights.get(&name).is_some_and(|t| t.shape() == shape || name.contains("pos_embed"))
    })
}

fn load_pretrained(name: &str, path: &Path, overrides: &Overrides) -> Result<Loaded> {
    let architecture = find(name)?;
    let StateDict { weights, mut warnings } = load_state_dict(architecture, path)?;
    let published = published_file(architecture, path)?;
    let own = own_preprocessing(architecture, published);
    let mut model = with_own_head(architecture, path, weights, overrides.apply(&own))?;
    match published {
        // Only of these is it known what the logits mean: other weights of 1000 classes may be of other classes.
        Some(published) if published.has_head => {
            model.metadata.classes = imagenet_classes().map(str::to_owned).collect();
        }
        _ => warnings.push(format!(
            "{}: no file that its authors publish: classes are called by their indices, and pictures are prepared as for \
             {name} in general ({} of {} pixels, {}); {SIZE}, {FIT}, {MEAN} and {STD} say otherwise",
            shown(path),
            own.size,
            own.resize,
            format!("{:?}", own.interpolation).to_lowercase(),
        )),
    }
    Ok(Loaded { model, warnings, assumed_metadata: false })
}

/// The model of an architecture with weights that bring its own head; messages call them `path`.
fn with_own_head(
    architecture: &'static Architecture,
    path: &Path,
    mut weights: Weights,
    preprocessing: Preprocessing,
) -> Result<Model> {
    architecture.fit_to_size(preprocessing.size, &mut weights);
    let transfer = |source| Error::Transfer { path: path.to_owned(), source: Box::new(source) };
    let classes = original_classes(architecture, &weights).map_err(transfer)?;
    let graph = architecture.build(&BuildOptions { classes, size: preprocessing.size, head: None })?;
    pretrained(architecture, matched(path, &graph, weights)?, preprocessing).map_err(transfer)
}

/// A classifier of weights in memory, with the keys of torchvision or timm and the head that the architecture is published with.
/// Without names in `classes`, classes are called by their indices.
///
/// # Errors
/// When there is no architecture of that name, the weights are not its, or there are more or fewer names than classes.
pub fn from_state_dict(
    architecture: &str,
    weights: Weights,
    classes: &[String],
    overrides: &Overrides,
) -> Result<Model> {
    let architecture = find(architecture)?;
    let CanonicalKeys { weights, .. } = canonical_keys(architecture, weights);
    let preprocessing = overrides.apply(&own_preprocessing(architecture, None));
    let mut model = with_own_head(architecture, Path::new("the state dict"), weights, preprocessing)?;
    let (found, named) = (model.metadata.classes.len(), classes.len());
    if named > 0 && named != found {
        return Err(Error::Input(format!("{named} names of classes, and the weights have {found} classes")));
    }
    if named > 0 {
        model.metadata.classes = classes.to_vec();
    }
    Ok(model)
}

/// The published weights that the file `path` holds: it is called as they are, or has their hash.
pub(crate) fn published_file(architecture: &Architecture, path: &Path) -> Result<Option<Published>> {
    let io = |source| Error::Io { path: path.to_owned(), action: "open", source };
    let all = architecture.all_published();
    if let Some(named) = all.iter().find(|published| published.names(path)) {
        return Ok(Some(*named));
    }
    let meta = path.metadata().map_err(io)?;
    let possible: Vec<&Published> = all.iter().filter(|published| published.may_have(meta.len())).collect();
    if possible.is_empty() || !meta.is_file() {
        return Ok(None);
    }
    let hash = sha256(path)?;
    Ok(possible.into_iter().find(|published| hash.starts_with(published.sha256)).copied())
}

/// How pictures are prepared for weights of an architecture.
pub(crate) fn own_preprocessing(architecture: &Architecture, published: Option<Published>) -> Preprocessing {
    let own = architecture.preprocessing();
    match published {
        Some(published) => published.preprocessing(own),
        None => own,
    }
}

fn matched(path: &Path, graph: &offshoot_graph::Graph, weights: Weights) -> Result<Weights> {
    let keys = |source| Error::Keys { path: path.to_owned(), source };
    match_weights(&expected_parameters(graph), weights).map_err(keys)
}

/// Reads a file that [`is_graph`].
pub(crate) fn load_graph(path: &Path, overrides: &Overrides) -> Result<Loaded> {
    if huggingface::is_folder(path) {
        return huggingface::load(path, overrides);
    }
    match content_of(path)? {
        Content::Zip => load_pt2(path, overrides),
        Content::Onnx | Content::LiteRt | Content::Safetensors | Content::Pickle => {
            load_onnx(path, overrides, false)
        }
    }
}

pub(crate) fn load_onnx(path: &Path, overrides: &Overrides, any_input: bool) -> Result<Loaded> {
    let options = onnx::ReadOptions { size: overrides.size, any_input };
    let onnx::OnnxModel { mut model, warnings, assumed_preprocessing } = onnx::read_with(path, options)?;
    model.metadata.preprocessing = overrides.apply(&model.metadata.preprocessing);
    let size = model.metadata.preprocessing.size;
    let input = model.graph.inputs().iter().map(|&id| model.graph.value(id)).find(|v| v.name == model::INPUT);
    let side = input.and_then(|v| v.shape.0.get(2)).and_then(Dim::fixed);
    if let Some(side) = side.filter(|&side| side != size && !any_input) {
        return Err(Error::advice(format_args!(
            "{}: the graph takes pictures of {side} x {side} pixels, not {size}; leave {SIZE} out",
            shown(path)
        )));
    }
    let warnings = warnings.into_iter().map(|w| format!("{}: {w}", shown(path))).collect();
    Ok(Loaded { model, warnings, assumed_metadata: assumed_preprocessing })
}

fn is_torchscript(path: &Path) -> Result<bool> {
    Ok(torchscript::is_torchscript(opened(path)?))
}

/// Whether `path` is an archive of `torch.export`.
pub(crate) fn is_pt2(path: &Path) -> Result<bool> {
    Ok(pt2::is_pt2(opened(path)?))
}

fn opened(path: &Path) -> Result<File> {
    let io = |source| Error::Io { path: path.to_owned(), action: "read", source };
    offshoot_files::open(path).map_err(io)
}

fn load_pt2(path: &Path, overrides: &Overrides) -> Result<Loaded> {
    let pt2::Pt2Model { model, warnings, assumed_preprocessing } = pt2::read(path, overrides.size)?;
    load_traced(path, model, (warnings, assumed_preprocessing), overrides)
}

fn load_torchscript(path: &Path, overrides: &Overrides) -> Result<Loaded> {
    let torchscript::TorchScriptModel { model, warnings, assumed_preprocessing } =
        torchscript::read(path, overrides.size)?;
    load_traced(path, model, (warnings, assumed_preprocessing), overrides)
}

/// A model that PyTorch wrote for pictures of one size, with what is to be said of it.
fn load_traced(
    path: &Path,
    model: Model,
    (warnings, assumed_metadata): (Vec<String>, bool),
    overrides: &Overrides,
) -> Result<Loaded> {
    let warnings = warnings.into_iter().map(|w| format!("{}: {w}", shown(path))).collect();
    let loaded = of_one_size(path, "the file was written for", model, overrides)?;
    Ok(Loaded { warnings, assumed_metadata, ..loaded })
}

fn load_litert(path: &Path, overrides: &Overrides) -> Result<Loaded> {
    of_one_size(path, "the file takes", litert::read(path)?, overrides)
}

#[cfg(feature = "train")]
fn load_coreml(path: &Path, overrides: &Overrides) -> Result<Loaded> {
    of_one_size(path, "the package takes", coreml::read(path)?, overrides)
}

/// A model whose file takes pictures of one size, with all `overrides` but that.
fn of_one_size(path: &Path, takes: &str, mut model: Model, overrides: &Overrides) -> Result<Loaded> {
    let stated = model.metadata.preprocessing.size;
    if let Some(size) = overrides.size.filter(|&size| size != stated) {
        return Err(Error::advice(format_args!(
            "{}: {takes} pictures of {stated} x {stated} pixels, not {size}; leave {SIZE} out",
            shown(path)
        )));
    }
    model.metadata.preprocessing = overrides.apply(&model.metadata.preprocessing);
    Ok(Loaded { model, warnings: Vec::new(), assumed_metadata: false })
}
