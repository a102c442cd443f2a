//! `offshoot bench`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use offshoot::{Amp, BenchOptions, Error, Freeze, Timing, TrainBenchOptions, bench_infer, bench_train};

use super::arguments::{Processor, whole};
use super::{Outcome, bench_formats, print};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure inference speed.
    Infer(InferOptions),
    /// Measure the speed of a training step, the same that `train` runs.
    Train(TrainOptions),
    /// Compare all export targets of a model that this machine can run: speed, size, accuracy, difference.
    Formats(Box<bench_formats::Arguments>),
}

#[derive(Args)]
struct Options {
    /// Architecture, with random weights; for `bench infer` also a model file.
    #[arg(long, help_heading = "Model", value_name = "NAME|FILE")]
    model: String,
    /// Batch size.
    #[arg(long, help_heading = "Data", value_name = "N", default_value_t = 16, value_parser = whole::<usize>("batch"))]
    batch: usize,
    /// Input size in pixels (height and width) [default: the architecture's own].
    #[arg(long, help_heading = "Data", value_name = "PIXELS", value_parser = whole::<usize>("preprocessing.size"))]
    size: Option<usize>,
    /// Number of timed steps; the median is reported.
    #[arg(long, help_heading = "Execution", value_name = "N", default_value_t = 5, value_parser = whole::<usize>("runs"))]
    runs: usize,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Args)]
struct InferOptions {
    #[command(flatten)]
    options: Options,
    /// For a model file that takes no pictures: its input arrays, a file of numpy.savez, of which `--batch` rows are
    /// run.
    #[arg(long, help_heading = "Data", value_name = "FILE.npz", conflicts_with = "size")]
    inputs: Option<PathBuf>,
}

#[derive(Args)]
struct TrainOptions {
    #[command(flatten)]
    options: Options,
    /// Parameters to freeze: backbone, none, or patterns on parameter names.
    #[arg(long, help_heading = "Model", value_name = "WHAT", default_value = "none")]
    freeze: String,
    /// Mixed precision: off, bf16 or fp16.
    #[arg(long, help_heading = "Execution", value_name = "MODE", default_value_t)]
    amp: Amp,
    /// Write the initial weights and the batch to a safetensors file, so that another program can run the same steps.
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    dump: Option<PathBuf>,
}

impl Options {
    fn bench(&self, inputs: Option<PathBuf>) -> BenchOptions {
        let Options { model, batch, size, runs, .. } = self;
        BenchOptions { model: model.clone(), batch: *batch, size: *size, runs: *runs, inputs }
    }

    fn print(&self, what: &str, timing: &Timing, unit: &str) -> Outcome {
        if self.json {
            return print::json(timing);
        }
        let Timing { images_per_second, milliseconds, cpu, threads, .. } = timing;
        let memory = timing.peak_mib.map_or(String::new(), |mib| format!(", peak {mib:.0} MiB"));
        print::line(&format!(
            "{what} {} batch {}: {images_per_second:.1} {unit}/s, {milliseconds:.1} ms a step{memory} ({cpu}, {threads} threads)",
            self.model, self.batch
        ))
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        match self.what {
            What::Infer(InferOptions { options, inputs }) => {
                let unit = if inputs.is_some() { "inputs" } else { "images" };
                let timing = bench_infer(&options.bench(inputs), &options.processor.device()?)?;
                options.print("infer", &timing, unit)
            }
            What::Train(TrainOptions { options, freeze, amp, dump }) => {
                let freeze: Freeze = freeze.parse().map_err(|e| Error::Input(format!("--freeze: {e}")))?;
                let train = TrainBenchOptions { freeze, amp, dump };
                let timing = bench_train(&options.bench(None), &train, &options.processor.device()?)?;
                options.print("train", &timing, "images")
            }
            What::Formats(arguments) => arguments.run(),
        }
    }
}
