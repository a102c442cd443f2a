//! A model in int8.

use std::path::{Path, PathBuf};

use offshoot_data::{
    FolderError, FolderOptions, Loader, LoaderOptions, Sample, Transform, is_table, pictures, training,
    training_folder,
};
use offshoot_formats::onnx::Options as OnnxOptions;
use offshoot_graph::remedy::{CALIBRATION, DATA, FIT, FORMAT, MAX_DROP, MEAN, MODE, SIZE, STD};
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model};
use offshoot_infer::{Inference, evaluate};
use offshoot_quant::{Method, Scheme, WeightBits};
use offshoot_train::RunPictures;

use super::{
    Destination, Listener, Table, changed, checkpoint_of, familiar, open, proof_inputs, run_directory,
    skipped,
};
use crate::compare::INT8_TOLERANCE;
use crate::dynamic::DynamicInt8;
use crate::error::{Error, Result};
use crate::export::Proof;
use crate::integers::check_float;
use crate::labels::labelled;
use crate::manifest::{Manifest, origin};
use crate::memory::batch_within;
use crate::quantize::{
    Measured, QuantizePictures, Quantized, StaticOptions, export_static, no_score, quantize_static,
};
use crate::source::{ModelSource, Overrides, is_onnx};
use crate::staging::check_replaceable;

/// Pictures that go through the network at once.
const BATCH: usize = 32;

/// How the integers come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeMode {
    /// Weights and activations, with ranges from calibration pictures. For convolutional networks.
    Static,
    /// Weights of linear layers and LSTMs, and embedding tables; ranges of activations are computed at run time. For
    /// transformers, text and sound.
    Dynamic,
}

/// The file of a model in dynamic int8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Int8File {
    /// An ONNX file, for any ONNX runtime.
    #[default]
    Onnx,
    /// offshoot's own file, with PyTorch's state-dict keys.
    Safetensors,
}

/// What ranges are found from.
#[derive(Clone, Debug, Default)]
pub struct CalibrationOptions {
    /// A folder of calibration pictures, in class folders or not, in place of the run's training pictures.
    pub folder: Option<PathBuf>,
    /// The most pictures.
    pub pictures: Option<usize>,
    /// How the range of an activation is chosen.
    pub method: Option<Method>,
}

/// A model to quantize.
#[derive(Clone, Debug)]
pub struct QuantizeJob {
    /// The model; for the dynamic mode any ONNX file.
    pub source: ModelSource,
    /// Whether to take the last checkpoint of a run in place of its best model.
    pub last: bool,
    /// How the integers come about.
    pub mode: QuantizeMode,
    /// For the dynamic mode: the kind of file.
    pub format: Int8File,
    /// For the static mode: what ranges are found from.
    pub calibration: CalibrationOptions,
    /// For the static mode: the bits of weights.
    pub weight_bits: Option<WeightBits>,
    /// For the static mode: the largest drop in accuracy allowed.
    pub max_drop: Option<f64>,
    /// For the static mode: epochs of quantization-aware training.
    pub qat: u64,
    /// A folder of pictures to measure accuracy on, in place of the run's validation pictures.
    pub data: Option<PathBuf>,
    /// How `data` is read where it is a table.
    pub table: Table,
    /// A folder, or the file.
    pub out: Option<PathBuf>,
    /// The version of the operators of an ONNX file.
    pub opset: Option<i64>,
    /// Changes to the preprocessing.
    pub overrides: Overrides,
}

impl CalibrationOptions {
    /// The options of a scheme.
    pub(crate) fn options(&self, scheme: Scheme) -> StaticOptions {
        let default = StaticOptions::default();
        let pictures = self.pictures.unwrap_or(default.pictures);
        StaticOptions { scheme, method: self.method.unwrap_or(default.method), pictures, ..default }
    }

