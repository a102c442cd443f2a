//! Reads and writes model files for offshoot.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod atomic;
pub mod checkpoint;
pub mod content;
pub mod coreml;
mod elements;
mod ending;
pub mod error;
mod import;
mod metadata;
mod names;
pub mod onnx;
pub mod pth;
pub mod safetensors;
pub mod temporary;
pub mod tensorrt;
pub mod torchscript;
pub mod triton;

pub use error::{FormatError, Problem};
