//! `offshoot verify`

use std::path::PathBuf;

use clap::Args;
use offshoot::jobs::{Verdict, VerifyJob};
use offshoot_graph::text::shown;

use super::arguments::{PreprocessingArguments, Pretrained, Processor, TableArguments};
use super::printer::Printer;
use super::{Outcome, print};

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
    table: TableArguments,
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
        let against = self.pretrained.only_source(self.against.as_slice())?;
        let job = VerifyJob {
            file: self.file,
            against,
            last: self.pretrained.last(),
            data: self.data,
            table: self.table.table(),
            inputs: self.inputs,
            tolerance: self.tolerance,
            overrides: self.preprocessing.overrides(),
        };
        let verdict = job.run(&self.processor.device()?, &mut Printer::default())?;
        let printed = if self.json { print::json(&verdict.comparison) } else { text(&job, &verdict) };
        print::verdict(printed, verdict.comparison.ok)
    }
}

fn text(job: &VerifyJob, verdict: &Verdict) -> Outcome {
    let Verdict { comparison, inputs, tolerance } = verdict;
    let word = if comparison.ok { "matches" } else { "DOES NOT match" };
    print::line(&format!("{} {word} {}", shown(&job.file), shown(job.against_name())))?;
    if *inputs == 0 {
        return Ok(());
    }
    print::line(&format!("  largest difference  {:.3e}", comparison.max_abs_diff))?;
    print::line(&format!(
        "  of largest logit    {:.3e}  (tolerance {tolerance:e})",
        comparison.max_rel_diff
    ))?;
    print::line(&format!("  smallest cosine     {:.9}", comparison.cosine))?;
    print::line(&format!(
        "  top-1 agreement     {:.4}  of {inputs} {}",
        comparison.top1_agreement,
        if job.inputs.is_some() { "inputs" } else { "pictures" }
    ))?;
    print::line(&format!("  batches             {:?}", comparison.batches))
}

fn tolerance(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite() && *x > 0.0)
        .ok_or_else(|| "give a number above 0".into())
}
