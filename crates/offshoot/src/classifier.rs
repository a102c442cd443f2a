//! A classifier that threads share.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offshoot_data::{Picture, PictureError, Pixels, Transform, decode, read_picture, with_decoded};
use offshoot_graph::{Executor, Metadata, Model, Preprocessing, Task, Tensor};
use offshoot_infer::inference::check_answers;
use offshoot_infer::{Decision, Inference};

use crate::device::{CpuOptions, Device};
use crate::error::{Error, Result};
use crate::memory::check_memory;
use crate::predict::{Guess, TargetValue, guesses, no_threshold, reached, values};
use crate::reject::{Rejecting, Threshold};
use crate::source::{ModelSource, Overrides};

/// A classifier of pictures, with the preprocessing and the classes that its model comes with. Its predictions are bit-identical
/// to those of [`crate::predict`].
///
/// Any number of threads may use one at the same time. Nobody waits for another one: each picture that is classified at the same
/// time has buffers of its own, which are kept for the next; weights, and what is packed of them, are in memory once.
///
/// ```no_run
/// use offshoot::Classifier;
///
/// let classifier = Classifier::open("run")?;
/// let jpeg = std::fs::read("cat.jpg")?;
/// for guess in classifier.classify(&jpeg)?.top(3) {
///     println!("{} {:.1} %", guess.class, 100.0 * guess.probability);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Classifier {
    classes: Arc<[String]>,
    transform: Transform,
    decision: Decision,
    gives_probabilities: bool,
    metadata: Metadata,
    /// The model's own reject threshold, where it has one that fits what the network gives.
    rejecting: Option<Rejecting>,
    /// Where a picture may have any number of classes, the probability from which on it has each.
    thresholds: Option<Arc<[f64]>>,
    warnings: Vec<String>,
    networks: Mutex<Networks>,
}

/// A picture as the input of a classifier: decoded, cut to size and normalized.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared(Vec<f32>);

/// The networks of a classifier that do not run at the moment.
struct Networks {
    /// Never runs: others are forked of it.
    first: Inference,
    idle: Vec<Inference>,
}

/// The prediction for a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    task: Task,
    classes: Arc<[String]>,
    outputs: Vec<f32>,
    probabilities: Vec<f64>,
    thresholds: Option<Arc<[f64]>>,
    rejecting: Option<Rejecting>,
}

impl Classifier {
    /// Opens a model: a run directory, a `.safetensors` of ours, an `.onnx`, a TorchScript `.pt` or a `.pt2`. It computes on all the
    /// machine's processors.
    ///
    /// # Errors
    /// When the file cannot be read, is no model, or asks for more memory than [`offshoot_files::memory_limit`] for a picture.
    pub fn open(path: impl AsRef<Path>) -> Result<Classifier> {
        let source = ModelSource::Path(path.as_ref().to_owned());
        Classifier::load(&source, &Overrides::default(), &Device::cpu(CpuOptions::default())?)
    }

    /// [`Classifier::open`] of any source, with changes to the preprocessing, on an executor that others may share.
    ///
    /// # Errors
    /// Those of [`Classifier::open`].
    pub fn load(source: &ModelSource, overrides: &Overrides, executor: &dyn Executor) -> Result<Classifier> {
        let loaded = source.load(overrides)?;
        check_memory(&loaded.model, source.path())?;
        Ok(Classifier { warnings: loaded.warnings, ..Classifier::new(&loaded.model, executor)? })
    }

    /// A classifier of a model in memory.
    ///
    /// # Errors
    /// When its preprocessing cannot be carried out, its weights do not fit its graph, or the executor cannot run it.
    pub fn new(model: &Model, executor: &dyn Executor) -> Result<Classifier> {
        let first = Inference::new(model, executor)?;
        Ok(Classifier {
            classes: model.metadata.classes.clone().into(),
            transform: Transform::new(&model.metadata.preprocessing)?,
            decision: Decision::new(first.gives_probabilities(), &model.metadata),
            gives_probabilities: first.gives_probabilities(),
            metadata: model.metadata.clone(),
            rejecting: match model.metadata.task {
                Task::Single => {
                    Rejecting::new(&model.metadata, first.gives_probabilities(), Threshold::Auto).ok()
                }
                Task::Multi | Task::Regression => None,
            },
            thresholds: match model.metadata.task {
                Task::Single | Task::Regression => None,
                Task::Multi => Some(model.metadata.class_thresholds().into()),
            },
            warnings: Vec::new(),
            networks: Mutex::new(Networks { first, idle: Vec::new() }),
        })
    }

