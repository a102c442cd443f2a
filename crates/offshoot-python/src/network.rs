//! A model that classifies pictures.

use std::path::{Path, PathBuf};

use numpy::ndarray::{Array2, ArrayD};
use numpy::{
    IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray3, PyReadonlyArrayDyn, PyUntypedArrayMethods,
};
use offshoot::jobs::{checkpoint_of, open};
use offshoot::{
    Classification, Classifier, DecodeError, Error, Model, PictureError, Threshold, batch_within,
    from_state_dict,
};
use offshoot_formats::checkpoint::state_dict;
use offshoot_formats::safetensors;
use offshoot_graph::{Data, Task, Tensor, Weights};
use offshoot_train::run::write_model;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};
use pythonize::pythonize;
use rayon::prelude::*;

use crate::device::device;
use crate::errors::raised;
use crate::jobs::{Source, options};
use crate::listener::Heard;

/// Pictures that go through the network at once.
const BATCH: usize = 16;

/// A model, ready to classify.
#[pyclass(frozen)]
pub(crate) struct Network {
    classifier: Classifier,
    model: Model,
    batch: usize,
}

/// A picture as it was given, held while the network looks at it.
enum Held<'py> {
    Path(PathBuf),
    Bytes(PyBackedBytes),
    Pixels(PyReadonlyArray3<'py, u8>),
}

/// The same without Python's lock.
enum Picture<'a> {
    Path(&'a Path),
    Bytes(&'a [u8]),
    Pixels { width: usize, height: usize, rgb: &'a [u8] },
}

/// Outputs [n, classes], their probabilities, and whether each picture is of none of the classes, where that was asked.
type Answers<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f64>>, Vec<Option<bool>>);

#[pymethods]
impl Network {
    /// Reads a model.
    #[staticmethod]
    fn open(py: Python<'_>, given: &Bound<'_, PyAny>, tell: Py<PyAny>) -> PyResult<Network> {
        let given: Source = options(given)?;
        let (source, overrides) = (given.source()?, given.overrides()?);
        let mut heard = Heard::new(tell);
        let network = py.detach(|| {
            let source = checkpoint_of(&source, given.last)?;
            Network::new(open(&source, &overrides, &mut heard)?.model)
        });
        heard.end(py, network)
    }

    /// Makes a model of an architecture from a dictionary of arrays of f32.
    #[staticmethod]
    fn of_state_dict(
        py: Python<'_>,
        architecture: &str,
        state: &Bound<'_, PyDict>,
        classes: Vec<String>,
        changes: &Bound<'_, PyAny>,
    ) -> PyResult<Network> {
        let overrides = options::<Source>(changes)?.overrides()?;
        let mut weights = Weights::default();
        for (name, array) in state {
            let name: String = name.extract()?;
            let array = array.cast::<numpy::PyArrayDyn<f32>>().map_err(PyErr::from);
            let array: PyReadonlyArrayDyn<'_, f32> =
                array.map_err(|_| PyTypeError::new_err(format!("{name}: no array of float32")))?.readonly();
            let values = array.as_array().iter().copied().collect();
            weights.insert(name, Tensor::f32(array.shape().to_vec(), values));
        }
        let made = py.detach(|| Network::new(from_state_dict(architecture, weights, &classes, &overrides)?));
        made.map_err(|error| raised(py, &error, &[]))
    }

    /// The classes, in the order of the outputs.
    #[getter]
    fn classes(&self) -> Vec<String> {
        self.classifier.classes().to_vec()
    }

    /// The name of the architecture, where the model has one.
    #[getter]
    fn architecture(&self) -> Option<&str> {
        self.model.metadata.architecture.as_deref()
    }

    /// How pictures become inputs.
    #[getter]
    fn preprocessing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(pythonize(py, self.classifier.preprocessing())?)
    }

    /// What a picture has: single (one class), multi (any number of them) or regression (numbers).
    #[getter]
    fn task(&self) -> &'static str {
        self.model.metadata.task.name()
    }

    /// Where a picture may have any number of classes, the probability from which on it has each.
    #[getter]
    fn thresholds(&self) -> Option<Vec<f64>> {
        let metadata = &self.model.metadata;
        (metadata.task == Task::Multi).then(|| metadata.class_thresholds())
    }

    /// What logits are divided by before their softmax is taken, where it was fitted.
    #[getter]
    fn temperature(&self) -> Option<f64> {
        self.model.metadata.temperature
    }

    /// Which pictures are of none of the classes where a threshold is `auto`: score, threshold and precision.
    #[getter]
    fn rejection<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(pythonize(py, &self.model.metadata.rejection)?)
    }

    /// Whether the outputs are probabilities, and not logits.
    #[getter]
    fn gives_probabilities(&self) -> bool {
        self.model.gives_probabilities()
    }

    /// Classifies pictures: paths, bytes of files, and arrays [height, width, 3] of u8. With a threshold, auto or a probability, says too
    /// which are of none of the classes; `None` of those that may have any number.
    #[pyo3(signature = (pictures, threshold=None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        pictures: Vec<Bound<'py, PyAny>>,
        threshold: Option<String>,
    ) -> PyResult<Answers<'py>> {
        let threshold = threshold.as_deref().map(str::parse::<Threshold>).transpose();
        let threshold = threshold.map_err(|wanted| PyValueError::new_err(format!("threshold: {wanted}")))?;
        if let Some(threshold) = threshold {
            self.classifier.check_threshold(threshold).map_err(|error| raised(py, &error, &[]))?;
        }
        let held: Vec<Held<'py>> = pictures.iter().map(Held::new).collect::<PyResult<_>>()?;
        let pictures: Vec<Picture<'_>> = held.iter().map(Held::picture).collect::<PyResult<_>>()?;
        let classes = self.classifier.classes().len();
        let mut outputs: Vec<f32> = Vec::with_capacity(pictures.len() * classes);
        let mut probabilities: Vec<f64> = Vec::with_capacity(outputs.capacity());
        let mut rejected = Vec::with_capacity(pictures.len());
        for (index, batch) in pictures.chunks(self.batch).enumerate() {
            py.check_signals()?;
            let first = index * self.batch;
            let answers = py.detach(|| self.classify(batch, first));
            for found in answers.map_err(|error| raised(py, &error, &[]))? {
                outputs.extend(found.outputs());
                probabilities.extend(found.probabilities());
                rejected.push(threshold.and_then(|threshold| found.rejected(threshold)));
            }
        }
        let shape = (pictures.len(), outputs.len() / pictures.len().max(1));
        let wrong = |error: numpy::ndarray::ShapeError| PyValueError::new_err(error.to_string());
        let outputs = Array2::from_shape_vec(shape, outputs).map_err(wrong)?;
        let probabilities = Array2::from_shape_vec(shape, probabilities).map_err(wrong)?;
        Ok((outputs.into_pyarray(py), probabilities.into_pyarray(py), rejected))
    }

    /// The parameters by name.
    fn state_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = PyDict::new(py);
        for (name, tensor) in &self.model.weights {
            state.set_item(name, array(py, tensor)?)?;
        }
        Ok(state)
    }

    /// Writes the parameters and the metadata to a `.safetensors`.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let saved = py.detach(|| write_model(&path, &self.model));
        saved.map_err(|error| raised(py, &error.into(), &[]))
    }

    /// The bytes of a `.safetensors` of the parameters.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        py.detach(|| safetensors::write_to(&mut bytes, &state_dict(&self.model), "{}"))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

