//! `offshoot export`

use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{
    CoreMlOptions, Dataset, EnginePrecision, Error, FolderOptions, Form, Inputs, Model, OnnxOptions,
    Precision, Profile, Proof, Recipe, Scheme, StoredWeights, TensorRtExport, TensorRtOptions, Transform,
    export_coreml, export_onnx, export_tensorrt, export_torchscript, export_triton, labelled,
    quantize_static, sha256,
};
use serde_json::{Value, json};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor};
use super::quantize::CalibrationArguments;
use super::{Failure, Outcome, print};

/// What `--format` takes.
const FORMATS: [&str; 5] = ["onnx", "torchscript", "coreml", "tensorrt", "triton"];

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL: a run directory, a .safetensors of ours, an .onnx or a TorchScript .pt.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// What to write: onnx, torchscript, coreml, tensorrt, triton.
    #[arg(long, value_name = "FORMAT,..", value_delimiter = ',', required = true)]
    format: Vec<String>,
    /// For torchscript: a file that prepares its pictures itself and has a method `classify`.
    #[arg(long)]
    script: bool,
    /// For onnx: the operator set, 13 to 21. 17 by default, 18 with --with-preprocess.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(13..=21))]
    opset: Option<i64>,
    /// For onnx: a file that prepares its pictures itself; it takes bytes [batch, height, width, 3] of any size.
    #[arg(long)]
    with_preprocess: bool,
    /// For coreml and tensorrt: f32, f16 (half the size of a package) or int8. For coreml that is int8 weights, computed with in
    /// f16; for tensorrt weights and activations in the explicit form that TensorRT takes, with ranges from pictures.
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = ["f32", "f16", "int8"])]
    precision: String,
    #[command(flatten)]
    calibration: CalibrationArguments,
    #[command(flatten)]
    batches: Batches,
    /// For tensorrt: NVIDIA's `trtexec`, which builds the engine; by default the one on PATH, if there is one.
    #[arg(long, value_name = "FILE")]
    trtexec: Option<PathBuf>,
    /// Pictures for the proof; by default the run's validation pictures, else some that are built in.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to write; by default the run's `exports`, else the model's folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The batches that a server gets.
#[derive(Args)]
struct Batches {
    /// For tensorrt: the smallest batch that the engine takes.
    #[arg(long, value_name = "N", default_value_t = Profile::default().min)]
    batch_min: usize,
    /// For tensorrt: the batch that the engine is tuned for.
    #[arg(long, value_name = "N", default_value_t = Profile::default().opt)]
    batch_opt: usize,
    /// For tensorrt and triton: the largest batch.
    #[arg(long, value_name = "N", default_value_t = Profile::default().max, value_parser = batch)]
    batch_max: usize,
}

