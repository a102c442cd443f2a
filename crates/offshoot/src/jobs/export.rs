//! A model in the formats of others.

use std::path::{Path, PathBuf};

use offshoot_formats::coreml::{Options as CoreMlOptions, Precision, StoredWeights};
use offshoot_formats::litert::{Options as LiteRtOptions, StoredWeights as LiteRtWeights};
use offshoot_formats::onnx::Options as OnnxOptions;
use offshoot_formats::tensorrt::{EnginePrecision, Profile};
use offshoot_formats::torchscript::Form;
use offshoot_graph::remedy::{FORMAT, PRECISION};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model, Task};
use offshoot_quant::Scheme;
use serde::Serialize;

use super::{
    CalibrationOptions, Destination, Listener, Table, checkpoint_of, open, proof_inputs, run_directory,
};
use crate::coreml::export_coreml;
use crate::error::{Error, Result};
use crate::export::{Exported, Proof, export_onnx, export_pt2, export_torchscript};
use crate::huggingface::export_huggingface;
use crate::litert::export_litert;
use crate::manifest::origin;
use crate::nvidia::{TensorRtExport, TensorRtOptions, export_tensorrt, export_triton, trtexec_program};
use crate::quantize::{Measured, quantize_static};
use crate::source::{ModelSource, Overrides};
use crate::staging::check_replaceable;

/// The formats that there are.
pub const EXPORT_FORMATS: [&str; 8] =
    ["onnx", "torchscript", "pt2", "coreml", "litert", "tensorrt", "triton", "huggingface"];

/// What some formats take.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// For TorchScript: a scripted module that prepares its pictures.
    pub script: bool,
    /// For ONNX: the version of the operators, 13 to 21.
    pub opset: Option<i64>,
    /// For ONNX: a file that prepares its pictures.
    pub with_preprocess: bool,
    /// For Core ML, TensorRT and LiteRT: f32, f16 or int8.
    pub precision: Option<String>,
    /// Where int8 has ranges from calibration pictures: those.
    pub calibration: CalibrationOptions,
    /// For TensorRT and Triton.
    pub batches: Batches,
    /// For TensorRT: the program that builds engines, in place of the one on PATH.
    pub trtexec: Option<PathBuf>,
}

/// The batches that a server gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batches {
    /// The smallest batch of an engine.
    pub min: Option<usize>,
    /// The batch that an engine is tuned for.
    pub opt: Option<usize>,
    /// The largest batch.
    pub max: Option<usize>,
}

impl Batches {
    fn profile(&self) -> Profile {
        let Profile { min, opt, max } = Profile::default();
        let (min, opt) = (self.min.unwrap_or(min), self.opt.unwrap_or(opt));
        Profile { min, opt, max: self.max.unwrap_or(max) }
    }
}

/// A model to export.
#[derive(Clone, Debug)]
pub struct ExportJob {
    /// The model.
    pub source: ModelSource,
    /// Whether to take the last checkpoint of a run in place of its best model.
    pub last: bool,
    /// Some of [`EXPORT_FORMATS`], each once.
    pub formats: Vec<String>,
    /// What the formats take.
    pub options: ExportOptions,
    /// A folder of pictures to compare on, in place of the run's validation pictures or the built-in ones.
    pub data: Option<PathBuf>,
    /// How `data` is read where it is a table.
    pub table: Table,
    /// A folder, or the file of the one format.
    pub out: Option<PathBuf>,
    /// Changes to the preprocessing.
    pub overrides: Overrides,
}

/// A file, or a folder of them, that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExportReport {
    /// What was written.
    #[serde(flatten)]
    pub file: ExportedFile,
    /// Of int8 with ranges from calibration pictures, how good it is.
    #[serde(flatten)]
    pub int8: Option<Measured>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ExportedFile {
    /// A file, or a folder of them.
    File(Exported),
    /// The files for TensorRT.
    TensorRt(TensorRtExport),
}

