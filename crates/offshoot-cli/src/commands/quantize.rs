//! `offshoot quantize`

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use offshoot::{
    DynamicInt8, Error, FolderOptions, INT8_TOLERANCE, Inference, Loader, LoaderOptions, Manifest, Method,
    Model, ModelSource, OnnxOptions, Proof, QuantizePictures, Quantized, RunPictures, Scheme, StaticOptions,
    Transform, WeightBits, batch_within, check_float, check_replaceable, evaluate, export_static, is_onnx,
    labelled, origin, pictures, quantize_static,
};
use offshoot_data::{FolderError, Sample, training_folder};
use offshoot_graph::Executor;
use offshoot_graph::text::shown;

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor};
use super::destination::Destination;
use super::export::proof_inputs;
use super::{Failure, Outcome, print};

/// Pictures that go through the network at once.
const BATCH: usize = 32;

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
    /// MODEL: a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt or a .pt2. For --mode dynamic any ONNX file,
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
    /// The options of a scheme.
    pub(crate) fn options(&self, scheme: Scheme) -> StaticOptions {
        let default = StaticOptions::default();
        let pictures = self.calibration_pictures.unwrap_or(default.pictures);
        StaticOptions { scheme, method: self.method.unwrap_or(default.method), pictures, ..default }
    }

    /// The first flag of these that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--calibration", self.calibration.is_some()),
            ("--calibration-pictures", self.calibration_pictures.is_some()),
            ("--method", self.method.is_some()),
        ];
        flags.into_iter().find_map(|(name, given)| given.then_some(name))
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
            if data.is_none() {
                arguments::mention_changed(&of_run);
            }
            found.calibration = of_run.train.iter().map(|sample| sample.path.clone()).collect();
            (found.train, found.measured) = (of_run.train, of_run.val);
        }
        if let Some(folders) = &self.calibration {
            // A single picture or a folder without classes is one to calibrate on too.
            let folders = training_folder(folders).unwrap_or_else(|_| folders.clone());
            let all = pictures(&[&folders], &folder)?;
            print::skipped(&all.skipped);
            found.calibration = all.paths;
            found.train = labelled(&folders, classes, &folder).map(|found| found.samples).unwrap_or_default();
        }
        if let Some(data) = data {
            let without = "to quantise without measuring the accuracy, leave --data out and give pictures like those of the training with \
                           --calibration DIR, whatever their folders are called";
            found.measured = measured(data, classes, &folder, without)?;
            if let Some(Ok(of_run)) = run.map(|run| RunPictures::read(run, classes)) {
                arguments::mention_familiar(of_run.familiar(&found.measured), data, found.measured.len());
            }
        }
        let there_were = !found.calibration.is_empty();
        if let Some(text) = found.leave_out_copies() {
            print::warning(&text);
        }
        if found.calibration.is_empty() && there_were {
            let text = "all pictures to calibrate on are copies of those that the accuracy is measured on; give others with --calibration DIR";
            return Err(Error::Input(text.into()).into());
        }
        if found.calibration.is_empty() {
            let text = "static quantization needs calibration pictures: give --calibration DIR with pictures like those that the model was trained with, or a run directory";
            return Err(Error::Input(text.into()).into());
        }
        Ok(found)
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let source = self.pretrained.only_source(&self.paths)?;
        self.check_flags()?;
        let ending = self.ending();
        let out = Destination::new(self.paths.first(), self.out.as_ref(), &[(ending, Some(ending))])?;
        let report = match self.mode {
            Mode::Static => self.in_static(&source, out)?,
            Mode::Dynamic => self.in_dynamic(&source, out)?,
        };
        warn_of_distance(&report.path)?;
        if self.json { print::json(&report) } else { text(&report) }
    }

    /// An error for a flag that means nothing in this mode.
    fn check_flags(&self) -> Result<(), Failure> {
        let stray = match self.mode {
            Mode::Static => {
                (self.format == Format::Safetensors).then_some("--format is for --mode dynamic".into())
            }
            Mode::Dynamic => {
                let flags = [
                    ("--weight-bits", self.weight_bits.is_some()),
                    ("--max-drop", self.max_drop.is_some()),
                    ("--qat", self.qat > 0),
                ];
                let given = flags.into_iter().find_map(|(name, given)| given.then_some(name));
                let opset = self.opset.is_some() && self.format == Format::Safetensors;
                match self.calibration.given().or(given) {
                    Some(name) => Some(format!("{name} is for --mode static")),
                    None => opset.then(|| "--opset is for --format onnx".into()),
                }
            }
        };
        stray.map_or(Ok(()), |text: String| Err(Error::Input(text).into()))
    }

    /// An error for a flag that means nothing where an ONNX file is carried over with other weights.
    fn check_carried(&self, path: &Path) -> Result<(), Failure> {
        let text = match () {
            () if self.opset.is_some() => "--opset: in dynamic int8 an ONNX file keeps its opset",
            () if self.data.is_none() && self.preprocessing.settings().is_some() => {
                "in dynamic int8 an ONNX file is carried over as it is: --size, --fit, --mean and --std go with --data DIR, which measures the accuracy"
            }
            () => return Ok(()),
        };
        Err(Error::Input(format!("{}: {text}", shown(path))).into())
    }

    fn onnx_options(&self) -> OnnxOptions {
        let default = OnnxOptions::default();
        OnnxOptions { opset: self.opset.unwrap_or(default.opset), ..default }
    }

    fn in_static(&self, source: &ModelSource, out: Destination) -> Result<Quantized, Failure> {
        let executor = self.processor.device()?;
        let model = arguments::load(source, &self.preprocessing.overrides())?.model;
        let run = arguments::run_directory(self.paths.first());
        let bits =
            if self.weight_bits.as_deref() == Some("8") { WeightBits::Eight } else { WeightBits::Seven };
        let options = StaticOptions {
            max_drop: self.max_drop,
            qat_epochs: self.qat,
            ..self.calibration.options(Scheme::cpu(bits))
        };
        check_float(&model)?;
        let out = out.make(model.metadata.architecture.as_deref())?;
        let path = out.path("-int8.onnx")?;
        check_replaceable(&path)?;
        let pictures = self.calibration.pictures(&model, run, self.data.as_deref())?;
        let mut say = |text: &str| print::aside(text);
        let quantized = quantize_static(&model, &pictures, &options, &executor, &mut say)?;
        let inputs = proof_inputs(&model, run, self.data.as_deref())?;
        let (of, source) = (source.path(), origin(source)?);
        out.mention_others(of, &source);
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: Some(&source), float: None };
        Ok(export_static(quantized, &model, &path, self.onnx_options(), proof)?)
    }

    fn in_dynamic(&self, source: &ModelSource, out: Destination) -> Result<Quantized, Failure> {
        let executor = self.processor.device()?;
        let overrides = self.preprocessing.overrides();
        let run = arguments::run_directory(self.paths.first());
        let (int8, architecture) = match source {
            ModelSource::Path(path) if is_onnx(path)? => {
                Manifest::check_intact(path)?;
                self.check_carried(path)?;
                (DynamicInt8::of_onnx(path, &overrides)?, None)
            }
            _ => {
                let model = arguments::load(source, &overrides)?.model;
                let architecture = model.metadata.architecture.clone();
                (DynamicInt8::of_model(model)?, architecture)
            }
        };
        let out = out.make(architecture.as_deref())?;
        let path = out.path(&format!("-dynamic-int8.{}", self.ending()))?;
        if let Some(advice) = int8.advice() {
            print::warning(&advice);
        }
        for (node, reason) in int8.kept_float() {
            print::warning(&format!("`{node}` stays in float: {reason}"));
        }
        let accuracy = match &self.data {
            Some(data) => {
                let [before, after] = int8.classifiers()?;
                [accuracy(&before, data, &executor)?, accuracy(&after, data, &executor)?].map(Some)
            }
            None => [None, None],
        };
        let sha256 = origin(source)?;
        out.mention_others(source.path(), &sha256);
        let float = int8.float();
        if float.is_none() {
            int8.check_weights()?;
        }
        let inputs =
            float.as_ref().map(|model| proof_inputs(model, run, self.data.as_deref())).transpose()?;
        let proof = inputs.as_ref().map(|inputs| Proof {
            inputs,
            executor: &executor,
            source_sha256: Some(&sha256),
            float: None,
        });
        let [bytes, bytes_before] = match (self.format, proof) {
            (Format::Safetensors, Some(proof)) => int8.write_safetensors(&path, proof)?,
            (Format::Onnx, proof) => int8.write_onnx(&path, self.onnx_options(), proof)?,
            (Format::Safetensors, None) => {
                let text = "a .safetensors holds a classifier of pictures, and this is another network: give --format onnx";
                return Err(Error::Input(text.into()).into());
            }
        };
        if bytes >= bytes_before {
            print::warning(
                "the file did not get smaller: its new nodes take more space than its weights save",
            );
        }
        let [accuracy_before, accuracy] = accuracy;
        let kept_float = int8.kept_float().iter().map(|(node, _)| node.clone()).collect();
        Ok(Quantized { path, bytes, bytes_before, accuracy, accuracy_before, kept_float })
    }

    fn ending(&self) -> &'static str {
        match self.format {
            Format::Onnx => "onnx",
            Format::Safetensors => "safetensors",
        }
    }
}