    /// The first of these that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let options = [
            ("calibration", self.folder.is_some()),
            ("calibration_pictures", self.pictures.is_some()),
            ("method", self.method.is_some()),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name))
    }

    /// The pictures to calibrate and to measure on: those that were asked for, else those of the run.
    pub(crate) fn pictures(
        &self,
        model: &Model,
        run: Option<&Path>,
        (data, table): (Option<&Path>, &Table),
        listener: &mut dyn Listener,
    ) -> Result<QuantizePictures> {
        let classes = &model.metadata.classes;
        let decode = Transform::new(&model.metadata.preprocessing)?.decode_options();
        let folder = table.options(decode, &model.metadata);
        let mut found = QuantizePictures::default();
        if let Some(run) = run.filter(|_| self.folder.is_none() || data.is_none()) {
            let of_run = RunPictures::read(run, classes)?;
            if data.is_none() {
                changed(&of_run).iter().for_each(|text| listener.warning(text));
            }
            found.calibration = of_run.train.iter().map(|sample| sample.path.clone()).collect();
            (found.train, found.measured) = (of_run.train, of_run.val);
        }
        if let Some(table) = self.folder.as_ref().filter(|path| is_table(path)) {
            let all = training(table, classes, &folder)?;
            skipped(&all.skipped).iter().for_each(|line| listener.warning(line));
            found.calibration = all.samples.iter().map(|sample| sample.path.clone()).collect();
            found.train = all.samples;
        } else if let Some(folders) = &self.folder {
            // A single picture or a folder without classes is one to calibrate on too.
            let folders = training_folder(folders).unwrap_or_else(|_| folders.clone());
            let all = pictures(&[&folders], &folder)?;
            skipped(&all.skipped).iter().for_each(|line| listener.warning(line));
            found.calibration = all.paths;
            found.train = labelled(&folders, classes, &folder).map(|found| found.samples).unwrap_or_default();
        }
        if let Some(data) = data {
            let without = format!(
                "to quantise without measuring the accuracy, leave {DATA} out and give pictures like those of the training with \
                 {CALIBRATION} DIR, whatever their folders are called"
            );
            found.measured = measured(data, classes, &folder, &without, listener)?;
            if let Some(Ok(of_run)) = run.map(|run| RunPictures::read(run, classes)) {
                let known = of_run.familiar(&found.measured);
                let text = familiar(known, data, found.measured.len());
                text.iter().for_each(|text| listener.warning(text));
            }
        }
        let there_were = !found.calibration.is_empty();
        found.leave_out_copies().iter().for_each(|text| listener.warning(text));
        match (found.calibration.is_empty(), there_were) {
            (false, _) => Ok(found),
            (true, true) => Err(Error::advice(format_args!(
                "all pictures to calibrate on are copies of those that the accuracy is measured on; give others with {CALIBRATION} DIR"
            ))),
            (true, false) => Err(Error::advice(format_args!(
                "static quantization needs calibration pictures: give {CALIBRATION} DIR with pictures like those that the model was trained with, or a run directory"
            ))),
        }
    }
}

impl QuantizeJob {
    /// The dynamic or static mode with nothing else said.
    pub fn new(source: ModelSource, mode: QuantizeMode) -> QuantizeJob {
        QuantizeJob {
            source,
            last: false,
            mode,
            format: Int8File::default(),
            calibration: CalibrationOptions::default(),
            weight_bits: None,
            max_drop: None,
            qat: 0,
            data: None,
            table: Table::default(),
            out: None,
            opset: None,
            overrides: Overrides::default(),
        }
    }

    /// Writes the quantized model.
    ///
    /// # Errors
    /// When an option means nothing in the mode, the model or the pictures cannot be used, or the file cannot be written or does not
    /// match.
    pub fn run(&self, executor: &dyn Executor, listener: &mut dyn Listener) -> Result<Quantized> {
        self.check_options()?;
        let ending = self.ending();
        let out = Destination::new(&self.source, self.out.as_deref(), &[(ending, Some(ending))])?;
        let quantized = match self.mode {
            QuantizeMode::Static => self.in_static(out, executor, listener)?,
            QuantizeMode::Dynamic => self.in_dynamic(out, executor, listener)?,
        };
        distance(&quantized.path)?.iter().for_each(|text| listener.warning(text));
        Ok(quantized)
    }

