//! Kernels on quantized activations: bytes that stand for (byte - zero point) * scale, NHWC.
//!
//! Products of bytes are summed exactly, in 32 bits, and leave by one requantization: the sum as f32 times a scale for
//! each channel, rounded half to even, saturated. That is what ONNX Runtime's integer kernels compute; a float
//! simulation differs by a step where it rounds a tie otherwise. Integers do not depend on order: all paths give bit-identical results.

// (Other processors have no path for a part of this.)
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

pub mod binary;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
mod grouped;
pub(super) mod lstm;
pub mod pool;
#[cfg(target_arch = "x86_64")]
mod products;
mod requantize;
mod simd;
pub mod table;
#[cfg(test)]
mod tests;

pub use requantize::{Output, Requantize, Residual};
