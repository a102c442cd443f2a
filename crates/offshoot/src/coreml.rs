//! Core ML packages, each read back and compared before it is moved into place.

use std::path::Path;

use offshoot_formats::coreml::{self, Options, Precision, StoredWeights};
use offshoot_graph::Model;
use offshoot_graph::text::shown;

use crate::compare::{F16_TOLERANCE, INT8_TOLERANCE, TOLERANCE};
use crate::error::{Error, Result};
use crate::export::{Exported, Output, Proof, export_within, shipped_by};

/// Writes `model` as the Core ML package `path`, a folder. Before it is moved into place, its bytes are read again and run on the
/// proof's inputs beside `model`: in f32, so that the difference is that of the stored weights. Core ML itself, which runs on
/// Apple's systems only, is no part of the proof.
///
/// # Errors
/// When Core ML lacks an operator, the package cannot be written, or does not match `model`; what was at `path`
/// stays then.
pub fn export_coreml(model: &Model, path: &Path, options: Options, proof: Proof<'_>) -> Result<Exported> {
    if path.exists() && !coreml::is_package(path) {
        return Err(Error::Input(format!(
            "{}: there is something there that is not a package; move it",
            shown(path)
        )));
    }
    let tolerance = match (options.precision, options.weights) {
        (_, StoredWeights::Int8) => INT8_TOLERANCE,
        (Precision::F16, StoredWeights::Float) => F16_TOLERANCE,
        (Precision::F32, StoredWeights::Float) => TOLERANCE,
    };
    let write = |staged: &Path| {
        Ok(coreml::write(staged, &shipped_by(model, proof.executor)?, options)
            .map_err(|e| e.problem.at(path))?)
    };
    let read = |staged: &Path| Ok((coreml::read(staged)?, None));
    export_within(Output::new("coreml", path), model, tolerance, write, read, proof)
}
