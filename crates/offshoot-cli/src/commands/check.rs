//! `offshoot check`

use std::path::PathBuf;

use clap::Args;
use offshoot::health::{self, Block, CheckReport};
use offshoot::{Transform, labelled};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor, TableArguments};
use super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL (a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder) and DATA (a folder with one
    /// folder of pictures for each class, or a table of pictures).
    #[arg(value_name = "MODEL DATA", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    table: TableArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (source, rest) = self.pretrained.source(self.paths)?;
        let data = arguments::data(rest)?.ok_or_else(arguments::no_data)?;
        let executor = self.processor.device()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let decode = Transform::new(&model.metadata.preprocessing)?.decode_options();
        let found = labelled(&data, &model.metadata.classes, &self.table.options(decode, &model.metadata))?;
        print::notes(&found.notes);
        let bar = print::bar(found.samples.len() as u64, "check");
        let pictures =
            health::Pictures { samples: found.samples, skipped: found.skipped, absent: found.absent };
        let report = health::check(&model, pictures, &executor, |done| bar.set_position(done))?;
        bar.finish_and_clear();
        let printed = if self.json { print::json(&report) } else { show(&report) };
        print::verdict(printed, report.healthy)
    }
}

fn show(report: &CheckReport) -> Outcome {
    let CheckReport { images, unreadable, probed, input, loss, guess, gradient_norm, .. } = report;
    print::line(&format!(
        "images         {images} ({unreadable} unreadable), {probed} run through the network"
    ))?;
    print::line(&format!("network input  {input}"))?;
    print::line(&format!("loss           {loss:.4} (random guessing: {guess:.4})"))?;
    print::line(&format!("gradient norm  {gradient_norm:.4e}"))?;
    blocks(&report.blocks)?;
    report.notes.iter().try_for_each(|note| print::line(&format!("note: {note}")))?;
    report.problems.iter().try_for_each(|problem| print::line(&format!("problem: {problem}")))?;
    match report.problems.len() {
        0 => print::line("healthy"),
        1 => print::line("1 problem"),
        n => print::line(&format!("{n} problems")),
    }
}

fn blocks(blocks: &[Block]) -> Outcome {
    let width = print::widest(blocks.iter().map(|block| &*block.name)).max(5);
    print::line(&format!(
        "{:width$}  {:>10}  {:>10}  {:>10}  {:>11}  {:>13}",
        "block", "parameters", "min", "max", "weight norm", "gradient norm"
    ))?;
    blocks.iter().try_for_each(|Block { name, parameters, weights, weight_norm, gradient_norm }| {
        let (name, min, max) = (print::padded(name, width), weights.min, weights.max);
        print::line(&format!(
            "{name}  {parameters:>10}  {min:>10.3e}  {max:>10.3e}  {weight_norm:>11.4e}  {gradient_norm:>13.4e}"
        ))
    })
}