    /// The classes, in the order of the model's outputs.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How pictures become the model's input.
    pub fn preprocessing(&self) -> &Preprocessing {
        self.transform.preprocessing()
    }

    /// What came with the model: temperature and reject threshold, say.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Whether [`Classification::rejected`] can answer for `threshold`. Where a picture may have any number of classes it
    /// always can, and says `None`.
    ///
    /// # Errors
    /// When the model has no threshold of its own that `auto` asks for, or predicts numbers.
    pub fn check_threshold(&self, threshold: Threshold) -> Result<()> {
        match self.metadata.task {
            Task::Single => Rejecting::new(&self.metadata, self.gives_probabilities, threshold).map(|_| ()),
            Task::Multi => Ok(()),
            Task::Regression => Err(no_threshold()),
        }
    }

    /// What was assumed when the file was read, for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Classifies the picture in the bytes of a JPEG, PNG or other file.
    ///
    /// # Errors
    /// [`Error::Decode`] when they are no picture that can be used, [`Error::Network`] when the model gives NaN or infinities.
    pub fn classify(&self, file: &[u8]) -> Result<Classification> {
        self.classify_picture(&decode(file, &self.transform.decode_options())?)
    }

    /// Classifies the picture in a file.
    ///
    /// # Errors
    /// [`Error::Picture`] when it cannot be used, [`Error::Network`] when the model gives NaN or infinities.
    pub fn classify_file(&self, path: impl AsRef<Path>) -> Result<Classification> {
        let picture: std::result::Result<_, PictureError> =
            read_picture(path.as_ref(), &self.transform.decode_options());
        self.classify_picture(&picture?)
    }

    /// Classifies a picture of `height` rows of `width` RGB pixels, as it is to be looked at.
    ///
    /// # Errors
    /// [`Error::Pixels`] when `rgb` has another length, [`Error::Network`] when the model gives NaN or infinities.
    pub fn classify_pixels(&self, width: usize, height: usize, rgb: &[u8]) -> Result<Classification> {
        self.classify_prepared(self.prepare_pixels(width, height, rgb)?)
    }

    /// Classifies a decoded picture.
    ///
    /// # Errors
    /// [`Error::Network`] when the model gives NaN or infinities.
    pub fn classify_picture(&self, picture: &Picture) -> Result<Classification> {
        self.classify_prepared(self.prepare_picture(picture))
    }

    /// Decodes the picture in the bytes of a file and prepares it, so that it can go through the network with others. However
    /// many threads do this, there is only one very large picture at a time in memory.
    ///
    /// # Errors
    /// [`Error::Decode`] when they are no picture that can be used.
    pub fn prepare(&self, file: &[u8]) -> Result<Prepared> {
        let options = self.transform.decode_options();
        Ok(with_decoded(file, &options, |picture| self.prepare_picture(&picture))?)
    }

    /// [`Classifier::prepare`] of the picture in a file.
    ///
    /// # Errors
    /// [`Error::Picture`] when it cannot be used.
    pub fn prepare_file(&self, path: impl AsRef<Path>) -> Result<Prepared> {
        let picture = read_picture(path.as_ref(), &self.transform.decode_options())?;
        Ok(self.prepare_picture(&picture))
    }

    /// [`Classifier::prepare`] of `height` rows of `width` RGB pixels, which are not copied.
    ///
    /// # Errors
    /// [`Error::Pixels`] when `rgb` has another length.
    pub fn prepare_pixels(&self, width: usize, height: usize, rgb: &[u8]) -> Result<Prepared> {
        let bytes = rgb.len();
        let pixels = Pixels::new(width, height, rgb).ok_or(Error::Pixels { width, height, bytes })?;
        Ok(self.prepare_picture(pixels))
    }

    /// An input that has been prepared elsewhere: 3 channels of `size` rows of `size` numbers.
    ///
    /// # Errors
    /// [`Error::Input`] when there are more or fewer numbers, or some are NaN or infinite.
    pub fn prepared(&self, input: Vec<f32>) -> Result<Prepared> {
        let (size, wanted) = (self.preprocessing().size, self.transform.input_len());
        if input.len() != wanted {
            let found = input.len();
            return Err(Error::Input(format!(
                "{found} numbers; a picture of this model has 3 x {size} x {size}, which are {wanted}"
            )));
        }
        match input.iter().position(|x| !x.is_finite()) {
            Some(place) => {
                Err(Error::Input(format!("number {place} is {}; give finite numbers", input[place])))
            }
            None => Ok(Prepared(input)),
        }
    }