/// The pictures to measure on, and a warning about what is left out. Where the classes are others, `without` says how to do without them.
fn measured(
    data: &Path,
    classes: &[String],
    folder: &FolderOptions,
    without: &str,
) -> Result<Vec<Sample>, Failure> {
    let found = labelled(data, classes, folder).map_err(|error| match error {
        FolderError::UnknownClass { .. } => Error::Input(format!("{error}; {without}")),
        error => error.into(),
    })?;
    print::notes(&found.notes);
    print::skipped(&found.skipped);
    Ok(found.samples)
}

/// Warns where the manifest says that the file is far from the float model.
fn warn_of_distance(path: &Path) -> Result<(), Failure> {
    let proof = Manifest::read_beside(path)?.map(|manifest| manifest.proof);
    if let Some((found, same)) = proof.and_then(|proof| proof.max_rel_diff.zip(proof.top1_agreement))
        && found >= INT8_TOLERANCE
    {
        print::warning(&format!(
            "{}: the int8 outputs are far from the float outputs: they differ by up to {found:.2} of the largest logit, and top-1 agrees on {:.1} %. Measure the accuracy with --data DIR; --max-drop keeps operators in float",
            shown(path),
            100.0 * same
        ));
    }
    Ok(())
}

/// The fraction of the pictures in `data` that a model classifies right.
fn accuracy(model: &Model, data: &Path, executor: &dyn Executor) -> Result<f64, Failure> {
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let folder = FolderOptions { decode: transform.decode_options(), ..FolderOptions::default() };
    let without = "to quantise without measuring the accuracy, leave --data out";
    let samples = measured(data, &model.metadata.classes, &folder, without)?;
    let loader = Loader::new(
        samples,
        transform.clone(),
        LoaderOptions::evaluation(&transform, batch_within(model, BATCH)),
    );
    let mut network = Inference::new(model, executor)?;
    Ok(evaluate(&mut network, model.metadata.classes.len(), &loader, |_| {})?.accuracy())
}

fn text(report: &Quantized) -> Outcome {
    let (now, before) = (print::bytes(report.bytes), print::bytes(report.bytes_before));
    print::line(&format!("{}  {now}, {before} in float", shown(&report.path)))?;
    match (report.accuracy, report.accuracy_before) {
        (Some(now), Some(before)) => print::line(&format!("  accuracy {now:.4}, {before:.4} in float"))?,
        _ => print::line("  accuracy not measured; --data DIR measures it")?,
    }
    match &report.kept_float[..] {
        [] => print::line("  every operator that can be quantized is in int8"),
        kept => print::line(&format!("  kept in float: {}", kept.join(", "))),
    }
}
