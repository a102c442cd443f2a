//! `offshoot verify`

use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{
    Comparison, Inference, Inputs, Loaded, Manifest, Model, ModelSource, TOLERANCE, batches, compare,
    disagreements, origins,
};
use offshoot_graph::text::shown;

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor};
use super::export::proof_inputs;
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// File to check.
    file: PathBuf,
    /// Model whose outputs it must reproduce.
    #[arg(
        long,
        help_heading = "Model",
        value_name = "MODEL",
        required_unless_present = "model",
        conflicts_with = "model"
    )]
    against: Option<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Folder of pictures to compare on [default: the run's validation pictures, else built-in ones].
    #[arg(long, help_heading = "Data", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Inputs to compare on in place of pictures: the array `input` of a file of numpy.savez, or its only one. The
    /// models may then take any inputs.
    #[arg(long, help_heading = "Data", value_name = "FILE.npz", conflicts_with_all = ["data", "size", "fit", "mean", "std"])]
    inputs: Option<PathBuf>,
    /// Largest difference allowed, relative to the largest logit [default: the tolerance in the file's manifest, else
    /// 1e-4].
    #[arg(long, help_heading = "Output", value_name = "X", value_parser = tolerance)]
    tolerance: Option<f64>,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (against, _) = self.pretrained.source(self.against.iter().cloned().collect())?;
        let executor = self.processor.device()?;
        let (file, model) = (self.load(&ModelSource::Path(self.file.clone()))?, self.load(&against)?);
        let manifest = Manifest::read_beside(&self.file)?;
        let (mut disagreements, proven) = match manifest {
            Some(manifest) => self.check(&manifest, &file.model, &against)?,
            None => (Vec::new(), TOLERANCE),
        };
        let tolerance = self.tolerance.unwrap_or(proven);
        if self.inputs.is_none() {
            disagreements.extend(self::disagreements(&file, &model));
        }
        disagreements.iter().for_each(|what| print::warning(&format!("{}: {what}", self.names())));
        let (mut comparison, pictures) = if self.comparable(&file, &model) {
            let (file, model) = (&file.model, &model.model);
            let inputs = match &self.inputs {
                Some(path) => Inputs::from_npz(path, &model.graph)?,
                None => {
                    let run = arguments::run_directory(self.against.as_ref());
                    proof_inputs(model, run, self.data.as_deref())?
                }
            };
            let batches = batches(&[file, model]);
            let (mut first, mut second) =
                (Inference::unfolded(model, &executor)?, Inference::new(file, &executor)?);
            (compare(&mut first, &mut second, &inputs, &batches, tolerance)?, inputs.len())
        } else {
            (Comparison::impossible(), 0)
        };
        comparison.ok &= disagreements.is_empty();
        if !comparison.finite {
            print::warning(&format!(
                "{}: one of them gives NaN or infinities, so it cannot be compared; `offshoot check` finds the layer",
                self.names()
            ));
        }
        print::verdict(self.print(&comparison, pictures, tolerance), comparison.ok)
    }

    /// What does not hold of the manifest beside the file, and the tolerance that the file was proven with.
    fn check(
        &self,
        manifest: &Manifest,
        file: &Model,
        against: &ModelSource,
    ) -> Result<(Vec<String>, f64), Failure> {
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

    fn load(&self, source: &ModelSource) -> Result<Loaded, Failure> {
        match self.inputs {
            Some(_) => Ok(source.load_any()?),
            None => arguments::load_as_it_is(source, &self.preprocessing.overrides()),
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
        format!("{} and {}", shown(&self.file), shown(self.against()))
    }

    fn against(&self) -> &Path {
        self.against.as_deref().unwrap_or(Path::new("the pretrained model"))
    }

    fn print(&self, comparison: &Comparison, pictures: usize, tolerance: f64) -> Outcome {
        if self.json {
            return print::json(comparison);
        }
        let verdict = if comparison.ok { "matches" } else { "DOES NOT match" };
        print::line(&format!("{} {verdict} {}", shown(&self.file), shown(self.against())))?;
        if pictures == 0 {
            return Ok(());
        }
        print::line(&format!("  largest difference  {:.3e}", comparison.max_abs_diff))?;
        print::line(&format!(
            "  of largest logit    {:.3e}  (tolerance {:e})",
            comparison.max_rel_diff, tolerance
        ))?;
        print::line(&format!("  smallest cosine     {:.9}", comparison.cosine))?;
        print::line(&format!(
            "  top-1 agreement     {:.4}  of {} {}",
            comparison.top1_agreement,
            pictures,
            if self.inputs.is_some() { "inputs" } else { "pictures" }
        ))?;
        print::line(&format!("  batches             {:?}", comparison.batches))
    }
}

fn tolerance(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite() && *x > 0.0)
        .ok_or_else(|| "give a number above 0".into())
}
