//! Whether a file does what a model does.

use std::path::{Path, PathBuf};

use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model};
use offshoot_infer::Inference;

use super::{Listener, Table, checkpoint_of, open_as_it_is, proof_inputs, run_directory};
use crate::compare::{Comparison, Inputs, TOLERANCE, batches, compare, disagreements};
use crate::error::Result;
use crate::manifest::{Manifest, origins};
use crate::source::{Loaded, ModelSource, Overrides};

/// A file to compare with a model.
#[derive(Clone, Debug)]
pub struct VerifyJob {
    /// The file to check.
    pub file: PathBuf,
    /// The model whose outputs it must reproduce.
    pub against: ModelSource,
    /// Whether to take the last checkpoint of a run in place of its best model.
    pub last: bool,
    /// A folder of pictures to compare on, in place of the run's validation pictures or the built-in ones.
    pub data: Option<PathBuf>,
    /// How `data` is read where it is a table.
    pub table: Table,
    /// A file of inputs in place of pictures, written by `numpy.savez`.
    pub inputs: Option<PathBuf>,
    /// The largest difference allowed, relative to the largest logit; without, what the manifest says, or [`TOLERANCE`].
    pub tolerance: Option<f64>,
    /// Changes to the preprocessing of both.
    pub overrides: Overrides,
}

/// What a comparison finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// How far the outputs lie apart.
    pub comparison: Comparison,
    /// The pictures or inputs that were run; none where the two cannot be compared.
    pub inputs: usize,
    /// The difference that was allowed.
    pub tolerance: f64,
}

impl VerifyJob {
    /// Compares them.
    ///
    /// # Errors
    /// When one cannot be read or run. That they differ is no error.
    pub fn run(&self, executor: &dyn Executor, listener: &mut dyn Listener) -> Result<Verdict> {
        let (source, against) =
            (ModelSource::Path(self.file.clone()), checkpoint_of(&self.against, self.last)?);
        let (file, model) = (self.load(&source, listener)?, self.load(&against, listener)?);
        let (mut found, proven) = match Manifest::read_beside(&self.file)? {
            Some(manifest) => self.check(&manifest, &file.model, &against)?,
            None => (Vec::new(), TOLERANCE),
        };
        let tolerance = self.tolerance.unwrap_or(proven);
        if self.inputs.is_none() {
            found.extend(disagreements(&file, &model));
        }
        found.iter().for_each(|what| listener.warning(&format!("{}: {what}", self.names())));
        let (mut comparison, inputs) = if self.comparable(&file, &model) {
            let (file, model) = (&file.model, &model.model);
            let inputs = match &self.inputs {
                Some(path) => Inputs::from_npz(path, &model.graph)?,
                None => {
                    let data = (self.data.as_deref(), &self.table);
                    proof_inputs(model, run_directory(&self.against), data, listener)?
                }
            };
            let batches = batches(&[file, model]);
            let (mut first, mut second) =
                (Inference::unfolded(model, executor)?, Inference::new(file, executor)?);
            (compare(&mut first, &mut second, &inputs, &batches, (tolerance, &model.metadata))?, inputs.len())
        } else {
            (Comparison::impossible(), 0)
        };
        comparison.ok &= found.is_empty();
        if !comparison.finite {
            listener.warning(&format!(
                "{}: one of them gives NaN or infinities, so it cannot be compared; `offshoot check` finds the layer",
                self.names()
            ));
        }
        Ok(Verdict { comparison, inputs, tolerance })
    }

    /// What the model is called in messages.
    pub fn against_name(&self) -> &Path {
        match &self.against {
            ModelSource::Path(path) => path,
            ModelSource::Pretrained { .. } => Path::new("the pretrained model"),
        }
    }

    /// What does not hold of the manifest beside the file, and the tolerance that the file was proven with.
    fn check(&self, manifest: &Manifest, file: &Model, against: &ModelSource) -> Result<(Vec<String>, f64)> {
        let (proof, tolerance) = manifest.check_proof(file);
        let mut found = manifest.check(&self.file)?;
        found.extend(proof);
        let sources = origins(against)?;
        let made_of = manifest.source_sha256.as_ref();
        if made_of.is_some_and(|made_of| !sources.iter().any(|source| source.eq_ignore_ascii_case(made_of))) {
            found.push(format!(
                "the manifest says that the file was made of another checkpoint than {}: its SHA-256 is not `source_sha256`",
                shown(against.path())
            ));
        }
        Ok((found, tolerance))
    }

    fn load(&self, source: &ModelSource, listener: &mut dyn Listener) -> Result<Loaded> {
        match self.inputs {
            Some(_) => source.load_any(),
            None => open_as_it_is(source, &self.overrides, listener),
        }
    }

    /// Whether the same inputs fit both, and their logits can be set side by side.
    fn comparable(&self, first: &Loaded, second: &Loaded) -> bool {
        let classes = |l: &Loaded| l.model.metadata.classes.len();
        let size = |l: &Loaded| l.model.metadata.preprocessing.size;
        classes(first) == classes(second) && (self.inputs.is_some() || size(first) == size(second))
    }

    /// The two models, for messages.
    fn names(&self) -> String {
        format!("{} and {}", shown(&self.file), shown(self.against_name()))
    }
}
