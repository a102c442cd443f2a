//! `offshoot quantize`

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use offshoot::{
    Error, FolderOptions, Method, Model, OnnxOptions, Proof, QuantizePictures, Quantized, RunPictures,
    Scheme, StaticOptions, Transform, WeightBits, export_static, is_coreml_package, labelled, pictures,
    quantize_static, sha256,
};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor};
use super::export::proof_inputs;
use super::{Failure, Outcome, print};

/// How the integers come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Weights and activations, with ranges that some pictures show. For convolutional networks.
    Static,
}

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL: a run directory, a .safetensors of ours, an .onnx or a TorchScript .pt.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// How.
    #[arg(long, value_enum)]
    mode: Mode,
    #[command(flatten)]
    calibration: CalibrationArguments,
    /// The bits of weights: 7 is right on every processor, 8 is finer, and right where there are 8-bit dot products (VNNI,
    /// ARM) or a GPU.
    #[arg(long, value_name = "7|8", default_value = "7", value_parser = ["7", "8"])]
    weight_bits: String,
    /// The accuracy that may be lost, such as 0.01: the operators that cost most stay in float until no more is.
    #[arg(long, value_name = "PART", value_parser = part)]
    max_drop: Option<f64>,
    /// Epochs of training through the rounding, on the run's training pictures or those of --calibration.
    #[arg(long, value_name = "EPOCHS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    qat: u64,
    /// Pictures with classes to measure the accuracy on; by default the run's validation pictures.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to write; by default the run's `exports`, else the model's folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The operator set of the file, 13 to 21.
    #[arg(long, value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(i64).range(13..=21))]
    opset: i64,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What ranges are found from.
#[derive(Args)]
pub(crate) struct CalibrationArguments {
    /// Pictures like those that the model was trained with, in folders or not (of a folder with `train`, those in it); by
    /// default the run's training pictures.
    #[arg(long, value_name = "DIR")]
    calibration: Option<PathBuf>,
    /// The most pictures to calibrate on.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count)]
    calibration_pictures: usize,
    /// How the range of an activation is chosen: minmax, percentile, entropy or mse.
    #[arg(long, value_name = "METHOD", default_value_t = Method::default())]
    method: Method,
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=100_000).contains(n)).ok_or_else(|| "give a number, 1 to 100000".into())
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x| (0.0..=1.0).contains(x));
    number.ok_or_else(|| "give a part of 1, such as 0.01".into())
}

impl CalibrationArguments {
    /// The options of a scheme.
    pub(crate) fn options(&self, scheme: Scheme) -> StaticOptions {
        StaticOptions {
            scheme,
            method: self.method,
            pictures: self.calibration_pictures,
            ..StaticOptions::default()
        }
    }

    /// The pictures to calibrate and to measure on: those that were asked for, else those of the run.
    pub(crate) fn pictures(
        &self,
        model: &Model,
        run: Option<&Path>,
        data: Option<&Path>,
    ) -> Result<QuantizePictures, Failure> {
        let classes = &model.metadata.classes;
        let decode = Transform::new(&model.metadata.preprocessing)?.decode_options();
        let folder = FolderOptions { decode, ..FolderOptions::default() };
        let mut found = QuantizePictures::default();
        if let Some(run) = run.filter(|_| self.calibration.is_none() || data.is_none()) {
            let of_run = RunPictures::read(run, classes)?;
            found.calibration = of_run.train.iter().map(|sample| sample.path.clone()).collect();
            (found.train, found.measured) = (of_run.train, of_run.val);
        }
        if let Some(folders) = &self.calibration {
            let train = folders.join("train");
            let folders = if train.is_dir() { &train } else { folders };
            found.calibration = pictures(&[folders], &folder)?.paths;
            found.train = labelled(folders, classes, &folder).map(|found| found.samples).unwrap_or_default();
        }
        if let Some(data) = data {
            found.measured = labelled(data, classes, &folder)?.samples;
        }
        if found.calibration.is_empty() {
            let text = "a static quantisation looks at pictures: give --calibration DIR with some like those that the model was trained with, or a run directory";
            return Err(Error::Input(text.into()).into());
        }
        Ok(found)
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (source, rest) = self.pretrained.source(self.paths.clone())?;
        if let Some(extra) = rest.first() {
            return Err(Error::Input(format!("one model at a time; what is {} for?", extra.display())).into());
        }
        let Mode::Static = self.mode;
        let executor = self.processor.executor()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let run = self.paths.first().filter(|p| p.is_dir() && !is_coreml_package(p)).map(PathBuf::as_path);
        let bits = if self.weight_bits == "8" { WeightBits::Eight } else { WeightBits::Seven };
        let options = StaticOptions {
            max_drop: self.max_drop,
            qat_epochs: self.qat,
            ..self.calibration.options(Scheme::cpu(bits))
        };
        let pictures = self.calibration.pictures(&model, run, self.data.as_deref())?;
        let mut say = |text: &str| eprintln!("{text}");
        let quantized = quantize_static(&model, &pictures, &options, &executor, &mut say)?;
        let inputs = proof_inputs(&model, run, self.data.as_deref())?;
        let source = source.checkpoint().and_then(|path| sha256(&path))?;
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: Some(&source) };
        let path = self.path(&model, run)?;
        let onnx = OnnxOptions { opset: self.opset, ..OnnxOptions::default() };
        let report = export_static(quantized, &model, &path, onnx, proof)?;
        if self.json { print::json(&report) } else { text(&report) }
    }

    /// The file to write, in a folder that is there.
    fn path(&self, model: &Model, run: Option<&Path>) -> Result<PathBuf, Failure> {
        let first = self.paths.first();
        let folder = match (&self.out, run, first.and_then(|p| p.parent())) {
            (Some(out), _, _) => out.clone(),
            (None, Some(run), _) => run.join("exports"),
            (None, None, Some(parent)) => parent.to_owned(),
            (None, None, None) => PathBuf::new(),
        };
        std::fs::create_dir_all(&folder).map_err(|source| Error::Io {
            path: folder.clone(),
            action: "create",
            source,
        })?;
        let file = || first?.file_stem()?.to_str().map(str::to_owned);
        let stem = model.metadata.architecture.clone().or_else(file).unwrap_or_else(|| "model".into());
        Ok(folder.join(format!("{stem}-int8.onnx")))
    }
}

fn text(report: &Quantized) -> Outcome {
    let (now, before) = (print::bytes(report.bytes), print::bytes(report.bytes_before));
    print::line(&format!("{}  {now}, {before} in float", report.path.display()))?;
    match (report.accuracy, report.accuracy_before) {
        (Some(now), Some(before)) => print::line(&format!("  accuracy {now:.4}, {before:.4} in float"))?,
        _ => print::line("  accuracy not measured; --data DIR measures it")?,
    }
    match &report.kept_float[..] {
        [] => print::line("  every operator that can be is in integers"),
        kept => print::line(&format!("  kept in float: {}", kept.join(", "))),
    }
}
