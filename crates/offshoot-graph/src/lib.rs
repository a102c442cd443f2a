//! The typed graph that everything in offshoot reads, derives or prints.

pub mod preprocessing;
pub mod random;
mod tensor;

pub use preprocessing::{Fit, Interpolation, Preprocessing};
pub use tensor::{DType, Data, Tensor, TensorSizeError, Weights};
