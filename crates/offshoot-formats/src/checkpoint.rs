//! Weights from a file of any format that we read, and their match with the parameters of a model.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use offshoot_graph::{Model, Source, Value, ValueId, Weights};

use crate::content::{self, Content};
use crate::error::{FormatError, Problem};
use crate::safetensors::METADATA_KEY;
use crate::{pt2, pth, safetensors, torchscript};

/// What wrappers such as `DataParallel`, Lightning modules and `torch.compile` put before every key.
const PREFIXES: &[&str] = &["module.", "model.", "_orig_mod."];

/// The format that a file of weights was found to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// A safetensors file.
    Safetensors,
    /// `torch.save` in the zip layout.
    PthZip,
    /// `torch.save` in the legacy layout.
    PthLegacy,
    /// `torch.jit.save`.
    TorchScript,
    /// `torch.export.save`.
    Pt2,
}

impl fmt::Display for CheckpointFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CheckpointFormat::Safetensors => "safetensors",
            CheckpointFormat::PthZip => "PyTorch zip",
            CheckpointFormat::PthLegacy => "PyTorch legacy",
            CheckpointFormat::TorchScript => "TorchScript",
            CheckpointFormat::Pt2 => "PyTorch .pt2",
        })
    }
}

/// The weights in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedWeights {
    /// The tensors by PyTorch key, wrappers and prefixes removed.
    pub weights: Weights,
    /// The strings that a safetensors file carries beside its tensors; empty for other files.
    pub metadata: BTreeMap<String, String>,
    /// The format of the file.
    pub format: CheckpointFormat,
    /// The keys that the state dict was wrapped in, outermost first.
    pub wrappers: Vec<String>,
    /// What was removed from the front of every key, such as `module.`; else empty.
    pub prefix: String,
    /// The keys of the state dict whose value is no tensor, with the type of the value.
    pub skipped: Vec<(String, String)>,
    /// Those of them that hold tensors, which are not read.
    pub unread: Vec<(String, String)>,
    /// What to say of a safetensors file of ours whose content could not be compared with a hash in it.
    pub unchecked: Option<&'static str>,
}

impl LoadedWeights {
    /// The same weights with every float tensor as f32. Integers stay as they are.
    pub fn into_f32(mut self) -> LoadedWeights {
        for tensor in self.weights.values_mut() {
            if tensor.as_f32().is_none()
                && let Some(converted) = tensor.to_f32()
            {
                *tensor = converted;
            }
        }
        self
    }
}

/// Reads the weights in the file at `path`, whose format is told by its content.
///
/// A state dict under a wrapper key is found as [`pth::read`] says. The prefixes `module.`, `model.` and
/// `_orig_mod.` are removed while every key has one, except from a safetensors file that we wrote.
///
/// # Errors
/// When the file cannot be read, is damaged, is of no known format, or asks for a call that weights do not need.
pub fn load_weights(path: &Path) -> Result<LoadedWeights, FormatError> {
    let (file, content) = content::open(path)?;
    load(file, content).map_err(|problem| problem.at(path))
}

fn load(mut file: File, content: Content) -> Result<LoadedWeights, Problem> {
    let mut found = LoadedWeights {
        weights: Weights::new(),
        metadata: BTreeMap::new(),
        format: CheckpointFormat::Safetensors,
        wrappers: vec![],
        prefix: String::new(),
        skipped: vec![],
        unread: vec![],
        unchecked: None,
    };
    match content {
        Content::Safetensors => {
            let len = file.metadata().map_err(|error| Problem::Io { action: "read", error })?.len();
            let file = safetensors::read_from(std::io::BufReader::new(file), len)?;
            found.unchecked = file.unchecked();
            (found.weights, found.metadata) = (file.weights, file.metadata);
        }
        Content::Zip if torchscript::is_torchscript(&mut file) => {
            found.format = CheckpointFormat::TorchScript;
            found.weights = torchscript::state_dict(file)?;
        }
        Content::Zip if pt2::is_pt2(&mut file) => {
            found.format = CheckpointFormat::Pt2;
            found.weights = pt2::state_dict(file)?;
        }
        Content::Zip | Content::Pickle => {
            let pth::PthFile { weights, wrappers, skipped, unread, layout, .. } = pth::read_from(file)?;
            found = LoadedWeights { weights, wrappers, skipped, unread, ..found };
            found.format = match layout {
                pth::Layout::Zip => CheckpointFormat::PthZip,
                pth::Layout::Legacy => CheckpointFormat::PthLegacy,
            };
        }
        Content::LiteRt => {
            return Err(Problem::Unrecognised {
                found: "a LiteRT model, which has a graph of its own: give it in place of the architecture"
                    .into(),
            });
        }
        Content::Onnx => {
            return Err(Problem::Unrecognised {
                found: "an ONNX model, which has a graph of its own: give it in place of the architecture"
                    .into(),
            });
        }
    }
    // Keys of our own files are those of the graph.
    if !found.metadata.contains_key(METADATA_KEY) {
        (found.weights, found.prefix) = strip_prefixes(found.weights);
    }
    Ok(found)
}