impl Network {
    fn new(model: Model) -> offshoot::Result<Network> {
        let classifier = Classifier::new(&model, &device()?)?;
        let batch = batch_within(&model, BATCH).max(1);
        Ok(Network { classifier, model, batch })
    }

    /// What is said of a batch, whose first picture is called by the number `first`.
    fn classify(&self, batch: &[Picture<'_>], first: usize) -> offshoot::Result<Vec<Classification>> {
        let prepare = |(place, picture): (usize, &Picture<'_>)| {
            let named = |source: DecodeError| PictureError {
                path: PathBuf::from(format!("picture {}", first + place)),
                source,
            };
            match *picture {
                Picture::Path(path) => self.classifier.prepare_file(path),
                Picture::Bytes(bytes) => self.classifier.prepare(bytes).map_err(|error| match error {
                    Error::Decode(source) => named(source).into(),
                    error => error,
                }),
                Picture::Pixels { width, height, rgb } => self.classifier.prepare_pixels(width, height, rgb),
            }
        };
        let prepared: Vec<_> = batch.par_iter().enumerate().map(prepare).collect::<offshoot::Result<_>>()?;
        self.classifier.classify_batch(&prepared.iter().collect::<Vec<_>>())?.into_iter().collect()
    }
}

impl<'py> Held<'py> {
    fn new(picture: &Bound<'py, PyAny>) -> PyResult<Held<'py>> {
        if let Ok(bytes) = picture.cast::<PyBytes>() {
            return Ok(Held::Bytes(bytes.extract()?));
        }
        match picture.extract::<PyReadonlyArray3<'py, u8>>() {
            Ok(pixels) if pixels.shape()[2] == 3 && pixels.is_c_contiguous() => Ok(Held::Pixels(pixels)),
            Ok(_) => Err(PyTypeError::new_err("an array that is not [height, width, 3] in C order")),
            Err(_) => Ok(Held::Path(picture.extract()?)),
        }
    }

    fn picture(&self) -> PyResult<Picture<'_>> {
        Ok(match self {
            Held::Path(path) => Picture::Path(path),
            Held::Bytes(bytes) => Picture::Bytes(bytes),
            Held::Pixels(array) => {
                let rgb = array.as_slice().map_err(|error| PyTypeError::new_err(error.to_string()))?;
                Picture::Pixels { width: array.shape()[1], height: array.shape()[0], rgb }
            }
        })
    }
}

/// A tensor as an array of NumPy; what NumPy has no type for becomes f32.
fn array<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    macro_rules! array {
        ($values:expr) => {{
            let array = ArrayD::from_shape_vec(tensor.shape(), $values.clone());
            let array = array.map_err(|error| PyValueError::new_err(error.to_string()))?;
            array.into_pyarray(py).into_any()
        }};
    }
    Ok(match tensor.data() {
        Data::F32(values) => array!(values),
        Data::F64(values) => array!(values),
        Data::I64(values) => array!(values),
        Data::I32(values) => array!(values),
        Data::I8(values) => array!(values),
        Data::U8(values) => array!(values),
        Data::Bool(values) => array!(values),
        Data::F16(values) => array!(values.iter().map(|value| value.to_f32()).collect::<Vec<f32>>()),
        Data::BF16(values) => array!(values.iter().map(|value| value.to_f32()).collect::<Vec<f32>>()),
    })
}
