//! The jobs of the library, with options as plain values.

use std::path::PathBuf;

use offshoot::jobs::{
    Batches, CalibrationOptions, EvaluateJob, ExportJob, ExportOptions, Int8File, Listener, QuantizeJob,
    QuantizeMode, Table, VerifyJob,
};
use offshoot::{Device, Fit, ModelSource, Overrides, Tta, WeightBits};
use offshoot_train::ranges;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pythonize::{depythonize, pythonize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::device::device;
use crate::listener::Heard;

/// Where a model comes from: a path, or an architecture with its weights.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    path: Option<PathBuf>,
    model: Option<String>,
    weights: Option<PathBuf>,
    #[serde(default)]
    pub(crate) last: bool,
    size: Option<usize>,
    fit: Option<Fit>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

impl Source {
    pub(crate) fn source(&self) -> PyResult<ModelSource> {
        match (&self.path, &self.model, &self.weights) {
            (Some(path), None, None) => Ok(ModelSource::Path(path.clone())),
            (None, Some(architecture), Some(weights)) => {
                Ok(ModelSource::Pretrained { architecture: architecture.clone(), weights: weights.clone() })
            }
            _ => Err(PyTypeError::new_err("give a path, or model=NAME with weights=FILE")),
        }
    }

    pub(crate) fn overrides(&self) -> PyResult<Overrides> {
        for &deviation in self.std.iter().flatten() {
            ranges::check_real("preprocessing.std", Some(deviation.into()))
                .map_err(|error| PyValueError::new_err(error.to_string()))?;
        }
        if let Some(number) = self.mean.iter().flatten().find(|number| !number.is_finite()) {
            return Err(PyValueError::new_err(format!("mean: {number} is no finite number")));
        }
        Ok(Overrides { size: self.size, fit: self.fit, mean: self.mean, std: self.std })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EvaluateOptions {
    source: Source,
    data: Option<PathBuf>,
    tta: String,
    strict: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyOptions {
    file: PathBuf,
    against: Source,
    data: Option<PathBuf>,
    inputs: Option<PathBuf>,
    tolerance: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Calibration {
    calibration: Option<PathBuf>,
    calibration_pictures: Option<usize>,
    method: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    source: Source,
    formats: Vec<String>,
    out: Option<PathBuf>,
    data: Option<PathBuf>,
    script: bool,
    opset: Option<i64>,
    with_preprocess: bool,
    precision: Option<String>,
    calibration: Calibration,
    batch_min: Option<usize>,
    batch_opt: Option<usize>,
    batch_max: Option<usize>,
    trtexec: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quantize {
    source: Source,
    mode: String,
    format: String,
    out: Option<PathBuf>,
    data: Option<PathBuf>,
    opset: Option<i64>,
    calibration: Calibration,
    weight_bits: Option<u8>,
    max_drop: Option<f64>,
    qat: u64,
}

impl Calibration {
    fn options(self) -> PyResult<CalibrationOptions> {
        let method = self.method.map(|name| name.parse().map_err(|error| value("method", error)));
        if let Some(n) = self.calibration_pictures.filter(|n| !(1..=100_000).contains(n)) {
            return Err(value("calibration_pictures", format!("{n} is no number from 1 to 100000")));
        }
        let method = method.transpose()?;
        Ok(CalibrationOptions { folder: self.calibration, pictures: self.calibration_pictures, method })
    }
}

/// The exception for a value that an option cannot have.
fn value(option: &str, problem: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{option}: {problem}"))
}

/// One of the values that an option can have.
fn one_of<T: Copy>(option: &str, text: &str, all: &[(&str, T)]) -> PyResult<T> {
    let found = all.iter().find(|(name, _)| *name == text);
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    found.map(|(_, value)| *value).ok_or_else(|| value(option, format!("give {}", names.join(" or "))))
}

/// The options of a job; what is of another type is a TypeError.
pub(crate) fn options<T: DeserializeOwned>(given: &Bound<'_, PyAny>) -> PyResult<T> {
    depythonize(given).map_err(|error| PyTypeError::new_err(error.to_string()))
}

fn check_opset(opset: Option<i64>) -> PyResult<()> {
    match opset.filter(|opset| !(13..=21).contains(opset)) {
        Some(opset) => Err(value("opset", format!("{opset} is no number from 13 to 21"))),
        None => Ok(()),
    }
}

/// Runs a job without Python's lock, and gives its result as plain values.
fn run<'py, T: Serialize + Send>(
    py: Python<'py>,
    tell: Py<PyAny>,
    job: impl FnOnce(&Device, &mut dyn Listener) -> offshoot::Result<T> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let mut heard = Heard::new(tell);
    let result = py.detach(|| job(&device()?, &mut heard));
    let result = heard.end(py, result)?;
    py.check_signals()?;
    Ok(pythonize(py, &result)?)
}

/// Evaluates a model.
#[pyfunction]
pub(crate) fn evaluate<'py>(
    py: Python<'py>,
    given: &Bound<'py, PyAny>,
    tell: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let EvaluateOptions { source, data, tta, strict } = options(given)?;
    let tta = one_of("tta", &tta, &[("off", Tta::Off), ("flip", Tta::Flip), ("ten", Tta::Ten)])?;
    let (overrides, last) = (source.overrides()?, source.last);
    let source = source.source()?;
    run(py, tell, |device, listener| {
        let source = offshoot::jobs::checkpoint_of(&source, last)?;
        EvaluateJob { source, data, table: Table::default(), overrides, tta, strict }.run(device, listener)
    })
}

/// Compares a file with a model.
#[pyfunction]
pub(crate) fn verify<'py>(
    py: Python<'py>,
    given: &Bound<'py, PyAny>,
    tell: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let VerifyOptions { file, against, data, inputs, tolerance } = options(given)?;
    if let Some(x) = tolerance.filter(|x| !(x.is_finite() && *x > 0.0)) {
        return Err(value("tolerance", format!("{x} is no number above 0")));
    }
    let (overrides, last) = (against.overrides()?, against.last);
    let (against, table) = (against.source()?, Table::default());
    let job = VerifyJob { file, against, last, data, table, inputs, tolerance, overrides };
    run(py, tell, |device, listener| {
        let verdict = job.run(device, listener)?;
        Ok((verdict.comparison, verdict.inputs, verdict.tolerance))
    })
}

/// Exports a model.
#[pyfunction]
pub(crate) fn export<'py>(
    py: Python<'py>,
    given: &Bound<'py, PyAny>,
    tell: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let given: Export = options(given)?;
    check_opset(given.opset)?;
    if let Some(precision) = &given.precision {
        one_of("precision", precision, &[("f32", ()), ("f16", ()), ("int8", ())])?;
    }
    let options = ExportOptions {
        script: given.script,
        opset: given.opset,
        with_preprocess: given.with_preprocess,
        precision: given.precision,
        calibration: given.calibration.options()?,
        batches: Batches { min: given.batch_min, opt: given.batch_opt, max: given.batch_max },
        trtexec: given.trtexec,
    };
    let job = ExportJob {
        overrides: given.source.overrides()?,
        last: given.source.last,
        source: given.source.source()?,
        formats: given.formats,
        options,
        data: given.data,
        table: Table::default(),
        out: given.out,
    };
    run(py, tell, |device, listener| job.run(device, listener))
}

/// Quantizes a model.
#[pyfunction]
pub(crate) fn quantize<'py>(
    py: Python<'py>,
    given: &Bound<'py, PyAny>,
    tell: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let given: Quantize = options(given)?;
    check_opset(given.opset)?;
    if let Some(part) = given.max_drop.filter(|part| !(0.0..=1.0).contains(part)) {
        return Err(value("max_drop", format!("{part} is no fraction from 0 to 1")));
    }
    if given.qat > 1000 {
        return Err(value("qat", format!("{} is no number from 0 to 1000", given.qat)));
    }
    let bits = |bits: u8| match bits {
        7 => Ok(WeightBits::Seven),
        8 => Ok(WeightBits::Eight),
        _ => Err(value("weight_bits", "give 7 or 8")),
    };
    let modes = [("static", QuantizeMode::Static), ("dynamic", QuantizeMode::Dynamic)];
    let formats = [("onnx", Int8File::Onnx), ("safetensors", Int8File::Safetensors)];
    let job = QuantizeJob {
        overrides: given.source.overrides()?,
        last: given.source.last,
        source: given.source.source()?,
        mode: one_of("mode", &given.mode, &modes)?,
        format: one_of("format", &given.format, &formats)?,
        calibration: given.calibration.options()?,
        weight_bits: given.weight_bits.map(bits).transpose()?,
        max_drop: given.max_drop,
        qat: given.qat,
        data: given.data,
        table: Table::default(),
        out: given.out,
        opset: given.opset,
    };
    run(py, tell, |device, listener| job.run(device, listener))
}