/// An option that some formats take.
struct Taken {
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

impl ExportJob {
    /// Writes the files. Each is read back and compared before it has its name.
    ///
    /// # Errors
    /// When a format or an option of it cannot be used, the model or the pictures cannot be read, or a file cannot be written or does
    /// not match the model.
    pub fn run(&self, executor: &dyn Executor, listener: &mut dyn Listener) -> Result<Vec<ExportReport>> {
        self.check_formats()?;
        self.options.trtexec.as_deref().map(trtexec_program).transpose()?;
        let formats: Vec<_> = self.formats.iter().map(|f| (f.as_str(), ending(f))).collect();
        let out = Destination::new(&self.source, self.out.as_deref(), &formats)?;
        let source = checkpoint_of(&self.source, self.last)?;
        let model = open(&source, &self.overrides, listener)?.model;
        let run = run_directory(&self.source);
        let out = out.make(model.metadata.architecture.as_deref())?;
        for ending in self.formats.iter().filter_map(|format| ending(format)) {
            check_replaceable(&out.path(&format!(".{ending}"))?)?;
        }
        let inputs = proof_inputs(&model, run, self.data(), listener)?;
        let sha256 = origin(&source)?;
        out.mention_others(source.path(), &sha256, listener);
        let proof = Proof { inputs: &inputs, executor, source_sha256: Some(&sha256), float: None };
        let mut files = Vec::new();
        for format in &self.formats {
            files.push(match calibrates(format) && self.precision() == "int8" {
                true => self.export_int8(format, &model, &out, proof, listener)?,
                false => self.export(format, &model, &out, proof, listener)?,
            });
        }
        Ok(files)
    }

    /// What outputs are compared on, and how it is read.
    fn data(&self) -> (Option<&Path>, &Table) {
        (self.data.as_deref(), &self.table)
    }

    fn precision(&self) -> &str {
        self.options.precision.as_deref().unwrap_or("f16")
    }

    /// Writes one file, or one folder of them.
    fn export(
        &self,
        format: &str,
        model: &Model,
        out: &Destination,
        proof: Proof<'_>,
        listener: &mut dyn Listener,
    ) -> Result<ExportReport> {
        let file = match format {
            "torchscript" => {
                let form = if self.options.script { Form::Scripted } else { Form::Traced };
                export_torchscript(model, &out.path(".pt")?, form, proof)?
            }
            "litert" => export_litert(model, &out.path(".tflite")?, self.litert_options(), proof)?,
            "pt2" => export_pt2(model, &out.path(".pt2")?, proof)?,
            "coreml" => export_coreml(model, &out.path(".mlpackage")?, self.coreml_options(), proof)?,
            "tensorrt" => {
                let options = self.tensorrt_options(model.metadata.task);
                let export = export_tensorrt(model, &out.path("-tensorrt")?, &options, proof)?;
                mention_engine(&export, listener);
                return Ok(ExportReport { file: ExportedFile::TensorRt(export), int8: None });
            }
            "triton" => {
                let most = self.options.batches.profile().max;
                export_triton(model, &out.path("-triton")?, out.stem(), most, proof)?
            }
            "huggingface" => export_huggingface(model, &out.path("-huggingface")?, proof)?,
            _ => export_onnx(model, &out.path(".onnx")?, self.onnx_options(), proof)?,
        };
        Ok(ExportReport { file: ExportedFile::File(file), int8: None })
    }

    /// A file of the model quantized as its format wants it.
    fn export_int8(
        &self,
        format: &str,
        model: &Model,
        out: &Destination,
        proof: Proof<'_>,
        listener: &mut dyn Listener,
    ) -> Result<ExportReport> {
        let calibration = &self.options.calibration;
        let run = run_directory(&self.source);
        let pictures = calibration.pictures(model, run, self.data(), listener)?;
        let scheme = match format {
            "litert" => Scheme::litert(),
            _ => Scheme::tensorrt(),
        };
        let options = calibration.options(scheme);
        let mut say = |text: &str| listener.note(text);
        let quantized = quantize_static(model, &pictures, &options, proof.executor, &mut say)?;
        let measured = quantized.measured();
        if let Some((figure, now, before)) = measured.figures() {
            listener.note(&format!("{figure} {now:.4} in int8, {before:.4} in float"));
        }
        let proof = Proof { float: Some(model), ..proof };
        let report = self.export(format, &quantized.model, out, proof, listener)?;
        Ok(ExportReport { int8: Some(measured), ..report })
    }

