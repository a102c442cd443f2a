//! `offshoot quantize`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use offshoot::jobs::{CalibrationOptions, Int8File, QuantizeJob, QuantizeMode};
use offshoot::{Method, Quantized, WeightBits};
use offshoot_graph::text::shown;

use super::arguments::{PreprocessingArguments, Pretrained, Processor, TableArguments};
use super::printer::Printer;
use super::{Outcome, print};

/// How the integers come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Weights and activations, with ranges from calibration pictures. For convolutional networks.
    Static,
    /// Weights of linear layers and LSTMs, and embedding tables; ranges of activations are computed at run time. For
    /// transformers, text and sound.
    Dynamic,
}

/// The file of a model in dynamic int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An ONNX file, for any ONNX runtime.
    Onnx,
    /// offshoot's own file, with PyTorch's state-dict keys.
    Safetensors,
}

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL: a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder. For --mode dynamic any ONNX file,
    /// of text or sound too.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Quantization mode.
    #[arg(long, help_heading = "Output", value_enum)]
    mode: Mode,
    /// For dynamic: file format.
    #[arg(long, help_heading = "Output", value_enum, default_value_t = Format::Onnx)]
    format: Format,
    #[command(flatten)]
    calibration: CalibrationArguments,
    /// Bits of the quantized weights: 7 is exact on every processor; 8 is finer, and exact where there are 8-bit dot
    /// products (VNNI, ARM) or on a GPU [default: 7].
    #[arg(long, help_heading = "Output", value_name = "7|8", value_parser = ["7", "8"])]
    weight_bits: Option<String>,
    /// Largest drop in accuracy allowed, such as 0.01: the operators that lose most are kept in float until it is met.
    #[arg(long, help_heading = "Output", value_name = "PART", value_parser = part)]
    max_drop: Option<f64>,
    /// Epochs of quantization-aware training, on the run's training pictures or those of --calibration; with --max-drop
    /// only where the drop is larger without it.
    #[arg(long, help_heading = "Optimization", value_name = "EPOCHS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    qat: u64,
    /// Folder of pictures with classes to measure accuracy on [default: the run's validation pictures].
    #[arg(long, help_heading = "Data", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Output folder, or the file [default: the run's `exports`, else the model's folder].
    #[arg(long, help_heading = "Output", value_name = "DIR|FILE")]
    out: Option<PathBuf>,
    /// ONNX opset version, 13 to 21 [default: 17].
    #[arg(long, help_heading = "Output", value_name = "N", value_parser = clap::value_parser!(i64).range(13..=21))]
    opset: Option<i64>,
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

/// What ranges are found from.
#[derive(Args)]
pub(crate) struct CalibrationArguments {
    /// Folder of calibration pictures like those that the model was trained on, in class folders or not; of a folder
    /// with `train`, those in it [default: the run's training pictures].
    #[arg(long, help_heading = "Data", value_name = "DIR")]
    calibration: Option<PathBuf>,
    /// Maximum number of calibration pictures [default: 128].
    #[arg(long, help_heading = "Data", value_name = "N", value_parser = count)]
    calibration_pictures: Option<usize>,
    /// How the range of an activation is chosen: minmax, percentile, entropy or mse [default: mse].
    #[arg(long, help_heading = "Data", value_name = "METHOD")]
    method: Option<Method>,
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=100_000).contains(n)).ok_or_else(|| "give a number, 1 to 100000".into())
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x| (0.0..=1.0).contains(x));
    number.ok_or_else(|| "give a fraction below 1, such as 0.01".into())
}

impl CalibrationArguments {
    pub(crate) fn options(&self) -> CalibrationOptions {
        CalibrationOptions {
            folder: self.calibration.clone(),
            pictures: self.calibration_pictures,
            method: self.method,
        }
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let bits = |bits: &str| if bits == "8" { WeightBits::Eight } else { WeightBits::Seven };
        let job = QuantizeJob {
            source: self.pretrained.only_source(&self.paths)?,
            last: self.pretrained.last(),
            mode: match self.mode {
                Mode::Static => QuantizeMode::Static,
                Mode::Dynamic => QuantizeMode::Dynamic,
            },
            format: match self.format {
                Format::Onnx => Int8File::Onnx,
                Format::Safetensors => Int8File::Safetensors,
            },
            calibration: self.calibration.options(),
            weight_bits: self.weight_bits.as_deref().map(bits),
            max_drop: self.max_drop,
            qat: self.qat,
            data: self.data,
            table: self.table.table(),
            out: self.out,
            opset: self.opset,
            overrides: self.preprocessing.overrides(),
        };
        let report = job.run(&self.processor.device()?, &mut Printer::default())?;
        if self.json { print::json(&report) } else { text(&report) }
    }
}

fn text(report: &Quantized) -> Outcome {
    let (now, before) = (print::bytes(report.bytes), print::bytes(report.bytes_before));
    print::line(&format!("{}  {now}, {before} in float", shown(&report.path)))?;
    match report.measured.figures() {
        Some((figure, now, before)) => print::line(&format!("  {figure} {now:.4}, {before:.4} in float"))?,
        None => print::line("  accuracy not measured; --data DIR measures it")?,
    }
    match &report.kept_float[..] {
        [] => print::line("  every operator that can be quantized is in int8"),
        kept => print::line(&format!("  kept in float: {}", kept.join(", "))),
    }
}
