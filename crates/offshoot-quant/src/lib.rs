//! Static int8: from a trained network to one that computes in integers, by what it sees on some training pictures.
//!
//! [`Network::new`] folds the batch norms and decides which operators can be computed in integers under a [`Scheme`].
//! [`calibrate`] runs it on pictures and finds the range of each activation by a [`Method`]. [`quantize`] puts a
//! QuantizeLinear and a DequantizeLinear around what is computed in integers and rounds the weights: the canonical form
//! that `offshoot_graph::op` describes. [`fake_quantize`] leaves the weights as floats, for quantization-aware training.
//! [`rank`] measures what each operator costs, so that the worst can stay in float.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod calibrate;
mod error;
mod histogram;
mod method;
mod range;
mod rank;
mod rewrite;
mod scheme;
mod select;
mod weights;

pub use calibrate::{Calibration, calibrate};
pub use error::QuantError;
pub use method::Method;
pub use range::Range;
pub use rank::{Cost, rank};
pub use rewrite::{fake_quantize, quantize};
pub use scheme::{Activations, Placement, Scheme, WeightBits};
pub use select::Network;
