//! `offshoot verify`

use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{BATCHES, Inference, ModelSource, TOLERANCE, check_preprocessing, compare};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor};
use super::export::proof_inputs;
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The file to check.
    file: PathBuf,
    /// The model it must answer like.
    #[arg(long, value_name = "MODEL", required_unless_present = "model")]
    against: Option<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Pictures to compare on; by default the run's validation pictures, else some that are built in.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The largest difference, in parts of the largest logit.
    #[arg(long, default_value_t = TOLERANCE)]
    tolerance: f64,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (against, _) = self.pretrained.source(self.against.iter().cloned().collect())?;
        let executor = self.processor.executor()?;
        let overrides = self.preprocessing.overrides();
        let model = arguments::load(&against, &overrides)?.model;
        let file = arguments::load(&ModelSource::Path(self.file.clone()), &overrides)?.model;
        check_preprocessing(&file, &model)?;
        let run = self.against.as_deref().filter(|p| p.is_dir());
        let inputs = proof_inputs(&model, run, self.data.as_deref())?;
        let (mut first, mut second) = (Inference::new(&model, &executor)?, Inference::new(&file, &executor)?);
        let comparison = compare(&mut first, &mut second, &inputs, &BATCHES, self.tolerance)?;
        if self.json {
            print::json(&comparison)?;
        } else {
            let verdict = if comparison.ok { "answers like" } else { "DOES NOT answer like" };
            let against = self.against.as_deref().unwrap_or(Path::new("the pretrained model")).display();
            print::line(&format!("{} {verdict} {against}", self.file.display()))?;
            print::line(&format!("  largest difference  {:.3e}", comparison.max_abs_diff))?;
            print::line(&format!(
                "  of largest logit    {:.3e}  (tolerance {:e})",
                comparison.max_rel_diff, self.tolerance
            ))?;
            print::line(&format!("  smallest cosine     {:.9}", comparison.cosine))?;
            print::line(&format!(
                "  top-1 agreement     {:.4}  of {} pictures",
                comparison.top1_agreement,
                inputs.len()
            ))?;
            print::line(&format!("  batches             {:?}", comparison.batches))?;
        }
        if comparison.ok { Ok(()) } else { Err(Failure::Check) }
    }
}
