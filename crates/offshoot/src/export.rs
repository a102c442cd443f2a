//! From a model to files for deployment, each read back and compared with the model before it is moved into place.

use std::path::{Path, PathBuf};

use offshoot_formats::torchscript::{self, Form};
use offshoot_formats::{onnx, pt2};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model};
use offshoot_infer::{Inference, folded};
use serde::Serialize;

use crate::compare::{Comparison, INT8_TOLERANCE, Inputs, Reference, TOLERANCE, batches};
use crate::device::{CpuOptions, Device};
use crate::error::{Error, Result};
use crate::integers::is_quantized;
use crate::manifest::{MOST_TOLERANCE, Manifest, ManifestPreparation, ManifestProof};
use crate::preparation;
use crate::staging::{SideFile, Staging};

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
    /// The largest difference of a logit between the file, read again, and the model that was asked for.
    pub max_abs_diff: f64,
    /// The fraction of the pictures whose best class is the same.
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
    /// Of a model in int8, the float model that it was made of. What is reported then, and stands in the manifest, is the
    /// difference from that one, and the bound in the manifest is [`crate::INT8_TOLERANCE`] or, where more is lost, a larger one.
    pub float: Option<&'a Model>,
}

/// The model as it is shipped: batch norms folded, dropout removed, what follows from weights alone computed.
///
/// # Errors
/// When the weights do not fit the graph.
pub fn shipped(model: &Model) -> Result<Model> {
    shipped_by(model, &Device::cpu(CpuOptions::default())?)
}

/// [`shipped`], computed by an executor that is there.
pub(crate) fn shipped_by(model: &Model, executor: &dyn Executor) -> Result<Model> {
    let (graph, weights) = folded(&model.graph, &model.weights, executor)?;
    Ok(Model { graph, weights, metadata: model.metadata.clone() })
}

/// Writes `model` as ONNX to `path`: `input` and `output`, dynamic batch, classes and preprocessing in its metadata. Before
/// the file is moved into place, its bytes are read again, run on the proof's inputs beside `model`, and compared. Of a file that
/// prepares its pictures itself, the nodes before the network are computed too, on pictures of unusual sizes: what they make
/// must be our pixels, but for what [`crate::PREPARED_LEVELS`] allows.
///
/// # Errors
/// When the file cannot be written, or does not match `model`; nothing is left at `path` then.
pub fn export_onnx(model: &Model, path: &Path, options: onnx::Options, proof: Proof<'_>) -> Result<Exported> {
    export_onnx_with(model, path, options, proof, &[])
}

/// [`export_onnx`] with texts that go with the file.
pub(crate) fn export_onnx_with(
    model: &Model,
    path: &Path,
    options: onnx::Options,
    proof: Proof<'_>,
    side_files: &[SideFile],
) -> Result<Exported> {
    let write = |staged: &Path| {
        Ok(onnx::write(staged, &shipped_by(model, proof.executor)?, options)
            .map_err(|e| e.problem.at(path))?)
    };
    let read = |staged: &Path| {
        let written = onnx::read(staged)?.model;
        let preparation = match onnx::preparer(staged)? {
            Some(preparer) => Some(preparation::prove(&preparer, model, &written, proof.executor)?),
            None => None,
        };
        Ok((written, preparation))
    };
    export(Output { format: "onnx", path, side_files }, model, write, read, proof)
}

/// Writes `model` as TorchScript to `path`, with the batch norms and the state-dict keys that it has, classes and
/// preprocessing as extra files. The proof is that of [`export_onnx`]; of the scripted form it covers the network, which
/// is `logits`; how near PyTorch's pixels come to ours was measured beforehand, and the manifest states the bound.
///
/// # Errors
/// When the file cannot be written, or does not match `model`; nothing is left at `path` then.
pub fn export_torchscript(model: &Model, path: &Path, form: Form, proof: Proof<'_>) -> Result<Exported> {
    let options = torchscript::Options { form };
    let write =
        |staged: &Path| Ok(torchscript::write(staged, model, options).map_err(|e| e.problem.at(path))?);
    let preparation = (form == Form::Scripted).then(preparation::stated);
    let read = |staged: &Path| Ok((torchscript::read(staged, None)?.model, preparation));
    export(Output::new("torchscript", path), model, write, read, proof)
}

/// Writes `model` as a program of `torch.export` to `path`, a `.pt2`, with the batch norms and the state-dict keys that it has,
/// and classes and preprocessing as extra files. The proof is that of [`export_onnx`].
///
/// # Errors
/// When the file cannot be written, or does not match `model`; nothing is left at `path` then.
pub fn export_pt2(model: &Model, path: &Path, proof: Proof<'_>) -> Result<Exported> {
    let write = |staged: &Path| Ok(pt2::write(staged, model).map_err(|e| e.problem.at(path))?);
    let read = |staged: &Path| Ok((pt2::read(staged, None)?.model, None));
    export(Output::new("pt2", path), model, write, read, proof)
}

/// What is written.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    format: &'static str,
    path: &'a Path,
    /// Texts that go with it.
    side_files: &'a [SideFile],
}

impl<'a> Output<'a> {
    pub(crate) fn new(format: &'static str, path: &'a Path) -> Output<'a> {
        Output { format, path, side_files: &[] }
    }
}

