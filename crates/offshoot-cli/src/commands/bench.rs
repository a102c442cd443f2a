//! `offshoot bench`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use offshoot::{
    Amp, BenchOptions, Error, Freeze, OperatorTime, Timing, TrainBenchOptions, bench_infer, bench_train,
    by_kernel,
};

use super::arguments::{PrecisionArgument, Processor, whole};
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
    /// Measure each operator too: its kernel, its share of the time, and its rates beside the machine's peaks.
    #[arg(long, help_heading = "Output")]
    profile: bool,
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
    #[command(flatten)]
    precision: PrecisionArgument,
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
        let &Options { ref model, batch, size, runs, profile, .. } = self;
        BenchOptions { model: model.clone(), batch, size, runs, inputs, profile }
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
        ))?;
        sent(timing)?;
        if self.profile { operators(timing) } else { Ok(()) }
    }
}

/// What processes that share a step send each other.
fn sent(timing: &Timing) -> Outcome {
    let Some(gradients) = timing.gradient_bytes else { return Ok(()) };
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let sent = timing.sent_bytes.iter().map(|(size, bytes)| format!("{} of {size}", megabytes(*bytes)));
    let sent: Vec<String> = sent.collect();
    print::line(&format!(
        "gradients {}; for an update, one of several processes sends: {}",
        megabytes(gradients),
        sent.join(", ")
    ))
}

/// The nodes that are listed.
const SLOWEST: usize = 15;

/// Where the time goes: by operator and kernel, then the slowest nodes, then what the machine can do.
fn operators(timing: &Timing) -> Outcome {
    let head = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let rates = |milliseconds: f64, gflops: f64, gbytes: f64| {
        let share = 100.0 * milliseconds / timing.milliseconds;
        let gflops = if gflops > 0.0 { format!("{gflops:.1}") } else { String::new() };
        [format!("{milliseconds:.3}"), format!("{share:.1} %"), gflops, format!("{gbytes:.1}")]
    };
    let mut rows = vec![head(&["operator", "kernel", "steps", "ms", "share", "GFLOP/s", "GB/s"])];
    for sum in by_kernel(&timing.operators) {
        let mut row = vec![sum.operator.to_owned(), sum.kernel.to_owned(), sum.steps.to_string()];
        row.extend(rates(sum.milliseconds, sum.gflops, sum.gbytes));
        rows.push(row);
    }
    print::line("")?;
    print::table(&rows, 2)?;

    let mut slowest: Vec<&OperatorTime> = timing.operators.iter().collect();
    slowest.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    let mut rows = vec![head(&["slowest nodes", "operator", "kernel", "ms", "share", "GFLOP/s", "GB/s"])];
    for step in slowest.into_iter().take(SLOWEST) {
        let mut row = vec![step.node.clone(), step.operator.to_owned(), step.kernel.to_owned()];
        row.extend(rates(step.milliseconds, step.gflops, step.gbytes));
        rows.push(row);
    }
    print::line("")?;
    print::table(&rows, 3)?;

    let (Some(gflops), Some(gbytes)) = (timing.peak_gflops, timing.peak_gbytes) else { return Ok(()) };
    print::line("")?;
    print::line(&format!(
        "this machine's peaks: {gflops:.0} GFLOP/s (f32 multiply-adds), {gbytes:.1} GB/s (a copy in memory)"
    ))
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        match self.what {
            What::Infer(InferOptions { options, inputs, precision }) => {
                let unit = if inputs.is_some() { "inputs" } else { "images" };
                let timing = bench_infer(&options.bench(inputs), &precision.device(&options.processor)?)?;
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
