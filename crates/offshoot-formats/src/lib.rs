//! Reads and writes model files for offshoot. Without the feature `write`, which is on by default, files are only read, and Core ML
//! packages are not.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
// What only writers use stands beside what reads the same format.
#![cfg_attr(not(feature = "write"), allow(dead_code, unused_imports))]

#[cfg(feature = "write")]
pub mod atomic;
pub mod checkpoint;
mod composite;
pub mod content;
#[cfg(feature = "write")]
pub mod coreml;
mod elements;
mod ending;
pub mod error;
mod import;
pub mod litert;
mod metadata;
mod names;
pub mod onnx;
mod open;
mod parts;
pub mod pt2;
pub mod pth;
pub mod safetensors;
#[cfg(feature = "write")]
mod stored_zip;
pub mod temporary;
pub mod tensorrt;
pub mod torchscript;
pub mod triton;

pub use error::{FormatError, Problem};
pub use metadata::check_decision;