/// Removes what every key begins with, as long as that is one of [`PREFIXES`].
fn strip_prefixes(weights: Weights) -> (Weights, String) {
    let common = |from: usize| {
        PREFIXES.iter().find(|prefix| {
            weights.keys().all(|key| key[from..].strip_prefix(**prefix).is_some_and(|rest| !rest.is_empty()))
        })
    };
    let mut prefix = String::new();
    while !weights.is_empty()
        && let Some(found) = common(prefix.len())
    {
        prefix.push_str(found);
    }
    let stripped = weights.into_iter().map(|(key, tensor)| (key[prefix.len()..].to_owned(), tensor));
    (stripped.collect(), prefix)
}

/// A parameter that has another shape in the file than in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// The key.
    pub name: String,
    /// The model's shape.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub found: Vec<usize>,
}

/// How the keys of a file differ from the parameters of a model. Its message shortens long lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct KeyMismatch {
    /// Parameters that the file does not have.
    pub missing: Vec<String>,
    /// Keys that the model does not have.
    pub unexpected: Vec<String>,
    /// Parameters of another shape.
    pub misshapen: Vec<Misshapen>,
}

/// How many keys of each kind a message names.
const SHOWN: usize = 8;

impl fmt::Display for KeyMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the weights do not fit the model")?;
        list(f, "missing from the file", &self.missing, |name, f| write!(f, "{name}"))?;
        list(f, "unexpected in the file", &self.unexpected, |name, f| write!(f, "{name}"))?;
        list(f, "of another shape", &self.misshapen, |m, f| {
            write!(f, "{} (expected {:?}, found {:?})", m.name, m.expected, m.found)
        })
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    items: &[T],
    show: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "; {} {what}: ", items.len())?;
    for (i, item) in items.iter().take(SHOWN).enumerate() {
        f.write_str(if i > 0 { ", " } else { "" })?;
        show(item, f)?;
    }
    match items.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        rest => write!(f, ", and {rest} more"),
    }
}

/// The weights of exactly the parameters `expected`, given by name and shape.
///
/// Counters that inference does not use (`num_batches_tracked`, and `total_ops` and `total_params` of the profiler `thop`) are
/// neither missed nor unexpected, nor are the indices, distances and masks that follow from the sizes of windows.
///
/// # Errors
/// When names or shapes differ; all that do are listed, in the order of `expected` and of the file's keys.
pub fn match_weights(
    expected: &[(String, Vec<usize>)],
    mut weights: Weights,
) -> Result<Weights, KeyMismatch> {
    let mut matched = Weights::new();
    let mut mismatch = KeyMismatch::default();
    for (name, shape) in expected {
        match weights.remove(name) {
            Some(tensor) if tensor.shape() == shape => {
                matched.insert(name.clone(), tensor);
            }
            Some(tensor) => mismatch.misshapen.push(Misshapen {
                name: name.clone(),
                expected: shape.clone(),
                found: tensor.shape().to_vec(),
            }),
            None if is_counter(name) => {}
            None => mismatch.missing.push(name.clone()),
        }
    }
    mismatch.unexpected.extend(weights.into_keys().filter(|name| !is_counter(name)));
    match mismatch == KeyMismatch::default() {
        true => Ok(matched),
        false => Err(mismatch),
    }
}

/// What torchvision's modules of windowed attention store, though it follows from their sizes.
const WINDOW_BUFFERS: [&str; 2] = ["relative_position_index", "relative_coords_table"];

/// The weights of a model, and those constants of its graph that torchvision has in the state dict.
pub fn state_dict(model: &Model) -> Weights {
    let stored = |(_, value): (ValueId, &Value)| match &value.source {
        Source::Constant(tensor) if WINDOW_BUFFERS.contains(&value.name.rsplit('.').next()?) => {
            Some((value.name.clone(), tensor.clone()))
        }
        Source::Constant(_) | Source::Input | Source::Parameter(_) | Source::Node { .. } => None,
    };
    let mut weights = model.weights.clone();
    weights.extend(model.graph.values().filter_map(stored));
    weights
}

fn is_counter(name: &str) -> bool {
    let counters = ["num_batches_tracked", "total_ops", "total_params"];
    let windows = [&WINDOW_BUFFERS[..], &["attn_mask"]].concat();
    name.rsplit('.').next().is_some_and(|last| counters.contains(&last) || windows.contains(&last))
}