/// Writes a file, reads it again, compares it, and only then gives it its name, and its manifest one beside it.
fn export(
    output: Output<'_>,
    model: &Model,
    write: impl FnOnce(&Path) -> Result<()>,
    read: impl FnOnce(&Path) -> Result<(Model, Option<ManifestPreparation>)>,
    proof: Proof<'_>,
) -> Result<Exported> {
    export_file_within(output, model, TOLERANCE, write, read, proof)
}

/// The same for a file whose logits may differ by `tolerance`, relative to the largest logit.
pub(crate) fn export_file_within(
    output: Output<'_>,
    model: &Model,
    tolerance: f64,
    write: impl FnOnce(&Path) -> Result<()>,
    read: impl FnOnce(&Path) -> Result<(Model, Option<ManifestPreparation>)>,
    proof: Proof<'_>,
) -> Result<Exported> {
    if output.path.is_dir() {
        return Err(Error::Input(format!("{}: a folder is in the way", shown(output.path))));
    }
    export_within(output, model, tolerance, write, read, proof)
}

/// The same where a folder may be in the place, which the caller has looked at.
pub(crate) fn export_within(
    Output { format, path, side_files }: Output<'_>,
    model: &Model,
    tolerance: f64,
    write: impl FnOnce(&Path) -> Result<()>,
    read: impl FnOnce(&Path) -> Result<(Model, Option<ManifestPreparation>)>,
    proof: Proof<'_>,
) -> Result<Exported> {
    // First: of a model that gives NaN no file is made.
    let float = proof.float.map(|float| reference(float, proof)).transpose()?;
    let reference = reference(model, proof)?;
    let staging = Staging::new(path)?;
    write(&staging.path()).map_err(|error| staging.named(error))?;
    let (written, preparation) = read(&staging.path()).map_err(|error| staging.named(error))?;
    if written.metadata.classes != model.metadata.classes
        || written.metadata.preprocessing != model.metadata.preprocessing
        || written.metadata.task != model.metadata.task
        || written.metadata.class_thresholds() != model.metadata.class_thresholds()
        || written.metadata.temperature != model.metadata.temperature
        || written.metadata.rejection != model.metadata.rejection
        || written.metadata.regression != model.metadata.regression
    {
        return Err(Error::Input(
            "the classes, the task or the preprocessing did not survive the export. Please report this"
                .into(),
        ));
    }
    let mut network = Inference::new(&written, proof.executor)?;
    let comparison = reference.compare(&mut network, tolerance)?;
    if !comparison.ok {
        return Err(Error::Input(format!(
            "{}: not written, because the {format} file does not match the model: the largest difference is {:e} of the largest logit, top-1 agrees on {} of the pictures. Please report this",
            shown(path),
            comparison.max_rel_diff,
            comparison.top1_agreement
        )));
    }
    let (comparison, tolerance) = match float {
        Some(float) => in_int8(path, &float, &mut network)?,
        None => (comparison, tolerance),
    };
    let evidence =
        ManifestProof { preparation, ..ManifestProof::compared(&comparison, tolerance, proof.inputs.len()) };
    let source = proof.source_sha256.map(str::to_owned);
    let manifest = Manifest::of(format, &staging.made()?, source, evidence);
    let mut manifest = manifest.map_err(|error| staging.named(error))?;
    manifest.side_files = side_files.iter().map(SideFile::in_manifest).collect();
    manifest.write(&Manifest::beside(&staging.path())).map_err(|error| staging.named(error))?;
    staging.commit(side_files)?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    let Comparison { max_abs_diff, top1_agreement, .. } = comparison;
    Ok(Exported { format, path: path.to_owned(), bytes, max_abs_diff, top1_agreement })
}

/// How far a file in int8 is from the float model, and the bound that it stays below: [`INT8_TOLERANCE`], or, past that, twice
/// what was found. How much of that is too much is for the accuracy to say.
fn in_int8(path: &Path, float: &Reference<'_>, network: &mut Inference) -> Result<(Comparison, f64)> {
    let comparison = float.compare(network, INT8_TOLERANCE)?;
    if !comparison.finite {
        let text = "not written, because the model gives NaN or infinities in int8. Please report this";
        return Err(Error::Input(format!("{}: {text}", shown(path))));
    }
    let bound = if comparison.ok { INT8_TOLERANCE } else { 2.0 * comparison.max_rel_diff };
    if bound > MOST_TOLERANCE {
        return Err(Error::Input(format!(
            "{}: not written, because the int8 outputs have nothing in common with the float outputs: they differ by up to {:.1} of the largest logit",
            shown(path),
            comparison.max_rel_diff
        )));
    }
    Ok((comparison, bound))
}

/// The outputs of `model` for the inputs of the proof.
///
/// # Errors
/// When it cannot run, or gives NaN or infinities.
pub(crate) fn reference<'a>(model: &Model, proof: Proof<'a>) -> Result<Reference<'a>> {
    // Of integers, the executor's own operators are compared with themselves: it rounds otherwise between operators that it
    // runs apart.
    let prepare = if is_quantized(model) { Inference::new } else { Inference::unfolded };
    let mut network = prepare(model, proof.executor)?;
    Reference::new((&mut network, &model.metadata), proof.inputs, batches(&[model]))
}
