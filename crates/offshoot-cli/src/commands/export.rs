//! `offshoot export`

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{
    CoreMlOptions, Dataset, EnginePrecision, Error, FolderOptions, Form, Inputs, LiteRtOptions,
    LiteRtWeights, Model, OnnxOptions, Precision, Profile, Proof, Recipe, Scheme, StoredWeights,
    TensorRtExport, TensorRtOptions, Transform, check_replaceable, export_coreml, export_litert, export_onnx,
    export_pt2, export_tensorrt, export_torchscript, export_triton, labelled, origin, quantize_static,
    trtexec_program,
};
use offshoot_graph::text::shown;
use serde_json::{Value, json};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor, whole};
use super::destination::Destination;
use super::quantize::CalibrationArguments;
use super::{Failure, Outcome, print};

/// What `--format` takes.
const FORMATS: [&str; 7] = ["onnx", "torchscript", "pt2", "coreml", "litert", "tensorrt", "triton"];

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL: a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt or a .pt2.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Formats to write: onnx, torchscript, pt2, coreml, litert, tensorrt, triton.
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

impl Batches {
    fn profile(&self) -> Profile {
        let Profile { min, opt, max } = Profile::default();
        let (min, opt) = (self.batch_min.unwrap_or(min), self.batch_opt.unwrap_or(opt));
        Profile { min, opt, max: self.batch_max.unwrap_or(max) }
    }
}

/// A flag that some formats take.
struct Flag {
    name: &'static str,
    given: bool,
    formats: &'static [&'static str],
}

/// The extension of a format's file; `None` where it is a folder of files.
fn ending(format: &str) -> Option<&'static str> {
    match format {
        "onnx" => Some("onnx"),
        "torchscript" => Some("pt"),
        "pt2" => Some("pt2"),
        "coreml" => Some("mlpackage"),
        "litert" => Some("tflite"),
        _ => None,
    }
}

/// Whether a format's int8 has ranges from calibration pictures.
fn calibrates(format: &str) -> bool {
    matches!(format, "tensorrt" | "litert")
}

