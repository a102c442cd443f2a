//! Reads and writes model files for offshoot.

pub mod atomic;
pub mod checkpoint;
mod content;
mod elements;
pub mod error;
pub mod onnx;
pub mod pth;
pub mod safetensors;

pub use error::{FormatError, Problem};
