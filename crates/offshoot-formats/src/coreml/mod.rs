//! Core ML packages (`.mlpackage`) that hold an ML Program, written and read back without Apple's tools.
//!
//! What is written is a classifier of pictures for iOS 16, macOS 13 and later. Its input `input` is an RGB picture of the
//! model's size, scaled and shifted as the model's preprocessing says by the first two operators of the program. It gives
//! `classLabel`, `classLabel_probs` (a dictionary from labels to probabilities) and `logits`; a model that predicts numbers gives `targets` alone. Cutting the picture to its
//! square is the caller's (Vision's `centerCrop` or `scaleFill`); the whole preprocessing stands in the package's metadata.
//!
//! What is read back is what is written here; a package of another writer is an error that names what is unknown in it.

mod blob;
mod builder;
mod graph;
mod package;
mod program;
mod proto;

use std::path::{Path, PathBuf};

use offshoot_graph::Model;

use crate::error::FormatError;

pub use package::write;

/// The entry of the package's metadata that holds the model's, one JSON object.
pub const METADATA_KEY: &str = "offshoot";

/// The entry of the package's metadata that says of results which axis is the batch's, one JSON object: a program for one
/// picture does not show it.
const BATCH_KEY: &str = "offshoot.batch";

/// The picture that a package takes.
const INPUT: &str = "input";
/// What it gives beside the label and the probabilities: f32 [1, classes].
const LOGITS: &str = "logits";
/// What it gives in place of all that where it predicts numbers: f32 [1, targets].
const TARGETS: &str = "targets";
const LABEL: &str = "classLabel";
const PROBABILITIES: &str = "classLabel_probs";

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The type that the program computes in.
    pub precision: Precision,
    /// How weights of convolutions and linear layers are stored.
    pub weights: StoredWeights,
}

/// The type that a program computes in, and stores its weights in unless they are int8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// What Apple's Neural Engine computes in, and Core ML's default.
    #[default]
    F16,
    /// Twice the size; runs on the CPU and the GPU only.
    F32,
}

/// How weights of convolutions and linear layers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredWeights {
    /// In the program's precision.
    #[default]
    Float,
    /// As int8 with one scale for each output channel (symmetric, zero point 0), made floats again when the program is loaded.
    Int8,
}

/// Reads a package that [`write()`] wrote. Activations are f32 in the graph, whatever the program computes in; weights have
/// the values that are stored.
///
/// # Errors
/// When a file of it cannot be read or is damaged, or it holds what we do not write.
pub fn read(path: &Path) -> Result<Model, FormatError> {
    package::read(path).map_err(|problem| problem.at(path))
}

/// Whether `path` is the folder of a package.
pub fn is_package(path: &Path) -> bool {
    path.is_dir() && path.join(package::MANIFEST).is_file()
}

/// Where the package `path` has its weights.
pub fn weight_file(path: &Path) -> PathBuf {
    path.join("Data").join(package::WEIGHT_FILE)
}