    fn check_formats(&self) -> Result<()> {
        if let Some(format) = self.formats.iter().find(|f| !EXPORT_FORMATS.contains(&f.as_str())) {
            let formats = EXPORT_FORMATS.join(", ");
            return Err(Error::advice(format_args!(
                "{FORMAT} {format} is no format; give one or more of {formats}"
            )));
        }
        let strays = self.formats.iter().flat_map(|format| self.taken().map(|taken| (format, taken)));
        let stray = strays
            .into_iter()
            .find(|(format, taken)| taken.given && !taken.formats.contains(&format.as_str()));
        let Some((format, Taken { name, formats, .. })) = stray else { return self.check_calibration() };
        let with: Vec<String> = formats.iter().map(|format| format!("{FORMAT} {format}")).collect();
        Err(Error::option(
            name,
            format_args!(
                "has no effect with {FORMAT} {format}: it is for {}. Export the other formats in a separate command",
                with.join(" and ")
            ),
        ))
    }

    /// Options that not every format takes.
    fn taken(&self) -> [Taken; 8] {
        let ExportOptions { script, opset, with_preprocess, batches, trtexec, .. } = &self.options;
        let taken = |name, given, formats| Taken { name, given, formats };
        // Every format can be f32.
        let precision = self.options.precision.as_deref().is_some_and(|precision| precision != "f32");
        [
            taken("script", *script, &["torchscript"]),
            taken("opset", opset.is_some(), &["onnx"]),
            taken("with_preprocess", *with_preprocess, &["onnx"]),
            taken("precision", precision, &["coreml", "tensorrt", "litert"]),
            taken("batch_min", batches.min.is_some(), &["tensorrt"]),
            taken("batch_opt", batches.opt.is_some(), &["tensorrt"]),
            taken("batch_max", batches.max.is_some(), &["tensorrt", "triton"]),
            taken("trtexec", trtexec.is_some(), &["tensorrt"]),
        ]
    }

    /// An error for an option of the calibration where nothing is calibrated.
    fn check_calibration(&self) -> Result<()> {
        let calibrated = self.precision() == "int8" && self.formats.iter().all(|f| calibrates(f));
        match self.options.calibration.given() {
            Some(name) if !calibrated => Err(Error::option(
                name,
                format_args!(
                    "is for {FORMAT} tensorrt and litert with {PRECISION} int8, the only ones with calibration"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn onnx_options(&self) -> OnnxOptions {
        let with_preprocess = self.options.with_preprocess;
        let opset = self.options.opset.unwrap_or(if with_preprocess { 18 } else { 17 });
        OnnxOptions { opset, with_preprocess, ..OnnxOptions::default() }
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
        let half = self.options.precision.as_deref() == Some("f16");
        LiteRtOptions { weights: if half { LiteRtWeights::F16 } else { LiteRtWeights::F32 } }
    }

    fn tensorrt_options(&self, task: Task) -> TensorRtOptions {
        let precision = match (self.options.precision.as_deref(), task) {
            // Numbers in their units may be larger than f16 holds.
            (Some("f32"), _) | (None, Task::Regression) => EnginePrecision::F32,
            (Some("int8"), _) => EnginePrecision::Int8,
            _ => EnginePrecision::F16,
        };
        let ExportOptions { batches, trtexec, .. } = &self.options;
        TensorRtOptions { precision, profile: batches.profile(), trtexec: trtexec.clone() }
    }
}

/// What became of the engine.
fn mention_engine(export: &TensorRtExport, listener: &mut dyn Listener) {
    match &export.engine {
        Some(engine) => listener.note(&format!("built the engine {}", shown(engine))),
        None => listener.note(&format!(
            "no TensorRT here: no engine was built. Run build-engine.sh where the engine will run, which is\n  {}",
            export.command
        )),
    }
}
