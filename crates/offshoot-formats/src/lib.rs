//! Reads and writes model files for offshoot.

pub mod atomic;
pub mod checkpoint;
mod content;
mod elements;
pub mod error;
mod metadata;
mod names;
pub mod onnx;
pub mod pth;
pub mod safetensors;
pub mod torchscript;

pub use error::{FormatError, Problem};