impl Arguments {
    pub(crate) fn run(mut self) -> Outcome {
        self.check_formats()?;
        let mut seen = HashSet::new();
        self.format.retain(|format| seen.insert(format.clone()));
        let source = self.pretrained.only_source(&self.paths)?;
        self.trtexec.as_deref().map(trtexec_program).transpose()?;
        let formats: Vec<_> = self.format.iter().map(|f| (f.as_str(), ending(f))).collect();
        let out = Destination::new(self.paths.first(), self.out.as_ref(), &formats)?;
        let executor = self.processor.device()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let run = arguments::run_directory(self.paths.first());
        let out = out.make(model.metadata.architecture.as_deref())?;
        for ending in self.format.iter().filter_map(|format| ending(format)) {
            check_replaceable(&out.path(&format!(".{ending}"))?)?;
        }
        let inputs = proof_inputs(&model, run, self.data.as_deref())?;
        let (path, source) = (source.path().to_owned(), origin(&source)?);
        out.mention_others(&path, &source);
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: Some(&source), float: None };
        let mut files = Vec::new();
        for format in &self.format {
            if calibrates(format) && self.precision() == "int8" {
                files.push(self.export_int8(format, &model, run, &out, proof)?);
                continue;
            }
            files.push(self.export(format, &model, &out, proof)?);
        }
        if self.json { print::json(&json!({"files": files})) } else { files.iter().try_for_each(text) }
    }

    fn precision(&self) -> &str {
        self.precision.as_deref().unwrap_or("f16")
    }

    /// Writes one file, or one folder of them.
    fn export(
        &self,
        format: &str,
        model: &Model,
        out: &Destination,
        proof: Proof<'_>,
    ) -> Result<Value, Failure> {
        let file = match format {
            "torchscript" => {
                let form = if self.script { Form::Scripted } else { Form::Traced };
                export_torchscript(model, &out.path(".pt")?, form, proof)?
            }
            "litert" => export_litert(model, &out.path(".tflite")?, self.litert_options(), proof)?,
            "pt2" => export_pt2(model, &out.path(".pt2")?, proof)?,
            "coreml" => export_coreml(model, &out.path(".mlpackage")?, self.coreml_options(), proof)?,
            "tensorrt" => {
                let options = self.tensorrt_options();
                let export = export_tensorrt(model, &out.path("-tensorrt")?, &options, proof)?;
                self.say(&export);
                return Ok(json!(export));
            }
            "triton" => {
                let most = self.batches.profile().max;
                export_triton(model, &out.path("-triton")?, out.stem(), most, proof)?
            }
            _ => export_onnx(model, &out.path(".onnx")?, self.onnx_options(), proof)?,
        };
        Ok(json!(file))
    }

    /// A file of the model quantized as its format wants it.
    fn export_int8(
        &self,
        format: &str,
        model: &Model,
        run: Option<&Path>,
        out: &Destination,
        proof: Proof<'_>,
    ) -> Result<Value, Failure> {
        let pictures = self.calibration.pictures(model, run, self.data.as_deref())?;
        let scheme = match format {
            "litert" => Scheme::litert(),
            _ => Scheme::tensorrt(),
        };
        let options = self.calibration.options(scheme);
        let mut say = |text: &str| print::aside(text);
        let quantized = quantize_static(model, &pictures, &options, proof.executor, &mut say)?;
        if let (Some(now), Some(before)) = (quantized.accuracy, quantized.accuracy_before) {
            print::aside(&format!("accuracy {now:.4} in int8, {before:.4} in float"));
        }
        let mut report = self.export(format, &quantized.model, out, Proof { float: Some(model), ..proof })?;
        report["accuracy"] = json!(quantized.accuracy);
        report["accuracy_before"] = json!(quantized.accuracy_before);
        Ok(report)
    }

    /// What became of the engine, on standard error.
    fn say(&self, export: &TensorRtExport) {
        match &export.engine {
            Some(engine) => print::aside(&format!("built the engine {}", shown(engine))),
            None => print::aside_lines(&format!(
                "no TensorRT here: no engine was built. Run build-engine.sh where the engine will run, which is\n  {}",
                export.command
            )),
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
            return Err(Error::Input(format!(
                "--format {format} is no format; give one or more of {formats}"
            ))
            .into());
        }
        let strays = self.format.iter().flat_map(|format| self.flags().map(|flag| (format, flag)));
        match strays.into_iter().find(|(format, flag)| flag.given && !flag.formats.contains(&format.as_str()))
        {
            None => self.check_calibration(),
            Some((format, Flag { name, formats, .. })) => {
                let with = formats.join(" and --format ");
                Err(Error::Input(format!(
                    "{name} has no effect with --format {format}: it is for --format {with}. Export the other formats in a separate command"
                ))
                .into())
            }
        }
    }

    /// Flags that not every format takes.
    fn flags(&self) -> [Flag; 8] {
        let Batches { batch_min, batch_opt, batch_max } = &self.batches;
        let flag = |name, given, formats| Flag { name, given, formats };
        // Every format can be f32.
        let precision = self.precision.as_deref().is_some_and(|precision| precision != "f32");
        [
            flag("--script", self.script, &["torchscript"]),
            flag("--opset", self.opset.is_some(), &["onnx"]),
            flag("--with-preprocess", self.with_preprocess, &["onnx"]),
            flag("--precision", precision, &["coreml", "tensorrt", "litert"]),
            flag("--batch-min", batch_min.is_some(), &["tensorrt"]),
            flag("--batch-opt", batch_opt.is_some(), &["tensorrt"]),
            flag("--batch-max", batch_max.is_some(), &["tensorrt", "triton"]),
            flag("--trtexec", self.trtexec.is_some(), &["tensorrt"]),
        ]
    }

    /// An error for a flag of the calibration where nothing is calibrated.
    fn check_calibration(&self) -> Result<(), Failure> {
        let calibrates = self.precision() == "int8" && self.format.iter().all(|f| calibrates(f));
        match self.calibration.given() {
            Some(name) if !calibrates => {
                let text = "is for --format tensorrt and litert with --precision int8, the only ones with calibration";
                Err(Error::Input(format!("{name} {text}")).into())
            }
            _ => Ok(()),
        }
    }

    fn coreml_options(&self) -> CoreMlOptions {
        let (precision, weights) = match self.precision() {
            "f32" => (Precision::F32, StoredWeights::Float),
            "int8" => (Precision::F16, StoredWeights::Int8),
            _ => (Precision::F16, StoredWeights::Float),
        };
        CoreMlOptions { precision, weights }
    }

    fn litert_options(&self) -> LiteRtOptions {
        let half = self.precision.as_deref() == Some("f16");
        LiteRtOptions { weights: if half { LiteRtWeights::F16 } else { LiteRtWeights::F32 } }
    }

    fn tensorrt_options(&self) -> TensorRtOptions {
        let precision = match self.precision() {
            "f32" => EnginePrecision::F32,
            "int8" => EnginePrecision::Int8,
            _ => EnginePrecision::F16,
        };
        TensorRtOptions { precision, profile: self.batches.profile(), trtexec: self.trtexec.clone() }
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
            print::aside("comparing on the built-in pictures; give --data DIR to compare on your own");
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