    /// Classifies pictures that go through the network together. Each result is bit-identical to the one of the picture alone.
    ///
    /// # Errors
    /// [`Error::Network`] when the network cannot run; where it gives NaN or infinities, only the results of those pictures are errors.
    pub fn classify_batch(&self, pictures: &[&Prepared]) -> Result<Vec<Result<Classification>>> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let (count, size) = (pictures.len(), self.preprocessing().size);
        let mut input = Vec::with_capacity(count * self.transform.input_len());
        pictures.iter().for_each(|picture| input.extend_from_slice(&picture.0));
        let outputs = self.run(&Tensor::f32([count, 3, size, size], input))?;
        let classes = (outputs.len() / count).max(1);
        Ok(outputs.chunks_exact(classes).map(|row| self.classification(row.to_vec())).collect())
    }

    fn classify_prepared(&self, Prepared(input): Prepared) -> Result<Classification> {
        let size = self.preprocessing().size;
        self.classification(self.run(&Tensor::f32([1, 3, size, size], input))?)
    }

    fn prepare_picture<'p>(&self, picture: impl Into<Pixels<'p>>) -> Prepared {
        let mut input = vec![0.0; self.transform.input_len()];
        self.transform.normalize(&self.transform.evaluate(picture), &mut input);
        Prepared(input)
    }

    fn classification(&self, outputs: Vec<f32>) -> Result<Classification> {
        check_answers(&outputs)?;
        let probabilities = self.decision.probabilities(&outputs);
        let (classes, thresholds) = (Arc::clone(&self.classes), self.thresholds.clone());
        let task = self.metadata.task;
        Ok(Classification { task, classes, outputs, probabilities, thresholds, rejecting: self.rejecting })
    }

    /// The outputs for one input. No lock is held while they are computed.
    fn run(&self, input: &Tensor) -> Result<Vec<f32>> {
        let mut networks = self.networks();
        let mut network = networks.idle.pop().unwrap_or_else(|| networks.first.fork());
        drop(networks);
        let outputs = network.run(input)?.into_f32().unwrap_or_default();
        self.networks().idle.push(network);
        Ok(outputs)
    }

    fn networks(&self) -> MutexGuard<'_, Networks> {
        // Nothing panics while it is held.
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Classification {
    /// The best classes, at most `count` of them, the best first; none where numbers are predicted.
    pub fn top(&self, count: usize) -> Vec<Guess> {
        if self.task == Task::Regression {
            return Vec::new();
        }
        guesses((&self.outputs, &self.probabilities), &self.classes, count)
    }

    /// Where numbers are predicted, those, in the order of the targets.
    pub fn values(&self) -> Option<Vec<TargetValue>> {
        values(self.task, &self.outputs, &self.classes)
    }

    /// Where a picture may have any number of classes, those whose probability reaches the threshold of the class, in the order of the
    /// classes.
    pub fn labels(&self) -> Option<Vec<String>> {
        Some(reached(&self.probabilities, self.thresholds.as_deref()?, &self.classes))
    }

    /// [`Classification::labels`] with one threshold for all classes.
    pub fn labels_from(&self, threshold: f64) -> Option<Vec<String>> {
        let thresholds = vec![threshold; self.thresholds.as_deref()?.len()];
        Some(reached(&self.probabilities, &thresholds, &self.classes))
    }

    /// Whether the picture is of none of the classes: its score is below the threshold. `None` where a picture may have any number of
    /// classes or numbers are predicted, and for [`Threshold::Auto`] where the model has none ([`Classifier::check_threshold`] says why).
    pub fn rejected(&self, threshold: Threshold) -> Option<bool> {
        if !self.task.is_single() {
            return None;
        }
        let how = match threshold {
            Threshold::Of(probability) => Rejecting::from(probability),
            Threshold::Auto => self.rejecting?,
        };
        Some(how.rejects(&self.outputs, &self.probabilities))
    }

    /// The probability of each class, calibrated where the model has a temperature; where numbers are predicted, those.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// What the model gives: logits, unless its graph ends in probabilities.
    pub fn outputs(&self) -> &[f32] {
        &self.outputs
    }
}
