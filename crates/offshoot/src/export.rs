//! From a model to files for deployment, each proven to answer like it before it takes its name.

use std::path::{Path, PathBuf};

use offshoot_formats::onnx;
use offshoot_formats::torchscript::{self, Form};
use offshoot_graph::{Executor, Model, passes};
use offshoot_train::{Inference, NetworkError};
use serde::Serialize;

use crate::compare::{Comparison, Inputs, TOLERANCE, batches, compare};
use crate::error::{Error, Result};
use crate::manifest::{Manifest, ManifestPreparation, ManifestProof};
use crate::preparation;
use crate::quantize::is_quantized;
use crate::staging::Staging;

/// A file that was exported, and the proof.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    /// The format's name on the command line.
    pub format: &'static str,
    /// The file. Its [`Manifest`] stands beside it.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// Its size, with what stands beside it for it.
    pub bytes: u64,
    /// The largest difference of a logit, from re-reading the file.
    pub max_abs_diff: f64,
    /// The part of the pictures whose best class is the same.
    pub top1_agreement: f64,
}

/// What an exported file is compared with, and how.
#[derive(Clone, Copy)]
pub struct Proof<'a> {
    /// Pictures.
    pub inputs: &'a Inputs,
    /// What runs the models.
    pub executor: &'a dyn Executor,
    /// SHA-256 of the checkpoint, for the manifest.
    pub source_sha256: Option<&'a str>,
}

/// The model as it is shipped: batch norms folded, dropout removed.
///
/// # Errors
/// When the weights do not fit the graph.
pub fn shipped(model: &Model) -> Result<Model> {
    let (graph, weights) = passes::shipped(&model.graph, &model.weights).map_err(NetworkError::from)?;
    Ok(Model { graph, weights, metadata: model.metadata.clone() })
}

/// Writes `model` as ONNX to `path`: `input` and `output`, dynamic batch, classes and preprocessing in its metadata. Before
/// the file takes its name, its bytes are read again, run on the proof's inputs beside `model`, and compared. Of a file that
/// prepares its pictures itself, the nodes before the network are computed too, on pictures of awkward sizes: what they make
/// must be our pixels, but for what [`crate::PREPARED_LEVELS`] allows.
///
/// # Errors
/// When the file cannot be written, or does not answer like `model`; nothing is left at `path` then.
pub fn export_onnx(model: &Model, path: &Path, options: onnx::Options, proof: Proof<'_>) -> Result<Exported> {
    let write =
        |staged: &Path| Ok(onnx::write(staged, &shipped(model)?, options).map_err(|e| e.problem.at(path))?);
    let read = |staged: &Path| {
        let written = onnx::read(staged)?.model;
        let preparation = match onnx::preparer(staged)? {
            Some(preparer) => Some(preparation::prove(&preparer, model, &written, proof.executor)?),
            None => None,
        };
        Ok((written, preparation))
    };
    export("onnx", model, path, write, read, proof)
}

/// Writes `model` as TorchScript to `path`, with the batch norms and the state-dict keys that it has, classes and
/// preprocessing as extra files. The proof is that of [`export_onnx`]; of the scripted form it covers the network, which
/// is `logits`; how near PyTorch's pixels come to ours was measured beforehand, and the manifest states the bound.
///
/// # Errors
/// When the file cannot be written, or does not answer like `model`; nothing is left at `path` then.
pub fn export_torchscript(model: &Model, path: &Path, form: Form, proof: Proof<'_>) -> Result<Exported> {
    let options = torchscript::Options { form };
    let write =
        |staged: &Path| Ok(torchscript::write(staged, model, options).map_err(|e| e.problem.at(path))?);
    let preparation = (form == Form::Scripted).then(preparation::stated);
    let read = |staged: &Path| Ok((torchscript::read(staged, None)?.model, preparation));
    export("torchscript", model, path, write, read, proof)
}

/// What an export must not differ by from the model.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// The largest difference of a logit, in parts of the largest logit.
    pub(crate) tolerance: f64,
    /// Whether the best class of every picture must be the same. Where weights are rounded it is only reported.
    pub(crate) every_top1: bool,
}

/// Writes a file, reads it again, compares it, and only then gives it its name, and its manifest one beside it.
fn export(
    format: &'static str,
    model: &Model,
    path: &Path,
    write: impl FnOnce(&Path) -> Result<()>,
    read: impl FnOnce(&Path) -> Result<(Model, Option<ManifestPreparation>)>,
    proof: Proof<'_>,
) -> Result<Exported> {
    if path.is_dir() {
        return Err(Error::Input(format!("{}: a folder is in the way", path.display())));
    }
    export_within(format, model, path, Bound { tolerance: TOLERANCE, every_top1: true }, write, read, proof)
}

/// The same for a file or a folder that may differ by `bound`.
pub(crate) fn export_within(
    format: &'static str,
    model: &Model,
    path: &Path,
    bound: Bound,
    write: impl FnOnce(&Path) -> Result<()>,
    read: impl FnOnce(&Path) -> Result<(Model, Option<ManifestPreparation>)>,
    proof: Proof<'_>,
) -> Result<Exported> {
    let staging = Staging::new(path)?;
    write(&staging.path())?;
    let (written, preparation) = read(&staging.path())?;
    let comparison = prove(model, &written, proof, bound.tolerance)?;
    let close = comparison.max_rel_diff < bound.tolerance;
    if !(comparison.ok || close && !bound.every_top1) {
        return Err(Error::Input(format!(
            "{}: not written, because the {format} file would not answer like the model: the largest difference is {:e} of the largest logit, top-1 agrees on {} of the pictures. Please report this",
            path.display(),
            comparison.max_rel_diff,
            comparison.top1_agreement
        )));
    }
    let evidence = ManifestProof {
        preparation,
        ..ManifestProof::compared(&comparison, bound.tolerance, proof.inputs.len())
    };
    let source = proof.source_sha256.map(str::to_owned);
    let manifest = Manifest::of(format, &staging.made()?, source, evidence)?;
    manifest.write(&Manifest::beside(&staging.path()))?;
    staging.commit()?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    let Comparison { max_abs_diff, top1_agreement, .. } = comparison;
    Ok(Exported { format, path: path.to_owned(), bytes, max_abs_diff, top1_agreement })
}

fn prove(model: &Model, written: &Model, proof: Proof<'_>, tolerance: f64) -> Result<Comparison> {
    if written.metadata.classes != model.metadata.classes
        || written.metadata.preprocessing != model.metadata.preprocessing
    {
        return Err(Error::Input(
            "the classes or the preprocessing did not survive the export. Please report this".into(),
        ));
    }
    let batches = batches(&[model, written]);
    let executor = proof.executor;
    // Of integers, the executor's own operators are compared with themselves: it rounds otherwise between operators that it
    // runs apart.
    let first = if is_quantized(model) { Inference::new } else { Inference::unfolded };
    let (mut first, mut second) = (first(model, executor)?, Inference::new(written, executor)?);
    compare(&mut first, &mut second, proof.inputs, &batches, tolerance)
}
