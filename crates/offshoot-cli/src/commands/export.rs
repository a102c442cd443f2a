//! `offshoot export`

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use offshoot::jobs::{self, ExportJob, ExportOptions};
use serde_json::{Value, json};

use super::arguments::{PreprocessingArguments, Pretrained, Processor, TableArguments, whole};
use super::printer::Printer;
use super::quantize::CalibrationArguments;
use super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL: a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Formats to write: onnx, torchscript, pt2, coreml, litert, tensorrt, triton, huggingface.
    #[arg(long, help_heading = "Output", value_name = "FORMAT,..", value_delimiter = ',', required = true)]
    format: Vec<String>,
    /// For torchscript: write a scripted module that does its own preprocessing and has a method `classify`.
    #[arg(long, help_heading = "Output")]
    script: bool,
    /// For onnx: opset version, 13 to 21 [default: 17; 18 with --with-preprocess].
    #[arg(long, help_heading = "Output", value_name = "N", value_parser = clap::value_parser!(i64).range(13..=21))]
    opset: Option<i64>,
    /// For onnx: put the preprocessing into the graph; the input is uint8 [batch, height, width, 3] of any size.
    #[arg(long, help_heading = "Output")]
    with_preprocess: bool,
    /// For coreml, tensorrt and litert: f32, f16 (half the size of a file) or int8 [default: f16; litert: f32]. For coreml int8
    /// means int8 weights with computation in f16; for tensorrt and litert quantization of weights and activations, with
    /// ranges from calibration pictures. For litert f16 means f16 weights with computation in f32. The other formats are f32.
    #[arg(long, help_heading = "Output", value_name = "TYPE", value_parser = ["f32", "f16", "int8"])]
    precision: Option<String>,
    #[command(flatten)]
    calibration: CalibrationArguments,
    #[command(flatten)]
    batches: Batches,
    /// For tensorrt: NVIDIA's `trtexec`, which builds the engine [default: the one on PATH, if there is one].
    #[arg(long, help_heading = "Execution", value_name = "FILE")]
    trtexec: Option<PathBuf>,
    /// Folder of pictures to compare the exported file on [default: the run's validation pictures, else built-in ones].
    #[arg(long, help_heading = "Data", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Output folder, or the file where one format is written [default: the run's `exports`, else the model's folder].
    #[arg(long, help_heading = "Output", value_name = "DIR|FILE")]
    out: Option<PathBuf>,
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

/// The batches that a server gets.
#[derive(Args)]
struct Batches {
    /// For tensorrt: smallest batch size of the engine [default: 1].
    #[arg(long, help_heading = "Output", value_name = "N", value_parser = whole::<usize>("batch_min"))]
    batch_min: Option<usize>,
    /// For tensorrt: batch size that the engine is tuned for [default: 8].
    #[arg(long, help_heading = "Output", value_name = "N", value_parser = whole::<usize>("batch_opt"))]
    batch_opt: Option<usize>,
    /// For tensorrt and triton: largest batch size [default: 32].
    #[arg(long, help_heading = "Output", value_name = "N", value_parser = whole::<usize>("batch_max"))]
    batch_max: Option<usize>,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let source = self.pretrained.only_source(&self.paths)?;
        let mut seen = HashSet::new();
        let formats = self.format.into_iter().filter(|format| seen.insert(format.clone())).collect();
        let Batches { batch_min, batch_opt, batch_max } = self.batches;
        let options = ExportOptions {
            script: self.script,
            opset: self.opset,
            with_preprocess: self.with_preprocess,
            precision: self.precision,
            calibration: self.calibration.options(),
            batches: jobs::Batches { min: batch_min, opt: batch_opt, max: batch_max },
            trtexec: self.trtexec,
        };
        let job = ExportJob {
            source,
            last: self.pretrained.last(),
            formats,
            options,
            data: self.data,
            table: self.table.table(),
            out: self.out,
            overrides: self.preprocessing.overrides(),
        };
        let files = job.run(&self.processor.device()?, &mut Printer::default())?;
        let files = json!(files);
        match (self.json, &files) {
            (false, Value::Array(files)) => files.iter().try_for_each(text),
            _ => print::json(&json!({"files": files})),
        }
    }
}

/// A file for people, from its JSON.
fn text(file: &Value) -> Outcome {
    let bytes = print::bytes(file["bytes"].as_u64().unwrap_or_default());
    print::line(&format!("{}  {bytes}", file["path"].as_str().unwrap_or_default()))?;
    let number = |key: &str| file[key].as_f64().unwrap_or(f64::NAN);
    let (diff, agree) = (number("max_abs_diff"), 100.0 * number("top1_agreement"));
    print::line(&format!(
        "  read back and compared: largest difference of a logit {diff:.2e}, top-1 agrees on {agree:.1} %"
    ))
}
