//! The native half of the Python package `offshoot`: what computes. Its Python half, in `python/offshoot`, has the classes and functions
//! that users see; what is here takes and gives plain values.

// What PyO3's macros make is not ours to judge.
#![allow(missing_docs, unreachable_pub)]

mod device;
mod errors;
mod jobs;
mod listener;
mod network;
mod training;

use std::ffi::OsString;
use std::path::PathBuf;

use offshoot::{Overrides, PullOptions};
use pyo3::prelude::*;
use pythonize::pythonize;

use errors::raised;

/// Runs the command `offshoot` with these arguments, the first of which is its name, and gives the exit code.
#[pyfunction]
fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| offshoot_cli::run(arguments))
}

/// The architectures.
#[pyfunction]
fn models(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let models = py.detach(offshoot::models).map_err(|error| raised(py, &error, &[]))?;
    Ok(pythonize(py, &models)?)
}

/// Describes a model file.
#[pyfunction]
fn inspect(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyAny>> {
    let found = py.detach(|| offshoot::inspect(&path, &Overrides::default()));
    Ok(pythonize(py, &found.map_err(|error| raised(py, &error, &[]))?)?)
}

/// Downloads published weights.
#[pyfunction]
fn pull(
    py: Python<'_>,
    name: String,
    out: Option<PathBuf>,
    base_url: Option<String>,
) -> PyResult<Bound<'_, PyAny>> {
    let options = PullOptions { out, base_url };
    let pulled = py.detach(|| offshoot::pull(&name, &options, &mut |_, _| {}));
    Ok(pythonize(py, &pulled.map_err(|error| raised(py, &error, &[]))?)?)
}

#[pymodule]
fn _offshoot(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Errors have the text that the command gives.
    offshoot::remedy::word_as(offshoot_cli::flag);
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<network::Network>()?;
    module.add_class::<training::Stop>()?;
    module.add_function(wrap_pyfunction!(command, module)?)?;
    module.add_function(wrap_pyfunction!(models, module)?)?;
    module.add_function(wrap_pyfunction!(inspect, module)?)?;
    module.add_function(wrap_pyfunction!(pull, module)?)?;
    module.add_function(wrap_pyfunction!(device::configure, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::evaluate, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::export, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::verify, module)?)?;
    module.add_function(wrap_pyfunction!(training::settings, module)?)?;
    module.add_function(wrap_pyfunction!(training::train, module)?)?;
    Ok(())
}
