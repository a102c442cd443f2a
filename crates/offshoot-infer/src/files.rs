//! The files of a run directory that its models are read from.

/// The resolved recipe.
pub const RECIPE_FILE: &str = "recipe.toml";
/// The model of the best epoch.
pub const BEST_FILE: &str = "best.safetensors";
/// The model of the last checkpoint.
pub const LAST_FILE: &str = "last.safetensors";
/// The classifier of the ONNX file that a run started from: its graph is described nowhere else.
pub const BASE_FILE: &str = "base.onnx";
/// The SHA-256 of that file, as `sha256sum` writes it.
pub const BASE_HASH_FILE: &str = "base.onnx.sha256";
