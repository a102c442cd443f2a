//! From a model to files for deployment, each proven to answer like it before it takes its name.

use std::io::Write;
use std::path::{Path, PathBuf};

use offshoot_formats::atomic::AtomicFile;
use offshoot_formats::onnx;
use offshoot_formats::torchscript::{self, Form};
use offshoot_graph::{Executor, Model, passes};
use offshoot_train::{Inference, NetworkError};
use serde::Serialize;

use crate::compare::{BATCHES, Comparison, Inputs, TOLERANCE, compare};
use crate::error::{Error, Result};

/// A file that was exported, and the proof.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    /// The format's name on the command line.
    pub format: &'static str,
    /// The file.
    #[serde(serialize_with = "crate::lossy")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The largest difference of a logit, from re-reading the file.
    pub max_abs_diff: f64,
    /// The part of the pictures whose best class is the same.
    pub top1_agreement: f64,
}

/// The model as it is shipped: batch norms folded, dropout removed.
///
/// # Errors
/// When the weights do not fit the graph.
pub fn shipped(model: &Model) -> Result<Model> {
    let (graph, weights) = passes::shipped(&model.graph, &model.weights).map_err(NetworkError::from)?;
    Ok(Model { graph, weights, metadata: model.metadata.clone() })
}

/// Writes `model` as ONNX to `path`: opset 17, `input` and `output`, dynamic batch, classes and preprocessing in its
/// metadata. Before the file takes its name, its bytes are read again, run on `inputs` beside `model`, and compared.
///
/// # Errors
/// When the file cannot be written, or does not answer like `model`; nothing is left at `path` then.
pub fn export_onnx(model: &Model, path: &Path, inputs: &Inputs, executor: &dyn Executor) -> Result<Exported> {
    let bytes = onnx::write_bytes(&shipped(model)?, onnx::Options::default()).map_err(|e| e.at(path))?;
    let write = |file: &mut AtomicFile| {
        file.write_all(&bytes).map_err(|source| Error::Io { path: path.to_owned(), action: "write", source })
    };
    let read = |written: &Path| Ok(onnx::read(written)?.model);
    export("onnx", path, write, read, Proof { model, inputs, executor })
}

/// Writes `model` as TorchScript to `path`, with the batch norms and the state-dict keys that it has, classes and
/// preprocessing as extra files. The proof is that of [`export_onnx`]; of the scripted form it covers the network, which
/// is `logits`, and not the preparation of the picture before it.
///
/// # Errors
/// When the file cannot be written, or does not answer like `model`; nothing is left at `path` then.
pub fn export_torchscript(
    model: &Model,
    path: &Path,
    form: Form,
    inputs: &Inputs,
    executor: &dyn Executor,
) -> Result<Exported> {
    let write = |file: &mut AtomicFile| {
        Ok(torchscript::write_to(file, model, torchscript::Options { form }).map_err(|e| e.at(path))?)
    };
    let read = |written: &Path| Ok(torchscript::read(written, None)?.model);
    export("torchscript", path, write, read, Proof { model, inputs, executor })
}

/// What a file is compared with, and how.
struct Proof<'a> {
    model: &'a Model,
    inputs: &'a Inputs,
    executor: &'a dyn Executor,
}

/// Writes a file, reads it again, compares it, and only then gives it its name.
fn export(
    format: &'static str,
    path: &Path,
    write: impl FnOnce(&mut AtomicFile) -> Result<()>,
    read: impl FnOnce(&Path) -> Result<Model>,
    proof: Proof<'_>,
) -> Result<Exported> {
    let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
    let mut file = AtomicFile::create(path)?;
    write(&mut file)?;
    file.flush().map_err(io("write"))?;
    let bytes = std::fs::metadata(file.temporary_path()).map_err(io("read"))?.len();
    let written = read(file.temporary_path())?;
    let comparison = prove(proof.model, &written, proof.inputs, proof.executor)?;
    if !comparison.ok {
        return Err(Error::Input(format!(
            "{}: not written, because the {format} file would not answer like the model: the largest difference is {:e} of the largest logit, top-1 agrees on {} of the pictures. Please report this",
            path.display(),
            comparison.max_rel_diff,
            comparison.top1_agreement
        )));
    }
    file.commit()?;
    let Comparison { max_abs_diff, top1_agreement, .. } = comparison;
    Ok(Exported { format, path: path.to_owned(), bytes, max_abs_diff, top1_agreement })
}

fn prove(model: &Model, written: &Model, inputs: &Inputs, executor: &dyn Executor) -> Result<Comparison> {
    if written.metadata.classes != model.metadata.classes
        || written.metadata.preprocessing != model.metadata.preprocessing
    {
        return Err(Error::Input(
            "the classes or the preprocessing did not survive the export. Please report this".into(),
        ));
    }
    let (mut first, mut second) = (Inference::unfolded(model, executor)?, Inference::new(written, executor)?);
    compare(&mut first, &mut second, inputs, &BATCHES, TOLERANCE)
}
