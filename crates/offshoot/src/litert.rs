//! LiteRT files, each read back and compared before it is moved into place.

use std::path::Path;

use offshoot_formats::litert::{self, Options, StoredWeights};
use offshoot_graph::Model;

use crate::compare::{F16_TOLERANCE, INT8_TOLERANCE, TOLERANCE};
use crate::error::Result;
use crate::export::{Exported, Output, Proof, export_file_within, shipped_by};
use crate::integers::is_quantized;

/// Writes `model` as the LiteRT file `path`: pictures of f32 with their channels last, logits, and a batch that a program may
/// resize. Of a model that [`crate::quantize_static`] made, it is one that computes on int8. Before it is moved into place, its bytes
/// are read again and run on the proof's inputs beside `model`. LiteRT's own interpreter is no part of the proof.
///
/// # Errors
/// When LiteRT lacks an operator, the file cannot be written, or does not match `model`; what was at `path` stays then.
pub fn export_litert(model: &Model, path: &Path, options: Options, proof: Proof<'_>) -> Result<Exported> {
    let tolerance = match options.weights {
        // Means and concatenations of bytes are rounded once more than in the graph.
        _ if is_quantized(model) => INT8_TOLERANCE,
        StoredWeights::F16 => F16_TOLERANCE,
        StoredWeights::F32 => TOLERANCE,
    };
    let write = |staged: &Path| {
        Ok(litert::write(staged, &shipped_by(model, proof.executor)?, options)
            .map_err(|e| e.problem.at(path))?)
    };
    let read = |staged: &Path| Ok((litert::read(staged)?, None));
    export_file_within(Output::new("litert", path), model, tolerance, write, read, proof)
}