    /// An error for an option that means nothing in this mode.
    fn check_options(&self) -> Result<()> {
        let safetensors = self.format == Int8File::Safetensors;
        match self.mode {
            QuantizeMode::Static if safetensors => {
                Err(Error::option("format", format_args!("is for {MODE} dynamic")))
            }
            QuantizeMode::Static => Ok(()),
            QuantizeMode::Dynamic => {
                let options = [
                    ("weight_bits", self.weight_bits.is_some()),
                    ("max_drop", self.max_drop.is_some()),
                    ("qat", self.qat > 0),
                ];
                let given = options.into_iter().find_map(|(name, given)| given.then_some(name));
                match self.calibration.given().or(given) {
                    Some(name) => Err(Error::option(name, format_args!("is for {MODE} static"))),
                    None if self.opset.is_some() && safetensors => {
                        Err(Error::option("opset", format_args!("is for {FORMAT} onnx")))
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// An error for an option that means nothing where an ONNX file is carried over with other weights.
    fn check_carried(&self, path: &Path) -> Result<()> {
        let path = shown(path);
        if self.opset.is_some() {
            return Err(Error::option(
                "opset",
                format_args!("is not for this file: {path}: in dynamic int8 an ONNX file keeps its opset"),
            ));
        }
        if self.data.is_none() && self.overrides != Overrides::default() {
            return Err(Error::advice(format_args!(
                "{path}: in dynamic int8 an ONNX file is carried over as it is: {SIZE}, {FIT}, {MEAN} and {STD} go with {DATA} DIR, which measures the accuracy"
            )));
        }
        Ok(())
    }

    fn onnx_options(&self) -> OnnxOptions {
        let default = OnnxOptions::default();
        OnnxOptions { opset: self.opset.unwrap_or(default.opset), ..default }
    }

    fn in_static(
        &self,
        out: Destination,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
    ) -> Result<Quantized> {
        let source = checkpoint_of(&self.source, self.last)?;
        let model = open(&source, &self.overrides, listener)?.model;
        let run = run_directory(&self.source);
        let options = StaticOptions {
            max_drop: self.max_drop,
            qat_epochs: self.qat,
            ..self.calibration.options(Scheme::cpu(self.weight_bits.unwrap_or(WeightBits::Seven)))
        };
        check_float(&model)?;
        let out = out.make(model.metadata.architecture.as_deref())?;
        let path = out.path("-int8.onnx")?;
        check_replaceable(&path)?;
        let pictures = self.calibration.pictures(&model, run, self.data(), listener)?;
        let mut say = |text: &str| listener.note(text);
        let quantized = quantize_static(&model, &pictures, &options, executor, &mut say)?;
        let inputs = proof_inputs(&model, run, self.data(), listener)?;
        let sha256 = origin(&source)?;
        out.mention_others(source.path(), &sha256, listener);
        let proof = Proof { inputs: &inputs, executor, source_sha256: Some(&sha256), float: None };
        export_static(quantized, &model, &path, self.onnx_options(), proof)
    }

    fn in_dynamic(
        &self,
        out: Destination,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
    ) -> Result<Quantized> {
        let run = run_directory(&self.source);
        let source = checkpoint_of(&self.source, self.last)?;
        let (int8, architecture) = self.dynamic(&source, listener)?;
        let out = out.make(architecture.as_deref())?;
        let path = out.path(&format!("-dynamic-int8.{}", self.ending()))?;
        int8.advice().iter().for_each(|advice| listener.warning(advice));
        for (node, reason) in int8.kept_float() {
            listener.warning(&format!("`{node}` stays in float: {reason}"));
        }
        let measured = match &self.data {
            Some(data) => {
                let [before, after] = int8.classifiers()?;
                let data = (data.as_path(), &self.table);
                let [before, now] = [&before, &after].map(|model| accuracy(model, data, executor, listener));
                Measured::new(after.metadata.task, [Some(now?), Some(before?)])
            }
            None => Measured::default(),
        };
        let sha256 = origin(&source)?;
        out.mention_others(source.path(), &sha256, listener);
        let float = int8.float();
        if float.is_none() {
            int8.check_weights()?;
        }
        let mut inputs_of = |model: &Model| proof_inputs(model, run, self.data(), listener);
        let inputs = float.as_ref().map(&mut inputs_of).transpose()?;
        let proof = inputs.as_ref().map(|inputs| Proof {
            inputs,
            executor,
            source_sha256: Some(&sha256),
            float: None,
        });
        let [bytes, bytes_before] = match (self.format, proof) {
            (Int8File::Safetensors, Some(proof)) => int8.write_safetensors(&path, proof)?,
            (Int8File::Onnx, proof) => int8.write_onnx(&path, self.onnx_options(), proof)?,
            (Int8File::Safetensors, None) => {
                return Err(Error::advice(format_args!(
                    "a .safetensors holds a classifier of pictures, and this is another network: give {FORMAT} onnx"
                )));
            }
        };
        if bytes >= bytes_before {
            listener
                .warning("the file did not get smaller: its new nodes take more space than its weights save");
        }
        let kept_float = int8.kept_float().iter().map(|(node, _)| node.clone()).collect();
        Ok(Quantized { path, bytes, bytes_before, measured, kept_float })
    }

    /// The model with its linear layers in int8, and its architecture.
    fn dynamic(
        &self,
        source: &ModelSource,
        listener: &mut dyn Listener,
    ) -> Result<(DynamicInt8, Option<String>)> {
        match source {
            ModelSource::Path(path) if is_onnx(path)? => {
                Manifest::check_intact(path)?;
                self.check_carried(path)?;
                Ok((DynamicInt8::of_onnx(path, &self.overrides)?, None))
            }
            source => {
                let model = open(source, &self.overrides, listener)?.model;
                let architecture = model.metadata.architecture.clone();
                Ok((DynamicInt8::of_model(model)?, architecture))
            }
        }
    }

    /// What accuracy is measured on, and how it is read.
    fn data(&self) -> (Option<&Path>, &Table) {
        (self.data.as_deref(), &self.table)
    }

    fn ending(&self) -> &'static str {
        match self.format {
            Int8File::Onnx => "onnx",
            Int8File::Safetensors => "safetensors",
        }
    }
}

/// The pictures to measure on, and a warning about what is left out. Where the classes are others, `without` says how to do without them.
fn measured(
    data: &Path,
    classes: &[String],
    folder: &FolderOptions,
    without: &str,
    listener: &mut dyn Listener,
) -> Result<Vec<Sample>> {
    let found = labelled(data, classes, folder).map_err(|error| match error {
        FolderError::UnknownClass { .. } => Error::Input(format!("{error}; {without}")),
        error => error.into(),
    })?;
    found.notes.iter().for_each(|note| listener.warning(note));
    skipped(&found.skipped).iter().for_each(|line| listener.warning(line));
    Ok(found.samples)
}

/// What to say where the manifest says that the file is far from the float model.
fn distance(path: &Path) -> Result<Option<String>> {
    let proof = Manifest::read_beside(path)?.map(|manifest| manifest.proof);
    let Some((found, same)) = proof.and_then(|proof| proof.max_rel_diff.zip(proof.top1_agreement)) else {
        return Ok(None);
    };
    Ok((found >= INT8_TOLERANCE).then(|| {
        format!(
            "{}: the int8 outputs are far from the float outputs: they differ by up to {found:.2} of the largest logit, and top-1 agrees on {:.1} %. Measure the accuracy with {DATA} DIR; {MAX_DROP} keeps operators in float",
            shown(path),
            100.0 * same
        )
    }))
}

/// The fraction of the pictures in `data` that a model classifies right; of several labels, the mean average precision; of numbers, the mean
/// R^2.
fn accuracy(
    model: &Model,
    (data, table): (&Path, &Table),
    executor: &dyn Executor,
    listener: &mut dyn Listener,
) -> Result<f64> {
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let folder = table.options(transform.decode_options(), &model.metadata);
    let without = format!("to quantise without measuring the accuracy, leave {DATA} out");
    let samples = measured(data, &model.metadata.classes, &folder, &without, listener)?;
    let options = LoaderOptions::evaluation(&transform, batch_within(model, BATCH));
    let loader = Loader::new(samples, transform, options);
    let mut network = Inference::new(model, executor)?;
    evaluate(&mut network, &model.metadata, &loader, |_| {})?.score().ok_or_else(no_score)
}
