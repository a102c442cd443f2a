//! Fine-tuning in a few lines.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use offshoot_data::{Dataset, Transform};
use offshoot_formats::onnx;
use offshoot_formats::torchscript::Form;
use offshoot_graph::{Executor, Model};
use offshoot_train::train::TrainResult;
use offshoot_train::{Control, Event, Freeze, Recipe, Settings, train};

use crate::classifier::Classifier;
use crate::compare::Inputs;
use crate::device::{CpuOptions, Device};
use crate::error::Result;
use crate::export::{Exported, Proof, export_onnx, export_pt2, export_torchscript};
use crate::hash::sha256;
use crate::source::ModelSource;
use crate::start::{keep_base, starting_model, starting_preprocessing, with_default_recipe};

/// A training run to be. What is not set is decided as `offshoot train` does.
///
/// ```no_run
/// use offshoot::{Event, FineTune};
///
/// let tuned = FineTune::new("mobilenet_v2", "photos")
///     .weights("mobilenet_v2.pth")
///     .epochs(10)
///     .set(|settings| settings.label_smoothing = Some(0.1))
///     .watch(|event| if let Event::Epoch(row) = event { println!("{row:?}") })
///     .run("run")?;
/// let exported = tuned.export_onnx("photos.onnx")?;
/// println!("top-1 agrees on {} of the validation pictures", exported.top1_agreement);
/// # Ok::<(), offshoot::Error>(())
/// ```
pub struct FineTune<'a> {
    settings: Settings,
    device: Option<Device>,
    progress: Box<dyn FnMut(Event<'_>) + 'a>,
}

/// A run that has come to its end, and its best model.
pub struct FineTuned {
    folder: PathBuf,
    result: TrainResult,
    model: Model,
    inputs: Inputs,
    device: Device,
}

impl<'a> FineTune<'a> {
    /// Trains the architecture `model`, or the ONNX classifier in that file, on the pictures in the folder `data`.
    pub fn new(model: impl Into<String>, data: impl Into<PathBuf>) -> FineTune<'a> {
        let settings = Settings { model: Some(model.into()), data: Some(data.into()), ..Settings::default() };
        FineTune { settings, device: None, progress: Box::new(|_| {}) }
    }

    /// Starts from these weights: a `.pth`, `.safetensors` or TorchScript file, or a run directory. Without, from random ones.
    #[must_use]
    pub fn weights(self, file: impl Into<PathBuf>) -> Self {
        self.set(|settings| settings.weights = Some(file.into()))
    }

    /// Trains for so many epochs.
    #[must_use]
    pub fn epochs(self, epochs: u64) -> Self {
        self.set(|settings| settings.epochs = Some(epochs))
    }

    /// Freezes these parameters.
    #[must_use]
    pub fn freeze(self, freeze: Freeze) -> Self {
        self.set(|settings| settings.freeze = Some(freeze))
    }

    /// Changes any of the [`Settings`].
    #[must_use]
    pub fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Computes on `device`, in place of all the machine's processors.
    #[must_use]
    pub fn on(self, device: &Device) -> Self {
        FineTune { device: Some(device.clone()), ..self }
    }

    /// Tells `progress` what happens.
    #[must_use]
    pub fn watch(self, progress: impl FnMut(Event<'_>) + 'a) -> Self {
        FineTune { progress: Box::new(progress), ..self }
    }

    /// Trains, and keeps everything in the folder `run`.
    ///
    /// # Errors
    /// When a setting, the pictures, the model or the weights cannot be used, `run` is in use, or training fails.
    pub fn run(mut self, run: impl AsRef<Path>) -> Result<FineTuned> {
        let run = run.as_ref();
        let device = match self.device {
            Some(device) => device,
            None => Device::cpu(CpuOptions::default())?,
        };
        let own = starting_preprocessing(&self.settings)?;
        let recipe = Recipe::resolve(with_default_recipe(self.settings), &own)?;
        Transform::new(&recipe.preprocessing)?;
        let data = Dataset::open(&recipe.data, &recipe.folder_options())?;
        let progress = &mut *self.progress;
        let model = starting_model(&recipe, &data.classes, &mut |text| progress(Event::Warning(text)))?;
        let mut base = Ok(());
        let mut watched = |event: Event<'_>| {
            if matches!(event, Event::Start { .. }) {
                base = keep_base(&recipe, run);
            }
            progress(event);
        };
        let stop = AtomicBool::new(false);
        let outcome = train(model, &recipe, &data, run, &device, Control::new(&mut watched, &stop))?;
        base?;
        let model = ModelSource::Path(run.to_owned()).load(&Default::default())?.model;
        let preprocessing = &model.metadata.preprocessing;
        let inputs = match data.val.is_empty() {
            true => Inputs::built_in(preprocessing)?,
            false => Inputs::from_samples(data.val, preprocessing)?,
        };
        Ok(FineTuned { folder: run.to_owned(), result: outcome.result, model, inputs, device })
    }
}

impl FineTuned {
    /// The run directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What training has reached.
    pub fn result(&self) -> &TrainResult {
        &self.result
    }

    /// The model of the best epoch.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The best model, ready to classify.
    ///
    /// # Errors
    /// When it cannot run.
    pub fn classifier(&self) -> Result<Classifier> {
        Classifier::new(&self.model, &self.device)
    }

    /// Writes the best model as ONNX, proven on the validation pictures: see [`export_onnx`].
    ///
    /// # Errors
    /// Those of [`export_onnx`].
    pub fn export_onnx(&self, path: impl AsRef<Path>) -> Result<Exported> {
        let hash = self.hash()?;
        export_onnx(&self.model, path.as_ref(), onnx::Options::default(), self.proof(&hash))
    }

    /// Writes the best model as a program of `torch.export`, proven on the validation pictures: see [`export_pt2`].
    ///
    /// # Errors
    /// Those of [`export_pt2`].
    pub fn export_pt2(&self, path: impl AsRef<Path>) -> Result<Exported> {
        let hash = self.hash()?;
        export_pt2(&self.model, path.as_ref(), self.proof(&hash))
    }

    /// Writes the best model as traced TorchScript, proven on the validation pictures: see [`export_torchscript`].
    ///
    /// # Errors
    /// Those of [`export_torchscript`].
    pub fn export_torchscript(&self, path: impl AsRef<Path>) -> Result<Exported> {
        let hash = self.hash()?;
        export_torchscript(&self.model, path.as_ref(), Form::default(), self.proof(&hash))
    }

    /// What an export is compared with: the model on the validation pictures.
    fn proof<'p>(&'p self, hash: &'p str) -> Proof<'p> {
        let executor: &dyn Executor = &self.device;
        Proof { inputs: &self.inputs, executor, source_sha256: Some(hash), float: None }
    }

    fn hash(&self) -> Result<String> {
        sha256(&ModelSource::Path(self.folder.clone()).checkpoint()?)
    }
}