fn batch(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1 << 16).contains(n)).ok_or_else(|| "give a number, 1 to 65536".into())
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        self.check_formats()?;
        let source = self.pretrained.only_source(&self.paths)?;
        let executor = self.processor.executor()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let run = arguments::run_directory(self.paths.first());
        let inputs = proof_inputs(&model, run, self.data.as_deref())?;
        let architecture = model.metadata.architecture.clone();
        let (out, stem) = arguments::destination(self.paths.first(), self.out.as_ref(), architecture)?;
        let source = source.checkpoint().and_then(|path| sha256(&path))?;
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: Some(&source) };
        let mut files = Vec::new();
        for format in &self.format {
            if format == "tensorrt" && self.precision == "int8" {
                files.push(self.export_int8_engine(&model, run, &out.join(&stem), proof)?);
                continue;
            }
            files.push(self.export(format, &model, &out.join(&stem), proof)?);
        }
        if self.json { print::json(&json!({"files": files})) } else { files.iter().try_for_each(text) }
    }

    /// Writes one file, or one folder of them. `stem` is its path without an ending.
    fn export(&self, format: &str, model: &Model, stem: &Path, proof: Proof<'_>) -> Result<Value, Failure> {
        let with = |ending: &str| {
            let mut name = stem.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let file = match format {
            "torchscript" => {
                let form = if self.script { Form::Scripted } else { Form::Traced };
                export_torchscript(model, &with(".pt"), form, proof)?
            }
            "coreml" => export_coreml(model, &with(".mlpackage"), self.coreml_options(), proof)?,
            "tensorrt" => {
                let options = self.tensorrt_options();
                let export = export_tensorrt(model, &with("-tensorrt"), &options, proof)?;
                self.say(&export);
                return Ok(json!(export));
            }
            "triton" => {
                let name = stem.file_name().and_then(|n| n.to_str()).unwrap_or("model");
                export_triton(model, &with("-triton"), name, self.batches.batch_max, proof)?
            }
            _ => export_onnx(model, &with(".onnx"), self.onnx_options(), proof)?,
        };
        Ok(json!(file))
    }

    /// An engine of the model quantised as TensorRT wants it.
    fn export_int8_engine(
        &self,
        model: &Model,
        run: Option<&Path>,
        stem: &Path,
        proof: Proof<'_>,
    ) -> Result<Value, Failure> {
        let pictures = self.calibration.pictures(model, run, self.data.as_deref())?;
        let options = self.calibration.options(Scheme::tensorrt());
        let mut say = |text: &str| eprintln!("{text}");
        let quantized = quantize_static(model, &pictures, &options, proof.executor, &mut say)?;
        if let (Some(now), Some(before)) = (quantized.accuracy, quantized.accuracy_before) {
            eprintln!("accuracy {now:.4} in int8, {before:.4} in float");
        }
        let mut folder = stem.as_os_str().to_owned();
        folder.push("-tensorrt");
        let export = export_tensorrt(&quantized.model, folder.as_ref(), &self.tensorrt_options(), proof)?;
        self.say(&export);
        let mut report = json!(export);
        report["accuracy"] = json!(quantized.accuracy);
        report["accuracy_before"] = json!(quantized.accuracy_before);
        Ok(report)
    }

    /// What became of the engine, on standard error.
    fn say(&self, export: &TensorRtExport) {
        match &export.engine {
            Some(engine) => eprintln!("built the engine {}", engine.display()),
            None => eprintln!(
                "no TensorRT here: no engine was built. Run build-engine.sh where the engine will run, which is\n  {}",
                export.command
            ),
        }
    }

    fn onnx_options(&self) -> OnnxOptions {
        let with_preprocess = self.with_preprocess;
        let opset = self.opset.unwrap_or(if with_preprocess { 18 } else { 17 });
        OnnxOptions { opset, with_preprocess, ..OnnxOptions::default() }
    }

    fn check_formats(&self) -> Result<(), Failure> {
        if let Some(format) = self.format.iter().find(|f| !FORMATS.contains(&f.as_str())) {
            let formats = FORMATS.join(", ");
            return Err(
                Error::Input(format!("--format {format} is no format; give some of {formats}")).into()
            );
        }
        if self.script && !self.format.iter().any(|f| f == "torchscript") {
            return Err(Error::Input("--script goes with --format torchscript".into()).into());
        }
        if self.with_preprocess && !self.format.iter().any(|f| f == "onnx") {
            return Err(Error::Input("--with-preprocess goes with --format onnx".into()).into());
        }
        Ok(())
    }

    fn coreml_options(&self) -> CoreMlOptions {
        let (precision, weights) = match self.precision.as_str() {
            "f32" => (Precision::F32, StoredWeights::Float),
            "int8" => (Precision::F16, StoredWeights::Int8),
            _ => (Precision::F16, StoredWeights::Float),
        };
        CoreMlOptions { precision, weights }
    }

    fn tensorrt_options(&self) -> TensorRtOptions {
        let precision = match self.precision.as_str() {
            "f32" => EnginePrecision::F32,
            "int8" => EnginePrecision::Int8,
            _ => EnginePrecision::F16,
        };
        let Batches { batch_min: min, batch_opt: opt, batch_max: max } = self.batches;
        TensorRtOptions { precision, profile: Profile { min, opt, max }, trtexec: self.trtexec.clone() }
    }
}

/// Pictures to compare on: those asked for, the run's validation pictures, or the built-in ones.
pub(crate) fn proof_inputs(
    model: &Model,
    run: Option<&Path>,
    data: Option<&Path>,
) -> Result<Inputs, Failure> {
    let preprocessing = &model.metadata.preprocessing;
    let decode = Transform::new(preprocessing)?.decode_options();
    if let Some(data) = data {
        let options = FolderOptions { decode, ..FolderOptions::default() };
        let found = labelled(data, &model.metadata.classes, &options)?;
        print::notes(&found.notes);
        print::skipped(&found.skipped);
        return Ok(Inputs::from_samples(found.samples, preprocessing)?);
    }
    let recipe = run.and_then(|run| Recipe::read(run).ok());
    // The pictures may have moved since; the built-in ones are always there.
    let samples = recipe.and_then(|r| Dataset::open(&r.data, &r.folder_options()).ok()).map(|d| d.val);
    match samples.filter(|s| !s.is_empty()) {
        Some(samples) => Ok(Inputs::from_samples(samples, preprocessing)?),
        None => {
            eprintln!("comparing on the built-in pictures; --data DIR compares on your own");
            Ok(Inputs::built_in(preprocessing)?)
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
